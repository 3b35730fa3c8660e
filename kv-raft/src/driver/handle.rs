//! What others hold of a running driver: a queue with a limit, and numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use kv_codec::record::ENTRY_BYTES_MAX;
use thiserror::Error;

use super::Event;
use crate::io::{ConfChange, Input};

/// Commands that may wait for the driver.
const QUEUE_COMMANDS_MAX: usize = 16 * 1024;
/// Bytes of commands that may wait for the driver.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Bytes of one command: with the batch around it, still an entry that the log takes.
pub const COMMAND_BYTES_MAX: usize = 63 << 20;
const _: () = assert!((COMMAND_BYTES_MAX as u64) < ENTRY_BYTES_MAX, "an entry holds a command and its batch's frame");

/// A command was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Too many commands wait.
    #[error("too many requests")]
    Full,
    /// The command is longer than [`COMMAND_BYTES_MAX`].
    #[error("the command is too large")]
    TooLarge,
    /// The driver has stopped.
    #[error("the driver has stopped")]
    Stopped,
}

/// Numbers that anyone may read at any time.
#[derive(Debug, Default)]
pub struct Status {
    pub(super) term: AtomicU64,
    pub(super) leader: AtomicU64,
    pub(super) committed: AtomicU64,
    pub(super) applied: AtomicU64,
    pub(super) lone_leader: AtomicBool,
    /// Entries that held commands.
    pub(super) entries: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) fsyncs: AtomicU64,
    pub(super) fsync_micros: AtomicU64,
    pub(super) snapshots: AtomicU64,
    pub(super) leader_changes: AtomicU64,
}

/// A copy of the numbers of [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusNumbers {
    /// The current term.
    pub term: u64,
    /// The leader's id; 0 for none known.
    pub leader: u64,
    /// The last committed index.
    pub committed: u64,
    /// The last applied and published index.
    pub applied: u64,
    /// Entries with commands that this member proposed.
    pub entries: u64,
    /// Commands in them.
    pub commands: u64,
    /// Writes of the log, each synced.
    pub fsyncs: u64,
    /// Microseconds spent in them.
    pub fsync_micros: u64,
    /// Snapshots written.
    pub snapshots: u64,
    /// How often another leader became known.
    pub leader_changes: u64,
}

impl Status {
    /// The numbers now; each is right, together they may be a moment apart.
    #[must_use]
    pub fn numbers(&self) -> StatusNumbers {
        let get = |number: &AtomicU64| number.load(Ordering::Acquire);
        StatusNumbers {
            term: get(&self.term),
            leader: get(&self.leader),
            committed: get(&self.committed),
            applied: get(&self.applied),
            entries: get(&self.entries),
            commands: get(&self.commands),
            fsyncs: get(&self.fsyncs),
            fsync_micros: get(&self.fsync_micros),
            snapshots: get(&self.snapshots),
            leader_changes: get(&self.leader_changes),
        }
    }

    /// Whether this member is the only voter, leads and has applied an entry of its term: the published view is then
    /// linearizable as it is. Look at this first, then load the view.
    #[must_use]
    pub fn is_lone_leader(&self) -> bool {
        self.lone_leader.load(Ordering::Acquire)
    }
}

/// Talks to a running driver. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) events: Sender<Event>,
    pub(super) queue: Arc<Queue>,
    pub(super) status: Arc<Status>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    commands: AtomicUsize,
    bytes: AtomicUsize,
}

impl Handle {
    /// Queues an encoded command. Its result comes through [`StateMachine::done`](crate::StateMachine::done) or
    /// [`DriverEvent::Rejected`](super::DriverEvent::Rejected), by its sequence number.
    ///
    /// # Errors
    /// [`ProposeError::Full`] at once when too much waits, [`ProposeError::TooLarge`]; the command is then in no log.
    pub fn propose(&self, command: Vec<u8>) -> Result<(), ProposeError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge);
        }
        let commands = self.queue.commands.fetch_add(1, Ordering::AcqRel);
        let bytes = self.queue.bytes.fetch_add(command.len(), Ordering::AcqRel);
        if commands >= QUEUE_COMMANDS_MAX || bytes >= QUEUE_BYTES_MAX {
            self.queue.release(command.len());
            return Err(ProposeError::Full);
        }
        self.send(Event::Command(command))
    }

    /// Queues a membership change, as an encoded command and as what raft has to do.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`].
    pub fn propose_conf_change(&self, change: ConfChange, command: Vec<u8>) -> Result<(), ProposeError> {
        self.send(Event::ConfChange(change, command))
    }

    /// Gives the node an input: a peer's message, a read, the fate of a snapshot.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`].
    pub fn input(&self, input: Input) -> Result<(), ProposeError> {
        self.send(Event::Input(input))
    }

    /// Gives the node an input, and drops `held` once it was taken: who gives permits to those who send bounds what waits.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`].
    pub fn input_held(&self, input: Input, held: impl Send + 'static) -> Result<(), ProposeError> {
        self.send(Event::Held(input, Box::new(held)))
    }

    /// Asks the driver to end once everything queued before is done. The log then says that all of it is durable.
    pub fn shutdown(&self) {
        // A driver that has stopped needs no telling.
        let _ = self.send(Event::Shutdown);
    }

    /// The driver's numbers.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Commands that wait for the driver.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.commands.load(Ordering::Acquire)
    }

    fn send(&self, event: Event) -> Result<(), ProposeError> {
        self.events.send(event).map_err(|_| ProposeError::Stopped)
    }
}

impl Queue {
    pub(super) fn release(&self, bytes: usize) {
        self.commands.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}
