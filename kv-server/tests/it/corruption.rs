//! A member that holds something else than the others: each of the checks finds it.

use std::time::Instant;

use kv_codec::chunk::SnapshotHeader;
use kv_raft::snapshots::{SnapshotReader, SnapshotWriter, list};
use kv_raft::{RealDisk, SyncMode};
use kv_server::proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, CompactionRequest, PutRequest};
use tonic::Code;

use crate::cluster::{Cluster, put_at_last};
use crate::harness::{Clients, DEADLINE, check_refused, get, http_get, metric};

/// What all members are told, and what one of them will have; of one length, so that nothing else differs.
const RIGHT: &[u8] = b"rightrightright";
const WRONG: &[u8] = b"wrongwrongwrong";

/// Three members, of which the last has another value at `target`, in a snapshot that is whole in every other way. It does not run.
async fn with_one_corrupt(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::start(3, &[&["--snapshot-count=5", "--unsafe-no-fsync"], flags].concat());
    let mut clients = cluster.clients(0).await;
    put_at_last(&mut clients, "target", std::str::from_utf8(RIGHT).unwrap()).await;
    for nth in 0..30 {
        put_at_last(&mut clients, &format!("k{nth}"), "v").await;
    }
    cluster.agree().await;
    let until = Instant::now() + DEADLINE;
    while metric(cluster.address(2), "kv_snapshots_total") < 3 {
        assert!(Instant::now() < until, "it takes no snapshots");
    }
    let cluster_id = cluster.status(2).await.header.unwrap().cluster_id;
    cluster.kill(2);
    let disk = RealDisk::new(cluster.dir(2), SyncMode::UnsafeNone);
    let mut falsified = 0;
    for (index, term) in list(&disk).unwrap() {
        let header = SnapshotHeader { index, term, cluster_id };
        let mut reader = SnapshotReader::open(&disk, header).unwrap();
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            let mut chunk = chunk.to_vec();
            if let Some(at) = chunk.windows(RIGHT.len()).position(|bytes| bytes == RIGHT) {
                chunk[at..at + WRONG.len()].copy_from_slice(WRONG);
                falsified += 1;
            }
            chunks.push(chunk);
        }
        let mut writer = SnapshotWriter::create(&disk, header).unwrap();
        for chunk in chunks {
            writer.write(&chunk).unwrap();
        }
        writer.finish().unwrap();
    }
    assert!(falsified > 0, "the value is in no snapshot");
    cluster
}

async fn alarms(clients: &mut Clients) -> Vec<AlarmMember> {
    clients.maintenance.alarm(AlarmRequest::default()).await.unwrap().into_inner().alarms
}

/// Waits for the alarm of the last member, and checks what it does.
async fn alarm_is_raised(cluster: &Cluster) {
    let id = cluster.status(2).await.header.unwrap().member_id;
    let mut clients = cluster.clients(0).await;
    let until = Instant::now() + DEADLINE;
    while alarms(&mut clients).await.is_empty() {
        assert!(Instant::now() < until, "nobody found it");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let raised = AlarmMember { member_id: id, alarm: AlarmType::Corrupt.into() };
    assert_eq!(alarms(&mut clients).await, [raised]);
    let put = PutRequest { key: "k".into(), ..Default::default() };
    check_refused(clients.kv.put(put).await, Code::DataLoss, "etcdserver: corrupt cluster");
    assert_eq!(clients.range(get("target")).await.kvs[0].value, RIGHT, "reads are answered");
    assert_eq!(http_get(cluster.address(0), "/health").json()["reason"], "ALARM CORRUPT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_differs_does_not_begin_to_serve() {
    const CHECK: &str = "--experimental-initial-corrupt-check";
    let mut cluster = with_one_corrupt(&[CHECK]).await;
    for nth in 0..2 {
        cluster.member(nth).wait_for("initial corruption checking passed; no corruption");
    }
    let (status, lines) = cluster.begin(2).wait();
    let last = lines.last().unwrap();
    assert_eq!(status.code(), Some(1), "{last}");
    assert!(last.starts_with("kv-server: found data inconsistency with peers: at revision "), "{last}");
    let mut clients = cluster.clients(0).await;
    assert_eq!(alarms(&mut clients).await, []);
    // The others go on, and so does one of them that is started anew.
    cluster.kill(1);
    cluster.revive(1);
    put_at_last(&mut clients, "k", "v").await;
    // Nobody would have noticed.
    cluster.revive_with(2, &["--experimental-initial-corrupt-check=false"]);
    assert_eq!(cluster.clients(2).await.range(get("target")).await.kvs[0].value, WRONG);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_finds_a_member_that_differs() {
    let mut cluster = with_one_corrupt(&["--corrupt-check-time=100ms"]).await;
    assert_eq!(alarms(&mut cluster.clients(0).await).await, []);
    cluster.revive(2);
    alarm_is_raised(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_shows_a_member_that_differs() {
    let mut cluster =
        with_one_corrupt(&["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=100ms"]).await;
    cluster.revive(2);
    let mut clients = cluster.clients(0).await;
    let revision = clients.put("k", "v").await;
    assert_eq!(alarms(&mut clients).await, [], "nothing was compacted");
    clients.kv.compact(CompactionRequest { revision, physical: false }).await.unwrap();
    alarm_is_raised(&cluster).await;
}

/// Members that agree are left alone, compacted or not, with one of them away.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_agree_raise_no_alarm() {
    let flags =
        ["--corrupt-check-time=50ms", "--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=50ms"];
    let mut cluster = Cluster::start(3, &flags);
    let mut clients = cluster.clients(0).await;
    for round in 0..20 {
        let mut revision = 0;
        for nth in 0..10 {
            revision = clients.put(&format!("k{nth}"), &format!("{round}")).await;
        }
        clients.kv.compact(CompactionRequest { revision: revision - 5, physical: false }).await.unwrap();
        if round == 10 {
            let leader = cluster.leader().await;
            let follower = if leader == 2 { 1 } else { 2 };
            cluster.kill(follower);
            cluster.revive(follower);
            clients = cluster.clients(leader).await;
        }
    }
    let leader = cluster.leader().await;
    let until = Instant::now() + DEADLINE;
    let before = metric(cluster.address(leader), "kv_corruption_checks_total");
    while metric(cluster.address(leader), "kv_corruption_checks_total") < before + 5 {
        assert!(Instant::now() < until, "nothing is checked");
    }
    assert_eq!(metric(cluster.address(leader), "kv_corruptions_found_total"), 0);
    assert_eq!(alarms(&mut clients).await, []);
    cluster.agree().await;
}
