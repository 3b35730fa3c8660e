//! `kv-bench cluster`: a cluster of ours beside clusters of rivals, under the same clients.
//!
//! # One round of one server
//! 1. Start its members on fresh directories and fresh ports, each with its own defaults; ask who leads.
//! 2. Store the keys through the leader. Puts to the leader from many clients, then one put at a time.
//! 3. Linearizable ranges of one key from many clients: at the leader, then at a follower, which has to ask the leader first.
//!
//! With `--catch-up KEYS` instead: a follower goes, misses so many keys, and comes back while writes come on a schedule: what do clients feel?
//!
//! With `--failover K` instead: K times the leader is killed, and K times it is stopped in silence, with its connections open; how long is it
//! until a write is answered?
//!
//! # What to read with care
//! * CPU is that of all members together. All of them, and the clients, share the machine: that is no cluster of machines, and
//!   a figure of operations per second says less than the CPU of one.
//! * A put is synced on a majority of members whose disks are one.

mod catch_up;
mod failover;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tonic::transport::Endpoint;

use crate::figures::{Figures, Report, Results, Row, percentile_ms};
use crate::members::{Cluster, Shape, check_nodes};
use crate::race::{Race, in_turn};
use crate::wire::Workload;
use crate::wire::load::{Load, Outcome};
use failover::{Strike, strike_leaders};

const SECS_MAX: u32 = 600;
const ROUNDS_MAX: u32 = 100;
const FAILOVERS_MAX: u32 = 1_000;
const MISSED_KEYS_MAX: u32 = 10_000_000;
/// Many clients: so many connections, and so many requests in flight on each.
const CONNECTIONS: u32 = 8;
const STREAMS: u32 = 32;
const KEYS: u32 = 10_000;
const VALUE_BYTES: usize = 256;
/// Untimed load before each measurement.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a new cluster may take to elect a leader.
const ELECTED_WITHIN: Duration = Duration::from_secs(30);
/// A measurement during which the leader changed says nothing: so many are tried.
const TRIES: usize = 3;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which servers run, and where the report goes.
    #[command(flatten)]
    pub race: Race,
    /// Members of each cluster.
    #[arg(long, default_value_t = 3)]
    pub nodes: u32,
    /// Seconds of each measurement, after a short warm-up.
    #[arg(long, default_value_t = 3)]
    pub secs: u32,
    /// Rounds; the servers take turns. 3, or 1 of failovers and catching up, when left out.
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Strikes the leader so often in each of two ways, and measures only that.
    #[arg(long, value_name = "TIMES")]
    pub failover: Option<u32>,
    /// A follower misses so many keys and catches up under writes, after `--secs` seconds of them; measures only that.
    #[arg(long, value_name = "KEYS", conflicts_with = "failover")]
    pub catch_up: Option<u32>,
}

/// Runs the rounds and writes the report.
///
/// # Errors
/// Options that make no sense, a program that is not there or does not form a cluster, an operation that fails.
pub async fn run(options: &Options) -> Result<Report> {
    let Options { nodes, secs, failover, .. } = *options;
    let strikes = failover.is_some() || options.catch_up.is_some();
    let rounds = options.rounds.unwrap_or(if strikes { 1 } else { 3 });
    // Two members survive no failover, and have no follower that one could lose.
    check_nodes(nodes, 3)?;
    ensure!((1..=SECS_MAX).contains(&secs), "--secs is from 1 to {SECS_MAX}, not {secs}");
    ensure!((1..=ROUNDS_MAX).contains(&rounds), "--rounds is from 1 to {ROUNDS_MAX}, not {rounds}");
    if let Some(times) = failover {
        ensure!((1..=FAILOVERS_MAX).contains(&times), "--failover is from 1 to {FAILOVERS_MAX}, not {times}");
    }
    if let Some(keys) = options.catch_up {
        ensure!((1..=MISSED_KEYS_MAX).contains(&keys), "--catch-up is from 1 to {MISSED_KEYS_MAX}, not {keys}");
    }
    let shape = Shape { nodes, links: false };
    let (tool, about) = match (failover, options.catch_up) {
        (_, Some(keys)) => (
            "catch-up",
            format!(
                "{nodes} members each. One follower is killed and misses {keys} keys of {VALUE_BYTES} B; it is started again after {secs} s of \
                 {} puts a second at the leader, which go on.",
                catch_up::RATE
            ),
        ),
        (None, None) => (
            "cluster",
            format!(
                "{nodes} members each; {CONNECTIONS} connections x {STREAMS} requests in flight, or one; {KEYS} keys, values of {VALUE_BYTES} \
                 B; CPU is that of all members together."
            ),
        ),
        (Some(times), None) => (
            "failover",
            format!(
                "{nodes} members each. {times} times each: the leader is killed by SIGKILL, and stopped by SIGSTOP, which leaves its \
                 connections open; until the first answer to one of the writes that went to each survivor every 5 ms."
            ),
        ),
    };
    let targets = options.race.prepare(tool).await?;
    let seed = fastrand::u64(..);
    eprintln!("kv-bench cluster: seed {seed}");
    let results = in_turn(&targets, rounds, async |target| {
        let directory = options.race.directory()?;
        let cluster = Cluster::start(target, directory.path(), shape).await?;
        let mut round = Round { figures: Figures::of(target), cluster, secs, seed };
        match (failover, options.catch_up) {
            (_, Some(keys)) => round.catch_up(keys).await?,
            (Some(times), None) => round.fail_over(times).await?,
            (None, None) => round.race().await?,
        }
        let Round { figures, cluster, .. } = round;
        drop(cluster);
        directory.close().context("removing the members' directories")?;
        Ok(figures.finish())
    });
    let results: Vec<Vec<Vec<Row>>> = results.await?;
    Results { tool, about, seed: Some(seed), targets: &targets, rounds: &results }.write(&options.race.out)
}

