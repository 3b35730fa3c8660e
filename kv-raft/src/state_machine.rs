//! What the replicated commands change.

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
    /// # Errors
    /// [`MachineError`] when the entry cannot be read.
    fn apply_conf_change(&mut self, entry: &LogEntry) -> Result<(Self::Response, Option<ConfChange>), MachineError>;

    /// Lets readers see all that was applied.
    fn publish(&mut self);

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
