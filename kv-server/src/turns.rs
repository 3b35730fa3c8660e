//! Who runs first: a connection, or the streams on it.
//!
//! A stream of HTTP/2 hands what it says to its connection and wakes it, and the runtime runs whoever was woken right after the one that
//! woke him. Of a hundred streams that are told of one change, each would have the connection send one frame by a call of the system. So
//! a connection that is woken lets the streams that are ready run first, and then sends what all of them said.
//!
//! It waits for as many steps as there were ready streams, and for no stream that is woken meanwhile, so that one that always has more
//! to say keeps it waiting for one step. And a ready stream comes to the end of its step whatever the connection does.

use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Wake, Waker};

use hyper::rt::Executor;

/// The turns of one connection and its streams; what hyper has its streams run by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<State>>);

/// * `awaited` is at most the number of steps that ready streams are still to take: it gets to 0.
#[derive(Debug, Default)]
struct State {
    /// Streams that were woken and have not run since.
    ready: usize,
    /// Steps of streams that the connection still waits for.
    awaited: usize,
    /// The connection has waited, and is next.
    is_due: bool,
    connection: Option<Waker>,
}

/// A stream, as whoever wakes it sees it.
#[derive(Debug)]
struct Stream {
    turns: Turns,
    /// [`IDLE`], [`READY`] or [`OVER`]. Becomes `READY`, and `OVER`, under the lock of the turns.
    phase: AtomicU8,
    /// The waker of its task, which has one and the same as long as it lives.
    task: OnceLock<Waker>,
}

const IDLE: u8 = 0;
/// Counted in [`State::ready`].
const READY: u8 = 1;
const OVER: u8 = 2;

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the turns")
    }

    /// Whether the connection, just woken, is to let others run first. It is woken when they have.
    pub(crate) fn lets_others_go(&self, connection: &Waker) -> bool {
        let mut state = self.lock();
        if state.awaited == 0 {
            if std::mem::take(&mut state.is_due) || state.ready == 0 {
                return false;
            }
            state.awaited = state.ready;
        }
        state.connection = Some(connection.clone());
        true
    }

    /// A ready stream took its step, or ended.
    fn has_run(&self) {
        let mut state = self.lock();
        state.ready -= 1;
        if state.awaited == 0 {
            return;
        }
        state.awaited -= 1;
        if state.awaited > 0 {
            return;
        }
        state.is_due = true;
        let connection = state.connection.take();
        drop(state);
        if let Some(connection) = connection {
            connection.wake();
        }
    }

    /// `future` as a stream of this connection, ready to run.
    fn stream<F: Future<Output = ()>>(&self, future: F) -> impl Future<Output = ()> + use<F> {
        let stream = Arc::new(Stream { turns: self.clone(), phase: AtomicU8::new(READY), task: OnceLock::new() });
        self.lock().ready += 1;
        let over = Over(Arc::clone(&stream));
        async move {
            let _over = over;
            let waker = Waker::from(Arc::clone(&stream));
            let mut future = pin!(future);
            std::future::poll_fn(|context| {
                stream.task.get_or_init(|| context.waker().clone());
                let was_ready = stream.phase.swap(IDLE, Ordering::Relaxed) == READY;
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                if was_ready {
                    stream.turns.has_run();
                }
                polled
            })
            .await;
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Turns {
    fn execute(&self, future: F) {
        tokio::spawn(self.stream(future));
    }
}

impl Wake for Stream {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            let mut state = self.turns.lock();
            if self.phase.compare_exchange(IDLE, READY, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                state.ready += 1;
            }
        }
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

/// Ends a stream, however it ends: nobody waits for a step that it does not take.
#[derive(Debug)]
struct Over(Arc<Stream>);

impl Drop for Over {
    fn drop(&mut self) {
        let was = {
            let _locked = self.0.turns.lock();
            self.0.phase.swap(OVER, Ordering::Relaxed)
        };
        if was == READY {
            self.0.turns.has_run();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Debug, Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A stream that never ends, and hands out its waker.
    fn endless(turns: &Turns) -> (impl Future<Output = ()> + use<>, Arc<Mutex<Option<Waker>>>) {
        let given = Arc::new(Mutex::new(None));
        let to = Arc::clone(&given);
        let stream = turns.stream(std::future::poll_fn(move |context| {
            *to.lock().unwrap() = Some(context.waker().clone());
            Poll::Pending
        }));
        (stream, given)
    }

    fn poll(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_connection_waits_for_streams_that_are_ready_and_for_no_others() {
        let turns = Turns::default();
        let woken = Arc::new(Woken::default());
        let connection = Waker::from(Arc::clone(&woken));
        assert!(!turns.lets_others_go(&connection), "there are none");
        let ((first, wake_first), (second, wake_second)) = (endless(&turns), endless(&turns));
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(turns.lets_others_go(&connection), "both are new");
        assert!(!poll(first.as_mut()));
        assert!(turns.lets_others_go(&connection), "the second has not run");
        assert_eq!(woken.times(), 0);
        // Woken while the connection waits: it does not wait for this one.
        let waker = wake_first.lock().unwrap().clone().unwrap();
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert!(!poll(second.as_mut()));
        assert_eq!(woken.times(), 1);
        assert!(!turns.lets_others_go(&connection), "it has waited");
        assert!(turns.lets_others_go(&connection), "the first is ready again");
        assert!(!poll(first.as_mut()));
        assert_eq!(woken.times(), 2);
        assert!(!turns.lets_others_go(&connection));
        assert!(!turns.lets_others_go(&connection), "nobody is ready");
        drop(wake_second);
    }

    #[test]
    fn a_stream_that_goes_is_not_waited_for() {
        let turns = Turns::default();
        let woken = Arc::new(Woken::default());
        let connection = Waker::from(Arc::clone(&woken));
        let (stream, wake) = endless(&turns);
        let mut stream = Box::pin(stream);
        assert!(!poll(stream.as_mut()));
        let waker = wake.lock().unwrap().clone().unwrap();
        waker.wake_by_ref();
        assert!(turns.lets_others_go(&connection));
        drop(stream);
        assert_eq!(woken.times(), 1);
        assert!(!turns.lets_others_go(&connection));
        // Its waker outlives it.
        waker.wake();
        assert!(!turns.lets_others_go(&connection));
        // One that never ran.
        drop(turns.stream(async {}));
        assert!(!turns.lets_others_go(&connection));
        assert_eq!(turns.lock().ready, 0);
    }

    /// On a runtime of several threads, whatever they do at once: a connection that lets others go is always woken.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_connection_is_always_woken() {
        let turns = Turns::default();
        let notify = Arc::new(tokio::sync::Notify::new());
        let ran = Arc::new(AtomicUsize::new(0));
        for number in 0..64 {
            let (notify, ran) = (Arc::clone(&notify), Arc::clone(&ran));
            turns.execute(async move {
                // Some go early.
                for _ in 0..100 * (number % 7 + 1) {
                    notify.notified().await;
                    ran.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
        }
        for _ in 0..2_000 {
            notify.notify_waiters();
            std::future::poll_fn(
                |context| {
                    if turns.lets_others_go(context.waker()) { Poll::Pending } else { Poll::Ready(()) }
                },
            )
            .await;
        }
        assert!(ran.load(Ordering::Relaxed) > 0);
    }
}
