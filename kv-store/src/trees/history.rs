//! All blocks by revision.

use std::ops::Bound;

use triomphe::Arc;

use super::kept::Kept;
use super::list::List;
use super::order::ByRevision;
use super::sorted::{LEAF, Sorted};
use crate::{Block, Revision};

/// Every revision that is there. New ones come at the end, and collect in a leaf beside the tree: not each copies the way to the last one.
///
/// * All of `tail` is above all of `tree`, and it is not full.
/// * `newest` is not below any revision that ever was there.
#[derive(Debug, Default)]
pub(super) struct History {
    tree: Sorted<ByRevision>,
    tail: Arc<List<Kept, LEAF>>,
    newest: Revision,
}

impl History {
    /// The same blocks once more.
    pub(super) fn share(&self) -> Self {
        Self { tree: self.tree.share(), tail: Arc::clone(&self.tail), newest: self.newest }
    }

    /// How many revisions there are.
    pub(super) fn len(&self) -> usize {
        self.tree.len() + self.tail.items().len()
    }

    /// The last revision that came in, there or not; [`Revision::default`] if none did.
    pub(super) fn newest(&self) -> Revision {
        self.newest
    }

    /// A revision, if it is there.
    pub(super) fn get(&self, revision: Revision) -> Option<&Block> {
        match self.tail.get::<ByRevision>(revision) {
            Some(at) => Some(&self.tail.items()[at]),
            None => self.tree.get(revision),
        }
    }

    /// Adds a revision above all that ever were there.
    pub(super) fn push(&mut self, block: &Kept) {
        assert!(self.newest < block.revision(), "revisions rise");
        self.newest = block.revision();
        let tail = Arc::make_mut(&mut self.tail);
        let at = tail.items().len();
        assert!(tail.insert::<ByRevision>(at, block.clone(), true).is_none(), "the tail is never full");
        if at + 1 == LEAF {
            self.tree.push_leaf(std::mem::take(&mut self.tail));
        }
    }

    /// Takes out a revision.
    pub(super) fn remove(&mut self, revision: Revision) -> Option<Kept> {
        match self.tail.get::<ByRevision>(revision) {
            Some(at) => Some(Arc::make_mut(&mut self.tail).remove(at)),
            None => self.tree.remove(revision),
        }
    }

    /// The revisions from `first` to `last`, in order. The ones before them cost a logarithm.
    pub(super) fn range(&self, first: Revision, last: Revision) -> impl Iterator<Item = &Block> {
        let tail = self.tail.items().iter().map(|block| &**block);
        let from = self.tail.count::<ByRevision>(first, false);
        let to = self.tail.count::<ByRevision>(last, true);
        self.tree.range((Bound::Included(first), Bound::Included(last))).chain(tail.take(to).skip(from))
    }

    /// Takes all blocks out, in order. Looks at none of them: `take` may release what it is given.
    pub(super) fn take_all(self, mut take: impl FnMut(Kept)) {
        self.tree.take_all(&mut take);
        self.tail.items().iter().cloned().for_each(take);
    }
}
