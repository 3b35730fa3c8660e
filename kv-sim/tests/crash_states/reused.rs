//! Segments that are used again: damage, torn writes, earlier runs.

use kv_codec::record::frame::{PAGE_BYTES, WORD_BYTES};
use kv_raft::{FileLog, LogError, LogStore, Record};
use kv_sim::disk::{Op, SECTOR_BYTES, SimDisk};

use super::damage::refused_or_harmless;
use super::runs::{retire, zeroes};
use super::{Model, SEED, entry, mark, names, observe, open, segments, wanted};

/// A log whose last segment was another one before, and has room left; what it holds, and what that segment held. Both lives have
/// zeroes in the same places.
struct Reused {
    disk: SimDisk,
    log: FileLog<SimDisk>,
    model: Model,
    path: String,
    old: Vec<u8>,
}

/// The last batches are followed by statements that they are durable when `marked`.
fn reused(marked: bool) -> Reused {
    let disk = SimDisk::new(SEED);
    let (mut log, _) = open(&disk).unwrap();
    let mut model = Model::default();
    let append = |log: &mut FileLog<SimDisk>, model: &mut Model, record: Record| {
        let records = [record];
        log.append(&records).unwrap();
        model.append(&records);
        if marked {
            log.mark_durable().unwrap();
        }
    };
    for index in 1..=8 {
        append(&mut log, &mut model, zeroes(index, 2000));
    }
    append(&mut log, &mut model, mark(7, 1, false));
    log.release(7).unwrap();
    retire(&mut log, &disk).unwrap();
    let mut unused = Vec::new();
    for index in 9.. {
        append(&mut log, &mut model, zeroes(index, 1000));
        if log.stats().segments_reused > 0 {
            break;
        }
        unused = names(&disk, ".tmp").into_iter().map(|path| (disk.content(&path).unwrap(), path)).collect();
    }
    let used = unused.into_iter().find(|(_, path)| disk.content(path).is_none());
    let next = model.last() + 1;
    append(&mut log, &mut model, zeroes(next, 1500));
    append(&mut log, &mut model, entry(next + 1, 1, 300));
    append(&mut log, &mut model, zeroes(next + 2, 1100));
    let path = segments(&disk).pop().unwrap();
    Reused { disk, log, model, path, old: used.unwrap().0 }
}

impl Reused {
    /// Fingerprints stand between the header and here.
    const BATCHES_AT: usize = 1024;

    /// The sectors that hold batches. Behind them there is the tag up to the end of the page.
    fn written(&self) -> std::ops::Range<usize> {
        let content = self.disk.content(&self.path).unwrap();
        let sectors = |bytes: &[u8]| bytes.chunks(SECTOR_BYTES).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (new, old) = (sectors(&content), sectors(&self.old));
        let tag = content[16..32].repeat(SECTOR_BYTES / 16);
        let end = 1 + (0..new.len()).rfind(|at| new[*at] != old[*at] && new[*at] != tag).unwrap();
        let page_end = end.next_multiple_of(PAGE_BYTES / SECTOR_BYTES);
        assert!(new[end..page_end].iter().all(|sector| *sector == tag) && new[page_end..] == old[page_end..]);
        Self::BATCHES_AT / SECTOR_BYTES..end
    }
}

#[test]
fn a_flipped_bit_in_a_segment_that_is_used_again_is_refused_or_harmless() {
    let stride = if wanted("KV_EVERY_BIT") { 1 } else { 7 };
    for marked in [false, true] {
        let Reused { disk, log, model, path, .. } = reused(marked);
        drop(log);
        let disk = disk.crash();
        let written = reused(marked).written();
        for bit in (0..disk.content(&path).unwrap().len() * 8).step_by(stride) {
            let damaged = disk.fork();
            damaged.damage(&path, |content| content[bit / 8] ^= 1 << (bit % 8));
            let refused = refused_or_harmless(&damaged, &model, &format!("bit {bit} of {path}"));
            // Of header and fingerprints, every bit counts; behind them, those of batches.
            let counts = bit / 8 < Reused::BATCHES_AT || bit / 8 / SECTOR_BYTES < written.end - 1;
            assert!(refused || !counts, "bit {bit} of {path}");
        }
    }
}

/// Each sector of a batch arrives or does not.
#[test]
fn a_torn_write_over_old_content_is_cut_and_nothing_else() {
    let Reused { disk, mut log, model, .. } = reused(false);
    let before = disk.fork();
    disk.record();
    let next = model.last() + 1;
    log.append(&[zeroes(next, 1800)]).unwrap();
    let Op::Write { file, offset, bytes } = disk.recorded().remove(0) else { panic!("a write comes first") };
    let mut parts = vec![];
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES);
        parts.push((offset + at, bytes[at..end].to_vec()));
        at = end;
    }
    assert_eq!(parts.len(), 4);
    for arrived in 0..1 << parts.len() {
        let torn = before.fork();
        for (_, (offset, bytes)) in parts.iter().enumerate().filter(|(part, _)| arrived >> part & 1 == 1) {
            torn.apply(&Op::Write { file, offset: *offset, bytes: bytes.clone() });
        }
        let (_, recovered) = open(&torn.crash()).unwrap_or_else(|error| panic!("{arrived:b}: {error}"));
        let whole = arrived + 1 == 1 << parts.len();
        assert_eq!(recovered.last_index, if whole { next } else { model.last() }, "{arrived:b}");
        assert_eq!(recovered.cut.is_some(), !whole && arrived > 0, "{arrived:b}: {recovered:?}");
    }
}

