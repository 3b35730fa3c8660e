//! The peer port, and whoever dials it: only members of this cluster are heard, and nothing that they say harms more than their own
//! connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use fastrand::Rng;
use kv_codec::chunk::SnapshotHeader;
use kv_codec::command::{BatchBuilder, Body, CommandHeader};
use kv_codec::peer::{Greeting, REPLY_BYTES, Refusal, Reply, Stream, put_frame};
use kv_codec::varint::put_u64;
use kv_raft::snapshots::StreamState;
use kv_server::ids;
use kv_server::proto::etcdserverpb::CompactionRequest;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::harness::{DEADLINE, Process, free_addresses, http_get, poll};

const MESSAGE: u8 = 1;
const STORED: u8 = 6;
/// Where the two other members of the cluster would be.
const OTHERS: [&str; 2] = ["http://127.0.0.1:1", "http://127.0.0.1:2"];

/// One of three members, which finds no other: it waits for a leader, and listens.
struct Lonely {
    process: Process,
    peer: SocketAddr,
    dir: TempDir,
    greeting: Greeting,
}

impl Lonely {
    fn start() -> Self {
        let [free] = free_addresses();
        let url = format!("http://{free}");
        let cluster = format!("a={url},b={},c={}", OTHERS[0], OTHERS[1]);
        let flags = [
            "--name=a".to_owned(),
            format!("--listen-peer-urls={url}"),
            format!("--initial-advertise-peer-urls={url}"),
            format!("--initial-cluster={cluster}"),
        ];
        let dir = tempfile::tempdir().unwrap();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut process = Process::begin(dir.path(), &flags);
        process.wait_for("serving peer traffic");
        let [a, b, c] = [url.as_str(), OTHERS[0], OTHERS[1]].map(|url| ids::member_id(&[url], "etcd-cluster"));
        let cluster_id = ids::cluster_id(&[a, b, c]);
        let greeting = Greeting { stream: Stream::Messages, cluster_id, from: b, to: a, epoch: 5 };
        Self { process, peer: free, dir, greeting }
    }

    /// Dials, says this, and hears what is replied.
    fn greet(&self, greeting: &Greeting) -> (TcpStream, Result<(), Refusal>) {
        self.say_hello(&greeting.encode())
    }

    fn say_hello(&self, bytes: &[u8]) -> (TcpStream, Result<(), Refusal>) {
        let mut stream = TcpStream::connect(self.peer).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut reply = [0; REPLY_BYTES];
        stream.read_exact(&mut reply).unwrap();
        let reply = Reply::decode(&reply).unwrap();
        assert_eq!(reply.epoch, 1, "its first run");
        (stream, reply.verdict)
    }

    /// Says something after a greeting that was welcome, and waits until the connection is closed for it.
    fn said(&self, stream: Stream, bytes: &[u8]) {
        let (mut connection, verdict) = self.greet(&Greeting { stream, ..self.greeting });
        assert_eq!(verdict, Ok(()));
        // It may be closed before all is said.
        let _ = connection.write_all(bytes);
        is_closed(connection);
    }

    fn ends_well(self) {
        assert_eq!(http_get(self.peer, "/version").json()["etcdserver"], "3.7.0");
        let (status, lines) = self.process.terminate();
        let panicked: Vec<_> = lines.iter().filter(|line| line.contains("panicked")).collect();
        assert!(panicked.is_empty() && status.code() == Some(143), "{status}: {lines:#?}");
    }
}

fn is_closed(mut connection: TcpStream) {
    if let Err(error) = connection.read_to_end(&mut Vec::new()) {
        let hung = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!hung, "it is not closed");
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| out.extend_from_slice(payload));
    frame
}

