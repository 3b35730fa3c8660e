//! `kv-bench lab`: the analysis that kv answers, as experiments that anyone can repeat.
//!
//! # What it is
//! Eight designs of an engine (`rivals`) behind one trait ([`engine::Engine`]), the pipeline around them with a switch for each
//! fault that the analysis finds in it (`path`), the raft node and log of `kv-server` under them (`member`), and eight
//! experiments. What differs between two rows of a table is what the table is about, and nothing else.
//!
//! # How it is measured
//! * Rounds are interleaved, each in another order (A B C, A C B ...), so that nobody always follows the same one and finds what that
//!   has left to the disk (a log's recovery alone is timed log by log); a figure is the median of its rounds, and its spread stands beside it.
//! * Clients and engine share the machine's cores, so CPU per operation counts both; the clients do the same for every design.
//! * A read copies what it found into a buffer of its caller, in the place of an answer's encoding.
//!
//! # What it leaves
//! `lab.html`, `lab.md` and `lab.json`. With `--only`, what an earlier run left of the other experiments stays.

mod answers;
pub(crate) mod chart;
mod clock;
#[cfg(test)]
mod conformance;
pub mod engine;
mod experiments;
mod facts;
mod html;
mod load;
mod markdown;
mod member;
mod options;
mod path;
mod report;
mod rivals;

use std::fmt::Write as _;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

pub use options::Options;
use report::{Report, Section};
use rivals::{RIVALS, Rival};

use crate::directory::for_report;
use engine::Engine;

/// Asks a run to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether it shall end.
    #[must_use]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// An error once it shall end.
    ///
    /// # Errors
    /// "interrupted".
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// Sets its [`Stop`] when it is dropped: with the future that waits for the run.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

/// Where a run wrote what.
#[derive(Debug)]
pub struct Written {
    /// The page.
    pub html: PathBuf,
    /// The text.
    pub markdown: PathBuf,
    /// The figures.
    pub json: PathBuf,
    /// The tables of the experiments that ran, as text.
    pub tables: String,
    /// A line for each design that this build does not have.
    pub not_built: Vec<&'static str>,
}

/// What experiments share.
pub(crate) struct Lab {
    /// Everything as short as it can be.
    quick: bool,
    rounds: u32,
    /// Seconds of a design's rounds together, in the experiments that run for a given time.
    secs: f64,
    out: PathBuf,
    stop: Stop,
}

/// A design that is in this build.
pub(crate) struct Entrant {
    rival: &'static Rival,
    engine: Box<dyn Engine>,
    /// Where its files are; dropped after it.
    _dir: TempDir,
}

impl Lab {
    fn fresh_dir(&self) -> Result<TempDir> {
        // Beside the report and not in /tmp, which may be memory, where a sync costs nothing.
        let dir = tempfile::Builder::new().prefix("lab-").tempdir_in(&self.out);
        dir.with_context(|| format!("making a directory in {}", self.out.display()))
    }

    /// A fresh engine of a design, if it is in this build.
    fn entrant(&self, rival: &'static Rival) -> Result<Option<Entrant>> {
        let dir = self.fresh_dir()?;
        let engine = (rival.build)(dir.path()).with_context(|| format!("making {}", rival.name))?;
        Ok(engine.map(|engine| Entrant { rival, engine, _dir: dir }))
    }

    /// The designs that are in this build.
    fn rivals(&self) -> Result<Vec<&'static Rival>> {
        let mut built = Vec::new();
        for rival in &RIVALS {
            if self.entrant(rival)?.is_some() {
                built.push(rival);
            }
        }
        Ok(built)
    }

    /// A bar of so many steps, on a terminal.
    fn bar(&self, name: &str, steps: usize) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {pos}/{len} {msg:22} {eta}");
        let bar = ProgressBar::new(steps as u64).with_prefix(name.to_owned());
        bar.set_style(style.expect("the template is right"));
        bar
    }

    /// Whose turn it is, of so many, one round after the other: each once a round, none twice running, and, of three or more, in two
    /// rounds that follow each other never after the same one.
    fn turns(&self, count: usize) -> Vec<usize> {
        let strides: Vec<usize> = (1..=count).filter(|stride| gcd(*stride, count) == 1).collect();
        let round = |round: usize| {
            let stride = strides[round % strides.len()];
            (0..count).map(move |place| place * stride % count)
        };
        if count == 0 { Vec::new() } else { (0..self.rounds as usize).flat_map(round).collect() }
    }

    /// Seconds of one round.
    fn round_secs(&self) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.secs / f64::from(self.rounds))
    }
}

