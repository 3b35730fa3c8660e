//! `sharded-btree`: the analysis's scheme 4B, 256 ordered maps with a lock each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::entry::{Entry, apply};
use super::{SHARDS, shard_of};
use crate::lab::engine::{Answer, Engine, Found, Write};

/// Ordered maps by the hash of the key.
///
/// * A revision is drawn under the lock of the key's shard: of one key, revisions rise.
/// * A range holds all locks while it merges, and so sees one moment.
#[derive(Debug)]
pub(super) struct ShardedBTree {
    shards: Vec<RwLock<BTreeMap<Box<[u8]>, Entry>>>,
    revision: AtomicI64,
}

impl ShardedBTree {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), revision: AtomicI64::new(1) }
    }
}

impl Engine for ShardedBTree {
    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> u64 {
        for write in writes {
            let mut map = self.shards[shard_of(write.key())].write().unwrap_or_else(PoisonError::into_inner);
            let next = || self.revision.fetch_add(1, Ordering::AcqRel) + 1;
            answers.push(apply(&mut *map, write, next, || self.revision()));
        }
        writes.len() as u64
    }

    fn get(&self, key: &[u8], found: &mut Found) {
        let map = self.shards[shard_of(key)].read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = map.get(key) {
            found.push(entry.meta, key, &entry.value);
        }
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, found: &mut Found) -> u64 {
        let locked: Vec<_> =
            self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner)).collect();
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut walks: Vec<_> = locked.iter().map(|map| map.range::<[u8], _>(bounds).peekable()).collect();
        let mut heads = BinaryHeap::with_capacity(SHARDS);
        for (shard, walk) in walks.iter_mut().enumerate() {
            heads.extend(walk.peek().map(|(key, _)| Reverse((*key, shard))));
        }
        let mut visited = heads.len() as u64;
        while found.len() < limit {
            let Some(Reverse((_, shard))) = heads.pop() else { break };
            if let Some((key, entry)) = walks[shard].next() {
                found.push(entry.meta, key, &entry.value);
            }
            if let Some((key, _)) = walks[shard].peek() {
                visited += 1;
                heads.push(Reverse((*key, shard)));
            }
        }
        visited
    }

    fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }
}
