//! What the tasks of a run share: the time, where the members are, whether it is over.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};

/// Every key of a run begins with it.
pub(super) const PREFIX: &str = "chaos/";
/// The first key after all of them: `0` follows `/`.
pub(super) const PREFIX_END: &str = "chaos0";
/// How long a connection may take, and the pause before the next one is tried.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Shared by all tasks.
///
/// * Times are nanoseconds since `origin`, on one clock for all: what ended before something else began, ended before it.
#[derive(Debug)]
pub(super) struct Shared {
    origin: Instant,
    endpoints: Mutex<Vec<Endpoint>>,
    stopped: AtomicBool,
    /// The highest revision in any answer.
    revision: AtomicI64,
    /// The highest revision that anyone asked to compact up to.
    compacted: AtomicI64,
}

impl Shared {
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            origin: Instant::now(),
            endpoints: Mutex::new(endpoints),
            stopped: AtomicBool::new(false),
            revision: AtomicI64::new(1),
            compacted: AtomicI64::new(0),
        }
    }

    /// Now.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a run lasts minutes")
    }

    /// Members have moved.
    pub(super) fn members_are(&self, endpoints: Vec<Endpoint>) {
        *self.endpoints.lock().expect("nothing panics under the lock") = endpoints;
    }

    /// The load ends.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// An answer told of this revision.
    pub(super) fn saw(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::Relaxed);
    }

    /// The highest that was told of.
    pub(super) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Somebody is about to ask for this compaction.
    pub(super) fn compacts(&self, revision: i64) {
        self.compacted.fetch_max(revision, Ordering::SeqCst);
    }

    /// The highest asked for.
    pub(super) fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::SeqCst)
    }

    /// A connection to some member that takes one; after a pause when none did.
    pub(super) async fn connect(&self, random: &mut fastrand::Rng) -> Option<Channel> {
        let endpoint = {
            let endpoints = self.endpoints.lock().expect("nothing panics under the lock");
            endpoints[random.usize(..endpoints.len())].clone()
        };
        if let Ok(Ok(channel)) = tokio::time::timeout(CONNECT_WITHIN, endpoint.connect()).await {
            return Some(channel);
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
        None
    }
}
