//! The single writer: applies batches, publishes views.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use kv_codec::command::{Batch, Body};
use kv_codec::planted::{Bug, is_planted};

use crate::changes::Changes;
use crate::txn::write_txn;
use crate::{Alarms, ApplyError, Block, ConfChange, MemberChange, Members, Rejection, TxnOutcome, View};

/// The result of one command, handed over with the wake-up: nobody reads the store again to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The store's revision after the command: what goes into the response's header.
    pub revision: i64,
    /// What it did.
    pub outcome: Outcome,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A key was put; what it was before, if it was live.
    Put {
        /// The previous pair.
        prev: Option<Block>,
    },
    /// Keys were deleted; what they were, in key order.
    Deleted {
        /// The deleted pairs.
        prev: Vec<Block>,
    },
    /// A transaction was run.
    Txn(TxnOutcome),
    /// History was given up. What takes the memory goes with [`Store::purge`].
    Compacted,
    /// A lease is there.
    LeaseGranted,
    /// A lease and its keys are gone.
    LeaseRevoked,
    /// It was noted what is left of leases.
    LeasesCheckpointed,
    /// The alarms are now these.
    Alarms(Alarms),
    /// The members are now these.
    Members(Members),
    /// The command was refused and changed nothing.
    Rejected(Rejection),
}

/// The store's single writer.
///
/// * Entries are applied in order, each once: `applied_index` rises by one for each.
/// * Readers see nothing of it before [`Store::publish`].
#[derive(Debug)]
pub struct Store {
    view: View,
    published: Arc<ArcSwap<View>>,
}

/// Loads the latest published view. Cloning copies a pointer.
#[derive(Debug, Clone)]
pub struct ViewReader(Arc<ArcSwap<View>>);

impl ViewReader {
    /// The latest view, for a short look. Takes no lock. Do not hold it across an await: use [`ViewReader::load_full`].
    #[must_use]
    pub fn load(&self) -> Guard<Arc<View>> {
        self.0.load()
    }

    /// The latest view, to keep.
    #[must_use]
    pub fn load_full(&self) -> Arc<View> {
        self.0.load_full()
    }
}

impl Store {
    /// The state that every member of a new cluster starts from: as of entry 1 of term 1.
    #[must_use]
    pub fn genesis(members: Members) -> Self {
        Self::from_view(View::genesis(members))
    }

    /// What a member starts from that joins a cluster: nothing, not even that cluster's first entry. It is sent a snapshot, and before
    /// that no entry can follow.
    #[must_use]
    pub fn newcomer() -> Self {
        let mut view = View::genesis(Members::default());
        (view.applied_index, view.applied_term) = (0, 0);
        Self::from_view(view)
    }

    /// A store that goes on from `view`, which is published.
    #[must_use]
    pub fn from_view(view: View) -> Self {
        let view = view.into_writers();
        let published = Arc::new(ArcSwap::from_pointee(view.clone()));
        Self { view, published }
    }

    /// Where readers find the views of this store.
    #[must_use]
    pub fn reader(&self) -> ViewReader {
        ViewReader(Arc::clone(&self.published))
    }

    /// The state after everything applied, published or not.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Lets readers see all that was applied. Once per run of entries.
    ///
    /// Returns the view that they saw until now. If no reader holds it, to drop it is to release what only it shows: whoever has a lock
    /// lets go of that first, and whoever is waited for answers first.
    pub fn publish(&mut self) -> Arc<View> {
        self.view.trees.publish();
        self.published.swap(Arc::new(self.view.clone()))
    }

    /// Drops some of what compactions hide, and says whether any is left. Nothing that can be read, and no hash, depends on it: each
    /// replica purges when it likes. The memory is free once the view is published and no reader holds an older one.
    ///
    /// `budget` bounds the work: one for each revision that is looked at, and one for each 2 KiB of them that are hashed.
    pub fn purge(&mut self, budget: usize) -> bool {
        self.view.purge(budget)
    }

    /// Replaces the whole state by `view`, a snapshot's. Readers see it after [`Store::publish`].
    pub fn install(&mut self, view: View) {
        self.view = view.into_writers();
        if is_planted(Bug::InstallForgetsCompaction) {
            self.view.compact_revision = -1;
        }
    }

