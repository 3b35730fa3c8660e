//! A member whose log or snapshot is damaged does not vote. Started with `--resync-from-cluster`, it has the others send it everything.

use std::fs;
use std::path::{Path, PathBuf};

use kv_server::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
};

use crate::cluster::{Cluster, put_at_last};
use crate::harness::{Process, http, poll, prefix};

const RESYNC: &str = "--resync-from-cluster";
/// A change is taken however short the others have been connected: the tests need not wait for 5 s.
const AT_ONCE: &[&str] = &["--strict-reconfig-check=false", "--unsafe-no-fsync"];
/// In the first batch of a segment, behind both headers.
const IN_FIRST_BATCH: usize = 512 + 32 + 5;

/// The files in a directory with this extension, by name.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

/// Flips a bit of the oldest segment; again, it is as before.
fn flip(dir: &Path) {
    let segment = &files(&dir.join("log"), "log")[0];
    let mut bytes = fs::read(segment).unwrap();
    bytes[IN_FIRST_BATCH] ^= 1;
    fs::write(segment, bytes).unwrap();
}

async fn put_some(cluster: &Cluster, through: usize, what: &str) {
    let mut clients = cluster.clients(through).await;
    for nth in 0..20 {
        put_at_last(&mut clients, &format!("{what}{nth}"), "v").await;
    }
}

async fn count(cluster: &Cluster, nth: usize, what: &str) -> i64 {
    cluster.clients(nth).await.range(prefix(what)).await.count
}

async fn list(cluster: &Cluster, through: usize) -> Vec<Member> {
    let asked = MemberListRequest { linearizable: true };
    cluster.clients(through).await.cluster.member_list(asked).await.unwrap().into_inner().members
}

async fn id(cluster: &Cluster, nth: usize) -> u64 {
    cluster.status(nth).await.header.unwrap().member_id
}

/// Three voters, all of which have published themselves and hold the same.
async fn is_complete(cluster: &Cluster) {
    for nth in 0..3 {
        let members = list(cluster, nth).await;
        let mut names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["m0", "m1", "m2"], "{members:?}");
        assert!(members.iter().all(|member| !member.is_learner), "{members:?}");
    }
    cluster.agree().await;
}

