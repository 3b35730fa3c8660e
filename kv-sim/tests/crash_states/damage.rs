//! Damage at rest: refused with a name and an offset, or harmless.

use std::sync::Arc;

use bytes::Bytes;
use kv_codec::record::frame::{BATCH_HEADER_BYTES, BatchHeader};
use kv_raft::{EntryKind, FileLog, LogEntry, LogError, LogOptions, LogStore, Record};
use kv_sim::disk::{SECTOR_BYTES, SimDisk};

use super::{Model, SEED, entry, hard_state, observe, open, options, segments, wanted};

/// A log of two segments and its content. The last batch is followed by a statement that it is durable when `marked`.
pub(crate) fn small_log(marked: bool) -> (SimDisk, Model) {
    let disk = SimDisk::new(SEED);
    let (mut log, _) = open(&disk).unwrap();
    let mut model = Model::default();
    let mut append = |records: &[Record]| {
        log.append(records).unwrap();
        model.append(records);
        if marked {
            log.mark_durable().unwrap();
        }
    };
    append(&[hard_state(1, 0), entry(1, 1, 600)]);
    for index in 2..=10 {
        append(&[entry(index, 1, 300)]);
    }
    append(&[entry(9, 2, 400), hard_state(2, 7)]);
    append(&[entry(10, 2, 700)]);
    append(&[entry(11, 2, 1000)]);
    (disk.crash(), model)
}

/// Damage is refused with a name and an offset, or changes nothing. Returns whether it was refused.
pub(crate) fn refused_or_harmless(disk: &SimDisk, model: &Model, what: &str) -> bool {
    refused_or_harmless_with(disk, &options(), model, what)
}

fn refused_or_harmless_with(disk: &SimDisk, options: &LogOptions, model: &Model, what: &str) -> bool {
    match FileLog::open(Arc::new(disk.clone()), options.clone()) {
        Ok((mut log, recovered)) => {
            assert_eq!(&observe(&mut log, &recovered), model, "{what}: a silent change");
            false
        }
        Err(LogError::Corrupt { .. }) => true,
        Err(other) => panic!("{what}: {other}"),
    }
}

/// A log whose one segment of 64 KiB is full to the last batch, and its content.
fn long_log(marked: bool) -> (SimDisk, Model, LogOptions) {
    let options = LogOptions { segment_bytes_first: 64 << 10, segment_bytes_max: 64 << 10, ..options() };
    let disk = SimDisk::new(SEED);
    let (mut log, _) = FileLog::open(Arc::new(disk.clone()), options.clone()).unwrap();
    let mut model = Model::default();
    let mut append = |records: &[Record]| {
        log.append(records).unwrap();
        model.append(records);
    };
    append(&[hard_state(1, 0), entry(1, 1, 600)]);
    for index in 2..=60 {
        append(&[entry(index, 1, 900), hard_state(1, index - 1)]);
        append(&[hard_state(1, index)]);
    }
    append(&[entry(60, 2, 400), hard_state(2, 59)]);
    if marked {
        log.mark_durable().unwrap();
    }
    (disk.crash(), model, options)
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    // A prime stride meets every bit of some byte of each sector.
    let stride = if wanted("KV_EVERY_BIT") { 1 } else { 61 };
    for marked in [false, true] {
        let (disk, model, options) = long_log(marked);
        let (mut refused, mut harmless) = (0, 0);
        for path in segments(&disk) {
            for bit in (0..disk.content(&path).unwrap().len() * 8).step_by(stride) {
                let damaged = disk.fork();
                damaged.damage(&path, |content| content[bit / 8] ^= 1 << (bit % 8));
                if refused_or_harmless_with(&damaged, &options, &model, &format!("bit {bit} of {path}")) {
                    refused += 1;
                } else {
                    harmless += 1;
                }
            }
        }
        println!("marked {marked}: {} bits, {refused} refused, {harmless} harmless", refused + harmless);
        assert!(refused * stride > 60_000 * 8, "only {refused} were refused");
    }
}

