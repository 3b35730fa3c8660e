//! Deterministic simulator of a kv cluster: the very same [`kv_raft::Node`], log, recovery and [`kv_store::Store`] that a server
//! runs, on a simulated clock, disk and network.
//!
//! # What it is
//! One seed fixes everything: which faults strike when, what clients ask, how long a write takes. [`simulate`] runs one seed and
//! says what was exercised, or which guarantee was broken; `kv-sim --seed N --trace` shows every step of it.
//!
//! # What it is not
//! It has no thread, socket or file of its own, and it does not run the driver or the gRPC front: those are tested as processes.
//!
//! # How data flow
//! ```text
//! Event heap (virtual time, seq) -> Cluster -> Node::step / poll -> Effects -> SimDisk (later: Written), Network (later: Deliver)
//!                                          -> Checker: every leader, every applied index, every answer
//! ```
//!
//! # What is checked
//! * At most one leader per term.
//! * Equal state hash at equal applied index, on every member, across restarts and snapshots.
//! * An acknowledged write is at its revision on every member in the end, and no two writes share a revision.
//! * No write takes effect twice, however often its message arrives.
//! * A linearizable read is at least as new as every write that was acknowledged before the read began.
//! * After the faults end the cluster commits and converges within a bound.
//! * A member that may start does: recovery never refuses what a crash or a power loss left.

pub mod checker;
pub mod cluster;
pub mod disk;
pub mod machine;
pub mod network;
pub mod plan;

pub use cluster::{Report, simulate};
pub use disk::{Op, SECTOR_BYTES, SimDisk, SimFile};
