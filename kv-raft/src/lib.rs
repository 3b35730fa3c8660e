//! Raft consensus (raft-rs) as a pure core, a crash-safe log, and the one driver that runs them.
//!
//! # What it is
//! * [`Node`]: one member's consensus as a value. [`Input`]s go in, [`Effects`] come out; it has no clock, thread, socket, file
//!   or randomness, so that a simulator runs the very same code.
//! * [`FileLog`]: the write-ahead log on a [`Disk`], and [`MemLog`], the same contract in memory ([`LogStore`]).
//! * [`StateMachine`]: what the replicated commands change; [`recover`] brings it back after a restart.
//! * [`Driver`]: the only code here with a thread. It turns effects into writes, applied entries and messages. [`Member`] is
//!   recovery, driver and numbered commands in one, for those who want nothing special.
//!
//! # What it is not
//! It knows a batch's frame and each command's header (origin, epoch, seq), never a body. It knows no etcd API and no runtime:
//! results are handed to [`StateMachine::done`], and whoever waits is the caller's business.
//!
//! # How data flow
//! ```text
//! Driver::propose -> [queue] -> one batch -> Node::step -> Node::poll -> Effects
//!    persist   -> LogStore::append (one write, one fdatasync) -> Input::Persisted
//!    committed -> StateMachine::apply ... publish ... done    -> Input::Applied
//!    messages  -> peers
//! ```
//!
//! # Invariants
//! * Nothing is answered before it is appended, synced, committed, applied and published, in that order.
//! * An error of the log is final: the process stops, and recovery decides what the disk holds.
//! * The rules of the contract between core and driver stand on [`Node`], each with a test.
//!
//! # Example
//! Three members of one process ([`Loopback`]); with a network of one's own it is [`Member::start`], whose events carry the
//! messages, and [`Handle::input`], which takes them.
//! ```
#![doc = include_str!("../examples/counter.rs")]
//! ```

mod applier;
pub mod disk;
mod driver;
mod file_log;
mod forward;
mod io;
mod log_store;
mod loopback;
mod mem_log;
mod member;
mod message;
mod node;
mod reads;
mod recovery;
mod segment;
pub mod snapshots;
mod state_machine;
mod tail;
mod validate;

pub use applier::{AppliedRun, Origin, apply_run};
pub use disk::{Disk, DiskFile, RealDisk, SyncMode};
pub use driver::{COMMAND_BYTES_MAX, Driver, DriverConfig, DriverEvent, Handle, ProposeError, Status};
pub use file_log::{Cut, FileLog, LogIds, LogOptions, Recovered, Retired, Retirement, Spare, SpareSpec};
pub use io::{
    ConfChange, Effects, Envelope, Input, Leadership, Membership, PeerMessage, Persist, Promise, RejectReason,
    Rejected, SnapshotToSend, Ticket,
};
pub use kv_codec::command::{CommandHeader, CommandRef};
pub use kv_codec::record::{EntryKind, HardState, LogEntry, Record, SnapshotMark};
pub use log_store::{LogError, LogStats, LogStore};
pub use loopback::Loopback;
pub use mem_log::MemLog;
pub use member::Member;
pub use message::MESSAGE_VERSION;
pub use node::{Node, NodeConfig, NodeState};
pub use recovery::{RecoverError, RecoverOptions, Replica, Report, install_snapshot, recover, write_snapshot};
pub use state_machine::{MachineError, StateMachine, commands};
pub use tail::{Position, TailLimits};
pub use validate::MessageError;
