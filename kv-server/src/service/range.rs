//! KV: Range, encoded straight from the blocks of a view.
//!
//! An answer is sized before it is encoded, so that a small one takes one allocation of its own length. A large one is encoded while it
//! is sent, a chunk at a time: whatever its length, it takes the memory of a chunk. The view that it comes from never changes, so that
//! the bytes are those that were counted.
//!
//! Sizing and encoding go in steps of a bounded number of keys, so that no call keeps a thread of the runtime from the others. What
//! does not go in such steps is done on a thread of its own: sorting, filtering, and the past, where a range passes over any number of keys
//! that lived at another time.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kv_store::{Block, KeyRange, RangeQuery, View};
use prost::Message;

use super::encode::{kv_len, put_kv};
use super::kv::range_query;
use super::{Core, aside, count};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse};
use crate::status::ApiError;

const GROWS: &str = "the buffer grows";
/// Keys that are looked at in one step.
const STEP_KEYS: usize = 1024;
/// What is encoded in one step, one larger pair aside. An answer up to this length is encoded whole.
const STEP_BYTES: usize = 256 * 1024;

/// An encoded [`RangeResponse`], whole or to be made on the way.
#[derive(Debug)]
pub(crate) struct EncodedRange {
    /// Bytes of the whole message.
    pub(crate) len: usize,
    /// Its first bytes, after as many free ones as were asked for.
    pub(crate) first: BytesMut,
    /// What makes the others.
    pub(crate) rest: Option<RangeRest>,
}

/// The part of an answer that is not encoded yet.
#[derive(Debug)]
pub(crate) struct RangeRest {
    /// None once all are encoded.
    pairs: Option<Pairs>,
    keys_only: bool,
    /// The fields after the pairs.
    end: BytesMut,
}

/// Pairs that are still to come.
#[derive(Debug)]
enum Pairs {
    /// The next `left` keys of a range, above `last`.
    Walk { view: Arc<View>, key: Bytes, range_end: Bytes, revision: i64, last: Option<Block>, left: u64 },
    /// These.
    List(std::vec::IntoIter<Block>),
}

impl RangeRest {
    /// The next bytes of the message; none at its end.
    pub(crate) fn next_chunk(&mut self) -> Option<Bytes> {
        let pairs = self.pairs.as_mut()?;
        let mut chunk = BytesMut::with_capacity(STEP_BYTES + self.end.len());
        if !pairs.encode(&mut chunk, self.keys_only) {
            chunk.unsplit(std::mem::take(&mut self.end));
            self.pairs = None;
        }
        Some(chunk.freeze())
    }
}

impl Pairs {
    /// Appends the next pairs; whether there are more.
    fn encode(&mut self, out: &mut BytesMut, keys_only: bool) -> bool {
        let mut step = Step::default();
        match self {
            Self::Walk { view, key, range_end, revision, last, left } => {
                let range = KeyRange::new(key, range_end);
                let mut walk = view.walk(&range, *revision, last.as_ref().map(Block::key));
                let mut newest = None;
                while *left > 0 && !step.is_over() {
                    let block = walk.next().expect("as many keys as were counted");
                    step.add(put_kv(out, block, keys_only));
                    newest = Some(block);
                    *left -= 1;
                }
                *last = newest.cloned();
                *left > 0
            }
            Self::List(blocks) => {
                while !step.is_over() {
                    match blocks.next() {
                        Some(block) => step.add(put_kv(out, &block, keys_only)),
                        None => return false,
                    }
                }
                !blocks.as_slice().is_empty()
            }
        }
    }
}

/// What one step has done.
#[derive(Default)]
struct Step {
    keys: usize,
    bytes: usize,
}

impl Step {
    fn add(&mut self, bytes: usize) {
        self.keys += 1;
        self.bytes += bytes;
    }

    fn is_over(&self) -> bool {
        self.keys >= STEP_KEYS || self.bytes >= STEP_BYTES
    }
}

/// What an answer says beside its pairs, and how long those are.
#[derive(Debug, Clone, Copy, Default)]
struct Sized {
    bytes: usize,
    count: u64,
    more: bool,
}

impl Core {
    /// Reads a range, linearizably unless the request says otherwise. In front of the message `room` bytes are left free, for its
    /// framing.
    pub(crate) async fn encoded_range(&self, request: &RangeRequest, room: usize) -> Result<EncodedRange, ApiError> {
        let query = range_query(request)?;
        if !request.serializable {
            self.read_barrier().await?;
        }
        self.metrics.ranges.inc();
        let view = match self.small_range(&query, request.keys_only, room)? {
            Small::Whole(encoded) => return Ok(encoded),
            Small::Not(view) => view,
        };
        let revision = view.revision();
        if is_stepped(&view, &query) {
            let (sized, pairs) = walked(view, request, &query).await?;
            return Ok(self.begun(revision, sized, request.keys_only, pairs, room));
        }
        let (sized, blocks) = listed(view, request.clone()).await?;
        if sized.bytes <= STEP_BYTES {
            return Ok(self.whole(revision, sized, request.keys_only, &blocks, room));
        }
        Ok(self.begun(revision, sized, request.keys_only, Pairs::List(blocks.into_iter()), room))
    }

