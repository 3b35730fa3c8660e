//! What the fuzzers start from, and small changes of it, through every decoder: no fuzzer needed.
//!
//! `KV_WRITE_CORPORA=1 cargo test -p kv-sim --test corpora` writes the first seeds of each corpus anew.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use kv_codec::command::{
    Alarm, AlarmKind, BatchBuilder, Body, CommandHeader, Compare, CompareResult, CompareTarget, DeleteRange, Expired,
    LeaseCheckpoint, Op, Publish, Put, Range, Txn,
};
use kv_codec::member::Member;
use kv_codec::peer::{Greeting, Refusal, Reply, Stream, put_frame};
use kv_codec::record::{self, HardState, LogEntry, Record, SnapshotMark};
use kv_raft::snapshots::SnapshotWriter;
use kv_raft::{
    ConfChange, EntryKind, Envelope, FileLog, Input, LogOptions, LogStore, Membership, Node, NodeConfig, NodeState,
    PeerMessage, Position, RejectReason, TailLimits,
};
use kv_sim::SimDisk;
use kv_sim::decoders::{IDS, SEGMENT, SNAPSHOT, SNAPSHOT_FILE, TARGETS};
use kv_store::{Members, Store};

/// Changes of each file.
const CHANGES: u64 = 300;

fn corpus(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name)
}

#[test]
fn every_decoder_returns_whatever_it_is_given() {
    if std::env::var_os("KV_WRITE_CORPORA").is_some() {
        write_all();
    }
    for (name, target) in TARGETS {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        target(b"");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            target(&bytes);
            let mut rng = Rng::with_seed(bytes.len() as u64);
            for _ in 0..CHANGES {
                target(&changed(&bytes, &mut rng));
            }
        }
    }
}

/// One to three small changes.
fn changed(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.u8(1..=3) {
        let at = rng.usize(0..=bytes.len());
        match rng.u8(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.usize(0..5)],
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            _ => {}
        }
    }
    bytes
}

fn commands() -> Vec<Vec<u8>> {
    let put = Put { key: b"key", value: b"value", lease: 0, prev_kv: true, ignore_value: false, ignore_lease: false };
    let delete = DeleteRange { key: b"a", range_end: b"z", prev_kv: true };
    let range = Range {
        key: b"\0",
        range_end: b"\0",
        limit: 3,
        revision: 1,
        sort_order: 2,
        sort_target: 4,
        keys_only: false,
        count_only: false,
        mod_revisions: (0, 9),
        create_revisions: (1, 0),
    };
    let compare = |target| Compare { key: b"key", range_end: b"", result: CompareResult::NotEqual, target };
    let inner = Txn { compare: vec![compare(CompareTarget::Lease(4))], success: vec![Op::Put(put)], failure: vec![] };
    let txn = Txn {
        compare: vec![compare(CompareTarget::Value(b"x")), compare(CompareTarget::Mod(-1))],
        success: vec![Op::Range(range), Op::Txn(inner)],
        failure: vec![Op::DeleteRange(delete)],
    };
    let bodies = [
        Body::Put(put),
        Body::DeleteRange(delete),
        Body::Txn(txn),
        Body::Compact { revision: 2 },
        Body::Publish(Publish { id: 3, name: "n".into(), client_urls: vec!["http://c:1".into()] }),
        Body::MemberAdd { member: a_member(), learners_max: 1 },
        Body::MemberRemove(4),
        Body::MemberPromote(5),
        Body::MemberUpdate { id: 6, peer_urls: vec!["http://p:2".into()] },
        Body::LeaseGrant { id: 7, ttl: 60 },
        Body::LeaseRevoke { id: 7, expired: None },
        Body::LeaseRevoke { id: 8, expired: Some(Expired { term: 2, granted: 9 }) },
        Body::LeaseCheckpoint { term: 2, checkpoints: vec![LeaseCheckpoint { id: 7, granted: 9, remaining_ttl: 30 }] },
        Body::Alarm(Alarm { raise: true, member: 1, kind: AlarmKind::NoSpace }),
    ];
    let header = CommandHeader { origin: 1, epoch: 2, seq: 3, auth_revision: 4, user: b"root" };
    bodies.iter().map(|body| body.encode(&header)).collect()
}

fn a_member() -> Member {
    let peer_urls = vec!["http://p:2380".to_owned(), "http://q:2380".to_owned()];
    Member { id: 9, name: "name".into(), peer_urls, client_urls: vec![], is_learner: true }
}

fn batches() -> Vec<Vec<u8>> {
    let all = commands();
    let of = |commands: &[Vec<u8>]| {
        let mut batch = BatchBuilder::default();
        commands.iter().for_each(|command| batch.push(command));
        batch.finish().to_vec()
    };
    let mut batches: Vec<_> = all.iter().map(|command| of(std::slice::from_ref(command))).collect();
    batches.push(of(&all));
    batches
}

