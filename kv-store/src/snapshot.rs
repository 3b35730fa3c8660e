//! The state as a stream of bytes, and back.
//!
//! ```text
//! stream  = version (1 byte, 2) | header | leases by rising id | latest blocks in key order | superseded blocks in (key, revision) order
//! header  = revision | compact_revision | applied_index | applied_term        (varints)
//!         | members (count, members) | removed (count, ids as u64 LE)
//!         | compactions (count, the one before, count x (revision, hash as u32 LE))
//!         | alarms (count, count x (member as u64 LE, kind as u8))
//!         | number of leases                                                  (varint)
//!         | number of latest blocks | number of superseded blocks             (varints)
//! lease   = id | ttl | remaining_ttl | granted                                (varints)
//! block   = tombstone (0 or 1) | create | main | sub | version | lease        (varints)
//!         | key (length, bytes) | value (length, bytes)
//! ```
//!
//! What a compaction hides is left out, purged or not: equal states make equal streams.
//!
//! The stream is cut into chunks at any byte; checksums are the business of whoever stores or sends them.

use std::ops::Bound;
use std::sync::Arc;

use kv_codec::DecodeError;
use kv_codec::command::{AlarmKind, FIELD_BYTES_MAX};
use kv_codec::member::Member;
use kv_codec::varint::{Reader, put_bytes, put_u64};

use crate::compaction::{COMPACTIONS_KEPT, Compaction, Purge};
use crate::trees::{self, Trees};
use crate::walk::Merged;
use crate::{Alarms, Block, ByteCounts, Lease, Leases, Members, Revision, View};

/// The stream format that this build writes.
pub const SNAPSHOT_VERSION: u8 = 2;
/// One without alarms and leases, which is read as well.
const WITHOUT_LEASES: u8 = 1;
/// How long a chunk is, the last one aside.
const CHUNK_BYTES: usize = 256 * 1024;
/// Why a block is refused that its stream's compaction hides.
const HIDDEN: DecodeError = DecodeError::Invalid("revision that is compacted");
/// The most members, present or removed, that a header may claim.
const MEMBERS_MAX: u64 = 1 << 20;

impl View {
    /// The stream, chunk by chunk; made on the way, so that it takes the memory of one chunk, and of a word for each revision of one key.
    #[must_use]
    pub fn chunks(&self) -> SnapshotChunks<'_> {
        let is_purged = self.is_purged();
        let shows = move |block: &&Block| is_purged || !self.hides(block);
        let all = || Merged::new(self, (Bound::Unbounded, Bound::Unbounded));
        let latest = || all().filter(shows);
        // Links may lead to what is gone: where nothing replaced is left, none is followed.
        let any = self.trees.superseded_len() > 0;
        let superseded =
            move || all().take_while(move |_| any).flat_map(|latest| self.trees.superseded(latest)).filter(shows);
        let counts = if is_purged {
            (self.trees.live().len() + self.trees.dead().len(), self.trees.superseded_len())
        } else {
            (latest().count(), superseded().count())
        };
        let mut buffer = Vec::with_capacity(CHUNK_BYTES + 1024);
        put_header(&mut buffer, self, counts);
        self.leases.iter().for_each(|(id, lease)| put_lease(&mut buffer, id, lease));
        SnapshotChunks { blocks: Box::new(latest().chain(superseded())), buffer }
    }
}

/// Yields the chunks of a stream, each at most 256 KiB.
pub struct SnapshotChunks<'v> {
    blocks: Box<dyn Iterator<Item = &'v Block> + Send + 'v>,
    buffer: Vec<u8>,
}

impl Iterator for SnapshotChunks<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        while self.buffer.len() < CHUNK_BYTES {
            match self.blocks.next() {
                Some(block) => put_block(&mut self.buffer, block),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let rest = self.buffer.split_off(self.buffer.len().min(CHUNK_BYTES));
        Some(std::mem::replace(&mut self.buffer, rest))
    }
}

