//! Linearizable reads that wait for the log: many calls, one question to consensus at a time.
//!
//! A call joins a round only before that is asked for, for a round answers what was there when it was asked. So calls that come while
//! one is on its way wait together for the next: each costs a place in a list, however many there are.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use kv_raft::{Handle, Input};
use tokio::sync::Notify;

use crate::status::ApiError;
use crate::waiters::not_queued;

/// The most calls that wait for one round.
const WAITING_MAX: usize = 1 << 17;

/// Calls that are answered together.
#[derive(Debug, Default)]
struct Round {
    /// The index at which their reads are linearizable.
    answer: OnceLock<Result<u64, ApiError>>,
    answered: Notify,
}

impl Round {
    fn finish(&self, answer: Result<u64, ApiError>) {
        if self.answer.set(answer).is_ok() {
            self.answered.notify_waiters();
        }
    }

    async fn wait(&self) -> Result<u64, ApiError> {
        let answered = self.answered.notified();
        // It hears of an answer from its creation on: one that came before is there already.
        if let Some(answer) = self.answer.get() {
            return answer.clone();
        }
        answered.await;
        self.answer.get().expect("nobody is notified before").clone()
    }
}

/// The rounds of this member.
///
/// * At most one is asked for. `next` has calls only while one is.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    rounds: Mutex<Rounds>,
}

#[derive(Debug, Default)]
struct Rounds {
    /// The number of the last that was asked for.
    last: u64,
    asked: Option<Arc<Round>>,
    next: Option<Arc<Round>>,
}

impl Reads {
    /// Waits for an index at which a read is linearizable.
    ///
    /// # Errors
    /// [`ApiError::Timeout`], [`ApiError::TooManyRequests`], [`ApiError::Stopped`].
    pub(crate) async fn index(&self, driver: &Handle, timeout: Duration) -> Result<u64, ApiError> {
        let round = self.join(|number| driver.input(Input::Read(number)).map_err(not_queued))?;
        tokio::time::timeout(timeout, round.wait()).await.unwrap_or(Err(ApiError::Timeout))
    }

    /// The round of a read that begins now. Asks for it if none is on its way.
    fn join(&self, ask: impl FnOnce(u64) -> Result<(), ApiError>) -> Result<Arc<Round>, ApiError> {
        let mut rounds = self.lock();
        if rounds.asked.is_some() {
            let next = rounds.next.get_or_insert_default();
            // Each call that waits owns a part of it, and `rounds` another.
            if Arc::strong_count(next) > WAITING_MAX {
                return Err(ApiError::TooManyRequests);
            }
            return Ok(Arc::clone(next));
        }
        ask(rounds.last + 1)?;
        rounds.last += 1;
        Ok(Arc::clone(rounds.asked.insert(Arc::default())))
    }

    /// A round was answered: those who wait for the next have theirs asked for.
    pub(crate) fn finish(
        &self,
        number: u64,
        answer: Result<u64, ApiError>,
        ask: impl FnOnce(u64) -> Result<(), ApiError>,
    ) {
        let mut rounds = self.lock();
        if number != rounds.last {
            return;
        }
        let finished = rounds.asked.take();
        let mut refused = None;
        if let Some(next) = rounds.next.take() {
            match ask(number + 1) {
                Ok(()) => {
                    rounds.last += 1;
                    rounds.asked = Some(next);
                }
                Err(error) => refused = Some((next, error)),
            }
        }
        drop(rounds);
        if let Some(finished) = finished {
            finished.finish(answer);
        }
        if let Some((next, error)) = refused {
            next.finish(Err(error));
        }
    }

    /// Nobody who waits is going to hear anything.
    pub(crate) fn give_up(&self) {
        let mut rounds = self.lock();
        let waiting = [rounds.asked.take(), rounds.next.take()];
        drop(rounds);
        waiting.into_iter().flatten().for_each(|round| round.finish(Err(ApiError::Stopped)));
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().expect("nothing panics while it holds the rounds")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn asks(reads: &Reads) -> Arc<Round> {
        reads.join(|_| Ok(())).expect("it is asked for")
    }

    #[tokio::test]
    async fn who_comes_while_a_round_is_on_its_way_is_answered_by_the_next() {
        let reads = Reads::default();
        let first = asks(&reads);
        let (second, third) =
            (reads.join(|_| panic!("one is on its way")), reads.join(|_| panic!("one is on its way")));
        let (second, third) = (second.expect("it waits"), third.expect("it waits"));
        let mut waits = Box::pin(third.wait());
        assert!(waits.as_mut().now_or_never().is_none());
        reads.finish(7, Ok(9), |_| panic!("nobody asked for that one"));
        reads.finish(1, Ok(10), |number| {
            assert_eq!(number, 2, "one question for all who wait");
            Ok(())
        });
        assert_eq!(first.wait().await, Ok(10));
        assert!(waits.as_mut().now_or_never().is_none(), "the answer was older than its question");
        reads.finish(1, Ok(11), |_| panic!("it comes twice"));
        assert!(waits.as_mut().now_or_never().is_none());
        reads.finish(2, Ok(12), |_| panic!("nobody waits"));
        assert_eq!((second.wait().await, waits.await), (Ok(12), Ok(12)));
        // All is as in the beginning.
        assert!(asks(&reads).wait().now_or_never().is_none());
    }

    #[test]
    fn too_many_are_refused_until_some_have_gone() {
        let reads = Reads::default();
        let _first = asks(&reads);
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| asks(&reads)).collect();
        assert_eq!(reads.join(|_| Ok(())).err(), Some(ApiError::TooManyRequests));
        waiting.pop();
        assert!(reads.join(|_| Ok(())).is_ok());
    }

    #[tokio::test]
    async fn who_cannot_be_asked_for_is_told_so() {
        let reads = Reads::default();
        assert!(reads.join(|_| Err(ApiError::Stopped)).is_err());
        let first = asks(&reads);
        let second = asks(&reads);
        reads.finish(1, Err(ApiError::TooManyRequests), |_| Err(ApiError::Stopped));
        assert_eq!(first.wait().await, Err(ApiError::TooManyRequests));
        assert_eq!(second.wait().await, Err(ApiError::Stopped));
        let third = asks(&reads);
        reads.finish(2, Ok(3), |_| panic!("nobody waits"));
        assert_eq!(third.wait().await, Ok(3));
        let (fourth, fifth) = (asks(&reads), asks(&reads));
        reads.give_up();
        assert_eq!((fourth.wait().await, fifth.wait().await), (Err(ApiError::Stopped), Err(ApiError::Stopped)));
    }
}
