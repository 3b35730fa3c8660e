//! The eight designs of the analysis, each as it describes it.

mod btree_lock;
mod concurrent_map;
mod entry;
mod hash_lock;
mod no_engine;
#[cfg(feature = "rocksdb")]
mod rocks;
mod sharded_btree;
mod sharded_map;
mod snapshot;

use std::path::Path;

use anyhow::Result;

pub(crate) use snapshot::Snapshot;
pub(crate) use snapshot::body as snapshot_body;

use super::engine::Engine;
use super::path::Switches;

/// The name of our own.
pub(crate) const OURS: &str = "snapshot";

/// A design.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rival {
    /// Its name in every table.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) about: &'static str,
    /// Operations per second that the analysis measured or predicts for its mix.
    pub(crate) predicted: &'static str,
    /// Which of the pipeline's faults belong to it.
    pub(crate) switches: Switches,
    /// Makes an empty one; files go into the directory. `None` when it is not in this build.
    pub(crate) build: fn(&Path) -> Result<Built>,
}

/// An empty engine, or nothing where this build has none.
pub(crate) type Built = Option<Box<dyn Engine>>;

/// How a build without it says so.
pub(crate) const ROCKSDB_NOT_BUILT: &str = "rocksdb is not built: install clang, libclang-dev and g++ (Debian's names), then \
                                     `cargo xtask bench lab --features rocksdb`; its C++ takes 10 to 30 minutes once";

/// Ours last, as in the analysis.
pub(crate) const RIVALS: [Rival; 8] = [
    Rival {
        name: "global-lock",
        about: "a hash map under one RwLock; commands in JSON, applied one lock at a time; the sequence number from a mutex, \
                formatted into a string; the waiting caller locks again for its answer; ranges scan everything and sort",
        predicted: "1,455 (measured)",
        switches: Switches::ANALYSED,
        build: |_| Ok(Some(Box::new(hash_lock::HashLock::new(false)))),
    },
    Rival {
        name: "write-batch",
        about: "the same with one lock per committed batch",
        predicted: "3,600",
        switches: Switches { op_by_op: false, ..Switches::ANALYSED },
        build: |_| Ok(Some(Box::new(hash_lock::HashLock::new(true)))),
    },
    Rival {
        name: "sharded-map",
        about: "256 hash maps, each under an RwLock, chosen by FNV-1a; ranges scan all of them and sort",
        predicted: "20,000-30,000",
        switches: Switches::LEAN,
        build: |_| Ok(Some(Box::new(sharded_map::ShardedMap::new()))),
    },
    Rival {
        name: "concurrent-map",
        about: "the crate dashmap; ranges scan everything and sort",
        predicted: "21,800",
        switches: Switches::LEAN,
        build: |_| Ok(Some(Box::new(concurrent_map::ConcurrentMap::new()))),
    },
    Rival {
        name: "btree-lock",
        about: "the standard library's BTreeMap under one RwLock, locked once per committed batch",
        predicted: "-",
        switches: Switches::LEAN,
        build: |_| Ok(Some(Box::new(btree_lock::BTreeLock::new()))),
    },
    Rival {
        name: "sharded-btree",
        about: "256 BTreeMaps, each under an RwLock, chosen by FNV-1a; ranges lock all of them and merge",
        predicted: "30,000-50,000",
        switches: Switches::LEAN,
        build: |_| Ok(Some(Box::new(sharded_btree::ShardedBTree::new()))),
    },
    Rival {
        name: "rocksdb",
        about: "RocksDB through the crate rocksdb: one WriteBatch per commit, iterators, an atomic revision; the raft log is its log",
        predicted: "4,921 (measured)",
        switches: Switches::LEAN,
        build: rocksdb,
    },
    Rival {
        name: OURS,
        about: "kv-store: one persistent ordered map with all revisions, published through an atomic pointer once per \
                committed batch, or for several that come at the same time; reads take no lock",
        predicted: "-",
        switches: Switches::LEAN,
        build: |_| Ok(Some(Box::new(Snapshot::new(false)))),
    },
];

/// What lies around an engine, alone: no design, and in no chart.
pub(crate) const NO_ENGINE: Rival = Rival {
    name: "(no engine)",
    about: "keeps nothing",
    predicted: "-",
    switches: Switches::LEAN,
    build: |_| Ok(Some(Box::new(no_engine::NoEngine::new()))),
};

#[cfg(feature = "rocksdb")]
fn rocksdb(dir: &Path) -> Result<Built> {
    Ok(Some(Box::new(rocks::Rocks::open(dir)?)))
}

#[cfg(not(feature = "rocksdb"))]
fn rocksdb(_: &Path) -> Result<Built> {
    Ok(None)
}

/// The options that RocksDB runs with.
#[must_use]
pub(crate) fn rocksdb_options() -> Option<&'static str> {
    #[cfg(feature = "rocksdb")]
    return Some(rocks::OPTIONS);
    #[cfg(not(feature = "rocksdb"))]
    None
}

/// How many shards the analysis proposes.
const SHARDS: usize = 256;

/// FNV-1a of a key, as the analysis picks a shard.
fn shard_of(key: &[u8]) -> usize {
    let hash = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    usize::try_from(hash % SHARDS as u64).expect("below the number of shards")
}
