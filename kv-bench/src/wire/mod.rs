//! `kv-bench wire`: our server, a control and rivals under the same clients, on the wire.
//!
//! # One round
//! 1. Start one server on a fresh directory and fresh ports, with its own defaults: nothing about syncing is changed.
//! 2. Connect, store the keys, warm up.
//! 3. Run the clients; read the process's counters before and after.
//! 4. Kill it and remove its directory.
//!
//! The servers take turns (A B C A B C ...), so that a slow spell of the machine hits all of them, and a figure is the
//! median of its rounds.
//!
//! # What to read with care
//! * Client and server share the machine's cores. The client (tonic's) often costs more than the server, so a ratio of
//!   operations per second is nearer to 1 than the servers are; CPU per operation is the server's alone.
//! * CPU time is counted in ticks of 10 ms: of a round of 3 s at half a core that is under 1 %.
//! * The kernel's `write_bytes` of a process are whole folios made dirty, not bytes written: ten times what the device
//!   saw, and more, where a log rewrites a prepared file. They are in the JSON by their right name, and in no table.

mod control;
mod h2load;
pub(crate) mod load;
mod options;
mod report;
mod stats;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

pub use control::{ControlOptions, control};
use load::Load;
pub use options::{Options, Workload};
use report::{Results, Server};
use stats::Sample;

use crate::process;
use crate::race::Race;
use crate::target::{Kind, Target};

/// Untimed load before each round: connections, caches and the server's threads settle.
const WARM_UP: Duration = Duration::from_millis(500);

/// What a run leaves behind.
#[derive(Debug)]
pub struct Report {
    /// The tables, as in [`Self::markdown_path`].
    pub markdown: String,
    /// Where the tables lie.
    pub markdown_path: PathBuf,
    /// Where the chart lies.
    pub svg_path: PathBuf,
    /// Where every round lies.
    pub json_path: PathBuf,
    /// Whether a server that is not of this project was among them.
    pub compared: bool,
}

/// Runs every workload against every server and writes the report. `kv_bench` is this program, which is the control too.
///
/// # Errors
/// Options that make no sense, a program that is not there or does not start, an operation that fails.
pub async fn run(options: &Options, kv_bench: &Path) -> Result<Report> {
    let mut workloads: Vec<(Workload, bool)> =
        options.workloads()?.into_iter().map(|workload| (workload, false)).collect();
    match options.h2load {
        true if h2load::installed() => {
            workloads.extend(h2load::workloads(options.secs).into_iter().map(|workload| (workload, true)));
        }
        true => eprintln!("kv-bench wire: NOT RUN: h2load is not installed (Debian: nghttp2-client)"),
        false => {}
    }
    let mut targets = options.race.prepare("wire").await?;
    targets.push(Target::control(kv_bench));
    let seed = fastrand::u64(..);
    eprintln!("kv-bench wire: seed {seed}");

    let steps = workloads.len() * targets.len() * options.rounds as usize;
    let bar = progress(steps as u64);
    let mut runs = Vec::new();
    for (workload, by_h2load) in workloads {
        let mut servers = vec![Vec::new(); targets.len()];
        for round in 1..=options.rounds {
            for (target, rounds) in targets.iter().zip(&mut servers) {
                bar.set_message(format!("{}, {}", workload.name, target.name));
                let sample = match by_h2load {
                    true => h2load::one_round(target, &workload, &options.race).await,
                    false => one_round(target, &workload, &options.race, seed).await,
                };
                let sample = sample.with_context(|| format!("{} under {}", target.name, workload.name))?;
                let (name, total, speed) = (&workload.name, options.rounds, sample.operations_per_second);
                let line = format!("{name} {round}/{total}  {:<14} {speed:>9.0} operations/s", target.name);
                bar.suspend(|| eprintln!("{line}"));
                bar.inc(1);
                rounds.push(sample);
            }
        }
        runs.push((workload, servers));
    }
    bar.finish_and_clear();
    let server = |target: &Target| Server { name: target.name.clone(), about: target.about.clone() };
    let results = Results {
        servers: targets.iter().map(server).collect(),
        cpu_model: process::cpu_model(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        seed,
        runs,
    };
    let compared = targets.iter().any(|target| target.kind == Kind::Etcd);
    write(&results, &options.race.out, compared)
}

/// A bar of so many rounds, below the lines that say what each came to; on a terminal.
fn progress(rounds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("[{wide_bar}] {pos}/{len} {msg:30} {eta}");
    let bar = ProgressBar::new(rounds);
    bar.set_style(style.expect("the template is right"));
    bar
}

async fn one_round(target: &Target, workload: &Workload, race: &Race, seed: u64) -> Result<Sample> {
    // Dropped after the server.
    let directory = race.directory()?;
    let server = target.start(directory.path(), &[]).await?;
    let load = Load::new(workload, server.connect(workload.connections).await?, seed);
    load.fill().await?;
    load.run(WARM_UP).await?;

    let before = server.counters()?;
    let outcome = load.run(Duration::from_secs(workload.secs.into())).await?;
    let after = server.counters()?;
    ensure!(outcome.operations() > 0, "not one operation was answered");
    let sample = Sample::new(&outcome, load.put_bytes(), before, after);
    drop(server);
    directory.close().context("removing the server's directory")?;
    Ok(sample)
}

fn write(results: &Results, out: &Path, compared: bool) -> Result<Report> {
    let markdown = results.markdown();
    let [markdown_path, svg_path, json_path] = ["md", "svg", "json"].map(|end| out.join("wire").with_extension(end));
    let json = serde_json::to_string_pretty(&results.json()).context("the report as JSON")?;
    for (path, text) in [(&markdown_path, &markdown), (&svg_path, &results.svg()?), (&json_path, &json)] {
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(Report { markdown, markdown_path, svg_path, json_path, compared })
}
