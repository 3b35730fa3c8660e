//! Alarms, quota, backups, and lists in parts.

use std::path::Path;
use std::process::{Command, Output};

use kv_server::proto::etcdserverpb::lease_client::LeaseClient;
use kv_server::proto::etcdserverpb::watch_client::WatchClient;
use kv_server::proto::etcdserverpb::watch_request::RequestUnion;
use kv_server::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, CompactionRequest, DefragmentRequest, DeleteRangeRequest, DowngradeRequest,
    LeaseGrantRequest, LeaseLeasesRequest, PutRequest, RangeRequest, RangeResponse, SnapshotRequest, StatusRequest,
    WatchCreateRequest, WatchRequest,
};
use serde_json::Value;
use tonic::Code;

use crate::harness::{
    Clients, Process, Served, check_refused, get, http, http_get, keys, metric, poll, prefix, revision,
};

const NOSPACE: i32 = 1;
const FULL: &str = "etcdserver: mvcc: database space exceeded";

async fn alarms(clients: &mut Clients, action: i32, member_id: u64, alarm: i32) -> Vec<AlarmMember> {
    clients.maintenance.alarm(AlarmRequest { action, member_id, alarm }).await.unwrap().into_inner().alarms
}

/// Puts 4 KiB under one key until that is refused.
async fn fill(clients: &mut Clients) {
    for _ in 0..100 {
        let put = PutRequest { key: "k".into(), value: vec![7; 4096].into(), ..Default::default() };
        if let Err(refused) = clients.kv.put(put).await {
            assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, FULL));
            return;
        }
    }
    panic!("the quota was never reached");
}

fn small(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: vec![1; 64].into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_raises_an_alarm_that_somebody_calls_off() {
    let served = Served::start(&["--quota-backend-bytes=53248"]).await;
    let address = served.address;
    let mut clients = Clients::connect(served.address).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    assert!(alarms(&mut clients, 0, 0, 0).await.is_empty());
    clients.kv.put(small("small")).await.unwrap();
    fill(&mut clients).await;
    let raised = alarms(&mut clients, 0, 0, 0).await;
    let [AlarmMember { member_id, alarm: NOSPACE }] = raised[..] else { panic!("{raised:?}") };
    let status = clients.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, [format!("memberID:{member_id} alarm:NOSPACE ")]);

    assert_eq!(http_get(address, "/health").json()["reason"], "ALARM NOSPACE");
    assert_eq!(http_get(address, "/health?exclude=NOSPACE").json()["health"], "true");

    // What would take room is refused, what reads or gives room is not.
    check_refused(clients.kv.put(small("small")).await, Code::ResourceExhausted, FULL);
    let lease = leases.lease_grant(LeaseGrantRequest { ttl: 10, id: 0 }).await;
    check_refused(lease, Code::ResourceExhausted, FULL);
    let deleted = clients.kv.delete_range(DeleteRangeRequest { key: "small".into(), ..Default::default() }).await;
    let latest = revision(deleted.unwrap().into_inner().header);
    assert_eq!(clients.range(get("k")).await.count, 1);
    clients.kv.compact(CompactionRequest { revision: latest, physical: true }).await.unwrap();
    assert!(clients.maintenance.defragment(DefragmentRequest {}).await.unwrap().into_inner().header.is_none());
    check_refused(clients.kv.put(small("small")).await, Code::ResourceExhausted, FULL);
    assert_eq!(alarms(&mut clients, 2, member_id, NOSPACE).await, raised);
    assert!(alarms(&mut clients, 2, member_id, NOSPACE).await.is_empty(), "it is off already");
    clients.kv.put(small("small")).await.unwrap();

    // Raised by hand, for whomever.
    assert_eq!(alarms(&mut clients, 1, 9, NOSPACE).await, [AlarmMember { member_id: 9, alarm: NOSPACE }]);
    check_refused(clients.kv.put(small("small")).await, Code::ResourceExhausted, FULL);
    alarms(&mut clients, 1, 9, 2).await;
    check_refused(clients.kv.put(small("small")).await, Code::DataLoss, "etcdserver: corrupt cluster");
    assert_eq!(alarms(&mut clients, 0, 0, 2).await, [AlarmMember { member_id: 9, alarm: 2 }]);
    assert!(alarms(&mut clients, 1, 9, 0).await.is_empty() && alarms(&mut clients, 7, 9, 1).await.is_empty());
    drop((clients, leases));
    served.stop().await;
}

