//! Integration tests of kv-store: the store against a naive model, a real etcd's hashes, damaged bytes and concurrent readers.

#![allow(clippy::unwrap_used)]

mod against_model;
mod compaction;
mod errors;
mod etcd_hash;
mod large;
mod leases;
mod model;
mod readers;
mod script;
mod snapshot;
mod txns;
mod watch;