fn log_records() -> Vec<Record> {
    let entry =
        |index, kind, payload: Vec<u8>| Record::Entry(LogEntry { index, term: 1, kind, payload: payload.into() });
    vec![
        Record::HardState(HardState { term: 1, vote: 3, commit: 0 }),
        entry(1, EntryKind::Normal, b"one".to_vec()),
        entry(2, EntryKind::ConfChange, vec![7; 600]),
        entry(2, EntryKind::Normal, vec![]),
        Record::Snapshot(SnapshotMark { index: 1, term: 1, installed: false }),
    ]
}

fn write_all() {
    let write = |name: &str, files: Vec<Vec<u8>>| {
        std::fs::create_dir_all(corpus(name)).unwrap();
        for (nth, bytes) in files.iter().enumerate() {
            std::fs::write(corpus(name).join(format!("first-{nth:02}")), bytes).unwrap();
        }
    };
    write("batch", batches());
    write("apply", batches());
    let mut together = Vec::new();
    log_records().iter().for_each(|record| record::encode(record, &mut together));
    write("records", vec![together]);

    let disk = SimDisk::new(1);
    let options = LogOptions { segment_bytes_first: 4096, segment_bytes_max: 8192, ..LogOptions::new(IDS) };
    let (mut log, _) = FileLog::open(Arc::new(disk.clone()), options).unwrap();
    log_records().iter().for_each(|record| log.append(std::slice::from_ref(record)).unwrap());
    log.mark_durable().unwrap();
    let segment = disk.content(SEGMENT).unwrap();
    write("log", vec![segment.clone()]);

    let mut store = Store::genesis(Members::new([a_member()], [1]));
    for (index, batch) in (2..).zip(batches().iter().take(4)) {
        store.apply(index, 1, batch, &mut vec![]).unwrap();
    }
    let stream: Vec<u8> = store.view().chunks().flat_map(|chunk| chunk.to_vec()).collect();
    let mut writer = SnapshotWriter::create(&disk, SNAPSHOT).unwrap();
    writer.write(&stream).unwrap();
    writer.finish().unwrap();
    let file = disk.content(SNAPSHOT_FILE).unwrap();
    let tagged: Vec<u8> = segment[16..32].iter().chain(&segment[512..544]).copied().collect();
    write("headers", vec![segment[..512].to_vec(), tagged, file[..44].to_vec()]);
    write("snapshot_file", vec![file]);
    write("snapshot_stream", vec![stream]);
    let mut member = Vec::new();
    a_member().encode(&mut member);
    write("member", vec![member]);

    let greeting = Greeting { stream: Stream::Snapshot, cluster_id: 7, from: 8, to: 9, epoch: 3 };
    let replies = [Ok(()), Err(Refusal::Epoch)].map(|verdict| Reply { verdict, epoch: 4 }.encode().to_vec());
    let framed = messages().into_iter().map(|message| {
        let mut frame = Vec::new();
        put_frame(&mut frame, |out| out.extend_from_slice(&message));
        frame
    });
    write("peer", [greeting.encode().to_vec()].into_iter().chain(replies).chain(framed).collect());
    write("message", messages());
}

/// One of each kind that a node sends: raft's come from nodes that elect a leader, which proposes and reads.
fn messages() -> Vec<Vec<u8>> {
    let batch = Bytes::from(batches().swap_remove(0));
    let own = [
        PeerMessage::Forward { leader_term: 2, batch: batch.clone() },
        PeerMessage::ForwardChange { leader_term: 2, change: ConfChange::Remove(4), batch: batch.clone() },
        PeerMessage::Refused { reason: RejectReason::Busy, batch: batch.clone() },
        PeerMessage::ReadRequest { epoch: 3, round: 4 },
        PeerMessage::ReadResponse { epoch: 3, round: 4, term: 2, index: 5 },
    ];
    let mut all: Vec<_> = own.map(|body| Envelope { from: 8, to: 9, body }.encode()).to_vec();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let membership = Membership { voters: vec![8, 9], learners: vec![] };
    let node = |id| {
        let config =
            NodeConfig { id, epoch: 1, seed: 7, election_ticks: 10, heartbeat_ticks: 1, tail: TailLimits::default() };
        let state = NodeState {
            base: Position { index: 1, term: 1 },
            entries: vec![],
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            applied: 1,
            membership: membership.clone(),
        };
        Node::new(config, state, &log)
    };
    let mut nodes = [node(8), node(9)];
    nodes[0].step(Input::Campaign).unwrap();
    for round in 0..12 {
        match round {
            8 => nodes[0].step(Input::Propose(batch.clone())).unwrap(),
            10 => nodes[0].step(Input::Tick).unwrap(),
            _ => {}
        }
        let mut mail = Vec::new();
        for node in &mut nodes {
            let effects = node.poll();
            mail.extend(effects.messages);
            if let Some(persist) = effects.persist {
                node.step(Input::Persisted(persist.ticket)).unwrap();
            }
            if let Some(last) = effects.committed.last() {
                node.step(Input::Applied(last.index)).unwrap();
            }
        }
        for message in mail {
            all.push(message.encode());
            let to = usize::try_from(message.to - 8).unwrap();
            nodes[to].step(Input::Message(message)).unwrap();
        }
    }
    all.sort();
    all.dedup();
    all
}