/// One round of one server.
struct Round<'a> {
    figures: Figures<'a>,
    cluster: Cluster,
    secs: u32,
    seed: u64,
}

impl Round<'_> {
    async fn race(&mut self) -> Result<()> {
        let leader = self.cluster.wait_leader(ELECTED_WITHIN).await?;
        let follower = usize::from(leader == 0);
        let many = |get_percent| workload(CONNECTIONS * STREAMS, CONNECTIONS, get_percent);
        self.load(leader, &many(0)).await?.fill().await?;

        let (puts, cpu_us) = self.measured(leader, leader, &many(0)).await?;
        self.figures.add("puts at the leader, 8 x 32", "/s", per_second(&puts));
        self.figures.add("puts at the leader, 8 x 32: p99", "ms", percentile_ms(&puts.latencies.puts, 99.0));
        self.figures.add("puts at the leader, 8 x 32: CPU each", "us", cpu_us);
        let (puts, cpu_us) = self.measured(leader, leader, &workload(1, 1, 0)).await?;
        self.figures.add("one put at a time: p50", "ms", percentile_ms(&puts.latencies.puts, 50.0));
        self.figures.add("one put at a time: p99", "ms", percentile_ms(&puts.latencies.puts, 99.0));
        self.figures.add("one put at a time: CPU each", "us", cpu_us);
        let (gets, cpu_us) = self.measured(leader, leader, &many(100)).await?;
        self.figures.add("ranges at the leader, 8 x 32", "/s", per_second(&gets));
        self.figures.add("ranges at the leader, 8 x 32: p99", "ms", percentile_ms(&gets.latencies.gets, 99.0));
        self.figures.add("ranges at the leader, 8 x 32: CPU each", "us", cpu_us);
        let (gets, cpu_us) = self.measured(follower, leader, &many(100)).await?;
        self.figures.add("ranges at a follower, 8 x 32", "/s", per_second(&gets));
        self.figures.add("ranges at a follower, 8 x 32: p99", "ms", percentile_ms(&gets.latencies.gets, 99.0));
        self.figures.add("ranges at a follower, 8 x 32: CPU each", "us", cpu_us);
        Ok(())
    }

    async fn fail_over(&mut self, times: u32) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        for strike in [Strike::Kill, Strike::Silence] {
            strike_leaders(&mut self.figures, &mut self.cluster, strike, times, &mut random).await?;
        }
        Ok(())
    }

    async fn load(&self, slot: usize, workload: &Workload) -> Result<Load> {
        let endpoint: Endpoint = self.cluster.members()[slot].endpoint();
        let mut channels = Vec::new();
        for _ in 0..workload.connections {
            channels.push(endpoint.connect().await.context("connecting to a member")?);
        }
        Ok(Load::new(workload, channels, self.seed))
    }

    /// The clients at the member in `slot`, while `leader` leads; and the CPU of the whole cluster for each operation, in microseconds.
    async fn measured(&self, slot: usize, leader: usize, workload: &Workload) -> Result<(Outcome, f64)> {
        for _ in 0..TRIES {
            let load = self.load(slot, workload).await?;
            load.run(WARM_UP).await?;
            let before = self.cluster.cpu()?;
            let outcome = load.run(Duration::from_secs(self.secs.into())).await?;
            let cpu = self.cluster.cpu()?.saturating_sub(before).as_secs_f64();
            ensure!(outcome.operations() > 0, "not one operation was answered");
            if self.cluster.wait_leader(ELECTED_WITHIN).await? == leader {
                let cpu_us = cpu * 1e6 / outcome.operations() as f64;
                return Ok((outcome, cpu_us));
            }
            eprintln!("the leader changed meanwhile: measuring again");
        }
        bail!("the leader changed during {TRIES} measurements in a row")
    }
}

fn per_second(outcome: &Outcome) -> f64 {
    outcome.operations() as f64 / outcome.elapsed.as_secs_f64()
}

fn workload(clients: u32, connections: u32, get_percent: u32) -> Workload {
    Workload {
        name: "cluster".into(),
        clients,
        connections,
        get_percent,
        range_keys: 1,
        guarded: false,
        keys: KEYS,
        value_bytes: VALUE_BYTES,
        rate: None,
        secs: 0,
    }
}
