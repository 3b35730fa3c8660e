//! Applies committed entries and finds out whose results they are.

use kv_codec::command::Batch;
use kv_codec::record::{EntryKind, LogEntry};

use crate::io::Input;
use crate::node::carries_commands;
use crate::state_machine::{MachineError, StateMachine};

/// One run of committed entries, applied and published.
#[derive(Debug)]
pub struct AppliedRun<R> {
    /// What the node has to know.
    pub input: Input,
    /// The results of this run of this member, by sequence number, in log order.
    pub results: Vec<(u64, R)>,
}

/// Whose commands wait for a result here: a member's id and its boot epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The member.
    pub id: u64,
    /// Which run of it.
    pub epoch: u64,
}

/// Applies `entries`, one run of [`Effects::committed`](crate::Effects::committed), in order and publishes once. The caller hands
/// the results over.
///
/// # Errors
/// [`MachineError`] when an entry cannot be read; the process must stop.
///
/// # Panics
/// When there is no entry, or the state machine does not answer each command once.
pub fn apply_run<M: StateMachine>(
    machine: &mut M,
    origin: Origin,
    entries: &[LogEntry],
) -> Result<AppliedRun<M::Response>, MachineError> {
    let last = entries.last().expect("a run has at least one entry");
    let mut results = Vec::new();
    let mut responses = Vec::new();
    let mut input = Input::Applied(last.index);
    for entry in entries {
        if let Some(change) = apply_one(machine, entry, &mut responses)? {
            debug_assert_eq!(entry.index, last.index, "a conf change ends its run");
            input = change;
        }
        collect(origin, entry, responses.drain(..), &mut results)?;
    }
    machine.publish();
    Ok(AppliedRun { input, results })
}

/// Applies one entry; for a conf change, what the node has to step.
pub(crate) fn apply_one<M: StateMachine>(
    machine: &mut M,
    entry: &LogEntry,
    responses: &mut Vec<M::Response>,
) -> Result<Option<Input>, MachineError> {
    match entry.kind {
        EntryKind::Normal => {
            machine.apply(entry, responses)?;
            Ok(None)
        }
        EntryKind::ConfChange => {
            let (response, change) = machine.apply_conf_change(entry)?;
            responses.push(response);
            Ok(Some(Input::ConfApplied { index: entry.index, change, membership: machine.membership() }))
        }
    }
}

/// Keeps the responses whose commands came from `origin`.
fn collect<R>(
    origin: Origin,
    entry: &LogEntry,
    mut responses: impl ExactSizeIterator<Item = R>,
    results: &mut Vec<(u64, R)>,
) -> Result<(), MachineError> {
    if !carries_commands(entry) {
        return Ok(());
    }
    let unreadable = |error| MachineError(format!("entry {} cannot be read: {error}", entry.index));
    for command in Batch::decode(&entry.payload).map_err(unreadable)? {
        let header = command.map_err(unreadable)?.header;
        let response = responses.next().expect("the state machine answers every command");
        if (header.origin, header.epoch) == (origin.id, origin.epoch) {
            results.push((header.seq, response));
        }
    }
    assert!(responses.next().is_none(), "the state machine answers each command once");
    Ok(())
}
