//! Snapshot files: whole or not there, and any damage refused.

use fastrand::Rng;
use kv_codec::chunk::StreamEnd;
use kv_raft::snapshots::{self, SnapshotError, SnapshotHeader, SnapshotReader, SnapshotWriter};
use kv_sim::disk::SimDisk;

use super::{SEED, wanted};

/// Torn images per operation.
const TORN_IMAGES: u64 = 16;

const HEADER: SnapshotHeader = header(9, 2);

pub(crate) const fn header(index: u64, term: u64) -> SnapshotHeader {
    SnapshotHeader { index, term, cluster_id: 7 }
}

pub(crate) fn write_snapshot(disk: &SimDisk, header: SnapshotHeader) -> Result<u64, SnapshotError> {
    let mut writer = SnapshotWriter::create(disk, header)?;
    for part in 0..5u8 {
        writer.write(&vec![part; 700])?;
    }
    writer.finish()
}

pub(crate) fn read_snapshot(disk: &SimDisk, header: SnapshotHeader) -> Result<Vec<u8>, SnapshotError> {
    let mut reader = SnapshotReader::open(disk, header)?;
    let mut out = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}

pub(crate) fn snapshot_content() -> Vec<u8> {
    (0..5u8).flat_map(|part| vec![part; 700]).collect()
}

#[test]
fn a_snapshot_is_there_as_a_whole_or_not_at_all() {
    let older = SnapshotHeader { index: 4, ..HEADER };
    let recorder = SimDisk::new(SEED);
    write_snapshot(&recorder, older).unwrap();
    let disk = recorder.fork();
    recorder.record();
    write_snapshot(&recorder, HEADER).unwrap();
    let ops = recorder.recorded();
    let mut rng = Rng::with_seed(SEED);
    for (i, op) in ops.iter().enumerate() {
        disk.apply(op);
        for image in 0..TORN_IMAGES + 3 {
            let left = match image {
                0 => disk.fork().crash(),
                1 => disk.fork().power_loss(|| true),
                2 => disk.fork().power_loss(|| false),
                _ => disk.fork().power_loss(|| rng.bool()),
            };
            let what = format!("seed {SEED}, operation {i}, image {image}");
            snapshots::clean_tmp(&left).unwrap();
            let found = snapshots::list(&left).unwrap();
            assert!(found.contains(&(4, 2)), "{what}");
            assert_eq!(read_snapshot(&left, older).unwrap(), snapshot_content(), "{what}");
            if found.contains(&(9, 2)) {
                assert_eq!(read_snapshot(&left, HEADER).unwrap(), snapshot_content(), "{what}");
            } else {
                assert!(i + 1 < ops.len(), "{what}: a finished snapshot is gone");
            }
            // It can be written again over whatever is left.
            write_snapshot(&left, HEADER).unwrap();
            let kept = left.power_loss(|| false);
            assert_eq!(read_snapshot(&kept, HEADER).unwrap(), snapshot_content(), "{what}");
            snapshots::prune(&kept, &[(9, 2)]).unwrap();
            assert_eq!(snapshots::list(&kept).unwrap(), [(9, 2)], "{what}");
        }
    }
}

#[test]
fn a_flipped_bit_or_another_length_of_a_snapshot_is_refused() {
    let disk = SimDisk::new(SEED);
    let len = write_snapshot(&disk, HEADER).unwrap();
    let path = "snap/0000000000000009-0000000000000002.snap";
    let content = disk.content(path).unwrap();
    assert_eq!(content.len() as u64, len);
    let refused = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let damaged = disk.fork();
        damaged.damage(path, change);
        let error = read_snapshot(&damaged, HEADER).expect_err(what);
        assert!(matches!(error, SnapshotError::Corrupt { .. }), "{what}: {error}");
    };
    let stride = if wanted("KV_EVERY_BIT") { 1 } else { 7 };
    for bit in (0..content.len() * 8).step_by(stride) {
        refused(&format!("bit {bit}"), &|content| content[bit / 8] ^= 1 << (bit % 8));
    }
    for bytes in 0..content.len() {
        refused(&format!("{bytes} bytes"), &|content| content.truncate(bytes));
    }
    refused("one byte more", &|content| content.push(0));
    // Whole chunks in the right number and length, of another content: only the digest knows.
    let (seed, payload) = (HEADER.seed(), b"payload");
    let mut forged = HEADER.encode().to_vec();
    forged.extend_from_slice(&seed.chunk_header(0, payload));
    forged.extend_from_slice(payload);
    forged.extend_from_slice(&seed.end_frame(&StreamEnd { payload_bytes: 7, chunks: 1, digest: [1; 16] }));
    refused("another digest", &|content| content.clone_from(&forged));
    let other = SnapshotHeader { cluster_id: 6, ..HEADER };
    assert!(matches!(read_snapshot(&disk, other), Err(SnapshotError::Foreign { found: 7, expected: 6, .. })));
}