/// Leases are in no revision: their room was asked for and never counted.
#[tokio::test(flavor = "multi_thread")]
async fn leases_fill_a_store_as_well() {
    let served = Served::start(&["--quota-backend-bytes=53248", "--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    let mut granted = 0;
    let refused = loop {
        match leases.lease_grant(LeaseGrantRequest { ttl: 1_000, id: 0 }).await {
            Ok(_) => granted += 1,
            Err(refused) => break refused,
        }
        assert!(granted <= 53_248 / 64, "the quota was never reached");
    };
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, FULL));
    let [AlarmMember { alarm: NOSPACE, .. }] = alarms(&mut clients, 0, 0, 0).await[..] else { panic!("no alarm") };
    let status = clients.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.db_size, status.db_size_in_use), (granted * 64, granted * 64));
    assert_eq!(i64::try_from(metric(served.address, "etcd_mvcc_db_total_size_in_bytes")), Ok(status.db_size));
    drop((clients, leases));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_survives_a_restart_and_can_call_itself_off() {
    let dir = tempfile::tempdir().unwrap();
    let quota = "--quota-backend-bytes=53248";
    let process = Process::start(dir.path(), &[quota]);
    let mut clients = Clients::connect(process.client).await;
    fill(&mut clients).await;
    drop(clients);
    process.kill();
    let process = Process::start(dir.path(), &[quota, "--auto-disarm-nospace"]);
    let mut clients = Clients::connect(process.client).await;
    check_refused(clients.kv.put(small("small")).await, Code::ResourceExhausted, FULL);
    let latest = revision(clients.range(get("k")).await.header);
    clients.kv.compact(CompactionRequest { revision: latest, physical: true }).await.unwrap();
    let mut tries = 0;
    while clients.kv.put(small("small")).await.is_err() {
        tries += 1;
        assert!(tries < 10_000, "the alarm was never called off");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(alarms(&mut clients, 0, 0, 0).await.is_empty());
}

/// The whole of a backup.
async fn backup(clients: &mut Clients) -> Vec<u8> {
    let mut blobs = clients.maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let (mut bytes, mut left) = (Vec::new(), None);
    while let Some(piece) = blobs.message().await.unwrap() {
        assert!(piece.blob.len() <= 32 * 1024);
        if let Some(left) = left {
            assert_eq!(piece.remaining_bytes + piece.blob.len() as u64, left);
        }
        left = Some(piece.remaining_bytes);
        bytes.extend_from_slice(&piece.blob);
    }
    assert_eq!(left, Some(0));
    bytes
}

/// Each backup that nobody read held one of the threads that all others need.
#[tokio::test(flavor = "multi_thread")]
async fn backups_that_nobody_reads_are_few() {
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    // More than the windows of a connection take.
    for number in 0..16 {
        clients.put(&number.to_string(), &"v".repeat(1 << 20)).await;
    }
    let mut unread = Vec::new();
    let refused = loop {
        match clients.maintenance.snapshot(SnapshotRequest {}).await {
            Ok(answer) => unread.push(answer),
            Err(refused) => break refused,
        }
        assert!(unread.len() <= 16);
    };
    assert_eq!(unread.len(), 16);
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "etcdserver: too many requests"));
    drop(unread);
    // A client that has gone makes room.
    let mut tries = 0;
    while clients.maintenance.snapshot(SnapshotRequest {}).await.is_err() {
        tries += 1;
        assert!(tries < 10_000, "they are kept for ever");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    drop(clients);
    served.stop().await;
}

