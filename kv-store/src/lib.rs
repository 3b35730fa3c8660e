//! An MVCC key-value store whose whole state is one immutable [`View`] behind an atomic pointer.
//!
//! # What it is
//! The replicated state machine of kv: keys with all their revisions, leases, alarms, and the cluster's members. A single [`Store`] applies
//! batches of commands in log order and *publishes* a [`View`]; any number of readers load the latest one through a
//! [`ViewReader`] and keep it as long as they like.
//!
//! # What it is not
//! It knows no raft, no network, no clock and no disk: the same batches give the same state, byte for byte, everywhere. It does
//! not speak the etcd API's protobuf; `kv-server` translates.
//!
//! # How data flow
//! ```text
//! batch (kv_codec::command) -> Store::apply -> Applied per command
//!                              Store::publish -> View <- ViewReader::load (readers, never a lock)
//!                                                View -> range, read_txn, hash_kv, snapshot
//!                              Store::purge   -> drops what compactions hide, a little at a time
//! ```
//!
//! # Invariants
//! * A published view never changes.
//! * A command takes effect whole or not at all; a command that is refused changes nothing but the applied index.
//! * `revision` rises by one for each command that changed a key, and never falls. It is a number of its own: what was purged does
//!   not take it along.
//! * Nothing inside `apply` takes time that grows with the store, only with its logarithm and the command. A compaction moves a
//!   number; `purge` does the work, as little at a time as its caller asks for.
//! * What was purged shows nowhere: not in a read, a hash or a snapshot, only in [`ByteCounts::history`].
//! * What a view shows is there as long as the view, whatever is purged. A [`Block`] that is cloned out of it may outlive it.
//!
//! # Caveats
//! * A view that is held keeps what it shows, purged or not: memory that no count of bytes includes. Whoever lets go of the last view of
//!   something releases it, on its own thread: a quarter of a second for a million revisions, and a lock for a few words. Hold one for an answer, not for a connection.
//! * A range at an earlier revision passes over keys that lived at another time and whose history is kept.
//! * A range that sorts or filters visits all its keys, whatever its limit.
//!
//! # Example
//! ```
//! use kv_codec::command::{Batch, BatchBuilder, Body, CommandHeader, Put};
//! use kv_store::{Members, RangeQuery, Store};
//!
//! let mut store = Store::genesis(Members::default());
//! let put = Body::Put(Put { key: b"k", value: b"v", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false });
//! let mut batch = BatchBuilder::default();
//! batch.push(&put.encode(&CommandHeader::default()));
//! let bytes = batch.finish();
//! store.apply(2, 1, &bytes, &mut Vec::new())?;
//! store.publish();
//!
//! let view = store.reader().load();
//! let found = view.range(&RangeQuery::single(b"k"))?;
//! assert_eq!(found.kvs[0].value(), b"v");
//! assert_eq!(found.kvs[0].mod_revision(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alarm;
mod block;
mod changes;
mod compaction;
mod error;
mod hash;
mod key_range;
mod lease;
mod lessor;
mod link;
mod members;
mod range;
mod restore;
mod revision;
mod snapshot;
mod store;
mod trees;
mod txn;
mod view;
mod walk;
mod watch;

pub use alarm::Alarms;
pub use block::Block;
pub use error::{ApplyError, ReadError, Rejection};
pub use hash::KvHash;
pub use key_range::{Bounds, KeyRange};
pub use lease::{Lease, Leases};
pub use lessor::{Due, Lessor, Noted, Renewal};
pub use members::{ConfChange, MemberChange, Members};
pub use range::{RangeQuery, Ranged, SortOrder, SortTarget};
pub use revision::Revision;
pub use snapshot::{SNAPSHOT_VERSION, SnapshotChunks, SnapshotLoader};
pub use store::{Applied, Outcome, Store, ViewReader};
pub use txn::{OpOutcome, TxnOutcome};
pub use view::{ByteCounts, View};
pub use walk::Walk;
pub use watch::{
    Event, INBOX_BYTES_MAX, INBOX_EVENTS_MAX, Next, Taken, WatchCounts, WatchHub, WatchMessage, WatchRefusal,
    WatchRequest, WatchStream,
};
