//! Any request at all to the services that stream and wait: an answer, and nothing left of it.

use std::time::Duration;

use fastrand::Rng;
use kv_server::proto::etcdserverpb::lease_client::LeaseClient;
use kv_server::proto::etcdserverpb::watch_request::RequestUnion;
use kv_server::proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, DeleteRangeRequest, HashKvRequest, HashRequest,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, SnapshotRequest, StatusRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
};
use kv_server::proto::v3electionpb::election_client::ElectionClient;
use kv_server::proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use kv_server::proto::v3lockpb::lock_client::LockClient;
use kv_server::proto::v3lockpb::{LockRequest, UnlockRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::garbage::{bytes, no_panic, seed};
use crate::harness::{Clients, DEADLINE, Process, metric, poll};
use crate::watch::{Watch, nothing_is_watched};

const STREAMS: usize = 60;
const REQUESTS_PER_STREAM: usize = 40;
const CALLS: usize = 400;
/// Calls that wait for others are given up after it, answered or not.
const PATIENCE: Duration = Duration::from_millis(20);
/// A watcher that no request chooses by chance.
const MARK: i64 = 424_242;

/// Numbers at which something could go wrong, and others.
fn number(rng: &mut Rng) -> i64 {
    let edges = [i64::MIN, i64::MIN + 1, -1, 0, 1, 2, 3, 100, 9_000_000_000, 9_000_000_001, i64::MAX - 1, i64::MAX];
    match rng.u8(0..8) {
        0..6 => edges[rng.usize(..edges.len())],
        6 => rng.i64(0..20),
        _ => rng.i64(..),
    }
}

/// Values that an enum has, and others.
fn variant(rng: &mut Rng) -> i32 {
    if rng.bool() { rng.i32(-1..4) } else { rng.i32(..) }
}

/// A key: often one that others choose as well.
fn key(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(0..8) {
        0 => Vec::new(),
        1 => vec![0],
        2 => bytes(rng, 40),
        _ => vec![rng.u8(b'a'..b'd')],
    }
}

fn watch_request(rng: &mut Rng) -> RequestUnion {
    match rng.u8(0..8) {
        0 => RequestUnion::ProgressRequest(WatchProgressRequest {}),
        1 => RequestUnion::CancelRequest(WatchCancelRequest { watch_id: number(rng) }),
        _ => RequestUnion::CreateRequest(WatchCreateRequest {
            key: key(rng).into(),
            range_end: if rng.bool() { key(rng) } else { Vec::new() }.into(),
            start_revision: number(rng),
            progress_notify: rng.bool(),
            filters: (0..rng.usize(0..4)).map(|_| variant(rng)).collect(),
            prev_kv: rng.bool(),
            watch_id: number(rng),
            fragment: rng.bool(),
        }),
    }
}

/// What a call came to; one that only waits may be given up.
fn is_answer(what: &str, outcome: Result<(), Status>) {
    if let Err(status) = outcome {
        let bad =
            matches!(status.code(), Code::Unavailable | Code::Internal | Code::Cancelled | Code::DeadlineExceeded);
        assert!(!bad, "{what}: {status}");
    }
}

/// One watcher asked for is one answer: made, or refused.
async fn any_watches(channel: &Channel, rng: &mut Rng) {
    let mut watch = Watch::open(channel).await;
    let mut asked = 0;
    let mut answered = 0;
    for _ in 0..rng.usize(1..REQUESTS_PER_STREAM) {
        let request = watch_request(rng);
        asked += usize::from(matches!(request, RequestUnion::CreateRequest(_)));
        watch.ask(request).await;
    }
    watch.create(WatchCreateRequest { key: "mark".into(), watch_id: MARK, ..Default::default() }).await;
    loop {
        let answer = watch.next().await;
        if answer.created && answer.watch_id == MARK {
            break;
        }
        answered += usize::from(answer.created);
    }
    assert_eq!(answered, asked, "each is answered, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_watch_is_made_or_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    let mut rng = Rng::with_seed(seed());
    for round in 0..STREAMS {
        let written = clients.put(["a", "b", "c"][round % 3], "v").await;
        if round % 10 == 9 {
            let compaction = CompactionRequest { revision: written - 3, physical: rng.bool() };
            clients.kv.compact(compaction).await.unwrap();
        }
        let (channel, mut own) = (clients.channel.clone(), rng.fork());
        let watching = tokio::spawn(async move { any_watches(&channel, &mut own).await });
        // Changes come in between.
        let delete = DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: true };
        clients.kv.delete_range(delete).await.unwrap();
        watching.await.unwrap();
    }
    nothing_is_watched(process.client);
    clients.put("k", "v").await;
    drop(clients);
    no_panic(process);
}

async fn any_lease_call(channel: &Channel, rng: &mut Rng) {
    let mut leases = LeaseClient::new(channel.clone());
    let id = number(rng);
    let outcome = match rng.u8(0..5) {
        0 => leases.lease_revoke(LeaseRevokeRequest { id }).await.map(drop),
        1 => leases.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: rng.bool() }).await.map(drop),
        2 => leases.lease_leases(LeaseLeasesRequest {}).await.map(drop),
        3 => {
            let ids: Vec<i64> = (0..rng.usize(0..10)).map(|_| number(rng)).collect();
            let requests = ids.clone().into_iter().map(|id| LeaseKeepAliveRequest { id });
            let mut answers = leases.lease_keep_alive(tokio_stream::iter(requests)).await.unwrap().into_inner();
            let mut unanswered = ids.into_iter();
            loop {
                match (answers.message().await, unanswered.next()) {
                    (Ok(Some(answer)), Some(id)) => assert_eq!((answer.id, answer.ttl >= 0), (id, true)),
                    (Ok(None), None) => break Ok(()),
                    // Of one that is due while the CORRUPT alarm is raised.
                    (Err(status), Some(_)) if status.message() == "etcdserver: corrupt cluster" => break Err(status),
                    (outcome, id) => panic!("{outcome:?} to {id:?}: each is answered, and no other"),
                }
            }
        }
        _ => leases.lease_grant(LeaseGrantRequest { ttl: number(rng), id }).await.map(|granted| {
            let granted = granted.into_inner();
            assert!(granted.ttl > 0 && granted.id != 0, "{granted:?}");
        }),
    };
    is_answer("Lease", outcome);
}