/// What the process said last, which did not start.
fn refused(process: Process) -> String {
    let (status, lines) = process.wait();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    lines.last().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_member_is_sent_everything_by_the_others() {
    let mut cluster = Cluster::start(3, &["--unsafe-no-fsync"]);
    put_some(&cluster, 0, "before").await;
    cluster.agree().await;
    let damages: [&dyn Fn(&Path); 3] = [
        &flip,
        &|dir| {
            let snapshot = &files(&dir.join("snap"), "snap")[0];
            let bytes = fs::read(snapshot).unwrap();
            fs::write(snapshot, &bytes[..bytes.len() / 2]).unwrap();
        },
        &|dir| fs::remove_dir_all(dir.join("log")).unwrap(),
    ];
    let leader = cluster.leader().await;
    for (nth, damage) in damages.into_iter().enumerate() {
        let victim = (leader + nth) % 3;
        let through = (victim + 1) % 3;
        let old = id(&cluster, victim).await;
        cluster.kill(victim);
        damage(&cluster.dir(victim));
        let line = refused(cluster.begin(victim));
        assert!(line.contains(RESYNC), "the cure is not named: {line}");
        put_some(&cluster, through, &format!("without{nth}")).await;
        cluster.revive_with(victim, &[RESYNC]);
        is_complete(&cluster).await;
        assert_eq!(count(&cluster, victim, "before").await, 20);
        assert_eq!(count(&cluster, victim, &format!("without{nth}")).await, 20);
        let new = id(&cluster, victim).await;
        assert_ne!(new, old, "it may have voted under its old id");
        // What it had is still there, as it was.
        let kept = cluster.dir(victim).join("damaged-1");
        assert_eq!((kept.join("log").exists(), kept.join("snap").exists()), (nth != 2, true));
        // It has a vote: with it alone, another may be away.
        cluster.kill(through);
        put_some(&cluster, victim, &format!("with{nth}")).await;
        cluster.revive(through);
        // Whole, it goes on as it is, asked or not.
        for flags in [&[][..], &[RESYNC]] {
            cluster.kill(victim);
            cluster.revive_with(victim, flags);
            assert_eq!(id(&cluster, victim).await, new);
        }
        cluster
            .member(victim)
            .wait_for("--resync-from-cluster has nothing to do: this member's log and snapshot are whole");
        is_complete(&cluster).await;
    }
}

/// The same command goes on, wherever it was killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_may_be_killed_at_any_point() {
    let mut cluster = Cluster::start(3, AT_ONCE);
    put_some(&cluster, 0, "before").await;
    let old = id(&cluster, 2).await;
    cluster.agree().await;
    cluster.kill(2);
    flip(&cluster.dir(2));
    ask_in_vain(&mut cluster, 2).await;
    // As soon as it begins, then once it was replaced, once it has begun anew, once it has the log.
    for message in [
        "re-syncing from the cluster",
        "this member was replaced by a learner that begins with nothing; what is damaged is kept",
        "started a new member",
        "serving peer traffic",
        "applied snapshot",
    ] {
        // Once the marker says so, it needs no flag.
        let flags: &[&str] = if message == "serving peer traffic" { &[] } else { &[RESYNC] };
        let mut process = cluster.begin_with(2, flags);
        // On a busy machine it may have come to an end before this test saw it begin.
        process
            .wait_for_line(message, |line| line["msg"] == message || line["msg"] == "ready to serve client requests");
        process.kill();
        put_some(&cluster, 1, &message[..4]).await;
    }
    cluster.revive_with(2, &[RESYNC]);
    is_complete(&cluster).await;
    assert_eq!(count(&cluster, 2, "before").await, 20);
    assert_ne!(id(&cluster, 2).await, old);
    assert!(cluster.dir(2).join("damaged-1/log").exists() && !cluster.dir(2).join("damaged-2").exists());
    // What it caught up with may be damaged as well.
    cluster.kill(2);
    flip(&cluster.dir(2));
    cluster.revive_with(2, &[RESYNC]);
    is_complete(&cluster).await;
    assert!(cluster.dir(2).join("damaged-2/log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_of_the_others_nothing_is_given_up() {
    let mut cluster = Cluster::start(3, AT_ONCE);
    put_some(&cluster, 0, "before").await;
    cluster.agree().await;
    for nth in [1, 2] {
        cluster.kill(nth);
        flip(&cluster.dir(nth));
    }
    let processes = [1, 2].map(|nth| cluster.begin_with(nth, &[RESYNC]));
    for line in processes.map(refused) {
        assert!(line.contains("no member of --initial-cluster could replace this one"), "{line}");
        assert!(line.contains("etcdserver: no leader") && line.contains("nothing was changed"), "{line}");
    }
    // So that whoever mends one of them has everything back.
    flip(&cluster.dir(1));
    cluster.revive_with(1, &[RESYNC]);
    assert_eq!(count(&cluster, 1, "before").await, 20);
    cluster.revive_with(2, &[RESYNC]);
    is_complete(&cluster).await;
    assert!(!cluster.dir(1).join("damaged-1").exists() && cluster.dir(2).join("damaged-1").exists());
}

/// A volume that is not mounted looks like that: it comes back, and so must the member's id.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_directory_is_not_given_up() {
    let mut cluster = Cluster::start(3, AT_ONCE);
    put_some(&cluster, 0, "before").await;
    let old = id(&cluster, 2).await;
    cluster.kill(2);
    let (log, volume) = (cluster.dir(2).join("log"), cluster.dir(2).join("damaged-9"));
    fs::rename(&log, &volume).unwrap();
    fs::create_dir(&log).unwrap();
    let line = refused(cluster.begin_with(2, &[RESYNC]));
    assert!(line.contains("its log is gone") && line.contains("not mounted"), "{line}");
    fs::remove_dir(&log).unwrap();
    fs::rename(&volume, &log).unwrap();
    cluster.revive_with(2, &[RESYNC]);
    is_complete(&cluster).await;
    assert_eq!(id(&cluster, 2).await, old);
}

/// A re-sync makes voters of voters, and of nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn learners_and_those_removed_are_not_replaced() {
    let mut cluster = Cluster::start(2, AT_ONCE);
    put_some(&cluster, 0, "before").await;
    let (nth, url) = cluster.place();
    let request = MemberAddRequest { peer_ur_ls: vec![url], is_learner: true };
    let mut clients = cluster.clients(0).await;
    let added = clients.cluster.member_add(request).await.unwrap().into_inner();
    let learner = added.member.unwrap().id;
    cluster.join(nth);
    cluster.kill(nth);
    flip(&cluster.dir(nth));
    let line = refused(cluster.begin_with(nth, &[RESYNC]));
    assert!(line.contains(&format!("member {learner:x} is a learner")), "{line}");
    flip(&cluster.dir(nth));
    cluster.revive(nth);
    clients.cluster.member_promote(MemberPromoteRequest { id: learner }).await.unwrap();
    cluster.agree().await;
    cluster.kill(nth);
    flip(&cluster.dir(nth));
    clients.cluster.member_remove(MemberRemoveRequest { id: learner }).await.unwrap();
    // However often it asks.
    for _ in 0..2 {
        let line = refused(cluster.begin_with(nth, &[RESYNC]));
        assert!(line.contains(&format!("member {learner:x} has been permanently removed from the cluster")), "{line}");
        assert!(line.contains("nothing was changed"), "{line}");
        assert_eq!(list(&cluster, 1).await.len(), 2);
    }
}

