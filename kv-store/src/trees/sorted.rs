//! Blocks in an order: a persistent B+ tree that owns its nodes and none of the blocks.
//!
//! ```text
//!               [ "a" 100 | "k" 80 | "s" 64 ]          branches: of each child, its first block and how many it has
//!                /           |           \
//!     [ "a" 52 | "f" 48 ]   ...          ...
//!        /         \
//!  [ a b c ... ]  [ f g ... ]                          leaves: blocks
//! ```
//!
//! A change copies the nodes from the root to one leaf, unless they are not shared: those that were copied since the last clone are
//! changed where they are. To copy a leaf is to copy words. To copy a branch is to count its children once more, so branches are narrow
//! and leaves wide.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;
use std::slice;

use triomphe::Arc;

use super::kept::Kept;
use super::list::{Item, List};
use super::order::Order;
use crate::Block;

/// Blocks of a leaf.
pub(super) const LEAF: usize = if cfg!(test) { 4 } else { 64 };
/// How many blocks a walk has fetched at once: each is in a place of its own, and memory takes as long for one as for some of them.
const FETCHED: usize = if cfg!(test) { 2 } else { 8 };
/// Children of a branch.
const BRANCH: usize = if cfg!(test) { 4 } else { 16 };

/// Blocks in the order `O`.
///
/// * Whoever has it sees to it that its blocks are there: see [`super::Trees`].
/// * All leaves are equally deep. None is empty, but for the root.
/// * No block stands in a branch that is not the first of a leaf below it.
pub(crate) struct Sorted<O> {
    root: Node,
    order: PhantomData<fn() -> O>,
}

/// Cloning counts one more owner of the node.
#[derive(Clone)]
enum Node {
    Leaf(Arc<List<Kept, LEAF>>),
    Branch(Arc<List<Child, BRANCH>>),
}

/// A node, as its parent knows it.
#[derive(Clone)]
struct Child {
    first: Kept,
    len: usize,
    node: Node,
}

impl Item for Child {
    fn block(&self) -> &Block {
        &self.first
    }
}

impl Item for Kept {
    fn block(&self) -> &Block {
        self
    }
}

/// What a node had no room for: its new neighbour to the right.
type Split = Option<Child>;

impl<O> Default for Sorted<O> {
    fn default() -> Self {
        Self { root: Node::default(), order: PhantomData }
    }
}

impl<O: Order> Sorted<O> {
    /// The same blocks once more.
    pub(super) fn share(&self) -> Self {
        Self { root: self.root.clone(), order: PhantomData }
    }

    /// How many blocks there are.
    pub(crate) fn len(&self) -> usize {
        self.root.len()
    }

    /// The block at `key`.
    pub(crate) fn get(&self, key: O::Key<'_>) -> Option<&Block> {
        let leaf = self.leaf(key)?;
        leaf.get::<O>(key).map(|at| &*leaf.items()[at])
    }

