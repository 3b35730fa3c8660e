//! Calls that wait for the log: who they are, and waking them.
//!
//! Results come from the driver's thread once per batch, through one channel to one task, which wakes the calls: the runtime is
//! woken once per batch, not once per call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kv_codec::command::set_seq;
use kv_raft::{Handle, Input, ProposeError, RejectReason};
use kv_store::Applied;
use tokio::sync::{oneshot, watch};

use crate::bell;
use crate::reads::Reads;
use crate::status::ApiError;

/// What the driver's thread has to say to waiting calls.
#[derive(Debug)]
pub(crate) enum Completion {
    /// Commands were applied, by sequence number.
    Applied(Vec<(u64, Applied)>),
    /// Commands were refused and are in no log.
    Rejected(Vec<u64>, RejectReason),
    /// Reads may be served once the index beside them is published.
    ReadsReady(Vec<(u64, u64)>),
    /// Reads were refused.
    ReadsDropped(Vec<u64>),
    /// A later leader has begun, and what it has of the writes up to this number was applied: nobody knows of the others.
    Overtaken(u64),
}

/// Calls that wait for the log.
///
/// * A command's sequence number is drawn and queued under one lock: numbers rise in the order of the queue.
/// * A call that is given up leaves nothing behind.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    writes: Mutex<Table<Applied>>,
    /// Reads that wait for consensus.
    pub(crate) reads: Reads,
}

#[derive(Debug)]
struct Table<T> {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<T, ApiError>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { last: 0, waiting: HashMap::new() }
    }
}

/// A command that was queued.
pub(crate) struct Queued<'a> {
    receiver: oneshot::Receiver<Result<Applied, ApiError>>,
    entry: Entry<'a, Applied>,
}

impl Queued<'_> {
    /// Waits for its result.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`] and [`ApiError::NoLeader`]: it was not taken. [`ApiError::Timeout`],
    /// [`ApiError::LeaderChanged`] and [`ApiError::Stopped`]: its fate is unknown.
    pub(crate) async fn result(self, timeout: Duration) -> Result<Applied, ApiError> {
        wait(self.receiver, timeout, self.entry).await
    }
}

/// Removes a call from its table when the call ends, however it ends.
struct Entry<'a, T> {
    table: &'a Mutex<Table<T>>,
    number: u64,
}

impl<T> Drop for Entry<'_, T> {
    fn drop(&mut self) {
        lock(self.table).waiting.remove(&self.number);
    }
}

fn lock<T>(table: &Mutex<Table<T>>) -> MutexGuard<'_, Table<T>> {
    table.lock().expect("nothing panics while it holds the table")
}

impl Waiters {
    /// Queues an encoded command by `propose`. Commands are in the log in the order in which they were queued.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`], [`ApiError::RequestTooLarge`]: it was not taken.
    pub(crate) fn queue_with(
        &self,
        mut command: Vec<u8>,
        propose: impl FnOnce(Vec<u8>) -> Result<(), ProposeError>,
    ) -> Result<Queued<'_>, ApiError> {
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut table = lock(&self.writes);
            let number = table.last + 1;
            set_seq(&mut command, number);
            propose(command).map_err(not_queued)?;
            table.last = number;
            table.waiting.insert(number, sender);
            number
        };
        Ok(Queued { receiver, entry: Entry { table: &self.writes, number } })
    }

    /// Calls that wait for a write.
    pub(crate) fn pending_writes(&self) -> usize {
        lock(&self.writes).waiting.len()
    }

    /// Nobody who waits is going to hear anything.
    fn give_up(&self) {
        let waiting: Vec<_> = lock(&self.writes).waiting.keys().copied().collect();
        wake(&self.writes, waiting.into_iter().map(|number| (number, Err(ApiError::Stopped))));
        self.reads.give_up();
    }

    fn complete(&self, completion: Completion, driver: &Handle) {
        let ask = |number| driver.input(Input::Read(number)).map_err(not_queued);
        match completion {
            Completion::Applied(results) => {
                wake(&self.writes, results.into_iter().map(|(number, applied)| (number, Ok(applied))));
            }
            Completion::Rejected(numbers, reason) => {
                let why = match reason {
                    RejectReason::NoLeader => ApiError::NoLeader,
                    RejectReason::NotInSync => ApiError::LearnerNotReady,
                    RejectReason::Busy => ApiError::TooManyRequests,
                    RejectReason::NoSpace => ApiError::NoSpace,
                    RejectReason::ConfChangePending => ApiError::Unhealthy,
                };
                wake(&self.writes, numbers.into_iter().map(|number| (number, Err(why.clone()))));
            }
            Completion::ReadsReady(reads) => {
                reads.into_iter().for_each(|(number, index)| self.reads.finish(number, Ok(index), ask));
            }
            Completion::ReadsDropped(numbers) => {
                numbers.into_iter().for_each(|number| self.reads.finish(number, Err(ApiError::TooManyRequests), ask));
            }
            Completion::Overtaken(last) => {
                let waiting =
                    lock(&self.writes).waiting.keys().copied().filter(|number| *number <= last).collect::<Vec<_>>();
                wake(&self.writes, waiting.into_iter().map(|number| (number, Err(ApiError::LeaderChanged))));
            }
        }
    }
}

