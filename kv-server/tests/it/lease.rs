//! Leases, locks and elections over the wire.

use std::time::{Duration, Instant};

use kv_server::proto::etcdserverpb::lease_client::LeaseClient;
use kv_server::proto::etcdserverpb::{
    AlarmRequest, AlarmType, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest,
};
use kv_server::proto::v3electionpb::election_client::ElectionClient;
use kv_server::proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use kv_server::proto::v3lockpb::lock_client::LockClient;
use kv_server::proto::v3lockpb::{LockRequest, UnlockRequest};
use tokio::sync::mpsc;
use tonic::Code;
use tonic::transport::Channel;

use crate::cluster::Cluster;
use crate::harness::{Clients, DEADLINE, Process, Served, check_refused, get, metric, poll, prefix};

type Leases = LeaseClient<Channel>;

async fn grant(leases: &mut Leases, id: i64, ttl: i64) -> (i64, i64) {
    let answer = leases.lease_grant(LeaseGrantRequest { ttl, id }).await.unwrap().into_inner();
    (answer.id, answer.ttl)
}

async fn attach(clients: &mut Clients, key: &str, lease: i64) {
    let put = PutRequest { key: key.to_owned().into(), lease, ..Default::default() };
    clients.kv.put(put).await.unwrap();
}

/// Time left, time granted, keys.
async fn time_to_live(leases: &mut Leases, id: i64) -> (i64, i64, Vec<String>) {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let answer = leases.lease_time_to_live(request).await.unwrap().into_inner();
    assert_eq!(answer.id, id);
    let keys = answer.keys.iter().map(|key| String::from_utf8(key.to_vec()).unwrap());
    (answer.ttl, answer.granted_ttl, keys.collect())
}

/// The times that keep-alives on one stream are answered with.
async fn keep_alive(leases: &mut Leases, ids: &[i64]) -> Vec<i64> {
    let requests = ids.iter().map(|id| LeaseKeepAliveRequest { id: *id }).collect::<Vec<_>>();
    let mut answers = leases.lease_keep_alive(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut ttls = Vec::new();
    for id in ids {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.id, *id);
        ttls.push(answer.ttl);
    }
    assert!(answers.message().await.unwrap().is_none(), "the stream ends with its requests");
    ttls
}

