//! The steps of large answers: a few at once, first come, first served.
//!
//! An answer that is longer than a step is made one step at a time, and queues here before each. However many clients ask for all there
//! is, the runtime has a few steps to run at any moment, and a small call that comes waits for these, not for a step of every client.
//!
//! A step is a function, which waits for nothing: nobody has a turn while a client reads, or does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

/// Pieces of an answer that are made before they are taken: the next one is there when its client wants it.
const PIECES_AHEAD: usize = 1;

/// Who makes a step of a large answer next.
///
/// * At most as many steps are made at once as there are turns.
/// * A turn ends with its step: it outlives no wait.
#[derive(Debug)]
pub(crate) struct Steps {
    turns: Semaphore,
    made: AtomicU64,
    answers: AtomicUsize,
}

impl Steps {
    /// For the runtime that this is called on: half of its threads make steps of large answers, the others have them to themselves.
    pub(crate) fn new() -> Self {
        Self::with_turns((Handle::current().metrics().num_workers() / 2).max(1))
    }

    fn with_turns(turns: usize) -> Self {
        Self { turns: Semaphore::new(turns), made: AtomicU64::new(0), answers: AtomicUsize::new(0) }
    }

    /// Steps that were made, ever.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Answers that are being made piece by piece.
    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Makes a step when its turn comes.
    pub(crate) async fn take<T>(&self, step: impl FnOnce() -> T) -> T {
        let _turn = self.turns.acquire().await.expect("the queue is never closed");
        self.made.fetch_add(1, Ordering::Relaxed);
        step()
    }

    /// The pieces that `make` makes, a step each, until it says that there are no more; one is made ahead of who takes them.
    pub(crate) fn pieces<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnMut() -> (T, bool) + Send + 'static,
    ) -> mpsc::Receiver<T> {
        self.begin(make, false)
    }

    /// The same where a piece takes any time: each is made on a thread of its own, which no turn is needed for.
    pub(crate) fn pieces_aside<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnMut() -> (T, bool) + Send + 'static,
    ) -> mpsc::Receiver<T> {
        self.begin(make, true)
    }

    fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        mut make: impl FnMut() -> (T, bool) + Send + 'static,
        is_aside: bool,
    ) -> mpsc::Receiver<T> {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let answer = Answer::begin(self);
        tokio::spawn(async move {
            // There is room before there is a turn: no step is made for a client that takes nothing, or has gone.
            while let Ok(room) = sender.reserve().await {
                let (piece, more) = if is_aside {
                    let made = tokio::task::spawn_blocking(move || (make(), make));
                    // It ends early only when the server does.
                    let Ok((made, again)) = made.await else { break };
                    make = again;
                    made
                } else {
                    answer.0.take(&mut make).await
                };
                room.send(piece);
                if !more {
                    break;
                }
            }
            drop(answer);
        });
        pieces
    }
}

/// An answer that is being made, counted as long as it is.
#[derive(Debug)]
struct Answer(Arc<Steps>);

impl Answer {
    fn begin(steps: &Arc<Steps>) -> Self {
        steps.answers.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(steps))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.answers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    /// As many as make a step at this moment, and the most that ever did.
    #[derive(Debug, Default)]
    struct Busy {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Busy {
        fn step(&self) {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            // Others come to the same point, if they may.
            (0..20).for_each(|_| std::thread::yield_now());
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Pieces `0..count`, each a step of `busy`.
    fn counting(steps: &Arc<Steps>, busy: &Arc<Busy>, count: usize) -> mpsc::Receiver<usize> {
        let (busy, mut next) = (Arc::clone(busy), 0);
        steps.pieces(move || {
            busy.step();
            next += 1;
            (next - 1, next < count)
        })
    }

    async fn all(mut pieces: mpsc::Receiver<usize>) -> Vec<usize> {
        let mut taken = Vec::new();
        while let Some(piece) = pieces.recv().await {
            taken.push(piece);
        }
        taken
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_more_steps_are_made_at_once_than_there_are_turns() {
        assert_eq!(Steps::new().turns.available_permits(), 2, "half of the runtime's threads");
        let (steps, busy) = (Arc::new(Steps::new()), Arc::new(Busy::default()));
        let answers: Vec<_> = (0..32).map(|_| tokio::spawn(all(counting(&steps, &busy, 50)))).collect();
        for answer in answers {
            assert!(answer.await.unwrap().into_iter().eq(0..50));
        }
        assert!(busy.most.load(Ordering::SeqCst) <= 2, "{busy:?}");
        assert_eq!((steps.made(), steps.turns.available_permits()), (32 * 50, 2));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_has_no_turn_and_one_that_goes_leaves_none_taken() {
        let (steps, busy) = (Arc::new(Steps::with_turns(1)), Arc::new(Busy::default()));
        let unread: Vec<_> = (0..8).map(|_| counting(&steps, &busy, usize::MAX)).collect();
        // All have made what is made ahead; with one turn for all of them, another one gets to its end.
        assert!(all(counting(&steps, &busy, 100)).await.into_iter().eq(0..100));
        assert_eq!((steps.made(), steps.answers()), (8 + 100, 8));
        drop(unread);
        assert!(all(counting(&steps, &busy, 100)).await.into_iter().eq(0..100));
        assert_eq!((steps.made(), steps.answers(), steps.turns.available_permits()), (8 + 200, 0, 1));
    }

    #[tokio::test]
    async fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let (steps, order) = (Steps::with_turns(1), std::sync::Mutex::new(Vec::new()));
        let mut context = Context::from_waker(Waker::noop());
        let held = steps.turns.acquire().await.unwrap();
        let take = async |number: usize| steps.take(|| order.lock().unwrap().push(number)).await;
        let (mut first, mut gone, mut second) = (Box::pin(take(1)), Box::pin(take(2)), Box::pin(take(3)));
        for waiting in [&mut first, &mut gone, &mut second] {
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        drop(gone);
        drop(held);
        assert!(second.as_mut().poll(&mut context).is_pending(), "it is not its turn");
        first.await;
        second.await;
        assert_eq!(*order.lock().unwrap(), [1, 3]);
    }
}
