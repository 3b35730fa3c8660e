//! HTTP on the ports of gRPC.

use kv_server::proto::health::HealthCheckRequest;
use kv_server::proto::health::health_check_response::ServingStatus;
use kv_server::proto::health::health_client::HealthClient;
use serde_json::json;
use tonic::Code;

use crate::harness::{Clients, Process, Served, check_refused, http, http_get, metric};

/// What dashboards and alerts for etcd look at.
const METRICS: [&str; 14] = [
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_id",
    "etcd_server_version",
    "etcd_cluster_version",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_debugging_mvcc_current_revision",
    "process_resident_memory_bytes",
];

#[tokio::test(flavor = "multi_thread")]
async fn health_and_version_are_json() {
    let served = Served::start(&[]).await;
    let address = served.address;
    for path in ["/health", "/health?serializable=true", "/health?serializable=false&exclude=NOSPACE"] {
        let health = http_get(address, path);
        assert!(health.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", health.head);
        assert_eq!(health.json(), json!({"health": "true", "reason": ""}));
    }
    let version = http_get(address, "/version");
    let known = json!({"etcdserver": "3.7.0", "etcdcluster": "3.7.0", "storage": "3.7.0"});
    assert_eq!(version.json(), known);
    let post = http(address, "POST /health HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert!(post.head.starts_with("HTTP/1.1 405 "), "{}", post.head);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_and_an_unknown_path_are_answered() {
    let served = Served::start(&[]).await;
    let old = http(served.address, "GET /health HTTP/1.0\r\n\r\n");
    assert!(old.head.starts_with("HTTP/1.0 200 OK\r\n"), "{}", old.head);
    assert_eq!(old.json()["health"], "true");
    for path in ["/", "/nowhere", "/health/", "/members"] {
        let unknown = http_get(served.address, path);
        assert!(unknown.head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{path}: {}", unknown.head);
        assert_eq!(unknown.body, "404 page not found\n");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_what_happens() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let before = metric(served.address, "etcd_mvcc_put_total");
    clients.put("k", "v").await;
    assert_eq!(metric(served.address, "etcd_mvcc_put_total"), before + 1);
    assert_eq!(metric(served.address, "etcd_debugging_mvcc_current_revision"), 2);
    assert_eq!(metric(served.address, "etcd_debugging_mvcc_keys_total"), 1);
    assert_eq!(metric(served.address, "etcd_server_is_leader"), 1);
    let all = http_get(served.address, "/metrics");
    assert!(all.head.contains("content-type: text/plain"), "{}", all.head);
    for name in METRICS {
        assert!(
            all.body.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))),
            "{name}"
        );
    }
    let handled = r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#;
    assert!(all.body.lines().any(|line| line == handled), "{}", all.body);
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_refused_in_json() {
    let served = Served::start(&[]).await;
    let asked = |length: usize| {
        let body = format!(r#"{{"key":"aw==","value":"{}"}}"#, "A".repeat(length));
        let head = "POST /v3/kv/put HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: ";
        http(served.address, &format!("{head}{}\r\n\r\n{body}", body.len()))
    };
    let refused = asked(2_865_000);
    assert!(refused.head.starts_with("HTTP/1.1 429 "), "{}", refused.head);
    let json = refused.json();
    assert_eq!((&json["code"], &json["message"]), (&json!(8), &json!("grpc: received message larger than max")));
    // The longest message that is read, in base64, still gets the answer of the call.
    let refused = asked(2_796_000);
    assert!(refused.head.starts_with("HTTP/1.1 400 "), "{}", refused.head);
    assert_eq!(refused.json()["message"], "etcdserver: request is too large");
    served.stop().await;
}

#[tokio::test]
async fn grpc_health_says_serving() {
    let served = Served::start(&[]).await;
    let clients = Clients::connect(served.address).await;
    let mut health = HealthClient::new(clients.channel.clone());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let unknown = health.check(HealthCheckRequest { service: "nobody".into() }).await;
    check_refused(unknown, Code::NotFound, "unknown service");
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    drop((watch, health, clients));
    served.stop().await;
}

#[test]
fn the_peer_port_says_who_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    assert_eq!(http_get(process.peer, "/version").json(), http_get(process.client, "/version").json());
    let members = http_get(process.peer, "/members").json();
    assert_eq!(members[0]["name"], "default");
    assert_eq!(members[0]["peerURLs"], json!(["http://localhost:2380"]));
    assert!(http_get(process.peer, "/health").head.starts_with("HTTP/1.1 404 "), "clients are served elsewhere");
}
