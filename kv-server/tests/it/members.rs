//! The membership of a cluster, as far as one member has it: nobody else is there to answer.

use std::time::Duration;

use kv_server::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest, PutRequest, StatusRequest,
};
use serde_json::json;
use tonic::Code;

use crate::harness::{Clients, Process, Served, check_refused, get, http, metric, poll, refused};

const NOT_FOUND: &str = "etcdserver: member not found";

fn add(url: &str, is_learner: bool) -> MemberAddRequest {
    MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner }
}

fn update(id: u64, url: &str) -> MemberUpdateRequest {
    MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] }
}

fn small(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), ..Default::default() }
}

async fn list(clients: &mut Clients) -> Vec<Member> {
    let answer = clients.cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, 0, "calls about the cluster tell no revision");
    answer.members
}

/// Adds, lists, updates and removes a learner, with every refusal that one member can give; each text to the letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_learner_comes_and_goes() {
    let served = Served::start(&["--initial-cluster-token=members", "--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    let [own] = &list(&mut clients).await[..] else { panic!("one member") };
    assert_eq!((own.name.as_str(), own.is_learner), ("default", false));
    clients.put("k", "v").await;

    let taken = clients.cluster.member_add(add(&own.peer_ur_ls[0], false)).await;
    check_refused(taken, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    for bad in ["foo", "http://host", "ftp://host:1", "http://host:1/path", ""] {
        let refused = clients.cluster.member_add(add(bad, false)).await;
        check_refused(refused, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
        let refused = clients.cluster.member_update(update(own.id, bad)).await;
        check_refused(refused, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    }
    let nothing = clients.cluster.member_add(MemberAddRequest::default()).await;
    check_refused(nothing, Code::InvalidArgument, "etcdserver: given member URLs are invalid");

    let added = clients.cluster.member_add(add("http://127.0.0.1:22112", true)).await.unwrap().into_inner();
    let learner = added.member.unwrap();
    assert_eq!((learner.name.as_str(), learner.is_learner), ("", true));
    assert_eq!(added.members, list(&mut clients).await);
    assert!(added.members.contains(&learner) && added.members.len() == 2);
    assert_eq!(added.header.unwrap().revision, 0);
    // The cluster goes on: a learner decides nothing.
    clients.put("k", "w").await;

    let second = clients.cluster.member_add(add("http://127.0.0.1:22122", true)).await;
    check_refused(second, Code::FailedPrecondition, "etcdserver: too many learner members in cluster");
    let early = clients.cluster.member_promote(MemberPromoteRequest { id: learner.id }).await;
    let not_in_sync = "etcdserver: can only promote a learner member which is in sync with leader";
    check_refused(early, Code::FailedPrecondition, not_in_sync);
    let voter = clients.cluster.member_promote(MemberPromoteRequest { id: own.id }).await;
    check_refused(voter, Code::FailedPrecondition, "etcdserver: can only promote a learner member");

    let clash = clients.cluster.member_update(update(learner.id, &own.peer_ur_ls[0])).await;
    check_refused(clash, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    let moved = clients.cluster.member_update(update(learner.id, "http://127.0.0.1:22132")).await.unwrap().into_inner();
    assert_eq!(moved.members, list(&mut clients).await);
    let moved = moved.members.into_iter().find(|member| member.id == learner.id).unwrap();
    assert_eq!((&moved.peer_ur_ls[..], moved.is_learner), (&["http://127.0.0.1:22132".to_owned()][..], true));

    let last = clients.cluster.member_remove(MemberRemoveRequest { id: own.id }).await;
    let not_enough = "etcdserver: re-configuration failed due to not enough started members";
    check_refused(last, Code::Unknown, not_enough);
    let left = clients.cluster.member_remove(MemberRemoveRequest { id: learner.id }).await.unwrap().into_inner();
    assert_eq!(left.members, std::slice::from_ref(own));
    // What was removed is as unknown as what never was.
    for id in [learner.id, 7, 0] {
        check_refused(clients.cluster.member_remove(MemberRemoveRequest { id }).await, Code::NotFound, NOT_FOUND);
        check_refused(clients.cluster.member_promote(MemberPromoteRequest { id }).await, Code::NotFound, NOT_FOUND);
        let unknown = clients.cluster.member_update(update(id, "http://127.0.0.1:22142")).await;
        check_refused(unknown, Code::NotFound, NOT_FOUND);
    }
    // The same URLs in the same second make another member.
    let again = clients.cluster.member_add(add("http://127.0.0.1:22112", true)).await.unwrap().into_inner();
    assert_ne!(again.member.unwrap().id, learner.id);
    drop(clients);
    served.stop().await;
}

/// Nobody has to retry because somebody else changes the membership as well.
#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_follow_each_other() {
    let served = Served::start(&["--max-learners=20"]).await;
    let clients = Clients::connect(served.address).await;
    let calls = (0..20).map(|number| {
        let mut clients = clients.clone();
        tokio::spawn(async move {
            clients.cluster.member_add(add(&format!("http://127.0.0.1:{}", 1_000 + number), true)).await.unwrap();
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    let mut clients = clients;
    assert_eq!(list(&mut clients).await.len(), 21);
    let more = clients.cluster.member_add(add("http://127.0.0.1:999", true)).await;
    check_refused(more, Code::FailedPrecondition, "etcdserver: too many learner members in cluster");
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_membership_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    let gone =
        clients.cluster.member_add(add("http://127.0.0.1:22112", true)).await.unwrap().into_inner().member.unwrap();
    clients.cluster.member_remove(MemberRemoveRequest { id: gone.id }).await.unwrap();
    clients.cluster.member_add(add("http://127.0.0.1:22122", true)).await.unwrap();
    let before = list(&mut clients).await;
    drop(clients);
    process.kill();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    assert_eq!(list(&mut clients).await, before);
    check_refused(clients.cluster.member_remove(MemberRemoveRequest { id: gone.id }).await, Code::NotFound, NOT_FOUND);
    clients.put("k", "v").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_to_a_voter_only() {
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    let own = list(&mut clients).await[0].id;
    let added = clients.cluster.member_add(add("http://127.0.0.1:22112", true)).await.unwrap().into_inner();
    for target_id in [0, 7, added.member.unwrap().id] {
        let refused = clients.maintenance.move_leader(MoveLeaderRequest { target_id }).await;
        check_refused(refused, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    }
    let stayed = clients.maintenance.move_leader(MoveLeaderRequest { target_id: own }).await.unwrap().into_inner();
    assert!(stayed.header.is_none());
    drop(clients);
    served.stop().await;
}

/// Two voters of which one is not there decide nothing; the client is told how far its call came.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_take_over_is_waited_for_in_vain() {
    let served = Served::start(&["--heartbeat-interval=10", "--election-timeout=50", "--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    let own = list(&mut clients).await[0].id;
    let added = clients.cluster.member_add(add("http://127.0.0.1:22112", false)).await.unwrap().into_inner();
    assert_eq!(added.members.len(), 2, "one member may always have a second");
    let id = added.member.unwrap().id;
    let not_enough = "etcdserver: re-configuration failed due to not enough started members";
    check_refused(clients.cluster.member_add(add("http://h:1", false)).await, Code::Unknown, not_enough);
    check_refused(
        clients.cluster.member_add(add("http://h:1", true)).await,
        Code::Unavailable,
        "etcdserver: unhealthy cluster",
    );
    check_refused(clients.cluster.member_remove(MemberRemoveRequest { id: own }).await, Code::Unknown, not_enough);
    let moved = tokio::time::timeout(
        Duration::from_millis(1),
        clients.maintenance.move_leader(MoveLeaderRequest { target_id: id }),
    );
    assert!(moved.await.is_err(), "it waits");
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_has_the_calls_too() {
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let post = |path: &str, body: serde_json::Value| {
        let body = body.to_string();
        let length = body.len();
        http(
            served.address,
            &format!(
                "POST /v3/{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        )
        .json()
    };
    let added = post("cluster/member/add", json!({"peerURLs": ["http://h:1"], "isLearner": true}));
    let id = added["member"]["ID"].as_str().unwrap();
    assert_eq!(added["member"], json!({"ID": id, "peerURLs": ["http://h:1"], "isLearner": true}));
    assert_eq!(added["members"].as_array().unwrap().len(), 2);
    let updated = post("cluster/member/update", json!({"ID": id, "peerURLs": ["http://h:2"]}));
    assert!(updated["members"].to_string().contains("http://h:2"));
    let refused = post("cluster/member/promote", json!({"ID": id}));
    assert_eq!(refused["code"], 9);
    let removed = post("cluster/member/remove", json!({"ID": id}));
    assert_eq!(removed["members"].as_array().unwrap().len(), 1);
    let refused = post("maintenance/transfer-leadership", json!({"targetID": id}));
    assert_eq!(refused["message"], "etcdserver: bad leader transferee");
    served.stop().await;
}

/// The second of two is lost, and with it the quorum.
#[tokio::test(flavor = "multi_thread")]
async fn one_member_goes_on_alone() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    clients.put("k", "v").await;
    let before = clients.cluster.member_list(MemberListRequest::default()).await.unwrap().into_inner();
    let own = before.members[0].id;
    let learner = clients.cluster.member_add(add("http://127.0.0.1:22112", true)).await.unwrap().into_inner().member;
    clients.cluster.member_add(add("http://127.0.0.1:22122", false)).await.unwrap();
    // It is in the log, and nobody but the other one could say that it is committed.
    let mut more = clients.clone();
    let unanswered = tokio::spawn(async move { more.kv.put(small("uncommitted")).await });
    poll("the entry to be logged", || (metric(process.client, "kv_log_commands_total") >= 3).then_some(()));
    let revision = clients.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    let index = revision.header.unwrap().revision;
    process.kill();
    assert!(unanswered.await.unwrap().is_err());
    drop(clients);

    let process = Process::start(dir.path(), &["--force-new-cluster"]);
    let mut clients = Clients::connect(process.client).await;
    let after = clients.cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_eq!(after.members, before.members, "this member alone, under its id");
    let (old, new) = (before.header.unwrap(), after.header.unwrap());
    assert_eq!((old.member_id, new.member_id), (own, own));
    assert_ne!(old.cluster_id, new.cluster_id, "what is left of the old cluster is a stranger");
    assert!(new.raft_term > old.raft_term);
    assert_eq!(clients.range(get("k")).await.kvs[0].value, "v");
    assert_eq!(clients.range(get("uncommitted")).await.count, 1, "it may have been acknowledged");
    assert_eq!(clients.put("k", "w").await, index + 2);
    // Who was removed stays removed.
    let id = learner.unwrap().id;
    check_refused(clients.cluster.member_remove(MemberRemoveRequest { id }).await, Code::NotFound, NOT_FOUND);
    drop(clients);
    process.kill();
    // The flag, forgotten, does no more harm to a member that is alone.
    let process = Process::start(dir.path(), &["--force-new-cluster"]);
    let mut clients = Clients::connect(process.client).await;
    let again = clients.cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_eq!(again.header.unwrap().cluster_id, new.cluster_id);
    assert_eq!(clients.range(get("k")).await.kvs[0].value, "w");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_is_not_forced_from_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &["--force-new-cluster"]);
    Clients::connect(process.client).await.put("k", "v").await;
}

/// Each with the reason, before anything is written.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_fit_the_cluster_does_not_join() {
    let (dir, joins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let founder = Process::start(dir.path(), &["--name=a"]);
    let mut clients = Clients::connect(founder.client).await;
    let peer = founder.peer;
    let update = update(list(&mut clients).await[0].id, &format!("http://{peer}"));
    clients.cluster.member_update(update).await.unwrap();
    let refused = |name: &str, own: &str, cluster: &str| {
        let flags = [
            format!("--name={name}"),
            format!("--initial-advertise-peer-urls={own}"),
            format!("--initial-cluster={cluster}"),
            "--initial-cluster-state=existing".to_owned(),
        ];
        let said = refused(joins.path(), &flags.each_ref().map(String::as_str));
        assert_eq!(std::fs::read_dir(joins.path()).unwrap().count(), 0, "something was written");
        said
    };
    let own = "http://127.0.0.1:22112";
    let two = format!("a=http://{peer},b={own}");
    assert!(refused("b", own, &two).contains("it names 2, the cluster has 1"));
    clients.cluster.member_add(add("http://127.0.0.1:22122", true)).await.unwrap();
    assert!(refused("b", own, &two).contains("no member of the cluster has the URLs of b, http://127.0.0.1:22112"));
    let said = refused("b", own, &format!("a=http://127.0.0.1:1,b={own}"));
    assert!(said.contains("none of the members in --initial-cluster answers"), "{said}");
}
