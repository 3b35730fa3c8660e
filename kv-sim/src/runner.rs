//! Runs many seeds, on several threads, with a line of progress and a summary.
//!
//! Budgets are of virtual time or of CPU time: a wall clock says nothing on a busy machine.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use kv_codec::planted::Bug;
use kv_sim::{Counts, Report, simulate};
use rustix::time::{ClockId, clock_gettime};

use crate::{Args, minimise};

/// Every so many seeds one is run twice, and both runs must be the same step by step.
const TWICE_EVERY: u64 = 100;
/// So many seeds meet every fault there is. One that never struck, or a check that was always left out, would not be missed.
const SEEDS_THAT_MEET_ALL: u64 = 5_000;
/// One in so many searches may be given up.
const UNDECIDED_OF: u64 = 10;
/// Seeds that fail before the rest is left alone.
const FAILURES_MAX: usize = 10;
/// Seeds when nothing else says when to end.
const SEEDS: u64 = 100;
const MS_PER_HOUR: u64 = 3_600_000;
/// Between two lines of progress: on a terminal, where one replaces the other, and in a file.
const STATUS_EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

thread_local! {
    /// The seed that this thread runs; the main thread of many runs none.
    static RUNNING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Milliseconds that this process spent on a CPU.
pub(crate) fn cpu_ms() -> u64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(spent.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(spent.tv_nsec).unwrap_or(0) / 1_000_000
}

/// A panic in the core is a violation like any other, and says how to see it again.
pub(crate) fn tell_the_seed_of_a_panic(bug: Option<Bug>) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        // Who runs no seed only passes on that another thread has panicked, which was told.
        let Some(seed) = RUNNING.get() else { return };
        let why = info.payload_as_str().unwrap_or("no words").lines().next().unwrap_or_default().to_owned();
        // Not println: it would panic in turn where nobody listens any more.
        let lines = format!("{}\n{}\n", found(seed, &format!("panicked: {why}")), repeat(seed, bug));
        let _ = std::io::stdout().write_all(lines.as_bytes());
    }));
}

/// This thread begins to run `seed`, with `bug` planted.
pub(crate) fn begin(seed: u64, bug: Option<Bug>) {
    RUNNING.set(Some(seed));
    #[cfg(feature = "planted-bugs")]
    kv_codec::planted::plant(bug);
    #[cfg(not(feature = "planted-bugs"))]
    debug_assert!(bug.is_none(), "there are none in this build");
}

/// How a violation is printed: [`crate::mutants`] reads it again.
pub(crate) fn found(seed: u64, why: &str) -> String {
    let cpu = cpu_ms();
    format!("violation: seed {seed}, cpu {cpu} ms: {why}")
}

fn repeat(seed: u64, bug: Option<Bug>) -> String {
    let bug = bug.map_or_else(String::new, |bug| format!(" --bug {}", bug.name()));
    format!("repeat with: cargo xtask sim --seed {seed}{bug} --trace")
}

struct Shared<'a> {
    args: &'a Args,
    bug: Option<Bug>,
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    total: Mutex<Counts>,
    failures: Mutex<Vec<u64>>,
    shown: Mutex<Instant>,
    started: Instant,
}

/// Runs what the arguments say.
pub(crate) fn run(args: &Args, bug: Option<Bug>) -> Result<()> {
    let seeds = args.seeds.unwrap_or(if args.hours.or(args.cpu_seconds).is_some() { u64::MAX } else { SEEDS });
    let end = args.first.saturating_add(seeds);
    println!("kv-sim: seeds from {}", args.first);
    let now = Instant::now();
    let shared = Shared {
        args,
        bug,
        next: AtomicU64::new(args.first),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        total: Mutex::default(),
        failures: Mutex::default(),
        shown: Mutex::new(now),
        started: now,
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| shared.work(end));
        }
    });
    let total = *shared.total.lock().expect("no thread panics while it holds it");
    let failures = shared.failures.into_inner().expect("no thread panics while it holds it");
    let (done, cpu) = (shared.done.load(Ordering::Relaxed), cpu_ms().max(1));
    println!(
        "kv-sim: {done} seeds, {} virtual s per CPU s, {} violations\n{total}",
        total.virtual_ms / cpu,
        failures.len()
    );
    let Some(&first) = failures.iter().min() else {
        let all = bug.is_none() && args.set.is_empty() && done >= SEEDS_THAT_MEET_ALL;
        return if all { met_all(&total) } else { Ok(()) };
    };
    if !args.no_minimise {
        minimise::run(first, args)?;
    }
    bail!("{} seeds failed: {failures:?}", failures.len())
}

