//! `kv-sim`: runs seeds, shows one of them step by step, shrinks what fails, and finds out what it would miss.

mod minimise;
mod mutants;
mod runner;

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use kv_codec::planted::{Bug, COMPILED_IN};
use kv_sim::{Options, Plan, plan_of, simulate, simulate_plan};

/// Runs simulated clusters. A failing seed is repeated by `kv-sim --seed N --trace`.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every step.
    #[arg(long)]
    trace: bool,
    /// Strike with these faults only, by number: `3,17`.
    #[arg(long, value_delimiter = ',', requires = "seed")]
    only: Option<Vec<u64>>,
    /// Turn a knob of the plan: `loss=0`.
    #[arg(long, value_parser = knob)]
    set: Vec<(String, u64)>,
    /// The first of a range of seeds.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds; 100 unless `--hours` says when to end.
    #[arg(long)]
    seeds: Option<u64>,
    /// End after so many virtual hours.
    #[arg(long)]
    hours: Option<u64>,
    /// End after so many seconds of this process on a CPU.
    #[arg(long)]
    cpu_seconds: Option<u64>,
    /// How many at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Do not shrink the first seed that fails.
    #[arg(long)]
    no_minimise: bool,
    /// Plant a bug (needs a build with `--features planted-bugs`).
    #[arg(long)]
    bug: Option<String>,
    /// Plant each bug in turn and see whether it is found.
    #[arg(long)]
    mutants: bool,
    /// Seconds on a CPU within which a planted bug must be found.
    #[arg(long, default_value_t = 120)]
    mutant_seconds: u64,
    /// Measure: three members, fifty calls a virtual second, the common faults.
    #[arg(long)]
    speed: bool,
}

fn knob(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
    if !Plan::KNOBS.contains(&name) {
        return Err(format!("there is no knob {name}; there are {}", Plan::KNOBS.join(", ")));
    }
    Ok((name.to_owned(), value.parse().map_err(|error| format!("{value}: {error}"))?))
}

impl Args {
    fn options(&self) -> Options {
        let only = self.only.as_ref().map(|only| only.iter().copied().collect::<BTreeSet<u64>>());
        Options { trace: self.trace, only, set: self.set.clone() }
    }

    fn bug(&self) -> Result<Option<Bug>> {
        let Some(name) = &self.bug else { return Ok(None) };
        ensure!(COMPILED_IN, "no bug can be planted in this build: build it with --features planted-bugs");
        let names = || Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
        Bug::named(name).map(Some).with_context(|| format!("there is no bug {name}; there are {}", names()))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let bug = args.bug()?;
    runner::tell_the_seed_of_a_panic(bug);
    if args.mutants {
        return mutants::run(&args);
    }
    if args.speed {
        return speed();
    }
    match args.seed {
        Some(seed) => one(seed, bug, &args),
        None => runner::run(&args, bug),
    }
}

/// One seed, told in full.
fn one(seed: u64, bug: Option<Bug>, args: &Args) -> Result<()> {
    runner::begin(seed, bug);
    let options = args.options();
    println!("kv-sim: seed {seed}: {}", plan_of(seed, &options));
    match simulate(seed, &options) {
        Ok(report) => {
            println!(
                "kv-sim: seed {seed} holds, trace {:08x}, {} faults\n{}",
                report.trace_hash, report.faults, report.counts
            );
            Ok(())
        }
        Err(broken) => bail!("seed {seed} {broken}"),
    }
}

fn speed() -> Result<()> {
    let before = runner::cpu_ms();
    let report =
        simulate_plan(1, Plan::typical(), &Options::default()).map_err(|broken| anyhow::anyhow!("{broken}"))?;
    let cpu_ms = (runner::cpu_ms() - before).max(1);
    println!(
        "kv-sim: {} virtual s with {} answered calls in {}.{:03} s of CPU: {} virtual s per CPU s",
        report.counts.virtual_ms / 1_000,
        report.counts.checked,
        cpu_ms / 1_000,
        cpu_ms % 1_000,
        report.counts.virtual_ms / cpu_ms
    );
    Ok(())
}
