//! Members in processes of their own that come and go: nothing is lost, whoever is removed ends by itself, and whoever has forgotten
//! what it promised does not come back.

use std::fs;
use std::process::Command;
use std::time::Instant;

use kv_server::proto::etcdserverpb::cluster_client::ClusterClient;
use kv_server::proto::etcdserverpb::lease_client::LeaseClient;
use kv_server::proto::etcdserverpb::watch_client::WatchClient;
use kv_server::proto::etcdserverpb::{
    AlarmRequest, HashKvRequest, LeaseLeasesRequest, Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest,
    MemberRemoveRequest, PutRequest, RangeRequest, SnapshotRequest, StatusRequest, TxnRequest, WatchRequest,
};
use serde_json::json;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::cluster::{Cluster, EXISTING, put_at_last};
use crate::harness::{Clients, DEADLINE, check_refused, get, http, poll, prefix};

/// A change is taken however short the others have been connected: the tests need not wait for 5 s.
const AT_ONCE: &[&str] = &["--strict-reconfig-check=false", "--unsafe-no-fsync"];

async fn list(clients: &mut Clients) -> Vec<Member> {
    clients.cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner().members
}

async fn id(cluster: &Cluster, nth: usize) -> u64 {
    cluster.status(nth).await.header.unwrap().member_id
}

/// Makes room for a member and tells the cluster. Its number and its id.
async fn add(cluster: &mut Cluster, through: usize, is_learner: bool) -> (usize, u64) {
    let (nth, url) = cluster.place();
    let request = MemberAddRequest { peer_ur_ls: vec![url], is_learner };
    let added = cluster.clients(through).await.cluster.member_add(request).await.unwrap().into_inner();
    (nth, added.member.unwrap().id)
}

/// Removes a member. A leader that goes, or is missed only now, may not answer, and who was asked may be gone: then another is asked.
async fn remove(cluster: &Cluster, through: usize, id: u64) {
    let others = (0..cluster.places()).filter(|nth| *nth != through && cluster.runs(*nth));
    let mut asked: Vec<usize> = [through].into_iter().chain(others).collect();
    let mut tried = false;
    let until = Instant::now() + DEADLINE;
    loop {
        let channel = Endpoint::from_shared(format!("http://{}", cluster.address(asked[0]))).unwrap().connect_lazy();
        match ClusterClient::new(channel).member_remove(MemberRemoveRequest { id }).await {
            Ok(_) => return,
            Err(status) if tried && status.code() == Code::NotFound => return,
            Err(status) => {
                assert!(status.code() == Code::Unavailable && Instant::now() < until, "{status}");
                tried = true;
                asked.rotate_left(1);
            }
        }
    }
}

/// As a user does it: add, start, and the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_to_five_and_shrinks_to_three() {
    let mut cluster = Cluster::start(1, AT_ONCE);
    cluster.clients(0).await.put("first", "v").await;
    for size in 2..=5 {
        let (nth, _) = add(&mut cluster, size - 2, false).await;
        cluster.join(nth);
        let mut clients = cluster.clients(nth).await;
        assert_eq!(clients.range(get("first")).await.kvs.len(), 1, "m{nth} has what was there before it");
        put_at_last(&mut clients, &format!("from{nth}"), "v").await;
        let members = list(&mut clients).await;
        assert_eq!(members.len(), size);
        assert!(members.iter().all(|member| !member.name.is_empty() && !member.client_ur_ls.is_empty()), "{members:?}");
        cluster.agree().await;
    }
    // Five go on without two.
    cluster.kill(3);
    cluster.kill(4);
    let mut clients = cluster.clients(1).await;
    put_at_last(&mut clients, "with three", "v").await;
    cluster.revive(3);
    cluster.revive(4);
    for nth in [3, 4] {
        let id = id(&cluster, nth).await;
        remove(&cluster, nth - 3, id).await;
        let (status, lines) = cluster.leaves(nth);
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        cluster.agree().await;
    }
    assert_eq!(list(&mut clients).await.len(), 3);
    // Three go on without one.
    cluster.kill(2);
    put_at_last(&mut clients, "with two", "v").await;
    assert_eq!(clients.range(get("from4")).await.kvs.len(), 1);
}

