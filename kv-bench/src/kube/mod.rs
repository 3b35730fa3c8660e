//! `kv-bench kube`: how many nodes of a Kubernetes cluster a server holds.
//!
//! # What so many nodes do
//! In ten seconds of theirs each node renews its lease (a put of 400 B guarded by the revision at which it was written last, with a get
//! otherwise), changes one of its four pods (4 KiB), and has an event told (700 B on a lease of 3,660 s). Three API servers watch sixty
//! kinds of objects each, with previous pairs and progress, and in the same ten seconds each lists all leases at once and all pods in pages
//! of 500. Every five minutes what is old is compacted. `--speed` makes all of this time go faster: speed times nodes is the load.
//!
//! # The score
//! The nodes with which the guarded puts' p99 is within 25 ms, the changes' p99 within 50 ms, and every write is begun. It is looked for by
//! doubling, then by bisecting to a tenth; a step is a server of its own on a fresh directory. One that is missed is tried once more, and the
//! lowest that was missed again at the end, so that a hiccup of the machine is not the server's. The servers take turns, step by step.
//! `--searches` repeats all of it; the spread of its scores says what a score is worth.
//!
//! # What to read with care
//! Nodes, API servers and the server share the machine's cores: the score is of this machine, and only the ratio says something.

mod cluster;
mod search;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::figures::{Figures, Report, Results, Row, number, percentile_ms};
use crate::race::Race;
use crate::target::Target;
use cluster::{Cluster, PERIOD, Seen};
use search::Search;

/// What its report is called.
const TOOL: &str = "kube";
const NODES_MAX: u32 = 50_000;
const SPEED_MAX: u32 = 300;
const SECS_MAX: u32 = 600;
const SEARCHES_MAX: u32 = 100;
/// Within so much are a guarded put's p99, and a change's.
const TXN_MS_MAX: f64 = 25.0;
const DELAY_MS_MAX: f64 = 50.0;
/// Times that a step is tried before it counts as missed.
const TRIES: u32 = 2;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which servers run, and where the report goes.
    #[command(flatten)]
    pub race: Race,
    /// Nodes of the first step.
    #[arg(long, default_value_t = 64)]
    pub nodes: u32,
    /// Nodes of the last step.
    #[arg(long, value_name = "NODES", default_value_t = NODES_MAX)]
    pub nodes_max: u32,
    /// How much faster than in life the nodes' time goes.
    #[arg(long, default_value_t = 50)]
    pub speed: u32,
    /// Seconds of a step, as clocks have them.
    #[arg(long, default_value_t = 6)]
    pub secs: u32,
    /// Searches; the score is their median.
    #[arg(long, default_value_t = 1)]
    pub searches: u32,
}

/// Looks for each server's score and writes the report.
///
/// # Errors
/// Options that make no sense, a program that is not there or does not start, an operation that fails.
pub async fn run(options: &Options) -> Result<Report> {
    let Options { nodes, nodes_max, speed, secs, searches, .. } = *options;
    ensure!((1..=NODES_MAX).contains(&nodes_max), "--nodes-max is from 1 to {NODES_MAX}, not {nodes_max}");
    ensure!((1..=nodes_max).contains(&nodes), "--nodes is from 1 to {nodes_max}, not {nodes}");
    ensure!((1..=SPEED_MAX).contains(&speed), "--speed is from 1 to {SPEED_MAX}, not {speed}");
    ensure!((1..=SECS_MAX).contains(&secs), "--secs is from 1 to {SECS_MAX}, not {secs}");
    ensure!((1..=SEARCHES_MAX).contains(&searches), "--searches is from 1 to {SEARCHES_MAX}, not {searches}");
    let targets = options.race.prepare(TOOL).await?;
    let mut rounds = vec![Vec::new(); targets.len()];
    for _ in 0..searches {
        for (rounds, rows) in rounds.iter_mut().zip(search(&targets, options).await?) {
            rounds.push(rows);
        }
    }
    let about = format!(
        "Nodes whose time goes {speed} times as fast as in life, steps of {secs} s: guarded puts' p99 within {TXN_MS_MAX} ms, changes' \
         within {DELAY_MS_MAX} ms. In {PERIOD:?} of theirs a node renews its lease, changes a pod and tells of an event."
    );
    Results { tool: TOOL, about, seed: None, targets: &targets, rounds: &rounds }.write(&options.race.out)
}

/// Each server's score, and its figures with so many nodes.
async fn search(targets: &[Target], options: &Options) -> Result<Vec<Vec<Row>>> {
    let mut searches = vec![(Search::new(options.nodes, options.nodes_max), Vec::new()); targets.len()];
    while searches.iter().any(|(search, _)| search.next().is_some()) {
        for (target, (search, best)) in targets.iter().zip(&mut searches) {
            let Some(nodes) = search.next() else { continue };
            let rows = step(target, options, nodes).await.with_context(|| format!("{}, {nodes} nodes", target.name))?;
            search.tell(nodes, rows.is_some());
            if let Some(rows) = rows {
                *best = rows;
            }
        }
    }
    let scores = targets.iter().zip(searches).map(|(target, (search, best))| {
        let mut figures = Figures::of(target);
        figures.add("nodes held", "", f64::from(search.held));
        let mut rows = figures.finish();
        rows.extend(best);
        rows
    });
    Ok(scores.collect())
}

/// The figures with so many nodes; nothing if they are not held.
async fn step(target: &Target, options: &Options, nodes: u32) -> Result<Option<Vec<Row>>> {
    for _ in 0..TRIES {
        let directory = options.race.directory()?;
        let server = target.start(directory.path(), &[]).await?;
        let cluster = Cluster::build(&server, nodes, options.speed).await?;
        let Seen { txns, delays, unsent, writes_per_second, cores } =
            cluster.live(&server, Duration::from_secs(options.secs.into())).await?;
        drop(server);
        let p99 = |times| percentile_ms(times, 99.0).context("nothing was written");
        let (txn, delay) = (p99(&txns)?, p99(&delays)?);
        let held = unsent == 0 && txn <= TXN_MS_MAX && delay <= DELAY_MS_MAX;
        eprintln!(
            "{:<12} {nodes:>5} nodes {}: txn p99 {} ms, change p99 {} ms, {unsent} not begun",
            target.name,
            if held { "held" } else { "missed" },
            number(txn),
            number(delay),
        );
        if held {
            let mut figures = Figures::of(target);
            figures.add("with them: guarded put p99", "ms", txn);
            figures.add("with them: change p99", "ms", delay);
            figures.add("with them: writes", "/s", writes_per_second);
            figures.add("with them: CPU", "cores", cores);
            return Ok(Some(figures.finish()));
        }
    }
    Ok(None)
}
