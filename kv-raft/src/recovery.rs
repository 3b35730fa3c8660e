//! From what the disk holds to a member that goes on.
//!
//! A new member's state is a snapshot at entry 1 of term 1, the same on every member the cluster starts with. Every later start
//! streams the newest snapshot into the state machine, then the committed entries above it, publishes once, and gives the rest
//! of the log to raft.

use std::io::ErrorKind;
use std::sync::Arc;

use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::{HardState, LogEntry, Record, SnapshotMark};
use thiserror::Error;

use crate::applier::apply_one;
use crate::disk::Disk;
use crate::file_log::{FileLog, LogIds, LogOptions};
use crate::log_store::{LogError, LogStore};
use crate::node::NodeState;
use crate::snapshots::{self, SnapshotError, SnapshotHeader, SnapshotReader, SnapshotWriter};
use crate::state_machine::{MachineError, StateMachine};
use crate::tail::{Position, TailLimits};

/// What recovery has to be told.
#[derive(Debug, Clone)]
pub struct RecoverOptions {
    /// How the log is laid out, and whose it is.
    pub log: LogOptions,
    /// How much of the log to keep in memory.
    pub tail: TailLimits,
}

impl RecoverOptions {
    /// The usual layout and limits, for the log of `ids`.
    #[must_use]
    pub fn new(ids: LogIds) -> Self {
        Self { log: LogOptions::new(ids), tail: TailLimits::default() }
    }
}

/// Why a member cannot start. Nothing was lost by trying.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A snapshot file.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The state machine cannot read what was stored.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Log and snapshot contradict each other.
    #[error("the log and its snapshot do not fit together: {0}; restore this member from a snapshot of the cluster")]
    Mismatch(String),
}

impl RecoverError {
    /// Whether what was stored is not what it was, so that no later attempt will succeed. What may be another version's, another member's,
    /// or of a disk that is full, is not.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Log(LogError::Corrupt { .. }) | Self::Snapshot(SnapshotError::Corrupt { .. }) | Self::Mismatch(_) => {
                true
            }
            Self::Log(LogError::Io { source, .. }) | Self::Snapshot(SnapshotError::Io { source, .. }) => {
                source.kind() == ErrorKind::NotFound || source.raw_os_error() == Some(UNREADABLE)
            }
            Self::Log(_) | Self::Snapshot(_) | Self::Machine(_) => false,
        }
    }
}

/// `EIO`, by which a disk says that it cannot read a sector any more.
const UNREADABLE: i32 = 5;

/// What recovery found, for one line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The directory was empty: this is a new member.
    pub fresh: bool,
    /// The snapshot that was loaded.
    pub snapshot: Position,
    /// Entries above it that were applied.
    pub entries_applied: u64,
    /// Entries beyond the last known commit, left to raft.
    pub entries_uncommitted: u64,
    /// A torn write at the end of the log, which nobody was told of, was cut: where and why.
    pub cut: Option<String>,
}

/// A member, ready to be driven.
#[derive(Debug)]
pub struct Replica<M, L> {
    /// The state machine, published as of `node.applied`.
    pub machine: M,
    /// The log.
    pub log: L,
    /// What to start a [`crate::Node`] from.
    pub node: NodeState,
    /// The number of this run, higher at each start.
    pub epoch: u64,
    /// What was found.
    pub report: Report,
}

/// Brings a member back from `disk`. `genesis` is the state machine as a new cluster starts it: entry 1 of term 1 applied.
///
/// # Errors
/// [`RecoverError`]; the disk is as it was but for what the log does on every open.
pub fn recover<M: StateMachine, D: Disk>(
    disk: &Arc<D>,
    options: &RecoverOptions,
    genesis: M,
) -> Result<Replica<M, FileLog<D>>, RecoverError> {
    snapshots::clean_tmp(disk.as_ref())?;
    let (mut log, recovered) = FileLog::open(Arc::clone(disk), options.log.clone())?;
    let mut machine = genesis;
    let mut report = Report { cut: recovered.cut.as_ref().map(ToString::to_string), ..Report::default() };
    let cluster_id = options.log.ids.cluster_id;
    let (mark, hard_state) = match recovered.snapshot {
        Some(mark) => {
            load_snapshot(disk, cluster_id, mark, &mut machine)?;
            (mark, recovered.hard_state)
        }
        None if recovered.last_index == 0 => {
            report.fresh = true;
            bootstrap(disk, cluster_id, &machine, &mut log)?
        }
        None => return Err(RecoverError::Mismatch("entries without a snapshot below them".into())),
    };
    snapshots::prune(disk.as_ref(), &[(mark.index, mark.term)])?;
    let base = Position { index: mark.index, term: mark.term };
    report.snapshot = base;
    let at_snapshot = machine.membership();
    let hard_state = HardState { commit: hard_state.commit.max(base.index), ..hard_state };
    let mut replay = Replay {
        machine: &mut machine,
        base,
        kept: Vec::new(),
        bytes: 0,
        commit: hard_state.commit,
        limits: options.tail,
    };
    log.replay(base.index, &mut |entry| replay.entry(entry))?;
    let Replay { base, kept, .. } = replay;
    let last = kept.last().map_or(base.index, |entry| entry.index);
    let applied = machine.applied().index;
    if applied != hard_state.commit {
        let why = format!("{} entries are known to be committed, the log ends at {last}", hard_state.commit);
        return Err(RecoverError::Mismatch(why));
    }
    machine.publish();
    report.entries_applied = applied - mark.index;
    report.entries_uncommitted = last - applied;
    let membership = if is_planted(Bug::DoubleMembership) { at_snapshot } else { machine.membership() };
    let node = NodeState { base, entries: kept, hard_state, applied, membership };
    Ok(Replica { machine, log, node, epoch: recovered.epoch, report })
}

