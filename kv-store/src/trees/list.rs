//! What a node holds: blocks in order, or children by their first blocks.

use std::cmp::Ordering;
use std::fmt;

use arrayvec::ArrayVec;

use super::order::Order;
use crate::Block;

/// What stands in a list at the place of a block.
pub(super) trait Item {
    /// By which it is ordered.
    fn block(&self) -> &Block;
}

/// At most `MAX` items in order, and of each what it is found by.
///
/// * All blocks begin alike with `skip`, or more.
/// * `heads` has the head of each after that.
#[repr(C)]
pub(super) struct List<T, const MAX: usize> {
    /// The rest of the cache line that the list's count of owners is in, wherever that line begins. The writer changes the counts of
    /// nodes that it goes past; whoever reads those does not have to fetch them again.
    apart: [u64; 7],
    skip: usize,
    heads: ArrayVec<u64, MAX>,
    items: ArrayVec<T, MAX>,
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self { apart: [0; 7], skip: 0, heads: ArrayVec::new(), items: ArrayVec::new() }
    }
}

impl<T: Clone, const MAX: usize> Clone for List<T, MAX> {
    fn clone(&self) -> Self {
        let mut heads = ArrayVec::new();
        // In one go, not one by one.
        heads.try_extend_from_slice(&self.heads).expect("a list is as long as another");
        Self { apart: self.apart, skip: self.skip, heads, items: self.items.clone() }
    }
}

impl<T: fmt::Debug, const MAX: usize> fmt::Debug for List<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.fmt(f)
    }
}

impl<T, const MAX: usize> List<T, MAX> {
    /// The items, in order.
    pub(super) fn items(&self) -> &[T] {
        &self.items
    }

    /// One of them, to change. If its block changes, [`List::changed`] is told.
    pub(super) fn item(&mut self, at: usize) -> &mut T {
        &mut self.items[at]
    }

    /// Has `item`, which is equal in their order, in the place of another, and returns that.
    pub(super) fn replace(&mut self, at: usize, item: T) -> T {
        std::mem::replace(&mut self.items[at], item)
    }

    /// Takes an item out.
    pub(super) fn remove(&mut self, at: usize) -> T {
        self.heads.remove(at);
        self.items.remove(at)
    }
}

impl<T: Item, const MAX: usize> List<T, MAX> {
    /// A list of `items`, which are in order.
    pub(super) fn of<O: Order>(items: impl IntoIterator<Item = T>) -> Self {
        let mut list = Self { items: items.into_iter().collect(), ..Self::default() };
        list.reset::<O>();
        list
    }

    /// Where the item at `key` is, or would be.
    pub(super) fn find<O: Order>(&self, key: O::Key<'_>) -> Result<usize, usize> {
        let first = if self.skip == 0 { None } else { self.items.first() };
        match first.map_or(Ordering::Equal, |first| O::compare_start(first.block(), key, self.skip)) {
            Ordering::Less => Err(self.items.len()),
            Ordering::Equal => self.find_alike::<O>(key),
            Ordering::Greater => Err(0),
        }
    }

    /// The same for a key that begins as all do.
    fn find_alike<O: Order>(&self, key: O::Key<'_>) -> Result<usize, usize> {
        let head = O::head(key, self.skip);
        let from = self.heads.partition_point(|other| *other < head);
        let alike = self.heads[from..].iter().take_while(|other| **other == head).count();
        let found = self.items[from..from + alike].binary_search_by(|item| O::compare(item.block(), key));
        found.map(|at| from + at).map_err(|at| from + at)
    }

    /// Where the item at `key` is, if it is there.
    pub(super) fn get<O: Order>(&self, key: O::Key<'_>) -> Option<usize> {
        // A key that begins otherwise is found nowhere, too.
        self.find_alike::<O>(key).ok()
    }

    /// How many items are below `key`, or at it if that counts.
    pub(super) fn count<O: Order>(&self, key: O::Key<'_>, with_key: bool) -> usize {
        self.find::<O>(key).map_or_else(|at| at, |at| at + usize::from(with_key))
    }

    /// Puts `item` at `at`. A full list becomes two, and this is the second.
    ///
    /// Keys that rise come to the end of one list after the other. So the last list of a tree keeps all that it has, and any other most: if
    /// that kept all, keys that fall towards its end would make a list of one each time.
    pub(super) fn insert<O: Order>(&mut self, at: usize, item: T, is_last: bool) -> Option<Self> {
        if !self.items.is_full() {
            self.items.insert(at, item);
            self.heads.insert(at, 0);
            self.changed::<O>(at);
            return None;
        }
        if at == MAX && is_last {
            return Some(Self::of::<O>([item]));
        }
        let kept = if at == MAX { MAX / 4 * 3 } else { MAX / 2 };
        let mut right: ArrayVec<T, MAX> = self.items.drain(kept..).collect();
        match at.checked_sub(kept) {
            Some(at) => right.insert(at, item),
            None => self.items.insert(at, item),
        }
        self.reset::<O>();
        Some(Self::of::<O>(right))
    }

    /// Adds all of `right`, which comes after what is there, and for which there is room.
    pub(super) fn append<O: Order>(&mut self, right: &Self)
    where
        T: Clone,
    {
        self.items.extend(right.items.iter().cloned());
        self.reset::<O>();
    }

    /// The item at `at` has another block.
    pub(super) fn changed<O: Order>(&mut self, at: usize) {
        let key = O::key(self.items[at].block());
        let other = self.items.get(usize::from(at == 0));
        if other.is_some_and(|other| O::compare_start(other.block(), key, self.skip).is_eq()) {
            self.heads[at] = O::head(key, self.skip);
        } else {
            self.reset::<O>();
        }
    }

    #[cfg(test)]
    pub(super) fn check_invariants<O: Order>(&self) {
        assert_eq!(self.heads.len(), self.items.len());
        for (at, item) in self.items.iter().enumerate() {
            let (block, key) = (item.block(), O::key(item.block()));
            assert!(
                O::compare_start(self.items[0].block(), key, self.skip).is_eq(),
                "all begin alike with {}",
                self.skip
            );
            assert_eq!(self.heads[at], O::head(key, self.skip));
            assert!(at == 0 || O::compare(self.items[at - 1].block(), O::key(block)).is_lt(), "in order");
        }
    }

    /// Skips as much as it can.
    fn reset<O: Order>(&mut self) {
        let (Some(first), Some(last)) = (self.items.first(), self.items.last()) else { return };
        self.skip = O::shared(first.block(), last.block());
        self.heads.clear();
        self.heads.extend(self.items.iter().map(|item| O::head(O::key(item.block()), self.skip)));
    }
}
