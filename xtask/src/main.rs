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

use anyhow::{Context, Result, bail};
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
    /// Measures kv-server beside rivals: `bench [wire] [--rival etcd=PATH] ...` on the wire, beside a control; bare a first look, about 90 s;
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

/// The measuring tools of kv-bench that take a server.
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
        // What measures and what hurts sees to its processes when a signal comes, so it gets the signal, and nobody is in between.
        Task::Crash(passed) => become_of(kv_bench(&workspace, "crash")?.args(passed.arguments)),
        Task::Chaos(passed) => become_of(kv_bench(&workspace, "chaos")?.args(passed.arguments)),
        Task::Cluster(passed) => become_of(kv_bench(&workspace, "console")?.args(passed.arguments)),
        Task::Budget(passed) => {
            let arguments: Vec<&str> = passed.arguments.iter().map(String::as_str).collect();
            become_of(&mut counting(&workspace, &arguments)?)
        }
        Task::Bench(passed) => match Bench::named(passed.arguments)? {
            Bench::Readme(arguments) => readme::run(&workspace, &arguments),
            Bench::Lab(arguments) => become_of(&mut lab(&workspace, &arguments)?),
            Bench::Tool(tool, arguments) => {
                let mut command = kv_bench(&workspace, tool)?;
                // First, so that an `--out` of the caller's wins.
                command.arg("--out").arg(workspace.target_directory.join("bench"));
                become_of(command.args(arguments))
            }
        },
    }
}

/// What `cargo xtask bench ...` asks for, with what is left of its arguments.
#[derive(Debug, PartialEq, Eq)]
enum Bench {
    Readme(Vec<String>),
    Lab(Vec<String>),
    /// One of kv-bench's that take a server.
    Tool(&'static str, Vec<String>),
}

impl Bench {
    /// Without arguments it is a first look; without a tool's name the wire.
    fn named(mut arguments: Vec<String>) -> Result<Self> {
        // One large store is a preset by name and a tool by nature.
        if let Some(at) = arguments.windows(2).position(|pair| pair == ["--preset", "million"]) {
            arguments.drain(at..at + 2);
            return Ok(Self::Tool("million", arguments));
        }
        let Some(first) = arguments.first() else { return Ok(Self::Tool("first", arguments)) };
        if first.starts_with('-') {
            return Ok(Self::Tool(BENCHES[0], arguments));
        }
        let name = arguments.remove(0);
        match BENCHES.into_iter().find(|known| *known == name) {
            Some(tool) => Ok(Self::Tool(tool, arguments)),
            None if name == "lab" => Ok(Self::Lab(arguments)),
            None if name == "readme" => Ok(Self::Readme(arguments)),
            None => bail!("there is no bench {name:?}: there are {}, lab and readme", BENCHES.join(", ")),
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

/// What counts, with the compiler's name beside the figures. What is the same in every build is counted in the one that the tests left.
pub(crate) fn counting(workspace: &Workspace, arguments: &[&str]) -> Result<std::process::Command> {
    let (mut build, folder) = if arguments.contains(&"--portable") {
        (workspace.build_like_tests(&["--bin", "kv-bench", "--bin", "kv-counted"]), "debug")
    } else {
        (workspace.cargo(&["build", "--release", "--package", "kv-server", "--package", "kv-bench"]), "release")
    };
    step(&mut build)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = std::process::Command::new(rustc).arg("--version").output().context("rustc --version")?;
    let folder = workspace.target_directory.join(folder);
    let mut command = std::process::Command::new(folder.join("kv-bench"));
    command.arg("budget").arg("--counted").arg(folder.join("kv-counted"));
    command.arg("--budget").arg(workspace.root.join("docs/benchmarks/budget.toml"));
    command.arg("--rustc").arg(String::from_utf8_lossy(&version.stdout).trim());
    if folder.ends_with("release") {
        command.arg("--server").arg(folder.join("kv-server"));
    }
    command.args(arguments);
    Ok(command)
}

/// A tool of kv-bench against our server, both built for release.
fn kv_bench(workspace: &Workspace, tool: &str) -> Result<std::process::Command> {
    step(&mut workspace.cargo(&["build", "--release", "--package", "kv-server", "--package", "kv-bench"]))?;
    let release = workspace.target_directory.join("release");
    let mut command = std::process::Command::new(release.join("kv-bench"));
    command.arg(tool).arg("--server").arg(release.join("kv-server"));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_is_known_by_its_name() {
        let named = |line: &str| Bench::named(line.split_whitespace().map(str::to_owned).collect());
        let tool = |line: &str, tool, rest: &str| {
            let rest = rest.split_whitespace().map(str::to_owned).collect();
            assert_eq!(named(line).expect("it is known"), Bench::Tool(tool, rest), "{line}");
        };
        tool("", "first", "");
        tool("--secs 2", "wire", "--secs 2");
        tool("wire --preset many", "wire", "--preset many");
        tool("kube --nodes 3", "kube", "--nodes 3");
        tool("--keys 5 --preset million", "million", "--keys 5");
        assert_eq!(named("lab --quick").expect("it is known"), Bench::Lab(vec!["--quick".into()]));
        assert_eq!(named("readme --check").expect("it is known"), Bench::Readme(vec!["--check".into()]));
        let error = named("wyre --secs 2").expect_err("there is none of that name").to_string();
        assert!(error.starts_with("there is no bench \"wyre\": there are wire, ") && !error.contains('\n'), "{error}");
    }
}
