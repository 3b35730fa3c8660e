//! Trees from a stream of blocks.

use super::Trees;
use super::kept::Kept;
use crate::Block;

/// Trees whose blocks come in the order of keys. The history is not there before all are in.
///
/// * `blocks` owns what `trees` has. No clone of `trees` leaves before they own it themselves.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    trees: Trees,
    blocks: Vec<Block>,
}

impl Loading {
    /// Adds the latest revision of a key.
    pub(crate) fn add_latest(&mut self, block: Block) {
        let tree = if block.is_tombstone() { &mut self.trees.dead } else { &mut self.trees.live };
        tree.insert(&keep(&mut self.blocks, block));
    }

    /// Adds an older one.
    pub(crate) fn add_superseded(&mut self, block: Block) {
        self.trees.superseded.insert(&keep(&mut self.blocks, block));
    }

    /// The latest revision of `key`, its deletion included.
    pub(crate) fn latest(&self, key: &[u8]) -> Option<&Block> {
        self.trees.latest(key)
    }

    /// The block that came last.
    pub(crate) fn last(&self) -> Option<&Block> {
        self.blocks.last()
    }

    /// The last of the older ones, by key and revision.
    pub(crate) fn last_superseded(&self) -> Option<&Block> {
        self.trees.superseded.last()
    }

    /// The trees, the history among them; `None` when two blocks have one revision.
    pub(crate) fn finish(self) -> Option<Trees> {
        let Self { mut trees, mut blocks } = self;
        blocks.sort_by_cached_key(Block::revision);
        if !blocks.is_sorted_by(|a, b| a.revision() < b.revision()) {
            return None;
        }
        for block in blocks {
            trees.history.push(&Kept::new(block));
        }
        Some(trees)
    }
}

/// Adds a block to those that are owned, and returns what goes into the trees.
fn keep(blocks: &mut Vec<Block>, block: Block) -> Kept {
    // SAFETY: from the next line on `blocks` has it, and goes when the trees do, or when they own it themselves.
    #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
    let kept = unsafe { Kept::of(&block) }; // docs/adr/0016-eras.md
    blocks.push(block);
    kept
}