/// A member asks, and is killed before the answer, which cannot come; what its marker says then.
async fn ask_in_vain(cluster: &mut Cluster, nth: usize) -> String {
    let leader = cluster.leader().await;
    cluster.member(leader).freeze(true);
    let process = cluster.begin_with(nth, &[RESYNC]);
    let marker = cluster.dir(nth).join("member");
    let asked = || fs::read_to_string(&marker).ok().filter(|text| text.contains("resync = asked"));
    let asked = poll("the others to be asked", asked);
    process.kill();
    cluster.member(leader).freeze(false);
    cluster.leader().await;
    asked
}

/// One of three members is damaged and asks in vain: its place, its id, and what its marker says then.
async fn asked_in_vain() -> (Cluster, usize, u64, String) {
    let mut cluster = Cluster::start(3, AT_ONCE);
    put_some(&cluster, 0, "before").await;
    let nth = (cluster.leader().await + 1) % 3;
    let old = id(&cluster, nth).await;
    cluster.agree().await;
    cluster.kill(nth);
    flip(&cluster.dir(nth));
    let marker = ask_in_vain(&mut cluster, nth).await;
    (cluster, nth, old, marker)
}

/// A question whose answer nobody heard is no reason to take in whom somebody removed since.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_after_it_asked_stays_removed() {
    let (cluster, victim, old, _) = asked_in_vain().await;
    let through = (victim + 1) % 3;
    // What it asked for may be there: an operator removes that as well.
    for member in list(&cluster, through).await {
        if member.is_learner || member.id == old {
            let mut clients = cluster.clients(through).await;
            clients.cluster.member_remove(MemberRemoveRequest { id: member.id }).await.unwrap();
        }
    }
    for _ in 0..3 {
        refused(cluster.begin_with(victim, &[RESYNC]));
        assert_eq!(list(&cluster, through).await.len(), 2);
    }
    assert!(!cluster.dir(victim).join("damaged-1").exists());
}

/// The others have replaced it, which it never heard, and then its disk reads again: the same command goes on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_whole_again_too_late_goes_on() {
    let (mut cluster, victim, old, marker) = asked_in_vain().await;
    let field = |name: &str| marker.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let body = format!(
        r#"{{"new": "{}", "peerURLs": ["{}"], "catchesUp": false}}"#,
        field("new-member-id = "),
        cluster.peer_url(victim)
    );
    let through = (victim + 1) % 3;
    let address = cluster.peer_url(through).strip_prefix("http://").unwrap().parse().unwrap();
    let request = format!(
        "POST /members/replace/{old:x} HTTP/1.1\r\nhost: h\r\nx-etcd-cluster-id: {:x}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        cluster.status(through).await.header.unwrap().cluster_id,
        body.len()
    );
    // Twice is as once.
    for _ in 0..2 {
        poll("the others to replace it", || http(address, &request).head.contains(" 200 ").then_some(()));
    }
    flip(&cluster.dir(victim));
    let (status, lines) = cluster.begin(victim).wait();
    assert!(!status.success() || lines.iter().any(|line| line.contains("removed")), "{lines:#?}");
    cluster.revive_with(victim, &[RESYNC]);
    is_complete(&cluster).await;
    assert_eq!(id(&cluster, victim).await, u64::from_str_radix(&field("new-member-id = "), 16).unwrap());
    assert!(cluster.dir(victim).join("damaged-1/log").exists());
}
