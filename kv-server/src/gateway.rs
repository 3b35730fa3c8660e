//! The JSON gateway: the API's calls as POST requests under `/v3/`, for curl and for clients without gRPC.
//!
//! Messages are translated by their descriptors: field names as in the `.proto` files, 64-bit integers as strings, bytes in base64,
//! zero values left out. Input takes either casing of names, numbers as numbers or strings, and ignores fields it does not know; a name
//! that an enum does not have is refused.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::stream;
use http::{StatusCode, header};
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Code;

use crate::grpc::watching::watch_frames;
use crate::grpc::{message_bytes_max, until_stopped};
use crate::proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, DeleteRangeRequest, DowngradeRequest, HashKvRequest,
    HashRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, MoveLeaderRequest, PutRequest, RangeRequest, TxnRequest, WatchRequest,
};
use crate::proto::v3electionpb::{CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest};
use crate::proto::v3lockpb::{LockRequest, UnlockRequest};
use crate::service::{Core, Observer, aside};
use crate::status::ApiError;

/// What a body may hold beside the longest message, which base64 makes a third longer.
const BODY_OVERHEAD_BYTES: usize = 64 * 1024;
/// An answer that is longer is translated beside the runtime's threads.
const LONG_BYTES: usize = 256 * 1024;

/// What a learner answers; of ranges, those that may be old.
const LEARNERS_CALLS: [&str; 3] = ["/kv/range", "/maintenance/status", "/maintenance/snapshot"];

static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let files = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));
    DescriptorPool::decode(&files[..]).expect("build.rs wrote it")
});

/// The calls that are there, under `/v3/` and under the older `/v3beta/`.
pub(crate) fn routes(core: &Arc<Core>, stop: &Receiver<()>) -> Router {
    let calls = Router::new()
        .route("/kv/range", post(range))
        .route("/kv/put", post(put))
        .route("/kv/deleterange", post(delete_range))
        .route("/kv/txn", post(txn))
        .route("/kv/compaction", post(compact))
        .route("/watch", post(watch))
        .route("/lease/grant", post(lease_grant))
        .route("/lease/revoke", post(lease_revoke))
        .route("/kv/lease/revoke", post(lease_revoke))
        .route("/lease/keepalive", post(lease_keep_alive))
        .route("/lease/timetolive", post(lease_time_to_live))
        .route("/kv/lease/timetolive", post(lease_time_to_live))
        .route("/lease/leases", post(lease_leases))
        .route("/kv/lease/leases", post(lease_leases))
        .route("/lock/lock", post(lock))
        .route("/lock/unlock", post(unlock))
        .route("/election/campaign", post(campaign))
        .route("/election/proclaim", post(proclaim))
        .route("/election/leader", post(leader))
        .route("/election/observe", post(observe))
        .route("/election/resign", post(resign))
        .route("/maintenance/status", post(status))
        .route("/maintenance/alarm", post(alarm))
        .route("/maintenance/defragment", post(defragment))
        .route("/maintenance/hash", post(hash))
        .route("/maintenance/hashkv", post(hash_kv))
        .route("/maintenance/snapshot", post(snapshot))
        .route("/maintenance/transfer-leadership", post(move_leader))
        .route("/maintenance/downgrade", post(downgrade))
        .route("/cluster/member/list", post(member_list))
        .route("/cluster/member/add", post(member_add))
        .route("/cluster/member/remove", post(member_remove))
        .route("/cluster/member/update", post(member_update))
        .route("/cluster/member/promote", post(member_promote))
        .layer(DefaultBodyLimit::max(message_bytes_max(core) / 3 * 4 + BODY_OVERHEAD_BYTES))
        .layer(map_response(worded))
        .route_layer(from_fn_with_state(Arc::clone(core), gate))
        .with_state(Arc::clone(core))
        .layer(Extension(stop.clone()));
    Router::new().nest("/v3", calls.clone()).nest("/v3beta", calls)
}

/// The gateway's own refusals are JSON like all others.
async fn worded(response: Response) -> Response {
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return error(Code::ResourceExhausted, "grpc: received message larger than max");
    }
    response
}

/// As gRPC's: a learner answers little.
async fn gate(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    if core.is_learner() && !LEARNERS_CALLS.contains(&request.uri().path()) {
        let refusal = ApiError::NotSupportedForLearner;
        return error(refusal.code(), &refusal.to_string());
    }
    next.run(request).await
}

async fn range(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let work = async |request: RangeRequest| {
        core.check_learner_range(&request)?;
        core.range(&request).await
    };
    call("Range", &body, work).await
}

async fn put(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("Put", &body, async |request: PutRequest| core.put(&request).await).await
}

