//! What a rival has to do, and the words for it.

use anyhow::{Result, ensure};
use kv_store::Block;

/// One change that a committed entry asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write<'a> {
    /// Puts a key.
    Put {
        /// The key, not empty.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Whether the caller wants what was there.
        prev_kv: bool,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> Write<'a> {
    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// The numbers that come with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// The revision at which the key was last created.
    pub create_revision: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// How many times it was put since it was created.
    pub version: i64,
}

impl Meta {
    /// The numbers of a block.
    #[must_use]
    pub fn of(block: &Block) -> Self {
        Self { create_revision: block.create_revision(), mod_revision: block.mod_revision(), version: block.version() }
    }

    /// The numbers after a put at `revision`; `before` is what was there.
    #[must_use]
    pub fn next(before: Option<Self>, revision: i64) -> Self {
        let (create_revision, version) =
            before.map_or((revision, 0), |before| (before.create_revision, before.version));
        Self { create_revision, mod_revision: revision, version: version + 1 }
    }
}

/// A key and its value, on its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pair {
    /// Its numbers.
    pub meta: Meta,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// What a put replaced: a copy, or the block itself where it never changes.
#[derive(Debug, Clone)]
pub enum Prev {
    /// A copy.
    Pair(Pair),
    /// Shared with the store.
    Block(Block),
}

impl Prev {
    /// As a pair of its own.
    #[must_use]
    pub fn pair(&self) -> Pair {
        match self {
            Self::Pair(pair) => pair.clone(),
            Self::Block(block) => {
                Pair { meta: Meta::of(block), key: block.key().to_vec(), value: block.value().to_vec() }
            }
        }
    }
}

/// What a write did.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The engine's revision after it.
    pub revision: i64,
    /// Whether a key was there before.
    pub existed: bool,
    /// What was there, at least for a put that asked for it.
    pub prev: Option<Prev>,
}

/// What a read found. Reused, so that a read costs a copy and no allocation: the copy stands for the answer's encoding.
#[derive(Debug, Default)]
pub struct Found {
    bytes: Vec<u8>,
    pairs: Vec<(Meta, usize, usize)>,
}

impl Found {
    /// Forgets the last read.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.pairs.clear();
    }

    /// Adds a pair.
    pub fn push(&mut self, meta: Meta, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.pairs.push((meta, key.len(), value.len()));
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The pairs, each on its own.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        let mut rest = &self.bytes[..];
        let mut take = |len: usize| {
            let (taken, left) = rest.split_at(len);
            rest = left;
            taken.to_vec()
        };
        self.pairs.iter().map(|&(meta, key, value)| Pair { meta, key: take(key), value: take(value) }).collect()
    }
}

/// A storage engine under the raft log, as the analysis compares them.
///
/// * Revisions rise by one for each put and for each deletion of a key that was there; the first is 2, as in etcd.
/// * A write that was answered is seen by every later read.
pub trait Engine: Send + Sync {
    /// Applies the writes of one committed entry, in order, and pushes an answer for each. Returns how many times it locked, or
    /// published.
    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> u64;

    /// Reads one key.
    fn get(&self, key: &[u8], found: &mut Found);

    /// Reads at most `limit` keys from `from` (included) to `to` (not), in key order. Returns how many entries it looked at.
    fn range(&self, from: &[u8], to: &[u8], limit: usize, found: &mut Found) -> u64;

    /// The revision of the last change.
    fn revision(&self) -> i64;

    /// [`Engine::commit`] of a batch in our own encoding, by an engine that reads it as it is; `None` from all others.
    ///
    /// # Errors
    /// When the batch cannot be read.
    fn commit_batch(&self, _batch: &[u8], _answers: &mut Vec<Answer>) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Puts `keys`, a thousand a batch.
///
/// # Errors
/// When the engine does not hold them afterwards.
pub fn fill(engine: &dyn Engine, keys: &[Vec<u8>], value: &[u8]) -> Result<()> {
    let mut answers = Vec::new();
    for keys in keys.chunks(1000) {
        let puts: Vec<Write<'_>> = keys.iter().map(|key| Write::Put { key, value, prev_kv: false }).collect();
        answers.clear();
        engine.commit(&puts, &mut answers);
    }
    let mut found = Found::default();
    if let Some(last) = keys.last() {
        engine.get(last, &mut found);
        ensure!(found.len() == 1, "the engine lost {}", last.escape_ascii());
    }
    Ok(())
}
