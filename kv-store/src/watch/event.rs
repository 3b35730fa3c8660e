//! One change, shared by all who are told of it.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::{Block, View};

/// A change of one key, and what whoever sends it made of it.
#[derive(Debug)]
pub struct Event {
    block: Block,
    prev: Option<Block>,
    encoded: OnceLock<(Bytes, usize)>,
}

impl Event {
    /// The change to `block`; `prev` is what the key was before the revision, if somebody wants it and it is there.
    pub(crate) fn new(block: Block, prev: Option<Block>) -> Self {
        Self { block, prev, encoded: OnceLock::new() }
    }

    /// What the key is now: a pair, or a tombstone.
    #[must_use]
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// What the key was before. `None` for a key that was not there, for what is compacted, and when no watcher asked for it.
    #[must_use]
    pub fn prev(&self) -> Option<&Block> {
        self.prev.as_ref()
    }

    /// The event as bytes, made by `encode` for the first who asks; and how many of them stand for the event without
    /// [`Event::prev`], which comes last.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> (Bytes, usize)) -> &(Bytes, usize) {
        self.encoded.get_or_init(|| encode(self))
    }
}

impl View {
    /// What the key of `block` was at the revision before it, if it was live and that revision can still be read.
    pub(super) fn previous(&self, block: &Block) -> Option<&Block> {
        let revision = block.mod_revision();
        // A put that made its key has nothing before it.
        if block.create_revision() == revision || revision - 1 < self.compact_revision() {
            return None;
        }
        let mut previous = self.before(block)?;
        // The same transaction may have changed the key before.
        while previous.mod_revision() == revision {
            previous = self.before(previous)?;
        }
        Some(previous).filter(|previous| !previous.is_tombstone())
    }
}