    /// The leaf in which `key` has its place, unless that is before all blocks of a branch.
    fn leaf(&self, key: O::Key<'_>) -> Option<&List<Kept, LEAF>> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return Some(leaf),
                Node::Branch(branch) => node = &branch.items()[branch.count::<O>(key, true).checked_sub(1)?].node,
            }
        }
    }

    /// All blocks, in order.
    pub(crate) fn iter(&self) -> Blocks<'_, O> {
        Blocks { tree: self, leaf: [].iter(), next: 0, fetched: 0, left: self.len() }
    }

    /// The blocks within `bounds`, in order. The ones before them cost a logarithm.
    pub(crate) fn range(&self, (from, to): (Bound<O::Key<'_>>, Bound<O::Key<'_>>)) -> Blocks<'_, O> {
        let next = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.count(key, false),
            Bound::Excluded(key) => self.count(key, true),
        };
        let end = match to {
            Bound::Unbounded => self.len(),
            Bound::Included(key) => self.count(key, true),
            Bound::Excluded(key) => self.count(key, false),
        };
        Blocks { tree: self, leaf: [].iter(), next, fetched: 0, left: end.saturating_sub(next) }
    }

    /// How many blocks are below `key`, or at it if that counts.
    fn count(&self, key: O::Key<'_>, with_key: bool) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(leaf) => return before + leaf.count::<O>(key, with_key),
                Node::Branch(branch) => {
                    let Some(at) = branch.count::<O>(key, true).checked_sub(1) else { return before };
                    before += branch.items()[..at].iter().map(|child| child.len).sum::<usize>();
                    node = &branch.items()[at].node;
                }
            }
        }
    }

    /// The block at `place`, counted from 0, and those behind it in its leaf.
    fn from(&self, place: usize) -> &[Kept] {
        let (mut node, mut left) = (&self.root, place);
        loop {
            match node {
                Node::Leaf(leaf) => return &leaf.items()[left..],
                Node::Branch(branch) => {
                    let mut children = branch.items().iter();
                    let mut child = children.next().expect(NOT_EMPTY);
                    while left >= child.len {
                        left -= child.len;
                        child = children.next().expect("the place is one of the tree's");
                    }
                    node = &child.node;
                }
            }
        }
    }

    /// Has what `make` makes of the block at `key` in its place, and returns that one.
    pub(super) fn put(&mut self, key: O::Key<'_>, make: impl FnOnce(Option<&Block>) -> Kept) -> Option<Kept> {
        let (replaced, split) = self.root.put::<O>(key, make, true);
        self.grow(split);
        replaced
    }

    /// Adds a leaf, which is not empty, after all others.
    pub(super) fn push_leaf(&mut self, leaf: Arc<List<Kept, LEAF>>) {
        if self.len() == 0 {
            self.root = Node::Leaf(leaf);
        } else {
            let split = self.root.push_leaf::<O>(leaf);
            self.grow(split);
        }
    }

    fn grow(&mut self, split: Split) {
        if let Some(right) = split {
            let left = Child::of(std::mem::take(&mut self.root));
            self.root = Node::Branch(Arc::new(List::of::<O>([left, right])));
        }
    }

    /// Adds a block, or has it in the place of one that is equal in this order, and returns that one.
    pub(super) fn insert(&mut self, block: &Kept) -> Option<Kept> {
        self.put(O::key(block), |_| block.clone())
    }

    /// Takes out the block at `key`.
    pub(super) fn remove(&mut self, key: O::Key<'_>) -> Option<Kept> {
        // Where there is none, nothing is copied.
        self.get(key)?;
        let removed = self.root.remove::<O>(key);
        while let Node::Branch(branch) = &self.root {
            match branch.items() {
                [] => *self = Self::default(),
                [only] => self.root = only.node.clone(),
                _ => break,
            }
        }
        removed
    }

    /// Takes all blocks out, in order. Looks at none of them: `take` may release what it is given.
    pub(super) fn take_all(self, mut take: impl FnMut(Kept)) {
        let mut place = 0;
        while place < self.len() {
            let blocks = self.from(place);
            blocks.iter().cloned().for_each(&mut take);
            place += blocks.len();
        }
    }
}

/// Why a node has a first block.
const NOT_EMPTY: &str = "only the root is ever empty";

