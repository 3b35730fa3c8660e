//! What waits to be sent to one member.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use kv_raft::Envelope;
use tokio::sync::Notify;

/// Messages that wait for one member: more than raft has in flight to it (512), heartbeats and answers beside.
const MESSAGES_MAX: usize = 4096;
/// Bytes of them, one message aside: a second of a fast network.
const BYTES_MAX: usize = 64 << 20;

/// A bounded queue. Putting into it never waits: a message that finds no room is lost, which raft can live with.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Envelope>,
    bytes: usize,
    /// Whether somebody is there to send.
    open: bool,
}

impl Outbox {
    /// Puts a message, or gives it back when there is no room, or no connection that could carry it.
    pub(super) fn put(&self, message: Envelope) -> Result<(), Envelope> {
        let mut queue = self.lock();
        let bytes = message.bytes_about();
        let room = queue.messages.len() < MESSAGES_MAX && (queue.bytes == 0 || queue.bytes + bytes <= BYTES_MAX);
        if !queue.open || !room {
            return Err(message);
        }
        queue.bytes += bytes;
        queue.messages.push_back(message);
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes messages up to about `bytes_max`, at least one, in order.
    pub(super) fn take(&self, bytes_max: usize) -> Vec<Envelope> {
        let mut queue = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(message) = queue.messages.front() {
            let more = message.bytes_about();
            if !taken.is_empty() && bytes + more > bytes_max {
                break;
            }
            bytes += more;
            taken.extend(queue.messages.pop_front());
        }
        queue.bytes -= bytes;
        taken
    }

    /// Waits until there is something to take, or there may be.
    pub(super) async fn filled(&self) {
        if self.lock().messages.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Lets messages in.
    pub(super) fn open(&self) {
        self.lock().open = true;
    }

    /// Lets no more messages in; those that wait come back.
    pub(super) fn close(&self) -> VecDeque<Envelope> {
        let mut queue = self.lock();
        queue.open = false;
        queue.bytes = 0;
        std::mem::take(&mut queue.messages)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds the queue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_raft::PeerMessage;

    fn forward(bytes: usize) -> Envelope {
        Envelope { from: 1, to: 2, body: PeerMessage::Forward { leader_term: 1, batch: vec![0; bytes].into() } }
    }

    #[test]
    fn a_member_that_reads_nothing_costs_a_bounded_queue() {
        let outbox = Outbox::default();
        assert!(outbox.put(forward(1)).is_err(), "nobody sends");
        outbox.open();
        let fit = (0..10 * MESSAGES_MAX).filter(|_| outbox.put(forward(1)).is_ok()).count();
        assert_eq!(fit, MESSAGES_MAX);
        assert_eq!(outbox.close().len(), MESSAGES_MAX);
        outbox.open();
        let fit = (0..1000).filter(|_| outbox.put(forward(1 << 20)).is_ok()).count();
        assert_eq!(fit, BYTES_MAX / ((1 << 20) + 1), "their bytes count");
        assert_eq!(outbox.take(usize::MAX).len(), fit);
        assert!(outbox.put(forward(2 * BYTES_MAX)).is_ok(), "one alone always goes");
    }

    #[test]
    fn messages_leave_in_order_and_in_pieces() {
        let outbox = Outbox::default();
        outbox.open();
        let messages = [forward(1000), forward(2000), forward(9000)];
        messages.iter().for_each(|message| assert_eq!(outbox.put(message.clone()), Ok(())));
        assert_eq!(outbox.take(4000), messages[..2]);
        assert_eq!(outbox.take(1), messages[2..], "at least one");
        assert_eq!(outbox.take(1), []);
        assert_eq!(outbox.lock().bytes, 0);
    }
}
