//! What the server has told us, and whether what it says now agrees. Pure: no clock, no process, no network.
//!
//! Each key belongs to one writer, and a writer waits for each answer before it writes again. So a key's history is a
//! line, and after a crash at most its last write is in doubt: [`Ledger::check`] knows the two states that are right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A key as the server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The value, byte by byte.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision of its last write.
    pub mod_revision: i64,
    /// Writes since it was created, that one included.
    pub version: i64,
}

/// All keys under the tool's prefix, as one linearizable read found them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The store's revision, from the response header.
    pub revision: i64,
    /// The keys that exist.
    pub keys: BTreeMap<Vec<u8>, Stored>,
}

/// What a writer asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Write this value, unlike any other of the run.
    Put(Vec<u8>),
    /// Delete the key.
    Delete,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The server said it was done.
    Acknowledged {
        /// The revision in the response header.
        revision: i64,
        /// How many keys a delete said it removed; 1 for a put.
        changed: i64,
        /// The previous state, where it was asked for.
        previous: Option<Option<Stored>>,
    },
    /// No answer, or an error: the write may have happened.
    Unknown,
}

/// One write and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key written.
    pub key: Vec<u8>,
    /// What was asked for.
    pub op: Op,
    /// What came back.
    pub answer: Answer,
}

/// Why the server is wrong. Each names the key or revision to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// An acknowledged write is gone, or an older one is back in its place.
    Lost {
        /// The key.
        key: Vec<u8>,
        /// What was acknowledged.
        acknowledged: Stored,
        /// What is there.
        found: Option<Stored>,
    },
    /// A key is back whose deletion was acknowledged.
    Resurrected {
        /// The key.
        key: Vec<u8>,
        /// The revision of the acknowledged deletion, 0 when the key was never written.
        deleted_at: i64,
        /// What is there.
        found: Stored,
    },
    /// A key holds what no one sent, or its revisions or version do not fit its history.
    Changed {
        /// The key.
        key: Vec<u8>,
        /// What would be right.
        expected: Stored,
        /// What is there.
        found: Stored,
    },
    /// A key that no one wrote.
    Foreign {
        /// The key.
        key: Vec<u8>,
    },
    /// The revision is lower than one that was already told.
    RevisionBack {
        /// Told before.
        told: i64,
        /// Told now.
        found: i64,
    },
    /// More or fewer revisions were spent than writes happened: one was applied twice, or not at all.
    RevisionCount {
        /// The revision that the known writes make.
        expected: i64,
        /// The store's revision.
        found: i64,
    },
    /// Two writes were answered with one revision.
    RevisionShared {
        /// The revision.
        revision: i64,
    },
    /// An answer during the load that does not fit the key's history.
    WrongAnswer {
        /// The key.
        key: Vec<u8>,
        /// What is wrong with it.
        why: String,
    },
    /// HashKV of one revision gave two hashes.
    HashChanged {
        /// The revision hashed.
        revision: i64,
        /// The hash told first.
        before: u32,
        /// The hash told now.
        after: u32,
    },
    /// The process did not do what it should: it ended by itself, or did not come back, or ended in the wrong way.
    Process {
        /// What happened, with the end of its log.
        why: String,
    },
}

/// A key's history, as far as it still matters.
#[derive(Debug, Clone, Default)]
struct Key {
    /// Its state after the last acknowledged write.
    now: Option<Stored>,
    /// The revision of that write, 0 before the first.
    changed_at: i64,
    /// A later write whose fate is not known.
    unknown: Option<Op>,
}

/// Which of a key's two possible states was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    AsAcknowledged,
    UnknownApplied,
}

/// Everything told so far.
///
/// * `told` never falls.
/// * Revisions in `taken` lie above `settled`: those of earlier rounds were checked when they were settled.
#[derive(Debug, Default)]
pub struct Ledger {
    keys: BTreeMap<Vec<u8>, Key>,
    /// The highest revision in any answer.
    told: i64,
    /// The store's revision when it was last compared.
    settled: i64,
    /// The revisions of the writes acknowledged since then.
    taken: BTreeSet<i64>,
    hashes: BTreeMap<i64, u32>,
}

