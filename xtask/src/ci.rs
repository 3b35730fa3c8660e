//! `cargo xtask ci`: what a change must pass, in the order that finds the cheap mistakes first.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::beside::{Beside, Ended};
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
    let start = Instant::now();
    let mut done: Vec<Outcome> = Vec::new();
    let result = steps(workspace, &mut done);
    println!("\n{}", table(&done, start.elapsed(), result.is_ok()));
    result
}

fn steps(workspace: &Workspace, done: &mut Vec<Outcome>) -> Result<()> {
    let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];

    // What crates.io would get, put together and not built: cargo keeps what it once unpacked under a version, and would build that.
    let packages = ["package", "--quiet", "--offline", "--allow-dirty", "--no-verify"];
    let packages = [&packages[..], &["-p", "kv-codec", "-p", "kv-store", "-p", "kv-raft", "-p", "kv-server"]].concat();

    timed(done, "format", || command(workspace.cargo(&["fmt", "--all", "--check"])))?;
    timed(done, "tidy", || tidy::run(workspace, &tidy::Options::default()).map(|()| String::new()))?;
    timed(done, "lints", || command(workspace.cargo(&lints)))?;
    timed(done, "build", || build(workspace).map(|()| String::new()))?;
    // Most tests wait, for timeouts and for disks; the simulator never does.
    let beside = Beside::start(simulators(workspace));
    let tests = timed(done, "tests", || command(workspace.cargo(&["test", "--workspace"])));
    beside.wait().into_iter().fold(tests, |before, ended| before.and(report(done, ended)))?;
    timed(done, "docs", || command(doc))?;
    timed(done, "packages", || command(workspace.cargo(&packages)))?;
    timed(done, "budget", || command(crate::counting(workspace, &["--check", "--portable"])?))?;
    timed(done, "clients", || clients::run(workspace, &clients::Options::default()))
}

/// Builds the simulator with bugs to plant in it, and after it what the tests need, the simulator as it is among that.
fn build(workspace: &Workspace) -> Result<()> {
    step(&mut workspace.build_like_tests(&["--bin", "kv-sim", "--features", "kv-sim/planted-bugs"]))?;
    // Kept elsewhere: cargo gives both the same place.
    let planted = planted(workspace);
    std::fs::create_dir_all(planted.parent().expect("it is in a directory"))
        .and_then(|()| std::fs::copy(simulator(workspace), &planted))
        .with_context(|| format!("copying to {}", planted.display()))?;
    step(&mut workspace.cargo(&["test", "--workspace", "--no-run"]))
}

fn simulator(workspace: &Workspace) -> PathBuf {
    workspace.target_directory.join("debug/kv-sim")
}

fn planted(workspace: &Workspace) -> PathBuf {
    workspace.target_directory.join("ci/kv-sim-planted")
}

/// What runs beside the tests, on as many threads as there are cores.
fn simulators(workspace: &Workspace) -> Vec<(&'static str, Command)> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let of = |program: PathBuf, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).args(["--jobs", &jobs]).current_dir(&workspace.root);
        command
    };
    vec![
        ("simulation", of(simulator(workspace), &["--first", "1", "--seeds", SIM_SEEDS])),
        ("planted bugs", of(planted(workspace), &["--mutants"])),
    ]
}

fn command(mut command: Command) -> Result<String> {
    step(&mut command).map(|()| String::new())
}

fn timed(done: &mut Vec<Outcome>, name: &'static str, work: impl FnOnce() -> Result<String>) -> Result<()> {
    println!("\n=== {name}");
    let start = Instant::now();
    let result = work();
    finish(done, name, start.elapsed(), result)
}

/// What ran beside the tests, told after them.
fn report(done: &mut Vec<Outcome>, ended: Ended) -> Result<()> {
    let Ended { name, took, said, result } = ended;
    println!("\n=== {name}, beside the tests\n{}", said.trim_end());
    finish(done, name, took, result.map(|()| "beside the tests".to_owned()))
}

fn finish(done: &mut Vec<Outcome>, name: &'static str, took: Duration, result: Result<String>) -> Result<()> {
    let (note, result) = match result {
        Ok(note) => (note, Ok(())),
        Err(error) => (format!("FAILED: {error:#}"), Err(anyhow!("ci stopped at: {name}"))),
    };
    println!("=== {name}: {:.1} s", took.as_secs_f64());
    done.push(Outcome { name, took, note });
    result
}

fn table(done: &[Outcome], took: Duration, passed: bool) -> String {
    let mut text = String::new();
    for Outcome { name, took, note } in done {
        text += &format!("{name:<12}{:>8.1} s  {note}\n", took.as_secs_f64());
    }
    text += &format!("{:<12}{:>8.1} s  {}", "total", took.as_secs_f64(), if passed { "all passed" } else { "FAILED" });
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
        let table = table(&done, Duration::ZERO, false);
        assert!(table.contains("good") && table.contains("fine") && table.contains("FAILED: broken"), "{table}");
    }
}