fn put_header(out: &mut Vec<u8>, view: &View, (latest, superseded): (usize, usize)) {
    out.push(SNAPSHOT_VERSION);
    put_u64(out, view.revision.cast_unsigned());
    put_u64(out, view.compact_revision.cast_unsigned());
    put_u64(out, view.applied_index);
    put_u64(out, view.applied_term);
    put_u64(out, view.members.iter().len() as u64);
    for member in view.members.iter() {
        member.encode(out);
    }
    put_u64(out, view.members.removed().len() as u64);
    for id in view.members.removed() {
        out.extend_from_slice(&id.to_le_bytes());
    }
    put_u64(out, view.compactions.len() as u64);
    if let Some(first) = view.compactions.first() {
        put_u64(out, first.previous.cast_unsigned());
    }
    for compaction in view.compactions.iter() {
        put_u64(out, compaction.revision.cast_unsigned());
        out.extend_from_slice(&view.compaction_hash(compaction).to_le_bytes());
    }
    put_u64(out, view.alarms.iter().len() as u64);
    for (member, kind) in view.alarms.iter() {
        out.extend_from_slice(&member.to_le_bytes());
        out.push(kind.number());
    }
    put_u64(out, view.leases.iter().len() as u64);
    put_u64(out, latest as u64);
    put_u64(out, superseded as u64);
}

fn put_lease(out: &mut Vec<u8>, id: i64, lease: &Lease) {
    put_u64(out, id.cast_unsigned());
    put_u64(out, lease.ttl.cast_unsigned());
    put_u64(out, lease.remaining_ttl.cast_unsigned());
    put_u64(out, lease.granted);
}

fn put_block(out: &mut Vec<u8>, block: &Block) {
    out.push(u8::from(block.is_tombstone()));
    put_u64(out, block.create_revision().cast_unsigned());
    put_u64(out, block.mod_revision().cast_unsigned());
    put_u64(out, u64::from(block.revision().sub));
    put_u64(out, block.version().cast_unsigned());
    put_u64(out, block.lease().cast_unsigned());
    put_bytes(out, block.key());
    put_bytes(out, block.value());
}

/// Builds a view from a stream's chunks.
#[derive(Debug, Default)]
pub struct SnapshotLoader {
    /// Bytes of an item that the next chunk completes.
    pending: Vec<u8>,
    state: Option<Loading>,
}

#[derive(Debug)]
struct Loading {
    view: View,
    leases_left: u64,
    latest_left: u64,
    superseded_left: u64,
    /// Those of the view, once all blocks are in.
    trees: trees::Loading,
}

impl SnapshotLoader {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that [`View::chunks`] does not make, blocks out of order among them.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), DecodeError> {
        self.pending.extend_from_slice(chunk);
        let mut at = 0;
        while at < self.pending.len() {
            let mut reader = Reader::new(&self.pending[at..]);
            match step(&mut self.state, &mut reader) {
                Ok(()) => at = self.pending.len() - reader.rest().len(),
                // The item goes on in the next chunk.
                Err(DecodeError::Truncated(_)) => break,
                Err(error) => return Err(error),
            }
        }
        self.pending.drain(..at);
        Ok(())
    }

    /// The view, once all chunks are in.
    ///
    /// # Errors
    /// [`DecodeError`] when the stream ended early, or two blocks have one revision.
    pub fn finish(self) -> Result<View, DecodeError> {
        let loading = self.state.ok_or(DecodeError::Truncated("snapshot header"))?;
        if loading.leases_left > 0 || loading.latest_left > 0 || loading.superseded_left > 0 || !self.pending.is_empty()
        {
            return Err(DecodeError::Truncated("snapshot"));
        }
        let trees = loading.trees.finish().ok_or(DecodeError::Invalid("two changes at one revision"))?;
        Ok(View { trees, ..loading.view })
    }
}

/// Reads one item.
fn step(state: &mut Option<Loading>, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let Some(loading) = state else {
        *state = Some(header(reader)?);
        return Ok(());
    };
    if loading.leases_left > 0 {
        loading.add_lease(reader)
    } else if loading.latest_left > 0 {
        let block = block(reader, loading.view.revision)?;
        loading.add_latest(block)
    } else if loading.superseded_left > 0 {
        let block = block(reader, loading.view.revision)?;
        loading.add_superseded(block)
    } else {
        Err(DecodeError::Trailing("snapshot"))
    }
}