impl Ledger {
    /// Writes down what one writer saw, in its order, and says what in it cannot be.
    pub fn record(&mut self, events: Vec<Event>) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut last = self.settled;
        for event in events {
            match event.answer {
                Answer::Unknown => self.keys.entry(event.key).or_default().unknown = Some(event.op),
                Answer::Acknowledged { revision, changed, previous } => {
                    self.told = self.told.max(revision);
                    let acknowledged = Acknowledged { op: event.op, revision, changed, previous };
                    self.acknowledge(event.key, acknowledged, &mut last, &mut found);
                }
            }
        }
        found
    }

    fn acknowledge(&mut self, key: Vec<u8>, write: Acknowledged, last: &mut i64, found: &mut Vec<Violation>) {
        let state = self.keys.entry(key.clone()).or_default();
        let mut wrong = |why: String| found.push(Violation::WrongAnswer { key: key.clone(), why });
        let existed = state.now.is_some();
        if write.previous.as_ref().is_some_and(|previous| *previous != state.now) {
            wrong(format!("previous value {:?}, and it was {:?}", write.previous, state.now));
        }
        let changes = match write.op {
            Op::Put(_) => true,
            Op::Delete => {
                if write.changed != i64::from(existed) {
                    wrong(format!("a delete removed {} of {}", write.changed, i64::from(existed)));
                }
                existed
            }
        };
        // The writer waited for its previous answer, so this write came later. A delete of nothing spends no revision.
        if write.revision < *last || (changes && write.revision == *last) {
            wrong(format!("revision {} after {last}", write.revision));
        }
        *last = write.revision.max(*last);
        if changes && !self.taken.insert(write.revision) {
            found.push(Violation::RevisionShared { revision: write.revision });
        }
        if changes {
            state.changed_at = write.revision;
            state.now = write.op.applied_to(state.now.as_ref(), write.revision);
        }
    }

    /// Compares a state read after a restart with everything told. No violation is the good answer.
    #[must_use]
    pub fn check(&self, state: &State) -> Vec<Violation> {
        let mut found = Vec::new();
        if state.revision < self.told {
            found.push(Violation::RevisionBack { told: self.told, found: state.revision });
        }
        let mut unknown_applied = 0;
        for (key, known) in &self.keys {
            match self.judge(key, known, state.keys.get(key)) {
                Ok(Fate::AsAcknowledged) => {}
                Ok(Fate::UnknownApplied) => unknown_applied += 1,
                Err(violation) => found.push(violation),
            }
        }
        for key in state.keys.keys().filter(|key| !self.keys.contains_key(*key)) {
            found.push(Violation::Foreign { key: key.clone() });
        }
        // A wrong key makes a wrong sum: said only when the keys alone do not show it.
        let writes = i64::try_from(self.taken.len()).expect("fewer writes than 2^63") + unknown_applied;
        let expected = self.settled + writes;
        if found.is_empty() && self.settled > 0 && state.revision != expected {
            found.push(Violation::RevisionCount { expected, found: state.revision });
        }
        found
    }

    /// Takes a checked state as the new beginning: nothing is in doubt any more. Returns how many unknown writes had happened.
    pub fn settle(&mut self, state: &State) -> u64 {
        let mut applied = 0;
        for (key, known) in &mut self.keys {
            let found = state.keys.get(key);
            if known.unknown.take().is_some() && found != known.now.as_ref() {
                applied += 1;
                known.changed_at = found.map_or(state.revision, |stored| stored.mod_revision);
            }
            known.now = found.cloned();
        }
        self.told = self.told.max(state.revision);
        self.settled = state.revision;
        self.taken.clear();
        applied
    }

    /// Writes down a hash of everything up to `revision`; a second hash of the same revision must be the same.
    pub fn hash(&mut self, revision: i64, hash: u32) -> Option<Violation> {
        let before = *self.hashes.entry(revision).or_insert(hash);
        (before != hash).then_some(Violation::HashChanged { revision, before, after: hash })
    }

    /// The revisions whose hash is known, lowest first.
    pub fn hashed_revisions(&self) -> impl DoubleEndedIterator<Item = i64> + '_ {
        self.hashes.keys().copied()
    }

    /// How many writes are in doubt.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.keys.values().filter(|key| key.unknown.is_some()).count()
    }

    /// Which of the two states that are right was found, or why it is neither.
    fn judge(&self, key: &[u8], known: &Key, found: Option<&Stored>) -> Result<Fate, Violation> {
        if found == known.now.as_ref() {
            return Ok(Fate::AsAcknowledged);
        }
        match (&known.unknown, found) {
            (Some(Op::Delete), None) => return Ok(Fate::UnknownApplied),
            (Some(op @ Op::Put(value)), Some(found)) if found.value == *value => {
                let expected = op.applied_to(known.now.as_ref(), found.mod_revision).expect("a put leaves a value");
                // Its revision is one that no one else was given, and later than anything settled.
                let free = found.mod_revision > self.settled
                    && found.mod_revision > known.changed_at
                    && !self.taken.contains(&found.mod_revision);
                if free && *found == expected {
                    return Ok(Fate::UnknownApplied);
                }
                return Err(Violation::Changed { key: key.to_vec(), expected, found: found.clone() });
            }
            _ => {}
        }
        Err(match (known.now.clone(), found.cloned()) {
            (Some(expected), Some(found)) if found.mod_revision >= expected.mod_revision => {
                Violation::Changed { key: key.to_vec(), expected, found }
            }
            (Some(acknowledged), found) => Violation::Lost { key: key.to_vec(), acknowledged, found },
            (None, Some(found)) => Violation::Resurrected { key: key.to_vec(), deleted_at: known.changed_at, found },
            (None, None) => unreachable!("equal states were accepted above"),
        })
    }
}

