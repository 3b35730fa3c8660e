//! Compaction: history is given up at once, and dropped in small steps later.
//!
//! `View::compact` moves a number: from then on nothing below it can be read. `View::purge` drops what the number hides. In between,
//! what is hidden and still there must not show, so reads, hashes and snapshots go by the number alone.
//!
//! A compaction at C keeps of each key the newest revision at or below C if it is a put, or a deletion at C itself, for a watch that
//! starts there; and all revisions above C. What the compaction at C hides beyond what the one before it (at P) hid is found from
//! the revisions from P to C alone: each replaced the one before it of its key, and a deletion below C goes itself.
//!
//! `HashKV` at C goes on answering with the hash from before the compaction. It takes time that grows with the store, so it is
//! computed in steps too: `purge` computes it first and drops afterwards; who asks earlier computes it from the view.

use std::sync::Arc;

use kv_codec::planted::{Bug, is_planted};

use crate::hash::KvHasher;
use crate::{Block, Rejection, Revision, View};

/// How many compactions keep their hash (as in etcd).
pub(crate) const COMPACTIONS_KEPT: usize = 10;
/// How many revisions one step looks at.
const STEP_REVISIONS: usize = 64;
/// Hashing so many bytes takes as much of the budget as looking at one revision.
const HASHED_BYTES_PER_UNIT: u64 = 2048;

/// A compaction whose hash can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// The oldest revision that it left readable.
    pub(crate) revision: i64,
    /// The compaction before it; -1 for none.
    pub(crate) previous: i64,
    /// `HashKV` at `revision` before the compaction, once computed.
    pub(crate) hash: Option<u32>,
}

/// How far the purge got.
///
/// * What a compaction at `done` hides is gone, and of what the one at `target` hides, whatever revisions below `next` hide.
/// * `done` is at or below the `previous` of every compaction whose hash is not computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purge {
    done: i64,
    /// `done` when no compaction is under way.
    target: i64,
    next: Revision,
    hashing: Option<Hashing>,
}

/// A hash that is being computed.
#[derive(Debug, Clone, Copy)]
struct Hashing {
    hasher: KvHasher,
    next: Revision,
}

impl Purge {
    /// Nothing is hidden by a compaction at `revision`.
    pub(crate) fn done(revision: i64) -> Self {
        Self { done: revision, target: revision, next: Revision::default(), hashing: None }
    }
}

impl View {
    /// Gives up history below `revision`.
    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), Rejection> {
        if revision <= self.compact_revision {
            return Err(Rejection::Compacted);
        }
        if revision > self.revision {
            return Err(Rejection::FutureRevision);
        }
        let previous = std::mem::replace(&mut self.compact_revision, revision);
        // To ask for the hash at 0 is to ask for the current one.
        if revision > 0 {
            let compactions = Arc::make_mut(&mut self.compactions);
            if compactions.len() == COMPACTIONS_KEPT {
                compactions.remove(0);
            }
            compactions.push(Compaction { revision, previous, hash: None });
        }
        Ok(())
    }

    /// See [`crate::Store::purge`].
    pub(crate) fn purge(&mut self, budget: usize) -> bool {
        let mut left = budget;
        while left > 0 && self.purge.done < self.compact_revision {
            let pending = self.compactions.iter().position(|compaction| compaction.hash.is_none());
            // Hashes that are still to be computed need what only later compactions hide.
            let limit = pending.map_or(self.compact_revision, |at| self.compactions[at].previous);
            let spent = match pending {
                Some(at) if self.purge.done == limit => self.hash_some(at, left),
                _ => self.drop_some(limit, left),
            };
            left = left.saturating_sub(spent);
        }
        !self.is_purged()
    }

    /// Whether nothing is left that a compaction hides.
    #[must_use]
    pub fn is_purged(&self) -> bool {
        self.purge.done == self.compact_revision
    }

    /// Whether nothing is left that a compaction at `revision` hides, one that was done.
    #[must_use]
    pub fn is_purged_to(&self, revision: i64) -> bool {
        self.purge.done >= revision
    }

    /// Below this revision, some of what compactions hide may be gone.
    pub(crate) fn purged_through(&self) -> i64 {
        self.purge.target
    }

    /// Whether the last compaction hides `block`.
    pub(crate) fn hides(&self, block: &Block) -> bool {
        let compacted = self.compact_revision;
        block.mod_revision() <= compacted
            && (!self.is_newest(block, compacted) || (block.is_tombstone() && block.mod_revision() < compacted))
    }

    /// Goes on with the hash of compaction `at`. Returns what it took of the budget.
    fn hash_some(&mut self, at: usize, budget: usize) -> usize {
        let Compaction { revision, previous, .. } = self.compactions[at];
        let begun = self.purge.hashing.filter(|hashing| hashing.hasher.revision() == revision);
        let Hashing { mut hasher, mut next } =
            begun.unwrap_or_else(|| Hashing { hasher: KvHasher::new(previous, revision), next: Revision::default() });
        let mut spent = 0;
        let mut left = self.trees.changes(next, revision);
        while spent < budget {
            let Some(block) = left.next() else {
                Arc::make_mut(&mut self.compactions)[at].hash = Some(hasher.finish());
                self.purge.hashing = None;
                return spent + 1;
            };
            hasher.add(self, block);
            next = block.revision().after();
            spent += 1 + usize::try_from(block.bytes() / HASHED_BYTES_PER_UNIT).unwrap_or(usize::MAX);
        }
        self.purge.hashing = Some(Hashing { hasher, next });
        spent
    }

    /// Goes on dropping, up to a compaction at `limit` if none is under way. Returns what it took of the budget.
    ///
    /// In the order of revisions, so that of each key the oldest goes first, and a deletion after what it hides: see [`crate::trees::Trees`].
    fn drop_some(&mut self, limit: i64, budget: usize) -> usize {
        if self.purge.target == self.purge.done {
            self.purge.target = limit;
            // Deletions at `done` itself were kept.
            self.purge.next = Revision { main: self.purge.done, sub: 0 };
        }
        let target = self.purge.target;
        let last = if is_planted(Bug::PurgeVisible) { target + 1 } else { target };
        let left = self.trees.changes(self.purge.next, last);
        let step = STEP_REVISIONS.min(budget);
        let blocks: Vec<Block> = left.take(step).cloned().collect();
        for block in &blocks {
            if let Some(replaced) = self.before(block).cloned() {
                self.remove(&replaced);
            }
            let early = is_planted(Bug::DeletionPurgedEarly) && block.mod_revision() == target;
            if block.is_tombstone() && (block.mod_revision() < target || early) {
                self.remove(block);
            }
            self.purge.next = block.revision().after();
        }
        if blocks.len() < step {
            self.purge.done = target;
        }
        blocks.len().max(1)
    }
}