/// Whoever is removed, whoever is asked: it ends by itself, and its directory is of no more use.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_ends_by_itself_and_does_not_start_again() {
    let mut cluster = Cluster::start(4, AT_ONCE);
    for leads in [true, false] {
        let leader = cluster.leader().await;
        let others: Vec<usize> = (0..4).filter(|nth| *nth != leader && cluster.runs(*nth)).collect();
        let (victim, through) = if leads { (leader, leader) } else { (others[0], others[1]) };
        put_at_last(&mut cluster.clients(through).await, "before", "v").await;
        let victims_id = id(&cluster, victim).await;
        remove(&cluster, through, victims_id).await;
        let (status, lines) = cluster.leaves(victim);
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        let rest: Vec<usize> = (0..4).filter(|nth| cluster.runs(*nth)).collect();
        let mut clients = cluster.clients(rest[0]).await;
        put_at_last(&mut clients, "after", "v").await;
        cluster.agree().await;
        let gone = clients.cluster.member_remove(MemberRemoveRequest { id: victims_id }).await;
        check_refused(gone, Code::NotFound, "etcdserver: member not found");
        let (status, lines) = cluster.begin(victim).wait();
        assert_eq!(status.code(), Some(1), "{lines:#?}");
        let last = lines.last().unwrap();
        assert_eq!(last, "kv-server: the member has been permanently removed from the cluster");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_replaced() {
    let mut cluster = Cluster::start(3, AT_ONCE);
    cluster.clients(0).await.put("k", "v").await;
    let dead = id(&cluster, 2).await;
    cluster.kill(2);
    remove(&cluster, 0, dead).await;
    cluster.forget(2);
    let (nth, new) = add(&mut cluster, 1, false).await;
    assert_ne!(new, dead);
    cluster.join(nth);
    assert_eq!(id(&cluster, nth).await, new);
    cluster.agree().await;
    // It counts: without it, two of three would not be there.
    cluster.kill(0);
    let mut clients = cluster.clients(nth).await;
    put_at_last(&mut clients, "k", "w").await;
    assert_eq!(clients.range(get("k")).await.kvs[0].value, "w");
}

/// It has forgotten what it promised.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_is_refused_under_its_id() {
    let mut cluster = Cluster::start(3, AT_ONCE);
    let wiped = id(&cluster, 1).await;
    cluster.kill(1);
    fs::remove_dir_all(cluster.dir(1)).unwrap();
    for state in ["new", "existing"] {
        let (status, lines) = cluster.begin_with(1, &[&format!("--initial-cluster-state={state}")]).wait();
        assert_eq!(status.code(), Some(1), "{lines:#?}");
        let said = lines.last().unwrap();
        assert!(said.contains(&format!("member {wiped:x} has already been bootstrapped")), "{said}");
        assert!(!cluster.dir(1).exists(), "something was written");
    }
}