impl Default for Node {
    fn default() -> Self {
        Self::Leaf(Arc::default())
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.items().len(),
            Self::Branch(branch) => branch.items().iter().map(|child| child.len).sum(),
        }
    }

    fn first(&self) -> &Kept {
        match self {
            Self::Leaf(leaf) => leaf.items().first(),
            Self::Branch(branch) => branch.items().first().map(|child| &child.first),
        }
        .expect(NOT_EMPTY)
    }

    /// How full it is, and how full it could be.
    fn fill(&self) -> (usize, usize) {
        match self {
            Self::Leaf(leaf) => (leaf.items().len(), LEAF),
            Self::Branch(branch) => (branch.items().len(), BRANCH),
        }
    }

    /// See [`Sorted::put`]; `is_last` of a node that none is to the right of.
    fn put<O: Order>(
        &mut self,
        key: O::Key<'_>,
        make: impl FnOnce(Option<&Block>) -> Kept,
        is_last: bool,
    ) -> (Option<Kept>, Split) {
        match self {
            Self::Leaf(leaf) => match leaf.find::<O>(key) {
                Ok(at) => {
                    let made = make(Some(&leaf.items()[at]));
                    (Some(Arc::make_mut(leaf).replace(at, made)), None)
                }
                Err(at) => {
                    let right = Arc::make_mut(leaf).insert::<O>(at, make(None), is_last);
                    (None, right.map(|right| Child::of(Self::Leaf(Arc::new(right)))))
                }
            },
            Self::Branch(branch) => {
                let at = branch.count::<O>(key, true).saturating_sub(1);
                let branch = Arc::make_mut(branch);
                let within_last = is_last && at + 1 == branch.items().len();
                let (replaced, split) = branch.item(at).node.put::<O>(key, make, within_last);
                (replaced, branch.grown::<O>(at, split, is_last))
            }
        }
    }

    fn push_leaf<O: Order>(&mut self, leaf: Arc<List<Kept, LEAF>>) -> Split {
        match self {
            Self::Leaf(_) => Some(Child::of(Self::Leaf(leaf))),
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let at = branch.items().len() - 1;
                let split = branch.item(at).node.push_leaf::<O>(leaf);
                branch.grown::<O>(at, split, true)
            }
        }
    }

    fn remove<O: Order>(&mut self, key: O::Key<'_>) -> Option<Kept> {
        match self {
            Self::Leaf(leaf) => {
                let at = leaf.get::<O>(key)?;
                Some(Arc::make_mut(leaf).remove(at))
            }
            Self::Branch(branch) => {
                let at = branch.count::<O>(key, true).checked_sub(1)?;
                let branch = Arc::make_mut(branch);
                let removed = branch.item(at).node.remove::<O>(key);
                branch.shrunk::<O>(at);
                removed
            }
        }
    }

    /// Adds all of a neighbour to the right, for which there is room.
    fn append<O: Order>(&mut self, right: &Self) {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => Arc::make_mut(left).append::<O>(right),
            (Self::Branch(left), Self::Branch(right)) => Arc::make_mut(left).append::<O>(right),
            _ => unreachable!("all leaves are equally deep"),
        }
    }
}

impl Child {
    fn of(node: Node) -> Self {
        Self { first: node.first().clone(), len: node.len(), node }
    }
}

impl List<Child, BRANCH> {
    /// The child at `at` has changed, and has become two if it has split.
    fn grown<O: Order>(&mut self, at: usize, split: Split, is_last: bool) -> Split {
        self.renew::<O>(at);
        let right = self.insert::<O>(at + 1, split?, is_last)?;
        Some(Child::of(Node::Branch(Arc::new(right))))
    }

    /// The child at `at` has changed.
    fn renew<O: Order>(&mut self, at: usize) {
        let child = self.item(at);
        child.len = child.node.len();
        let first = child.node.first().clone();
        if !first.is_same(&child.first) {
            child.first = first;
            self.changed::<O>(at);
        }
    }

    /// A block is gone from the child at `at`. An empty one goes, a small one joins a neighbour if both fit into one with room to spare:
    /// they are not to be split again at once.
    fn shrunk<O: Order>(&mut self, at: usize) {
        let (fill, max) = self.items()[at].node.fill();
        if fill == 0 {
            self.remove(at);
            return;
        }
        self.renew::<O>(at);
        if fill > max / 4 {
            return;
        }
        let both = |left: usize| {
            let right = self.items().get(left + 1)?;
            Some(self.items()[left].node.fill().0 + right.node.fill().0)
        };
        let fits = |left: &usize| both(*left).is_some_and(|both| both <= max / 4 * 3);
        if let Some(left) = at.checked_sub(1).filter(fits).or_else(|| Some(at).filter(fits)) {
            let right = self.remove(left + 1);
            self.item(left).node.append::<O>(&right.node);
            self.renew::<O>(left);
        }
    }
}

/// Blocks of a tree, in order.
pub(crate) struct Blocks<'v, O> {
    tree: &'v Sorted<O>,
    leaf: slice::Iter<'v, Kept>,
    /// The place of the first block after `leaf`.
    next: usize,
    /// How many of the first blocks of `leaf` are fetched.
    fetched: usize,
    left: usize,
}

impl<'v, O: Order> Iterator for Blocks<'v, O> {
    type Item = &'v Block;

