//! KV: RangeStream, an answer in parts that make Range's answer together.

use std::sync::Arc;

use kv_store::{Block, KeyRange, SortOrder, SortTarget, View};
use prost::Message;

use super::kv::range_query;
use super::{Core, count, key_value};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use crate::status::ApiError;

/// Pairs of the first part (as in etcd): so few that a client of a large store has something at once.
const FIRST_KEYS: usize = 10;

/// The parts of an answer that are still to come. They are read from one view: whatever is compacted meanwhile, they fit together.
#[derive(Debug)]
pub(crate) struct RangeParts {
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
    done: bool,
}

impl Core {
    /// Reads a range in parts.
    pub(crate) async fn range_stream(self: &Arc<Self>, request: RangeRequest) -> Result<RangeParts, ApiError> {
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
        let left = if request.limit <= 0 { usize::MAX } else { usize::try_from(request.limit).unwrap_or(usize::MAX) };
        Ok(RangeParts {
            core: Arc::clone(self),
            view,
            request,
            revision,
            last: None,
            left,
            keys: FIRST_KEYS,
            done: false,
        })
    }
}

impl RangeParts {
    /// The next part; `None` after the last, which says what is said of the whole.
    pub(crate) fn next(&mut self) -> Option<RangeStreamResponse> {
        if self.done {
            return None;
        }
        let range = KeyRange::new(&self.request.key, &self.request.range_end);
        let bytes_max = self.core.limits.request_bytes_max;
        let mut part = RangeResponse::default();
        let (mut bytes, mut newest) = (0, None);
        let mut walk = self.view.walk(&range, self.revision, self.last.as_ref().map(Block::key)).peekable();
        if !self.request.count_only {
            while part.kvs.len() < self.keys.min(self.left) && bytes < bytes_max {
                let Some(block) = walk.next() else { break };
                let mut kv = key_value(block);
                if self.request.keys_only {
                    kv.value.clear();
                }
                bytes += kv.encoded_len();
                part.kvs.push(kv);
                newest = Some(block.clone());
            }
        }
        self.left -= part.kvs.len();
        let more = walk.peek().is_some();
        self.done = self.request.count_only || self.left == 0 || !more;
        if self.done {
            part.header = self.core.header(self.view.revision());
            part.more = more && !self.request.count_only;
            part.count = count(self.view.count(&range, self.revision));
        }
        self.last = newest.or(self.last.take());
        if bytes < bytes_max / 2 {
            self.keys *= 2;
        } else if bytes > bytes_max {
            self.keys = (self.keys / 2).max(1);
        }
        Some(RangeStreamResponse { range_response: Some(part) })
    }
}
