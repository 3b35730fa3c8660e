//! A channel from a thread outside the runtime to a task in it, whose bell is a pipe.
//!
//! Whoever wakes a task from outside a runtime that sleeps wakes two of its workers: one for the task, which first wakes another to look for
//! more. A task that waits for a pipe is woken by the worker that waits for the sockets, and by it alone.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, TryRecvError};

use tokio::net::unix::pipe;

/// The sending end; any number of them.
///
/// * The queue is let go of before the bell: whoever hears that the pipe has ended finds the queue ended as well.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    queue: mpsc::Sender<T>,
    bell: Option<Arc<Bell>>,
}

#[derive(Debug)]
struct Bell {
    pipe: PipeWriter,
    rung: Arc<AtomicBool>,
}

/// The receiving end, of which nothing can be received yet.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    queue: mpsc::Receiver<T>,
    pipe: PipeReader,
    rung: Arc<AtomicBool>,
}

/// The receiving end, in a runtime.
///
/// * While it waits, `rung` says whether there is a byte in the pipe: one at most, so that no sender waits for room.
#[derive(Debug)]
pub(crate) struct Listener<T> {
    queue: mpsc::Receiver<T>,
    pipe: pipe::Receiver,
    rung: Arc<AtomicBool>,
}

/// A channel. It fails where no file can be opened.
pub(crate) fn channel<T>() -> io::Result<(Sender<T>, Receiver<T>)> {
    let ((reader, writer), (sender, receiver)) = (io::pipe()?, mpsc::channel());
    let rung = Arc::new(AtomicBool::new(false));
    let bell = Arc::new(Bell { pipe: writer, rung: Arc::clone(&rung) });
    Ok((Sender { queue: sender, bell: Some(bell) }, Receiver { queue: receiver, pipe: reader, rung }))
}

impl<T> Sender<T> {
    /// One that nobody listens to.
    pub(crate) fn nowhere() -> Self {
        Self { queue: mpsc::channel().0, bell: None }
    }

    /// Sends, if anybody listens.
    pub(crate) fn send(&self, message: T) {
        if self.queue.send(message).is_err() {
            return;
        }
        let Some(bell) = &self.bell else { return };
        // Whoever it was rung for takes this message as well: he takes the ring back before he looks.
        if !bell.rung.swap(true, Ordering::AcqRel) {
            // Nobody listens any more if it fails.
            drop((&bell.pipe).write_all(&[0]));
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: self.bell.clone() }
    }
}

impl<T> Receiver<T> {
    /// Listens, in the runtime that this is called in. It fails where the runtime's I/O does.
    pub(crate) fn listen(self) -> io::Result<Listener<T>> {
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(self.pipe))?;
        Ok(Listener { queue: self.queue, pipe, rung: self.rung })
    }
}

impl<T> Listener<T> {
    /// The next message; nothing when all senders are gone. A call that is given up loses none.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        loop {
            match self.queue.try_recv() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => self.hear().await?,
            }
        }
    }

    /// Waits for the bell. Nothing when the runtime ends.
    async fn hear(&mut self) -> Option<()> {
        loop {
            self.pipe.readable().await.ok()?;
            match self.pipe.try_read(&mut [0; 1]) {
                Ok(_) => {
                    self.rung.swap(false, Ordering::AcqRel);
                    return Some(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Several threads send, faster and slower than it is listened to; calls are given up in between.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_message_is_heard_once_and_in_its_senders_order() {
        let (sender, receiver) = channel::<(usize, u32)>().unwrap();
        let mut listener = receiver.listen().unwrap();
        let threads: Vec<_> = (0..3)
            .map(|own| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(own as u64);
                    for number in 0..3_000 {
                        sender.send((own, number));
                        if rng.u8(..8) == 0 {
                            std::thread::sleep(std::time::Duration::from_micros(rng.u64(..200)));
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; 3];
        loop {
            // Polled once and dropped.
            let heard = match listener.recv().now_or_never() {
                Some(heard) => heard,
                None => listener.recv().await,
            };
            let Some((from, number)) = heard else { break };
            assert_eq!(number, next[from]);
            next[from] += 1;
        }
        assert_eq!(next, [3_000; 3]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[tokio::test]
    async fn what_was_sent_before_anybody_listened_is_heard_and_the_end_is() {
        let (sender, receiver) = channel().unwrap();
        // More than a pipe holds, had each a byte of its own.
        (0..100_000).for_each(|number| sender.send(number));
        let mut listener = receiver.listen().unwrap();
        for number in 0..100_000 {
            assert_eq!(listener.recv().await, Some(number));
        }
        assert!(listener.recv().now_or_never().is_none());
        let waits = tokio::spawn(async move { listener.recv().await });
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(waits.await.unwrap(), None);
    }

    /// Each message is sent when the one before was heard: none waits for a later one, or for the end, to ring for it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_message_is_rung_for() {
        let (sender, receiver) = channel().unwrap();
        let mut listener = receiver.listen().unwrap();
        let (heard, next) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for number in next {
                sender.send(number);
            }
        });
        for number in 0..2_000 {
            heard.send(number).unwrap();
            let message = tokio::time::timeout(std::time::Duration::from_secs(60), listener.recv()).await;
            assert_eq!(message.expect("a message that was sent is heard"), Some(number));
        }
        drop(heard);
        thread.join().unwrap();
        assert_eq!(listener.recv().await, None);
    }

    #[test]
    fn nobody_need_listen() {
        Sender::nowhere().send(1);
        let (sender, receiver) = channel().unwrap();
        drop(receiver);
        sender.send(2);
    }
}
