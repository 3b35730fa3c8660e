//! The JSON gateway: the API's calls as POST requests under `/v3/`, for curl and for clients without gRPC.
//!
//! Messages are translated by their descriptors: field names as in the `.proto` files, 64-bit integers as strings, bytes in base64,
//! zero values left out. Input takes either casing of names, numbers as numbers or strings, and ignores fields it does not know.

use std::future::Future;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::{StatusCode, header};
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use serde_json::json;
use tonic::Code;

use crate::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, MemberListRequest, PutRequest, RangeRequest, TxnRequest,
};
use crate::service::Core;
use crate::status::ApiError;

/// What a body may hold beside the request itself; base64 makes keys and values a third longer.
const BODY_OVERHEAD_BYTES: usize = 512 * 1024;

static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let files = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));
    DescriptorPool::decode(&files[..]).expect("build.rs wrote it")
});

/// The calls that are there, under `/v3/` and under the older `/v3beta/`.
pub(crate) fn routes(core: &Arc<Core>) -> Router {
    let calls = Router::new()
        .route("/kv/range", post(range))
        .route("/kv/put", post(put))
        .route("/kv/deleterange", post(delete_range))
        .route("/kv/txn", post(txn))
        .route("/kv/compaction", post(compact))
        .route("/maintenance/status", post(status))
        .route("/maintenance/hashkv", post(hash_kv))
        .route("/cluster/member/list", post(member_list))
        .layer(DefaultBodyLimit::max(core.limits.request_bytes_max * 4 / 3 + BODY_OVERHEAD_BYTES))
        .with_state(Arc::clone(core));
    Router::new().nest("/v3", calls.clone()).nest("/v3beta", calls)
}

async fn range(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("Range", &body, async |request: RangeRequest| core.range(&request).await).await
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

async fn member_list(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    call("MemberList", &body, async |request: MemberListRequest| core.member_list(&request).await).await
}

/// Reads the request of `method` from `body`, makes the call, and writes its answer.
async fn call<Q, R, F>(method: &str, body: &[u8], work: impl FnOnce(Q) -> F) -> Response
where
    Q: Message + Default,
    R: Message,
    F: Future<Output = Result<R, ApiError>>,
{
    let request = match read::<Q>(&format!("etcdserverpb.{method}Request"), body) {
        Ok(request) => request,
        Err(why) => return error(Code::InvalidArgument, &why),
    };
    match work(request).await {
        Ok(response) => write(&format!("etcdserverpb.{method}Response"), &response),
        Err(refused) => error(refused.code(), &refused.to_string()),
    }
}

fn read<Q: Message + Default>(name: &str, body: &[u8]) -> Result<Q, String> {
    let descriptor = DESCRIPTORS.get_message_by_name(name).expect("named after a method of the API");
    // An empty body is an empty request.
    let body = if body.is_empty() { b"{}" } else { body };
    let mut json = serde_json::Deserializer::from_slice(body);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor, &mut json, &options);
    let message = message.and_then(|message| json.end().map(|()| message)).map_err(|error| error.to_string())?;
    Q::decode(message.encode_to_vec().as_slice()).map_err(|error| error.to_string())
}

fn write(name: &str, response: &impl Message) -> Response {
    let descriptor = DESCRIPTORS.get_message_by_name(name).expect("named after a method of the API");
    let message =
        DynamicMessage::decode(descriptor, response.encode_to_vec().as_slice()).expect("the message's own shape");
    let mut body = Vec::new();
    let mut json = serde_json::Serializer::new(&mut body);
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(&mut json, &options).expect("a Vec takes any bytes");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// An error with the fields that both generations of gateway clients look for.
pub(crate) fn error(code: Code, message: &str) -> Response {
    let status = match code {
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
    };
    let body = json!({"error": message, "code": code as i32, "message": message, "details": []});
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
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
        for bad in [&b"{"[..], b"[]", b"{} {}", br#"{"key":1}"#, br#"{"limit":"x"}"#, &[0xff]] {
            read::<RangeRequest>("etcdserverpb.RangeRequest", bad).unwrap_err();
        }
    }

    #[tokio::test]
    async fn answers_are_as_etcd_writes_them() {
        let kv = KeyValue { key: "k".into(), value: "v".into(), mod_revision: 2, ..KeyValue::default() };
        let response = RangeResponse { kvs: vec![kv], count: 1, ..RangeResponse::default() };
        let response = write("etcdserverpb.RangeResponse", &response);
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        assert_eq!(body, r#"{"kvs":[{"key":"aw==","mod_revision":"2","value":"dg=="}],"count":"1"}"#);
    }
}