async fn delete_range(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("DeleteRange", &body, async |request: DeleteRangeRequest| core.delete_range(&request).await).await
}

async fn txn(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("Txn", &body, async |request: TxnRequest| core.txn(&request).await).await
}

async fn compact(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("Compaction", &body, async |request: CompactionRequest| core.compact(&request).await).await
}

async fn status(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("Status", &body, async |_: crate::proto::etcdserverpb::StatusRequest| Ok(core.status())).await
}

async fn hash_kv(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let hash = async |request: HashKvRequest| {
        let hashed = tokio::task::spawn_blocking(move || core.hash_kv(&request)).await;
        hashed.unwrap_or(Err(ApiError::Stopped))
    };
    call("HashKV", &body, hash).await
}

async fn hash(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let hash = async |request: HashRequest| {
        let hashed = tokio::task::spawn_blocking(move || core.hash(&request)).await;
        hashed.map_err(|_| ApiError::Stopped)
    };
    call("Hash", &body, hash).await
}

async fn alarm(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("Alarm", &body, async |request: AlarmRequest| core.alarm(&request).await).await
}

async fn defragment(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("Defragment", &body, async |_: DefragmentRequest| Ok(core.defragment())).await
}

async fn snapshot(State(core): State<Arc<Core>>) -> Response {
    let blobs = match core.snapshot() {
        Ok(blobs) => blobs,
        Err(refused) => return error(refused.code(), &refused.to_string()),
    };
    lines(ReceiverStream::new(blobs).map(|blob| Ok(json("etcdserverpb.SnapshotResponse", &blob.encode_to_vec()))))
}

async fn lease_grant(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("LeaseGrant", &body, async |request: LeaseGrantRequest| core.lease_grant(&request).await).await
}

async fn lease_revoke(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("LeaseRevoke", &body, async |request: LeaseRevokeRequest| core.lease_revoke(&request).await).await
}

async fn lease_time_to_live(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let work = async |request: LeaseTimeToLiveRequest| core.lease_time_to_live(&request).await;
    call("LeaseTimeToLive", &body, work).await
}

async fn lease_leases(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("LeaseLeases", &body, async |_: LeaseLeasesRequest| Ok(core.lease_leases())).await
}

/// Each lease that the body names is kept alive once.
async fn lease_keep_alive(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let requests = match read_all::<LeaseKeepAliveRequest>("etcdserverpb.LeaseKeepAliveRequest", &body) {
        Ok(requests) => requests,
        Err(why) => return error(Code::InvalidArgument, &why),
    };
    let answers = tokio_stream::iter(requests).then(move |request| {
        let core = Arc::clone(&core);
        async move {
            let answer = core.lease_keep_alive(&request).await?;
            Ok(json("etcdserverpb.LeaseKeepAliveResponse", &answer.encode_to_vec()))
        }
    });
    lines(answers)
}

async fn lock(State(core): State<Arc<Core>>, Extension(stop): Extension<Receiver<()>>, body: Bytes) -> Response {
    let work = async |request: LockRequest| until_stopped(stop, core.acquire(&request)).await;
    call_of("v3lockpb.LockRequest", "v3lockpb.LockResponse", &body, work).await
}

async fn unlock(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let work = async |request: UnlockRequest| core.release(&request).await;
    call_of("v3lockpb.UnlockRequest", "v3lockpb.UnlockResponse", &body, work).await
}

async fn campaign(State(core): State<Arc<Core>>, Extension(stop): Extension<Receiver<()>>, body: Bytes) -> Response {
    let work = async |request: CampaignRequest| until_stopped(stop, core.campaign(&request)).await;
    call_of("v3electionpb.CampaignRequest", "v3electionpb.CampaignResponse", &body, work).await
}

async fn proclaim(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let work = async |request: ProclaimRequest| core.proclaim(&request).await;
    call_of("v3electionpb.ProclaimRequest", "v3electionpb.ProclaimResponse", &body, work).await
}

async fn leader(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let work = async |request: LeaderRequest| core.leader(&request).await;
    call_of("v3electionpb.LeaderRequest", "v3electionpb.LeaderResponse", &body, work).await
}

async fn resign(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let work = async |request: ResignRequest| core.resign(&request).await;
    call_of("v3electionpb.ResignRequest", "v3electionpb.ResignResponse", &body, work).await
}

async fn observe(State(core): State<Arc<Core>>, Extension(stop): Extension<Receiver<()>>, body: Bytes) -> Response {
    let request = match read::<LeaderRequest>("v3electionpb.LeaderRequest", &body) {
        Ok(request) => request,
        Err(why) => return error(Code::InvalidArgument, &why),
    };
    let words = stream::unfold(Some((Observer::new(&core, &request.name), stop)), async |observing| {
        let (mut observer, stop) = observing?;
        let word = until_stopped(stop.clone(), observer.next()).await;
        let goes_on = word.is_ok();
        let line = word.map(|word| json("v3electionpb.LeaderResponse", &word.encode_to_vec()));
        Some((line, goes_on.then_some((observer, stop))))
    });
    lines(words)
}

