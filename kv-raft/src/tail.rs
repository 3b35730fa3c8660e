//! The tail of the log in memory: what raft reads, synchronously, as its `Storage`.

use std::cell::Cell;
use std::collections::VecDeque;

use bytes::Bytes;
use kv_codec::record::{EntryKind, HardState, LogEntry};
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::Membership;

/// An index and the term of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The index.
    pub index: u64,
    /// The term.
    pub term: u64,
}

impl Position {
    /// Where the state of a new cluster stands: as if entry 1 of term 1 were applied.
    pub const GENESIS: Self = Self { index: 1, term: 1 };
}

/// How much of the log below the applied index stays in memory for followers that are a little behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailLimits {
    /// Entries kept below the applied index.
    pub entries_max: usize,
    /// Bytes of payload kept below the applied index.
    pub bytes_max: usize,
}

impl Default for TailLimits {
    /// etcd's 5,000 catch-up entries, and a bound for large ones.
    fn default() -> Self {
        Self { entries_max: 5_000, bytes_max: 32 << 20 }
    }
}

/// The tail of the log.
///
/// * `entries` are contiguous: the first is `base.index + 1`.
/// * Everything at or below `base` is applied, and in a snapshot that can be made.
#[derive(Debug)]
pub(crate) struct Tail {
    base: Position,
    entries: VecDeque<Entry>,
    hard_state: HardState,
    membership: Membership,
    limits: TailLimits,
    bytes: usize,
    /// The snapshot that the state machine holds ready for followers.
    offered: Option<(Position, Membership)>,
    /// Raft asked for a snapshot and found none fit.
    wanted: Cell<bool>,
}

impl Tail {
    pub(crate) fn new(base: Position, hard_state: HardState, membership: Membership, limits: TailLimits) -> Self {
        Self {
            base,
            entries: VecDeque::new(),
            hard_state,
            membership,
            limits,
            bytes: 0,
            offered: None,
            wanted: Cell::new(false),
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Appends entries, dropping what they overwrite.
    pub(crate) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            assert!(entry.index > self.base.index, "entry {} is at or below the base {}", entry.index, self.base.index);
            assert!(entry.index <= self.last() + 1, "entry {} leaves a gap after {}", entry.index, self.last());
            while self.last() >= entry.index {
                let dropped = self.entries.pop_back().expect("last() is above the base");
                self.bytes -= dropped.data.len();
            }
            self.bytes += entry.data.len();
            self.entries.push_back(entry);
        }
    }

    /// A snapshot at `base` replaces everything.
    pub(crate) fn restore(&mut self, base: Position) {
        self.base = base;
        self.entries.clear();
        self.bytes = 0;
        self.offered = None;
    }

    /// Forgets what followers are not likely to need, nothing above `applied`.
    pub(crate) fn trim(&mut self, applied: u64) {
        while let Some(first) = self.entries.front() {
            let below = usize::try_from(applied.saturating_sub(self.base.index)).unwrap_or(usize::MAX);
            let over = below > self.limits.entries_max || self.bytes > self.limits.bytes_max;
            if !over || first.index > applied {
                return;
            }
            self.base = Position { index: first.index, term: first.term };
            self.bytes -= first.data.len();
            self.entries.pop_front();
        }
    }

    /// The offered snapshot was taken by one follower; the next has to ask again.
    pub(crate) fn withdraw_offer(&mut self) {
        self.offered = None;
    }

    pub(crate) fn offer_snapshot(&mut self, at: Position, membership: Membership) {
        self.offered = Some((at, membership));
    }

