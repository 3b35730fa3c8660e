//! Every kept revision, in the order of revisions.
//!
//! Revisions come at the end and go anywhere. So what is new collects in a short tail, and full runs of it become *chunks* in an ordered
//! map: an entry of the map for each chunk, not for each revision, and chunks that are full.

use std::ops::RangeInclusive;
use std::sync::Arc;

use im::OrdMap;

use crate::{Block, Revision};

/// Revisions of a chunk. A change of one copies so many pointers.
const CHUNK: usize = 32;

/// The kept revisions.
///
/// * `chunks` are by a revision that is at or below the first of each, and above the last of the one before.
/// * No chunk is empty, or longer than `CHUNK`.
/// * All of `tail` is above all chunks, and shorter than `CHUNK`.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    chunks: OrdMap<Revision, Arc<[Block]>>,
    tail: Vec<Block>,
}

impl History {
    /// The history that holds `blocks`, which are in order.
    pub(crate) fn of(blocks: Vec<Block>) -> Self {
        let mut history = Self::default();
        blocks.into_iter().for_each(|block| history.push(block));
        history
    }

    /// Appends a revision above all that are there.
    pub(crate) fn push(&mut self, block: Block) {
        debug_assert!(self.tail.last().is_none_or(|last| last.revision() < block.revision()), "revisions rise");
        self.tail.push(block);
        if self.tail.len() == CHUNK {
            let chunk: Arc<[Block]> = self.tail.drain(..).collect();
            self.chunks.insert(chunk[0].revision(), chunk);
        }
    }

    /// Drops a revision.
    pub(crate) fn remove(&mut self, revision: Revision) {
        let place = |blocks: &[Block]| blocks.binary_search_by_key(&revision, Block::revision);
        if let Ok(at) = place(&self.tail) {
            self.tail.remove(at);
            return;
        }
        let found = self.chunks.get_prev(&revision).and_then(|(key, chunk)| Some((*key, chunk, place(chunk).ok()?)));
        let Some((key, chunk, at)) = found else {
            debug_assert!(false, "only what is there is dropped");
            return;
        };
        let rest = || chunk[..at].iter().chain(&chunk[at + 1..]);
        if chunk.len() > CHUNK / 4 {
            let rest = rest().cloned().collect();
            self.chunks.insert(key, rest);
            return;
        }
        // A short one joins the one before it, where they fit.
        let before = self.chunks.range(..key).next_back();
        let fitting = before.filter(|(_, before)| before.len() + chunk.len() <= CHUNK / 2);
        if let Some((before_key, before)) = fitting {
            let (before_key, joined) = (*before_key, before.iter().chain(rest()).cloned().collect());
            self.chunks.insert(before_key, joined);
            self.chunks.remove(&key);
        } else if chunk.len() == 1 {
            self.chunks.remove(&key);
        } else {
            let rest = rest().cloned().collect();
            self.chunks.insert(key, rest);
        }
    }

    /// The revisions within `range`, in order. The ones before it cost a logarithm.
    pub(crate) fn range(&self, range: RangeInclusive<Revision>) -> impl Iterator<Item = &Block> {
        let (from, to) = range.into_inner();
        // The chunk that `from` is in may begin before it.
        let first = self.chunks.get_prev(&from).map_or(from, |(key, _)| *key);
        let chunks = (first <= to).then(|| self.chunks.range(first..=to));
        let blocks = chunks.into_iter().flatten().flat_map(|(_, chunk)| chunk.iter()).chain(&self.tail);
        blocks.skip_while(move |block| block.revision() < from).take_while(move |block| block.revision() <= to)
    }

    /// How many revisions there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.chunks.values().map(|chunk| chunk.len()).sum::<usize>() + self.tail.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check_invariants(history: &History) {
        let mut last = None;
        for (key, chunk) in &history.chunks {
            assert!((1..=CHUNK).contains(&chunk.len()));
            assert!(last < Some(*key) && *key <= chunk[0].revision(), "{key:?} after {last:?}");
            assert!(chunk.is_sorted_by(|a, b| a.revision() < b.revision()));
            last = chunk.last().map(Block::revision);
        }
        assert!(history.tail.len() < CHUNK);
        assert!(history.tail.first().is_none_or(|first| last < Some(first.revision())));
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(
            steps in prop::collection::vec((0..4_u8, 1..4_i64, any::<prop::sample::Index>()), 0..600),
            ranges in prop::collection::vec((0..800_i64, 0..3_u32, 0..800_i64), 10),
        ) {
            let (mut history, mut model) = (History::default(), BTreeMap::new());
            let mut next = Revision { main: 1, sub: 0 };
            let mut kept = Vec::new();
            for (kind, step, which) in &steps {
                // Three pushes to a removal; some revisions of one command.
                if *kind > 0 || model.is_empty() {
                    next = if *kind == 1 { next.after() } else { Revision { main: next.main + step, sub: 0 } };
                    let block = Block::tombstone(next, b"k");
                    history.push(block.clone());
                    model.insert(next, block);
                } else {
                    let revision = *model.keys().nth(which.index(model.len())).expect("within");
                    history.remove(revision);
                    model.remove(&revision);
                }
                check_invariants(&history);
                if kept.len() < 5 && model.len() == 40 {
                    kept.push((history.clone(), model.clone()));
                }
            }
            kept.push((history, model));
            for (history, model) in &kept {
                prop_assert_eq!(history.len(), model.len());
                for (main, sub, len) in &ranges {
                    let range = Revision { main: *main, sub: *sub }..=Revision { main: main + len, sub: 0 };
                    let found: Vec<&Block> = history.range(range.clone()).collect();
                    let wanted = model.iter().filter(|(revision, _)| range.contains(revision)).map(|(_, block)| block);
                    prop_assert_eq!(found, wanted.collect::<Vec<_>>());
                }
                let all: Vec<Block> = model.values().cloned().collect();
                let again = History::of(all.clone());
                check_invariants(&again);
                prop_assert!(again.range(Revision::default()..=Revision::last_of(i64::MAX)).eq(all.iter()));
            }
        }
    }

    #[test]
    fn what_is_dropped_takes_no_room() {
        let blocks: Vec<Block> = (1..=10_000).map(|main| Block::tombstone(Revision { main, sub: 0 }, b"k")).collect();
        let mut history = History::of(blocks);
        (1..=10_000).filter(|main| main % 100 != 0).for_each(|main| history.remove(Revision { main, sub: 0 }));
        check_invariants(&history);
        assert_eq!(history.len(), 100);
        assert!(history.chunks.len() < 20, "{} chunks for 100 revisions", history.chunks.len());
        (1..=100).for_each(|main| history.remove(Revision { main: 100 * main, sub: 0 }));
        assert_eq!((history.len(), history.chunks.len()), (0, 0));
    }
}
