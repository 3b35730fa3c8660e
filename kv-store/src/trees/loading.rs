//! Trees from a stream of blocks.

use super::Trees;
use super::kept::Kept;
use crate::link::Link;
use crate::{Block, Revision};

/// Blocks that come in the order of keys: first the latest revision of each, then the older ones, in the order of revisions where keys
/// are equal. They come without links.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    latest: Vec<Block>,
    superseded: Vec<Block>,
    /// How many of the latest have keys below the last one that was asked for.
    passed: usize,
}

impl Loading {
    /// Adds the latest revision of a key.
    pub(crate) fn add_latest(&mut self, block: Block) {
        self.latest.push(block);
    }

    /// Adds an older one of a key whose latest is there.
    pub(crate) fn add_superseded(&mut self, block: Block) {
        self.superseded.push(block);
    }

    /// The latest revision of `key`, its deletion included. Keys are asked for in order.
    pub(crate) fn latest(&mut self, key: &[u8]) -> Option<&Block> {
        self.passed += self.latest[self.passed..].iter().take_while(|block| block.key() < key).count();
        self.latest.get(self.passed).filter(|block| block.key() == key)
    }

    /// The latest revision of the last key.
    pub(crate) fn last_latest(&self) -> Option<&Block> {
        self.latest.last()
    }

    /// The last of the older ones.
    pub(crate) fn last_superseded(&self) -> Option<&Block> {
        self.superseded.last()
    }

    /// The trees; `None` when two blocks have one revision.
    pub(crate) fn finish(self) -> Option<Trees> {
        let Self { mut latest, superseded, .. } = self;
        let mut blocks = Vec::with_capacity(latest.len() + superseded.len());
        let mut trees = Trees::default();
        let mut superseded = superseded.into_iter().peekable();
        for last in &mut latest {
            let first = blocks.len();
            while let Some(block) = superseded.next_if(|block| block.key() == last.key()) {
                blocks.push(linked(&block, &blocks[first..]));
            }
            *last = linked(last, &blocks[first..]);
        }
        assert!(superseded.next().is_none(), "older revisions come in the order of keys");
        for block in latest {
            let tree = if block.is_tombstone() { &mut trees.dead } else { &mut trees.live };
            // SAFETY: from the next line on `blocks` has it, and goes after the trees do, or when they own it themselves.
            #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
            tree.insert(&unsafe { Kept::of(&block) }); // docs/adr/0016-eras.md
            blocks.push(block);
        }
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

/// The block with a link to the last of those before it, if there are any.
fn linked(block: &Block, before: &[Block]) -> Block {
    let find = |revision: Revision| {
        let at = before.binary_search_by_key(&revision, Block::revision).ok()?;
        Some(&before[at])
    };
    before.last().map_or_else(|| block.clone(), |last| block.linked(Link::to(last, find)))
}