impl Loading {
    fn add_lease(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let id = reader.i64("lease")?;
        let (ttl, remaining_ttl) = (reader.i64("TTL")?, reader.i64("TTL")?);
        let lease = Lease { ttl, remaining_ttl, granted: reader.u64("index of a grant")? };
        if self.view.leases.all().get_max().is_some_and(|(last, _)| *last >= id) || id == 0 {
            return Err(DecodeError::Invalid("order of leases"));
        }
        if !(0..=ttl).contains(&remaining_ttl) || lease.granted > self.view.applied_index {
            return Err(DecodeError::Invalid("TTL"));
        }
        self.view.leases.grant(id, lease);
        self.leases_left -= 1;
        Ok(())
    }

    fn add_latest(&mut self, block: Block) -> Result<(), DecodeError> {
        if block.is_tombstone() && block.mod_revision() < self.view.compact_revision {
            return Err(HIDDEN);
        }
        if self.trees.last_latest().is_some_and(|last| last.key() >= block.key()) {
            return Err(DecodeError::Invalid("order of snapshot keys"));
        }
        self.latest_left -= 1;
        if !block.is_tombstone() {
            if block.lease() != 0 && self.view.leases.get(block.lease()).is_none() {
                return Err(DecodeError::Invalid("lease of a key"));
            }
            self.view.leases.follow(None, &block);
            self.view.bytes.live += block.bytes();
        }
        self.view.bytes.history += block.bytes();
        self.trees.add_latest(block);
        Ok(())
    }

    fn add_superseded(&mut self, block: Block) -> Result<(), DecodeError> {
        let is_late = |last: &Block| (last.key(), last.revision()) >= (block.key(), block.revision());
        if self.trees.last_superseded().is_some_and(is_late) {
            return Err(DecodeError::Invalid("order of snapshot revisions"));
        }
        let latest = self.trees.latest(block.key()).filter(|latest| latest.revision() > block.revision());
        let latest = latest.cloned().ok_or(DecodeError::Invalid("superseded revision"))?;
        // The blocks of a key are neighbours: of those at or below the compaction, only the last can be left.
        let compacted = self.view.compact_revision;
        let is_hidden = |block: &Block, next: &Block| {
            next.mod_revision() <= compacted || (block.is_tombstone() && block.mod_revision() < compacted)
        };
        let before = self.trees.last_superseded().filter(|before| before.key() == block.key());
        if is_hidden(&block, &latest) || before.is_some_and(|before| is_hidden(before, &block)) {
            return Err(HIDDEN);
        }
        self.superseded_left -= 1;
        self.view.bytes.history += block.bytes();
        self.trees.add_superseded(block);
        Ok(())
    }
}

fn header(reader: &mut Reader<'_>) -> Result<Loading, DecodeError> {
    let found = reader.u8("snapshot version")?;
    if !(WITHOUT_LEASES..=SNAPSHOT_VERSION).contains(&found) {
        return Err(DecodeError::Version { what: "snapshot", found });
    }
    let revision = reader.i64("revision")?;
    let compact_revision = reader.i64("compact revision")?;
    // The last of each number is out, too: the next change counts on from them.
    if !(1..i64::MAX).contains(&revision) || compact_revision < -1 || compact_revision > revision {
        return Err(DecodeError::Invalid("snapshot revision"));
    }
    let applied_index = reader.u64("applied index")?;
    if applied_index == u64::MAX {
        return Err(DecodeError::Invalid("applied index"));
    }
    let applied_term = reader.u64("applied term")?;
    let members: Vec<Member> = items(reader, Member::decode)?;
    let removed: Vec<u64> = items(reader, |reader| reader.fixed_u64("removed member"))?;
    let in_order = members.is_sorted_by(|a, b| a.id < b.id) && removed.is_sorted_by(|a, b| a < b);
    if !in_order || members.iter().any(|member| removed.binary_search(&member.id).is_ok()) {
        return Err(DecodeError::Invalid("snapshot members"));
    }
    let compactions = compactions(reader)?;
    // A compaction at 0 is not kept: to ask for the hash at 0 is to ask for the current one.
    let last = compactions.last().map_or(compact_revision.min(0), |last| last.revision);
    if last != compact_revision {
        return Err(DecodeError::Invalid("snapshot compactions"));
    }
    let (alarms, leases_left) = if found == WITHOUT_LEASES { (Vec::new(), 0) } else { alarms_and_leases(reader)? };
    let latest_left = reader.u64("number of keys")?;
    let superseded_left = reader.u64("number of revisions")?;
    let view = View {
        trees: Trees::default(),
        revision,
        compact_revision,
        compactions: Arc::new(compactions),
        purge: Purge::done(compact_revision),
        bytes: ByteCounts::default(),
        members: Members::new(members, removed),
        leases: Leases::default(),
        alarms: Alarms::new(alarms),
        applied_index,
        applied_term,
    };
    Ok(Loading { view, leases_left, latest_left, superseded_left, trees: trees::Loading::default() })
}

