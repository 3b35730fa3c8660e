//! The HTTP side of the client port: health, version, metrics, and an answer to everything unknown.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode, Uri, header};
use kv_codec::command::AlarmKind;
use serde_json::json;

use crate::gateway;
use crate::join::CLUSTER_ID_HEADER;
use crate::proto::etcdserverpb::RangeRequest;
use crate::resync;
use crate::service::Core;

/// Health, version and metrics.
pub(crate) fn routes(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .with_state(Arc::clone(core))
}

/// The peer port's: what tools ask of it, and members that cannot speak as such.
pub(crate) fn peer_routes(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/version", get(version))
        .route("/members", get(members))
        .route("/members/replace/{id}", post(replace))
        .fallback(unknown)
        .with_state(Arc::clone(core))
}

#[derive(Debug, Default)]
struct HealthQuery {
    serializable: bool,
    /// Alarms that count for nothing.
    exclude: Vec<String>,
}

impl HealthQuery {
    fn parse(pairs: &[(String, String)]) -> Self {
        let values = |wanted| pairs.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value);
        Self {
            serializable: values("serializable").any(|value| value == "true"),
            exclude: values("exclude").cloned().collect(),
        }
    }
}

/// Healthy: no alarm is raised, there is a leader, and a read is answered.
async fn health(State(core): State<Arc<Core>>, Query(pairs): Query<Vec<(String, String)>>) -> Response {
    let HealthQuery { serializable, exclude } = HealthQuery::parse(&pairs);
    for (kind, name) in [(AlarmKind::NoSpace, "NOSPACE"), (AlarmKind::Corrupt, "CORRUPT")] {
        if core.views.load().alarms().is_raised(kind) && !exclude.iter().any(|excluded| excluded == name) {
            return unhealthy(&format!("ALARM {name}"));
        }
    }
    if core.driver.status().numbers().leader == 0 && !serializable {
        return unhealthy("RAFT NO LEADER");
    }
    let probe = RangeRequest { key: "health".into(), limit: 1, serializable, ..RangeRequest::default() };
    match core.range(&probe).await {
        Ok(_) => json_response(StatusCode::OK, &json!({"health": "true", "reason": ""})),
        Err(error) => unhealthy(&format!("RANGE ERROR:{error}")),
    }
}

fn unhealthy(reason: &str) -> Response {
    json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({"health": "false", "reason": reason}))
}

async fn version(State(core): State<Arc<Core>>) -> Response {
    let version = &core.version;
    let body = json!({
        "etcdserver": version.server(),
        "etcdcluster": version.cluster(),
        "storage": version.cluster(),
    });
    json_response(StatusCode::OK, &body)
}

async fn members(State(core): State<Arc<Core>>) -> Response {
    let view = core.views.load_full();
    let members = view.members().iter().map(|member| {
        json!({
            "id": member.id,
            "name": member.name,
            "peerURLs": member.peer_urls,
            "clientURLs": member.client_urls,
            "isLearner": member.is_learner,
        })
    });
    let answer = json_response(StatusCode::OK, &members.collect::<Vec<_>>().into());
    ([(CLUSTER_ID_HEADER, format!("{:x}", core.cluster_id))], answer).into_response()
}

/// A member whose state is damaged has itself replaced: see [`crate::resync`].
async fn replace(
    State(core): State<Arc<Core>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let cluster = headers.get(CLUSTER_ID_HEADER).and_then(|value| value.to_str().ok());
    if cluster != Some(&format!("{:x}", core.cluster_id)) {
        return (StatusCode::CONFLICT, format!("this is cluster {:x}; name its own members", core.cluster_id));
    }
    let Some(asked) = resync::replacement(&id, &body) else {
        return (StatusCode::BAD_REQUEST, "a member's id, the learner's, and peer URLs are wanted".to_owned());
    };
    match core.member_replace(&asked).await {
        Ok(()) => (StatusCode::OK, format!("{:x}", asked.new)),
        Err(error) => (error.status(), error.to_string()),
    }
}

async fn metrics(State(core): State<Arc<Core>>) -> Response {
    let body = core.metrics.render(&core);
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], body).into_response()
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// A gRPC method that this server has not is named in gRPC's own way; anything else is 404.
async fn unknown(uri: Uri, headers: HeaderMap) -> Response {
    let content_type = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    if content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
        let method = uri.path().trim_start_matches('/');
        let status = tonic::Status::unimplemented(format!("etcdserver: {method} is not available in this version"));
        let response: http::Response<Body> = status.into_http();
        return response;
    }
    if uri.path().starts_with("/v3") {
        let message = format!("etcdserver: {} is not available in this version", uri.path());
        return gateway::error(tonic::Code::Unimplemented, &message);
    }
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}
