//! Plants every bug in turn and lets the simulator look for it: what it does not find here, it would not find there.
//!
//! Each bug is a process of its own that runs seed after seed until one fails or its CPU time is spent.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use kv_codec::planted::{Bug, COMPILED_IN};

use crate::Args;

/// What became of one bug.
struct Hunt {
    bug: Bug,
    /// The seed, milliseconds on a CPU, and what was found.
    found: Option<(u64, u64, String)>,
}

/// Columns of what was found that fit a line.
const WHY_MAX: usize = 100;

/// Looks for all of them; prints the table.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(COMPILED_IN, "no bug can be planted in this build: `cargo xtask sim --mutants` builds one");
    println!("kv-sim: {} planted bugs, {} s of CPU for each", Bug::ALL.len(), args.mutant_seconds);
    let next = AtomicUsize::new(0);
    let hunts: Mutex<Vec<Hunt>> = Mutex::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(|| work(args, &next, &hunts))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let hunts = hunts.into_inner().expect("no thread panics while it holds it");
    let missed: Vec<&str> = hunts.iter().filter(|hunt| hunt.found.is_none()).map(|hunt| hunt.bug.name()).collect();
    let mut times: Vec<u64> = hunts.iter().filter_map(|hunt| Some(hunt.found.as_ref()?.1)).collect();
    times.sort_unstable();
    let spent = times.iter().sum::<u64>() + missed.len() as u64 * args.mutant_seconds * 1_000;
    println!(
        "kv-sim: {} of {} planted bugs found, median {} s of CPU, {} s in all",
        times.len(),
        hunts.len(),
        seconds(times.get(times.len() / 2).copied().unwrap_or(0)),
        seconds(spent)
    );
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    Ok(())
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02}", ms / 1_000, ms % 1_000 / 10)
}

fn work(args: &Args, next: &AtomicUsize, hunts: &Mutex<Vec<Hunt>>) -> Result<()> {
    while let Some(&bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
        let found = hunt(args, bug)?;
        match &found {
            Some((seed, ms, why)) => {
                let why: String = why.chars().take(WHY_MAX).collect();
                println!("{:<24} seed {seed:>6} {:>8} s  {why}", bug.name(), seconds(*ms));
            }
            None => println!("{:<24} NOT FOUND: {}", bug.name(), bug.story().trim()),
        }
        hunts.lock().expect("no thread panics while it holds it").push(Hunt { bug, found });
    }
    Ok(())
}

fn hunt(args: &Args, bug: Bug) -> Result<Option<(u64, u64, String)>> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .args(["--bug", bug.name(), "--no-minimise", "--first", &args.first.to_string()])
        .args(["--cpu-seconds", &args.mutant_seconds.to_string()])
        .stderr(Stdio::null())
        .output()
        .context("starting this program again")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().find_map(parse))
}

/// Reads what [`crate::runner::found`] writes.
fn parse(line: &str) -> Option<(u64, u64, String)> {
    let (seed, rest) = line.strip_prefix("violation: seed ")?.split_once(", cpu ")?;
    let (cpu, why) = rest.split_once(" ms: ")?;
    Some((seed.parse().ok()?, cpu.parse().ok()?, why.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_read_again() {
        let (seed, _, why) = parse(&crate::runner::found(7, "at 3 us: bad")).unwrap();
        assert_eq!((seed, why.as_str()), (7, "at 3 us: bad"));
        assert_eq!(parse("kv-sim: seeds from 1"), None);
    }
}
