//! What the leader sees to by itself: compaction as the flags ask for it, and an alarm that has lost its reason.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_codec::command::Body;
use slog::{Logger, info, warn};
use tokio::sync::watch;

use crate::config::AutoCompaction;
use crate::service::Core;
use crate::status::ApiError;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);
/// The longest time between two periodic compactions.
const PERIOD_MAX: Duration = Duration::from_hours(1);
/// Samples of the revision in that time.
const SAMPLES: u32 = 10;
/// The time between two compactions by revision.
const REVISION_INTERVAL: Duration = Duration::from_mins(5);
/// When to try again what failed.
const RETRY: Duration = Duration::from_secs(10);

/// Says when to compact, and where. Time is an argument, counted from the start.
#[derive(Debug)]
struct Compactor {
    mode: AutoCompaction,
    /// When, and the revision then; the oldest is at most a period old, but for the first.
    samples: VecDeque<(Duration, i64)>,
    /// Not before this.
    next: Duration,
}

impl Compactor {
    fn new(mode: AutoCompaction) -> Self {
        let next = if let AutoCompaction::Revision(_) = mode { REVISION_INTERVAL } else { Duration::ZERO };
        Self { mode, samples: VecDeque::new(), next }
    }

    /// The revision to compact at now, if it is time.
    fn due(&mut self, now: Duration, revision: i64) -> Option<i64> {
        match self.mode {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic(period) => {
                let interval = period.min(PERIOD_MAX);
                if self.samples.back().is_none_or(|(last, _)| now - *last >= interval / SAMPLES) {
                    self.samples.push_back((now, revision));
                }
                while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(period) >= *at) {
                    self.samples.pop_front();
                }
                let (at, revision) = *self.samples.front().expect("one was just taken");
                (now - at >= period && now >= self.next).then(|| {
                    self.next = now + interval;
                    revision
                })
            }
            AutoCompaction::Revision(kept) => (now >= self.next).then(|| {
                self.next = now + REVISION_INTERVAL;
                revision.saturating_sub(kept)
            }),
        }
    }

    /// What was due could not be done.
    fn failed(&mut self, now: Duration) {
        self.next = self.next.min(now + RETRY);
    }
}

/// Looks after the store, until the server stops.
pub(crate) async fn run(
    core: Arc<Core>,
    compaction: AutoCompaction,
    disarm_nospace: bool,
    logger: Logger,
    mut stop: watch::Receiver<()>,
) {
    if compaction == AutoCompaction::Off && !disarm_nospace {
        return;
    }
    let started = Instant::now();
    let mut compactor = Compactor::new(compaction);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.changed() => return,
        }
        let due = compactor.due(started.elapsed(), core.views.load().revision());
        if core.driver.status().numbers().leader != core.member_id {
            continue;
        }
        if let Some(revision) = due.filter(|revision| *revision > core.views.load().compact_revision().max(0)) {
            match core.replicate(&Body::Compact { revision }).await {
                Ok(_) => info!(logger, "completed auto compaction"; "revision" => revision),
                Err(ApiError::Compacted) => {}
                Err(error) => {
                    warn!(logger, "failed auto compaction"; "revision" => revision, "error" => %error);
                    compactor.failed(started.elapsed());
                }
            }
        }
        if disarm_nospace {
            core.disarm_nospace().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is compacted, and when (in seconds), with one change a second.
    fn compactions(mode: AutoCompaction, seconds: u32) -> Vec<(u32, i64)> {
        let mut compactor = Compactor::new(mode);
        let due = |second: u32| Some((second, compactor.due(second * SECOND, i64::from(second))?));
        (0..=seconds).filter_map(due).collect()
    }

    #[test]
    fn a_period_is_kept() {
        let ten = AutoCompaction::Periodic(10 * SECOND);
        assert_eq!(compactions(ten, 9), []);
        assert_eq!(compactions(ten, 40), [(10, 0), (20, 10), (30, 20), (40, 30)]);
        let day = AutoCompaction::Periodic(Duration::from_hours(24));
        let hourly = compactions(day, 26 * 3_600);
        assert_eq!(hourly, [(86_400, 0), (90_000, 3_600), (93_600, 7_200)]);
        assert_eq!(compactions(AutoCompaction::Off, 10_000), []);
    }

    #[test]
    fn what_failed_is_tried_again_soon() {
        for mode in [AutoCompaction::Periodic(Duration::from_hours(1)), AutoCompaction::Revision(100)] {
            let mut compactor = Compactor::new(mode);
            compactor.due(Duration::ZERO, 1);
            let now = Duration::from_hours(1);
            assert!(compactor.due(now, 1_000).is_some());
            compactor.failed(now);
            assert_eq!(compactor.due(now + SECOND, 1_000), None, "not at once");
            assert!(compactor.due(now + RETRY, 1_000).is_some(), "{mode:?}");
            assert_eq!(compactor.due(now + RETRY * 2, 1_000), None, "it was done");
        }
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        assert_eq!(compactions(AutoCompaction::Revision(100), 700), [(300, 200), (600, 500)]);
    }
}
