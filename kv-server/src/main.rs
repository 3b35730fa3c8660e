//! The `kv-server` program.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use kv_server::config::{Config, Parsed};
use kv_server::{Server, banner, client, logging};
use slog::{info, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};

// A server with bugs planted in it does not build.
const _: () = assert!(!kv_codec::planted::COMPILED_IN, "build kv-server without the feature planted-bugs");

fn main() -> ExitCode {
    let parsed = match Config::parse(std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("kv-server: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    let done = match parsed {
        Parsed::Help(text) | Parsed::Version(text) => stdout().write_all(text.as_bytes()).map_err(Into::into),
        Parsed::Snapshot(command) => kv_server::restore::run(command),
        Parsed::Client(command) => runtime().and_then(|runtime| runtime.block_on(client::run(command))),
        Parsed::Run { config, warnings } => {
            match runtime().and_then(|runtime| runtime.block_on(serve(*config, &warnings))) {
                Ok(code) => return code,
                Err(error) => Err(error),
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kv-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Serves until a signal asks to stop; the exit code says which, as a shell would.
async fn serve(config: Config, warnings: &[String]) -> anyhow::Result<ExitCode> {
    let greet = banner::wanted(&config, stderr().is_terminal());
    let level = if greet { kv_server::config::LogLevel::Warn } else { config.log_level };
    let (logger, _guard) = logging::root(level, config.log_format);
    for warning in warnings {
        warn!(logger, "{}", warning);
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let data_dir = config.data_dir.clone();
    let server = tokio::select! {
        // The messages name their causes already.
        started = Server::start(config, &logger) => started.map_err(|error| anyhow::anyhow!("{error}"))?,
        // What was recovered so far is on disk, as a kill would leave it.
        stop = stop_signal(&mut terminate, &mut interrupt) => std::process::exit(i32::from(stop.1)),
    };
    if greet {
        let address = server.client_addresses()[0].to_string();
        // A terminal that went away is no reason to stop serving.
        drop(stdout().write_all(banner::text(&address, &data_dir, server.revision()).as_bytes()));
    }
    let code = tokio::select! {
        (name, code) = stop_signal(&mut terminate, &mut interrupt) => {
            info!(logger, "received signal; shutting down"; "signal" => name);
            code
        }
        // As it was asked to.
        () = server.removed() => 0,
    };
    server.shutdown().await;
    Ok(ExitCode::from(code))
}

/// Waits for a signal to stop; its name, and the exit code that says so as a shell would. The first process of a container stops
/// cleanly.
async fn stop_signal(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, u8) {
    let (name, number) = tokio::select! {
        _ = terminate.recv() => ("terminated", 15),
        _ = interrupt.recv() => ("interrupt", 2),
    };
    (name, if std::process::id() == 1 { 0 } else { 128 + number })
}