async fn member_list(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("MemberList", &body, async |request: MemberListRequest| core.member_list(&request).await).await
}

async fn member_add(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("MemberAdd", &body, async |request: MemberAddRequest| core.member_add(&request).await).await
}

async fn member_remove(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("MemberRemove", &body, async |request: MemberRemoveRequest| core.member_remove(&request).await).await
}

async fn member_update(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("MemberUpdate", &body, async |request: MemberUpdateRequest| core.member_update(&request).await).await
}

async fn member_promote(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("MemberPromote", &body, async |request: MemberPromoteRequest| core.member_promote(&request).await).await
}

async fn downgrade(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("Downgrade", &body, async |request: DowngradeRequest| core.downgrade(&request)).await
}

async fn move_leader(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("MoveLeader", &body, async |request: MoveLeaderRequest| core.move_leader(&request).await).await
}

/// The requests of the body are all that the client says; it hears the answers until it goes.
async fn watch(State(core): State<Arc<Core>>, Extension(stop): Extension<Receiver<()>>, body: Bytes) -> Response {
    let requests = match read_all::<WatchRequest>("etcdserverpb.WatchRequest", &body) {
        Ok(requests) => requests,
        Err(why) => return error(Code::InvalidArgument, &why),
    };
    let requests = tokio_stream::iter(requests.into_iter().map(Ok::<_, Infallible>));
    let answers = watch_frames(&core, &stop, requests).map(|frame| {
        frame.map(|frame| {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            json("etcdserverpb.WatchResponse", &bytes)
        })
    });
    lines(answers)
}

