//! What every tool that compares servers is told, and how the servers take turns.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::directory::for_report;
use crate::figures::Row;
use crate::target::{self, Target};

/// Which servers run, and where the report goes.
#[derive(Debug, Clone, clap::Args)]
pub struct Race {
    /// The binary of kv-server; of etcd where there is nothing of ours to measure.
    #[arg(long, overrides_with = "server")]
    pub server: PathBuf,
    /// Another server to compare with, as `etcd=PATH`. May be given several times.
    #[arg(long, value_name = "etcd=PATH")]
    pub rival: Vec<String>,
    /// Where the report goes; the servers' data lie there while they run.
    #[arg(long, value_name = "DIR", default_value = "target/bench", overrides_with = "out")]
    pub out: PathBuf,
}

impl Race {
    /// Ours and the rivals, and the directory for the report of `tool`.
    ///
    /// # Errors
    /// A program that is not there or is none of them, a directory that no report can be written into.
    pub(crate) async fn prepare(&self, tool: &str) -> Result<Vec<Target>> {
        let mut targets = vec![Target::server(&self.server).await?];
        for rival in &self.rival {
            targets.push(Target::rival(rival).await?);
        }
        target::tell_apart(&mut targets)?;
        for_report(&self.out, tool)?;
        Ok(targets)
    }

    /// A new directory for a server, removed when it is dropped.
    pub(crate) fn directory(&self) -> Result<TempDir> {
        // Beside the report and not in /tmp, which may be memory, where a sync costs nothing.
        let directory = tempfile::Builder::new().prefix("server-").tempdir_in(&self.out);
        directory.with_context(|| format!("making a directory in {}", self.out.display()))
    }
}

/// The figures of each target's rounds. The targets take turns (A B A B ...), so that a slow spell of the machine hits all of them.
pub(crate) async fn in_turn(
    targets: &[Target],
    rounds: u32,
    round: impl AsyncFn(&Target) -> Result<Vec<Row>>,
) -> Result<Vec<Vec<Vec<Row>>>> {
    let mut results = vec![Vec::new(); targets.len()];
    for number in 1..=rounds {
        for (target, results) in targets.iter().zip(&mut results) {
            let rows = round(target).await;
            results.push(rows.with_context(|| format!("{}, round {number}", target.name))?);
        }
    }
    Ok(results)
}
