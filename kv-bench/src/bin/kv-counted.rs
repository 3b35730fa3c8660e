//! `kv-counted`: kv-server with its allocations counted, for `kv-bench budget`. It takes kv-server's flags.

use std::alloc::System;
use std::process::ExitCode;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let allocations = || {
        let stats = ALLOCATOR.stats();
        stats.allocations + stats.reallocations
    };
    match kv_bench::budget::counted::serve(allocations) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kv-counted: {error:#}");
            ExitCode::FAILURE
        }
    }
}
