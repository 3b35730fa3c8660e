//! In which orders blocks stand.
//!
//! A look at a block is a look into memory of its own, which is far away in a large store. So a node keeps of each block a *head*, the
//! first eight bytes that tell the blocks of this node apart: those after what all its keys begin with.
//!
//! ```text
//! keys     /registry/pods/default/a-1   /registry/pods/default/a-2   /registry/pods/kube-system/x
//! skip     the 15 bytes of "/registry/pods/"
//! heads    "default/"                   "default/"                   "kube-sys"
//! ```
//!
//! Heads that differ stand as their blocks do. Where they are equal, the blocks are looked at.

use std::cmp::Ordering;

use crate::{Block, Revision};

/// An order of blocks, in which no two of a tree are equal.
pub(crate) trait Order {
    /// What a block is ordered by.
    type Key<'k>: Copy;

    /// What `block` is ordered by.
    fn key(block: &Block) -> Self::Key<'_>;

    /// How `block` stands to `key`.
    fn compare(block: &Block, key: Self::Key<'_>) -> Ordering;

    /// How much two blocks begin with alike.
    fn shared(first: &Block, second: &Block) -> usize;

    /// How the first `skip` of `block` stand to those of `key`. As [`Order::compare`] says, if they differ.
    fn compare_start(block: &Block, key: Self::Key<'_>, skip: usize) -> Ordering;

    /// A number for what comes after the first `skip`. Of two keys that begin alike, the one with the smaller head is before the other.
    fn head(key: Self::Key<'_>, skip: usize) -> u64;
}

/// By key: one block of each.
#[derive(Debug)]
pub(crate) enum ByKey {}

impl Order for ByKey {
    type Key<'k> = &'k [u8];

    fn key(block: &Block) -> &[u8] {
        block.key()
    }

    fn compare(block: &Block, key: &[u8]) -> Ordering {
        block.key().cmp(key)
    }

    fn shared(first: &Block, second: &Block) -> usize {
        first.key().iter().zip(second.key()).take_while(|(first, second)| first == second).count()
    }

    fn compare_start(block: &Block, key: &[u8], skip: usize) -> Ordering {
        start(block.key(), skip).cmp(start(key, skip))
    }

    fn head(key: &[u8], skip: usize) -> u64 {
        let rest = key.get(skip..).unwrap_or_default();
        if let Some(head) = rest.first_chunk() {
            return u64::from_be_bytes(*head);
        }
        // What is not there is below all that is, or equal to zeroes: then the blocks are looked at.
        let mut head = [0; 8];
        head[..rest.len()].copy_from_slice(rest);
        u64::from_be_bytes(head)
    }
}

fn start(key: &[u8], len: usize) -> &[u8] {
    &key[..len.min(key.len())]
}

/// By revision.
#[derive(Debug)]
pub(crate) enum ByRevision {}

impl Order for ByRevision {
    type Key<'k> = Revision;

    fn key(block: &Block) -> Revision {
        block.revision()
    }

    fn compare(block: &Block, key: Revision) -> Ordering {
        block.revision().cmp(&key)
    }

    fn shared(_: &Block, _: &Block) -> usize {
        0
    }

    fn compare_start(_: &Block, _: Revision, _: usize) -> Ordering {
        Ordering::Equal
    }

    fn head(revision: Revision, _: usize) -> u64 {
        // The lowest number becomes 0.
        revision.main.cast_unsigned() ^ i64::MIN.cast_unsigned()
    }
}
