//! `cargo xtask campaign`: what takes too long for every change, for as long as one likes.
//!
//! Fresh seeds of the simulation, planted bugs, every crash state and every bit, a real server under `kill -9` and without power, a
//! cluster of them under faults, the store's tests under valgrind, and the fuzzers, where they are installed. What cannot run here is said, in the table at the end as well.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::run::{Workspace, step};
use crate::{kv_bench, simulator};

/// Crash rounds per minute of the campaign, of each kind: a third of the time or so.
const ROUNDS_PER_MINUTE: u64 = 6;
/// Of each minute, seconds on a CPU for fresh seeds.
const SIM_SECONDS_PER_MINUTE: u64 = 30;
/// Of each minute, seconds of faults in a cluster.
const CHAOS_SECONDS_PER_MINUTE: u64 = 15;
/// Of each minute, seconds for each fuzzer.
const FUZZ_SECONDS_PER_MINUTE: u64 = 1;
/// Cases of each property under valgrind, which takes some fifty times as long as without.
const VALGRIND_CASES: &str = "8";
/// How cargo is told to run tests under valgrind.
const VALGRIND: &str = "target.'cfg(all())'.runner = ['valgrind', '--quiet', '--error-exitcode=99', '--leak-check=full', \
                        '--show-leak-kinds=definite,indirect', '--errors-for-leak-kinds=definite,indirect']";

/// How long it takes, about.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Minutes in all, about; planted bugs and crash states take as long as they take.
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// The first of the fresh seeds; from the clock when left out.
    #[arg(long)]
    first: Option<u64>,
}

/// How one part ended.
struct Part {
    name: &'static str,
    result: Result<&'static str>,
}

/// Runs all parts, whatever the others find; fails when one did.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let minutes = options.minutes.max(1);
    let first = options.first.unwrap_or_else(fresh_seed);
    println!("campaign: {minutes} minutes, seeds from {first}");
    let crash = |more: &[&str]| {
        let rounds = (minutes * ROUNDS_PER_MINUTE).to_string();
        step(kv_bench(workspace, "crash")?.args(["--rounds", &rounds]).args(more)).map(|()| "held")
    };
    let parts = vec![
        Part { name: "simulation", result: simulation(workspace, minutes, first) },
        Part { name: "planted bugs", result: planted(workspace) },
        Part { name: "crash states", result: crash_states(workspace) },
        Part { name: "kill -9", result: crash(&[]) },
        Part {
            name: "power loss",
            result: if is_root() { crash(&["--power-loss"]) } else { Ok("NOT RUN: needs root") },
        },
        Part { name: "valgrind", result: valgrind(workspace) },
        Part { name: "chaos", result: chaos(workspace, minutes) },
        Part { name: "fuzzers", result: fuzz(workspace, minutes) },
    ];
    println!("\n{}", table(&parts));
    let failed = parts.iter().filter(|part| part.result.is_err()).count();
    if failed > 0 {
        bail!("{failed} part(s) of the campaign found something");
    }
    Ok(())
}

/// A seed that nobody ran before, most likely.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_secs() << 16
}

fn simulation(workspace: &Workspace, minutes: u64, first: u64) -> Result<&'static str> {
    let seconds = (minutes * SIM_SECONDS_PER_MINUTE).to_string();
    let arguments = ["--first", &first.to_string(), "--cpu-seconds", &seconds, "--jobs", "2"].map(str::to_owned);
    step(&mut simulator(workspace, &arguments)).map(|()| "held")
}

fn planted(workspace: &Workspace) -> Result<&'static str> {
    let arguments = ["--mutants", "--jobs", "2"].map(str::to_owned);
    step(&mut simulator(workspace, &arguments)).map(|()| "all found")
}

fn crash_states(workspace: &Workspace) -> Result<&'static str> {
    let mut command =
        workspace.cargo(&["test", "--release", "--package", "kv-sim", "--test", "crash_states", "--", "--nocapture"]);
    command.env("KV_EVERY_STATE", "1").env("KV_EVERY_BIT", "1");
    step(&mut command).map(|()| "held")
}

/// The store's tests where every look at memory is checked, and every loss of it: its trees hold pointers that own nothing.
fn valgrind(workspace: &Workspace) -> Result<&'static str> {
    if !Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Ok("NOT RUN: valgrind is not installed");
    }
    let mut command =
        workspace.cargo(&["test", "--package", "kv-store", "--lib", "--test", "it", "--config", VALGRIND]);
    command.env("PROPTEST_CASES", VALGRIND_CASES);
    step(&mut command).map(|()| "held")
}

fn chaos(workspace: &Workspace, minutes: u64) -> Result<&'static str> {
    let seconds = (minutes * CHAOS_SECONDS_PER_MINUTE).to_string();
    step(kv_bench(workspace, "chaos")?.args(["--secs", &seconds])).map(|()| "held")
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Each fuzzer for a while, where cargo-fuzz and a nightly compiler are.
fn fuzz(workspace: &Workspace, minutes: u64) -> Result<&'static str> {
    let installed = Command::new("cargo").args(["+nightly", "fuzz", "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        return Ok("NOT RUN: needs cargo-fuzz and a nightly compiler (the corpora ran in `cargo test`)");
    }
    let seconds = format!("-max_total_time={}", minutes * FUZZ_SECONDS_PER_MINUTE);
    for entry in std::fs::read_dir(workspace.root.join("fuzz/fuzz_targets"))? {
        let file = entry?.path();
        let Some(target) = file.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz", "run", target, "--", &seconds]).current_dir(&workspace.root);
        step(&mut command)?;
    }
    Ok("held")
}

fn table(parts: &[Part]) -> String {
    let mut text = String::new();
    for Part { name, result } in parts {
        match result {
            Ok(note) => text += &format!("{name:<14}{note}\n"),
            Err(error) => text += &format!("{name:<14}FAILED: {error:#}\n"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_run_and_what_failed_is_in_the_table() {
        let parts = [
            Part { name: "one", result: Ok("NOT RUN: needs root") },
            Part { name: "other", result: Err(anyhow::anyhow!("lost")) },
        ];
        let table = table(&parts);
        assert!(table.contains("NOT RUN") && table.contains("FAILED: lost"), "{table}");
    }
}
