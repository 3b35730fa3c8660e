//! Everyone who uses the cluster during a run: clients, holders of leases, watchers, and one who compacts.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kv_server::proto::etcdserverpb::CompactionRequest;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use tokio::task::JoinHandle;

use super::Options;
use super::calls::Call;
use super::check::Seen;
use super::clients::Client;
use super::lessees::{Lease, Lessee};
use super::report::Report;
use super::rest::{REST_WITHIN, Rest, rest};
use super::shared::{PREFIX, PREFIX_END, Shared};
use super::watchers::{Watched, Watcher};
use crate::members::Cluster;

const LESSEES: u32 = 2;
/// What each watcher watches: name, first key, end. The first has all that the checks go by.
const WATCHERS: [(&str, &str, &str); 4] = [
    ("everything", PREFIX, PREFIX_END),
    ("keys", "chaos/k/", "chaos/k0"),
    ("lists", "chaos/l/", "chaos/l0"),
    ("everything again", PREFIX, PREFIX_END),
];
const POLL_EVERY: Duration = Duration::from_millis(100);
/// Between two compactions, in milliseconds; and how long one is waited for.
const COMPACT_EVERY_MS: std::ops::Range<u64> = 3_000..8_000;
const COMPACT_WITHIN: Duration = Duration::from_secs(2);
/// Compactions stay so far, at most, below what the first watcher has.
const KEPT_REVISIONS: std::ops::Range<i64> = 0..300;

/// All of them at work. Dropping it leaves them at it: [`Self::come_to_rest`] ends them.
pub(super) struct Load {
    clients: Vec<JoinHandle<Vec<Call>>>,
    lessees: Vec<JoinHandle<(Vec<Lease>, Vec<Call>)>>,
    watchers: Vec<JoinHandle<Watched>>,
    compactor: JoinHandle<()>,
    /// How far each watcher is, and where it ends.
    reached: Vec<(Arc<AtomicI64>, Arc<AtomicI64>)>,
}

impl Load {
    pub(super) fn start(options: &Options, shared: &Arc<Shared>, random: &mut fastrand::Rng) -> Self {
        let pause = Duration::from_secs(1) * options.clients / options.rate;
        let clients = (0..options.clients).map(|id| {
            let client = Client::new(id, Arc::clone(shared), random.fork(), pause);
            tokio::spawn(client.run())
        });
        let clients = clients.collect();
        let lessees = (0..LESSEES).map(|id| {
            let id = options.clients + id;
            tokio::spawn(Lessee { id, shared: Arc::clone(shared), random: random.fork() }.run())
        });
        let lessees = lessees.collect();
        let (mut watchers, mut reached) = (Vec::new(), Vec::new());
        for (name, from, end) in WATCHERS {
            let (at, until) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(i64::MAX)));
            reached.push((Arc::clone(&at), Arc::clone(&until)));
            let keys = (from.as_bytes().to_vec(), end.as_bytes().to_vec());
            let shared = Arc::clone(shared);
            let watcher = Watcher { name, keys, shared, random: random.fork(), reached: at, until };
            watchers.push(tokio::spawn(watcher.run()));
        }
        let heard = Arc::clone(&reached[0].0);
        let compactor = tokio::spawn(compact(Arc::clone(shared), random.fork(), heard));
        Self { clients, lessees, watchers, compactor, reached }
    }

    /// Ends the load and waits until the healed cluster has done all that it must. What it does not do in time is a violation.
    ///
    /// # Errors
    /// The tool itself failed.
    pub(super) async fn come_to_rest(
        self,
        shared: &Shared,
        cluster: &mut Cluster,
        report: &mut Report,
    ) -> Result<(Seen, Rest)> {
        shared.stop();
        let mut seen = Seen::default();
        for client in self.clients {
            seen.calls.extend(client.await.context("a client panicked")?);
        }
        for lessee in self.lessees {
            let (leases, calls) = lessee.await.context("a holder of leases panicked")?;
            seen.leases.extend(leases);
            seen.calls.extend(calls);
        }
        self.compactor.abort();
        seen.compacted = shared.compacted();
        let at_rest = match rest(shared, cluster, seen.compacted).await {
            Ok(at_rest) => at_rest,
            Err(error) => {
                report.violations.push(format!("the healed cluster did not come to rest: {error:#}"));
                Rest { revision: shared.revision(), ..Rest::default() }
            }
        };
        seen.last = at_rest.revision;
        let deadline = Instant::now() + REST_WITHIN;
        for ((at, until), (name, ..)) in self.reached.iter().zip(WATCHERS) {
            // Progress does for one whose keys were not the last to change.
            while at.load(Ordering::SeqCst) < seen.last && Instant::now() < deadline {
                tokio::time::sleep(POLL_EVERY).await;
            }
            let reached = at.load(Ordering::SeqCst);
            if reached < seen.last {
                report.violations.push(format!("watcher {name} was told up to {reached} of {}", seen.last));
            }
            until.store(0, Ordering::SeqCst);
        }
        for watcher in self.watchers {
            seen.watched.push(watcher.await.context("a watcher panicked")?);
        }
        Ok((seen, at_rest))
    }
}

/// Compacts now and then, never more than the first watcher has heard.
async fn compact(shared: Arc<Shared>, mut random: fastrand::Rng, heard: Arc<AtomicI64>) {
    loop {
        tokio::time::sleep(Duration::from_millis(random.u64(COMPACT_EVERY_MS))).await;
        let revision = heard.load(Ordering::SeqCst) - random.i64(KEPT_REVISIONS);
        let Some(channel) = shared.connect(&mut random).await else { continue };
        if revision > shared.compacted() {
            shared.compacts(revision);
            let mut kv = KvClient::new(channel);
            let asked = kv.compact(CompactionRequest { revision, physical: false });
            // Done or not: both are right.
            drop(tokio::time::timeout(COMPACT_WITHIN, asked).await);
        }
    }
}
