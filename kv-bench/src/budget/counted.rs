//! The server whose costs are counted: in this process, as `kv-server` runs it, and told by lines when to begin anew.
//!
//! It prints `ready PID`; then, for each line that it reads, `mark ALLOCATIONS`. It ends with its input, so that it does not
//! outlive who asked for it.

use std::hint::black_box;
use std::io::{BufRead, Write, stdin, stdout};

use anyhow::{Context, Result, bail};
use kv_server::Server;
use kv_server::config::{Config, Parsed};
use slog::{Discard, Logger, o};

/// Threads that serve: a fixed number, so that the figures do not depend on the machine's.
const WORKERS: usize = 2;

/// Serves until the end of its input. `allocations` says how many there were.
///
/// # Errors
/// Flags that cannot be obeyed, a server that does not start.
pub fn serve(allocations: impl Fn() -> usize) -> Result<()> {
    let Parsed::Run { config, .. } = Config::parse(std::env::args().skip(1), std::iter::empty::<(String, String)>())?
    else {
        bail!("kv-counted only serves");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.context("starting the runtime")?;
    let server = runtime.block_on(Server::start(*config, &Logger::root(Discard, o!())))?;
    let mut out = stdout().lock();
    writeln!(out, "ready {}", std::process::id()).context("saying that it is ready")?;
    out.flush().context("saying that it is ready")?;
    for line in stdin().lock().lines() {
        line.context("reading what to do")?;
        mark();
        writeln!(out, "mark {}", allocations()).context("answering")?;
        out.flush().context("answering")?;
    }
    runtime.block_on(server.shutdown());
    Ok(())
}

/// Does nothing: valgrind writes its counts down when it is entered.
#[inline(never)]
fn mark() {
    black_box(());
}