/// An acknowledged write, without its key.
struct Acknowledged {
    op: Op,
    revision: i64,
    changed: i64,
    previous: Option<Option<Stored>>,
}

impl Op {
    /// The key's state after this write at `revision`.
    fn applied_to(&self, now: Option<&Stored>, revision: i64) -> Option<Stored> {
        let Op::Put(value) = self else { return None };
        Some(Stored {
            value: value.clone(),
            create_revision: now.map_or(revision, |stored| stored.create_revision),
            mod_revision: revision,
            version: now.map_or(0, |stored| stored.version) + 1,
        })
    }
}

/// How much of a value is shown: its beginning names the round, the writer and the write.
const SHOWN_BYTES: usize = 40;

fn shown(bytes: &[u8]) -> String {
    let start = bytes.get(..SHOWN_BYTES).unwrap_or(bytes).escape_ascii();
    if bytes.len() > SHOWN_BYTES { format!("\"{start}\".. ({} bytes)", bytes.len()) } else { format!("\"{start}\"") }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, create_revision, mod_revision, version } = self;
        write!(f, "{} (created {create_revision}, modified {mod_revision}, version {version})", shown(value))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { key, acknowledged, found: None } => {
                write!(f, "lost: {} was acknowledged as {acknowledged} and is gone", shown(key))
            }
            Self::Lost { key, acknowledged, found: Some(found) } => {
                write!(f, "lost: {} was acknowledged as {acknowledged} and is back at {found}", shown(key))
            }
            Self::Resurrected { key, deleted_at, found } => {
                write!(f, "resurrected: {} was gone since revision {deleted_at} and is {found}", shown(key))
            }
            Self::Changed { key, expected, found } => {
                write!(f, "changed: {} should be {expected} and is {found}", shown(key))
            }
            Self::Foreign { key } => write!(f, "foreign: {} was written by no one", shown(key)),
            Self::RevisionBack { told, found } => {
                write!(f, "revision back: {told} was told, {found} is told now")
            }
            Self::RevisionCount { expected, found } => {
                write!(f, "revision count: the writes make revision {expected}, the store says {found}")
            }
            Self::RevisionShared { revision } => write!(f, "revision shared: two writes were answered with {revision}"),
            Self::WrongAnswer { key, why } => write!(f, "wrong answer for {}: {why}", shown(key)),
            Self::HashChanged { revision, before, after } => {
                write!(f, "hash changed: HashKV({revision}) was {before:08x} and is {after:08x}")
            }
            Self::Process { why } => write!(f, "process: {why}"),
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
