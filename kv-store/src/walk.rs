//! Walking over the keys of a range, at any revision.

use std::iter::Peekable;
use std::ops::Bound;

use crate::trees::{Blocks, ByKey};
use crate::{Block, KeyRange, View};

type Entries<'v> = Blocks<'v, ByKey>;

/// The live keys of a range at one revision, in key order: see [`View::walk`].
pub struct Walk<'v>(Inner<'v>);

enum Inner<'v> {
    /// The range is empty by its form.
    Empty,
    /// At the current revision.
    Now(Entries<'v>),
    /// At an earlier one, when keys lived that are dead now.
    Then { view: &'v View, revision: i64, latest: Merged<'v> },
}

impl<'v> Walk<'v> {
    pub(crate) fn new(view: &'v View, range: &KeyRange<'_>, revision: i64, after: Option<&[u8]>) -> Self {
        let Some((from, to)) = range.bounds() else {
            return Self(Inner::Empty);
        };
        let bounds = (after.map_or(from, Bound::Excluded), to);
        if revision >= view.revision {
            return Self(Inner::Now(view.trees.live().range(bounds)));
        }
        Self(Inner::Then { view, revision, latest: Merged::new(view, bounds) })
    }

    /// How many are left, where that is known without a walk: at the current revision.
    pub(crate) fn left(&self) -> Option<usize> {
        match &self.0 {
            Inner::Empty => Some(0),
            Inner::Now(live) => Some(live.len()),
            Inner::Then { .. } => None,
        }
    }
}

impl<'v> Iterator for Walk<'v> {
    type Item = &'v Block;

    fn next(&mut self) -> Option<&'v Block> {
        match &mut self.0 {
            Inner::Empty => None,
            Inner::Now(live) => live.next(),
            Inner::Then { view, revision, latest } => {
                let (view, revision) = (*view, *revision);
                latest.find_map(|block| view.at(block, revision))
            }
        }
    }
}

/// The latest revision of every key, the dead ones among the live ones in key order.
pub(crate) struct Merged<'v> {
    live: Peekable<Entries<'v>>,
    dead: Peekable<Entries<'v>>,
}

impl<'v> Merged<'v> {
    pub(crate) fn new(view: &'v View, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> Self {
        Self { live: view.trees.live().range(bounds).peekable(), dead: view.trees.dead().range(bounds).peekable() }
    }
}

impl<'v> Iterator for Merged<'v> {
    type Item = &'v Block;

    fn next(&mut self) -> Option<&'v Block> {
        let first = match (self.live.peek(), self.dead.peek()) {
            (Some(live), Some(dead)) if dead.key() < live.key() => &mut self.dead,
            (None, _) => &mut self.dead,
            _ => &mut self.live,
        };
        first.next()
    }
}
