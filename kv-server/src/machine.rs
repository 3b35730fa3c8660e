//! The store as consensus sees it: where `kv-store` and `kv-raft`, which do not know each other, meet.

use std::sync::Arc;

use bytes::Bytes;
use kv_raft::{ConfChange, LogEntry, MachineError, Membership, Position, StateMachine};
use kv_store::{Applied, Leases, Members, SnapshotLoader, Store, View};
use tokio::sync::watch;

use crate::bell;
use crate::lessors::Lessors;
use crate::waiters::Completion;
use crate::watches::Watches;

/// Revisions that one step of a compaction drops: well under a millisecond.
const PURGE_BLOCKS: usize = 512;

/// A store, and where its results go.
#[derive(Debug)]
pub(crate) struct Machine {
    store: Store,
    completions: bell::Sender<Completion>,
    /// The published index, for reads that wait for one.
    applied: watch::Sender<u64>,
    /// The state before a snapshot was installed, until the new one is published.
    replaced: Option<View>,
    /// The view before the published one, until who waits for results has them.
    before: Option<Arc<View>>,
    watches: Arc<Watches>,
    lessors: Arc<Lessors>,
    /// The leases as last published.
    leases: Leases,
    /// The members as last published, and who wants to know.
    members: (Members, watch::Sender<Members>),
}

impl Machine {
    pub(crate) fn new(store: Store, completions: bell::Sender<Completion>, applied: watch::Sender<u64>) -> Self {
        let watches = Arc::new(Watches::new(store.view()));
        let leases = store.view().leases().clone();
        let members = store.view().members().clone();
        let members = (members.clone(), watch::channel(members).0);
        Self {
            store,
            completions,
            applied,
            watches,
            lessors: Arc::default(),
            leases,
            members,
            replaced: None,
            before: None,
        }
    }

    /// The members, whenever they change.
    pub(crate) fn members(&self) -> watch::Receiver<Members> {
        self.members.1.subscribe()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn lessors(&self) -> Arc<Lessors> {
        Arc::clone(&self.lessors)
    }

    pub(crate) fn watches(&self) -> Arc<Watches> {
        Arc::clone(&self.watches)
    }
}

/// Drops what may be the last of a whole store, on a thread of its own: at a million keys that takes a good part of a second.
pub(crate) fn free(last: impl Send + 'static) {
    // Where there is no thread left, it is dropped here.
    drop(std::thread::Builder::new().name("kv-free".into()).spawn(move || drop(last)));
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
        self.before = Some(self.store.publish());
        self.applied.send_replace(self.store.view().applied_index());
        if let Some(replaced) = self.replaced.take() {
            self.before = None;
            free(replaced);
        }
        self.watches.published();
        let leases = self.store.view().leases();
        if !leases.is_same(&self.leases) {
            self.leases = leases.clone();
            self.lessors.changed();
        }
        // The same members are the same pointer.
        let members = self.store.view().members();
        if *members != self.members.0 {
            self.members.0 = members.clone();
            self.members.1.send_replace(members.clone());
        }
    }

    fn done(&mut self, results: Vec<(u64, Applied)>) {
        if !results.is_empty() {
            self.completions.send(Completion::Applied(results));
        }
        self.before = None;
    }

    fn maintain(&mut self) -> bool {
        let view = self.store.view();
        // Those who watch find what they have not seen yet in the history; it goes at the next tick.
        if view.is_purged() || !self.watches.has_handed_out(view.compact_revision()) {
            return false;
        }
        let more = self.store.purge(PURGE_BLOCKS);
        // Readers let go of what was dropped, and whoever waits for a compaction looks again.
        self.publish();
        self.before = None;
        more
    }

    fn applied(&self) -> Position {
        let view = self.store.view();
        Position { index: view.applied_index(), term: view.applied_term() }
    }

    fn membership(&self) -> Membership {
        let members = self.store.view().members();
        Membership { voters: members.voters(), learners: members.learners() }
    }

    fn image(&self) -> View {
        self.store.view().clone()
    }

    fn write_image<E>(image: &View, sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        image.chunks().try_for_each(|chunk| sink(&chunk))
    }

    fn install(&mut self, source: &mut dyn FnMut() -> Result<Option<Bytes>, MachineError>) -> Result<(), MachineError> {
        let mut loader = SnapshotLoader::default();
        while let Some(chunk) = source()? {
            loader.push(&chunk).map_err(stop)?;
        }
        let view = loader.finish().map_err(stop)?;
        self.replaced = Some(self.store.view().clone());
        self.store.install(view);
        Ok(())
    }
}
