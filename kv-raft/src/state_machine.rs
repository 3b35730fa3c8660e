//! What the replicated commands change.

use kv_codec::command::{Batch, CommandRef};
use kv_codec::record::LogEntry;
use thiserror::Error;

use crate::io::{ConfChange, Membership};
use crate::tail::Position;

/// A state machine cannot go on: a committed entry or a stored snapshot cannot be read. The process must stop.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct MachineError(pub String);

/// The state that the log replicates.
///
/// Entries come in order, each once, the normal ones through [`StateMachine::apply`] and conf changes through
/// [`StateMachine::apply_conf_change`]. Results depend on the state and the entry alone.
///
/// The last applied entry and the members are part of the state, and of its image: a snapshot stands for the log, and must say for
/// how much of it. A new cluster's members all start as of entry 1 of term 1.
pub trait StateMachine: Send + 'static {
    /// The result of one command.
    type Response: Send + 'static;
    /// The whole state at one moment, to be written down by another thread. Making one takes constant time.
    type Image: Send + 'static;

    /// Applies a normal entry and pushes one response per command of its batch. An entry without payload has none.
    ///
    /// # Errors
    /// [`MachineError`] when the entry cannot be read.
    fn apply(&mut self, entry: &LogEntry, responses: &mut Vec<Self::Response>) -> Result<(), MachineError>;

    /// Applies a conf-change entry: its response, and what raft has to follow if the change was accepted.
    ///
    /// By itself, for members that never change: the entry's command is applied as any other, and raft's change is refused.
    ///
    /// # Errors
    /// [`MachineError`] when the entry cannot be read.
    fn apply_conf_change(&mut self, entry: &LogEntry) -> Result<(Self::Response, Option<ConfChange>), MachineError> {
        let mut responses = Vec::new();
        self.apply(entry, &mut responses)?;
        let response =
            responses.pop().ok_or_else(|| MachineError(format!("entry {} changes no member", entry.index)))?;
        Ok((response, None))
    }

    /// Lets readers see all that was applied. Nothing by itself, for a machine that nobody reads beside its results.
    fn publish(&mut self) {}

    /// Hands over the results of the commands that this member's current run sent, by sequence number. Called once per run of
    /// applied entries, after [`StateMachine::publish`].
    fn done(&mut self, results: Vec<(u64, Self::Response)>);

    /// Does a small step of the work that entries left behind and that changes nothing readers see; true while more is left.
    /// Called when nothing else waits.
    fn maintain(&mut self) -> bool {
        false
    }

    /// The last applied entry.
    fn applied(&self) -> Position;

    /// The members, as applied.
    fn membership(&self) -> Membership;

    /// The state as it is now.
    fn image(&self) -> Self::Image;

    /// Writes an image down in chunks of any size.
    ///
    /// # Errors
    /// Whatever `sink` returns.
    fn write_image<E>(image: &Self::Image, sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E>;

    /// Replaces the state by the one that [`StateMachine::write_image`] wrote; `source` yields its chunks and then `None`.
    /// The new state is not published.
    ///
    /// # Errors
    /// [`MachineError`] when the chunks cannot be read; the state is then as before.
    fn install(
        &mut self,
        source: &mut dyn FnMut() -> Result<Option<bytes::Bytes>, MachineError>,
    ) -> Result<(), MachineError>;
}

/// The commands of an entry, in order; none of one without payload.
///
/// # Errors
/// [`MachineError`] when the entry cannot be read.
pub fn commands(entry: &LogEntry) -> Result<Vec<CommandRef<'_>>, MachineError> {
    if entry.payload.is_empty() {
        return Ok(Vec::new());
    }
    let unreadable = |error| MachineError(format!("entry {} cannot be read: {error}", entry.index));
    Batch::decode(&entry.payload).and_then(Iterator::collect).map_err(unreadable)
}
