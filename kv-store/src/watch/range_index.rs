//! Which ranges hold a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::KeyRange;

/// Where a span ends: before a key, or nowhere, which is after every key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Arc<[u8]>),
    Nowhere,
}

impl End {
    /// Whether a key stands before this end.
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &end[..],
            Self::Nowhere => true,
        }
    }
}

/// Items by the range of keys that they stand for.
///
/// Single keys are in a map. Spans are in a treap ordered by their start, in which each node knows how far any span below it
/// reaches: the spans around a key are found by going down only where one reaches it. Looking a key up takes time in the logarithm
/// of the number of ranges, and for each range found again that at most.
///
/// * Items of one range are in order, each once; no range is without any.
#[derive(Debug)]
pub(crate) struct RangeIndex<T> {
    singles: BTreeMap<Box<[u8]>, Vec<T>>,
    spans: Link<T>,
    /// Draws the treap's priorities: a counter, scrambled. They have to be unrelated to the keys, not secret.
    drawn: u64,
}

type Link<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    start: Box<[u8]>,
    end: End,
    items: Vec<T>,
    priority: u64,
    /// The furthest end in this subtree.
    reach: End,
    left: Link<T>,
    right: Link<T>,
}

impl<T> Default for RangeIndex<T> {
    fn default() -> Self {
        Self { singles: BTreeMap::new(), spans: None, drawn: 0 }
    }
}

impl<T: Ord + Copy> RangeIndex<T> {
    /// Adds an item. Whether it is the first of its range.
    pub(crate) fn insert(&mut self, range: &KeyRange<'_>, item: T) -> bool {
        let Some((start, end)) = span(range) else {
            let KeyRange::Single(key) = *range else { return false };
            return match self.singles.get_mut(key) {
                Some(items) => add(items, item),
                None => self.singles.insert(key.into(), vec![item]).is_none(),
            };
        };
        self.drawn += 1;
        insert(&mut self.spans, start, end, item, scramble(self.drawn))
    }

    /// Removes an item. Whether it was the last of its range.
    pub(crate) fn remove(&mut self, range: &KeyRange<'_>, item: T) -> bool {
        let Some((start, end)) = span(range) else {
            let KeyRange::Single(key) = *range else { return false };
            let Some(items) = self.singles.get_mut(key) else { return false };
            let emptied = take(items, item);
            if emptied {
                self.singles.remove(key);
            }
            return emptied;
        };
        remove(&mut self.spans, start, &end, item)
    }

    /// Calls `found` for each item whose range holds `key`: those of one range in order, the ranges in no particular one.
    pub(crate) fn each_at(&self, key: &[u8], found: &mut impl FnMut(T)) {
        if let Some(items) = self.singles.get(key) {
            items.iter().copied().for_each(&mut *found);
        }
        stab(&self.spans, key, found);
    }
}

/// Start and end of a range that is no single key.
fn span<'a>(range: &KeyRange<'a>) -> Option<(&'a [u8], End)> {
    match *range {
        KeyRange::Single(_) => None,
        KeyRange::Span(start, end) => Some((start, End::Before(end.into()))),
        KeyRange::From(start) => Some((start, End::Nowhere)),
    }
}

/// Adds to the items of one range; whether it is the first of them.
fn add<T: Ord>(items: &mut Vec<T>, item: T) -> bool {
    if let Err(at) = items.binary_search(&item) {
        items.insert(at, item);
    }
    items.len() == 1
}

/// Takes from the items of one range; whether none is left.
fn take<T: Ord>(items: &mut Vec<T>, item: T) -> bool {
    if let Ok(at) = items.binary_search(&item) {
        items.remove(at);
    }
    items.is_empty()
}

/// The finalizer of splitmix64: neighbouring numbers come out unrelated.
fn scramble(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl<T> Node<T> {
    fn measure(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.reach);
        self.reach = below.chain([&self.end]).max().expect("its own end is among them").clone();
    }
}

fn insert<T: Ord + Copy>(link: &mut Link<T>, start: &[u8], end: End, item: T, priority: u64) -> bool {
    let Some(node) = link else {
        let reach = end.clone();
        let start = start.into();
        *link = Some(Box::new(Node { start, end, items: vec![item], priority, reach, left: None, right: None }));
        return true;
    };
    let first = match (start, &end).cmp(&(&node.start[..], &node.end)) {
        std::cmp::Ordering::Equal => return add(&mut node.items, item),
        std::cmp::Ordering::Less => insert(&mut node.left, start, end, item, priority),
        std::cmp::Ordering::Greater => insert(&mut node.right, start, end, item, priority),
    };
    if node.left.as_ref().is_some_and(|left| left.priority > node.priority) {
        rotate(link, |node| &mut node.left, |node| &mut node.right);
    } else if node.right.as_ref().is_some_and(|right| right.priority > node.priority) {
        rotate(link, |node| &mut node.right, |node| &mut node.left);
    } else {
        node.measure();
    }
    first
}

