//! `cargo xtask`: every task of the project under one command.
//!
//! It knows none of the other crates: it starts `cargo`, the built binaries and, where they are installed, real etcd
//! clients, and it reads the tree for [`tidy`]. Each task prints what it runs, so that any line can be run by hand.

mod beside;
mod campaign;
mod ci;
mod clients;
mod readme;
mod run;
mod tidy;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::run::{Workspace, become_of, step};

/// Tasks of the kv project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything a change must pass: format, tidy, lints, tests, simulators beside them, docs, packages, budget, installed clients.
    Ci,
    /// Checks of the tree that no compiler makes: layering, versions, file sizes, words, links, public APIs.
    Tidy(tidy::Options),
    /// Runs the simulator, built for release, with the arguments given.
    Sim(Passed),
    /// Kills kv-server under load, again and again, and checks what it kept. Both are built for release.
    Crash(Passed),
    /// Runs a cluster on this machine, its logs in colours, with a prompt: `kill 2`, `cut 1 3`, `heal`, `status`; `help` lists all. `--nodes 5`,
    /// `--data-dir DIR`.
    Cluster(Passed),
    /// Hurts a cluster of real processes for a while (`--minutes N`), and checks everything that its clients were told.
    Chaos(Passed),
    /// What takes too long for every change: fresh seeds, planted bugs, every crash state, crashes and power losses, fuzzers.
    Campaign(campaign::Options),
    /// Measures kv-server beside rivals: `bench [wire] [--rival etcd=PATH] ...` on the wire, beside a control (bare, about 90 s);
    /// `bench million ...` with a large store; `bench cliffs ...` small operations beside large ones; `bench watch`, `bench leases`,
    /// `bench kube`: see docs/benchmarks; `bench cluster [--failover K]` with three members each; `bench lab [--quick] ...` its parts
    /// beside other designs; `bench readme [--check]` makes README's table from the recorded run.
    Bench(Passed),
    /// Counts what a put, a range and a guarded transaction cost (instructions, allocations, system calls, syncs, wakes, bytes) and
    /// compares with docs/benchmarks/budget.toml (`--check`), or writes that (`--write`). `--portable`: allocations and syncs alone.
    Budget(Passed),
    /// Runs the etcd clients that are installed here against a server of ours.
    Clients(clients::Options),
}

/// The measuring tools of kv-bench.
const BENCHES: [&str; 7] = ["wire", "cliffs", "million", "watch", "leases", "kube", "cluster"];

#[derive(clap::Args)]
struct Passed {
    /// Handed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Ci => ci::run(&workspace),
        Task::Tidy(options) => tidy::run(&workspace, &options),
        Task::Clients(options) => clients::run(&workspace, &options).map(drop),
        Task::Sim(passed) => step(&mut simulator(&workspace, &passed.arguments)),
        Task::Campaign(options) => campaign::run(&workspace, &options),
        Task::Crash(passed) => step(kv_bench(&workspace, "crash")?.args(passed.arguments)),
        Task::Chaos(passed) => step(kv_bench(&workspace, "chaos")?.args(passed.arguments)),
        Task::Cluster(passed) => become_of(kv_bench(&workspace, "console")?.args(passed.arguments)),
        Task::Budget(passed) => budget(&workspace, &passed.arguments.iter().map(String::as_str).collect::<Vec<_>>()),
        Task::Bench(mut passed) => {
            // One large store is a preset by name and a tool by nature.
            if let Some(at) = passed.arguments.windows(2).position(|pair| pair == ["--preset", "million"]) {
                passed.arguments.drain(at..at + 2);
                passed.arguments.insert(0, "million".to_owned());
            }
            if passed.arguments.first().is_some_and(|first| first == "readme") {
                return readme::run(&workspace, &passed.arguments[1..]);
            }
            if passed.arguments.first().is_some_and(|first| first == "lab") {
                return step(&mut lab(&workspace, &passed.arguments[1..])?);
            }
            // Without a tool's name it is the wire.
            let named = passed.arguments.first().filter(|first| BENCHES.contains(&first.as_str()));
            let mut command = kv_bench(&workspace, named.map_or(BENCHES[0], String::as_str))?;
            // First, so that an `--out` of the caller's wins.
            command.arg("--out").arg(workspace.target_directory.join("bench"));
            step(command.args(passed.arguments.iter().skip(usize::from(named.is_some()))))
        }
    }
}

/// The simulator, built for release; with bugs to plant in it where the arguments ask for some.
fn simulator(workspace: &Workspace, arguments: &[String]) -> std::process::Command {
    let mut command = workspace.cargo(&["run", "--release", "--package", "kv-sim"]);
    let planted = |argument: &String| argument == "--mutants" || argument == "--bug" || argument.starts_with("--bug=");
    if arguments.iter().any(planted) {
        command.args(["--features", "planted-bugs"]);
    }
    command.arg("--").args(arguments);
    command
}

/// The lab, which needs no server. `--features` is cargo's: the rivals that take long to build.
fn lab(workspace: &Workspace, arguments: &[String]) -> Result<std::process::Command> {
    let mut build = workspace.cargo(&["build", "--release", "--package", "kv-bench"]);
    let mut command = std::process::Command::new(workspace.target_directory.join("release/kv-bench"));
    command.arg("lab").arg("--out").arg(workspace.target_directory.join("bench/lab")).current_dir(&workspace.root);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--features" {
            build.arg(argument).arg(arguments.next().context("--features needs rocksdb, raft-engine or both")?);
        } else if argument.starts_with("--features=") {
            build.arg(argument);
        } else {
            command.arg(argument);
        }
    }
    step(&mut build)?;
    Ok(command)
}

/// Counts, with the compiler's name beside the figures. What is the same in every build is counted in the one that the tests left.
pub(crate) fn budget(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    let (mut build, folder) = if arguments.contains(&"--portable") {
        (workspace.build_like_tests(&["--bin", "kv-bench", "--bin", "kv-counted"]), "debug")
    } else {
        (workspace.cargo(&["build", "--release", "--package", "kv-bench"]), "release")
    };
    step(&mut build)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = std::process::Command::new(rustc).arg("--version").output().context("rustc --version")?;
    let folder = workspace.target_directory.join(folder);
    let mut command = std::process::Command::new(folder.join("kv-bench"));
    command.arg("budget").arg("--counted").arg(folder.join("kv-counted"));
    command.arg("--budget").arg(workspace.root.join("docs/benchmarks/budget.toml"));
    command.arg("--rustc").arg(String::from_utf8_lossy(&version.stdout).trim());
    step(command.args(arguments))
}

/// A tool of kv-bench against our server, both built for release.
fn kv_bench(workspace: &Workspace, tool: &str) -> Result<std::process::Command> {
    step(&mut workspace.cargo(&["build", "--release", "--package", "kv-server", "--package", "kv-bench"]))?;
    let release = workspace.target_directory.join("release");
    let mut command = std::process::Command::new(release.join("kv-bench"));
    command.arg(tool).arg("--server").arg(release.join("kv-server"));
    Ok(command)
}
