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
//!                                          -> Checker: leaders, logs, promises, states, at once
//!                                          -> History: every call and its answer, at the end
//! ```
//!
//! # What is checked
//! * At most one leader per term, and it has every entry committed in earlier terms.
//! * Equal entries at equal index and term; equal state hash at equal applied index, across restarts and snapshots.
//! * No message leaves before what it promises is durable; no client is answered before a quorum has the entry.
//! * A member comes back with exactly what was durable, or that and the write that was under way.
//! * Every answer, whole, is that of a naive model that did the same in the log's order; nothing takes effect twice, or after it was
//!   refused; every call takes its place after all that were answered before it was made.
//! * The calls on one key, sampled, have an order that explains them without looking at revisions.
//! * After the faults end a quorum commits, then all members converge, within a bound; what they keep is bounded.
//! * Damage at rest is refused or harmless.

pub mod checker;
pub mod cluster;
pub mod decoders;
pub mod disk;
pub mod history;
pub mod machine;
pub mod network;
pub mod plan;
pub mod report;

pub use cluster::{Options, plan_of, simulate, simulate_plan};
pub use disk::{Op, SECTOR_BYTES, SimDisk, SimFile};
pub use plan::Plan;
pub use report::{Broken, Counts, Report};
