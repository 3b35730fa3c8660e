//! KV: Txn and Compact.

use kv_codec::command::{Body, Compare, CompareResult, CompareTarget, Op, Range, Txn};
use kv_store::{Block, OpOutcome, Outcome, TxnOutcome};

use super::kv::{delete_command, put_command, put_cost};
use super::pairs::{Encoded, STEP_BYTES, STEP_KEYS};
use super::txn_check::check;
use super::{Core, aside, count, key_value};
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    self as pb, CompactionRequest, CompactionResponse, DeleteRangeResponse, PutResponse, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::status::ApiError;

impl Core {
    /// Runs a transaction: through the log if it may write, on the view if it only reads.
    pub(crate) async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, ApiError> {
        self.answered(request, |response| response).await
    }

    /// The same, encoded. In front of the message `room` bytes are left free.
    pub(crate) async fn encoded_txn(&self, request: &TxnRequest, room: usize) -> Result<Encoded, ApiError> {
        self.answered(request, move |response| Encoded::of(&response, room)).await
    }

    /// Runs a transaction and makes something of the answer: aside, if that is a long one.
    async fn answered<T: Send + 'static>(
        &self,
        request: &TxnRequest,
        make: impl FnOnce(TxnResponse) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (revision, outcome) = self.outcome_of(request).await?;
        let header = self.header(revision);
        if is_short(&outcome) {
            return Ok(make(TxnResponse { header, ..response(request, &outcome) }));
        }
        let request = request.clone();
        aside(move || Ok(make(TxnResponse { header, ..response(&request, &outcome) }))).await
    }

    async fn outcome_of(&self, request: &TxnRequest) -> Result<(i64, TxnOutcome), ApiError> {
        check(request, self.limits.txn_ops_max)?;
        let txn = command(request)?;
        self.metrics.txns.inc();
        if is_read_only(request) {
            if !is_serializable(request) {
                self.read_barrier().await?;
            }
            let view = self.views.load_full();
            let revision = view.revision();
            let outcome = if names_keys(request) {
                view.read_txn(&txn)?
            } else {
                let request = request.clone();
                aside(move || Ok(view.read_txn(&command(&request)?)?)).await?
            };
            Ok((revision, outcome))
        } else {
            self.check_quota(cost(request)).await?;
            let applied = self.replicate(&Body::Txn(txn)).await?;
            let Outcome::Txn(outcome) = applied.outcome else {
                unreachable!("a transaction is answered by a transaction");
            };
            Ok((applied.revision, outcome))
        }
    }

    /// Gives up history below a revision. With `physical`, waits until it is gone.
    pub(crate) async fn compact(&self, request: &CompactionRequest) -> Result<CompactionResponse, ApiError> {
        let applied = self.replicate(&Body::Compact { revision: request.revision }).await?;
        if request.physical {
            // Each step of the work publishes. It ends, whatever is compacted later, so that there is no deadline but the client's.
            let mut published = self.applied.clone();
            let gone = published.wait_for(|_| self.views.load().is_purged_to(request.revision));
            gone.await.map_err(|_| ApiError::Stopped)?;
        }
        Ok(CompactionResponse { header: self.header(applied.revision) })
    }
}

/// Whether every operation of both cases is a read. A transaction inside counts as a write, as in etcd.
fn is_read_only(txn: &TxnRequest) -> bool {
    ops(txn).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether every read asks for no more than what this member has.
fn is_serializable(txn: &TxnRequest) -> bool {
    ops(txn).all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// Whether a transaction that only reads looks at single keys alone: a range may hold the whole store.
fn names_keys(txn: &TxnRequest) -> bool {
    txn.compare.iter().all(|compare| compare.range_end.is_empty())
        && ops(txn).all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.range_end.is_empty()))
}

/// Whether an answer of it is made in no more time than a step of a large one.
fn is_short(outcome: &TxnOutcome) -> bool {
    let (mut keys, mut bytes) = (0, 0);
    add(outcome, &mut keys, &mut bytes);
    keys <= STEP_KEYS && bytes <= STEP_BYTES as u64
}

/// Adds the pairs of an outcome, and the bytes that they take.
fn add(outcome: &TxnOutcome, keys: &mut usize, bytes: &mut u64) {
    for response in &outcome.responses {
        let blocks = match response {
            OpOutcome::Range { kvs: blocks, .. } | OpOutcome::Deleted { prev: blocks, .. } => &blocks[..],
            OpOutcome::Put { prev, .. } => prev.as_slice(),
            OpOutcome::Txn(outcome) => {
                add(outcome, keys, bytes);
                continue;
            }
        };
        *keys += blocks.len();
        *bytes += blocks.iter().map(Block::bytes).sum::<u64>();
    }
}

fn ops(txn: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    txn.success.iter().chain(&txn.failure)
}

/// What the dearer case takes of the quota.
fn cost(txn: &TxnRequest) -> u64 {
    let sum = |ops: &[RequestOp]| {
        let costs = ops.iter().map(|op| match &op.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(txn)) => cost(txn),
            _ => 0,
        });
        costs.sum::<u64>()
    };
    sum(&txn.success).max(sum(&txn.failure))
}

fn command(txn: &TxnRequest) -> Result<Txn<'_>, ApiError> {
    Ok(Txn {
        compare: txn.compare.iter().filter_map(compare).collect(),
        success: txn.success.iter().map(op).collect::<Result<_, _>>()?,
        failure: txn.failure.iter().map(op).collect::<Result<_, _>>()?,
    })
}