    /// Applies the normal entry `index` of `term`: `batch` is empty for a leader's first entry, or a
    /// [`kv_codec::command::Batch`]. Pushes one [`Applied`] per command to `results`.
    ///
    /// # Errors
    /// [`ApplyError`]; the state must not be used after one.
    pub fn apply(&mut self, index: u64, term: u64, batch: &[u8], results: &mut Vec<Applied>) -> Result<(), ApplyError> {
        self.advance(index, term)?;
        if batch.is_empty() {
            return Ok(());
        }
        let unreadable = |source| ApplyError::Decode { index, source };
        for command in Batch::decode(batch).map_err(unreadable)? {
            let body = Body::decode(command.map_err(unreadable)?.body).map_err(unreadable)?;
            if let Err(rejection) = self.view.check_alarms(&body) {
                results.push(self.result(Err(rejection)));
                continue;
            }
            let outcome = match body {
                Body::Put(put) => Changes::of(&mut self.view).checked_put(&put).map(|prev| Outcome::Put { prev }),
                Body::DeleteRange(delete) => {
                    Ok(Outcome::Deleted { prev: Changes::of(&mut self.view).delete_range(&delete) })
                }
                Body::Txn(txn) => write_txn(&mut self.view, &txn).map(Outcome::Txn),
                Body::Compact { revision } => self.view.compact(revision).map(|()| Outcome::Compacted),
                Body::LeaseGrant { id, ttl } => self.view.grant_lease(id, ttl).map(|()| Outcome::LeaseGranted),
                Body::LeaseRevoke { id, expired } => {
                    self.view.revoke_lease(id, expired).map(|()| Outcome::LeaseRevoked)
                }
                Body::LeaseCheckpoint { term, checkpoints } => {
                    self.view.checkpoint_leases(term, &checkpoints).map(|()| Outcome::LeasesCheckpointed)
                }
                Body::Alarm(alarm) => Ok(Outcome::Alarms(self.view.change_alarms(alarm))),
                Body::Publish(publish) => {
                    let members = &mut self.view.members;
                    let done = members.publish(publish.id, publish.name, publish.client_urls);
                    done.map(|()| Outcome::Members(members.clone()))
                }
                Body::MemberUpdate { id, peer_urls } => {
                    let members = &mut self.view.members;
                    members.update(id, peer_urls).map(|()| Outcome::Members(members.clone()))
                }
                Body::MemberAdd { .. } | Body::MemberRemove(_) | Body::MemberPromote(_) => {
                    return Err(ApplyError::WrongKind { index });
                }
            };
            results.push(self.result(outcome));
        }
        Ok(())
    }

    /// Applies the conf-change entry `index` of `term`: a batch of one membership command. The change is what consensus has to
    /// follow before the next entry; `None` when it was refused.
    ///
    /// # Errors
    /// [`ApplyError`]; the state must not be used after one.
    pub fn apply_conf_change(
        &mut self,
        index: u64,
        term: u64,
        batch: &[u8],
    ) -> Result<(Applied, Option<ConfChange>), ApplyError> {
        self.advance(index, term)?;
        let unreadable = |source| ApplyError::Decode { index, source };
        let mut commands = Batch::decode(batch).map_err(unreadable)?;
        let (Some(command), None) = (commands.next(), commands.next()) else {
            return Err(ApplyError::WrongKind { index });
        };
        let change = match Body::decode(command.map_err(unreadable)?.body).map_err(unreadable)? {
            Body::MemberAdd { member, learners_max } => MemberChange::Add { member, learners_max },
            Body::MemberRemove(id) => MemberChange::Remove(id),
            Body::MemberPromote(id) => MemberChange::Promote(id),
            _ => return Err(ApplyError::WrongKind { index }),
        };
        let changed = self.view.members.change(change);
        let outcome = changed.map(|_| Outcome::Members(self.view.members.clone()));
        Ok((self.result(outcome), changed.ok()))
    }

    fn advance(&mut self, index: u64, term: u64) -> Result<(), ApplyError> {
        let applied = self.view.applied_index;
        if index != applied + 1 || term < self.view.applied_term {
            return Err(ApplyError::OutOfOrder { index, applied });
        }
        self.view.applied_index = index;
        self.view.applied_term = term;
        Ok(())
    }

    fn result(&self, outcome: Result<Outcome, Rejection>) -> Applied {
        let outcome = outcome.unwrap_or_else(Outcome::Rejected);
        Applied { revision: self.view.revision, outcome }
    }
}

#[cfg(test)]
mod tests {
    use kv_codec::command::{BatchBuilder, CommandHeader, Put};

    use super::*;

    /// Readers on many cores would slow each other down if each had to count itself somewhere.
    #[test]
    fn a_point_read_counts_no_reader() {
        let mut store = Store::genesis(Members::default());
        let put = Put { key: b"k", value: b"v", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
        let mut batch = BatchBuilder::default();
        batch.push(&Body::Put(put).encode(&CommandHeader::default()));
        store.apply(2, 1, &batch.finish(), &mut Vec::new()).expect("a put is applied");
        store.publish();

        let reader = store.reader();
        let view = reader.load_full();
        let block = view.get(b"k").expect("it was put").clone();
        let owners = |view: &Arc<View>| (Arc::strong_count(view), block.owners());
        let before = owners(&view);
        let guards: Vec<_> = (0..4).map(|_| reader.load()).collect();
        for guard in &guards {
            let found = guard.get(b"k").expect("it was put");
            assert_eq!((found.value(), owners(guard)), (&b"v"[..], before));
        }
        let kept = reader.load_full();
        assert_eq!(owners(&kept).0, before.0 + 1, "to keep a view is to count");
    }
}