/// The frame of a message that says: here comes the snapshot of entry `index`.
fn snapshot_message(greeting: &Greeting, index: u64) -> Vec<u8> {
    const TERM: u64 = 7;
    let mut message = vec![MESSAGE, 1, 1];
    message.extend_from_slice(&greeting.from.to_le_bytes());
    message.extend_from_slice(&greeting.to.to_le_bytes());
    message.push(8);
    [TERM, 0, 0, 0, 0, 0, 0, 0].iter().for_each(|number| put_u64(&mut message, *number));
    // No refusal, no context, no entries; a snapshot, its voters and learners.
    message.extend_from_slice(&[0, 0, 0, 1]);
    [index, TERM, 1].iter().for_each(|number| put_u64(&mut message, *number));
    message.extend_from_slice(&greeting.from.to_le_bytes());
    message.push(0);
    frame(&message)
}

fn header(greeting: &Greeting, index: u64) -> SnapshotHeader {
    SnapshotHeader { index, term: 7, cluster_id: greeting.cluster_id }
}

#[test]
fn only_members_of_the_cluster_are_let_in() {
    let mut lonely = Lonely::start();
    let welcome = lonely.greeting;
    let Greeting { from, to, .. } = welcome;
    let cases = [
        (Greeting { cluster_id: 1, ..welcome }, Refusal::Cluster, "another cluster"),
        (Greeting { to: from, ..welcome }, Refusal::Member, "another member than the one that was meant"),
        (Greeting { from: to, ..welcome }, Refusal::Member, "another member than the one that was meant"),
    ];
    for (greeting, refusal, words) in cases {
        let (connection, verdict) = lonely.greet(&greeting);
        assert_eq!(verdict, Err(refusal));
        is_closed(connection);
        let line = rejected(&mut lonely.process, words);
        assert!(line["remote-addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    let mut version = welcome.encode();
    version[8] = 9;
    let (connection, verdict) = lonely.say_hello(&version);
    assert_eq!(verdict, Err(Refusal::Version));
    is_closed(connection);
    rejected(&mut lonely.process, "unknown peer protocol version 9");

    let (first, verdict) = lonely.greet(&welcome);
    assert_eq!(verdict, Ok(()));
    let (second, verdict) = lonely.greet(&welcome);
    assert_eq!(verdict, Ok(()), "the same run may connect again");
    is_closed(first);
    let (connection, verdict) = lonely.greet(&Greeting { epoch: 4, ..welcome });
    assert_eq!(verdict, Err(Refusal::Epoch), "an earlier run may not");
    is_closed(connection);
    rejected(&mut lonely.process, "a later run of the same member has been seen");
    let (third, verdict) = lonely.greet(&Greeting { epoch: 6, ..welcome });
    assert_eq!(verdict, Ok(()));
    is_closed(second);
    drop(third);
    lonely.ends_well();
}

/// Who is not let in dials every second.
#[test]
fn a_rejection_is_said_once_for_each_reason() {
    let mut lonely = Lonely::start();
    let welcome = lonely.greeting;
    let rejections = [
        Greeting { cluster_id: 1, ..welcome },
        Greeting { cluster_id: 1, ..welcome },
        Greeting { cluster_id: 2, ..welcome },
        Greeting { cluster_id: 1, from: 77, ..welcome },
    ];
    let reject = |greeting: Greeting| {
        let (connection, verdict) = lonely.greet(&greeting);
        assert!(verdict.is_err());
        is_closed(connection);
    };
    rejections.into_iter().for_each(reject);
    // Once it was let in, it is said again.
    let (connection, verdict) = lonely.greet(&Greeting { from: 77, ..welcome });
    assert_eq!(verdict, Ok(()));
    drop(connection);
    reject(Greeting { cluster_id: 1, from: 77, ..welcome });
    // What comes last is said last.
    reject(Greeting { to: welcome.from, ..welcome });
    rejected(&mut lonely.process, "another member than the one that was meant");
    let (_, lines) = lonely.process.terminate();
    let said = lines.iter().filter(|line| line.contains("rejected connection on peer endpoint")).count();
    assert_eq!(said, 4, "{lines:#?}");
}

/// Waits for the line that says why a connection was rejected.
fn rejected(process: &mut Process, words: &str) -> Value {
    process.wait_for_line(words, |line| {
        line["msg"] == "rejected connection on peer endpoint" && line["error"].as_str().unwrap().contains(words)
    })
}

#[test]
fn nonsense_ends_its_connection_and_nothing_else() {
    let lonely = Lonely::start();
    let seed = std::env::var("KV_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("KV_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut any = |max: usize| {
        let mut bytes = vec![0; rng.usize(1..=max)];
        rng.fill(&mut bytes);
        bytes
    };
    for stream in [Stream::Messages, Stream::Questions, Stream::Snapshot] {
        for _ in 0..20 {
            // At least the header of a frame: what is shorter may be the beginning of something.
            lonely.said(stream, &[&[0xff; 4][..], &any(200), &[0; 8]].concat());
            // A frame that says nothing of this protocol's.
            lonely.said(stream, &frame(&[&[0x70][..], &any(200)].concat()));
            // A message that cannot be read, or is somebody else's.
            lonely.said(stream, &frame(&[&[MESSAGE, 1, 1][..], &any(200)].concat()));
        }
        // Longer than any.
        lonely.said(stream, &[u32::MAX.to_le_bytes(), [0; 4]].concat());
    }
    // A snapshot's message among others: its content has not come.
    lonely.said(Stream::Messages, &snapshot_message(&lonely.greeting, 9));
    lonely.ends_well();
}

/// The beginning of a message's frame, up to what its kind says.
fn message(greeting: &Greeting, kind: u8, body: &[u8]) -> Vec<u8> {
    let ids = [greeting.from.to_le_bytes(), greeting.to.to_le_bytes()].concat();
    frame(&[&[MESSAGE, 1, kind][..], &ids, body].concat())
}

/// A command that nobody can read, in a batch that everybody can, would be committed, and stop every member whenever it starts.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_could_apply_is_not_taken_into_the_log() {
    const FORWARD: u8 = 2;
    const CHANGE: u8 = 5;
    let mut cluster = Cluster::start(3, &[]);
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    cluster.kill(other);
    let id = |nth: usize| ids::member_id(&[cluster.peer_url(nth)], "etcd-cluster");
    let cluster_id = ids::cluster_id(&[id(0), id(1), id(2)]);
    let greeting = Greeting { stream: Stream::Messages, cluster_id, from: id(other), to: id(leader), epoch: 9 };
    let term = cluster.status(leader).await.raft_term;
    let batch = |body: &Body<'_>, seq| {
        let mut batch = BatchBuilder::default();
        batch.push(&body.encode(&CommandHeader { origin: greeting.from, epoch: 9, seq, ..CommandHeader::default() }));
        batch.finish().to_vec()
    };
    let (removal, grant) = (Body::MemberRemove(greeting.from), Body::LeaseGrant { id: 1, ttl: 60 });
    let mut unknown = batch(&grant, 1);
    let kind = unknown.len() - 3;
    unknown[kind] = 0x7f;
    let removes = [&[3][..], &greeting.from.to_le_bytes()].concat();
    let adds = [&[1][..], &7_u64.to_le_bytes()].concat();
    for (kind, change, batch, words) in [
        (FORWARD, &[][..], unknown, "command kind"),
        (FORWARD, &[], batch(&removal, 2), "a membership change among other commands"),
        (CHANGE, &removes, batch(&grant, 3), "a membership change that changes no membership"),
        (CHANGE, &adds, batch(&removal, 4), "a membership change that is another than it says"),
    ] {
        let mut body = Vec::new();
        put_u64(&mut body, term);
        body.extend_from_slice(change);
        body.extend_from_slice(&batch);
        let mut connection = TcpStream::connect(cluster.member(leader).peer).unwrap();
        connection.write_all(&[&greeting.encode()[..], &message(&greeting, kind, &body)].concat()).unwrap();
        cluster.member(leader).wait_for_line(words, |line| {
            line["msg"] == "closed connection of peer" && line["error"].as_str().unwrap().contains(words)
        });
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        is_closed(connection);
    }
    cluster.clients(leader).await.put("k", "v").await;
    cluster.agree().await;
}

#[test]
fn half_a_snapshot_leaves_nothing() {
    let mut lonely = Lonely::start();
    let snapshots = |dir: &Path| std::fs::read_dir(dir.join("snap")).unwrap().count();
    assert_eq!(snapshots(lonely.dir.path()), 1, "the one it was born with");
    let greeting = Greeting { stream: Stream::Snapshot, ..lonely.greeting };
    let begin = |index| [snapshot_message(&greeting, index), header(&greeting, index).encode().to_vec()].concat();
    let chunk = |state: &mut StreamState, payload: &[u8]| [&state.frame(payload)[..], payload].concat();

    // One that stops in the middle, while it is written.
    let (mut first, verdict) = lonely.greet(&greeting);
    assert_eq!(verdict, Ok(()));
    let mut state = StreamState::new(&header(&greeting, 9));
    first.write_all(&[begin(9), chunk(&mut state, b"some"), chunk(&mut state, b"more")].concat()).unwrap();
    poll("the snapshot to be written", || (snapshots(lonely.dir.path()) == 2).then_some(()));
    // Another one takes its place, and is damaged.
    let (mut second, _) = lonely.greet(&Greeting { from: ids::member_id(&[OTHERS[1]], "etcd-cluster"), ..greeting });
    let other = Greeting { from: ids::member_id(&[OTHERS[1]], "etcd-cluster"), ..greeting };
    let mut state = StreamState::new(&header(&other, 10));
    let mut bytes = [snapshot_message(&other, 10), header(&other, 10).encode().to_vec()].concat();
    bytes.extend(chunk(&mut state, b"some"));
    bytes.extend(chunk(&mut state, b"damaged"));
    *bytes.last_mut().unwrap() ^= 1;
    second.write_all(&bytes).unwrap();
    let ends = |mut connection: TcpStream| {
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(&[STORED, 0]), "the sender is told: {answer:?}");
    };
    ends(first);
    ends(second);
    // One whose frames are right, and whose end is another's.
    let (mut third, _) = lonely.greet(&greeting);
    let mut state = StreamState::new(&header(&greeting, 9));
    let foreign = StreamState::new(&header(&greeting, 9)).end_frame().to_vec();
    third.write_all(&[begin(9), chunk(&mut state, b"some"), foreign].concat()).unwrap();
    ends(third);
    poll("what came to be removed", || (snapshots(lonely.dir.path()) == 1).then_some(()));
    lonely.process.wait_for("closed connection of peer");
    lonely.ends_well();
}

/// It keeps its connections, and takes nothing off them: what waits for it is bounded, then it is let go.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_reading_costs_bounded_memory_and_harms_nobody() {
    const VALUES: usize = 320;
    const VALUE_BYTES: usize = 1 << 20;
    /// 64 MiB that wait for it, 32 MiB of the log, and what a snapshot and a few requests take; far less than is written.
    const COST_MAX: u64 = 200 << 20;
    let mut cluster = Cluster::start(3, &["--unsafe-no-fsync"]);
    let leader = cluster.leader().await;
    let slow = (leader + 1) % 3;
    let slow_id = format!("{:x}", cluster.status(slow).await.header.unwrap().member_id);
    let mut clients = cluster.clients(leader).await;
    clients.put("k", "first").await;
    cluster.agree().await;
    cluster.member(slow).freeze(true);
    let before = cluster.member(leader).memory_peak();
    let value = "x".repeat(VALUE_BYTES);
    for _ in 0..VALUES {
        let revision = clients.put("k", &value).await;
        clients.kv.compact(CompactionRequest { revision, physical: false }).await.unwrap();
    }
    let cost = cluster.member(leader).memory_peak() - before;
    assert!(cost < COST_MAX, "{} MiB", cost >> 20);
    cluster.member(leader).wait_for_line("it is let go", |line| {
        line["msg"] == "lost connection to peer" && line["remote-peer-id"] == slow_id
    });
    clients.put("k", "last").await;
    cluster.member(slow).freeze(false);
    cluster.agree().await;
}
