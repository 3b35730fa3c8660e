//! One revision of one key, in one allocation.

use std::fmt;
use std::mem::MaybeUninit;

use triomphe::{Arc, HeaderWithLength, ThinArc, UniqueArc};

use crate::Revision;

/// What a block counts for beside its key and its value.
const HEADER_BYTES: u64 = size_of::<Header>() as u64;
/// The bit of the key length that says the key was deleted here.
const TOMBSTONE: u32 = 1 << 31;

/// A key-value pair at one revision, or the key's deletion.
///
/// One word, and one allocation. Cloning counts one more owner; what a [`crate::View`] shows of its blocks counts none.
///
/// * A tombstone has no value, no lease, version 0 and create revision 0.
#[derive(Clone)]
pub struct Block(ThinArc<Header, u8>);

/// What stands before the key and the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    create: i64,
    main: i64,
    version: i64,
    lease: i64,
    sub: u32,
    /// With [`TOMBSTONE`].
    key_len: u32,
}

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
        let Revision { main, sub } = revision;
        Self::build(Header { create: create_revision, main, version, lease, sub, key_len: key_len(key) }, key, value)
    }

    /// A deletion of `key`.
    pub(crate) fn tombstone(revision: Revision, key: &[u8]) -> Self {
        let Revision { main, sub } = revision;
        let key_len = key_len(key) | TOMBSTONE;
        Self::build(Header { create: 0, main, version: 0, lease: 0, sub, key_len }, key, b"")
    }

    fn build(header: Header, key: &[u8], value: &[u8]) -> Self {
        let len = key.len() + value.len();
        let mut made = UniqueArc::from_header_and_uninit_slice(HeaderWithLength::new(header, len), len);
        let (to_key, to_value) = made.slice.split_at_mut(key.len());
        fill(to_key, key);
        fill(to_value, value);
        // SAFETY: `fill` wrote the bytes of both halves, and there are no others.
        #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
        let made = unsafe { made.assume_init_slice_with_header() }; // docs/adr/0016-eras.md
        Self(Arc::into_thin(made.shareable()))
    }

    fn header(&self) -> &Header {
        &self.0.header.header
    }

    fn key_end(&self) -> usize {
        (self.header().key_len & !TOMBSTONE) as usize
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.0.slice[..self.key_end()]
    }

    /// The value; empty for a tombstone.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.0.slice[self.key_end()..]
    }

    /// The revision at which the key was last created; 0 for a tombstone.
    #[must_use]
    pub fn create_revision(&self) -> i64 {
        self.header().create
    }

    /// The revision of this change.
    #[must_use]
    pub fn mod_revision(&self) -> i64 {
        self.header().main
    }

    /// The revision of this change and its place within it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision { main: self.header().main, sub: self.header().sub }
    }

    /// How many times the key was put since it was created; 0 for a tombstone.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.header().version
    }

    /// The lease the key is attached to; 0 for none.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.header().lease
    }

    /// Whether the key was deleted here.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.header().key_len & TOMBSTONE != 0
    }

    /// How many own it.
    #[cfg(test)]
    pub(crate) fn owners(&self) -> usize {
        ThinArc::strong_count(&self.0)
    }

    /// Whether both are one allocation.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.as_ptr() == other.0.as_ptr()
    }

    /// The bytes it takes, the allocation's own header aside.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        HEADER_BYTES + self.0.slice.len() as u64
    }
}

fn key_len(key: &[u8]) -> u32 {
    let len = u32::try_from(key.len()).ok().filter(|len| len & TOMBSTONE == 0);
    len.expect("a key is far shorter than 2 GiB")
}

/// Writes all of `to`, which is as long as `from`.
fn fill(to: &mut [MaybeUninit<u8>], from: &[u8]) {
    assert_eq!(to.len(), from.len(), "a byte for each place");
    for (to, from) in to.iter_mut().zip(from) {
        to.write(*from);
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
        self.is_same(other) || (self.header() == other.header() && self.0.slice == other.0.slice)
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
