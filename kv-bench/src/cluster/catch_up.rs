//! What clients feel while a member that missed much catches up.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{CONNECTIONS, ELECTED_WITHIN, Round, STREAMS, workload};
use crate::figures::{latencies, percentile_ms};
use crate::wire::Workload;

/// Writes a second, of all clients together, on a schedule.
pub(super) const RATE: u32 = 5_000;
/// How long the member may take.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(300);
/// Each of these has its own worst latencies: a stall of less than a hundredth of the whole would not be seen.
const WINDOW: Duration = Duration::from_secs(1);

impl Round<'_> {
    /// A follower goes, misses `keys` keys, and comes back after `secs` seconds of steady writes, which go on.
    pub(super) async fn catch_up(&mut self, keys: u32) -> Result<()> {
        let leader = self.cluster.wait_leader(ELECTED_WITHIN).await?;
        let follower = usize::from(leader == 0);
        self.cluster.kill(follower);
        let writes = Workload { keys, rate: Some(RATE), ..workload(CONNECTIONS * STREAMS, CONNECTIONS, 0) };
        let load = self.load(leader, &writes).await?;
        load.fill().await?;

        let (mut before, mut worst_before) = (latencies(), 0.0_f64);
        for _ in 0..self.secs {
            let puts = load.run(WINDOW).await?.latencies.puts;
            worst_before = worst_before.max(percentile_ms(&puts, 99.0).unwrap_or(0.0));
            before.add(&puts)?;
        }
        let p99_before = percentile_ms(&before, 99.0);

        let started = Instant::now();
        self.cluster.restart(follower)?;
        let (mut worst, mut worst_put, mut unsent) = (0.0_f64, 0.0_f64, 0);
        let mut behind = u64::MAX;
        // Once it has what the leader had committed a moment ago, it is as far as any follower.
        while behind > 0 {
            ensure!(
                started.elapsed() < CAUGHT_UP_WITHIN,
                "the member is {behind} entries behind after {CAUGHT_UP_WITHIN:?}"
            );
            let committed = self.status_of(leader).await.map_or(u64::MAX, |status| status.committed);
            let outcome = load.run(WINDOW).await?;
            unsent += outcome.unsent;
            worst = worst.max(percentile_ms(&outcome.latencies.puts, 99.0).unwrap_or(0.0));
            worst_put = worst_put.max(percentile_ms(&outcome.latencies.puts, 100.0).unwrap_or(0.0));
            let applied = self.status_of(follower).await.map_or(0, |status| status.applied);
            behind = committed.saturating_sub(applied);
            let p99 = percentile_ms(&outcome.latencies.puts, 99.0).unwrap_or(0.0);
            eprintln!(
                "kv-bench cluster: {:.1} s after its start the member is {behind} entries behind; p99 of this second {p99:.1} ms",
                started.elapsed().as_secs_f64()
            );
        }
        let took = started.elapsed();
        ensure!(self.cluster.wait_leader(ELECTED_WITHIN).await? == leader, "the leader changed meanwhile");
        self.figures.add("before: p99 of all puts", "ms", p99_before);
        self.figures.add("before: p99 of the worst second", "ms", worst_before);
        self.figures.add("catching up: p99 of the worst second", "ms", worst);
        self.figures.add("catching up: the slowest put", "ms", worst_put);
        self.figures.add(
            "catching up: p99 of the worst second, beside all before",
            "x",
            p99_before.map(|before| worst / before),
        );
        self.figures.add("catching up: puts that could not be sent in time", "", unsent as f64);
        self.figures.add("caught up after", "s", took.as_secs_f64());
        Ok(())
    }

    async fn status_of(&self, slot: usize) -> Option<crate::members::Status> {
        self.cluster.statuses().await.swap_remove(slot)
    }
}