/// Killed before it knows anything, it begins as a newcomer once more: never with a state that nobody else has.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_may_be_killed_at_once() {
    let mut cluster = Cluster::start(2, AT_ONCE);
    cluster.clients(0).await.put("k", "v").await;
    let (nth, new) = add(&mut cluster, 0, false).await;
    // Nobody is there that could send it the log.
    cluster.kill(1);
    poll("the leader to miss its quorum", || http_status(&cluster, 0).get("leader").is_none().then_some(()));
    let mut process = cluster.begin_with(nth, &[EXISTING]);
    process.wait_for("serving peer traffic");
    process.kill();
    assert!(cluster.dir(nth).join("member").exists(), "it has begun");
    cluster.revive(1);
    // Whatever its flags say now: it founded nothing.
    cluster.revive(nth);
    assert_eq!(id(&cluster, nth).await, new);
    assert_eq!(cluster.clients(nth).await.range(get("k")).await.kvs.len(), 1);
    cluster.agree().await;
    assert_eq!(list(&mut cluster.clients(nth).await).await, list(&mut cluster.clients(0).await).await);
    // It has a log of its own by now, and needs nobody to tell it where it belongs.
    cluster.kill(nth);
    cluster.revive(nth);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_promoted_once_it_has_the_log() {
    let mut cluster = Cluster::start(1, AT_ONCE);
    let mut clients = cluster.clients(0).await;
    for nth in 0..50 {
        clients.put(&format!("k{nth}"), "v").await;
    }
    let (nth, learner) = add(&mut cluster, 0, true).await;
    let not_in_sync = "etcdserver: can only promote a learner member which is in sync with leader";
    let early = clients.cluster.member_promote(MemberPromoteRequest { id: learner }).await;
    check_refused(early, Code::FailedPrecondition, not_in_sync);
    cluster.join(nth);
    let status = cluster.status(nth).await;
    assert!(status.is_learner);
    learners_calls(&mut cluster.clients(nth).await).await;
    gateways_calls(&cluster, nth);
    // Down, and behind.
    cluster.kill(nth);
    for nth in 0..200 {
        clients.put(&format!("more{nth}"), "v").await;
    }
    let down = clients.cluster.member_promote(MemberPromoteRequest { id: learner }).await;
    check_refused(down, Code::FailedPrecondition, not_in_sync);
    cluster.revive(nth);
    let promoted = clients.cluster.member_promote(MemberPromoteRequest { id: learner }).await.unwrap().into_inner();
    assert!(promoted.members.iter().all(|member| !member.is_learner));
    poll("the learner to hear of it", || http_status(&cluster, nth).get("isLearner").is_none().then_some(()));
    let mut promoted = cluster.clients(nth).await;
    put_at_last(&mut promoted, "from a voter", "v").await;
    cluster.agree().await;
    // It votes: alone, the first decides nothing.
    cluster.kill(nth);
    let put = PutRequest { key: "k".into(), ..Default::default() };
    assert_eq!(clients.kv.put(put).await.unwrap_err().code(), Code::Unavailable);
    cluster.revive(nth);
    put_at_last(&mut clients, "k", "v").await;
}

/// What a learner answers is what etcd's answers.
async fn learners_calls(learner: &mut Clients) {
    fn refused(status: Result<impl std::fmt::Debug, Status>) {
        let status = status.unwrap_err();
        let expected = (Code::FailedPrecondition, "etcdserver: rpc not supported for learner");
        assert_eq!((status.code(), status.message()), expected);
    }
    let old = RangeRequest { serializable: true, ..get("k7") };
    assert_eq!(learner.range(old).await.kvs.len(), 1);
    learner.maintenance.status(StatusRequest {}).await.unwrap();
    let mut backup = learner.maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    assert!(!backup.message().await.unwrap().unwrap().blob.is_empty());
    refused(learner.kv.range(get("k7")).await);
    refused(learner.kv.put(PutRequest::default()).await);
    refused(learner.kv.txn(TxnRequest::default()).await);
    refused(learner.kv.range_stream(RangeRequest { serializable: true, ..get("k7") }).await);
    refused(learner.maintenance.hash_kv(HashKvRequest { revision: 0 }).await);
    refused(learner.maintenance.alarm(AlarmRequest::default()).await);
    refused(learner.cluster.member_list(MemberListRequest { linearizable: false }).await);
    refused(LeaseClient::new(learner.channel.clone()).lease_leases(LeaseLeasesRequest {}).await);
    let none = tokio_stream::iter([WatchRequest::default()]);
    refused(WatchClient::new(learner.channel.clone()).watch(none).await);
}

fn post(cluster: &Cluster, nth: usize, path: &str, body: &serde_json::Value) -> serde_json::Value {
    let body = body.to_string();
    let length = body.len();
    let head = format!("POST /v3/{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}");
    http(cluster.address(nth), &format!("{head}\r\n\r\n{body}")).json()
}

