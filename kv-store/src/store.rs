//! The single writer: applies batches, publishes views.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use kv_codec::command::{Batch, Body, DeleteRange, Put};

use crate::{ApplyError, Block, ConfChange, KeyRange, MemberChange, Members, Rejection, Revision, View};

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

    /// A store that goes on from `view`, which is published.
    #[must_use]
    pub fn from_view(view: View) -> Self {
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
    pub fn publish(&mut self) {
        self.published.store(Arc::new(self.view.clone()));
    }

    /// Replaces the whole state by `view`, a snapshot's. Readers see it after [`Store::publish`].
    pub fn install(&mut self, view: View) {
        self.view = view;
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
            let outcome = match body {
                Body::Put(put) => self.put(&put),
                Body::DeleteRange(delete) => Ok(self.delete_range(&delete)),
                Body::Publish(publish) => {
                    let members = &mut self.view.members;
                    let done = members.publish(publish.id, publish.name, publish.client_urls);
                    done.map(|()| Outcome::Members(members.clone()))
                }
                Body::MemberUpdate { id, peer_urls } => {
                    let members = &mut self.view.members;
                    members.update(id, peer_urls).map(|()| Outcome::Members(members.clone()))
                }
                Body::Txn(_) | Body::Compact { .. } => return Err(ApplyError::WrongKind { index }),
                Body::MemberAdd(_) | Body::MemberRemove(_) | Body::MemberPromote(_) => {
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
            Body::MemberAdd(member) => MemberChange::Add(member),
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

    fn put(&mut self, put: &Put<'_>) -> Result<Outcome, Rejection> {
        // No lease can have been granted: the store keeps none. etcd looks for the lease before the key.
        if put.lease != 0 {
            return Err(Rejection::LeaseNotFound);
        }
        let previous = self.view.latest(put.key).cloned();
        let live = previous.as_ref().filter(|block| !block.is_tombstone());
        if (put.ignore_value || put.ignore_lease) && live.is_none() {
            return Err(Rejection::KeyNotFound);
        }
        let main = self.view.revision + 1;
        let (create, version, lease) = live.map_or((main, 1, 0), |block| {
            let lease = if put.ignore_lease { block.lease() } else { put.lease };
            (block.create_revision(), block.version() + 1, lease)
        });
        let value = match live {
            Some(block) if put.ignore_value => block.value(),
            _ => put.value,
        };
        let block = Block::put(Revision { main, sub: 0 }, create, version, lease, put.key, value);
        let prev = live.cloned();
        self.view.revision = main;
        self.view.insert(block, previous);
        Ok(Outcome::Put { prev })
    }

    fn delete_range(&mut self, delete: &DeleteRange<'_>) -> Outcome {
        let range = KeyRange::new(delete.key, delete.range_end);
        let prev: Vec<Block> = self.view.walk(&range, self.view.revision).cloned().collect();
        if prev.is_empty() {
            return Outcome::Deleted { prev };
        }
        let main = self.view.revision + 1;
        self.view.revision = main;
        for (sub, block) in (0..).zip(&prev) {
            let tombstone = Block::tombstone(Revision { main, sub }, block.key());
            self.view.insert(tombstone, Some(block.clone()));
        }
        Outcome::Deleted { prev }
    }
}
