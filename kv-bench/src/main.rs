//! `kv-bench`: the command line of the tools in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kv_bench::figures::Report;
use kv_bench::{budget, chaos, cliffs, cluster, console, crash, first, kube, lab, leases, million, watch, wire};
use tokio::signal::unix::{SignalKind, signal};

/// Tools that measure kv and try to break it.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Hurts a cluster of real processes, and checks everything that its clients were told.
    Chaos(chaos::Options),
    /// Measures clusters side by side, or how long they are without a leader.
    Cluster(cluster::Options),
    /// Runs a cluster on this machine, with a prompt to kill, pause and cut its members.
    Console(console::Options),
    /// Counts what one operation costs the server.
    Budget(budget::Options),
    /// Kills a server under load, again and again, and checks that it kept what it acknowledged.
    Crash(crash::Options),
    /// Runs `wire` and the engines of `lab` as short as they can be, for a first look.
    First(first::Options),
    /// Runs a server, a control and rivals under the same clients, and compares them.
    Wire(wire::Options),
    /// Measures how long small operations take at worst while something large goes on.
    Cliffs(cliffs::Options),
    /// Runs one large store from its first put to a restart: memory, pages, lists, stalls.
    Million(million::Options),
    /// Runs the analysis that kv answers: eight engines, eight experiments, one page.
    Lab(lab::Options),
    /// Looks for how many nodes of a Kubernetes cluster a server holds.
    Kube(kube::Options),
    /// Measures leases that end all at once, and leases that are kept alive.
    Leases(leases::Options),
    /// Measures how late changes come to those who watch, and what that costs the server.
    Watch(watch::Options),
    /// The control of `wire`: a map behind tonic, with no log and no disk.
    Control(wire::ControlOptions),
}

/// What a shell reports for a program that a signal ended: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;
/// The same of SIGTERM.
const TERMINATED: u8 = 143;
/// The same of SIGHUP, which comes when a terminal is closed.
const HUNG_UP: u8 = 129;

fn main() -> ExitCode {
    let tool = match Arguments::try_parse() {
        Ok(arguments) => arguments.tool,
        Err(error) if error.use_stderr() => {
            eprintln!("kv-bench: {}", in_one_line(&error.to_string()));
            return ExitCode::FAILURE;
        }
        // Help, which was asked for.
        Err(help) => {
            print!("{help}");
            return ExitCode::SUCCESS;
        }
    };
    match run(tool) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kv-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(tool: Tool) -> Result<ExitCode> {
    if matches!(&tool, Tool::Crash(options) if options.power_loss) {
        crash::power::enter_namespace()?;
    }
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        // Caught from here on: a tool may start a process before it first waits for anything.
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut hang_up = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        // A prompt is left by a signal as by its end, and sees to that itself.
        let sees_to_it = matches!(&tool, Tool::Console(_));
        // Dropping the run kills the server and removes the temporary directory.
        let code = tokio::select! {
            code = use_tool(tool) => return code,
            _ = interrupt.recv(), if !sees_to_it => INTERRUPTED,
            _ = terminate.recv(), if !sees_to_it => TERMINATED,
            _ = hang_up.recv(), if !sees_to_it => HUNG_UP,
        };
        eprintln!("kv-bench: interrupted");
        Ok(ExitCode::from(code))
    })
}

async fn use_tool(tool: Tool) -> Result<ExitCode> {
    match tool {
        Tool::Crash(options) => {
            let report = crash::run(options).await?;
            println!("{report}");
            return Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Tool::Chaos(options) => {
            let report = chaos::run(&options).await?;
            println!("{report}");
            return Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Tool::Wire(options) => {
            let report = wire::run(&options, &this()?).await?;
            println!("\n{}", report.markdown);
            if !report.compared {
                println!("To compare with etcd: cargo xtask bench --rival etcd=/path/to/etcd");
            }
            let wire::Report { markdown_path, svg_path, json_path, .. } = &report;
            let [text, chart, rounds] = [markdown_path, svg_path, json_path].map(|path| path.display());
            println!("Report: {text}, as a chart: {chart}, every round: {rounds}");
        }
        Tool::First(options) => first::run(&options, &this()?).await?,
        Tool::Budget(options) => budget::run(&options).await?,
        Tool::Cliffs(options) => show(&cliffs::run(&options).await?),
        Tool::Million(options) => show(&million::run(&options).await?),
        Tool::Cluster(options) => show(&cluster::run(&options).await?),
        Tool::Kube(options) => show(&kube::run(&options).await?),
        Tool::Leases(options) => show(&leases::run(&options).await?),
        Tool::Watch(options) => show(&watch::run(&options).await?),
        Tool::Lab(options) => {
            let written = lab::run(options).await?;
            for line in &written.not_built {
                println!("{line}");
            }
            let lab::Written { html, markdown, json, .. } = &written;
            println!("Report: {}, as text: {}, figures: {}", html.display(), markdown.display(), json.display());
        }
        Tool::Console(options) => console::run(&options).await?,
        Tool::Control(options) => wire::control(options).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Where this program is.
fn this() -> Result<PathBuf> {
    std::env::current_exe().context("asking where this program is")
}

fn show(report: &Report) {
    println!("\n{}", report.markdown);
    println!("Report: {}, figures: {}", report.markdown_path.display(), report.json_path.display());
}

/// The first paragraph of clap's message, without its label.
fn in_one_line(message: &str) -> String {
    let lines = message.trim_start_matches("error:").lines().map(str::trim);
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    paragraph.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line() {
        let message = "error: the following were not provided:\n  --server <SERVER>\n\nUsage: kv-bench wire\n";
        assert_eq!(in_one_line(message), "the following were not provided: --server <SERVER>");
        let error = Arguments::try_parse_from(["kv-bench", "wire", "--server", "x", "--clients", "many"]);
        let line = in_one_line(&error.err().expect("`many` is no number").to_string());
        assert!(line.contains("'many'") && !line.contains('\n'), "{line}");
    }
}
