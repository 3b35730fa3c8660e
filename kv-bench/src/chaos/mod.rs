//! `kv-bench chaos`: a cluster of real processes is hurt while clients use it, and everything that they were told is checked.
//!
//! # A run
//! 1. Members start, each behind links of ours (`members`). Clients with a mixed workload, holders of leases and watchers begin.
//! 2. Faults strike, drawn from a printed seed: `kill -9`, SIGSTOP, cuts of one direction or both, slow links, links that tear
//!    connections, members that are lost with their disk and replaced (`nemesis`). Now and then somebody compacts.
//! 3. All is made good, the load ends, and the cluster must come to rest: every member answers, all at the same revision with the same
//!    hash; leases that nobody keeps alive end; watchers catch up.
//! 4. The checks (`check`): every acknowledged write is in the history, each answer is what a naive model gives at its place, reads
//!    and writes respect real time, watchers were told the history and nothing else, no lease ended early.
//!
//! # What it does not find
//! * The seed fixes what strikes and what is asked, not when messages go: a run is repeated in its choices, not step by step.
//! * SIGKILL leaves the page cache: what was synced, and not just written, `kv-bench crash --power-loss` can tell.

mod calls;
mod check;
mod clients;
mod heard;
mod lessees;
mod load;
mod nemesis;
mod report;
mod rest;
mod shared;
mod watchers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kv_sim::history::Pair;

use calls::Call;
use check::check;
use load::Load;
use nemesis::{KINDS, Kind, Nemesis, Struck};
pub use report::Report;
use shared::{PREFIX, PREFIX_END, Shared};

use crate::directory::Directory;
use crate::members::{Cluster, Shape, check_nodes};
use crate::target::Target;

const CLIENTS_MAX: u32 = 64;
const RATE_MAX: u32 = 10_000;
const SECONDS_MAX: u64 = 24 * 3_600;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The members' binary: kv-server, or anything that takes etcd's flags.
    #[arg(long, overrides_with = "server")]
    pub server: PathBuf,
    /// How long faults strike, in minutes.
    #[arg(long, default_value_t = 1)]
    pub minutes: u64,
    /// The same in seconds.
    #[arg(long, conflicts_with = "minutes")]
    pub secs: Option<u64>,
    /// Repeats the choices of an earlier run (not its timing). Random when left out.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Members.
    #[arg(long, default_value_t = 3)]
    pub nodes: u32,
    /// Clients.
    #[arg(long, default_value_t = 8)]
    pub clients: u32,
    /// Calls a second, of all clients together, about.
    #[arg(long, default_value_t = 400)]
    pub rate: u32,
    /// kill, pause, cut, slow, tear, replace; several with commas. All of them when left out.
    #[arg(long, value_delimiter = ',')]
    pub faults: Vec<String>,
    /// An empty directory for the data and logs; a temporary one when left out.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Keeps the temporary directory. After a violation it is kept anyway.
    #[arg(long)]
    pub keep: bool,
    /// Prints each fault as it strikes.
    #[arg(long)]
    pub verbose: bool,
}

impl Options {
    fn seconds(&self) -> Result<u64> {
        let seconds = self.secs.unwrap_or(self.minutes.saturating_mul(60));
        ensure!((1..=SECONDS_MAX).contains(&seconds), "faults strike from 1 second to a day, not {seconds} seconds");
        ensure!(
            (1..=CLIENTS_MAX).contains(&self.clients),
            "--clients is from 1 to {CLIENTS_MAX}, not {}",
            self.clients
        );
        ensure!(
            (1..=RATE_MAX).contains(&self.rate),
            "--rate is from 1 to {RATE_MAX} calls a second, not {}",
            self.rate
        );
        check_nodes(self.nodes, 1)?;
        Ok(seconds)
    }

    fn kinds(&self) -> Result<Vec<Kind>> {
        let fits = |kind: &Kind| self.nodes > 1 && (*kind != Kind::Replace || self.nodes > 2) || !kind.needs_peers();
        if self.faults.is_empty() {
            return Ok(KINDS.iter().map(|(_, kind)| *kind).filter(fits).collect());
        }
        let mut kinds = Vec::new();
        for name in &self.faults {
            let Some((_, kind)) = KINDS.iter().find(|(known, _)| known == name) else {
                let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
                bail!("unknown fault {name:?}: there are {}", known.join(", "));
            };
            ensure!(fits(kind), "{} member(s) are too few for {name}", self.nodes);
            kinds.push(*kind);
        }
        Ok(kinds)
    }
}