fn http_status(cluster: &Cluster, nth: usize) -> serde_json::Value {
    post(cluster, nth, "maintenance/status", &json!({}))
}

/// The same through the gateway.
fn gateways_calls(cluster: &Cluster, nth: usize) {
    assert_eq!(http_status(cluster, nth)["isLearner"], true);
    // "k7"
    assert_eq!(post(cluster, nth, "kv/range", &json!({"key": "azc=", "serializable": true}))["count"], "1");
    for (path, body) in [("kv/range", json!({"key": "azc="})), ("kv/put", json!({"key": "azc="})), ("watch", json!({}))]
    {
        let answer = post(cluster, nth, path, &body);
        assert_eq!(answer["message"], "etcdserver: rpc not supported for learner", "{path}: {answer}");
        assert_eq!(answer["code"], 9);
    }
}

/// The same backup on each machine makes one cluster, which has nothing to do with the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_cluster() {
    const TOKEN: &str = "--initial-cluster-token=restored";
    let mut cluster = Cluster::start(3, AT_ONCE);
    let mut clients = cluster.clients(0).await;
    for nth in 0..10 {
        put_at_last(&mut clients, &format!("k{nth}"), "v").await;
    }
    let before = cluster.status(0).await.header.unwrap();
    let mut blobs = clients.maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let mut backup = Vec::new();
    while let Some(part) = blobs.message().await.unwrap() {
        backup.extend_from_slice(&part.blob);
    }
    let file = cluster.dir(3);
    fs::write(&file, backup).unwrap();
    for nth in 0..3 {
        cluster.kill(nth);
        fs::remove_dir_all(cluster.dir(nth)).unwrap();
        let mut restore = Command::new(env!("CARGO_BIN_EXE_kv-server"));
        restore.args(["snapshot", "restore"]).arg(&file).arg(TOKEN).arg("--data-dir").arg(cluster.dir(nth));
        let done = restore.args(cluster.flags(nth)).env_clear().output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    cluster.revive_all(&[TOKEN]);
    for nth in 0..3 {
        let mut clients = cluster.clients(nth).await;
        assert_eq!(clients.range(prefix("k")).await.count, 10);
        put_at_last(&mut clients, &format!("new{nth}"), "v").await;
        assert_eq!(list(&mut clients).await.len(), 3);
    }
    cluster.agree().await;
    let after = cluster.status(0).await.header.unwrap();
    assert_ne!(after.cluster_id, before.cluster_id);
    assert_eq!(after.revision, before.revision + 3);
    cluster.kill(0);
    put_at_last(&mut cluster.clients(1).await, "with two", "v").await;
}

/// Two of three are lost; what is left grows to three again.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_recovers_from_the_loss_of_its_quorum() {
    let mut cluster = Cluster::start(3, AT_ONCE);
    let mut clients = cluster.clients(0).await;
    put_at_last(&mut clients, "k", "v").await;
    cluster.agree().await;
    for nth in 0..3 {
        cluster.kill(nth);
    }
    cluster.forget(1);
    cluster.forget(2);
    cluster.alone(0);
    let mut clients = cluster.clients(0).await;
    assert_eq!(list(&mut clients).await.len(), 1);
    for _ in 0..2 {
        let (nth, _) = add(&mut cluster, 0, false).await;
        cluster.join(nth);
        let mut clients = cluster.clients(nth).await;
        assert_eq!(clients.range(get("k")).await.kvs[0].value, "v");
        put_at_last(&mut clients, "k2", "v").await;
        cluster.agree().await;
    }
    assert_eq!(list(&mut clients).await.len(), 3);
    // What comes back of the old cluster is a stranger to the new one.
    let stranger = cluster.begin(1);
    poll("the old member to be refused", || {
        let said = http(cluster.address(0), "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        said.body.contains("etcd_network_known_peers 2").then_some(())
    });
    stranger.kill();
    cluster.agree().await;
}
