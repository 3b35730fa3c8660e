//! The store as consensus sees it, in the simulator.

use bytes::Bytes;
use kv_raft::{ConfChange, LogEntry, MachineError, Membership, Position, StateMachine};
use kv_store::{Applied, SnapshotLoader, Store, View, ViewReader};

/// A store that keeps its results until somebody takes them.
#[derive(Debug)]
pub struct Machine {
    store: Store,
    /// Results of this member's own commands, by sequence number.
    pub results: Vec<(u64, Applied)>,
}

impl Machine {
    /// Wraps a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, results: Vec::new() }
    }

    /// Where the published views are.
    #[must_use]
    pub fn reader(&self) -> ViewReader {
        self.store.reader()
    }

    /// The state, published or not.
    #[must_use]
    pub fn view(&self) -> &View {
        self.store.view()
    }
}

fn stop(error: impl ToString) -> MachineError {
    MachineError(error.to_string())
}

impl StateMachine for Machine {
    type Response = Applied;
    type Image = View;

    fn apply(&mut self, entry: &LogEntry, responses: &mut Vec<Applied>) -> Result<(), MachineError> {
        self.store.apply(entry.index, entry.term, &entry.payload, responses).map_err(stop)
    }

    fn apply_conf_change(&mut self, entry: &LogEntry) -> Result<(Applied, Option<ConfChange>), MachineError> {
        let (applied, change) = self.store.apply_conf_change(entry.index, entry.term, &entry.payload).map_err(stop)?;
        let change = change.map(|change| match change {
            kv_store::ConfChange::AddVoter(id) => ConfChange::AddVoter(id),
            kv_store::ConfChange::AddLearner(id) => ConfChange::AddLearner(id),
            kv_store::ConfChange::Remove(id) => ConfChange::Remove(id),
        });
        Ok((applied, change))
    }

    fn publish(&mut self) {
        self.store.publish();
    }

    fn done(&mut self, results: Vec<(u64, Applied)>) {
        self.results.extend(results);
    }

    fn maintain(&mut self) -> bool {
        // A small budget: purges begin and end at different entries on every member, and nothing may show it.
        self.store.purge(8)
    }

    fn applied(&self) -> Position {
        Position { index: self.view().applied_index(), term: self.view().applied_term() }
    }

    fn membership(&self) -> Membership {
        let members = self.view().members();
        Membership { voters: members.voters(), learners: members.learners() }
    }

    fn image(&self) -> View {
        self.view().clone()
    }

    fn write_image<E>(image: &View, sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        image.chunks().try_for_each(|chunk| sink(&chunk))
    }

    fn install(&mut self, source: &mut dyn FnMut() -> Result<Option<Bytes>, MachineError>) -> Result<(), MachineError> {
        let mut loader = SnapshotLoader::default();
        while let Some(chunk) = source()? {
            loader.push(&chunk).map_err(stop)?;
        }
        self.store.install(loader.finish().map_err(stop)?);
        Ok(())
    }
}