    fn next(&mut self) -> Option<&'v Block> {
        self.left = self.left.checked_sub(1)?;
        if self.leaf.len() == 0 {
            let blocks = self.tree.from(self.next);
            self.next += blocks.len();
            self.leaf = blocks.iter();
            self.fetched = 0;
        }
        if self.fetched == 0 {
            let ahead = self.leaf.as_slice().iter().take(FETCHED.min(self.left + 1));
            self.fetched = ahead.len();
            ahead.for_each(|block| block.fetch());
        }
        self.fetched -= 1;
        self.leaf.next().map(|block| &**block)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<O: Order> ExactSizeIterator for Blocks<'_, O> {}

impl<O: Order> fmt::Debug for Sorted<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::super::order::{ByKey, ByRevision};
    use super::*;
    use crate::Revision;

    /// Checks a node, and says how deep it is.
    fn check_node<O: Order>(node: &Node, is_root: bool) -> usize {
        assert!(is_root || node.fill().0 > 0, "{NOT_EMPTY}");
        match node {
            Node::Leaf(leaf) => {
                leaf.check_invariants::<O>();
                1
            }
            Node::Branch(branch) => {
                branch.check_invariants::<O>();
                let depths = branch.items().iter().map(|child| {
                    assert!(child.first.is_same(child.node.first()), "a branch shows what is first below it");
                    assert_eq!(child.len, child.node.len());
                    check_node::<O>(&child.node, false)
                });
                let depths: Vec<_> = depths.collect();
                assert!(depths.iter().all(|depth| *depth == depths[0]), "{depths:?}");
                depths[0] + 1
            }
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let start = select(vec![&b""[..], b"a", b"registry/", b"registry/pods/default/"]);
        (start, prop::collection::vec(select(&b"\0a\xff"[..]), 0..12))
            .prop_map(|(start, end)| [start, &end[..]].concat())
    }

    fn block(key: &[u8], main: i64) -> Block {
        Block::put(Revision { main: main / 2, sub: u32::try_from(main % 2).expect("small") }, 1, 1, 0, key, b"", None)
    }

    /// As it goes into a tree, which does not outlive `owner`.
    fn kept(owner: &Block) -> Kept {
        // SAFETY: each test drops its trees before the blocks, or owns these to its end.
        #[allow(unsafe_code, clippy::let_and_return, reason = "docs/adr/0016-eras.md")]
        let kept = unsafe { Kept::of(owner) }; // docs/adr/0016-eras.md
        kept
    }

    /// What a tree holds, by what it is ordered by.
    type Model = BTreeMap<(Vec<u8>, Revision), Block>;

    /// Does the same to a tree and to a model, whose keys `place` makes; then asks both.
    fn check<O: Order>(
        steps: &[(u8, Vec<u8>, i64, Index)],
        place_of: impl Fn(&Block) -> (Vec<u8>, Revision),
    ) -> Result<(), TestCaseError> {
        let (mut tree, mut model) = (Sorted::<O>::default(), Model::new());
        let mut owners = Vec::new();
        let mut shared = Vec::new();
        for (kind, key, main, which) in steps {
            let block = block(key, *main);
            // Blocks are owned here: trees own none.
            owners.push(block.clone());
            if *kind > 0 || model.is_empty() {
                let replaced = tree.insert(&kept(&block));
                let wanted = model.insert(place_of(&block), block);
                prop_assert_eq!(replaced.as_deref(), wanted.as_ref());
            } else {
                let (at, block) = model.iter().nth(which.index(model.len())).expect("within");
                let (at, block) = (at.clone(), block.clone());
                model.remove(&at);
                let removed = tree.remove(O::key(&block));
                prop_assert_eq!(removed.as_deref(), Some(&block));
                prop_assert!(tree.remove(O::key(&block)).is_none());
            }
            check_node::<O>(&tree.root, true);
            if shared.len() < 5 && which.index(10) == 0 {
                shared.push((tree.share(), model.clone()));
            }
        }
        shared.push((tree, model));
        for (tree, model) in &shared {
            prop_assert_eq!(tree.len(), model.len());
            prop_assert!(tree.iter().eq(model.values()));
            for (_, key, main, which) in steps {
                let wanted = self::block(key, *main);
                let (at, place) = (O::key(&wanted), place_of(&wanted));
                prop_assert_eq!(tree.get(at), model.get(&place));
                let from = tree.range((Bound::Excluded(at), Bound::Unbounded));
                prop_assert_eq!(from.len(), model.range((Bound::Excluded(place.clone()), Bound::Unbounded)).count());
                prop_assert!(
                    from.eq(model.range((Bound::Excluded(place.clone()), Bound::Unbounded)).map(|(_, block)| block))
                );
                let upto = tree.range((Bound::Unbounded, Bound::Excluded(at)));
                prop_assert!(upto.eq(model.range(..place.clone()).map(|(_, block)| block)));
                let other = which.get(&owners);
                let within = tree.range((Bound::Included(O::key(other)), Bound::Included(at)));
                let bounds = place_of(other)..=place.clone();
                prop_assert!(
                    within.eq(model.iter().filter(|(found, _)| bounds.contains(found)).map(|(_, block)| block))
                );
            }
        }
        Ok(())
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, Vec<u8>, i64, Index)>> {
        prop::collection::vec((0..3_u8, key(), 0..40_i64, any::<Index>()), 1..200)
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(steps in steps()) {
            check::<ByKey>(&steps, |block| (block.key().to_vec(), Revision::default()))?;
            check::<ByRevision>(&steps, |block| (Vec::new(), block.revision()))?;
        }
    }

    /// The nodes of a tree; its leaves alone.
    fn nodes(node: &Node) -> (usize, usize) {
        match node {
            Node::Leaf(_) => (1, 1),
            Node::Branch(branch) => {
                let below = branch.items().iter().map(|child| nodes(&child.node));
                below.fold((1, 0), |(all, leaves), (more, more_leaves)| (all + more, leaves + more_leaves))
            }
        }
    }

    #[test]
    fn whatever_order_keys_come_in_nodes_are_half_full() {
        let rising = |start: &str, len: usize| (0..len).map(|number| format!("{start}{number:06}")).collect::<Vec<_>>();
        let falling = |start: &str, len: usize| rising(start, len).into_iter().rev().collect::<Vec<_>>();
        let mixed = rising("a", 2_048).into_iter().zip(rising("b", 2_048)).flat_map(|(a, b)| [a, b]).collect();
        let runs: [Vec<String>; 6] = [
            falling("a", 4_096),
            // Towards the end of a full list, in trees whose branches are full as well, and are not.
            [rising("a", LEAF), falling("b", 4_096)].concat(),
            [rising("a", 1_024), falling("b", 4_096)].concat(),
            [rising("a", 1_024), rising("c", 1_024), falling("b", 4_096)].concat(),
            // Towards the end of a list in the middle, or of several.
            [rising("c", 64), rising("a", 4_096)].concat(),
            mixed,
        ];
        for keys in runs {
            let blocks: Vec<_> = keys.iter().map(|key| block(key.as_bytes(), 2)).collect();
            let mut tree = Sorted::<ByKey>::default();
            for block in &blocks {
                tree.insert(&kept(block));
            }
            check_node::<ByKey>(&tree.root, true);
            let (all, leaves) = nodes(&tree.root);
            let branches = all - leaves;
            let (leaves_max, branches_max) = (blocks.len().div_ceil(LEAF / 2) + 2, leaves.div_ceil(BRANCH / 2 - 1) + 4);
            assert!(leaves <= leaves_max, "{leaves} leaves of {} keys, from {} on", blocks.len(), keys[0]);
            assert!(branches <= branches_max, "{branches} branches of {leaves} leaves, from {} on", keys[0]);
        }
    }

    #[test]
    fn what_comes_in_order_fills_its_nodes_and_what_goes_takes_no_room() {
        let nodes = |node: &Node| nodes(node).0;
        let blocks: Vec<_> = (0..4_096).map(|number| block(format!("{number:06}").as_bytes(), 2)).collect();
        let mut tree = Sorted::<ByKey>::default();
        for block in &blocks {
            tree.insert(&kept(block));
        }
        assert_eq!(nodes(&tree.root), (1..=6).map(|level| 4_usize.pow(level)).sum::<usize>() / 4, "nodes of four");
        blocks.iter().enumerate().filter(|(at, _)| at % 64 != 0).for_each(|(_, block)| {
            tree.remove(block.key());
        });
        assert!(nodes(&tree.root) < 64 * 2, "{} nodes for 64 blocks", nodes(&tree.root));
        blocks.iter().step_by(64).for_each(|block| {
            tree.remove(block.key());
        });
        assert_eq!((tree.len(), nodes(&tree.root)), (0, 1));
    }
}
