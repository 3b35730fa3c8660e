//! `cargo xtask ci`: what a change must pass, in the order that finds the cheap mistakes first.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::run::{Workspace, step};
use crate::{clients, tidy};

/// Seeds of the simulation, always the same: enough to cross every fault it knows many times, few enough for some minutes. Fresh ones are for `cargo xtask campaign`; those that failed once are tests of kv-sim.
const SIM_SEEDS: &str = "10000";

/// How one step ended.
struct Outcome {
    name: &'static str,
    took: Duration,
    note: String,
}

/// Runs the steps; stops at the first that fails. The table at the end says how long each took.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut done: Vec<Outcome> = Vec::new();
    let result = steps(workspace, &mut done);
    println!("\n{}", table(&done, result.is_ok()));
    result
}

fn steps(workspace: &Workspace, done: &mut Vec<Outcome>) -> Result<()> {
    let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    let simulation = ["run", "--package", "kv-sim", "--", "--first", "1", "--seeds", SIM_SEEDS, "--jobs", "2"];
    let planted = ["run", "--package", "kv-sim", "--features", "planted-bugs", "--", "--mutants", "--jobs", "2"];

    // What crates.io would get, put together and not built: cargo keeps what it once unpacked under a version, and would build that.
    let packages = ["package", "--quiet", "--offline", "--allow-dirty", "--no-verify"];
    let packages = [&packages[..], &["-p", "kv-codec", "-p", "kv-store", "-p", "kv-raft", "-p", "kv-server"]].concat();

    timed(done, "format", || command(workspace.cargo(&["fmt", "--all", "--check"])))?;
    timed(done, "tidy", || tidy::run(workspace, &tidy::Options::default()).map(|()| String::new()))?;
    timed(done, "lints", || command(workspace.cargo(&lints)))?;
    timed(done, "tests", || command(workspace.cargo(&["test", "--workspace"])))?;
    timed(done, "docs", || command(doc))?;
    timed(done, "packages", || command(workspace.cargo(&packages)))?;
    timed(done, "simulation", || command(workspace.cargo(&simulation)))?;
    timed(done, "planted bugs", || command(workspace.cargo(&planted)))?;
    timed(done, "budget", || crate::budget(workspace, &["--check", "--portable"]).map(|()| String::new()))?;
    timed(done, "clients", || clients::run(workspace, false))
}

fn command(mut command: Command) -> Result<String> {
    step(&mut command).map(|()| String::new())
}

fn timed(done: &mut Vec<Outcome>, name: &'static str, work: impl FnOnce() -> Result<String>) -> Result<()> {
    println!("\n=== {name}");
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    let (note, result) = match result {
        Ok(note) => (note, Ok(())),
        Err(error) => (format!("FAILED: {error:#}"), Err(anyhow!("ci stopped at: {name}"))),
    };
    println!("=== {name}: {:.1} s", took.as_secs_f64());
    done.push(Outcome { name, took, note });
    result
}

fn table(done: &[Outcome], passed: bool) -> String {
    let mut text = String::new();
    for Outcome { name, took, note } in done {
        text += &format!("{name:<12}{:>8.1} s  {note}\n", took.as_secs_f64());
    }
    let total: f64 = done.iter().map(|outcome| outcome.took.as_secs_f64()).sum();
    text += &format!("{:<12}{total:>8.1} s  {}", "total", if passed { "all passed" } else { "FAILED" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_stops_and_is_named_in_the_table() {
        let mut done = Vec::new();
        timed(&mut done, "good", || Ok("fine".into())).expect("a good step passes");
        let error = timed(&mut done, "bad", || Err(anyhow!("broken"))).expect_err("a bad step fails");
        assert_eq!(error.to_string(), "ci stopped at: bad");
        let table = table(&done, false);
        assert!(table.contains("good") && table.contains("fine") && table.contains("FAILED: broken"), "{table}");
    }
}