/// Answers one by one, each on a line of its own.
fn lines(answers: impl Stream<Item = Result<Vec<u8>, ApiError>> + Send + 'static) -> Response {
    let lines = answers.map(|answer| {
        Ok::<_, Infallible>(match answer {
            Ok(json) => [b"{\"result\":", &json[..], b"}\n"].concat(),
            Err(error) => {
                let message = error.to_string();
                let status = http_status(error.code());
                let error = json!({
                    "grpc_code": error.code() as i32,
                    "http_code": status.as_u16(),
                    "message": message,
                    "http_status": status.canonical_reason().unwrap_or_default(),
                });
                format!("{}\n", json!({ "error": error })).into_bytes()
            }
        })
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

/// Reads the request of `method` from `body`, makes the call, and writes its answer.
async fn call<Q, R, F>(method: &str, body: &[u8], work: impl FnOnce(Q) -> F) -> Response
where
    Q: Message + Default,
    R: Message + 'static,
    F: Future<Output = Result<R, ApiError>>,
{
    let (asked, answered) = (format!("etcdserverpb.{method}Request"), format!("etcdserverpb.{method}Response"));
    call_of(&asked, &answered, body, work).await
}

/// The same for messages of any package.
async fn call_of<Q, R, F>(asked: &str, answered: &str, body: &[u8], work: impl FnOnce(Q) -> F) -> Response
where
    Q: Message + Default,
    R: Message + 'static,
    F: Future<Output = Result<R, ApiError>>,
{
    let request = match read::<Q>(asked, body) {
        Ok(request) => request,
        Err(why) => return error(Code::InvalidArgument, &why),
    };
    match work(request).await {
        Ok(response) => write(answered, response).await,
        Err(refused) => error(refused.code(), &refused.to_string()),
    }
}

fn read<Q: Message + Default>(name: &str, body: &[u8]) -> Result<Q, String> {
    // An empty body is an empty request.
    let body = if body.is_empty() { b"{}" } else { body };
    translated(name, serde_json::from_slice(body))
}

/// Reads requests that follow each other, at least one.
fn read_all<Q: Message + Default>(name: &str, body: &[u8]) -> Result<Vec<Q>, String> {
    let values = serde_json::Deserializer::from_slice(body).into_iter();
    let requests: Vec<Q> = values.map(|value| translated(name, value)).collect::<Result<_, _>>()?;
    if requests.is_empty() { Err("a request without a message".into()) } else { Ok(requests) }
}

fn translated<Q: Message + Default>(name: &str, value: serde_json::Result<Value>) -> Result<Q, String> {
    let value = value.map_err(|error| error.to_string())?;
    let descriptor = DESCRIPTORS.get_message_by_name(name).expect("named after a method of the API");
    check_enums(&descriptor, &value)?;
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor, value, &options);
    let message = message.map_err(|error| error.to_string())?;
    Q::decode(message.encode_to_vec().as_slice()).map_err(|error| error.to_string())
}

/// Looks for a name that its enum does not have. Where unknown fields are ignored, so is it, and what was asked for is not what is done.
fn check_enums(message: &MessageDescriptor, value: &Value) -> Result<(), String> {
    let Value::Object(fields) = value else { return Ok(()) };
    for (name, value) in fields {
        let Some(field) = message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name)) else {
            continue;
        };
        let values = if let Value::Array(values) = value { &values[..] } else { std::slice::from_ref(value) };
        for value in values {
            match (field.kind(), value) {
                (Kind::Message(message), value) => check_enums(&message, value)?,
                (Kind::Enum(known), Value::String(name)) if known.get_value_by_name(name).is_none() => {
                    return Err(format!("unknown value {name:?} for enum {}", known.full_name()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

async fn write<R: Message + 'static>(name: &str, response: R) -> Response {
    let translated = if response.encoded_len() <= LONG_BYTES {
        Ok(json(name, &response.encode_to_vec()))
    } else {
        let name = name.to_owned();
        aside(move || Ok(json(&name, &response.encode_to_vec()))).await
    };
    match translated {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(refused) => error(refused.code(), &refused.to_string()),
    }
}

/// An encoded message as JSON.
fn json(name: &str, encoded: &[u8]) -> Vec<u8> {
    let descriptor = DESCRIPTORS.get_message_by_name(name).expect("named after a method of the API");
    let message = DynamicMessage::decode(descriptor, encoded).expect("the message's own shape");
    let mut body = Vec::new();
    let mut json = serde_json::Serializer::new(&mut body);
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(&mut json, &options).expect("a Vec takes any bytes");
    body
}

/// An error with the fields that both generations of gateway clients look for.
pub(crate) fn error(code: Code, message: &str) -> Response {
    let body = json!({"error": message, "code": code as i32, "message": message, "details": []});
    (http_status(code), [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Cancelled => StatusCode::from_u16(499).expect("a valid status"),
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::RangeResponse;
    use crate::proto::mvccpb::KeyValue;

    #[test]
    fn requests_are_read_leniently() {
        let json = br#"{"key":"Zm9v","rangeEnd":"AA==","limit":"5","revision":3,"sort_order":"DESCEND","what":{},"serializable":null}"#;
        let request: RangeRequest = read("etcdserverpb.RangeRequest", json).unwrap();
        assert_eq!((request.key.as_ref(), request.range_end.as_ref()), (&b"foo"[..], &b"\0"[..]));
        assert_eq!((request.limit, request.revision, request.sort_order), (5, 3, 2));
        read::<RangeRequest>("etcdserverpb.RangeRequest", b"").unwrap();
        let known: TxnRequest =
            read("etcdserverpb.TxnRequest", br#"{"compare":[{"result":"LESS","target":4}]}"#).unwrap();
        assert_eq!((known.compare[0].result, known.compare[0].target), (2, 4));
        for bad in [&b"{"[..], b"[]", b"{} {}", br#"{"key":1}"#, br#"{"limit":"x"}"#, &[0xff]] {
            read::<RangeRequest>("etcdserverpb.RangeRequest", bad).unwrap_err();
        }
    }

    /// A condition that was misspelt would hold or not hold as another one does.
    #[test]
    fn a_name_that_an_enum_does_not_have_is_refused() {
        let refused = read::<RangeRequest>("etcdserverpb.RangeRequest", br#"{"key":"Zm9v","sort_order":"DESC"}"#);
        assert_eq!(refused.unwrap_err(), r#"unknown value "DESC" for enum etcdserverpb.RangeRequest.SortOrder"#);
        for bad in [
            r#"{"compare":[{"key":"Zm9v","result":"EQUALS"}]}"#,
            r#"{"success":[{},{"requestTxn":{"compare":[{"target":"version"}]}}]}"#,
            r#"{"failure":[{"request_range":{"sortTarget":"REVISION"}}]}"#,
        ] {
            let refused = read::<TxnRequest>("etcdserverpb.TxnRequest", bad.as_bytes()).unwrap_err();
            assert!(refused.starts_with("unknown value \""), "{bad}: {refused}");
        }
    }

    #[tokio::test]
    async fn answers_are_as_etcd_writes_them() {
        let kv = KeyValue { key: "k".into(), value: "v".into(), mod_revision: 2, ..KeyValue::default() };
        let response = RangeResponse { kvs: vec![kv], count: 1, ..RangeResponse::default() };
        let response = write("etcdserverpb.RangeResponse", response).await;
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        assert_eq!(body, r#"{"kvs":[{"key":"aw==","mod_revision":"2","value":"dg=="}],"count":"1"}"#);
    }
}
