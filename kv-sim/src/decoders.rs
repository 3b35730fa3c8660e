//! Every decoder of kv's own formats, as a function of any bytes: it returns, and what it read is written as it was read.
//!
//! `fuzz/` gives them what libFuzzer comes up with; `tests/corpora.rs` gives them the kept corpora and small changes of them, in every
//! `cargo test`. The etcd API's protobuf is not among them: other tests feed the wire with garbage.

use std::sync::Arc;

use bytes::Bytes;
use kv_codec::chunk::{CHUNK_HEADER_BYTES, ChunkHeader, HEADER_BYTES, SnapshotHeader};
use kv_codec::command::{Batch, BatchBuilder, Body};
use kv_codec::member::Member;
use kv_codec::peer::{FRAME_HEADER_BYTES, FrameHeader, GREETING_BYTES, Greeting, REPLY_BYTES, Reply};
use kv_codec::record::frame::{BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, SegmentHeader, Tag};
use kv_codec::record::{self, Records};
use kv_codec::varint::Reader;
use kv_raft::snapshots::SnapshotReader;
use kv_raft::{Envelope, FileLog, LogIds, LogOptions, LogStore};
use kv_store::{Members, SnapshotLoader, Store};

use crate::disk::SimDisk;

/// A decoder's name, and what to do with any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("batch", batch),
    ("apply", apply),
    ("records", records),
    ("headers", headers),
    ("member", member),
    ("log", log),
    ("snapshot_file", snapshot_file),
    ("snapshot_stream", snapshot_stream),
    ("peer", peer),
    ("message", message),
];

/// Whose log a file is read as.
pub const IDS: LogIds = LogIds { cluster_id: 7, member_id: 8 };
/// The snapshot that a file is read as.
pub const SNAPSHOT: SnapshotHeader = SnapshotHeader { index: 9, term: 2, cluster_id: 7 };
/// The segment that a file is read as.
pub const SEGMENT: &str = "log/0000000000000001.log";
/// The file that it is read as.
pub const SNAPSHOT_FILE: &str = "snap/0000000000000009-0000000000000002.snap";

/// A batch of commands, and each body.
pub fn batch(bytes: &[u8]) {
    let Ok(commands) = Batch::decode(bytes) else { return };
    let mut again = BatchBuilder::default();
    for command in commands {
        let Ok(command) = command else { return };
        let Ok(body) = Body::decode(command.body) else { return };
        let encoded = body.encode(&command.header);
        again.push(&encoded);
    }
    if !again.is_empty() {
        let again = again.finish();
        let read = |bytes| {
            Batch::decode(bytes).expect("it was just written").map(|command| {
                let command = command.expect("it was just written");
                (command.header, Body::decode(command.body).expect("it was just written"))
            })
        };
        assert!(read(bytes).eq(read(&again)), "a batch is not written as it was read");
    }
}

/// The same, done to a store.
pub fn apply(bytes: &[u8]) {
    let mut store = Store::genesis(Members::default());
    for index in 2..4 {
        if store.apply(index, 1, bytes, &mut Vec::new()).is_err() {
            return;
        }
    }
    while store.purge(64) {}
}

/// The records of a batch of the log.
pub fn records(bytes: &[u8]) {
    for record in Records::new(Bytes::copy_from_slice(bytes)) {
        let Ok(record) = record else { return };
        let mut again = Vec::new();
        record::encode(&record, &mut again);
        assert_eq!(Records::new(again.into()).next(), Some(Ok(record)));
    }
}

