//! The state of the store at one moment.

use std::borrow::Borrow;
use std::cmp::Ordering;

use equivalent::{Comparable, Equivalent};
use im::{OrdMap, OrdSet};

use crate::{Block, KeyRange, Members, ReadError, Revision};

/// The latest revision of a key, ordered by key. The key lives in the block only.
#[derive(Debug, Clone)]
pub(crate) struct Latest(pub(crate) Block);

impl Borrow<[u8]> for Latest {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

impl PartialEq for Latest {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Latest {}

impl PartialOrd for Latest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Latest {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

/// A revision of a key that a later one replaced, ordered by key, then revision.
#[derive(Debug, Clone)]
pub(crate) struct Superseded(pub(crate) Block);

impl Superseded {
    fn place(&self) -> (&[u8], Revision) {
        (self.0.key(), self.0.revision())
    }
}

impl PartialEq for Superseded {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Superseded {}

impl PartialOrd for Superseded {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Superseded {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

/// Finds the last superseded revision of a key at or below a revision.
struct AtOrBelow<'a>(&'a [u8], Revision);

impl Equivalent<Superseded> for AtOrBelow<'_> {
    fn equivalent(&self, other: &Superseded) -> bool {
        (self.0, self.1) == other.place()
    }
}

impl Comparable<Superseded> for AtOrBelow<'_> {
    fn compare(&self, other: &Superseded) -> Ordering {
        (self.0, self.1).cmp(&other.place())
    }
}

/// Bytes of keys, values and their headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByteCounts {
    /// Of the latest revision of every live key.
    pub live: u64,
    /// Of every revision that is kept, live ones included.
    pub history: u64,
}

/// The state of the store after some entry of the log. It never changes; cloning copies a few pointers.
///
/// * `keys` holds the latest revision of each key, tombstones included; `superseded` every older one; `history` all of both.
/// * `live` is the number of entries of `keys` that are not tombstones.
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) keys: OrdSet<Latest>,
    pub(crate) superseded: OrdSet<Superseded>,
    pub(crate) history: OrdMap<Revision, Block>,
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
    pub(crate) live: u64,
    pub(crate) bytes: ByteCounts,
    pub(crate) members: Members,
    pub(crate) applied_index: u64,
    pub(crate) applied_term: u64,
}

impl View {
    /// The state that a cluster is born with: revision 1, no keys, as of entry 1 of term 1.
    pub(crate) fn genesis(members: Members) -> Self {
        Self {
            keys: OrdSet::new(),
            superseded: OrdSet::new(),
            history: OrdMap::new(),
            revision: 1,
            compact_revision: 0,
            live: 0,
            bytes: ByteCounts::default(),
            members,
            applied_index: 1,
            applied_term: 1,
        }
    }

    /// The current revision; 1 when nothing was ever put.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision below which history is gone; 0 when nothing was ever compacted.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// How many keys are live.
    #[must_use]
    pub fn live_keys(&self) -> u64 {
        self.live
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
        self.latest(key).filter(|block| !block.is_tombstone())
    }

    pub(crate) fn latest(&self, key: &[u8]) -> Option<&Block> {
        self.keys.get(key).map(|latest| &latest.0)
    }

    /// The live keys of `range` at `revision`, in key order.
    pub(crate) fn walk<'a>(&'a self, range: &KeyRange<'_>, revision: i64) -> impl Iterator<Item = &'a Block> + use<'a> {
        let bounds = range.bounds();
        let entries = bounds.map(|bounds| self.keys.range::<_, [u8]>(bounds));
        entries.into_iter().flatten().filter_map(move |latest| self.at(&latest.0, revision))
    }

    /// What the key of `latest` was at `revision`, if it was live.
    fn at<'a>(&'a self, latest: &'a Block, revision: i64) -> Option<&'a Block> {
        let block = if latest.mod_revision() <= revision {
            latest
        } else {
            let wanted = AtOrBelow(latest.key(), Revision { main: revision, sub: u32::MAX });
            let found = &self.superseded.get_prev(&wanted)?.0;
            // The one before may be another key's.
            (found.key() == latest.key()).then_some(found)?
        };
        (!block.is_tombstone()).then_some(block)
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
        } else if revision < self.compact_revision {
            Err(ReadError::Compacted { compact_revision: self.compact_revision })
        } else {
            Ok(revision)
        }
    }

    /// Makes `block` the latest revision of its key; `previous` is what [`View::latest`] said of it.
    pub(crate) fn insert(&mut self, block: Block, previous: Option<Block>) {
        self.bytes.history += block.bytes();
        if !block.is_tombstone() {
            self.live += 1;
            self.bytes.live += block.bytes();
        }
        self.history.insert(block.revision(), block.clone());
        self.keys.insert(Latest(block));
        if let Some(previous) = previous {
            if !previous.is_tombstone() {
                self.live -= 1;
                self.bytes.live -= previous.bytes();
            }
            self.superseded.insert(Superseded(previous));
        }
    }
}
