//! What a run did and found.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use kv_sim::history::{Request, Step};

use super::calls::{Call, Outcome};
use super::watchers::{Heard, Watched};

/// How many violations are printed.
const VIOLATIONS_SHOWN: usize = 20;
/// How many reasons for calls without an outcome are printed.
const REASONS_SHOWN: usize = 6;

/// What a run did and found. Printed, it is the summary, and after a violation the command that repeats its choices.
#[derive(Debug, Default)]
pub struct Report {
    /// The seed of every choice.
    pub seed: u64,
    /// The program in every member, and how many there were.
    pub server: String,
    /// Members.
    pub nodes: u32,
    /// How long faults struck, in seconds.
    pub seconds: u64,
    /// What struck how often, by its name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Connections between members that a link tore.
    pub torn: u64,
    /// Terms that passed: elections that were won, and those that were not.
    pub terms: u64,
    /// Calls that were answered, refused, and of unknown outcome, by what they ask for.
    pub calls: BTreeMap<&'static str, [u64; 3]>,
    /// Why outcomes are not known, most frequent first.
    pub reasons: Vec<(String, u64)>,
    /// Writes of unknown outcome that had happened.
    pub unknown_applied: u64,
    /// Leases granted, kept alive so often, and revoked.
    pub leases: [u64; 3],
    /// By watcher: its streams, its changes, its answers that say how far it is, and compactions that it was told of.
    pub watchers: BTreeMap<&'static str, [u64; 4]>,
    /// Keys looked at by values alone, and those of them where that was given up.
    pub blind: [u64; 2],
    /// Revisions whose hash is equal on all members.
    pub hashed: u64,
    /// The revision at the end.
    pub revision: i64,
    /// What could not be done here, in a sentence.
    pub not_exercised: Vec<String>,
    /// What is wrong; nothing, in a good run.
    pub violations: Vec<String>,
    /// Where the files are, when they were kept.
    pub directory: Option<PathBuf>,
    /// The arguments that repeat the choices of the run.
    pub(super) repeat: String,
}

impl Report {
    /// Counts calls.
    pub(super) fn count(&mut self, calls: &[Call]) {
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for call in calls {
            let counts = self.calls.entry(kind(call)).or_default();
            match &call.outcome {
                Outcome::Answered(_) => counts[0] += 1,
                Outcome::Refused(_) => counts[1] += 1,
                Outcome::Unknown(why) | Outcome::Nonsense(why) => {
                    counts[2] += 1;
                    *reasons.entry(why).or_default() += 1;
                }
            }
        }
        self.reasons = reasons.into_iter().map(|(why, count)| (why.to_owned(), count)).collect();
        self.reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    }

    /// Counts what a watcher was told.
    pub(super) fn count_watched(&mut self, watched: &Watched) {
        let counts = self.watchers.entry(watched.name).or_default();
        for heard in &watched.heard {
            match heard {
                Heard::Opened(_) => counts[0] += 1,
                Heard::Changes(_, changes) => counts[1] += changes.len() as u64,
                Heard::Progress(_) => counts[2] += 1,
                Heard::Compacted(_) => counts[3] += 1,
            }
        }
    }

    /// Calls that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.calls.values().map(|counts| counts[0]).sum()
    }
}

fn kind(call: &Call) -> &'static str {
    match &call.request {
        Request::Write(Step::Put(..)) if call.lease != 0 => "put with a lease",
        Request::Write(Step::Put(..)) => "put",
        Request::Write(_) => "delete",
        Request::Txn { success, .. } if success.len() == 1 => "append to a list",
        Request::Txn { .. } => "transaction",
        Request::Range { .. } if call.serializable => "serializable read",
        Request::Range { revision, .. } if *revision > 0 => "read of the past",
        _ => "linearizable read",
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, server, nodes, seconds, .. } = self;
        writeln!(f, "server             {nodes} x {server}, {seconds} s of faults, seed {seed}")?;
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{count} {name}")).collect();
        writeln!(f, "faults             {}; {} connections torn", faults.join(", "), self.torn)?;
        writeln!(f, "terms              {} passed", self.terms)?;
        writeln!(f, "calls              answered, refused, unknown")?;
        for (kind, [answered, refused, unknown]) in &self.calls {
            writeln!(f, "  {kind:<17}{answered:>8} {refused:>8} {unknown:>8}")?;
        }
        writeln!(f, "unknown writes     {} had happened", self.unknown_applied)?;
        for (why, count) in self.reasons.iter().take(REASONS_SHOWN) {
            writeln!(f, "  {count:>6} x {why}")?;
        }
        let [granted, kept, revoked] = self.leases;
        writeln!(f, "leases             {granted} granted, kept alive {kept} times, {revoked} revoked")?;
        for (name, [streams, changes, progress, compacted]) in &self.watchers {
            writeln!(
                f,
                "watcher            {name}: {changes} changes over {streams} streams, {progress} x progress, {compacted} x compacted"
            )?;
        }
        writeln!(f, "by values alone    {} keys, {} of them undecided", self.blind[0], self.blind[1])?;
        writeln!(f, "hashes             equal on all members at {} revisions", self.hashed)?;
        writeln!(f, "revision           {}", self.revision)?;
        for sentence in &self.not_exercised {
            writeln!(f, "NOT EXERCISED      {sentence}")?;
        }
        if let Some(directory) = &self.directory {
            writeln!(f, "files              {}", directory.display())?;
        }
        write!(f, "violations         {}", self.violations.len())?;
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