/// Headers of segments, batches, snapshots and chunks.
pub fn headers(bytes: &[u8]) {
    if let Some(sector) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>()
        && let Ok(header) = SegmentHeader::decode(sector)
    {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
    if let Some((tag, rest)) = bytes.split_first_chunk::<{ size_of::<Tag>() }>()
        && let Some(header) = rest.first_chunk::<BATCH_HEADER_BYTES>()
        && let Ok(header) = BatchHeader::decode(header, tag)
    {
        assert_eq!(BatchHeader::decode(&header.encode(tag), tag), Ok(header));
    }
    if let Some(header) = bytes.first_chunk::<HEADER_BYTES>()
        && let Ok(header) = SnapshotHeader::decode(header)
    {
        assert_eq!(SnapshotHeader::decode(&header.encode()), Ok(header));
    }
    if let Some(header) = bytes.first_chunk::<CHUNK_HEADER_BYTES>() {
        // Whether it is one is for its payload's checksum to say.
        let _ = ChunkHeader::decode(header);
    }
}

/// A member.
pub fn member(bytes: &[u8]) {
    if let Ok(member) = Member::decode(&mut Reader::new(bytes)) {
        let mut again = Vec::new();
        member.encode(&mut again);
        assert_eq!(Member::decode(&mut Reader::new(&again)), Ok(member));
    }
}

/// A disk with one file, durable.
fn disk(dir: &str, path: &str, bytes: &[u8]) -> SimDisk {
    use kv_raft::Disk;
    let disk = SimDisk::new(1);
    disk.make_dir(dir).expect("the disk is empty");
    disk.damage(path, |content| content.extend_from_slice(bytes));
    disk
}

/// A log of one segment.
pub fn log(bytes: &[u8]) {
    let disk = Arc::new(disk("log", SEGMENT, bytes));
    let options = LogOptions { segment_bytes_first: 4096, segment_bytes_max: 8192, ..LogOptions::new(IDS) };
    let Ok((mut log, found)) = FileLog::open(Arc::clone(&disk), options.clone()) else { return };
    let mut entries = Vec::new();
    let base = found.snapshot.map_or(0, |mark| mark.index);
    let replayed = log.replay(base, &mut |entry| {
        entries.push(entry);
        Ok(())
    });
    // What a start took, the next one takes as well.
    let (_, again) = FileLog::open(Arc::new(disk.crash()), options).expect("it was just opened");
    assert_eq!(
        (again.last_index, again.hard_state, again.snapshot),
        (found.last_index, found.hard_state, found.snapshot)
    );
    assert!(replayed.is_err() || entries.len() as u64 == found.entries);
}

/// A snapshot file.
pub fn snapshot_file(bytes: &[u8]) {
    let disk = disk("snap", SNAPSHOT_FILE, bytes);
    let Ok(mut reader) = SnapshotReader::open(&disk, SNAPSHOT) else { return };
    while let Ok(Some(_)) = reader.next_chunk() {}
}

/// The content of one.
pub fn snapshot_stream(bytes: &[u8]) {
    let mut loader = SnapshotLoader::default();
    if bytes.chunks(64).all(|chunk| loader.push(chunk).is_ok())
        && let Ok(view) = loader.finish()
    {
        let mut again = SnapshotLoader::default();
        for chunk in view.chunks() {
            again.push(&chunk).expect("it was just written");
        }
        let again = again.finish().expect("it was just written");
        assert_eq!(again.state_hash(), view.state_hash());
    }
}

/// What stands around the messages between members: greeting, reply, frame.
pub fn peer(bytes: &[u8]) {
    if let Some(greeting) = bytes.first_chunk::<GREETING_BYTES>()
        && let Ok(read) = Greeting::decode(greeting)
    {
        assert_eq!(read.encode(), *greeting);
    }
    if let Some(reply) = bytes.first_chunk::<REPLY_BYTES>()
        && let Ok(read) = Reply::decode(reply)
    {
        assert_eq!(read.encode(), *reply);
    }
    if let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()
        && let Ok(header) = FrameHeader::decode(*header, bytes.len())
        && let Some(payload) = rest.get(..header.payload_bytes())
        && header.check(payload).is_ok()
    {
        message(payload);
    }
}

/// A message between members, and what it would bring into a log.
pub fn message(bytes: &[u8]) {
    if let Ok(message) = Envelope::decode(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(Envelope::decode(&message.encode().into()).as_ref(), Ok(&message));
        message.body.payloads().for_each(|(_, payload)| batch(&payload));
    }
}
