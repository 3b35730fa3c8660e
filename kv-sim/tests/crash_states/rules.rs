//! What the log does and does not do to its disk.

use kv_codec::record::frame::WORD_BYTES;
use kv_raft::{FileLog, LogError, LogIds, LogOptions, LogStore};
use kv_sim::disk::{Op, SimDisk};
use std::sync::Arc;

use super::damage::{refused_or_harmless, small_log};
use super::runs::retire;
use super::{Model, SEED, entry, hard_state, mark, observe, open, segments};

#[test]
fn nothing_is_written_after_an_error() {
    let disk = SimDisk::new(SEED);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&[entry(1, 1, 10)]).unwrap();
    // The write, then the sync.
    disk.fail_at(disk.calls() + 1);
    assert!(matches!(log.append(&[entry(2, 1, 10)]), Err(LogError::Io { op: "sync", .. })));
    let calls = disk.calls();
    assert!(matches!(log.append(&[entry(3, 1, 10)]), Err(LogError::Failed)));
    assert!(matches!(log.mark_durable(), Err(LogError::Failed)));
    assert!(matches!(log.release(0), Err(LogError::Failed)));
    assert_eq!(disk.calls(), calls);
}

#[test]
fn a_steady_append_is_one_write_and_one_sync() {
    let disk = SimDisk::new(SEED);
    let (mut log, _) = open(&disk).unwrap();
    disk.record();
    log.append(&[entry(1, 1, 10), hard_state(1, 0)]).unwrap();
    assert!(matches!(&disk.recorded()[..], [Op::Write { .. }, Op::Sync(_)]));
    log.mark_durable().unwrap();
    log.mark_durable().unwrap();
    log.append(&[]).unwrap();
    assert!(matches!(&disk.recorded()[2..], [Op::Write { .. }]));
}

#[test]
fn a_full_disk_stops_neither_the_log_nor_a_start() {
    let disk = SimDisk::new(SEED);
    let (mut log, _) = open(&disk).unwrap();
    let mut model = Model::default();
    let mut next = 1;
    let mut append = |log: &mut FileLog<SimDisk>, model: &mut Model| {
        let records = [entry(next, 1, 500)];
        log.append(&records)?;
        model.append(&records);
        next += 1;
        Ok::<_, LogError>(())
    };
    append(&mut log, &mut model).unwrap();
    disk.set_space(Some(4096));
    let error = loop {
        if let Err(error) = append(&mut log, &mut model) {
            break error;
        }
    };
    assert!(matches!(error, LogError::Full { bytes: 8192, .. }), "{error}");
    assert!(matches!(append(&mut log, &mut model), Err(LogError::Full { .. })));
    let spec = log.spare_wanted().unwrap();
    assert!(matches!(spec.prepare(&disk), Err(LogError::Full { .. })));
    disk.set_space(None);
    append(&mut log, &mut model).unwrap();
    // A spare that is left over makes room for a start.
    for _ in 0..10 {
        append(&mut log, &mut model).unwrap();
    }
    let spare = log.spare_wanted().unwrap().prepare(&disk).unwrap();
    log.add_spare(spare);
    disk.set_space(Some(0));
    let (mut log, recovered) = open(&disk.crash()).unwrap();
    assert_eq!(observe(&mut log, &recovered), model);
}

#[test]
fn a_write_may_stop_at_any_word() {
    let disk = SimDisk::new(SEED);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&[entry(1, 1, 400)]).unwrap();
    let before = disk.fork();
    disk.record();
    log.append(&[entry(2, 1, 1000)]).unwrap();
    let Op::Write { file, offset, bytes } = disk.recorded().remove(0) else { panic!("a write comes first") };
    // Where it comes into a page first, the tag follows.
    let batch = &bytes[..1056];
    for cut in (0..=batch.len()).step_by(WORD_BYTES) {
        // The first bytes, then the last ones.
        for (offset, bytes) in [(offset, &batch[..cut]), (offset + cut, &batch[cut..])] {
            let torn = before.fork();
            torn.apply(&Op::Write { file, offset, bytes: bytes.to_vec() });
            let (_, recovered) = open(&torn.crash()).unwrap_or_else(|error| panic!("{cut}: {error}"));
            let whole = bytes.len() == batch.len();
            assert_eq!(recovered.last_index, if whole { 2 } else { 1 }, "{cut}");
            assert_eq!(recovered.cut.is_some(), !whole && !bytes.is_empty(), "{cut}: {recovered:?}");
        }
    }
}

#[test]
fn missing_and_foreign_segments_are_refused_and_junk_is_not() {
    use kv_raft::Disk;
    let (disk, model) = small_log(false);
    let paths = segments(&disk);
    for junk in ["log/junk", "log/0000000000000009.log.bak", "log/000000000000000A.log", "log/0000000000000009.tmp"] {
        disk.damage(junk, |content| content.extend_from_slice(b"junk"));
    }
    let cut_short = disk.fork();
    cut_short.damage(&paths[1], |content| content.truncate(4096));
    assert!(refused_or_harmless(&cut_short, &model, "a shorter file"));
    let missing = disk.fork();
    missing.remove(&paths[0]).unwrap();
    let error = open(&missing).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt { path, .. } if *path == paths[1]), "{error}");
    let renamed = disk.fork();
    renamed.rename(&paths[0], "log/0000000000000005.log").unwrap();
    assert!(matches!(open(&renamed), Err(LogError::Corrupt { .. })));
    let ids = LogIds { cluster_id: 7, member_id: 9 };
    let error = FileLog::open(Arc::new(disk.fork()), LogOptions::new(ids)).unwrap_err();
    assert!(error.to_string().contains("member 8 of cluster 7, this is member 9"), "{error}");
    let (mut log, recovered) = open(&disk).unwrap();
    assert_eq!(observe(&mut log, &recovered), model);
    assert!(!disk.exists("log/0000000000000009.tmp").unwrap() && disk.exists("log/junk").unwrap());
}

#[test]
fn restarts_do_not_pile_up_segments() {
    let (mut disk, model) = small_log(false);
    for _ in 0..20 {
        disk = disk.crash();
        let (mut log, recovered) = open(&disk).unwrap();
        assert_eq!(observe(&mut log, &recovered), model);
        assert!(log.stats().segments <= 3, "{:?}", log.stats());
    }
}

#[test]
fn a_release_retires_every_segment_that_a_snapshot_stands_for() {
    // A snapshot of one's own, one received above the last entry, one received below it; a restart before the release or not.
    for (at, installed) in [(9, false), (30, true), (5, true)] {
        for restart in [false, true] {
            let disk = SimDisk::new(SEED);
            let (mut log, _) = open(&disk).unwrap();
            for index in 1..=9 {
                log.append(&[entry(index, 1, 3000)]).unwrap();
            }
            assert!(log.stats().segments >= 4, "{:?}", log.stats());
            log.append(&[mark(at, 1, installed)]).unwrap();
            if restart {
                drop(log);
                log = open(&disk).unwrap().0;
            }
            log.release(at).unwrap();
            retire(&mut log, &disk).unwrap();
            let stats = log.stats();
            assert!(stats.segments <= 1 + u64::from(restart && !installed), "{at}, {installed}, {restart}: {stats:?}");
            assert_eq!(segments(&disk).len() as u64, stats.segments);
            let (mut log, recovered) = open(&disk.crash()).unwrap();
            assert_eq!((recovered.last_index, observe(&mut log, &recovered).entries.len()), (at, 0));
        }
    }
}
