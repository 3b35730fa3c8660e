//! `kv-bench budget`: what one operation costs the server, in figures that repeat on any machine.
//!
//! A hundred operations, one at a time, over one connection, five times: the whole path, transport included. The server runs three times:
//! * by itself, its data in memory, so that no thread waits for a disk: allocations, syncs, wakes of threads;
//! * under valgrind: instructions;
//! * under strace: system calls, and the pages that its writes touch.
//!
//! What is not installed is not counted, and said. Then 256 puts at once, some times over: syncs and wakes of a batch. At last a server
//! that holds nothing and does nothing: memory, disk, CPU, and the size of its program.

mod calls;
mod child;
pub mod counted;
mod empty;
mod file;
mod trace;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use calls::guarded_put;
use calls::{Caller, Operation};
use child::{Counted, Under};
use empty::Empty;
use file::{Budget, INSTRUCTIONS};

use crate::figures::Figure;
use crate::target::{Given, free_port, metrics};

/// Operations that are counted together, of each kind.
const OPERATIONS: u64 = 100;
/// How often; the lowest counts, of wakes the median: what is more was chance.
const REPEATS: usize = 5;
/// Operations before, not counted: what the first ones set up.
const WARM_UP: u64 = 50;
/// Puts at once, and how often.
const AT_ONCE: u64 = 256;
const BURSTS: u64 = 20;
/// A directory in memory.
const MEMORY: &str = "/dev/shm";

/// What to do with the figures.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The binary of kv-counted.
    #[arg(long)]
    counted: PathBuf,
    /// The binary of kv-server, optimised: what it costs while it is empty is counted too.
    #[arg(long)]
    server: Option<PathBuf>,
    /// The file of the budget.
    #[arg(long)]
    budget: PathBuf,
    /// What the compiler says of itself: instructions are compared under the same one only.
    #[arg(long)]
    rustc: String,
    /// Fails when a figure is more than 3 % over its budget.
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Writes the figures down as the budget.
    #[arg(long)]
    write: bool,
    /// Counts only what is the same on every machine and in every build, and needs no other program: allocations and syncs.
    #[arg(long, conflicts_with = "write")]
    portable: bool,
}

/// Counts, and compares or writes.
///
/// # Errors
/// A program that is missing, an operation that fails, a figure over its budget.
pub async fn run(options: &Options) -> Result<()> {
    let cure = "`cargo build --release --package kv-bench` makes target/release/kv-counted";
    let counted = Given { flag: "--counted ", path: &options.counted, cure }.binary()?;
    let mut now = Budget { rustc: options.rustc.clone(), ..Budget::default() };
    let ways: &[Under] = if options.portable { &[Under::Nothing] } else { &Under::ALL };
    for &under in ways {
        if under == Under::Nothing || under.installed() {
            let wakes = under == Under::Nothing && !options.portable;
            count(&counted, under, wakes, &mut now).await.with_context(|| format!("counting under {under:?}"))?;
        } else {
            let what = if under == Under::Callgrind { "instructions" } else { "system calls and device bytes" };
            println!("budget: NOT COUNTED: {what}: {} is not installed", under.program());
        }
    }
    let empty = match &options.server {
        Some(server) => Some(Empty::count(server).await.context("counting an empty server")?),
        None => None,
    };
    for line in empty.iter().flat_map(Empty::lines) {
        println!("budget: {line}");
    }
    for (operation, figures) in &now.operations {
        let figures: Vec<String> = figures.iter().map(|(figure, value)| format!("{figure} {value}")).collect();
        println!("budget: {operation}: {}", figures.join(", "));
    }
    let path = options.budget.display();
    let before = std::fs::read_to_string(&options.budget).unwrap_or_default();
    if options.write {
        if !before.is_empty() {
            now.keep(&Budget::parse(&before)?);
        }
        return std::fs::write(&options.budget, now.text()?).with_context(|| format!("writing {path}"));
    }
    if options.check {
        if let Some(empty) = empty {
            empty.check()?;
        }
        ensure!(!before.is_empty(), "there is no budget at {path}: `cargo xtask budget --write` makes one");
        let compared = now.compare(&Budget::parse(&before)?);
        for line in &compared.skipped {
            println!("budget: NOT COMPARED: {line}");
        }
        for line in &compared.under {
            println!("budget: less than it may: {line}");
        }
        for line in &compared.over {
            println!("budget: OVER: {line}");
        }
        if !compared.over.is_empty() {
            bail!("{} figure(s) over the budget; if that is meant, `cargo xtask budget --write`", compared.over.len());
        }
    }
    Ok(())
}

