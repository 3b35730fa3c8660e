//! Shrinks a seed that fails: fewer faults and calmer knobs, as long as it still fails in some way.
//!
//! Every try is a process of its own, so that a panic of the core counts like any other violation. Faults keep their numbers and
//! their randomness when others are left out, so that the search (delta debugging) mostly finds its way.

use std::cell::Cell;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use kv_sim::plan_of;

use crate::Args;

/// Tries, at most.
const TRIES_MAX: usize = 150;
/// Faults strike less often than this.
const FAULT_EVERY_MS: u64 = 100;
/// Knobs that are turned off when they are not needed.
const CALMED: [&str; 10] = [
    "late",
    "loss",
    "duplicate",
    "skew",
    "disk_error",
    "recovery_crash",
    "by_pages",
    "by_words",
    "crash_all",
    "learner",
];

struct Search<'a> {
    seed: u64,
    args: &'a Args,
    set: Vec<(String, u64)>,
    only: Option<Vec<u64>>,
    tries: Cell<usize>,
}

/// Prints the smallest way to fail that it finds.
pub(crate) fn run(seed: u64, args: &Args) -> Result<()> {
    let mut search = Search { seed, args, set: args.set.clone(), only: args.only.clone(), tries: Cell::new(0) };
    println!("kv-sim: shrinking seed {seed}");
    if !search.fails(&search.set, search.only.as_ref())? {
        println!("kv-sim: by itself it does not fail");
        return Ok(());
    }
    for knob in CALMED {
        let mut set = search.set.clone();
        set.push((knob.to_owned(), 0));
        if search.fails(&set, search.only.as_ref())? {
            search.set = set;
        }
    }
    search.shorten()?;
    search.leave_out_faults()?;
    println!(
        "kv-sim: after {} tries, repeat with:\n  cargo xtask sim {} --trace",
        search.tries.get(),
        search.arguments(&search.set, search.only.as_ref()).join(" ")
    );
    Ok(())
}

impl Search<'_> {
    fn arguments(&self, set: &[(String, u64)], only: Option<&Vec<u64>>) -> Vec<String> {
        let mut arguments = vec!["--seed".to_owned(), self.seed.to_string()];
        if let Some(bug) = &self.args.bug {
            arguments.extend(["--bug".to_owned(), bug.clone()]);
        }
        for (name, value) in set {
            arguments.extend(["--set".to_owned(), format!("{name}={value}")]);
        }
        if let Some(only) = only {
            let only: Vec<String> = only.iter().map(u64::to_string).collect();
            // An empty list would be none: no fault has the number 0.
            arguments.extend(["--only".to_owned(), if only.is_empty() { "0".to_owned() } else { only.join(",") }]);
        }
        arguments
    }

    fn fails(&self, set: &[(String, u64)], only: Option<&Vec<u64>>) -> Result<bool> {
        self.tries.set(self.tries.get() + 1);
        if self.tries.get() > TRIES_MAX {
            return Ok(false);
        }
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command.args(self.arguments(set, only)).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(!command.status().context("starting this program again")?.success())
    }

    /// Less chaos after, or instead of, what matters.
    fn shorten(&mut self) -> Result<()> {
        let mut options = self.args.options();
        options.set.clone_from(&self.set);
        let (mut low, mut high) = (0, plan_of(self.seed, &options).chaos_ms);
        while high - low > 200 {
            let middle = low.midpoint(high);
            let mut set = self.set.clone();
            set.push(("chaos_ms".to_owned(), middle));
            if self.fails(&set, self.only.as_ref())? {
                self.set = set;
                high = middle;
            } else {
                low = middle;
            }
        }
        // One setting of a knob is enough.
        let last = self.set.iter().rposition(|(name, _)| name == "chaos_ms");
        let mut at = 0;
        self.set.retain(|(name, _)| {
            at += 1;
            name != "chaos_ms" || Some(at - 1) == last
        });
        Ok(())
    }

    /// Leaves out runs of faults, then shorter ones, down to each by itself.
    fn leave_out_faults(&mut self) -> Result<()> {
        let mut kept = self.only.clone().unwrap_or_else(|| (1..=self.faults()).collect());
        let mut length = kept.len().div_ceil(2);
        while length > 0 {
            let mut from = 0;
            while from < kept.len() {
                let mut fewer = kept.clone();
                fewer.drain(from..kept.len().min(from + length));
                if self.fails(&self.set, Some(&fewer))? {
                    kept = fewer;
                } else {
                    from += length;
                }
            }
            length = if length == 1 { 0 } else { length.div_ceil(2) };
        }
        self.only = Some(kept);
        Ok(())
    }

    /// More than ever strike: the number is known only to a run that ends well, and this one does not.
    fn faults(&self) -> u64 {
        let mut options = self.args.options();
        options.set.clone_from(&self.set);
        plan_of(self.seed, &options).chaos_ms / FAULT_EVERY_MS
    }
}
