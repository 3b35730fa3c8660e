//! Logs that were written in the first version of the segment format.

use kv_codec::record::frame::{BatchHeader, SEGMENT_HEADER_BYTES, SEGMENT_VERSION_PLAIN, SegmentHeader};
use kv_raft::LogStore;
use kv_sim::disk::{SECTOR_BYTES, SimDisk};

use super::damage::{refused_or_harmless, small_log};
use super::{Model, entry, observe, open, segments, wanted};

/// A log as the first version wrote it, and its content.
fn first_version(marked: bool) -> (SimDisk, Model) {
    let (disk, model) = small_log(marked);
    for path in segments(&disk) {
        disk.damage(&path, |content| {
            let (sector, batches) = content.split_at_mut(SEGMENT_HEADER_BYTES);
            let sector: &mut [u8; SEGMENT_HEADER_BYTES] = sector.try_into().unwrap();
            let header = SegmentHeader::decode(sector).unwrap();
            let mut at = 0;
            while let Some(batch) = batches.get(at..at + 32)
                && let Ok(batch) = BatchHeader::decode(batch.try_into().unwrap(), &header.tag)
            {
                let end = at + usize::try_from(batch.batch_bytes()).unwrap();
                header.unmask(&mut batches[at + 32..end]);
                at = end;
            }
            assert!(at > 0, "no batch in {path}");
            *sector = SegmentHeader { version: SEGMENT_VERSION_PLAIN, ..header }.encode();
        });
    }
    (disk, model)
}

#[test]
fn a_log_of_the_first_version_is_read_and_goes_on() {
    for marked in [false, true] {
        let (disk, mut model) = first_version(marked);
        let first = segments(&disk).len();
        let (mut log, recovered) = open(&disk).unwrap();
        assert_eq!((observe(&mut log, &recovered), recovered.cut), (model.clone(), None));
        let records = [entry(model.last() + 1, 2, 3000)];
        log.append(&records).unwrap();
        model.append(&records);
        let disk = disk.power_loss(|| false);
        let mut versions = segments(&disk).into_iter().map(|path| disk.content(&path).unwrap()[8]);
        // Nothing is added to an old segment.
        assert!(versions.clone().take(first - 1).all(|version| version == 1) && versions.next_back() == Some(2));
        let (mut log, recovered) = open(&disk).unwrap();
        assert_eq!(observe(&mut log, &recovered), model);
    }
}

#[test]
fn damage_to_a_log_of_the_first_version_is_refused_or_harmless() {
    let stride = if wanted("KV_EVERY_BIT") { 1 } else { 61 };
    let (disk, model) = first_version(true);
    let mut refused = 0;
    for path in segments(&disk) {
        for bit in (0..disk.content(&path).unwrap().len() * 8).step_by(stride) {
            let damaged = disk.fork();
            damaged.damage(&path, |content| content[bit / 8] ^= 1 << (bit % 8));
            refused += usize::from(refused_or_harmless(&damaged, &model, &format!("bit {bit} of {path}")));
        }
    }
    assert!(refused * stride > 4_000 * 8, "only {refused} were refused");
}

#[test]
fn a_torn_write_at_the_end_of_a_log_of_the_first_version_is_cut() {
    let (disk, model) = first_version(false);
    let path = segments(&disk).pop().unwrap();
    let tag = disk.content(&path).unwrap()[16..32].to_vec();
    let used = disk.content(&path).unwrap().chunks(16).rposition(|unit| unit != tag).unwrap() * 16;
    disk.damage(&path, |content| {
        let at = used / SECTOR_BYTES * SECTOR_BYTES - SECTOR_BYTES;
        content[at..at + SECTOR_BYTES].copy_from_slice(&tag.repeat(SECTOR_BYTES / 16));
    });
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.last_index, recovered.cut.is_some()), (model.last() - 1, true), "{recovered:?}");
}
