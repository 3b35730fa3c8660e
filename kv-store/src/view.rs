//! The state of the store at one moment.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::RangeBounds;
use std::sync::{Arc, OnceLock};

use equivalent::{Comparable, Equivalent};
use im::OrdSet;
use kv_codec::planted::{Bug, is_planted};

use crate::compaction::{Compaction, Purge};
use crate::counts::Counts;
use crate::history::History;
use crate::walk::Walk;
use crate::{Alarms, Block, KeyRange, Leases, Members, ReadError, Revision};

/// How many changes a count at an earlier revision looks at before it would rather walk a small range.
const COUNTED_CHANGES_MIN: u64 = 1024;

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
    /// Of every revision that is there, live ones and ones to be purged included.
    pub history: u64,
}

/// The state of the store after some entry of the log. It never changes; cloning copies a few pointers.
///
/// * `live` holds the latest revision of each key that lives, `dead` the deletion of each that does not, `superseded` every older
///   revision, `history` all of them.
/// * `counts` are those of `live`, once somebody wants to know: a store that replays its log does not, and counts at the end.
/// * `compactions` holds the last ten at revisions above 0, the last of them at `compact_revision`.
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) live: OrdSet<Latest>,
    pub(crate) dead: OrdSet<Latest>,
    pub(crate) superseded: OrdSet<Superseded>,
    pub(crate) history: History,
    pub(crate) revision: i64,
    /// -1 when nothing was ever compacted; a compaction at 0 is one.
    pub(crate) compact_revision: i64,
    pub(crate) compactions: Arc<Vec<Compaction>>,
    pub(crate) purge: Purge,
    pub(crate) counts: OnceLock<Counts>,
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
            live: OrdSet::new(),
            dead: OrdSet::new(),
            superseded: OrdSet::new(),
            history: History::default(),
            revision: 1,
            compact_revision: -1,
            compactions: Arc::default(),
            purge: Purge::done(-1),
            counts: OnceLock::new(),
            bytes: ByteCounts::default(),
            members,
            leases: Leases::default(),
            alarms: Alarms::default(),
            applied_index: 1,
            applied_term: 1,
        }
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
        self.live.len() as u64
    }

    /// How many revisions of keys are there, deletions included.
    #[must_use]
    pub fn history_len(&self) -> u64 {
        (self.live.len() + self.dead.len() + self.superseded.len()) as u64
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
        self.live.get(key).map(|latest| &latest.0)
    }

    /// The latest revision of `key`, its deletion included.
    pub(crate) fn latest(&self, key: &[u8]) -> Option<&Block> {
        self.get(key).or_else(|| self.latest_deletion(key))
    }

    /// The deletion that is the latest revision of a key.
    pub(crate) fn latest_deletion(&self, key: &[u8]) -> Option<&Block> {
        self.dead.get(key).map(|latest| &latest.0)
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
    /// Takes the time of a short walk, whatever the range: at most 2,048 keys, and an addition for every few hundred keys in between. At
    /// an earlier revision, also time in proportion to the changes since, or to the keys of the range, dead ones included.
    #[must_use]
    pub fn count(&self, range: &KeyRange<'_>, revision: i64) -> u64 {
        let now = self.counts().count(&self.live, range);
        if revision >= self.revision {
            return now;
        }
        let Some(bounds) = range.bounds() else {
            return 0;
        };
        let within = |key: &[u8]| RangeBounds::<[u8]>::contains(&bounds, key);
        let (mut born, mut died) = (0, 0);
        let mut left = now.max(COUNTED_CHANGES_MIN);
        let since = Revision { main: revision + 1, sub: 0 }..=Revision::last_of(self.revision);
        for change in self.history.range(since) {
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

    /// The counts, made now if they are not there.
    pub(crate) fn counts(&self) -> &Counts {
        self.counts.get_or_init(|| Counts::of(&self.live))
    }

    /// What the key of `latest` was at `revision`, if it was live.
    pub(crate) fn at<'a>(&'a self, latest: &'a Block, revision: i64) -> Option<&'a Block> {
        self.newest(latest, revision).filter(|block| !block.is_tombstone())
    }

    /// The newest revision of the key of `latest` at or below `revision`, deletions included.
    fn newest<'a>(&'a self, latest: &'a Block, revision: i64) -> Option<&'a Block> {
        if latest.mod_revision() <= revision {
            return Some(latest);
        }
        self.superseded_at(latest.key(), Revision::last_of(revision))
    }

    /// Whether no later revision of `block`'s key is at or below `revision`.
    pub(crate) fn is_newest(&self, block: &Block, revision: i64) -> bool {
        let latest = self.latest(block.key());
        let newest = latest.and_then(|latest| self.newest(latest, revision));
        newest.is_some_and(|newest| newest.revision() == block.revision())
    }

    /// The revision of its key that `block` replaced.
    pub(crate) fn before(&self, block: &Block) -> Option<&Block> {
        self.superseded_at(block.key(), block.revision().before())
    }

    fn superseded_at(&self, key: &[u8], revision: Revision) -> Option<&Block> {
        let found = &self.superseded.get_prev(&AtOrBelow(key, revision))?.0;
        // The one before may be another key's.
        (found.key() == key).then_some(found)
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

    /// Lets `block` be what is alive of its key, and returns what was. [`View::insert`] is told next.
    pub(crate) fn set_live(&mut self, block: &Block) -> Option<Block> {
        self.live.insert(Latest(block.clone())).map(|latest| latest.0)
    }

    /// Makes `block` the latest revision of its key: a deletion, or a put that [`View::set_live`] was told of. `previous` is what was
    /// the latest before.
    pub(crate) fn insert(&mut self, block: Block, previous: Option<Block>) {
        self.bytes.history += block.bytes();
        self.history.push(block.clone());
        self.leases.follow(previous.as_ref(), &block);
        let lived = previous.as_ref().is_some_and(|previous| !previous.is_tombstone());
        if let Some(previous) = previous {
            if lived {
                self.bytes.live -= previous.bytes();
            } else {
                self.dead.remove(block.key());
            }
            self.superseded.insert(Superseded(previous));
        }
        if block.is_tombstone() {
            debug_assert!(lived, "only a key that lives is deleted");
            self.live.remove(block.key());
            if let Some(counts) = self.counts.get_mut() {
                counts.removed(block.key());
            }
            self.dead.insert(Latest(block));
        } else {
            self.bytes.live += block.bytes();
            if let (false, Some(counts)) = (lived, self.counts.get_mut()) {
                counts.added(&self.live, block.key());
            }
        }
    }

    /// Drops `block`, which is not live.
    pub(crate) fn remove(&mut self, block: &Block) {
        self.history.remove(block.revision());
        self.bytes.history -= block.bytes();
        if self.dead.get(block.key()).is_some_and(|latest| latest.0.revision() == block.revision()) {
            self.dead.remove(block.key());
        } else {
            let dropped = self.superseded.remove(&AtOrBelow(block.key(), block.revision()));
            debug_assert!(dropped.is_some(), "the latest put of a key is live");
        }
    }
}
