//! The changes of one command.

use kv_codec::command::{DeleteRange, Put};

use crate::{Block, KeyRange, Rejection, Revision, View};

/// What one command changes in a view, as it does so.
///
/// * All changes have one main revision, the one after the view's; `sub` counts them from 0.
/// * The first change raises the view's revision. So reads in between see the changes made so far.
pub(crate) struct Changes<'v> {
    view: &'v mut View,
    /// Of the next change.
    next: Revision,
}

impl<'v> Changes<'v> {
    pub(crate) fn of(view: &'v mut View) -> Self {
        let next = Revision { main: view.revision + 1, sub: 0 };
        Self { view, next }
    }

    /// The view with the changes made so far.
    pub(crate) fn view(&self) -> &View {
        self.view
    }

    /// A put that stands alone. etcd looks for the lease before the key here; in a transaction, the other way round.
    pub(crate) fn checked_put(&mut self, put: &Put<'_>) -> Result<Option<Block>, Rejection> {
        check_lease(self.view, put)?;
        check_existence(self.view, put)?;
        Ok(self.put(put))
    }

    /// Puts a key whose preconditions hold. Returns what was there.
    ///
    /// To keep the value or the lease of a key that is not there (any more: an earlier change may have deleted it) is to put what
    /// the command says.
    pub(crate) fn put(&mut self, put: &Put<'_>) -> Option<Block> {
        let revision = self.next();
        self.view.put(put.key, |live, link| {
            let Some(live) = live else {
                return Block::put(revision, revision.main, 1, put.lease, put.key, put.value, link);
            };
            let lease = if put.ignore_lease { live.lease() } else { put.lease };
            let value = if put.ignore_value { live.value() } else { put.value };
            Block::put(revision, live.create_revision(), live.version() + 1, lease, put.key, value, link)
        })
    }

    /// Deletes a range. Returns what was there, in key order.
    pub(crate) fn delete_range(&mut self, delete: &DeleteRange<'_>) -> Vec<Block> {
        let range = KeyRange::new(delete.key, delete.range_end);
        let prev: Vec<Block> = self.view.walk(&range, self.view.revision, None).cloned().collect();
        self.delete(&prev);
        prev
    }

    /// Deletes what is there.
    pub(crate) fn delete(&mut self, blocks: &[Block]) {
        for block in blocks {
            let revision = self.next();
            self.view.delete(block, revision);
        }
    }

    /// The place of the next change, which is made.
    fn next(&mut self) -> Revision {
        let next = self.next;
        self.view.revision = next.main;
        self.next.sub = next.sub.checked_add(1).expect("a store holds far fewer than 2^32 keys");
        next
    }
}

/// Whether the lease that `put` attaches is there.
pub(crate) fn check_lease(view: &View, put: &Put<'_>) -> Result<(), Rejection> {
    let found = put.lease == 0 || view.leases.get(put.lease).is_some();
    if found { Ok(()) } else { Err(Rejection::LeaseNotFound) }
}

/// Whether what `put` keeps is there.
pub(crate) fn check_existence(view: &View, put: &Put<'_>) -> Result<(), Rejection> {
    let needed = put.ignore_value || put.ignore_lease;
    if needed && view.get(put.key).is_none() { Err(Rejection::KeyNotFound) } else { Ok(()) }
}
