//! `kv-bench`: the command line of the tools in the library.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kv_bench::crash;

/// Tools that measure kv and try to break it.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Kills a server under load, again and again, and checks that it kept what it acknowledged.
    Crash(crash::Options),
}

/// What a shell reports for a program that was interrupted: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let Tool::Crash(options) = Arguments::parse().tool;
    match run(options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kv-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: crash::Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        // Dropping the run kills the server and removes the temporary directory.
        tokio::select! {
            report = crash::run(options) => {
                let report = report?;
                println!("{report}");
                Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            signal = tokio::signal::ctrl_c() => {
                signal.context("listening for ctrl-c")?;
                eprintln!("kv-bench: interrupted");
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    })
}
