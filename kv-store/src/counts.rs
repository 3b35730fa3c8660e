//! How many keys live in a range, without walking over them.
//!
//! The key space is cut into *stretches*. Each knows how many live keys it has, and a range is counted from the stretches that lie
//! inside it and a walk over parts of the two at its ends:
//!
//! ```text
//! stretches  |"" 700  |"f" 900    |"m" 600 |"s" 800
//! range            [c ................ p)
//! count      walk "c".."f"  +  900  +  walk "m".."p"
//! ```
//!
//! Only a key that appears or vanishes touches it: a put of a key that lives does not.

use std::ops::Bound;
use std::sync::Arc;

use im::{OrdMap, OrdSet};

use crate::KeyRange;
use crate::view::Latest;

/// The most live keys of a stretch: what a count walks over at each end. A smaller one makes more stretches to add up.
pub(crate) const STRETCH_KEYS_MAX: u32 = 1024;

/// The stretches: by their first possible key, how many keys live in each.
///
/// * The first one starts at the empty key, so that every key is in one.
/// * None has more than `MAX` keys.
/// * Two neighbours have `MAX / 2` or more together: there are at most about `4 / MAX` stretches a live key.
#[derive(Debug, Clone)]
pub(crate) struct Counts<const MAX: u32 = STRETCH_KEYS_MAX>(OrdMap<Arc<[u8]>, u32>);

impl<const MAX: u32> Default for Counts<MAX> {
    fn default() -> Self {
        Self(OrdMap::unit(Arc::default(), 0))
    }
}

/// Why every key has a stretch.
const COVERED: &str = "the first stretch starts at the lowest key";

impl<const MAX: u32> Counts<MAX> {
    /// The counts of `live`. Walks over all of it.
    pub(crate) fn of(live: &OrdSet<Latest>) -> Self {
        let mut counts = Self::default();
        let mut start = Arc::default();
        let mut count = 0;
        for latest in live {
            if count == MAX / 2 + 1 {
                counts.0.insert(std::mem::replace(&mut start, latest.0.key().into()), count);
                count = 0;
            }
            count += 1;
        }
        counts.0.insert(start, count);
        counts
    }

    /// `key` has appeared in `live`.
    pub(crate) fn added(&mut self, live: &OrdSet<Latest>, key: &[u8]) {
        let (start, count) = self.0.get_prev_mut(key).expect(COVERED);
        *count += 1;
        if *count <= MAX {
            return;
        }
        let (left, right) = (*count / 2, *count - *count / 2);
        *count = left;
        let keys = live.range::<_, [u8]>((Bound::Included(&**start), Bound::Unbounded));
        let middle = keys.map(|latest| latest.0.key()).nth(left as usize).expect("the stretch has more keys");
        self.0.insert(middle.into(), right);
    }

    /// `key` has vanished from the live keys.
    pub(crate) fn removed(&mut self, key: &[u8]) {
        let (start, count) = self.0.get_prev_mut(key).expect(COVERED);
        *count -= 1;
        if *count >= MAX / 2 {
            return;
        }
        let start = Arc::clone(start);
        if let Some(next) = self.start_in((Bound::Excluded(&start), Bound::Unbounded)) {
            self.join(&start, &next);
        }
        if let Some((before, _)) = self.0.range::<_, [u8]>((Bound::Unbounded, Bound::Excluded(&*start))).next_back() {
            self.join(&Arc::clone(before), &start);
        }
    }

    fn start_in(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> Option<Arc<[u8]>> {
        self.0.range::<_, [u8]>(bounds).next().map(|(start, _)| Arc::clone(start))
    }

    /// Makes one of two neighbours, if they are small.
    fn join(&mut self, first: &[u8], second: &[u8]) {
        let joined = self.0[first] + self.0[second];
        if joined < MAX / 2 {
            self.0.remove(second);
            self.0[first] = joined;
        }
    }

    /// How many keys of `range` are in `live`.
    pub(crate) fn count(&self, live: &OrdSet<Latest>, range: &KeyRange<'_>) -> u64 {
        let Some(bounds) = range.bounds() else {
            return 0;
        };
        let walk = |bounds| live.range::<_, [u8]>(bounds).count() as u64;
        let (Bound::Included(from), to) = bounds else {
            unreachable!("a range starts with its first key");
        };
        let mut inside = self.0.range::<_, [u8]>((Bound::Excluded(from), to));
        let Some((first, count)) = inside.next() else {
            return walk(bounds);
        };
        let (mut last, mut last_count) = (first, u64::from(*count));
        let mut whole = 0;
        for (start, count) in inside {
            whole += last_count;
            (last, last_count) = (start, u64::from(*count));
        }
        let tail = match to {
            Bound::Unbounded => last_count,
            to => walk((Bound::Included(last), to)),
        };
        walk((Bound::Included(from), Bound::Excluded(&**first))) + whole + tail
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Block, Revision};

    /// Small enough for stretches to split and join all the time.
    type Small = Counts<4>;

    fn latest(key: &[u8]) -> Latest {
        Latest(Block::put(Revision { main: 2, sub: 0 }, 2, 1, 0, key, b""))
    }

    fn check_invariants(counts: &Small, live: &OrdSet<Latest>) {
        let all: Vec<_> = counts.0.iter().map(|(start, count)| (start.to_vec(), *count)).collect();
        assert!(all[0].0.is_empty(), "{all:?}");
        assert!(all.iter().all(|(_, count)| *count <= 4), "{all:?}");
        assert!(all.windows(2).all(|pair| pair[0].1 + pair[1].1 >= 2), "{all:?}");
        for (at, (start, count)) in all.iter().enumerate() {
            let end = all.get(at + 1).map_or(&b"\0"[..], |(next, _)| next);
            let bounds = KeyRange::new(start, end).bounds().unwrap();
            assert_eq!(live.range::<_, [u8]>(bounds).count(), *count as usize, "{all:?}");
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(&b"\0ab\xff"[..]), 1..4)
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_walk(
            steps in prop::collection::vec((any::<bool>(), key()), 0..200),
            ranges in prop::collection::vec((key(), prop::collection::vec(prop::sample::select(&b"\0ab\xff"[..]), 0..4)), 20),
        ) {
            let (mut live, mut counts) = (OrdSet::new(), Small::default());
            for (put, key) in &steps {
                let there = live.contains(&key[..]);
                if *put && !there {
                    live.insert(latest(key));
                    counts.added(&live, key);
                } else if !*put && there {
                    live.remove(&key[..]);
                    counts.removed(key);
                }
                check_invariants(&counts, &live);
            }
            check_invariants(&Small::of(&live), &live);
            for (key, end) in &ranges {
                let range = KeyRange::new(key, end);
                let walked = range.bounds().map_or(0, |bounds| live.range::<_, [u8]>(bounds).count() as u64);
                prop_assert_eq!(counts.count(&live, &range), walked, "{:?}", range);
                prop_assert_eq!(Small::of(&live).count(&live, &range), walked, "{:?}", range);
            }
        }
    }
}