/// Whether searches came to an end, and everything happened that can.
fn met_all(total: &Counts) -> Result<()> {
    let Counts { blind_keys, blind_undecided, .. } = *total;
    ensure!(blind_undecided * UNDECIDED_OF <= blind_keys, "{blind_undecided} of {blind_keys} searches were given up");
    let never = Counts { blind_undecided: 1, ..*total }.never();
    ensure!(never.is_empty(), "in so many seeds there were no {}", never.join(", no "));
    Ok(())
}

impl Shared<'_> {
    fn work(&self, end: u64) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= end || self.stop.load(Ordering::Relaxed) || self.is_spent() {
                return;
            }
            begin(seed, self.bug);
            match self.one(seed) {
                Ok(report) => self.total.lock().expect("no thread panics while it holds it").add(&report.counts),
                Err(why) => self.failed(seed, &why),
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            self.show();
        }
    }

    fn one(&self, seed: u64) -> Result<Report, String> {
        let options = self.args.options();
        let report = simulate(seed, &options).map_err(|broken| broken.to_string())?;
        if seed.is_multiple_of(TWICE_EVERY) && simulate(seed, &options).as_ref() != Ok(&report) {
            return Err("it does not repeat: the simulator is not deterministic".into());
        }
        Ok(report)
    }

    fn is_spent(&self) -> bool {
        let virtual_ms = self.total.lock().expect("no thread panics while it holds it").virtual_ms;
        self.args.hours.is_some_and(|hours| virtual_ms >= hours * MS_PER_HOUR)
            || self.args.cpu_seconds.is_some_and(|seconds| cpu_ms() >= seconds * 1_000)
    }

    fn failed(&self, seed: u64, why: &str) {
        let mut failures = self.failures.lock().expect("no thread panics while it holds it");
        failures.push(seed);
        println!("{}\n{}", found(seed, why), repeat(seed, self.bug));
        if failures.len() >= FAILURES_MAX || self.bug.is_some() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// The line of progress.
    fn show(&self) {
        let Ok(mut shown) = self.shown.try_lock() else { return };
        let terminal = std::io::stdout().is_terminal();
        if shown.elapsed() < STATUS_EVERY[usize::from(!terminal)] {
            return;
        }
        *shown = Instant::now();
        let total = *self.total.lock().expect("no thread panics while it holds it");
        let failures = self.failures.lock().expect("no thread panics while it holds it").len();
        let line = format!(
            "{} s: {} seeds, {}.{} virtual h, {} calls checked, {} crashes, {} installs, {failures} violations",
            self.started.elapsed().as_secs(),
            self.done.load(Ordering::Relaxed),
            total.virtual_ms / MS_PER_HOUR,
            total.virtual_ms % MS_PER_HOUR * 10 / MS_PER_HOUR,
            total.checked,
            total.crashes,
            total.installs,
        );
        if terminal {
            print!("\r{line}\x1b[K");
            // Only for show.
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_never_strikes_and_a_check_that_is_left_out_are_missed() {
        let missed = |total: Counts| met_all(&total).expect_err("most of it never happened").to_string();
        let searched = Counts { blind_keys: 10, blind_undecided: 1, ..Counts::default() };
        assert!(missed(searched).contains(", no torn writes cut, no log segments used again,"));
        assert!(
            missed(Counts { torn_cut: 1, ..searched }).contains("cut short themselves, no log segments used again,")
        );
        assert_eq!(missed(Counts { blind_undecided: 2, ..searched }), "2 of 10 searches were given up");
    }
}