/// A statement waits for no sync: the kernel may write its page out while the next batch is copied into it. The disk has some words of
/// the page from before, the others from after.
#[test]
fn a_page_that_is_written_out_during_an_append_is_cut_at_any_word() {
    let Reused { disk, mut log, model, .. } = reused(false);
    log.mark_durable().unwrap();
    let before = disk.fork();
    disk.record();
    let next = model.last() + 1;
    log.append(&[zeroes(next, 900)]).unwrap();
    let Op::Write { file, offset, bytes } = disk.recorded().remove(0) else { panic!("a write comes first") };
    assert!(offset / PAGE_BYTES == (offset + bytes.len()) / PAGE_BYTES, "it stays within the statement's page");
    for cut in (0..=bytes.len()).step_by(WORD_BYTES) {
        for (offset, part) in [(offset, &bytes[..cut]), (offset + cut, &bytes[cut..])] {
            let torn = before.fork();
            torn.apply(&Op::Write { file, offset, bytes: part.to_vec() });
            let (_, recovered) = open(&torn.crash()).unwrap_or_else(|error| panic!("{cut}: {error}"));
            let whole = part.len() == bytes.len();
            assert_eq!(recovered.last_index, if whole { next } else { model.last() }, "{cut}");
            assert_eq!(recovered.cut.is_some(), !whole && !part.is_empty(), "{cut}: {recovered:?}");
        }
    }
}

/// A synced batch is damaged in one sector. The others hold what they held in the segment's former life, and were written all the
/// same: that is no torn write.
#[test]
fn what_was_written_again_is_not_taken_for_old_content() {
    let subject = reused(false);
    let last = subject.written().end - 1;
    let places = [0, 200, 511].into_iter().flat_map(|byte| [(last - 2, byte), (last - 1, byte)]);
    // Behind the last batch there is the tag.
    for (sector, byte) in places.chain([(last, 0)]) {
        let damaged = subject.disk.fork();
        damaged.damage(&subject.path, |content| content[sector * SECTOR_BYTES + byte] ^= 1);
        let what = format!("byte {byte} of sector {sector}");
        assert!(refused_or_harmless(&damaged.crash(), &subject.model, &what), "{what}");
    }
}

#[test]
fn a_write_below_the_watermark_that_old_content_replaced_is_refused() {
    let subject = reused(true);
    let written = subject.written();
    // All sectors but the very last one, which holds the last statement.
    for sector in written.start..written.end - 1 {
        let damaged = subject.disk.fork();
        let at = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        damaged.damage(&subject.path, |content| content[at.clone()].copy_from_slice(&subject.old[at]));
        assert!(refused_or_harmless(&damaged.crash(), &subject.model, &format!("sector {sector}")), "sector {sector}");
    }
}

/// After a failed sync the page cache holds what the disk does not, and no later sync helps: fingerprints of that would be of
/// something else than a power loss leaves.
#[test]
fn a_segment_of_an_earlier_run_is_not_used_again() {
    let disk = SimDisk::new(SEED);
    let (mut log, _) = open(&disk).unwrap();
    for index in 1..=4 {
        log.append(&[entry(index, 1, 2900)]).unwrap();
    }
    disk.fail_at(disk.calls() + 1);
    assert!(matches!(log.append(&[entry(5, 1, 1500)]), Err(LogError::Io { op: "sync", .. })));
    let disk = disk.crash();
    let (mut log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last_index, 5);
    let mut model = observe(&mut log, &recovered);
    for index in 6..=40 {
        for records in [vec![entry(index, 1, 1300)], vec![mark(index - 1, 1, false)]] {
            log.append(&records).unwrap();
            model.append(&records);
        }
        log.release(index - 1).unwrap();
        retire(&mut log, &disk).unwrap();
        let (mut log, recovered) = open(&disk.fork().power_loss(|| false)).unwrap();
        assert_eq!((observe(&mut log, &recovered), recovered.cut), (model.clone(), None), "entry {index}");
    }
    assert!(log.stats().segments_reused > 0);
}

#[test]
fn retired_segments_are_given_up_for_something_else() {
    let Reused { disk, mut log, .. } = reused(false);
    let kept = names(&disk, ".tmp").len();
    assert!(kept > 0);
    log.give_up_retired();
    retire(&mut log, &disk).unwrap();
    assert_eq!(names(&disk, ".tmp"), [] as [&str; 0]);
}

#[test]
fn retired_segments_make_room_for_a_batch_that_is_too_long_for_them() {
    let Reused { disk, mut log, model, .. } = reused(false);
    disk.set_space(Some(0));
    let records = [entry(model.last() + 1, 1, 9000)];
    assert!(matches!(log.append(&records), Err(LogError::Full { .. })));
    retire(&mut log, &disk).unwrap();
    assert_eq!(names(&disk, ".tmp"), [] as [&str; 0]);
    disk.set_space(None);
    log.append(&records).unwrap();
}