#[tokio::test]
async fn what_is_asked_of_leases_is_answered_as_by_etcd() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    assert_eq!(grant(&mut leases, 7, 100).await, (7, 100));
    assert_eq!(grant(&mut leases, -7, 0).await, (-7, 2), "the least");
    assert_eq!(grant(&mut leases, 8, i64::MIN).await, (8, 2));
    assert_eq!(grant(&mut leases, 9, 9_000_000_000).await, (9, 9_000_000_000));
    let (drawn, _) = grant(&mut leases, 0, 100).await;
    assert!(drawn > 0);
    let too_large = "etcdserver: too large lease TTL";
    for ttl in [9_000_000_001, i64::MAX] {
        let refused = leases.lease_grant(LeaseGrantRequest { ttl, id: 7 }).await;
        check_refused(refused, Code::OutOfRange, too_large);
    }
    let twice = leases.lease_grant(LeaseGrantRequest { ttl: 5, id: 7 }).await;
    check_refused(twice, Code::FailedPrecondition, "etcdserver: lease already exists");

    for key in ["b", "a", "c"] {
        attach(&mut clients, key, 7).await;
    }
    attach(&mut clients, "b", 9).await;
    assert_eq!(time_to_live(&mut leases, 7).await, (99, 100, vec!["a".to_owned(), "c".to_owned()]));
    assert_eq!(time_to_live(&mut leases, 9).await.2, ["b"]);
    assert_eq!(time_to_live(&mut leases, 404).await, (-1, 0, Vec::new()));
    let missing = PutRequest { key: "k".into(), lease: 404, ..Default::default() };
    check_refused(clients.kv.put(missing).await, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(keep_alive(&mut leases, &[7, 404, 0, i64::MIN, 7]).await, [100, 0, 0, 0, 100]);

    let revision = clients.put("last", "v").await;
    let revoked = leases.lease_revoke(LeaseRevokeRequest { id: 7 }).await.unwrap().into_inner();
    assert_eq!(revoked.header.unwrap().revision, revision + 1, "both keys at once");
    let again = leases.lease_revoke(LeaseRevokeRequest { id: 7 }).await;
    check_refused(again, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(clients.range(prefix("a")).await.count + clients.range(prefix("c")).await.count, 0);
    assert_eq!(clients.range(get("b")).await.kvs[0].lease, 9);
    let empty = leases.lease_revoke(LeaseRevokeRequest { id: drawn }).await.unwrap().into_inner();
    assert_eq!(empty.header.unwrap().revision, revision + 1, "nothing was deleted");
    let listed = leases.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner().leases;
    assert_eq!(listed.last().map(|lease| lease.id), Some(9), "the one that lives longest comes last: {listed:?}");
    drop((clients, leases));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_with_its_keys_and_not_while_it_is_kept_alive() {
    let served = Served::start(&["--heartbeat-interval=10", "--election-timeout=50"]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    assert_eq!(grant(&mut leases, 1, 0).await, (1, 1));
    grant(&mut leases, 2, 1).await;
    attach(&mut clients, "1", 1).await;
    attach(&mut clients, "2", 2).await;
    let mut answered = Instant::now();
    while clients.range(get("1")).await.count > 0 {
        let before = Instant::now();
        let ttl = keep_alive(&mut leases, &[2]).await[0];
        if ttl == 0 {
            // This client was stopped for longer than the lease lives.
            assert!(answered.elapsed() >= Duration::from_secs(1));
            break;
        }
        answered = before;
        assert_eq!(clients.range(get("2")).await.count, 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(time_to_live(&mut leases, 1).await.0, -1);
    poll("the other to end as well", || (metric(served.address, "etcd_server_lease_expired_total") == 2).then_some(()));
    assert_eq!(clients.range(get("2")).await.count, 0);
    drop((clients, leases));
    served.stop().await;
}

/// What one keep-alive is answered with.
async fn kept_alive(leases: &mut Leases, id: i64) -> Result<i64, (Code, String)> {
    let request = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
    let answer = leases.lease_keep_alive(request).await.unwrap().into_inner().message().await;
    answer.map(|answer| answer.unwrap().ttl).map_err(|status| (status.code(), status.message().to_owned()))
}

/// Until the lease is due: before, it is kept alive.
async fn refused_when_due(leases: &mut Leases, id: i64, ttl: i64) -> (Code, String) {
    let (ttl, until) = (Duration::from_secs(ttl.try_into().unwrap()), Instant::now() + DEADLINE);
    loop {
        tokio::time::sleep(ttl + ttl / 10).await;
        match kept_alive(leases, id).await {
            Ok(ttl) => assert!(ttl > 0 && Instant::now() < until, "it has {ttl} seconds, and is never due"),
            Err(refused) => break refused,
        }
    }
}

/// While no member may delete anything, who keeps a lease alive that is due is told why, by every member, before its time is up. Others
/// are kept alive as ever, and where no leader is found nothing is said of any.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_cluster_says_so_of_leases_that_are_due_and_ends_them_later() {
    const TTL: i64 = 60;
    let corrupt = (Code::DataLoss, "etcdserver: corrupt cluster".to_owned());
    let mut cluster = Cluster::start(3, &[]);
    let mut clients = cluster.clients(0).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    let member_id = cluster.status(0).await.header.unwrap().member_id;
    let alarm = AlarmRequest { action: 1, member_id, alarm: AlarmType::Corrupt.into() };
    grant(&mut leases, 8, TTL).await;
    let (_, ttl) = grant(&mut leases, 7, 2).await;
    attach(&mut clients, "k", 7).await;
    clients.maintenance.alarm(alarm).await.unwrap();
    for nth in 0..3 {
        let mut leases = LeaseClient::new(cluster.clients(nth).await.channel);
        assert_eq!(refused_when_due(&mut leases, 7, ttl).await, corrupt, "member {nth}");
        assert_eq!(kept_alive(&mut leases, 8).await, Ok(TTL), "member {nth}");
    }
    // Nothing is written of leases that cannot end. A new leader writes that it leads.
    let until = Instant::now() + DEADLINE;
    loop {
        let before = cluster.status(0).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = cluster.status(0).await;
        if (after.raft_term, after.raft_index) == (before.raft_term, before.raft_index) {
            break;
        }
        assert!(Instant::now() < until, "{} entries in three seconds", after.raft_index - before.raft_index);
    }
    let leader = cluster.leader().await;
    let [next, last] = [1, 2].map(|after| (leader + after) % 3);
    cluster.kill(leader);
    for nth in [next, last] {
        let mut leases = LeaseClient::new(cluster.clients(nth).await.channel);
        assert_eq!(kept_alive(&mut leases, 8).await, Ok(TTL), "member {nth}");
    }
    cluster.kill(next);
    let mut clients = cluster.clients(last).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    let (code, message) = kept_alive(&mut leases, 8).await.unwrap_err();
    assert_eq!(code, Code::Unavailable, "{message}");
    cluster.revive(next);
    cluster.leader().await;
    assert_eq!(refused_when_due(&mut leases, 7, ttl).await, corrupt);
    assert_eq!(clients.range(get("k")).await.count, 1);
    clients.maintenance.alarm(AlarmRequest { action: 2, ..alarm }).await.unwrap();
    let until = Instant::now() + DEADLINE;
    while clients.range(get("k")).await.count > 0 {
        assert!(Instant::now() < until, "it never ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(keep_alive(&mut leases, &[7]).await, [0]);
}

/// etcd 13932: a keep-alive failed, or broke, while its lease was being granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_being_granted_is_there_or_not() {
    let served = Served::start(&[]).await;
    let clients = Clients::connect(served.address).await;
    for id in 1..=200 {
        let mut leases = LeaseClient::new(clients.channel.clone());
        let (mut before, mut after) = (leases.clone(), leases.clone());
        let early = tokio::spawn(async move { keep_alive(&mut before, &[id, id]).await });
        assert_eq!(grant(&mut leases, id, 100).await, (id, 100));
        assert_eq!(keep_alive(&mut after, &[id]).await, [100]);
        let early = early.await.unwrap();
        assert!([[0, 0], [0, 100], [100, 100]].iter().any(|possible| early == possible), "{early:?}");
    }
    drop(clients);
    served.stop().await;
}

/// etcd 20616: a keep-alive that came after a revocation was answered with a time to live.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_revoked_is_kept_alive_no_more() {
    let served = Served::start(&[]).await;
    let clients = Clients::connect(served.address).await;
    for id in 1..=200 {
        let mut leases = LeaseClient::new(clients.channel.clone());
        grant(&mut leases, id, 100).await;
        let mut meanwhile = leases.clone();
        let meanwhile = tokio::spawn(async move { keep_alive(&mut meanwhile, &[id, id, id]).await });
        leases.lease_revoke(LeaseRevokeRequest { id }).await.unwrap();
        assert_eq!(keep_alive(&mut leases, &[id]).await, [0]);
        let meanwhile = meanwhile.await.unwrap();
        assert!(meanwhile.is_sorted_by(|earlier, later| earlier >= later), "it came back: {meanwhile:?}");
    }
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_leases_that_are_due_at_once_all_end() {
    const LEASES: u64 = 10_000;
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let clients = Clients::connect(served.address).await;
    let granting: Vec<_> = (0..8)
        .map(|writer| {
            let mut leases = LeaseClient::new(clients.channel.clone());
            tokio::spawn(async move {
                for _ in 0..LEASES / 8 {
                    grant(&mut leases, 0, 2).await;
                }
                writer
            })
        })
        .collect();
    for granted in granting {
        granted.await.unwrap();
    }
    let expired = "etcd_server_lease_expired_total";
    poll("all to end", || (metric(served.address, expired) == LEASES).then_some(()));
    let mut leases = LeaseClient::new(clients.channel.clone());
    assert!(leases.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner().leases.is_empty());
    drop((clients, leases));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_leases_and_what_is_attached() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    grant(&mut leases, 7, 1_000).await;
    attach(&mut clients, "k", 7).await;
    drop((clients, leases));
    process.kill();
    let process = Process::start(dir.path(), &["--snapshot-count=1"]);
    let mut leases = LeaseClient::new(Clients::connect(process.client).await.channel);
    let (left, granted, keys) = time_to_live(&mut leases, 7).await;
    assert!((990..=1_001).contains(&left) && granted == 1_000 && keys == ["k"], "{left} of {granted}: {keys:?}");
    assert_eq!(keep_alive(&mut leases, &[7]).await, [1_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_goes_from_one_to_the_next_in_their_order() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    let channel = clients.channel.clone();
    let lock = |lease| {
        let mut locks = LockClient::new(channel.clone());
        tokio::spawn(async move { locks.lock(LockRequest { name: "l".into(), lease }).await })
    };
    for lease in 1..=4 {
        grant(&mut leases, lease, 1_000).await;
    }
    let first = lock(1).await.unwrap().unwrap().into_inner();
    assert_eq!(first.key, "l/1");
    assert_eq!(lock(1).await.unwrap().unwrap().into_inner().key, "l/1", "who holds it has it at once");
    let mut waiting = Vec::new();
    for lease in 2..=4 {
        waiting.push(lock(lease));
        // In this order.
        let name = format!("l/{lease}");
        while clients.range(get(&name)).await.count == 0 {}
    }
    // The one in the middle gives up: its key goes, and nobody waits for it.
    waiting[1].abort();
    while clients.range(get("l/3")).await.count == 1 {}
    assert!(!waiting[0].is_finished() && !waiting[2].is_finished());
    let mut locks = LockClient::new(clients.channel.clone());
    locks.unlock(UnlockRequest { key: first.key }).await.unwrap();
    let last = waiting.pop().unwrap();
    let second = waiting.remove(0).await.unwrap().unwrap().into_inner();
    assert_eq!(second.key, "l/2");
    assert!(!last.is_finished());
    leases.lease_revoke(LeaseRevokeRequest { id: 2 }).await.unwrap();
    assert_eq!(last.await.unwrap().unwrap().into_inner().key, "l/4");
    let unknown = locks.lock(LockRequest { name: "l".into(), lease: 404 }).await;
    check_refused(unknown, Code::NotFound, "etcdserver: requested lease not found");
    check_refused(
        locks.unlock(UnlockRequest::default()).await,
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
    // The number of a lease may be below 0; this is how etcd writes it.
    grant(&mut leases, -7, 1_000).await;
    let negative = locks.lock(LockRequest { name: "n".into(), lease: -7 }).await.unwrap().into_inner();
    assert_eq!(negative.key, "n/-7");
    // Without a lease: one of a minute.
    let own = locks.lock(LockRequest { name: "other".into(), lease: 0 }).await.unwrap().into_inner();
    assert!(own.key.starts_with(b"other/"));
    drop((clients, leases, locks, channel));
    served.stop().await;
}

/// etcd, by Jepsen: a lock was granted to who had lost its lease while waiting.
#[tokio::test(flavor = "multi_thread")]
async fn who_loses_its_lease_while_waiting_gets_no_lock() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    grant(&mut leases, 1, 1_000).await;
    grant(&mut leases, 2, 1_000).await;
    let mut locks = LockClient::new(clients.channel.clone());
    locks.lock(LockRequest { name: "l".into(), lease: 1 }).await.unwrap();
    let waiting = {
        let mut locks = locks.clone();
        tokio::spawn(async move { locks.lock(LockRequest { name: "l".into(), lease: 2 }).await })
    };
    while clients.range(get("l/2")).await.count == 0 {}
    leases.lease_revoke(LeaseRevokeRequest { id: 2 }).await.unwrap();
    locks.unlock(UnlockRequest { key: "l/1".into() }).await.unwrap();
    check_refused(waiting.await.unwrap(), Code::Unknown, "mutex: session is expired");
    drop((clients, leases, locks));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_follow_each_other_and_are_observed() {
    let served = Served::start(&[]).await;
    let clients = Clients::connect(served.address).await;
    let mut leases = LeaseClient::new(clients.channel.clone());
    let mut election = ElectionClient::new(clients.channel.clone());
    let name = || LeaderRequest { name: "e".into() };
    check_refused(election.leader(name()).await, Code::Unknown, "election: no leader");
    let (words, mut heard) = mpsc::channel(16);
    let mut observed = election.observe(name()).await.unwrap().into_inner();
    let observing = tokio::spawn(async move {
        while let Ok(Some(word)) = observed.message().await {
            words.send(word.kv.unwrap().value).await.unwrap();
        }
    });
    for lease in [1, 2] {
        grant(&mut leases, lease, 1_000).await;
    }
    let campaign = |lease, value: &str| {
        let mut election = election.clone();
        let request = CampaignRequest { name: "e".into(), lease, value: value.to_owned().into() };
        tokio::spawn(async move { election.campaign(request).await })
    };
    let first = campaign(1, "one").await.unwrap().unwrap().into_inner().leader.unwrap();
    let known = LeaderKey { name: "e".into(), key: "e/1".into(), rev: first.rev, lease: 1 };
    assert_eq!(first, known);
    assert_eq!(heard.recv().await.unwrap(), "one");
    let second = campaign(2, "two");
    let proclaim = |leader: &LeaderKey, value: &str| ProclaimRequest {
        leader: Some(leader.clone()),
        value: value.to_owned().into(),
    };
    election.clone().proclaim(proclaim(&first, "uno")).await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), "uno");
    let kv = election.clone().leader(name()).await.unwrap().into_inner().kv.unwrap();
    assert_eq!((&kv.key[..], &kv.value[..]), (&b"e/1"[..], &b"uno"[..]));
    // Again, with another value: the same leadership.
    assert_eq!(campaign(1, "eins").await.unwrap().unwrap().into_inner().leader.unwrap(), known);
    assert_eq!(heard.recv().await.unwrap(), "eins");
    let mut election = election.clone();
    election.resign(ResignRequest { leader: Some(first.clone()) }).await.unwrap();
    let second = second.await.unwrap().unwrap().into_inner().leader.unwrap();
    assert_eq!(second.key, "e/2");
    assert_eq!(heard.recv().await.unwrap(), "two");
    check_refused(election.proclaim(proclaim(&first, "x")).await, Code::Unknown, "election: not leader");
    election.resign(ResignRequest { leader: Some(first) }).await.unwrap();
    let missing = "\"leader\" field must be provided";
    check_refused(election.proclaim(ProclaimRequest::default()).await, Code::Unknown, missing);
    check_refused(election.resign(ResignRequest::default()).await, Code::Unknown, missing);
    observing.abort();
    drop((clients, leases, election));
    served.stop().await;
    assert!(tokio::time::timeout(DEADLINE, heard.recv()).await.unwrap().is_none());
}
