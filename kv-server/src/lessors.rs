//! The leader's clock for leases: ends those that are due, and notes what is left of others.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kv_codec::command::{AlarmKind, Body, Expired};
use kv_store::{Due, Lessor};
use tokio::sync::{Notify, watch};

use crate::service::Core;
use crate::status::ApiError;

/// Leases that end in one round: a small part of the commands that may wait for the driver, so that clients find room beside them.
const ROUND_LEASES: usize = 1024;
/// The least time between two rounds: leases that end one after another are ended together.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// The lessor, while this member leads.
#[derive(Debug)]
pub(crate) struct Lessors {
    /// With the term that it leads in.
    leading: Mutex<Option<(u64, Lessor)>>,
    changed: Notify,
    /// From when on the lessor counts time.
    origin: Instant,
}

impl Default for Lessors {
    fn default() -> Self {
        Self { leading: Mutex::new(None), changed: Notify::new(), origin: Instant::now() }
    }
}

impl Lessors {
    /// Leases were granted, or ended. Called by the driver's thread after they were published.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }
}

/// What a lessor is asked with: itself, the time, the term that it leads in.
pub(crate) struct Led<'a> {
    pub(crate) lessor: &'a mut Lessor,
    pub(crate) now: Duration,
    pub(crate) term: u64,
}

impl Core {
    /// Asks the lessor, which knows the leases that are published.
    ///
    /// # Errors
    /// [`ApiError::NotPrimaryLessor`] on a member that does not lead.
    pub(crate) fn lessor<T>(&self, ask: impl FnOnce(Led<'_>) -> T) -> Result<T, ApiError> {
        let mut leading = self.lessors.leading.lock().expect("nothing panics while it holds the lessor");
        let raft = self.driver.status().numbers();
        let view = self.views.load();
        // What came before its own term is known to a leader once it has applied an entry of that.
        if raft.leader != self.member_id || view.applied_term() != raft.term {
            *leading = None;
            return Err(ApiError::NotPrimaryLessor);
        }
        let now = self.lessors.origin.elapsed();
        let lessor = match &mut *leading {
            Some((term, lessor)) if *term == raft.term => {
                lessor.follow(view.leases(), now);
                lessor
            }
            other => {
                let lessor = Lessor::lead(view.leases(), now, self.limits.election_timeout);
                &mut other.insert((raft.term, lessor)).1
            }
        };
        Ok(ask(Led { lessor, now, term: raft.term }))
    }

    /// Whether the CORRUPT alarm keeps leases from ending: no member deletes anything then.
    pub(crate) fn leases_cannot_end(&self) -> bool {
        self.views.load().alarms().is_raised(AlarmKind::Corrupt)
    }

    /// Does what is due; when more will be.
    ///
    /// # Errors
    /// [`ApiError::NotPrimaryLessor`] on a member that does not lead.
    async fn lease_round(&self) -> Result<Option<Duration>, ApiError> {
        let queued = self.lessor(|Led { lessor, now, term }| {
            let Due { mut expired, checkpoints } = lessor.due(now, ROUND_LEASES);
            if self.leases_cannot_end() {
                // Each would be refused, at the price of an entry of the log.
                expired.drain(..).for_each(|lease| lessor.failed(lease, now));
            }
            // Queued while nobody else can ask the lessor: a keep-alive that undoes a note is behind it in the log.
            let noted = (!checkpoints.is_empty()).then(|| self.queue(&Body::LeaseCheckpoint { term, checkpoints }));
            let ends = expired.into_iter().map(|(id, granted)| {
                let expired = Some(Expired { term, granted });
                ((id, granted), self.queue(&Body::LeaseRevoke { id, expired }))
            });
            (noted, ends.collect::<Vec<_>>())
        });
        let (noted, ends) = queued?;
        if let Some(noted) = noted {
            // A note that is lost is made again in its time.
            drop(self.outcome(noted).await);
        }
        for (lease, end) in ends {
            match self.outcome(end).await {
                Ok(_) => self.metrics.leases_expired.inc(),
                // Its client was faster.
                Err(ApiError::LeaseNotFound) => {}
                Err(_) => drop(self.lessor(|led| led.lessor.failed(lease, led.now))),
            }
        }
        self.lessor(|led| led.lessor.next_due().map(|at| at.saturating_sub(led.now)))
    }
}

/// Keeps the leases' time, until the server stops.
pub(crate) async fn run(core: Arc<Core>, mut stop: watch::Receiver<()>) {
    let mut leader = core.leader.clone();
    loop {
        let pause = match core.lease_round().await {
            Ok(Some(next)) => next.max(ROUND_PAUSE),
            // It begins to lead once it has applied an entry of its own term.
            Err(_) if leader.borrow_and_update().id == core.member_id => ROUND_PAUSE,
            Ok(None) | Err(_) => Duration::MAX,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.lessors.changed.notified() => tokio::time::sleep(ROUND_PAUSE).await,
            changed = leader.changed() => if changed.is_err() { return },
            _ = stop.changed() => return,
        }
    }
}
