//! KV: Range, Put, DeleteRange.

use kv_codec::command::{Body, DeleteRange, Put};
use kv_store::{Block, KeyRange, Outcome, RangeQuery, SortOrder, SortTarget, View};

use super::encode::Form;
use super::pairs::{Around, Encoded, Pairs, STEP_BYTES, STEP_KEYS, pairs_len};
use super::{Core, aside, count, key_value};
use crate::proto::etcdserverpb::range_request;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
};
use crate::status::ApiError;

/// What etcd counts for a put beside key and value when it looks at the quota.
const PUT_OVERHEAD_BYTES: u64 = 256;

impl Core {
    /// A learner answers only what may be old: it has no part in what is decided.
    pub(crate) fn check_learner_range(&self, request: &RangeRequest) -> Result<(), ApiError> {
        if self.is_learner() && !request.serializable {
            return Err(ApiError::NotSupportedForLearner);
        }
        Ok(())
    }

    /// Reads a range, linearizably unless the request says otherwise.
    pub(crate) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, ApiError> {
        range_query(request)?;
        if !request.serializable {
            self.read_barrier().await?;
        }
        self.metrics.ranges.inc();
        let view = self.views.load_full();
        let header = self.header(view.revision());
        let found = if request.range_end.is_empty() {
            found(&view, request)?
        } else {
            let request = request.clone();
            aside(move || found(&view, &request)).await?
        };
        Ok(RangeResponse { header, ..found })
    }

    /// Puts a key.
    pub(crate) async fn put(&self, request: &PutRequest) -> Result<PutResponse, ApiError> {
        check_put(request)?;
        self.check_quota(put_cost(request)).await?;
        let body = Body::Put(put_command(request));
        let applied = self.replicate(&body).await?;
        self.metrics.puts.inc();
        let Outcome::Put { prev } = applied.outcome else {
            unreachable!("a put is answered by a put");
        };
        let prev_kv = prev.filter(|_| request.prev_kv).map(|block| key_value(&block));
        Ok(PutResponse { header: self.header(applied.revision), prev_kv })
    }

    /// Deletes a range.
    pub(crate) async fn delete_range(&self, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, ApiError> {
        let (answer, prev) = self.deleted(request).await?;
        if prev.is_empty() {
            return Ok(answer);
        }
        let prev_kvs = aside(move || Ok(prev.iter().map(key_value).collect())).await?;
        Ok(DeleteRangeResponse { prev_kvs, ..answer })
    }

    /// Deletes a range; the answer is encoded straight from the blocks of what was there. In front of it `room` bytes are left free.
    pub(crate) async fn encoded_delete_range(
        &self,
        request: &DeleteRangeRequest,
        room: usize,
    ) -> Result<Encoded, ApiError> {
        let (begin, prev) = self.deleted(request).await?;
        let form = Form::PREV_KVS;
        let mut bytes = 0;
        if prev.len() <= STEP_KEYS {
            bytes = pairs_len(&prev, form);
        } else {
            for blocks in prev.chunks(STEP_KEYS) {
                bytes += self.steps.take(|| pairs_len(blocks, form)).await;
                tokio::task::yield_now().await;
            }
        }
        let around = Around { begin, end: (), form, bytes, room };
        if bytes <= STEP_BYTES {
            return Ok(around.whole(&prev));
        }
        Ok(around.in_pieces(Pairs::List(prev.into_iter()), &self.steps))
    }

    /// Deletes a range; the answer but for what was there, and that if it was asked for.
    async fn deleted(&self, request: &DeleteRangeRequest) -> Result<(DeleteRangeResponse, Vec<Block>), ApiError> {
        if request.key.is_empty() {
            return Err(ApiError::EmptyKey);
        }
        let body = Body::DeleteRange(delete_command(request));
        let applied = self.replicate(&body).await?;
        self.metrics.deletes.inc();
        let Outcome::Deleted { prev } = applied.outcome else {
            unreachable!("a deletion is answered by a deletion");
        };
        let deleted = count(prev.len() as u64);
        let answer = DeleteRangeResponse { header: self.header(applied.revision), deleted, prev_kvs: Vec::new() };
        if request.prev_kv {
            return Ok((answer, prev));
        }
        if prev.len() > STEP_KEYS {
            // To let go of a block is to look at it: of so many, not on a thread of the runtime.
            aside(move || {
                drop(prev);
                Ok(())
            })
            .await?;
        }
        Ok((answer, Vec::new()))
    }
}

/// What a range holds, as the API shows it.
fn found(view: &View, request: &RangeRequest) -> Result<RangeResponse, ApiError> {
    let ranged = view.range(&range_query(request)?)?;
    let mut kvs: Vec<_> = ranged.kvs.iter().map(|block| key_value(block)).collect();
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    Ok(RangeResponse { header: None, kvs, more: ranged.more, count: count(ranged.count) })
}

/// What a put takes of the quota.
pub(super) fn put_cost(request: &PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + (request.key.len() + request.value.len()) as u64
}

pub(super) fn check_put(request: &PutRequest) -> Result<(), ApiError> {
    if request.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(ApiError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(ApiError::LeaseProvided);
    }
    Ok(())
}

pub(super) fn put_command(request: &PutRequest) -> Put<'_> {
    Put {
        key: &request.key,
        value: &request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

pub(super) fn delete_command(request: &DeleteRangeRequest) -> DeleteRange<'_> {
    DeleteRange { key: &request.key, range_end: &request.range_end, prev_kv: request.prev_kv }
}

pub(super) fn range_query(request: &RangeRequest) -> Result<RangeQuery<'_>, ApiError> {
    if request.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    let order = range_request::SortOrder::try_from(request.sort_order).map_err(|_| ApiError::InvalidSortOption)?;
    let target = range_request::SortTarget::try_from(request.sort_target).map_err(|_| ApiError::InvalidSortOption)?;
    Ok(RangeQuery {
        range: KeyRange::new(&request.key, &request.range_end),
        limit: request.limit,
        revision: request.revision,
        order: match order {
            range_request::SortOrder::None => SortOrder::None,
            range_request::SortOrder::Ascend => SortOrder::Ascend,
            range_request::SortOrder::Descend => SortOrder::Descend,
        },
        target: match target {
            range_request::SortTarget::Key => SortTarget::Key,
            range_request::SortTarget::Version => SortTarget::Version,
            range_request::SortTarget::Create => SortTarget::Create,
            range_request::SortTarget::Mod => SortTarget::Mod,
            range_request::SortTarget::Value => SortTarget::Value,
        },
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}