/// Wakes the calls of one batch: their senders are taken under one lock, and used outside of it.
fn wake<T>(table: &Mutex<Table<T>>, results: impl Iterator<Item = (u64, Result<T, ApiError>)>) {
    let mut woken = Vec::with_capacity(results.size_hint().0);
    {
        let mut table = lock(table);
        for (number, result) in results {
            // A call that gave up is not there any more.
            if let Some(sender) = table.waiting.remove(&number) {
                woken.push((sender, result));
            }
        }
    }
    for (sender, result) in woken {
        drop(sender.send(result));
    }
}

async fn wait<T>(
    receiver: oneshot::Receiver<Result<T, ApiError>>,
    timeout: Duration,
    _entry: Entry<'_, T>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(timeout, receiver).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(ApiError::Stopped),
        Err(_) => Err(ApiError::Timeout),
    }
}

pub(crate) fn not_queued(error: ProposeError) -> ApiError {
    match error {
        ProposeError::Full => ApiError::TooManyRequests,
        ProposeError::TooLarge => ApiError::RequestTooLarge,
        ProposeError::Stopped => ApiError::Stopped,
    }
}

/// Wakes calls as the driver's thread says, until it is gone. Once this member has `left` its cluster, nothing is heard of what it asked
/// for: whoever still waits then is told so, after all that was heard before.
pub(crate) async fn run(
    waiters: Arc<Waiters>,
    driver: Handle,
    mut completions: bell::Listener<Completion>,
    mut left: watch::Receiver<bool>,
) {
    let mut has_left = false;
    loop {
        tokio::select! {
            biased;
            completion = completions.recv() => match completion {
                Some(completion) => waiters.complete(completion, &driver),
                None => return,
            },
            Ok(_) = left.wait_for(|left| *left), if !has_left => {
                has_left = true;
                waiters.give_up();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_is_given_up_leaves_nothing_behind() {
        let table = Mutex::new(Table::<u64>::default());
        let call = |number| {
            let (sender, receiver) = oneshot::channel();
            lock(&table).waiting.insert(number, sender);
            wait(receiver, Duration::MAX, Entry { table: &table, number })
        };
        let (dropped, answered) = (call(1), call(2));
        drop(dropped);
        assert!(lock(&table).waiting.keys().eq([&2]));
        wake(&table, [(1, Ok(10)), (2, Ok(20))].into_iter());
        assert_eq!(answered.await, Ok(20));

        let (_sender, receiver) = oneshot::channel();
        let (unanswered, _) = oneshot::channel();
        lock(&table).waiting.insert(3, unanswered);
        assert_eq!(wait(receiver, Duration::ZERO, Entry { table: &table, number: 3 }).await, Err(ApiError::Timeout));
        assert!(lock(&table).waiting.is_empty());
    }
}