    /// Whether raft asked for a snapshot since the last call.
    pub(crate) fn take_snapshot_wanted(&self) -> bool {
        self.wanted.take()
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(to_raft_hard_state(self.hard_state), self.membership.to_conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "raft asked for entries up to {high}, the log ends at {}", self.last());
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut entries = Vec::new();
        for index in low..high {
            let entry = self.entry(index).expect("between base and last");
            size += u64::from(entry.compute_size());
            // Always at least one, or a large entry would never be sent.
            if size > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(StorageError::Compacted.into());
        }
        Ok(self.entry(index).ok_or(StorageError::Unavailable)?.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // The follower goes on from the snapshot with the entries kept here, so it must reach them.
        let needed = request_index.max(self.base.index);
        match &self.offered {
            Some((at, membership)) if at.index >= needed => Ok(snapshot_at(*at, membership)),
            _ => {
                self.wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

/// The message raft passes around for a snapshot: its place only. The content travels apart.
pub(crate) fn snapshot_at(at: Position, membership: &Membership) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = at.index;
    metadata.term = at.term;
    metadata.set_conf_state(membership.to_conf_state());
    snapshot
}

impl Membership {
    pub(crate) fn to_conf_state(&self) -> ConfState {
        ConfState::from((self.voters.clone(), self.learners.clone()))
    }
}

pub(crate) fn to_raft_hard_state(hard_state: HardState) -> raft::eraftpb::HardState {
    let HardState { term, vote, commit } = hard_state;
    raft::eraftpb::HardState { term, vote, commit, ..Default::default() }
}

pub(crate) fn from_raft_hard_state(hard_state: &raft::eraftpb::HardState) -> HardState {
    HardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit }
}

/// A raft entry as the log keeps it. A conf change's content is our own encoding, in the entry's context.
pub(crate) fn to_log_entry(entry: &Entry) -> LogEntry {
    let (kind, payload) = match entry.get_entry_type() {
        EntryType::EntryNormal => (EntryKind::Normal, entry.data.clone()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => (EntryKind::ConfChange, entry.context.clone()),
    };
    LogEntry { index: entry.index, term: entry.term, kind, payload }
}

/// The raft entry that [`to_log_entry`] came from, without raft's own encoding of a conf change: nothing reads it again.
pub(crate) fn to_raft_entry(entry: LogEntry) -> Entry {
    let mut out = Entry { index: entry.index, term: entry.term, ..Entry::default() };
    match entry.kind {
        EntryKind::Normal => out.data = entry.payload,
        EntryKind::ConfChange => {
            out.set_entry_type(EntryType::EntryConfChange);
            out.context = entry.payload;
            out.data = Bytes::new();
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: Bytes::from(vec![0; 10]), ..Entry::default() }
    }

    fn tail(entries_max: usize, bytes_max: usize) -> Tail {
        let limits = TailLimits { entries_max, bytes_max };
        let mut tail = Tail::new(Position { index: 1, term: 1 }, HardState::default(), Membership::default(), limits);
        tail.append((2..=20).map(|index| entry(index, 2)));
        tail
    }

    #[test]
    fn a_trim_keeps_what_is_not_applied_whatever_the_limits() {
        let mut by_bytes = tail(1_000, 1);
        by_bytes.trim(10);
        assert_eq!((by_bytes.first_index().unwrap(), by_bytes.last()), (11, 20));
        let mut by_entries = tail(4, 1 << 20);
        by_entries.trim(10);
        assert_eq!((by_entries.first_index().unwrap(), by_entries.last()), (7, 20));
        assert_eq!(by_entries.term(6).unwrap(), 2, "the term of the entry below the first is still known");
        assert_eq!(by_entries.term(5), Err(StorageError::Compacted.into()));
    }

    #[test]
    fn entries_overwrite_what_they_contradict() {
        let mut tail = tail(1_000, 1 << 20);
        tail.append([entry(15, 3)]);
        assert_eq!((tail.last(), tail.term(15).unwrap(), tail.term(14).unwrap()), (15, 3, 2));
        assert_eq!(tail.bytes, 14 * 10);
        let context = GetEntriesContext::empty(false);
        assert_eq!(tail.entries(14, 16, Some(0), context).unwrap().len(), 1, "always at least one");
    }
}
