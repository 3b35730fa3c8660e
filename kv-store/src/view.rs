//! The state of the store at one moment.

use std::ops::RangeBounds;
use std::sync::Arc;

use kv_codec::planted::{Bug, is_planted};

use crate::compaction::{Compaction, Purge};
use crate::link::Link;
use crate::trees::Trees;
use crate::walk::Walk;
use crate::{Alarms, Block, KeyRange, Leases, Members, ReadError, Revision};

/// How many changes a count at an earlier revision looks at before it would rather walk a small range.
const COUNTED_CHANGES_MIN: u64 = 1024;

/// Bytes of keys, values and their headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByteCounts {
    /// Of the latest revision of every live key.
    pub live: u64,
    /// Of every revision that is there, live ones and ones to be purged included.
    pub history: u64,
}

/// The state of the store after some entry of the log. It never changes; cloning copies a few pointers, and counts none of its blocks.
///
/// What it shows stays in memory while it is held, purged or not; whoever lets go of the last view of something releases it.
///
/// * `compactions` holds the last ten at revisions above 0, the last of them at `compact_revision`.
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) trees: Trees,
    pub(crate) revision: i64,
    /// -1 when nothing was ever compacted; a compaction at 0 is one.
    pub(crate) compact_revision: i64,
    pub(crate) compactions: Arc<Vec<Compaction>>,
    pub(crate) purge: Purge,
    pub(crate) bytes: ByteCounts,
    pub(crate) members: Members,
    pub(crate) leases: Leases,
    pub(crate) alarms: Alarms,
    pub(crate) applied_index: u64,
    pub(crate) applied_term: u64,
}

impl View {
    /// The state that a cluster is born with: revision 1, no keys, as of entry 1 of term 1.
    pub(crate) fn genesis(members: Members) -> Self {
        Self {
            trees: Trees::default(),
            revision: 1,
            compact_revision: -1,
            compactions: Arc::default(),
            purge: Purge::done(-1),
            bytes: ByteCounts::default(),
            members,
            leases: Leases::default(),
            alarms: Alarms::default(),
            applied_index: 1,
            applied_term: 1,
        }
    }

    /// The same state, for a writer to go on from.
    pub(crate) fn into_writers(self) -> Self {
        Self { trees: self.trees.into_writers(), ..self }
    }

    /// The current revision; 1 when nothing was ever put.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision below which history is gone; -1 when nothing was ever compacted.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// How many keys are live.
    #[must_use]
    pub fn live_keys(&self) -> u64 {
        self.trees.live().len() as u64
    }

    /// How many revisions of keys are there, deletions included.
    #[must_use]
    pub fn history_len(&self) -> u64 {
        self.trees.history_len() as u64
    }

    /// What the store's data take.
    #[must_use]
    pub fn bytes(&self) -> ByteCounts {
        self.bytes
    }

    /// The members of the cluster.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The last entry of the log that is in this view.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// The term of that entry.
    #[must_use]
    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// The latest revision of `key`, if it is live.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Block> {
        self.trees.live().get(key)
    }

    /// The live keys of `range` at `revision`, in key order, from the first one above `after` on. A walk that was stopped goes on
    /// where it was when it is given the last key that it had.
    ///
    /// At the current revision it visits the keys it yields; at an earlier one also those that lived at another time. `revision` has
    /// to be one that [`View::readable`] allows.
    #[must_use]
    pub fn walk<'v>(&'v self, range: &KeyRange<'_>, revision: i64, after: Option<&[u8]>) -> Walk<'v> {
        Walk::new(self, range, revision, after)
    }

    /// How many keys of `range` lived at `revision`, one that [`View::readable`] allows.
    ///
    /// Takes no longer than to find two keys, whatever the range. At an earlier revision, also time in proportion to the changes since, or
    /// to the keys of the range, dead ones included.
    #[must_use]
    pub fn count(&self, range: &KeyRange<'_>, revision: i64) -> u64 {
        let Some(bounds) = range.bounds() else {
            return 0;
        };
        let now = self.trees.live().range(bounds).len() as u64;
        if revision >= self.revision {
            return now;
        }
        let within = |key: &[u8]| RangeBounds::<[u8]>::contains(&bounds, key);
        let (mut born, mut died) = (0, 0);
        let mut left = now.max(COUNTED_CHANGES_MIN);
        for change in self.trees.changes_from(revision + 1) {
            if left == 0 {
                return self.walk(range, revision, None).count() as u64;
            }
            left -= 1;
            if change.is_tombstone() && within(change.key()) {
                died += 1;
            } else if change.version() == 1 && within(change.key()) {
                born += 1;
            }
        }
        now + died - born
    }

    /// What the key of `latest` was at `revision`, if it was live.
    pub(crate) fn at<'a>(&'a self, latest: &'a Block, revision: i64) -> Option<&'a Block> {
        self.newest(latest, revision).filter(|block| !block.is_tombstone())
    }

    /// The newest revision of the key of `latest` at or below `revision`, deletions included.
    fn newest<'a>(&'a self, latest: &'a Block, revision: i64) -> Option<&'a Block> {
        self.trees.at_or_below(latest, Revision::last_of(revision))
    }

    /// Whether no later revision of `block`'s key is at or below `revision`.
    pub(crate) fn is_newest(&self, block: &Block, revision: i64) -> bool {
        let latest = self.trees.latest(block.key());
        let newest = latest.and_then(|latest| self.newest(latest, revision));
        newest.is_some_and(|newest| newest.revision() == block.revision())
    }

    /// The revision of its key that `block` replaced.
    pub(crate) fn before(&self, block: &Block) -> Option<&Block> {
        self.trees.before(block)
    }

    /// The revision to read at for a request that names `revision` (0 or less: the current one).
    ///
    /// # Errors
    /// [`ReadError::Future`], [`ReadError::Compacted`].
    pub fn readable(&self, revision: i64) -> Result<i64, ReadError> {
        if revision <= 0 {
            Ok(self.revision)
        } else if revision > self.revision {
            Err(ReadError::Future { revision: self.revision })
        } else if revision < self.oldest() {
            Err(ReadError::Compacted { compact_revision: self.compact_revision })
        } else {
            Ok(revision)
        }
    }

    /// The oldest revision that can be read.
    pub(crate) fn oldest(&self) -> i64 {
        if is_planted(Bug::PurgeDecides) { self.purged_through() } else { self.compact_revision }
    }

    /// Puts what `make` makes of the block that lives at `key`, with a link to the one before, and returns the one that lived.
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        make: impl FnOnce(Option<&Block>, Option<Link>) -> Block,
    ) -> Option<Block> {
        let Self { trees, bytes, leases, .. } = self;
        let mut replaced = None;
        trees.put(key, |live, link| {
            let block = make(live, link);
            bytes.history += block.bytes();
            bytes.live += block.bytes();
            bytes.live -= live.map_or(0, Block::bytes);
            leases.follow(live, &block);
            replaced = live.cloned();
            block
        });
        replaced
    }

    /// Deletes what lives at a key: `live`.
    pub(crate) fn delete(&mut self, live: &Block, revision: Revision) {
        let tombstone = Block::tombstone(revision, live.key(), Some(self.trees.link_to(live)));
        self.bytes.history += tombstone.bytes();
        self.bytes.live -= live.bytes();
        self.leases.follow(Some(live), &tombstone);
        self.trees.delete(tombstone);
    }

    /// Drops `block`, which is not live, and is the oldest of its key.
    pub(crate) fn remove(&mut self, block: &Block) {
        self.bytes.history -= block.bytes();
        self.trees.drop_block(block);
    }
}