fn op(op: &RequestOp) -> Result<Op<'_>, ApiError> {
    Ok(match op.request.as_ref().ok_or(ApiError::KeyNotFound)? {
        Request::RequestRange(request) => Op::Range(range(request)?),
        Request::RequestPut(put) => Op::Put(put_command(put)),
        Request::RequestDeleteRange(delete) => Op::DeleteRange(delete_command(delete)),
        Request::RequestTxn(txn) => Op::Txn(command(txn)?),
    })
}

fn range(request: &RangeRequest) -> Result<Range<'_>, ApiError> {
    Ok(Range {
        key: &request.key,
        range_end: &request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order: u8::try_from(request.sort_order).map_err(|_| ApiError::InvalidSortOption)?,
        sort_target: u8::try_from(request.sort_target).map_err(|_| ApiError::InvalidSortOption)?,
        keys_only: request.keys_only,
        count_only: request.count_only,
        mod_revisions: (request.min_mod_revision, request.max_mod_revision),
        create_revisions: (request.min_create_revision, request.max_create_revision),
    })
}

/// A condition; `None` for one that always holds. What is missing or of another kind than the target says counts as zero.
///
/// As in etcd, whatever is compared by a target that the API does not have is equal, and a result that it does not have holds; but no
/// value compares to that of a key that is not there.
fn compare(compare: &pb::Compare) -> Option<Compare<'_>> {
    let (key, range_end) = (&compare.key[..], &compare.range_end[..]);
    let union = compare.target_union.as_ref();
    let result = pb::compare::CompareResult::try_from(compare.result).ok();
    let Ok(target) = pb::compare::CompareTarget::try_from(compare.target) else {
        let never = Compare { key, range_end, result: CompareResult::Less, target: CompareTarget::Version(0) };
        return result.filter(|result| *result != pb::compare::CompareResult::Equal).map(|_| never);
    };
    let Some(result) = result else {
        let exists = Compare { key, range_end, result: CompareResult::Greater, target: CompareTarget::Version(0) };
        return (target == pb::compare::CompareTarget::Value).then_some(exists);
    };
    let target = match target {
        pb::compare::CompareTarget::Version => match union {
            Some(TargetUnion::Version(version)) => CompareTarget::Version(*version),
            _ => CompareTarget::Version(0),
        },
        pb::compare::CompareTarget::Create => match union {
            Some(TargetUnion::CreateRevision(revision)) => CompareTarget::Create(*revision),
            _ => CompareTarget::Create(0),
        },
        pb::compare::CompareTarget::Mod => match union {
            Some(TargetUnion::ModRevision(revision)) => CompareTarget::Mod(*revision),
            _ => CompareTarget::Mod(0),
        },
        pb::compare::CompareTarget::Value => match union {
            Some(TargetUnion::Value(value)) => CompareTarget::Value(value),
            _ => CompareTarget::Value(b""),
        },
        pb::compare::CompareTarget::Lease => match union {
            Some(TargetUnion::Lease(lease)) => CompareTarget::Lease(*lease),
            _ => CompareTarget::Lease(0),
        },
    };
    let result = match result {
        pb::compare::CompareResult::Equal => CompareResult::Equal,
        pb::compare::CompareResult::Greater => CompareResult::Greater,
        pb::compare::CompareResult::Less => CompareResult::Less,
        pb::compare::CompareResult::NotEqual => CompareResult::NotEqual,
    };
    Some(Compare { key, range_end, result, target })
}

/// The answer with an empty header, as a transaction inside another has it; each operation's with the revision that it saw or made.
fn response(request: &TxnRequest, outcome: &TxnOutcome) -> TxnResponse {
    let asked = if outcome.succeeded { &request.success } else { &request.failure };
    let responses = asked
        .iter()
        .zip(&outcome.responses)
        .map(|(op, outcome)| ResponseOp { response: op.request.as_ref().map(|request| op_response(request, outcome)) });
    let header = Some(ResponseHeader::default());
    TxnResponse { header, succeeded: outcome.succeeded, responses: responses.collect() }
}

fn op_response(request: &Request, outcome: &OpOutcome) -> Response {
    let header = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
    match (request, outcome) {
        (Request::RequestRange(request), OpOutcome::Range { kvs, count: all, more, revision }) => {
            let mut kvs: Vec<_> = kvs.iter().map(key_value).collect();
            if request.keys_only {
                kvs.iter_mut().for_each(|kv| kv.value.clear());
            }
            let header = header(*revision);
            Response::ResponseRange(RangeResponse { header, kvs, more: *more, count: count(*all) })
        }
        (Request::RequestPut(request), OpOutcome::Put { prev, revision }) => {
            let prev_kv = prev.as_ref().filter(|_| request.prev_kv).map(key_value);
            Response::ResponsePut(PutResponse { header: header(*revision), prev_kv })
        }
        (Request::RequestDeleteRange(request), OpOutcome::Deleted { prev, revision }) => {
            let prev_kvs = if request.prev_kv { prev.iter().map(key_value).collect() } else { Vec::new() };
            let deleted = count(prev.len() as u64);
            Response::ResponseDeleteRange(DeleteRangeResponse { header: header(*revision), deleted, prev_kvs })
        }
        (Request::RequestTxn(request), OpOutcome::Txn(outcome)) => Response::ResponseTxn(response(request, outcome)),
        _ => unreachable!("an operation is answered by its own kind"),
    }
}