/// Adds what can be counted `under` a tool, and the wakes of threads where they are wanted.
async fn count(binary: &Path, under: Under, wakes: bool, now: &mut Budget) -> Result<()> {
    let traces = tempfile::tempdir().context("making a directory")?;
    let in_memory = Path::new(MEMORY).is_dir();
    let data = if in_memory { tempfile::tempdir_in(MEMORY) } else { tempfile::tempdir() };
    let data = data.context("making a directory for the server's data")?;
    if wakes && !in_memory {
        println!(
            "budget: NOT COUNTED: wakes: there is no {MEMORY}, and a thread that waits for a disk looks like one that is woken"
        );
    }
    let port = free_port()?;
    let mut server = Counted::start(binary, under, &data.path().join("member"), traces.path(), port)?;
    let mut caller = Caller::new(server.connect().await?).await?;
    let per_operation = |count: u64| count as f64 / OPERATIONS as f64;
    for operation in Operation::ALL {
        caller.call(operation, WARM_UP).await?;
        let mut waits = Vec::new();
        for _ in 0..REPEATS {
            let syncs = number(&metrics(port).await?, SYNCS)?;
            let (allocations, woken) = (server.mark()?, server.wakes()?);
            caller.call(operation, OPERATIONS).await?;
            let (woken, allocations) = (server.wakes()? - woken, server.mark()? - allocations);
            let syncs = number(&metrics(port).await?, SYNCS)? - syncs;
            waits.push(per_operation(woken));
            if under == Under::Nothing {
                now.add_lowest(operation.name(), "allocations", per_operation(allocations));
                now.add_lowest(operation.name(), "fsyncs", per_operation(syncs));
            }
        }
        // A thread that still ran when it was called needed no wake: less is chance as well as more.
        if let Some(waits) = Figure::of(waits).filter(|_| wakes && in_memory) {
            now.add_lowest(operation.name(), "wakes", waits.median);
        }
    }
    let before = metrics(port).await?;
    server.mark()?;
    for _ in 0..BURSTS {
        caller.puts_at_once(AT_ONCE).await?;
    }
    server.mark()?;
    let after = metrics(port).await?;
    let difference = |name| Ok::<_, anyhow::Error>((number(&after, name)? - number(&before, name)?) as f64);
    let batches = difference("kv_log_entries_total")?;
    let driver = server.driver_thread()?;
    // Ended: the tools have written everything.
    drop(server);
    if under == Under::Nothing {
        now.add_lowest("batch", "fsyncs", difference(SYNCS)? / batches);
    }
    let counted = Operation::ALL.into_iter().flat_map(|operation| [operation; REPEATS]).enumerate();
    if under == Under::Callgrind {
        for (nth, operation) in counted.clone() {
            // Between two that are counted lies one that is not.
            let instructions = trace::instructions(traces.path(), 2 * nth)?;
            now.add_lowest(operation.name(), INSTRUCTIONS, per_operation(instructions));
        }
    }
    if under == Under::Strace {
        let text = std::fs::read_to_string(traces.path().join("strace")).context("reading what strace wrote")?;
        let intervals = trace::calls(&text, driver);
        let bursts = 2 * Operation::ALL.len() * REPEATS + 1;
        ensure!(intervals.len() == bursts + 2, "strace saw {} marks", intervals.len() - 1);
        for (nth, operation) in counted {
            let calls = intervals[2 * nth + 1];
            now.add_lowest(operation.name(), "syscalls", per_operation(calls.all));
            now.add_lowest(operation.name(), "device_bytes", per_operation(calls.device_bytes));
        }
        // Below one by chance: whoever runs already is woken by nobody.
        now.add_lowest("batch", "driver_wakes", (intervals[bursts].driver_wakes as f64 / batches).max(1.0));
    }
    Ok(())
}

const SYNCS: &str = "kv_log_syncs_total";

/// A number of the server's metrics.
fn number(metrics: &str, name: &str) -> Result<u64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.with_context(|| format!("the metrics have no {name}"))
}
