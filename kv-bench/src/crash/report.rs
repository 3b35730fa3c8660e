//! What a run did and found.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Options;
use super::ledger::Violation;

/// How many violations are printed: one broken recovery can lose thousands of keys.
const VIOLATIONS_SHOWN: usize = 20;

/// What a run did and found. Printed, it is the summary, and after a violation the command that repeats the run.
#[derive(Debug)]
pub struct Report {
    /// The seed of every choice.
    pub seed: u64,
    /// Rounds ended by a kill.
    pub rounds: u32,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes without an answer.
    pub unknown: u64,
    /// How many of those had happened, as the next restart showed.
    pub unknown_applied: u64,
    /// Starts that served.
    pub restarts: u32,
    /// Power losses, of starts that were killed too.
    pub power_losses: u32,
    /// Starts that were killed before they served.
    pub recoveries_killed: u32,
    /// The longest time from the start of the process to its first linearizable answer.
    pub slowest_recovery: Duration,
    /// Hashes taken under load.
    pub hashes_sampled: u64,
    /// Hashes taken after restarts and compared.
    pub hashes_compared: u64,
    /// The store's revision at the end.
    pub revision: i64,
    /// Writes that failed while the server should have been well. Allowed, and worth a look.
    pub early_errors: u64,
    /// The first of them.
    pub first_early_error: Option<String>,
    /// How the server ended after SIGTERM.
    pub exit: Option<String>,
    /// What is wrong; nothing, in a good run.
    pub violations: Vec<Violation>,
    /// Where the files are, when they were kept.
    pub directory: Option<PathBuf>,
    /// The arguments that repeat the run.
    repeat: String,
}

impl Report {
    pub(super) fn new(options: &Options, seed: u64) -> Self {
        let Options { server, rounds, writers, keys, load_ms_max, power_loss, .. } = options;
        let power_loss = if *power_loss { " --power-loss" } else { "" };
        let repeat = format!(
            "kv-bench crash --server {} --seed {seed} --rounds {rounds} --writers {writers} --keys {keys} --load-ms-max {load_ms_max}{power_loss}",
            server.display()
        );
        Self {
            seed,
            rounds: 0,
            acknowledged: 0,
            unknown: 0,
            unknown_applied: 0,
            restarts: 0,
            power_losses: 0,
            recoveries_killed: 0,
            slowest_recovery: Duration::ZERO,
            hashes_sampled: 0,
            hashes_compared: 0,
            revision: 0,
            early_errors: 0,
            first_early_error: None,
            exit: None,
            violations: Vec::new(),
            directory: None,
            repeat,
        }
    }

    /// One line on the way.
    pub(super) fn progress(&self) -> String {
        format!(
            "round {:>4}: {} writes acknowledged, {} unknown, revision {}, slowest recovery {} ms",
            self.rounds,
            self.acknowledged,
            self.unknown,
            self.revision,
            self.slowest_recovery.as_millis()
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rounds                 {}", self.rounds)?;
        writeln!(f, "acknowledged writes    {}", self.acknowledged)?;
        writeln!(f, "unknown writes         {} ({} had happened)", self.unknown, self.unknown_applied)?;
        writeln!(
            f,
            "restarts               {} (and {} killed during recovery)",
            self.restarts, self.recoveries_killed
        )?;
        writeln!(f, "power losses           {}", self.power_losses)?;
        writeln!(f, "slowest recovery       {} ms", self.slowest_recovery.as_millis())?;
        writeln!(
            f,
            "hashes                 {} under load, {} after restarts",
            self.hashes_sampled, self.hashes_compared
        )?;
        writeln!(f, "revision               {}", self.revision)?;
        writeln!(f, "after SIGTERM          {}", self.exit.as_deref().unwrap_or("not reached"))?;
        if let Some(error) = &self.first_early_error {
            writeln!(f, "errors before the kill {} (the first: {error})", self.early_errors)?;
        }
        if let Some(directory) = &self.directory {
            writeln!(f, "files                  {}", directory.display())?;
        }
        write!(f, "violations             {}", self.violations.len())?;
        for violation in self.violations.iter().take(VIOLATIONS_SHOWN) {
            write!(f, "\n  {violation}")?;
        }
        if self.violations.len() > VIOLATIONS_SHOWN {
            write!(f, "\n  and {} more", self.violations.len() - VIOLATIONS_SHOWN)?;
        }
        if !self.violations.is_empty() {
            write!(f, "\nrepeat with: {}", self.repeat)?;
        }
        Ok(())
    }
}