/// The alarms, and how many leases there are.
fn alarms_and_leases(reader: &mut Reader<'_>) -> Result<(Vec<(u64, AlarmKind)>, u64), DecodeError> {
    let alarms: Vec<_> = items(reader, |reader| {
        Ok((reader.fixed_u64("member of an alarm")?, AlarmKind::from_number(reader.u8("alarm")?)?))
    })?;
    if !alarms.is_sorted_by(|a, b| a < b) {
        return Err(DecodeError::Invalid("order of alarms"));
    }
    Ok((alarms, reader.u64("number of leases")?))
}

fn compactions(reader: &mut Reader<'_>) -> Result<Vec<Compaction>, DecodeError> {
    let len = reader.u64("number of compactions")?;
    let max = COMPACTIONS_KEPT as u64;
    if len > max {
        return Err(DecodeError::TooLong { what: "list of compactions", len, max });
    }
    if len == 0 {
        return Ok(Vec::new());
    }
    let mut previous = reader.i64("compact revision")?;
    if previous < -1 {
        return Err(DecodeError::Invalid("snapshot compactions"));
    }
    let mut compactions = Vec::new();
    for _ in 0..len {
        let revision = reader.i64("compact revision")?;
        let hash = reader.fixed_u32("compaction hash")?;
        if revision <= previous.max(0) {
            return Err(DecodeError::Invalid("snapshot compactions"));
        }
        compactions.push(Compaction { revision, previous, hash: Some(hash) });
        previous = revision;
    }
    Ok(compactions)
}

fn items<T>(
    reader: &mut Reader<'_>,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.u64("number of members")?;
    if count > MEMBERS_MAX {
        return Err(DecodeError::TooLong { what: "list of members", len: count, max: MEMBERS_MAX });
    }
    (0..count).map(|_| item(reader)).collect()
}

fn block(reader: &mut Reader<'_>, revision_max: i64) -> Result<Block, DecodeError> {
    let tombstone = reader.bool("tombstone")?;
    let create = reader.i64("create revision")?;
    let main = reader.i64("mod revision")?;
    let sub = u32::try_from(reader.u64("sub revision")?).map_err(|_| DecodeError::Invalid("sub revision"))?;
    let version = reader.i64("version")?;
    let lease = reader.i64("lease")?;
    let key = reader.bytes(FIELD_BYTES_MAX, "key")?;
    let value = reader.bytes(FIELD_BYTES_MAX, "value")?;
    let revision = Revision { main, sub };
    if main < 1 || main > revision_max || create > main || version == i64::MAX {
        return Err(DecodeError::Invalid("block revision"));
    }
    match (tombstone, create, version, lease, value) {
        (true, 0, 0, 0, b"") => Ok(Block::tombstone(revision, key, None)),
        (false, 1.., 1.., _, _) => Ok(Block::put(revision, create, version, lease, key, value, None)),
        _ => Err(DecodeError::Invalid("block")),
    }
}
