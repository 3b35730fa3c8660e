//! Walking over the keys of a range, at any revision.

use std::iter::Peekable;
use std::ops::Bound;

use im::ordset::RangedIter;
use im::shared_ptr::DefaultSharedPtr;

use crate::view::Latest;
use crate::{Block, KeyRange, View};

type Entries<'v> = RangedIter<'v, Latest, DefaultSharedPtr>;

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
        if is_empty(bounds) {
            return Self(Inner::Empty);
        }
        if revision >= view.revision {
            return Self(Inner::Now(view.live.range::<_, [u8]>(bounds)));
        }
        Self(Inner::Then { view, revision, latest: Merged::new(view, bounds) })
    }
}

/// Whether nothing is above the start and below the end. Most ordered maps take such bounds for a mistake.
fn is_empty(bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match bounds {
        (Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}

impl<'v> Iterator for Walk<'v> {
    type Item = &'v Block;

    fn next(&mut self) -> Option<&'v Block> {
        match &mut self.0 {
            Inner::Empty => None,
            Inner::Now(live) => live.next().map(|latest| &latest.0),
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
        let entries = |keys: &'v im::OrdSet<Latest>| keys.range::<_, [u8]>(bounds).peekable();
        Self { live: entries(&view.live), dead: entries(&view.dead) }
    }
}

impl<'v> Iterator for Merged<'v> {
    type Item = &'v Block;

    fn next(&mut self) -> Option<&'v Block> {
        let first = match (self.live.peek(), self.dead.peek()) {
            (Some(live), Some(dead)) if dead < live => &mut self.dead,
            (None, _) => &mut self.dead,
            _ => &mut self.live,
        };
        first.next().map(|latest| &latest.0)
    }
}
