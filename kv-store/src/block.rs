//! One revision of one key, in one allocation.

use std::fmt;
use std::sync::Arc;

use crate::Revision;

/// Bytes before the key: create (8), main (8), version (8), lease (8), sub (4), key length and tombstone bit (4).
const HEADER_BYTES: usize = 40;
/// The bit of the key length that says the key was deleted here.
const TOMBSTONE: u32 = 1 << 31;

/// A key-value pair at one revision, or the key's deletion.
///
/// Cloning copies a pointer. The key map and the history share the same block.
///
/// * A tombstone has no value, no lease, version 0 and create revision 0.
#[derive(Clone)]
pub struct Block(Arc<[u8]>);

impl Block {
    /// A live pair.
    pub(crate) fn put(
        revision: Revision,
        create_revision: i64,
        version: i64,
        lease: i64,
        key: &[u8],
        value: &[u8],
    ) -> Self {
        Self::build(revision, create_revision, version, lease, 0, key, value)
    }

    /// A deletion of `key`.
    pub(crate) fn tombstone(revision: Revision, key: &[u8]) -> Self {
        Self::build(revision, 0, 0, 0, TOMBSTONE, key, b"")
    }

    fn build(
        revision: Revision,
        create: i64,
        version: i64,
        lease: i64,
        tombstone: u32,
        key: &[u8],
        value: &[u8],
    ) -> Self {
        let key_len = u32::try_from(key.len()).expect("a key is far shorter than 2 GiB");
        assert!(key_len & TOMBSTONE == 0, "a key is far shorter than 2 GiB");
        // An iterator of known length makes the one allocation; a Vec would make a second.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, HEADER_BYTES + key.len() + value.len()).collect();
        let out = Arc::get_mut(&mut bytes).expect("nobody else has it yet");
        out[0..8].copy_from_slice(&create.to_le_bytes());
        out[8..16].copy_from_slice(&revision.main.to_le_bytes());
        out[16..24].copy_from_slice(&version.to_le_bytes());
        out[24..32].copy_from_slice(&lease.to_le_bytes());
        out[32..36].copy_from_slice(&revision.sub.to_le_bytes());
        out[36..40].copy_from_slice(&(key_len | tombstone).to_le_bytes());
        out[HEADER_BYTES..HEADER_BYTES + key.len()].copy_from_slice(key);
        out[HEADER_BYTES + key.len()..].copy_from_slice(value);
        Self(bytes)
    }

    fn i64_at(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    fn key_end(&self) -> usize {
        HEADER_BYTES + (self.u32_at(36) & !TOMBSTONE) as usize
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.0[HEADER_BYTES..self.key_end()]
    }

    /// The value; empty for a tombstone.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.0[self.key_end()..]
    }

    /// The revision at which the key was last created; 0 for a tombstone.
    #[must_use]
    pub fn create_revision(&self) -> i64 {
        self.i64_at(0)
    }

    /// The revision of this change.
    #[must_use]
    pub fn mod_revision(&self) -> i64 {
        self.i64_at(8)
    }

    /// The revision of this change and its place within it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision { main: self.mod_revision(), sub: self.u32_at(32) }
    }

    /// How many times the key was put since it was created; 0 for a tombstone.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.i64_at(16)
    }

    /// The lease the key is attached to; 0 for none.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.i64_at(24)
    }

    /// Whether the key was deleted here.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.u32_at(36) & TOMBSTONE != 0
    }

    /// How many own it.
    #[cfg(test)]
    pub(crate) fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// The bytes it takes, the allocation's own header aside.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("key", &self.key().escape_ascii().to_string())
            .field("revision", &self.revision())
            .field("create_revision", &self.create_revision())
            .field("version", &self.version())
            .field("lease", &self.lease())
            .field("tombstone", &self.is_tombstone())
            .field("value_len", &self.value().len())
            .finish()
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Block {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back() {
        let revision = Revision { main: 9, sub: 3 };
        let block = Block::put(revision, 5, 2, -1, b"key", b"value");
        assert_eq!((block.key(), block.value()), (&b"key"[..], &b"value"[..]));
        assert_eq!((block.revision(), block.create_revision()), (revision, 5));
        assert_eq!((block.version(), block.lease(), block.is_tombstone()), (2, -1, false));
        let gone = Block::tombstone(revision, b"key");
        assert_eq!((gone.key(), gone.value(), gone.is_tombstone()), (&b"key"[..], &b""[..], true));
        assert_eq!((gone.create_revision(), gone.version(), gone.lease()), (0, 0, 0));
    }
}