async fn any_call_that_waits(channel: &Channel, rng: &mut Rng) {
    let mut locks = LockClient::new(channel.clone());
    let mut elections = ElectionClient::new(channel.clone());
    let (name, lease) = (key(rng), number(rng));
    let leader = rng.bool().then(|| LeaderKey {
        name: name.clone().into(),
        key: key(rng).into(),
        rev: number(rng),
        lease: number(rng),
    });
    let value = bytes(rng, 20);
    let call = async {
        match rng.u8(0..7) {
            0 => locks.lock(LockRequest { name: name.into(), lease }).await.map(drop),
            1 => locks.unlock(UnlockRequest { key: name.into() }).await.map(drop),
            2 => elections.campaign(CampaignRequest { name: name.into(), lease, value: value.into() }).await.map(drop),
            3 => elections.proclaim(ProclaimRequest { leader, value: value.into() }).await.map(drop),
            4 => elections.resign(ResignRequest { leader }).await.map(drop),
            5 => elections.leader(LeaderRequest { name: name.into() }).await.map(drop),
            _ => {
                let mut leaders = elections.observe(LeaderRequest { name: name.into() }).await?.into_inner();
                leaders.message().await.map(drop)
            }
        }
    };
    if let Ok(outcome) = tokio::time::timeout(PATIENCE, call).await {
        is_answer("Lock or Election", outcome);
    }
}

async fn any_maintenance(clients: &mut Clients, rng: &mut Rng) {
    let outcome = match rng.u8(0..6) {
        0 => {
            let (action, member_id, alarm) = (variant(rng), rng.u64(..), variant(rng));
            clients.maintenance.alarm(AlarmRequest { action, member_id, alarm }).await.map(drop)
        }
        1 => clients.maintenance.hash_kv(HashKvRequest { revision: number(rng) }).await.map(drop),
        2 => clients.maintenance.hash(HashRequest {}).await.map(drop),
        3 => clients.maintenance.status(StatusRequest {}).await.map(drop),
        4 => clients.maintenance.defragment(DefragmentRequest {}).await.map(drop),
        _ => {
            let parts = clients.maintenance.snapshot(SnapshotRequest {}).await;
            // Given up after its first part.
            match parts {
                Ok(parts) => parts.into_inner().message().await.map(drop),
                // Backups that were given up may not have heard of it yet.
                Err(status) if status.code() == Code::ResourceExhausted => Ok(()),
                Err(status) => Err(status),
            }
        }
    };
    is_answer("Maintenance", outcome);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_call_of_leases_locks_elections_and_maintenance_is_answered_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    let mut rng = Rng::with_seed(seed());
    for _ in 0..CALLS {
        let call = async {
            any_lease_call(&clients.channel, &mut rng).await;
            any_call_that_waits(&clients.channel, &mut rng).await;
            any_maintenance(&mut clients, &mut rng).await;
        };
        tokio::time::timeout(DEADLINE, call).await.expect("an answer in time");
    }
    // What some of the calls left on purpose.
    let found = clients.maintenance.alarm(AlarmRequest::default()).await.unwrap().into_inner();
    for alarm in found.alarms {
        let off = AlarmRequest { action: 2, member_id: alarm.member_id, alarm: alarm.alarm };
        clients.maintenance.alarm(off).await.unwrap();
    }
    let mut leases = LeaseClient::new(clients.channel.clone());
    for lease in leases.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner().leases {
        // One of a second may have ended by itself.
        drop(leases.lease_revoke(LeaseRevokeRequest { id: lease.id }).await);
    }
    nothing_is_watched(process.client);
    let pending = "etcd_server_proposals_pending";
    poll("no call to wait", || (metric(process.client, pending) == 0).then_some(()));
    let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    clients.kv.put(put).await.unwrap();
    drop((clients, leases));
    no_panic(process);
}
