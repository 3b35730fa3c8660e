//! Hashes of the store: etcd's `HashKV`, and one over everything for comparing replicas.

use crate::{Block, ReadError, Revision, View};

/// The answer to a `HashKV` request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C over every kept revision up to `revision`.
    pub hash: u32,
    /// The revision that was compacted last; -1 for none.
    pub compact_revision: i64,
    /// The revision that the hash is of.
    pub revision: i64,
}

impl View {
    /// etcd's hash of all revisions up to `revision` (0: the current one): CRC-32C over `"key"` and then, in revision order, the
    /// key and the value of each record as etcd stores it. Equal histories give equal hashes on any member, and on etcd.
    ///
    /// Takes time in proportion to the history.
    ///
    /// # Errors
    /// [`ReadError`] for a revision that is gone or not yet there.
    pub fn hash_kv(&self, revision: i64) -> Result<KvHash, ReadError> {
        let revision = self.readable(revision)?;
        let last = Revision { main: revision, sub: u32::MAX };
        let mut hash = crc32c::crc32c(b"key");
        let mut record = Vec::new();
        for (_, block) in self.history.range(..=last) {
            record.clear();
            put_record(&mut record, block);
            hash = crc32c::crc32c_append(hash, &record);
        }
        let compact_revision = if self.compact_revision == 0 { -1 } else { self.compact_revision };
        Ok(KvHash { hash, compact_revision, revision })
    }

    /// A hash over all of the replicated state. Two replicas that applied the same entries have the same.
    #[must_use]
    pub fn state_hash(&self) -> u32 {
        self.chunks().fold(0, |hash, chunk| crc32c::crc32c_append(hash, &chunk))
    }
}

/// A record as etcd keeps it: `main` and `sub` as 8 bytes each (big-endian) with `_` between and `t` after for a tombstone; then
/// the key-value message in protobuf.
fn put_record(out: &mut Vec<u8>, block: &Block) {
    let Revision { main, sub } = block.revision();
    out.extend_from_slice(&main.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&i64::from(sub).to_be_bytes());
    if block.is_tombstone() {
        out.push(b't');
        put_field(out, 1, block.key());
        return;
    }
    put_field(out, 1, block.key());
    put_varint_field(out, 2, block.create_revision());
    put_varint_field(out, 3, block.mod_revision());
    put_varint_field(out, 4, block.version());
    put_field(out, 5, block.value());
    put_varint_field(out, 6, block.lease());
}

/// A bytes field of a protobuf message; left out when empty, as proto3 does.
fn put_field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        kv_codec::varint::put_u64(out, number << 3 | 2);
        kv_codec::varint::put_bytes(out, bytes);
    }
}

/// An int64 field of a protobuf message; left out when zero, as proto3 does.
fn put_varint_field(out: &mut Vec<u8>, number: u64, value: i64) {
    if value != 0 {
        kv_codec::varint::put_u64(out, number << 3);
        kv_codec::varint::put_u64(out, value.cast_unsigned());
    }
}
