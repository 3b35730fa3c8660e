//! `kv-sim`: runs seeds, and shows one of them step by step.

use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use kv_sim::{Report, simulate};

/// Runs simulated clusters. A failing seed is repeated by `kv-sim --seed N --trace`.
#[derive(Debug, Parser)]
struct Args {
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// The first of a range of seeds.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Print every step.
    #[arg(long)]
    trace: bool,
}

/// Every so many seeds one is run twice, and both runs must be the same step by step.
const TWICE_EVERY: u64 = 20;

/// The seed that runs, for a panic's message.
static RUNNING: AtomicU64 = AtomicU64::new(0);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // A panic in the core is a violation like any other, and says how to see it again.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        let seed = RUNNING.load(Ordering::Relaxed);
        eprintln!("seed {seed}: panicked\n{}", repeat(seed));
    }));
    let seeds = args.seed.map_or(args.first..args.first + args.seeds, |seed| seed..seed + 1);
    println!("kv-sim: seeds {} to {}", seeds.start, seeds.end - 1);
    let mut total = Report::default();
    for seed in seeds.clone() {
        let report = run(seed, args.trace)?;
        if seed % TWICE_EVERY == 0 {
            anyhow::ensure!(
                run(seed, false)? == report,
                "seed {seed} does not repeat: the simulator is not deterministic"
            );
        }
        add(&mut total, &report);
    }
    println!(
        "kv-sim: {} seeds, {} virtual s: {} writes acknowledged, {} of unknown outcome, {} reads, {} terms, \
         {} crashes ({} power losses, {} disk errors), {} torn writes cut, {} snapshots installed; 0 violations",
        seeds.end - seeds.start,
        total.virtual_ms / 1_000,
        total.acked,
        total.unknown,
        total.reads,
        total.terms,
        total.crashes,
        total.power_losses,
        total.disk_errors,
        total.cuts,
        total.installs,
    );
    Ok(())
}

/// Runs one seed.
fn run(seed: u64, trace: bool) -> anyhow::Result<Report> {
    RUNNING.store(seed, Ordering::Relaxed);
    simulate(seed, trace).map_err(|broken| anyhow::anyhow!("seed {seed}: {broken}\n{}", repeat(seed)))
}

fn repeat(seed: u64) -> String {
    format!("repeat with: cargo xtask sim --seed {seed} --trace")
}

fn add(total: &mut Report, report: &Report) {
    total.virtual_ms += report.virtual_ms;
    total.acked += report.acked;
    total.unknown += report.unknown;
    total.reads += report.reads;
    total.terms += report.terms;
    total.crashes += report.crashes;
    total.power_losses += report.power_losses;
    total.disk_errors += report.disk_errors;
    total.cuts += report.cuts;
    total.installs += report.installs;
}
