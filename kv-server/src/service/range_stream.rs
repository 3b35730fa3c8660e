//! KV: RangeStream, an answer in parts that make Range's answer together. A part is a step of a large answer; at an earlier revision, where
//! a walk passes over any number of keys that lived at another time, it is made on a thread of its own.

use std::sync::Arc;

use kv_store::{Block, KeyRange, SortOrder, SortTarget, View};
use prost::Message;
use tokio::sync::mpsc;

use super::kv::range_query;
use super::pairs::{STEP_BYTES, STEP_KEYS};
use super::{Core, count, key_value};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use crate::status::ApiError;

/// Pairs of the first part (as in etcd): so few that a client of a large store has something at once.
const FIRST_KEYS: usize = 10;

/// The parts of an answer that are still to come. They are read from one view: whatever is compacted meanwhile, they fit together.
#[derive(Debug)]
struct RangeParts {
    core: Arc<Core>,
    view: Arc<View>,
    request: RangeRequest,
    revision: i64,
    /// The last key that was sent.
    last: Option<Block>,
    /// Pairs that the limit still allows.
    left: usize,
    /// Pairs of the next part.
    keys: usize,
}

impl Core {
    /// Reads a range in parts.
    pub(crate) async fn range_stream(
        self: &Arc<Self>,
        request: RangeRequest,
    ) -> Result<mpsc::Receiver<RangeStreamResponse>, ApiError> {
        let query = range_query(&request)?;
        if query.target != SortTarget::Key || query.order == SortOrder::Descend {
            return Err(ApiError::RangeStreamSort);
        }
        if !query.is_plain() {
            return Err(ApiError::RangeStreamFilter);
        }
        if !request.serializable {
            self.read_barrier().await?;
        }
        self.metrics.ranges.inc();
        let view = self.views.load_full();
        let revision = view.readable(request.revision)?;
        let is_now = revision == view.revision();
        let left = if request.limit <= 0 { usize::MAX } else { usize::try_from(request.limit).unwrap_or(usize::MAX) };
        let core = Arc::clone(self);
        let mut parts = RangeParts { core, view, request, revision, last: None, left, keys: FIRST_KEYS };
        let next = move || parts.next();
        Ok(if is_now { self.steps.pieces(next) } else { self.steps.pieces_aside(next) })
    }
}

impl RangeParts {
    /// The next part, and whether more follow; the last says what is said of the whole.
    fn next(&mut self) -> (RangeStreamResponse, bool) {
        let range = KeyRange::new(&self.request.key, &self.request.range_end);
        let mut part = RangeResponse::default();
        let (mut bytes, mut newest) = (0, None);
        let mut walk = self.view.walk(&range, self.revision, self.last.as_ref().map(Block::key)).peekable();
        if !self.request.count_only {
            while part.kvs.len() < self.keys.min(self.left) && bytes < STEP_BYTES {
                let Some(block) = walk.next() else { break };
                let mut kv = key_value(block);
                if self.request.keys_only {
                    kv.value.clear();
                }
                bytes += kv.encoded_len();
                part.kvs.push(kv);
                newest = Some(block);
            }
        }
        self.left -= part.kvs.len();
        let is_more = walk.peek().is_some();
        let is_last = self.request.count_only || self.left == 0 || !is_more;
        if is_last {
            part.header = self.core.header(self.view.revision());
            part.more = is_more && !self.request.count_only;
            part.count = count(self.view.count(&range, self.revision));
        }
        self.last = newest.cloned().or(self.last.take());
        self.keys = (2 * self.keys).min(STEP_KEYS);
        (RangeStreamResponse { range_response: Some(part) }, !is_last)
    }
}
