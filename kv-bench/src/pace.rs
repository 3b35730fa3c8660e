//! When clients start their operations, and waiting for all of them.
//!
//! In a *closed loop* a client starts its next operation when the last one is answered. In an *open loop* operations
//! start on a schedule that knows nothing of answers, and an operation's latency counts from the moment it was meant to
//! start. A server that stalls for a second therefore shows it in every operation that was due in that second, and not in
//! one alone (the mistake known as coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// When operations are meant to start.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    operations: u64,
    per_second: u32,
    /// Operations that some client has taken on.
    taken: AtomicU64,
    /// One permit for each operation that is due.
    due: Semaphore,
}

/// When a client starts its next operation.
#[derive(Debug, Clone)]
pub(crate) enum Pace {
    /// At once, until then.
    Closed(Instant),
    /// On schedule; what is late is started until then.
    Open(Arc<Schedule>, Instant),
}

impl Schedule {
    /// Starts the thread that says what is due.
    pub(crate) fn begin(start: Instant, length: Duration, per_second: u32) -> Arc<Self> {
        let operations = (length.as_millis() * u128::from(per_second)).div_ceil(1000);
        let operations = u64::try_from(operations).expect("a run lasts minutes");
        let schedule = Self { start, operations, per_second, taken: AtomicU64::new(0), due: Semaphore::new(0) };
        let schedule = Arc::new(schedule);
        let pacer = Arc::clone(&schedule);
        // A thread of its own: tokio's timer wakes to the millisecond, the system's to about 50 us.
        std::thread::spawn(move || pacer.pace());
        schedule
    }

    /// Operations that no client came to start: the server was too slow for the rate.
    pub(crate) fn unsent(&self) -> u64 {
        self.operations.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    fn pace(&self) {
        for operation in 0..self.operations {
            let wait = self.due_at(operation).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            self.due.add_permits(1);
        }
        // Enough for every client to see that nothing is left.
        self.due.add_permits(Semaphore::MAX_PERMITS >> 1);
    }

    fn due_at(&self, operation: u64) -> Instant {
        let ns = u128::from(operation) * 1_000_000_000 / u128::from(self.per_second);
        self.start + Duration::from_nanos(u64::try_from(ns).expect("a run lasts minutes"))
    }
}

impl Pace {
    /// Waits until an operation is due. From when its latency counts; nothing when the run is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        match self {
            Self::Closed(end) => (now < *end).then_some(now),
            Self::Open(schedule, end) => {
                schedule.due.acquire().await.expect("it is never closed").forget();
                if Instant::now() >= *end {
                    return None;
                }
                let operation = schedule.taken.fetch_add(1, Ordering::Relaxed);
                (operation < schedule.operations).then(|| schedule.due_at(operation))
            }
        }
    }
}

/// Waits for all; the first error ends the others.
pub(crate) async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client panicked")??;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_due_evenly() {
        let start = Instant::now();
        let schedule =
            Schedule { start, operations: 9, per_second: 4, taken: AtomicU64::new(0), due: Semaphore::new(0) };
        let due: Vec<u128> = (0..6).map(|operation| (schedule.due_at(operation) - start).as_millis()).collect();
        assert_eq!(due, [0, 250, 500, 750, 1000, 1250]);
    }

    /// A stall that began before an operation was due is part of its latency.
    #[tokio::test]
    async fn latency_counts_from_the_intended_start() {
        let start = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let schedule =
            Schedule { start, operations: 2, per_second: 1, taken: AtomicU64::new(0), due: Semaphore::new(0) };
        schedule.pace();
        let pace = Pace::Open(Arc::new(schedule), start + Duration::from_secs(60));
        assert_eq!(pace.next().await, Some(start), "three seconds ago, not now");
        assert_eq!(pace.next().await, Some(start + Duration::from_secs(1)));
        assert_eq!(pace.next().await, None, "the schedule is done");
    }

    #[tokio::test]
    async fn a_run_that_is_too_late_ends_with_operations_unsent() {
        let start = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let schedule = Arc::new(Schedule {
            start,
            operations: 2,
            per_second: 1,
            taken: AtomicU64::new(0),
            due: Semaphore::new(0),
        });
        schedule.pace();
        let pace = Pace::Open(Arc::clone(&schedule), start + Duration::from_secs(2));
        assert_eq!(pace.next().await, None);
        assert_eq!(schedule.taken.load(Ordering::Relaxed), 0);
    }
}