    /// Answers whole what fits into one step; otherwise the view to answer from. A read of a few keys writes to no memory that others
    /// read: the view is borrowed, not shared.
    fn small_range(&self, query: &RangeQuery<'_>, keys_only: bool, room: usize) -> Result<Small, ApiError> {
        let view = self.views.load();
        let step = i64::try_from(STEP_KEYS).expect("a small number");
        let asked = if query.limit <= 0 { i64::MAX } else { query.limit };
        let revision = view.readable(query.revision)?;
        let (is_stepped, is_single) = (is_stepped(&view, query), matches!(query.range, KeyRange::Single(_)));
        let may_be_small = is_stepped
            || is_single
            || (revision == view.revision() && view.count(&query.range, revision) <= STEP_KEYS as u64);
        if !may_be_small {
            return Ok(Small::Not(Arc::clone(&view)));
        }
        let cut = if is_stepped { RangeQuery { limit: asked.min(step), ..*query } } else { *query };
        let ranged = view.range(&cut)?;
        let bytes: usize = ranged.kvs.iter().map(|block| kv_len(block, keys_only)).sum();
        if bytes > STEP_BYTES || (ranged.more && is_stepped && asked > step) {
            return Ok(Small::Not(Arc::clone(&view)));
        }
        let sized = Sized { bytes, count: ranged.count, more: ranged.more };
        Ok(Small::Whole(self.whole(view.revision(), sized, keys_only, ranged.kvs, room)))
    }

    /// An answer that is encoded at once.
    fn whole<'b>(
        &self,
        revision: i64,
        sized: Sized,
        keys_only: bool,
        blocks: impl IntoIterator<Item = &'b Block>,
        room: usize,
    ) -> EncodedRange {
        let (mut encoded, end) = self.frame(revision, sized, room, sized.bytes);
        for block in blocks {
            put_kv(&mut encoded.first, block, keys_only);
        }
        encoded.first.unsplit(end);
        encoded
    }

    /// An answer whose pairs are all still to come.
    fn begun(&self, revision: i64, sized: Sized, keys_only: bool, pairs: Pairs, room: usize) -> EncodedRange {
        let (mut encoded, end) = self.frame(revision, sized, room, 0);
        encoded.rest = Some(RangeRest { pairs: Some(pairs), keys_only, end });
        encoded
    }

    /// An answer's fields before and after its pairs, with room for `pairs` bytes in between.
    fn frame(&self, revision: i64, sized: Sized, room: usize, pairs: usize) -> (EncodedRange, BytesMut) {
        let begin = RangeResponse { header: self.header(revision), ..RangeResponse::default() };
        let end = RangeResponse { more: sized.more, count: count(sized.count), ..RangeResponse::default() };
        let (begin_len, end_len) = (begin.encoded_len(), end.encoded_len());
        let mut first = BytesMut::with_capacity(room + begin_len + pairs + end_len);
        first.put_bytes(0, room);
        // Fields may be encoded apart: a message is the bytes of its fields.
        begin.encode(&mut first).expect(GROWS);
        let mut tail = BytesMut::with_capacity(end_len);
        end.encode(&mut tail).expect(GROWS);
        (EncodedRange { len: begin_len + sized.bytes + end_len, first, rest: None }, tail)
    }
}

/// Whether an answer is small.
enum Small {
    Whole(EncodedRange),
    Not(Arc<View>),
}

/// Whether a range can be left and taken up again after any number of keys: it is in their order, and as they are now.
fn is_stepped(view: &View, query: &RangeQuery<'_>) -> bool {
    query.is_plain() && (query.revision <= 0 || query.revision == view.revision())
}

/// Sizes the answer to such a query, a step at a time.
async fn walked(view: Arc<View>, request: &RangeRequest, query: &RangeQuery<'_>) -> Result<(Sized, Pairs), ApiError> {
    let revision = view.readable(query.revision)?;
    let count = view.count(&query.range, revision);
    let limit = u64::try_from(query.limit).ok().filter(|limit| *limit > 0);
    let keys = count.min(limit.unwrap_or(u64::MAX));
    let (mut left, mut bytes, mut last) = (keys, 0, None::<Block>);
    while left > 0 {
        let step = STEP_KEYS.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut walk = view.walk(&query.range, revision, last.as_ref().map(Block::key)).take(step);
        let newest = walk.by_ref().inspect(|block| bytes += kv_len(block, request.keys_only)).last();
        last = Some(newest.expect("as many keys as were counted").clone());
        left -= step as u64;
        tokio::task::yield_now().await;
    }
    let (key, range_end) = (request.key.clone(), request.range_end.clone());
    let pairs = Pairs::Walk { view, key, range_end, revision, last: None, left: keys };
    Ok((Sized { bytes, count, more: count > keys }, pairs))
}

/// Reads any range, in a time that grows with the keys that it passes: not on a thread of the runtime.
async fn listed(view: Arc<View>, request: RangeRequest) -> Result<(Sized, Vec<Block>), ApiError> {
    let list = move || {
        let ranged = view.range(&range_query(&request)?)?;
        let bytes = ranged.kvs.iter().map(|block| kv_len(block, request.keys_only)).sum();
        let sized = Sized { bytes, count: ranged.count, more: ranged.more };
        Ok((sized, ranged.kvs.into_iter().cloned().collect()))
    };
    aside(list).await
}
