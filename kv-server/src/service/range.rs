//! KV: Range, encoded straight from the blocks of a view.
//!
//! An answer is sized before it is encoded, so that a small one takes one allocation of its own length. A large one is encoded while it
//! is sent.
//!
//! Sizing and encoding go in steps of a bounded number of keys, and those of large answers take turns, so that no call keeps a thread of the
//! runtime from the others. What does not go in such steps is done on a thread of its own: sorting, filtering, and the past, where a range
//! passes over any number of keys that lived at another time.

use std::sync::Arc;

use kv_store::{Block, KeyRange, RangeQuery, View};

use super::encode::Form;
use super::kv::range_query;
use super::pairs::{Around, Encoded, Pairs, STEP_BYTES, STEP_KEYS, pairs_len};
use super::{Core, aside, count};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse};
use crate::status::ApiError;

/// What an answer says beside its pairs, and how long those are.
#[derive(Debug, Clone, Copy)]
struct Sized {
    bytes: usize,
    count: u64,
    more: bool,
}

/// What the first step of an answer came to.
enum First {
    /// It is the whole answer.
    Whole(Encoded),
    /// It has sized some of it.
    Step(Arc<View>, Sizing),
    /// Nothing: it does not go in steps.
    Nothing(Arc<View>),
}

/// An answer on the way to be sized.
struct Sizing {
    /// All keys of the range.
    count: u64,
    /// Those that the answer shows.
    shown: u64,
    /// Of these, the ones still to be looked at, above `last`.
    left: u64,
    last: Option<Block>,
    /// Bytes of the others.
    bytes: usize,
}

impl Core {
    /// Reads a range, linearizably unless the request says otherwise. In front of the message `room` bytes are left free, for its
    /// framing.
    pub(crate) async fn encoded_range(&self, request: &RangeRequest, room: usize) -> Result<Encoded, ApiError> {
        let query = range_query(request)?;
        if !request.serializable {
            self.read_barrier().await?;
        }
        self.metrics.ranges.inc();
        let form = Form::kvs(request.keys_only);
        match self.first_step(&query, form, room)? {
            First::Whole(encoded) => Ok(encoded),
            First::Step(view, mut sizing) => {
                while sizing.left > 0 {
                    self.steps.take(|| sizing.step(&view, &query.range, form)).await;
                    tokio::task::yield_now().await;
                }
                let Sizing { count, shown, bytes, .. } = sizing;
                let around = self.around(view.revision(), Sized { bytes, count, more: count > shown }, form, room);
                let (key, range_end) = (request.key.clone(), request.range_end.clone());
                Ok(around.in_pieces(Pairs::Walk { view, key, range_end, last: None, left: shown }, &self.steps))
            }
            First::Nothing(view) => {
                let revision = view.revision();
                let (sized, blocks) = listed(view, request.clone()).await?;
                let around = self.around(revision, sized, form, room);
                if sized.bytes <= STEP_BYTES {
                    return Ok(around.whole(&blocks));
                }
                Ok(around.in_pieces(Pairs::List(blocks.into_iter()), &self.steps))
            }
        }
    }

    /// Answers whole what fits into one step. A read of a few keys waits for no turn, and writes to no memory that others read: the view is
    /// borrowed, not shared.
    fn first_step(&self, query: &RangeQuery<'_>, form: Form, room: usize) -> Result<First, ApiError> {
        let view = self.views.load();
        let revision = view.readable(query.revision)?;
        let is_now = revision == view.revision();
        let is_stepped = query.is_plain() && is_now;
        let is_single = matches!(query.range, KeyRange::Single(_));
        let may_be_small =
            is_stepped || is_single || (is_now && view.count(&query.range, revision) <= STEP_KEYS as u64);
        if !may_be_small {
            return Ok(First::Nothing(Arc::clone(&view)));
        }
        let asked = u64::try_from(query.limit).ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
        let step = i64::try_from(asked.min(STEP_KEYS as u64)).expect("a small number");
        let ranged = view.range(&if is_stepped { RangeQuery { limit: step, ..*query } } else { *query })?;
        let bytes = pairs_len(ranged.kvs.iter().copied(), form);
        let seen = ranged.kvs.len() as u64;
        let is_all = !is_stepped || !ranged.more || seen == asked;
        if is_all && bytes <= STEP_BYTES {
            let sized = Sized { bytes, count: ranged.count, more: ranged.more };
            return Ok(First::Whole(self.around(view.revision(), sized, form, room).whole(ranged.kvs)));
        }
        if !is_stepped {
            return Ok(First::Nothing(Arc::clone(&view)));
        }
        let shown = ranged.count.min(asked);
        let last = ranged.kvs.last().map(|block| Block::clone(block));
        let sizing = Sizing { count: ranged.count, shown, left: shown - seen, last, bytes };
        Ok(First::Step(Arc::clone(&view), sizing))
    }

    /// An answer's fields before and after its pairs.
    fn around(&self, revision: i64, sized: Sized, form: Form, room: usize) -> Around<RangeResponse, RangeResponse> {
        let begin = RangeResponse { header: self.header(revision), ..RangeResponse::default() };
        let end = RangeResponse { more: sized.more, count: count(sized.count), ..RangeResponse::default() };
        Around { begin, end, form, bytes: sized.bytes, room }
    }
}

impl Sizing {
    /// Looks at some more keys of a range as it is now.
    fn step(&mut self, view: &View, range: &KeyRange<'_>, form: Form) {
        let keys = STEP_KEYS.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut newest = None;
        let walk = view.walk(range, view.revision(), self.last.as_ref().map(Block::key)).take(keys);
        self.bytes += pairs_len(walk.inspect(|block| newest = Some(*block)), form);
        self.last = Some(newest.expect("as many keys as were counted").clone());
        self.left -= keys as u64;
    }
}

/// Reads any range, in a time that grows with the keys that it passes: not on a thread of the runtime.
async fn listed(view: Arc<View>, request: RangeRequest) -> Result<(Sized, Vec<Block>), ApiError> {
    let list = move || {
        let ranged = view.range(&range_query(&request)?)?;
        let bytes = pairs_len(ranged.kvs.iter().copied(), Form::kvs(request.keys_only));
        let sized = Sized { bytes, count: ranged.count, more: ranged.more };
        Ok((sized, ranged.kvs.into_iter().cloned().collect()))
    };
    aside(list).await
}
