//! Leases: what is replicated of them. When one ends is the [`crate::Lessor`]'s business.

use std::cmp::Ordering;

use equivalent::{Comparable, Equivalent};
use im::{OrdMap, OrdSet};
use kv_codec::command::{Expired, LeaseCheckpoint};

use crate::changes::Changes;
use crate::{Block, Rejection, View};

/// A lease, without any time: each replica has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Seconds that it lives without being kept alive.
    pub ttl: i64,
    /// Seconds that were left when that was last noted; 0 for all of `ttl`.
    pub remaining_ttl: i64,
    /// The entry of the log that granted it: tells it from one that had its id before.
    pub granted: u64,
}

impl Lease {
    /// Seconds that a leader who knows no more gives it.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        if self.remaining_ttl > 0 { self.remaining_ttl } else { self.ttl }
    }
}

/// The latest block of a key that has a lease, ordered by lease, then key.
#[derive(Debug, Clone)]
struct Attached(Block);

impl Attached {
    fn place(&self) -> (i64, &[u8]) {
        (self.0.lease(), self.0.key())
    }
}

impl PartialEq for Attached {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Attached {}

impl PartialOrd for Attached {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Attached {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

/// Finds a key of a lease.
struct Place<'a>(i64, &'a [u8]);

impl Equivalent<Attached> for Place<'_> {
    fn equivalent(&self, other: &Attached) -> bool {
        (self.0, self.1) == other.place()
    }
}

impl Comparable<Attached> for Place<'_> {
    fn compare(&self, other: &Attached) -> Ordering {
        (self.0, self.1).cmp(&other.place())
    }
}

/// The leases, and which keys are attached to each. Cloning copies a few pointers.
///
/// * A key is attached to at most one lease, the one that its latest revision names, and that lease is there.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    all: OrdMap<i64, Lease>,
    attached: OrdSet<Attached>,
}

impl Leases {
    /// The lease with `id`.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.all.get(&id)
    }

    /// All leases, by rising id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (i64, &Lease)> {
        self.all.iter().map(|(id, lease)| (*id, lease))
    }

    /// The keys attached to a lease, in order.
    pub fn keys(&self, id: i64) -> impl Iterator<Item = &[u8]> {
        self.blocks(id).map(Block::key)
    }

    fn blocks(&self, id: i64) -> impl Iterator<Item = &Block> {
        let from = self.attached.range(Place(id, b"")..);
        from.map(|attached| &attached.0).take_while(move |block| block.lease() == id)
    }

    /// Whether these are the very leases of `other`, attachments aside: nothing was granted, ended or noted in between.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.all.ptr_eq(&other.all)
    }

    /// The leases without their keys: what the [`crate::Lessor`] follows.
    pub(crate) fn all(&self) -> &OrdMap<i64, Lease> {
        &self.all
    }

    pub(crate) fn grant(&mut self, id: i64, lease: Lease) {
        self.all.insert(id, lease);
    }

    /// Takes the leases of `other` and keeps what is attached.
    pub(crate) fn replace(&mut self, other: Self) {
        self.all = other.all;
    }

    /// `block` replaced `previous` as the latest revision of its key.
    pub(crate) fn follow(&mut self, previous: Option<&Block>, block: &Block) {
        // Most keys have no lease, and cost nothing here.
        let before = previous.map_or(0, Block::lease);
        if before != 0 && before != block.lease() {
            self.attached.remove(&Place(before, block.key()));
        }
        if block.lease() != 0 {
            self.attached.insert(Attached(block.clone()));
        }
    }
}

impl View {
    /// The leases.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(crate) fn grant_lease(&mut self, id: i64, ttl: i64) -> Result<(), Rejection> {
        // 0 is what a key without a lease says.
        if id == 0 {
            return Err(Rejection::LeaseNotFound);
        }
        if self.leases.get(id).is_some() {
            return Err(Rejection::LeaseExists);
        }
        self.leases.grant(id, Lease { ttl, remaining_ttl: 0, granted: self.applied_index });
        Ok(())
    }

    /// Deletes the keys of a lease, in order and at one revision, and the lease.
    ///
    /// `expired` is what a leader says that saw the lease expire. One that has been replaced may not know that the lease was kept alive
    /// since: what it says counts in its own term only.
    pub(crate) fn revoke_lease(&mut self, id: i64, expired: Option<Expired>) -> Result<(), Rejection> {
        if expired.is_some_and(|expired| expired.term != self.applied_term) {
            return Err(Rejection::OldTerm);
        }
        let lease = self.leases.get(id).ok_or(Rejection::LeaseNotFound)?;
        if expired.is_some_and(|expired| expired.granted != lease.granted) {
            return Err(Rejection::LeaseNotFound);
        }
        self.leases.all.remove(&id);
        let keys: Vec<Block> = self.leases.blocks(id).cloned().collect();
        Changes::of(self).delete(&keys);
        Ok(())
    }

    /// Notes what is left of leases; in the term of the leader that says so, as for [`View::revoke_lease`]. One that has gone since is
    /// left out.
    pub(crate) fn checkpoint_leases(&mut self, term: u64, checkpoints: &[LeaseCheckpoint]) -> Result<(), Rejection> {
        if term != self.applied_term {
            return Err(Rejection::OldTerm);
        }
        for checkpoint in checkpoints {
            let is_meant = |lease: &&Lease| lease.granted == checkpoint.granted;
            if let Some(lease) = self.leases.get(checkpoint.id).filter(is_meant) {
                let mut lease = *lease;
                lease.remaining_ttl = checkpoint.remaining_ttl.clamp(0, lease.ttl);
                self.leases.all.insert(checkpoint.id, lease);
            }
        }
        Ok(())
    }
}