/// Lifts the child on one side above its parent, which becomes its child on the other.
fn rotate<T>(link: &mut Link<T>, side: fn(&mut Node<T>) -> &mut Link<T>, other: fn(&mut Node<T>) -> &mut Link<T>) {
    let mut parent = link.take().expect("what is rotated is there");
    let mut child = side(&mut parent).take().expect("the lifted child is there");
    *side(&mut parent) = other(&mut child).take();
    parent.measure();
    *other(&mut child) = Some(parent);
    child.measure();
    *link = Some(child);
}

fn remove<T: Ord + Copy>(link: &mut Link<T>, start: &[u8], end: &End, item: T) -> bool {
    let Some(node) = link else { return false };
    let emptied = match (start, end).cmp(&(&node.start[..], &node.end)) {
        std::cmp::Ordering::Less => remove(&mut node.left, start, end, item),
        std::cmp::Ordering::Greater => remove(&mut node.right, start, end, item),
        std::cmp::Ordering::Equal => {
            if !take(&mut node.items, item) {
                return false;
            }
            *link = merge(node.left.take(), node.right.take());
            return true;
        }
    };
    node.measure();
    emptied
}

/// Joins two subtrees, all of the first before all of the second.
fn merge<T>(left: Link<T>, right: Link<T>) -> Link<T> {
    match (left, right) {
        (None, one) | (one, None) => one,
        (Some(mut left), Some(right)) if left.priority > right.priority => {
            left.right = merge(left.right.take(), Some(right));
            left.measure();
            Some(left)
        }
        (left, Some(mut right)) => {
            right.left = merge(left, right.left.take());
            right.measure();
            Some(right)
        }
    }
}

fn stab<T: Copy>(link: &Link<T>, key: &[u8], found: &mut impl FnMut(T)) {
    let Some(node) = link.as_ref().filter(|node| node.reach.is_after(key)) else { return };
    stab(&node.left, key, found);
    if &node.start[..] <= key {
        if node.end.is_after(key) {
            node.items.iter().copied().for_each(&mut *found);
        }
        stab(&node.right, key, found);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn depth<T>(link: &Link<T>) -> usize {
        link.as_ref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
    }

    #[test]
    fn ten_thousand_rising_ranges_stay_shallow_and_leave_nothing() {
        let mut index = RangeIndex::default();
        let keys: Vec<_> = (0..10_001u32).map(u32::to_be_bytes).collect();
        for (item, pair) in keys.windows(2).enumerate() {
            assert!(index.insert(&KeyRange::Span(&pair[0], &pair[1]), item));
        }
        assert!(depth(&index.spans) < 60, "{}", depth(&index.spans));
        for (item, pair) in keys.windows(2).enumerate() {
            assert!(index.remove(&KeyRange::Span(&pair[0], &pair[1]), item));
        }
        assert!(index.spans.is_none() && index.singles.is_empty());
    }

    type Given = (Vec<u8>, Option<Option<Vec<u8>>>);

    fn range(given: &Given) -> KeyRange<'_> {
        match &given.1 {
            None => KeyRange::Single(&given.0),
            Some(None) => KeyRange::From(&given.0),
            Some(Some(end)) => KeyRange::Span(&given.0, end),
        }
    }

    fn short() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..4u8, 0..3)
    }

    proptest! {
        #[test]
        fn finds_what_a_list_finds(
            steps in prop::collection::vec((any::<bool>(), short(), prop::option::of(prop::option::of(short())), 0..3u8), 0..60),
            keys in prop::collection::vec(short(), 1..10),
        ) {
            let mut index = RangeIndex::default();
            let mut list: Vec<(Given, u8)> = Vec::new();
            for (insert, start, end, item) in steps {
                let given = ((start, end), item);
                // An empty span is refused before it comes here.
                if range(&given.0).bounds().is_none() {
                    continue;
                }
                let others = |list: &[(Given, u8)]| list.iter().filter(|other| other.0 == given.0 && other.1 != item).count();
                let there = list.contains(&given);
                if insert {
                    prop_assert_eq!(index.insert(&range(&given.0), item), others(&list) == 0);
                    if !there {
                        list.push(given);
                    }
                } else {
                    let last = index.remove(&range(&given.0), item);
                    prop_assert_eq!(last, there && others(&list) == 0);
                    list.retain(|other| *other != given);
                }
            }
            for key in keys {
                let mut found = Vec::new();
                index.each_at(&key, &mut |item| found.push(item));
                found.sort_unstable();
                let holds = |given: &Given| match range(given) {
                    KeyRange::Single(single) => single == key,
                    KeyRange::From(start) => start <= &key[..],
                    KeyRange::Span(start, end) => start <= &key[..] && &key[..] < end,
                };
                let mut expected: Vec<u8> =
                    list.iter().filter(|(given, _)| holds(given)).map(|(_, item)| *item).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
