//! One revision of one key, in one allocation.

use std::fmt;
use std::hint;
use std::mem::MaybeUninit;

use triomphe::{Arc, HeaderWithLength, ThinArc, UniqueArc};

use crate::Revision;
use crate::link::Link;

/// What a block counts for beside its key and its value.
const HEADER_BYTES: u64 = size_of::<Header>() as u64;
/// The bit of the key length that says the key was deleted here.
const TOMBSTONE: u32 = 1 << 31;
/// The bit of the version that says a link follows the value.
const LINKED: i64 = i64::MIN;

/// A key-value pair at one revision, or the key's deletion.
///
/// One word, and one allocation. Cloning counts one more owner; what a [`crate::View`] shows of its blocks counts none.
///
/// * A tombstone has no value, no lease, version 0 and create revision 0.
/// * One that replaced another revision of its key ends with a link to it.
#[derive(Clone)]
pub struct Block(ThinArc<Header, u8>);

/// What stands before the key and the value.
#[derive(Debug, Clone, Copy)]
struct Header {
    create: i64,
    main: i64,
    /// With [`LINKED`].
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
        link: Option<Link>,
    ) -> Self {
        let Revision { main, sub } = revision;
        let header = Header { create: create_revision, main, version, lease, sub, key_len: key_len(key) };
        Self::build(header, key, value, link)
    }

    /// A deletion of `key`.
    pub(crate) fn tombstone(revision: Revision, key: &[u8], link: Option<Link>) -> Self {
        let Revision { main, sub } = revision;
        let key_len = key_len(key) | TOMBSTONE;
        Self::build(Header { create: 0, main, version: 0, lease: 0, sub, key_len }, key, b"", link)
    }

    /// The same with another link.
    pub(crate) fn linked(&self, link: Link) -> Self {
        Self::build(Header { version: self.version(), ..*self.header() }, self.key(), self.value(), Some(link))
    }

    fn build(mut header: Header, key: &[u8], value: &[u8], link: Option<Link>) -> Self {
        let encoded = link.map(Link::encode);
        let link = encoded.as_ref().map_or(&[][..], |link| {
            header.version |= LINKED;
            link
        });
        let len = key.len() + value.len() + link.len();
        let mut made = UniqueArc::from_header_and_uninit_slice(HeaderWithLength::new(header, len), len);
        let (to_key, rest) = made.slice.split_at_mut(key.len());
        let (to_value, to_link) = rest.split_at_mut(value.len());
        fill(to_key, key);
        fill(to_value, value);
        fill(to_link, link);
        // SAFETY: `fill` wrote the bytes of all three parts, and there are no others.
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
        &self.0.slice[self.key_end()..self.value_end()]
    }

    fn is_linked(&self) -> bool {
        self.header().version & LINKED != 0
    }

    fn value_end(&self) -> usize {
        self.0.slice.len() - if self.is_linked() { Link::BYTES } else { 0 }
    }

    /// The way to the revisions before it.
    pub(crate) fn link(&self) -> Option<Link> {
        self.is_linked().then(|| Link::decode(self.0.slice.last_chunk().expect("a link was written")))
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
        self.header().version & !LINKED
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

    /// Has it fetched from memory, for somebody who looks at it soon. Nobody waits for what it gives.
    pub(crate) fn fetch(&self) {
        hint::black_box(self.header().key_len);
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

    /// What it counts for in a store: the bytes of its key, its value and what is said of them. A link, which replicas that began with
    /// different snapshots may have and not have, is not among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        HEADER_BYTES + self.value_end() as u64
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
    /// Links aside: they are ways through one store.
    fn eq(&self, other: &Self) -> bool {
        let facts = |block: &Self| {
            let Header { create, lease, key_len, .. } = *block.header();
            (block.revision(), block.version(), create, lease, key_len)
        };
        let is_equal = || facts(self) == facts(other) && self.key() == other.key() && self.value() == other.value();
        self.is_same(other) || is_equal()
    }
}

impl Eq for Block {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back() {
        let revision = Revision { main: 9, sub: 3 };
        let block = Block::put(revision, 5, 2, -1, b"key", b"value", None);
        assert_eq!((block.key(), block.value()), (&b"key"[..], &b"value"[..]));
        assert_eq!((block.revision(), block.create_revision()), (revision, 5));
        assert_eq!((block.version(), block.lease(), block.is_tombstone()), (2, -1, false));
        let gone = Block::tombstone(revision, b"key", None);
        assert_eq!((gone.key(), gone.value(), gone.is_tombstone()), (&b"key"[..], &b""[..], true));
        assert_eq!((gone.create_revision(), gone.version(), gone.lease()), (0, 0, 0));
    }

    #[test]
    fn a_link_is_beside_what_a_block_says() {
        let revision = Revision { main: 9, sub: 3 };
        for block in [Block::put(revision, 5, 2, -1, b"key", b"value", None), Block::tombstone(revision, b"key", None)]
        {
            let link = Link::to(&block, |_| None);
            let linked = block.linked(link);
            assert_eq!((linked.link(), block.link()), (Some(link), None));
            assert_eq!((&linked, linked.bytes(), linked.version()), (&block, block.bytes(), block.version()));
            assert_eq!((linked.key(), linked.value()), (block.key(), block.value()));
            assert_eq!(linked.is_tombstone(), block.is_tombstone());
        }
    }
}
