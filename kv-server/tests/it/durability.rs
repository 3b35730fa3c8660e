//! What was acknowledged is there after any end of the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_server::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use tokio::sync::mpsc;

use crate::harness::{Clients, Process, get, poll, prefix, revision};

const WRITERS: usize = 64;
/// Acknowledged puts before the kill: the log is then in the middle of its work.
const PUTS_BEFORE_KILL: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), &[]);
    let first_epoch = process.wait_for("started a new member")["boot-epoch"].as_u64().unwrap();
    let mut clients = Clients::connect(process.client).await;
    for n in 0..100 {
        clients.put(&format!("k/{}", n % 40), &n.to_string()).await;
    }
    let delete = DeleteRangeRequest { key: "k/1".into(), range_end: "k/2".into(), ..Default::default() };
    let revision = revision(clients.kv.delete_range(delete).await.unwrap().into_inner().header);
    assert_eq!(revision, 102);
    let (hash, before) = (clients.hash_kv(0).await, clients.range(prefix("k/")).await);
    process.kill();

    let mut process = Process::start(dir.path(), &[]);
    let recovered = process.wait_for("recovered");
    assert_eq!(recovered["boot-epoch"].as_u64(), Some(first_epoch + 1));
    // The last write was durable, and its commit not yet noted: it is there once the member leads.
    let known = |field: &str| recovered[field].as_i64().unwrap();
    assert_eq!(known("revision") + known("entries-uncommitted"), revision);
    let mut clients = Clients::connect(process.client).await;
    assert_eq!(clients.hash_kv(0).await, hash);
    assert_eq!(clients.hash_kv(revision).await, hash);
    let after = clients.range(prefix("k/")).await;
    assert_eq!(after.kvs, before.kvs);
    let (old, new) = (before.header.unwrap(), after.header.unwrap());
    assert_eq!((new.cluster_id, new.member_id), (old.cluster_id, old.member_id));
    assert!(new.raft_term > old.raft_term, "a new election, a new term");
    let history = clients.range(RangeRequest { revision: 50, ..prefix("k/") }).await;
    assert_eq!(history.count, 40, "what was deleted is still there in the past");
    assert_eq!(clients.put("k/0", "again").await, revision + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_cleanly_and_the_next_start_continues() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &[]);
    let mut clients = Clients::connect(process.client).await;
    clients.put("k", "v").await;
    // One connection with nothing on it, one with a call behind it: neither holds up the end.
    let _idle = std::net::TcpStream::connect(process.client).unwrap();
    let (status, lines) = process.terminate();
    assert_eq!(status.code(), Some(128 + 15), "as a shell says it");
    let said = |message: &str| lines.iter().filter(|line| line.contains(message)).count();
    assert_eq!((said("closed etcd server"), said("still busy")), (1, 0), "{lines:#?}");

    let mut process = Process::start(dir.path(), &[]);
    assert_eq!(process.wait_for("recovered")["cut"], "none");
    let mut clients = Clients::connect(process.client).await;
    assert_eq!(clients.range(get("k")).await.kvs[0].value, "v");
    assert_eq!(clients.put("k", "w").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_the_log_above_it_make_one_state() {
    let dir = tempfile::tempdir().unwrap();
    let every_20 = ["--snapshot-count=20"];
    let mut process = Process::start(dir.path(), &every_20);
    let mut clients = Clients::connect(process.client).await;
    for n in 0..50 {
        clients.put(&format!("k/{}", n % 7), &n.to_string()).await;
    }
    process.wait_for("saved snapshot");
    let hash = clients.hash_kv(0).await;
    process.kill();
    let mut process = Process::start(dir.path(), &every_20);
    let recovered = process.wait_for("recovered");
    assert!(recovered["snapshot-index"].as_u64() > Some(1), "{recovered}");
    let mut clients = Clients::connect(process.client).await;
    assert_eq!(clients.hash_kv(0).await, hash);
    assert_eq!(clients.hash_kv(20).await.0, 20, "the past is in the snapshot as well");
}

/// What one writer was told: the last number it had acknowledged, at which revision.
type Acknowledged = BTreeMap<usize, (usize, i64)>;

/// Each writer puts 0, 1, 2.. under a key of its own until the server is gone.
async fn write_until_killed(process: Process) -> Acknowledged {
    let done = Arc::new(AtomicUsize::new(0));
    let (told, mut all_told) = mpsc::unbounded_channel();
    for writer in 0..WRITERS {
        let mut clients = Clients::connect(process.client).await;
        let (done, told) = (Arc::clone(&done), told.clone());
        tokio::spawn(async move {
            let mut last = None;
            for number in 0.. {
                let (key, value) = (format!("w/{writer:02}").into(), number.to_string().into());
                let put = PutRequest { key, value, ..Default::default() };
                let Ok(answer) = clients.kv.put(put).await else { break };
                last = Some((number, revision(answer.into_inner().header)));
                done.fetch_add(1, Ordering::Relaxed);
            }
            told.send((writer, last)).unwrap();
        });
    }
    drop(told);
    let killing = tokio::task::spawn_blocking(move || {
        poll("the writers", || (done.load(Ordering::Relaxed) >= PUTS_BEFORE_KILL).then_some(()));
        process.kill();
    });
    killing.await.unwrap();
    let mut acknowledged = Acknowledged::new();
    while let Some((writer, last)) = all_told.recv().await {
        acknowledged.extend(last.map(|last| (writer, last)));
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_writers_lose_nothing_to_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    for _round in 0..2 {
        let acknowledged = write_until_killed(Process::start(dir.path(), &[])).await;
        let mut process = Process::start(dir.path(), &[]);
        process.wait_for("recovered");
        let mut clients = Clients::connect(process.client).await;
        let answer = clients.range(prefix("w/")).await;
        let newest = acknowledged.values().map(|(_, revision)| *revision).max().unwrap();
        assert!(revision(answer.header) >= newest, "the revision went back");
        for (writer, (number, at)) in &acknowledged {
            let key = format!("w/{writer:02}");
            let kv = answer.kvs.iter().find(|kv| kv.key == key).unwrap_or_else(|| panic!("{key} is gone"));
            let found: usize = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            // The one put that was under way may have come through.
            assert!(found == *number || found == number + 1, "{key}: {found} after {number}");
            let then = clients.range(RangeRequest { revision: *at, ..get(&key) }).await;
            assert_eq!(
                (&then.kvs[0].value[..], then.kvs[0].mod_revision),
                (number.to_string().as_bytes(), *at),
                "{key}"
            );
        }
        let (status, _) = process.terminate();
        assert_eq!(status.code(), Some(143));
    }
}
