//! Calls and what became of them, in the words of [`kv_sim::history`]; and how they are spoken on the wire.

use std::time::Duration;

use kv_server::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::request_op::Request as Asked;
use kv_server::proto::etcdserverpb::response_op::Response as Answered;
use kv_server::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest,
};
use kv_server::proto::mvccpb::KeyValue;
use kv_sim::history::{Answer, Guard, Pair, Request, Step, Told};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A call that takes longer has an outcome that nobody knows.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// A call that a client made.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) client: u32,
    pub(super) request: Request,
    /// The lease that a put attaches its key to; 0 for none.
    pub(super) lease: i64,
    /// A read that asks for no more than what its member has.
    pub(super) serializable: bool,
    /// When it was made and when it ended, as [`super::shared::Shared::now`] says.
    pub(super) made: u64,
    pub(super) ended: u64,
    pub(super) outcome: Outcome,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered(Answer),
    /// It was refused for what it asks, and has done nothing.
    Refused(String),
    /// Nobody knows: it may have happened, or happen still.
    Unknown(String),
    /// It was answered by what is no answer to it.
    Nonsense(String),
}

/// Why there is no answer.
enum Failed {
    Refused(Status),
    Nonsense(&'static str),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Makes the call.
pub(super) async fn ask(kv: &mut KvClient<Channel>, request: &Request, lease: i64, serializable: bool) -> Outcome {
    match tokio::time::timeout(ANSWER_WITHIN, spoken(kv, request, lease, serializable)).await {
        Err(_) => Outcome::Unknown(format!("no answer within {ANSWER_WITHIN:?}")),
        Ok(Ok(answer)) => Outcome::Answered(answer),
        Ok(Err(Failed::Nonsense(what))) => Outcome::Nonsense(what.into()),
        Ok(Err(Failed::Refused(status))) => {
            let why = format!("{:?}: {}", status.code(), status.message());
            match status.code() {
                Code::OutOfRange if status.message().contains("compacted") => {
                    Outcome::Answered(Answer { revision: 0, told: Told::Compacted })
                }
                Code::OutOfRange | Code::InvalidArgument | Code::NotFound => Outcome::Refused(why),
                _ => Outcome::Unknown(why),
            }
        }
    }
}

async fn spoken(
    kv: &mut KvClient<Channel>,
    request: &Request,
    lease: i64,
    serializable: bool,
) -> Result<Answer, Failed> {
    match request {
        Request::Write(Step::Put(key, value)) => {
            let request = PutRequest { lease, ..put(key, value) };
            let answer = kv.put(request).await?.into_inner();
            answered(answer.header, told_put(answer))
        }
        Request::Write(Step::Delete(key, end)) => {
            let answer = kv.delete_range(delete(key, end)).await?.into_inner();
            answered(answer.header, told_deleted(answer)?)
        }
        Request::Txn { guards, success, failure } => {
            let request = TxnRequest {
                compare: guards.iter().map(|(key, guard)| compare(key, guard)).collect(),
                success: success.iter().map(operation).collect(),
                failure: failure.iter().map(operation).collect(),
            };
            let answer = kv.txn(request).await?.into_inner();
            let mut told = Vec::new();
            for response in answer.responses {
                told.push(
                    match response.response.ok_or_else(|| Failed::Nonsense("an empty answer in a transaction"))? {
                        Answered::ResponsePut(put) => (revision(put.header.as_ref())?, told_put(put)),
                        Answered::ResponseDeleteRange(delete) => {
                            (revision(delete.header.as_ref())?, told_deleted(delete)?)
                        }
                        Answered::ResponseRange(range) => (revision(range.header.as_ref())?, told_range(range)?),
                        Answered::ResponseTxn(_) => {
                            return Err(Failed::Nonsense("a transaction that nobody asked for"));
                        }
                    },
                );
            }
            answered(answer.header, Told::Txn(answer.succeeded, told))
        }
        Request::Range { key, end, limit, revision } => {
            let limit = i64::try_from(*limit).expect("a few keys");
            let request = RangeRequest { limit, serializable, revision: *revision, ..range(key, end) };
            let answer = kv.range(request).await?.into_inner();
            answered(answer.header, told_range(answer)?)
        }
        Request::Write(Step::Range(..)) | Request::Compact(_) | Request::Member => {
            unreachable!("no client makes it: {request:?}")
        }
    }
}

fn revision(header: Option<&ResponseHeader>) -> Result<i64, Failed> {
    Ok(header.ok_or_else(|| Failed::Nonsense("an answer without a header"))?.revision)
}

fn answered(header: Option<ResponseHeader>, told: Told) -> Result<Answer, Failed> {
    Ok(Answer { revision: revision(header.as_ref())?, told })
}

fn put(key: &[u8], value: &[u8]) -> PutRequest {
    PutRequest { key: key.to_vec().into(), value: value.to_vec().into(), prev_kv: true, ..PutRequest::default() }
}

fn delete(key: &[u8], end: &[u8]) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_vec().into(), range_end: end.to_vec().into(), prev_kv: true }
}

fn range(key: &[u8], end: &[u8]) -> RangeRequest {
    RangeRequest { key: key.to_vec().into(), range_end: end.to_vec().into(), ..RangeRequest::default() }
}

fn operation(step: &Step) -> RequestOp {
    let request = match step {
        Step::Put(key, value) => Asked::RequestPut(put(key, value)),
        Step::Delete(key, end) => Asked::RequestDeleteRange(delete(key, end)),
        Step::Range(key, end, revision) => Asked::RequestRange(RangeRequest { revision: *revision, ..range(key, end) }),
    };
    RequestOp { request: Some(request) }
}

fn compare(key: &[u8], guard: &Guard) -> Compare {
    let (result, target, union) = match guard {
        Guard::ModIs(revision) => (CompareResult::Equal, CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        Guard::VersionAbove(version) => {
            (CompareResult::Greater, CompareTarget::Version, TargetUnion::Version(*version))
        }
    };
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.to_vec().into(),
        target_union: Some(union),
        ..Compare::default()
    }
}

pub(super) fn pair(pair: KeyValue) -> Pair {
    let KeyValue { key, value, create_revision, mod_revision, version, .. } = pair;
    Pair { key: key.to_vec(), value: value.to_vec(), create_revision, mod_revision, version }
}

fn told_put(answer: PutResponse) -> Told {
    Told::Put(answer.prev_kv.map(pair))
}

fn told_deleted(answer: DeleteRangeResponse) -> Result<Told, Failed> {
    if usize::try_from(answer.deleted) != Ok(answer.prev_kvs.len()) {
        return Err(Failed::Nonsense("a delete that counts other keys than it shows"));
    }
    Ok(Told::Deleted(answer.prev_kvs.into_iter().map(pair).collect()))
}

fn told_range(answer: RangeResponse) -> Result<Told, Failed> {
    let count = u64::try_from(answer.count).map_err(|_| Failed::Nonsense("a negative count"))?;
    Ok(Told::Range(answer.kvs.into_iter().map(pair).collect(), count, answer.more))
}
