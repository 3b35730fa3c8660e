//! Hashes of the store: etcd's `HashKV`, and one over everything for comparing replicas.

use crate::compaction::Compaction;
use crate::{Block, ReadError, Revision, View};

/// The answer to a `HashKV` request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C over every kept revision up to `revision`.
    pub hash: u32,
    /// The revision of the last compaction that the hash knows of; -1 for none.
    pub compact_revision: i64,
    /// The revision that the hash is of.
    pub revision: i64,
}

impl View {
    /// etcd's hash of all revisions up to `revision` (0: the current one): CRC-32C over `"key"` and then, in revision order, the
    /// key and the value of each record as etcd stores it. Equal histories give equal hashes on any member, and on etcd.
    ///
    /// After a compaction, revisions up to it count only if they were live at `revision`. At the very revision of one of the last
    /// ten compactions, the answer is what it was before that compaction.
    ///
    /// Takes time in proportion to the history.
    ///
    /// # Errors
    /// [`ReadError`] for a revision that is gone or not yet there.
    pub fn hash_kv(&self, revision: i64) -> Result<KvHash, ReadError> {
        if let Some(compaction) = self.compactions.iter().find(|compaction| compaction.revision == revision) {
            let (hash, compact_revision) = (self.compaction_hash(compaction), compaction.previous);
            return Ok(KvHash { hash, compact_revision, revision });
        }
        let revision = self.readable(revision)?;
        let compact_revision = self.compact_revision;
        Ok(KvHash { hash: self.hash_since(compact_revision, revision), compact_revision, revision })
    }

    /// The revisions of the last compactions, rising: at these, [`View::hash_kv`] tells what was there before.
    pub fn compacted_at(&self) -> impl Iterator<Item = i64> {
        self.compactions.iter().map(|compaction| compaction.revision)
    }

    /// What the hash at `compaction` was just before it.
    pub(crate) fn compaction_hash(&self, compaction: &Compaction) -> u32 {
        compaction.hash.unwrap_or_else(|| self.hash_since(compaction.previous, compaction.revision))
    }

    fn hash_since(&self, compacted: i64, revision: i64) -> u32 {
        let mut hasher = KvHasher::new(compacted, revision);
        self.trees.changes(Revision::default(), revision).for_each(|block| hasher.add(self, block));
        hasher.finish()
    }

    /// A hash over all of the replicated state. Two replicas that applied the same entries have the same, whatever they purged.
    #[must_use]
    pub fn state_hash(&self) -> u32 {
        self.chunks().fold(0, |hash, chunk| crc32c::crc32c_append(hash, &chunk))
    }
}

/// The hash at `revision` of a store that was compacted at `compacted`, revision by revision.
///
/// Revisions up to the compaction count if a compaction at `revision` would keep them, too. But if it would keep nothing at all, then
/// etcd counts whatever is there: all that the compaction left. Deletions at the compaction never count: only newer etcds keep them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvHasher {
    compacted: i64,
    revision: i64,
    /// With all that the compaction left.
    left: u32,
    /// With what is kept.
    kept: u32,
    keeps_any: bool,
}

impl KvHasher {
    pub(crate) fn new(compacted: i64, revision: i64) -> Self {
        let start = crc32c::crc32c(b"key");
        Self { compacted, revision, left: start, kept: start, keeps_any: false }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// Adds the next revision that is in `view`, in which nothing may be purged but what a compaction at `compacted` hides.
    pub(crate) fn add(&mut self, view: &View, block: &Block) {
        let is_old = block.mod_revision() <= self.compacted;
        if is_old && block.is_tombstone() {
            return;
        }
        let is_kept = || !block.is_tombstone() && view.is_newest(block, self.revision);
        if is_old {
            let is_kept = is_kept();
            if is_kept {
                self.keeps_any = true;
                self.append(block);
            } else if view.is_newest(block, self.compacted) {
                self.left = crc32c::crc32c_append(self.left, &record(block));
            }
        } else {
            self.keeps_any = self.keeps_any || is_kept();
            self.append(block);
        }
    }

    fn append(&mut self, block: &Block) {
        let record = record(block);
        let same = self.left == self.kept;
        self.kept = crc32c::crc32c_append(self.kept, &record);
        self.left = if same { self.kept } else { crc32c::crc32c_append(self.left, &record) };
    }

    pub(crate) fn finish(self) -> u32 {
        if self.keeps_any { self.kept } else { self.left }
    }
}

fn record(block: &Block) -> Vec<u8> {
    // Revision, field tags and numbers take less than 96 bytes.
    let mut record = Vec::with_capacity(96 + block.key().len() + block.value().len());
    put_record(&mut record, block);
    record
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