/// Runs until the time is over or something is wrong, and checks what was seen.
///
/// # Errors
/// When the run cannot be done: no binary, no directory, options that make no sense, members that do not form a cluster.
pub async fn run(options: &Options) -> Result<Report> {
    let (seconds, kinds) = (options.seconds()?, options.kinds()?);
    let program = Target::server(&options.server).await?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("kv-bench chaos: seed {seed}");
    let directory = Directory::new(options.dir.as_deref(), "kv-chaos-")?;
    let cluster = Cluster::start(&program, directory.path(), Shape { nodes: options.nodes, links: true }).await?;
    let mut report = Report {
        seed,
        server: program.name.clone(),
        nodes: options.nodes,
        seconds,
        repeat: repeat(options, seed, seconds),
        ..Report::default()
    };
    let mut random = fastrand::Rng::with_seed(seed);
    let shared = Arc::new(Shared::new(cluster.endpoints()));
    let mut nemesis = Nemesis {
        cluster,
        shared: Arc::clone(&shared),
        random: random.fork(),
        kinds,
        struck: Struck::default(),
        verbose: options.verbose,
    };
    let first_term = highest_term(&nemesis.cluster).await;
    let load = Load::start(options, &shared, &mut random);
    nemesis.strike(Duration::from_secs(seconds)).await?;
    nemesis.heal()?;

    let (seen, rest) = load.come_to_rest(&shared, &mut nemesis.cluster, &mut report).await?;
    (report.revision, report.hashed) = (rest.revision, rest.hashed);
    report.terms = highest_term(&nemesis.cluster).await.saturating_sub(first_term);
    report.torn = nemesis.cluster.links().torn();
    let Struck { faults, timeline, violations, cannot_replace } = nemesis.struck;
    report.faults = faults;
    report.violations.extend(violations);
    report.not_exercised.extend(cannot_replace.map(|why| format!("replacement of members: {why}")));
    let found = check(&seen, &mut random);
    report.violations.extend(found.violations);
    if let Some(model) = found.model {
        let expected = model.pairs(PREFIX.as_bytes(), PREFIX_END.as_bytes(), model.revision());
        let differ = rest.states.iter().filter(|(_, pairs)| *pairs != expected);
        report.violations.extend(differ.map(|(name, pairs)| differs(name, pairs, &expected)));
    }
    (report.unknown_applied, report.blind) = (found.unknown_applied, [found.blind, found.undecided]);
    report.count(&seen.calls);
    seen.watched.iter().for_each(|watched| report.count_watched(watched));
    let leases = &seen.leases;
    let kept = leases.iter().map(|lease| lease.promises.len() as u64 - 1).sum();
    let revoked = leases.iter().filter(|lease| lease.revoked).count() as u64;
    report.leases = [leases.len() as u64, kept, revoked];
    if report.answered() == 0 {
        report.violations.push("not one call was answered".into());
    }

    drop(nemesis.cluster);
    let keep = options.keep || !report.violations.is_empty();
    if keep || options.dir.is_some() {
        write_down(directory.path(), &timeline, &seen.calls)?;
    }
    report.directory = directory.finish(keep);
    Ok(report)
}

fn repeat(options: &Options, seed: u64, seconds: u64) -> String {
    let Options { server, nodes, clients, rate, faults, .. } = options;
    let faults = if faults.is_empty() { String::new() } else { format!(" --faults {}", faults.join(",")) };
    format!(
        "kv-bench chaos --server {} --seed {seed} --secs {seconds} --nodes {nodes} --clients {clients} --rate {rate}{faults}",
        server.display()
    )
}

async fn highest_term(cluster: &Cluster) -> u64 {
    cluster.statuses().await.into_iter().flatten().map(|status| status.term).max().unwrap_or(0)
}

/// The first pair that a member has and should not, or the other way round.
fn differs(name: &str, found: &[Pair], expected: &[Pair]) -> String {
    let more = found.iter().find(|pair| !expected.contains(pair));
    let less = expected.iter().find(|pair| !found.contains(pair));
    format!("{name} differs at the end: it has {more:?}, and should have {less:?}")
}

/// For people who look for the cause.
fn write_down(directory: &Path, timeline: &[String], calls: &[Call]) -> Result<()> {
    let mut calls: Vec<&Call> = calls.iter().collect();
    calls.sort_by_key(|call| call.made);
    let line = |call: &&Call| {
        let (made, ended) = (call.made as f64 / 1e9, call.ended as f64 / 1e9);
        format!("{made:>10.4} {ended:>10.4} client {} {:?} -> {:?}", call.client, call.request, call.outcome)
    };
    let calls: Vec<String> = calls.iter().map(line).collect();
    for (name, lines) in [("faults.txt", timeline), ("calls.txt", &calls[..])] {
        let path = directory.join(name);
        std::fs::write(&path, lines.join("\n")).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