/// The greatest common divisor.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Runs the experiments and writes the report.
///
/// # Errors
/// Options that make no sense, a disk that says no.
pub async fn run(options: Options) -> Result<Written> {
    let stop = Stop::default();
    let _ends_with_this = StopOnDrop(stop.clone());
    let run = tokio::task::spawn_blocking(move || run_all(&options, stop));
    run.await.context("the lab panicked")?
}

fn run_all(options: &Options, stop: Stop) -> Result<Written> {
    let chosen = options.experiments()?;
    for_report(&options.out, "lab")?;
    let json = options.out.join("lab.json");
    let mut sections = if options.only.is_empty() { Vec::new() } else { earlier(&json)? };
    let (quick, rounds, secs) = (options.quick, options.rounds(), options.secs());
    let lab = Lab { quick, rounds, secs, out: options.out.clone(), stop };
    let mut tables = String::new();
    for experiment in chosen {
        eprintln!("kv-bench lab: {} {}", experiment.id, experiment.title);
        let mut section = (experiment.run)(&lab).with_context(|| format!("experiment {}", experiment.id))?;
        section.provenance = facts::provenance(options);
        let _ = writeln!(tables, "\n{}\n{}", section.title, markdown::tables(&section));
        sections.retain(|old: &Section| old.id != section.id);
        sections.push(section);
        sections.sort_by(|a, b| a.id.cmp(&b.id));
        // After each, so that what is done stays when the next one is interrupted.
        let report = Report { facts: facts::of_this_run(options)?, sections: sections.clone() };
        write(&report, &options.out)?;
    }
    let built = lab.rivals()?;
    let not_built = RIVALS.iter().any(|rival| !built.iter().any(|built| built.name == rival.name));
    let mut lines: Vec<&'static str> = Vec::new();
    lines.extend(not_built.then_some(rivals::ROCKSDB_NOT_BUILT));
    lines.extend((!cfg!(feature = "raft-engine")).then_some(experiments::RAFT_ENGINE_NOT_BUILT));
    let at = |name: &str| options.out.join(name);
    Ok(Written { html: at("lab.html"), markdown: at("lab.md"), json, tables, not_built: lines })
}

/// What an earlier run left.
fn earlier(json: &FilePath) -> Result<Vec<Section>> {
    if !json.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(json).with_context(|| format!("reading {}", json.display()))?;
    let report: Report = serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of this version: remove it", json.display()))?;
    Ok(report.sections)
}

fn write(report: &Report, out: &FilePath) -> Result<()> {
    let answers = answers::all(&report.sections);
    let json = serde_json::to_string_pretty(report).context("the report as JSON")?;
    let files = [
        ("lab.html", html::page(report, &answers)?),
        ("lab.md", markdown::text(report, &answers)),
        ("lab.json", json + "\n"),
    ];
    for (name, text) in files {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_once_a_round_and_does_not_follow_the_same_one_again() {
        let (out, stop) = (PathBuf::new(), Stop::default());
        let lab = Lab { quick: false, rounds: 13, secs: 1.0, out, stop };
        assert_eq!(lab.turns(0), Vec::<usize>::new());
        for count in 1..=12 {
            let turns = lab.turns(count);
            let rounds: Vec<&[usize]> = turns.chunks(count).collect();
            assert_eq!(rounds.len(), 13);
            for round in &rounds {
                let mut sorted = round.to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            }
            assert!(count == 1 || turns.windows(2).all(|two| two[0] != two[1]), "of {count}: {turns:?}");
            // Who went before each, round by round; before the first of all went nobody.
            let mut before = vec![Vec::new(); count];
            before[turns[0]].push(count);
            turns.windows(2).for_each(|two| before[two[1]].push(two[0]));
            let again = before.iter().find(|before| before.windows(2).any(|two| two[0] == two[1]));
            assert!(count < 3 || again.is_none(), "of {count}: {again:?}");
        }
    }
}