fn load_snapshot<M: StateMachine, D: Disk>(
    disk: &Arc<D>,
    cluster_id: u64,
    mark: SnapshotMark,
    machine: &mut M,
) -> Result<(), RecoverError> {
    install_snapshot(disk, cluster_id, Position { index: mark.index, term: mark.term }, machine)?;
    let found = machine.applied();
    if (found.index, found.term) != (mark.index, mark.term) {
        let why = format!("the snapshot of entry {} holds the state of entry {}", mark.index, found.index);
        return Err(RecoverError::Mismatch(why));
    }
    Ok(())
}

/// Makes the stored snapshot at `at` the state of `machine`, which is not published.
///
/// # Errors
/// [`RecoverError`]; the state is then as before.
pub fn install_snapshot<M: StateMachine, D: Disk>(
    disk: &Arc<D>,
    cluster_id: u64,
    at: Position,
    machine: &mut M,
) -> Result<(), RecoverError> {
    let mut reader =
        SnapshotReader::open(disk.as_ref(), SnapshotHeader { index: at.index, term: at.term, cluster_id })?;
    // The state machine sees a message; the caller gets the error itself.
    let mut failed = None;
    let installed = machine.install(&mut || {
        reader.next_chunk().map_err(|error| {
            let message = MachineError(error.to_string());
            failed = Some(error);
            message
        })
    });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(installed?),
    }
}

/// Writes an image of the state at `at` down, and reads the file back: once it stands for the log, nothing else does. Durable and
/// in place on return; the file's length.
///
/// The log does not know of it before a [`SnapshotMark`] is appended.
///
/// # Errors
/// [`SnapshotError`]; no snapshot of that name is then in place.
pub fn write_snapshot<M: StateMachine, D: Disk>(
    disk: &D,
    cluster_id: u64,
    at: Position,
    image: &M::Image,
) -> Result<u64, SnapshotError> {
    let header = SnapshotHeader { index: at.index, term: at.term, cluster_id };
    let write = || {
        let mut writer = SnapshotWriter::create(disk, header)?;
        M::write_image(image, &mut |chunk| writer.write(chunk))?;
        writer.finish()
    };
    let bytes = write().inspect_err(|_| {
        // A writer that failed for want of room must not keep what it took. The error that counts is the writer's.
        drop(snapshots::discard(disk, &header));
    })?;
    let mut reader = SnapshotReader::open(disk, header)?;
    while reader.next_chunk()?.is_some() {}
    Ok(bytes)
}

/// The first snapshot and the log's first records.
fn bootstrap<M: StateMachine, D: Disk>(
    disk: &Arc<D>,
    cluster_id: u64,
    machine: &M,
    log: &mut FileLog<D>,
) -> Result<(SnapshotMark, HardState), RecoverError> {
    let at = machine.applied();
    write_snapshot::<M, D>(disk, cluster_id, at, &machine.image())?;
    let mark = SnapshotMark { index: at.index, term: at.term, installed: false };
    let hard_state = HardState { term: at.term, vote: 0, commit: at.index };
    log.append(&[Record::Snapshot(mark), Record::HardState(hard_state)])?;
    Ok((mark, hard_state))
}

/// Applies what is committed, keeps what raft will want.
struct Replay<'a, M> {
    machine: &'a mut M,
    base: Position,
    kept: Vec<LogEntry>,
    bytes: usize,
    commit: u64,
    limits: TailLimits,
}

impl<M: StateMachine> Replay<'_, M> {
    fn entry(&mut self, entry: LogEntry) -> Result<(), LogError> {
        if entry.index <= self.commit {
            let applied = apply_one(self.machine, &entry, &mut Vec::new());
            applied.map_err(|error| LogError::Replay(error.to_string()))?;
        }
        self.bytes += entry.payload.len();
        self.kept.push(entry);
        // Amortised: the front is dropped when twice too much is kept.
        let TailLimits { entries_max, bytes_max } = self.limits;
        if self.kept.len() / 2 > entries_max || self.bytes / 2 > bytes_max {
            self.drop_front();
        }
        Ok(())
    }

    fn drop_front(&mut self) {
        let TailLimits { entries_max, bytes_max } = self.limits;
        let (mut entries, mut drop) = (self.kept.len(), 0);
        for entry in self.kept.iter().take_while(|entry| entry.index <= self.commit) {
            if entries <= entries_max && self.bytes <= bytes_max {
                break;
            }
            entries -= 1;
            drop += 1;
            self.bytes -= entry.payload.len();
            self.base = Position { index: entry.index, term: entry.term };
        }
        self.kept.drain(..drop);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn damage_is_what_no_other_version_and_no_other_disk_would_read() {
        let (path, why) = (|| "log/1.log".to_owned(), || "why".to_owned());
        let log = |source: io::Error| RecoverError::from(LogError::Io { op: "open", path: path(), source });
        let unreadable = || io::Error::from_raw_os_error(UNREADABLE);
        for damage in [
            LogError::Corrupt { path: path(), offset: 1, why: why() }.into(),
            SnapshotError::Corrupt { path: path(), offset: 1, why: why() }.into(),
            SnapshotError::Io { op: "open", path: path(), source: ErrorKind::NotFound.into() }.into(),
            RecoverError::Mismatch(why()),
            log(unreadable()),
        ] {
            assert!(damage.is_damage(), "{damage}");
        }
        for other in [
            LogError::UnknownVersion { path: path(), found: 9 }.into(),
            LogError::Full { path: path(), bytes: 1 }.into(),
            LogError::Replay(why()).into(),
            MachineError(why()).into(),
            log(ErrorKind::PermissionDenied.into()),
        ] {
            assert!(!RecoverError::is_damage(&other), "{other}");
        }
    }
}