fn snapshot(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kv-server")).arg("snapshot").args(arguments).env_clear().output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_to_a_new_member() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&dir.path().join("old"), &["--name=old"]);
    let mut clients = Clients::connect(process.client).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    leases.lease_grant(LeaseGrantRequest { ttl: 1_000, id: 7 }).await.unwrap();
    for number in 0..500 {
        clients.put(&format!("k{number}"), &"v".repeat(1_000)).await;
    }
    clients.kv.put(PutRequest { key: "leased".into(), lease: 7, ..Default::default() }).await.unwrap();
    alarms(&mut clients, 1, 9, NOSPACE).await;
    let bytes = backup(&mut clients).await;
    assert_eq!(bytes.len() % 512, 32);
    let (at, hash) = clients.hash_kv(0).await;
    let file = dir.path().join("backup");
    std::fs::write(&file, &bytes).unwrap();

    let status = snapshot(&["status", text(&file), "-w", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["revision"], &status["totalKey"]), (&Value::from(at), &Value::from(501)));
    let (new, bumped) = (dir.path().join("new"), dir.path().join("bumped"));
    let data_dir = |path: &Path| format!("--data-dir={}", path.display());
    let restored = snapshot(&["restore", text(&file), &data_dir(&new), "--name", "new"]);
    assert!(restored.status.success(), "{restored:?}");
    let again = snapshot(&["restore", text(&file), &data_dir(&new)]);
    assert!(!again.status.success(), "over what is there");
    let process = Process::start(&new, &["--name=new"]);
    let mut clients = Clients::connect(process.client).await;
    assert_eq!(clients.hash_kv(0).await, (at, hash));
    assert_eq!(clients.range(get("leased")).await.kvs[0].lease, 7);
    let mut leases = LeaseClient::new(clients.channel.clone());
    assert_eq!(leases.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner().leases.len(), 1);
    assert!(alarms(&mut clients, 0, 0, 0).await.is_empty(), "they were the old member's");
    assert_eq!(clients.put("more", "v").await, at + 1);

    let flags = ["--bump-revision", "1000", "--mark-compacted"];
    let restored = snapshot(&[&["restore", text(&file), &data_dir(&bumped)][..], &flags].concat());
    assert!(restored.status.success(), "{restored:?}");
    let process = Process::start(&bumped, &[]);
    let mut clients = Clients::connect(process.client).await;
    assert_eq!(revision(clients.range(get("k1")).await.header), at + 1_000);
    assert_eq!(clients.range(prefix("k")).await.count, 500);
    let old = RangeRequest { revision: at, ..get("k1") };
    check_refused(
        clients.kv.range(old).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    let watch = WatchCreateRequest { key: "k1".into(), start_revision: at, ..Default::default() };
    let watch = WatchRequest { request_union: Some(RequestUnion::CreateRequest(watch)) };
    // The stream of requests stays open.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(watch), tokio_stream::pending());
    let mut told = WatchClient::new(clients.channel.clone()).watch(requests).await.unwrap().into_inner();
    assert!(told.message().await.unwrap().unwrap().created);
    assert_eq!(told.message().await.unwrap().unwrap().compact_revision, at + 1_000);

    for (what, damage) in [("cut", &bytes[..bytes.len() - 1]), ("bare", &bytes[..bytes.len() - 32])] {
        let damaged = dir.path().join(what);
        std::fs::write(&damaged, damage).unwrap();
        let refused = snapshot(&["restore", text(&damaged), &data_dir(&dir.path().join(format!("of-{what}")))]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains("its hash does not match"), "{said}");
    }
    let bare =
        snapshot(&["restore", text(&dir.path().join("bare")), &data_dir(&dir.path().join("x")), "--skip-hash-check"]);
    assert!(bare.status.success(), "{bare:?}");
    for wrong in [&["restore"][..], &["status"], &["x"], &["restore", "f", "--bump-revision=1"], &["status", "f", "g"]]
    {
        assert_eq!(snapshot(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// All parts of a list, joined as clients join them.
async fn in_parts(clients: &mut Clients, request: RangeRequest) -> (RangeResponse, usize) {
    let mut parts = clients.kv.range_stream(request).await.unwrap().into_inner();
    let (mut whole, mut count) = (RangeResponse::default(), 0);
    while let Some(part) = parts.message().await.unwrap() {
        let part = part.range_response.unwrap();
        assert!(whole.header.is_none(), "a part after the last");
        whole.kvs.extend(part.kvs);
        (whole.header, whole.more, whole.count) = (part.header, part.more, part.count);
        count += 1;
    }
    (whole, count)
}

#[tokio::test]
async fn a_list_in_parts_is_the_list() {
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    for number in 0..200 {
        clients.put(&format!("k{number:03}"), "v").await;
    }
    let all = prefix("k");
    let requests = [
        all.clone(),
        RangeRequest { limit: 7, ..all.clone() },
        RangeRequest { limit: 150, ..all.clone() },
        RangeRequest { limit: 200, ..all.clone() },
        RangeRequest { revision: 50, ..all.clone() },
        RangeRequest { keys_only: true, ..all.clone() },
        RangeRequest { count_only: true, ..all.clone() },
        RangeRequest { serializable: true, sort_order: 1, ..all.clone() },
        get("k007"),
        get("nothing"),
    ];
    for request in requests {
        let (whole, parts) = in_parts(&mut clients, request.clone()).await;
        assert!((parts > 1) == (whole.kvs.len() > 10), "{parts} parts of {request:?}");
        assert_eq!(whole, clients.range(request).await);
    }
    let sorted = RangeRequest { sort_order: 2, ..all.clone() };
    let refused = clients.kv.range_stream(sorted).await;
    check_refused(refused, Code::Unimplemented, "RangeStream does not support custom sort orders");
    let filtered = RangeRequest { min_mod_revision: 2, ..all.clone() };
    let refused = clients.kv.range_stream(filtered).await;
    check_refused(refused, Code::Unimplemented, "RangeStream does not support revision filters");
    let future = RangeRequest { revision: 1_000, ..all };
    let future = clients.kv.range_stream(future).await;
    check_refused(future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_has_them_all() {
    let served = Served::start(&[]).await;
    let post = |path: &str, body: &str| {
        let head =
            format!("POST /v3/{path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {}", body.len());
        http(served.address, &format!("{head}\r\n\r\n{body}"))
    };
    let field = |answer: Value, name: &str| answer[name].clone();
    assert_eq!(field(post("lease/grant", r#"{"TTL":"100","ID":"7"}"#).json(), "TTL"), "100");
    assert_eq!(field(post("kv/lease/timetolive", r#"{"ID":7}"#).json(), "grantedTTL"), "100");
    assert_eq!(post("lease/leases", "").json()["leases"][0]["ID"], "7");
    let kept = post("lease/keepalive", r#"{"ID":"7"}{"ID":"8"}"#);
    assert!(
        kept.body.contains("\"ID\":\"7\",\"TTL\":\"100\"}}\n") && kept.body.contains("\"ID\":\"8\"}}\n"),
        "{kept:?}"
    );
    let locked = post("lock/lock", r#"{"name":"bA==","lease":"7"}"#).json();
    assert_eq!(locked["key"], "bC83");
    assert!(post("lock/unlock", r#"{"key":"bC83"}"#).json()["header"].is_object());
    let led = post("election/campaign", r#"{"name":"ZQ==","lease":"7","value":"dg=="}"#).json();
    assert_eq!(led["leader"]["key"], "ZS83");
    assert_eq!(post("election/leader", r#"{"name":"ZQ=="}"#).json()["kv"]["value"], "dg==");
    let missing = post("election/proclaim", "{}");
    assert!(missing.head.starts_with("HTTP/1.1 500"), "{missing:?}");
    assert_eq!(missing.json()["message"], "\"leader\" field must be provided");
    let resign = format!(r#"{{"leader":{}}}"#, led["leader"]);
    assert!(post("election/resign", &resign).json()["header"].is_object());
    assert!(post("kv/lease/revoke", r#"{"ID":"7"}"#).json()["header"].is_object());
    assert_eq!(post("maintenance/defragment", "{}").body, "{}");
    assert_eq!(post("maintenance/alarm", "{}").json()["alarms"], Value::Null);
    assert!(post("maintenance/hash", "{}").json()["hash"].is_number());
    let blobs = post("maintenance/snapshot", "{}").body;
    assert!(blobs.lines().count() > 1 || blobs.contains("\"blob\":"), "{blobs}");
    let name = "etcd_debugging_lease_granted_total";
    poll(name, || (metric(served.address, name) == 1).then_some(()));
    served.stop().await;
}

/// Who waited for a lock by the gateway held up the server's end, and heard nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_by_the_gateway_hears_that_the_server_stops() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let (address, mut waiting) = (served.address, Vec::new());
    for (path, body, key) in [
        ("lock/lock", r#"{"name":"bA==","lease":"LEASE"}"#, "l"),
        ("election/campaign", r#"{"name":"ZQ==","lease":"LEASE"}"#, "e"),
    ] {
        for lease in [1, 2] {
            let mut leases = LeaseClient::new(clients.channel.clone());
            drop(leases.lease_grant(LeaseGrantRequest { ttl: 1_000, id: lease }).await);
            let body = body.replace("LEASE", &lease.to_string());
            let head = format!("POST /v3/{path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n");
            let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            waiting.push(tokio::task::spawn_blocking(move || http(address, &request)));
            while clients.range(get(&format!("{key}/{lease}"))).await.count == 0 {}
        }
    }
    drop(clients);
    served.stop().await;
    for (number, answer) in waiting.into_iter().enumerate() {
        let answer = answer.await.unwrap();
        let is_first = number % 2 == 0;
        assert_eq!(answer.head.starts_with("HTTP/1.1 200"), is_first, "{answer:?}");
        assert_eq!(answer.json()["message"] == "etcdserver: server stopped", !is_first, "{answer:?}");
    }
}

#[tokio::test]
async fn history_is_given_up_by_itself() {
    let served = Served::start(&["--auto-compaction-retention=1s"]).await;
    let mut clients = Clients::connect(served.address).await;
    for number in 0..3 {
        clients.put("k", &number.to_string()).await;
    }
    let old = || RangeRequest { revision: 2, ..get("k") };
    let mut tries = 0;
    while clients.kv.range(old()).await.is_ok() {
        tries += 1;
        assert!(tries < 10_000, "nothing was compacted");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(keys(&clients.range(get("k")).await), ["k"]);
    drop(clients);
    served.stop().await;
}

/// The answers are those of etcd 3.5.1, but that no target is valid.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_nothing_to_downgrade_to() {
    const VALIDATE: i32 = 0;
    const ENABLE: i32 = 1;
    const CANCEL: i32 = 2;
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    let bad_format = (Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
    let bad_target = (Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    let none = (Code::FailedPrecondition, "etcdserver: no inflight downgrade job");
    for (action, version, (code, text)) in [
        (VALIDATE, "", bad_format),
        (VALIDATE, "v3.6", bad_format),
        (ENABLE, "3", bad_format),
        (VALIDATE, "3.6", bad_target),
        (VALIDATE, "3.6.0", bad_target),
        (VALIDATE, "3.7.0", bad_target),
        (ENABLE, "3.6.0", bad_target),
        (CANCEL, "", none),
        (CANCEL, "x", none),
        (7, "3.6.0", (Code::Unknown, "etcdserver: unknown method")),
        (-1, "", (Code::Unknown, "etcdserver: unknown method")),
    ] {
        let request = DowngradeRequest { action, version: version.to_owned() };
        check_refused(clients.maintenance.downgrade(request).await, code, text);
    }
    let status = clients.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(!status.downgrade_info.unwrap().enabled);
    let body = r#"{"action": "ENABLE", "version": "3.6"}"#;
    let head = format!("POST /v3/maintenance/downgrade HTTP/1.1\r\nHost: test\r\nContent-Length: {}", body.len());
    let answer = http(served.address, &format!("{head}\r\nConnection: close\r\n\r\n{body}")).json();
    assert_eq!((&answer["message"], &answer["code"]), (&bad_target.1.into(), &3.into()));
    drop(clients);
    served.stop().await;
}