#[test]
fn a_sector_of_zeroes_or_of_another_place_is_refused_or_harmless() {
    let (disk, model) = small_log(true);
    let paths = segments(&disk);
    let sectors = |path: &String| disk.content(path).unwrap().len() / SECTOR_BYTES;
    let places = paths.iter().flat_map(|path| (0..sectors(path)).map(move |sector| (path, sector * SECTOR_BYTES)));
    let places: Vec<_> = places.collect();
    let mut refused = 0;
    for (path, at) in &places {
        let damaged = disk.fork();
        damaged.damage(path, |content| content[*at..at + SECTOR_BYTES].fill(0));
        refused += usize::from(refused_or_harmless(&damaged, &model, &format!("zeroes at {at} of {path}")));
        for (from_path, from) in &places {
            let sector = disk.content(from_path).unwrap()[*from..from + SECTOR_BYTES].to_vec();
            // What was never written in place of what was last written is what a torn write leaves.
            if sector.windows(32).step_by(32).any(|unit| unit[..16] == unit[16..]) {
                continue;
            }
            let damaged = disk.fork();
            damaged.damage(path, |content| content[*at..at + SECTOR_BYTES].copy_from_slice(&sector));
            let what = format!("{from} of {from_path} at {at} of {path}");
            refused += usize::from(refused_or_harmless(&damaged, &model, &what));
        }
    }
    assert!(refused > 100, "only {refused} were refused");
}

/// The header of a statement is right, and there is no payload to look at, but the chain is another one.
#[test]
fn a_statement_with_another_chain_is_refused() {
    let (disk, _) = small_log(true);
    let path = segments(&disk).pop().unwrap();
    let mut changed = 0;
    disk.damage(&path, |content| {
        let tag: [u8; 16] = content[16..32].try_into().unwrap();
        for place in content[SECTOR_BYTES..].as_chunks_mut::<BATCH_HEADER_BYTES>().0 {
            if let Ok(header) = BatchHeader::decode(place, &tag)
                && header.payload_bytes == 0
            {
                *place = BatchHeader { chain: !header.chain, ..header }.encode(&tag);
                changed += 1;
            }
        }
    });
    assert!(changed > 0);
    assert!(matches!(open(&disk), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_lost_write_below_the_watermark_is_refused() {
    let (disk, model) = small_log(true);
    let paths = segments(&disk);
    let last = paths.last().unwrap();
    let content = disk.content(last).unwrap();
    let tag: [u8; 16] = content[16..32].try_into().unwrap();
    let used = content.chunks(16).rposition(|unit| unit != tag).unwrap() * 16 / SECTOR_BYTES;
    // All sectors but the very last one, which holds the last statement.
    for sector in 1..used {
        let damaged = disk.fork();
        let at = sector * SECTOR_BYTES;
        damaged.damage(last, |content| content[at..at + SECTOR_BYTES].copy_from_slice(&tag.repeat(SECTOR_BYTES / 16)));
        assert!(refused_or_harmless(&damaged, &model, &format!("sector {sector}")), "sector {sector}");
    }
}

/// What a segment was born with needs no statement: what an open copied, and the batch that did not fit before.
#[test]
fn a_lost_write_of_what_a_segment_was_born_with_is_refused() {
    let reopened = |(disk, _): (SimDisk, Model)| {
        drop(open(&disk).unwrap());
        disk.crash()
    };
    let rotated = || {
        let disk = SimDisk::new(SEED);
        let (mut log, _) = open(&disk).unwrap();
        log.append(&[entry(1, 1, 2000)]).unwrap();
        log.append(&[entry(2, 1, 5000)]).unwrap();
        disk.crash()
    };
    for (disk, sectors) in [(reopened(small_log(false)), 2), (rotated(), 9)] {
        let last = segments(&disk).pop().unwrap();
        let content = disk.content(&last).unwrap();
        let tag = &content[16..32];
        let used = content.chunks(16).rposition(|unit| unit != tag).unwrap() * 16 / SECTOR_BYTES;
        assert!(used >= sectors, "{used} sectors");
        for sector in 1..=used {
            let damaged = disk.fork();
            let at = sector * SECTOR_BYTES;
            let blank = tag.repeat((content.len() - at) / 16);
            damaged.damage(&last, |content| content[at..].copy_from_slice(&blank));
            let error = open(&damaged).expect_err("what was synced is gone");
            assert!(matches!(error, LogError::Corrupt { .. }), "sector {sector}: {error}");
        }
    }
}

/// A segment of a history that went another way has fitting numbers, but another chain.
#[test]
fn a_segment_of_another_history_is_refused() {
    let history = |payload: &'static [u8]| {
        let disk = SimDisk::new(SEED);
        let (mut log, _) = open(&disk).unwrap();
        let payload = Bytes::from_static(payload);
        log.append(&[Record::Entry(LogEntry { index: 1, term: 1, kind: EntryKind::Normal, payload })]).unwrap();
        log.append(&[entry(2, 1, 2900)]).unwrap();
        log.append(&[entry(3, 1, 4000)]).unwrap();
        disk.crash()
    };
    let (one, other) = (history(b"one"), history(b"two"));
    let path = segments(&one).remove(0);
    let foreign = other.content(&path).unwrap();
    one.damage(&path, |content| *content = foreign);
    let error = open(&one).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt { path, .. } if *path == segments(&one)[1]), "{error}");
}
