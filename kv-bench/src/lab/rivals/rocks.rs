//! `rocksdb`: the real one, under the raft log.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rocksdb::{BlockBasedOptions, Cache, DB, DBPinnableSlice, Options, ReadOptions, WriteBatch, WriteOptions};

use super::SHARDS;
use crate::lab::engine::{Answer, Engine, Found, Meta, Pair, Prev, Write};

/// What is set, in words; everything else is RocksDB's own default.
pub(super) const OPTIONS: &str = "of its tuning guide: increase_parallelism(cores), 64 MiB write buffers (3 of them), level-style compaction with dynamic level \
     bytes, whole-key filter in the memtable (ratio 0.02), bloom filters of 10 bits, a block cache of 512 MiB with index and \
     filter blocks in it and those of level 0 pinned, format version 5; no compression; its own log off, because the raft log \
     is the log";

const WRITE_BUFFER_BYTES: usize = 64 << 20;
const CACHE_BYTES: usize = 512 << 20;
/// Bytes of the numbers before a value.
const META_BYTES: usize = 24;

/// A RocksDB database.
///
/// * A write holds the lock of its key's stripe from reading what was there to writing what is: of one key, revisions rise.
/// * The revision is an atomic.
pub(super) struct Rocks {
    db: DB,
    unlogged: WriteOptions,
    stripes: Vec<Mutex<()>>,
    revision: AtomicI64,
}

impl Rocks {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.increase_parallelism(
            std::thread::available_parallelism().map_or(1, |cores| cores.get().try_into().unwrap_or(1)),
        );
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_write_buffer_number(3);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(0.02);
        let mut blocks = BlockBasedOptions::default();
        blocks.set_bloom_filter(10.0, false);
        blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks.set_format_version(5);
        options.set_block_based_table_factory(&blocks);
        let db = DB::open(&options, dir).with_context(|| format!("opening RocksDB in {}", dir.display()))?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let stripes = (0..SHARDS).map(|_| Mutex::default()).collect();
        Ok(Self { db, unlogged, stripes, revision: AtomicI64::new(1) })
    }

    fn stripe_of(key: &[u8]) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        usize::try_from(hash % SHARDS as u64).expect("below the number of stripes")
    }

    fn find(&self, key: &[u8]) -> Option<DBPinnableSlice<'_>> {
        self.db.get_pinned(key).expect("a database in a fresh directory can be read")
    }

    fn next(&self) -> i64 {
        self.revision.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Adds one change to `batch`, whose earlier changes `pending` holds: a batch cannot be read back.
    fn add(&self, write: &Write<'_>, pending: &mut Vec<Pending>, batch: &mut WriteBatch) -> Answer {
        let key = write.key();
        let (before, pinned);
        match pending.iter().rev().find(|pending| pending.key == key) {
            Some(earlier) => before = earlier.stored.as_deref(),
            None => {
                pinned = self.find(key);
                before = pinned.as_deref();
            }
        }
        let meta = before.map(|stored| split(stored).0);
        match *write {
            Write::Put { value, prev_kv, .. } => {
                let revision = self.next();
                let prev = before.filter(|_| prev_kv).map(|stored| {
                    let (meta, value) = split(stored);
                    Prev::Pair(Pair { meta, key: key.to_vec(), value: value.to_vec() })
                });
                let answer = Answer { revision, existed: meta.is_some(), prev };
                let stored = join(Meta::next(meta, revision), value);
                batch.put(key, &stored);
                pending.push(Pending { key: key.to_vec(), stored: Some(stored) });
                answer
            }
            Write::Delete { .. } if meta.is_none() => Answer { revision: self.revision(), ..Answer::default() },
            Write::Delete { .. } => {
                let answer = Answer { revision: self.next(), existed: true, prev: None };
                batch.delete(key);
                pending.push(Pending { key: key.to_vec(), stored: None });
                answer
            }
        }
    }
}

/// A change that is in the batch and not yet in the database.
struct Pending {
    key: Vec<u8>,
    stored: Option<Vec<u8>>,
}

fn join(meta: Meta, value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(META_BYTES + value.len());
    for number in [meta.create_revision, meta.mod_revision, meta.version] {
        stored.extend_from_slice(&number.to_le_bytes());
    }
    stored.extend_from_slice(value);
    stored
}

fn split(stored: &[u8]) -> (Meta, &[u8]) {
    let number = |at: usize| i64::from_le_bytes(stored[at..at + 8].try_into().expect("eight bytes"));
    (Meta { create_revision: number(0), mod_revision: number(8), version: number(16) }, &stored[META_BYTES..])
}

impl Engine for Rocks {
    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> u64 {
        // All stripes of the batch, in order, each once: two batches never wait for each other.
        let mut stripes: Vec<usize> = writes.iter().map(|write| Self::stripe_of(write.key())).collect();
        stripes.sort_unstable();
        stripes.dedup();
        let lock = |stripe: &usize| self.stripes[*stripe].lock().unwrap_or_else(PoisonError::into_inner);
        let locked: Vec<_> = stripes.iter().map(lock).collect();
        let (mut batch, mut pending) = (WriteBatch::default(), Vec::new());
        answers.extend(writes.iter().map(|write| self.add(write, &mut pending, &mut batch)));
        self.db.write_opt(batch, &self.unlogged).expect("a database in a fresh directory can be written");
        locked.len() as u64
    }

    fn get(&self, key: &[u8], found: &mut Found) {
        if let Some(stored) = self.find(key) {
            let (meta, value) = split(&stored);
            found.push(meta, key, value);
        }
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, found: &mut Found) -> u64 {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let mut walk = self.db.raw_iterator_opt(options);
        walk.seek(from);
        while found.len() < limit {
            let Some((key, stored)) = walk.item() else { break };
            let (meta, value) = split(stored);
            found.push(meta, key, value);
            walk.next();
        }
        found.len() as u64
    }

    fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }
}
