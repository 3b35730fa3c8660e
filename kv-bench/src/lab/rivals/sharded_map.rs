//! `sharded-map`: the analysis's scheme 1, 256 hash maps with a lock each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::entry::{Entry, apply, sort_and_cut};
use super::{SHARDS, shard_of};
use crate::lab::engine::{Answer, Engine, Found, Write};

/// Hash maps by the hash of the key.
///
/// * A revision is drawn under the lock of the key's shard: of one key, revisions rise.
/// * A range reads one shard after the other: it may see a later write and miss an earlier one.
#[derive(Debug)]
pub(super) struct ShardedMap {
    shards: Vec<RwLock<HashMap<Box<[u8]>, Entry>>>,
    revision: AtomicI64,
}

impl ShardedMap {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), revision: AtomicI64::new(1) }
    }
}

impl Engine for ShardedMap {
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
        let (mut visited, mut scanned) = (0, Vec::new());
        for shard in &self.shards {
            let map = shard.read().unwrap_or_else(PoisonError::into_inner);
            visited += map.len() as u64;
            let within = map.iter().filter(|(key, _)| (from..to).contains(&&key[..]));
            scanned.extend(within.map(|(key, entry)| (key.clone(), entry.clone())));
        }
        sort_and_cut(scanned.iter().map(|(key, entry)| (&key[..], entry)).collect(), limit, found);
        visited
    }

    fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }
}
