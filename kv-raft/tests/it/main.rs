//! Integration tests of kv-raft.

#![allow(clippy::unwrap_used)]

mod elections;
mod harness;
mod log_conformance;
mod members;
mod node_rules;
mod nonsense;
