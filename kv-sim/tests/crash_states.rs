//! Crashes a log, and a snapshot file, at every operation of a few recorded runs, opens what is left in every way it could be
//! left, and compares with what was acknowledged.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use kv_codec::chunk::StreamEnd;
use kv_raft::snapshots::{self, SnapshotError, SnapshotHeader, SnapshotReader, SnapshotWriter};
use kv_raft::{
    EntryKind, FileLog, HardState, LogEntry, LogError, LogIds, LogOptions, LogStore, Record, Recovered, SnapshotMark,
};
use kv_sim::disk::{Op, SECTOR_BYTES, SimDisk};

/// Torn images per crash point, besides the one that kept all and the one that kept nothing.
const TORN_IMAGES: u64 = 16;

const SEED: u64 = 0x6b76;

fn options() -> LogOptions {
    let ids = LogIds { cluster_id: 7, member_id: 8 };
    LogOptions { segment_bytes_first: 4096, segment_bytes_max: 8192, ..LogOptions::new(ids) }
}

fn open(disk: &SimDisk) -> Result<(FileLog<SimDisk>, Recovered), LogError> {
    FileLog::open(Arc::new(disk.clone()), options())
}

fn entry(index: u64, term: u64, bytes: usize) -> Record {
    // Distinct for each (index, term), and no run of one byte.
    let payload: Vec<u8> = (0..bytes as u64).map(|i| (i * 31 + index * 7 + term).to_le_bytes()[0]).collect();
    Record::Entry(LogEntry { index, term, kind: EntryKind::Normal, payload: payload.into() })
}

fn hard_state(term: u64, commit: u64) -> Record {
    Record::HardState(HardState { term, vote: 3, commit })
}

fn mark(index: u64, term: u64, installed: bool) -> Record {
    Record::Snapshot(SnapshotMark { index, term, installed })
}

/// What a log holds, told without any of its code.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Model {
    hard_state: HardState,
    snapshot: Option<SnapshotMark>,
    /// Above the snapshot.
    entries: Vec<(u64, u64, Bytes)>,
}

impl Model {
    fn base(&self) -> u64 {
        self.snapshot.map_or(0, |mark| mark.index)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.base(), |entry| entry.0)
    }

    fn append(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::HardState(state) => self.hard_state = *state,
                Record::Snapshot(mark) => {
                    self.snapshot = Some(*mark);
                    self.entries.retain(|entry| !mark.installed && entry.0 > mark.index);
                }
                Record::Entry(entry) => {
                    self.entries.retain(|old| old.0 < entry.index);
                    self.entries.push((entry.index, entry.term, entry.payload.clone()));
                }
            }
        }
    }
}

/// What the log says it holds, straight after it was opened.
fn observe(log: &mut FileLog<SimDisk>, recovered: &Recovered) -> Model {
    try_observe(log, recovered).unwrap()
}

fn try_observe(log: &mut FileLog<SimDisk>, recovered: &Recovered) -> Result<Model, LogError> {
    let Recovered { hard_state, snapshot, last_index, .. } = *recovered;
    let mut model = Model { hard_state, snapshot, entries: Vec::new() };
    log.replay(model.base(), &mut |entry| {
        model.entries.push((entry.index, entry.term, entry.payload));
        Ok(())
    })?;
    assert_eq!((model.last(), model.entries.len() as u64), (last_index, recovered.entries));
    Ok(model)
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Record>),
    MarkDurable,
    Release(u64),
    Spare,
    /// The process ends, the machine goes on.
    Crash,
}

/// An append of a run: operations recorded when it began and when it returned, and what the log then holds.
struct Acked {
    begun: usize,
    done: usize,
    model: Model,
}

/// The least a step sequence needs: every kind of step, several segments, conflicts, both kinds of snapshot.
fn short_run() -> Vec<Step> {
    use Step::{Append, Crash, MarkDurable, Release, Spare};
    vec![
        Append(vec![hard_state(1, 0), entry(1, 1, 40)]),
        Append(vec![entry(2, 1, 700), entry(3, 1, 10), entry(4, 1, 5)]),
        MarkDurable,
        Append(vec![entry(5, 1, 900), hard_state(2, 2)]),
        // A conflict, and the entries after it are gone.
        Append(vec![entry(3, 2, 300)]),
        Spare,
        Append(vec![entry(4, 2, 1500)]),
        MarkDurable,
        Append(vec![entry(5, 2, 1200), hard_state(2, 4)]),
        MarkDurable,
        // Fits no begun segment: it opens the next one, in place of the statement.
        Append(vec![entry(6, 2, 7000)]),
        Crash,
        Append(vec![entry(6, 2, 20)]),
        MarkDurable,
        Append(vec![mark(5, 2, false)]),
        Release(5),
        Append(vec![entry(7, 2, 3000)]),
        Append(vec![entry(8, 3, 2500), hard_state(3, 6)]),
        MarkDurable,
        Append(vec![mark(7, 2, false)]),
        Release(7),
        Spare,
        Append(vec![entry(9, 3, 64)]),
        // A batch longer than any segment.
        Append(vec![entry(10, 3, 9000)]),
        Append(vec![mark(20, 4, true), hard_state(4, 20)]),
        Release(20),
        Append(vec![entry(21, 4, 31)]),
        Crash,
        Append(vec![entry(22, 4, 33)]),
        MarkDurable,
    ]
}

fn random_run(rng: &mut Rng) -> Vec<Step> {
    let (mut last, mut base, mut term) = (0, 0, 1);
    let mut steps = vec![Step::Append(vec![hard_state(1, 0)])];
    for _ in 0..18 {
        let step = match rng.u32(0..12) {
            0 => Step::MarkDurable,
            1 => Step::Spare,
            2 => Step::Crash,
            3 if last > base => {
                base = rng.u64(base + 1..=last);
                steps.push(Step::Append(vec![mark(base, term, false)]));
                Step::Release(base)
            }
            4 if last > base => {
                term += 1;
                last = rng.u64(base + 1..=last);
                Step::Append(vec![entry(last, term, rng.usize(0..2000))])
            }
            _ => {
                let count = rng.u64(1..4);
                let records = (1..=count).map(|i| entry(last + i, term, rng.usize(0..900))).collect();
                last += count;
                Step::Append(records)
            }
        };
        steps.push(step);
    }
    steps
}

/// Runs until the end or the first error; the operations, and what was acknowledged before each.
fn run(disk: &SimDisk, steps: &[Step]) -> (Vec<Acked>, Option<LogError>) {
    let mut acked = vec![Acked { begun: 0, done: 0, model: Model::default() }];
    let mut disk = disk.clone();
    let result = try_run(&mut disk, steps, &mut acked);
    (acked, result.err())
}

fn try_run(disk: &mut SimDisk, steps: &[Step], acked: &mut Vec<Acked>) -> Result<(), LogError> {
    let (mut log, mut recovered) = open(disk)?;
    for step in steps {
        match step {
            Step::Append(records) => {
                let mut model = acked.last().unwrap().model.clone();
                model.append(records);
                // Before the append, so that what a failing one may have left is known.
                acked.push(Acked { begun: disk.recorded_len(), done: usize::MAX, model });
                log.append(records)?;
                acked.last_mut().unwrap().done = disk.recorded_len();
            }
            Step::MarkDurable => log.mark_durable()?,
            Step::Release(index) => log.release(*index)?,
            Step::Spare => {
                if let Some(spec) = log.spare_wanted() {
                    log.add_spare(spec.prepare(disk)?);
                }
            }
            Step::Crash => {
                let epoch = recovered.epoch;
                *disk = disk.crash();
                (log, recovered) = open(disk)?;
                assert!(recovered.epoch > epoch && recovered.cut.is_none());
                assert_eq!(try_observe(&mut log, &recovered)?, acked.last().unwrap().model);
            }
        }
    }
    Ok(())
}

/// What may be found when the machine stopped after `ops` operations.
fn allowed(acked: &[Acked], ops: usize) -> &[Acked] {
    let first = acked.iter().rposition(|acked| acked.done <= ops).unwrap();
    let last = acked.iter().rposition(|acked| acked.begun <= ops).unwrap();
    &acked[first..=last]
}

/// Opens what a crash left, twice over, and goes on from there.
fn check(image: &SimDisk, allowed: &[Acked], rng: &mut Rng, what: &str) {
    let (mut log, recovered) = open(image).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = observe(&mut log, &recovered);
    assert!(
        allowed.iter().any(|acked| acked.model == found),
        "{what}: found {found:?}, of {:?}",
        allowed.iter().map(|acked| &acked.model).collect::<Vec<_>>()
    );
    // What was shown is durable, although nothing was written since.
    let again = image.fork().power_loss(|| false);
    let (mut log_again, recovered_again) = open(&again).unwrap_or_else(|error| panic!("{what}, then nothing: {error}"));
    assert_eq!(observe(&mut log_again, &recovered_again), found, "{what}: what the first start showed is gone");
    assert_eq!(recovered_again.epoch, recovered.epoch + 1, "{what}");
    // It goes on, and a torn crash right after keeps that.
    let mut model = found;
    let (next, term) = (model.last() + 1, model.hard_state.term + 1);
    for records in [vec![entry(next, term, 600), hard_state(term, 0)], vec![entry(next + 1, term, 10)]] {
        log.append(&records).unwrap();
        model.append(&records);
    }
    if rng.bool() {
        log.mark_durable().unwrap();
    }
    let torn = image.power_loss(|| rng.bool());
    let (mut log, recovered) = open(&torn).unwrap_or_else(|error| panic!("{what}, then more: {error}"));
    assert_eq!(observe(&mut log, &recovered), model, "{what}: what was appended after the first start");
}

/// A crash inside the start after a crash.
fn check_crashes_of_start(image: &SimDisk, allowed: &[Acked], rng: &mut Rng, what: &str) {
    let started = image.fork();
    started.record();
    drop(open(&started).unwrap_or_else(|error| panic!("{what}: {error}")));
    let step = image.fork();
    for (i, op) in started.recorded().iter().enumerate() {
        step.apply(op);
        let what = format!("{what}, then after operation {i} of the start");
        check(&step.fork().crash(), allowed, rng, &what);
        check(&step.fork().power_loss(|| false), allowed, rng, &what);
        check(&step.fork().power_loss(|| rng.bool()), allowed, rng, &what);
    }
}

fn crash_everywhere(name: &str, steps: &[Step], seed: u64, deep_every: u64) {
    println!("{name}: seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let recorder = SimDisk::new(seed);
    recorder.record();
    let (acked, error) = run(&recorder, steps);
    assert!(error.is_none(), "{name}: {error:?}");
    let disk = SimDisk::new(seed ^ 1);
    for (i, op) in recorder.recorded().iter().enumerate() {
        if let Op::Write { file, offset, bytes } = op {
            // The process dies inside the write: its first sectors are in the page cache.
            let sectors = bytes.len().div_ceil(SECTOR_BYTES);
            for cut in (1..sectors.min(6)).map(|n| n * SECTOR_BYTES - offset % SECTOR_BYTES) {
                let part = disk.fork();
                part.apply(&Op::Write { file: *file, offset: *offset, bytes: bytes[..cut].to_vec() });
                let what = format!("{name}, seed {seed}: {cut} bytes into operation {i}");
                check(&part.crash(), allowed(&acked, i), &mut rng, &what);
            }
        }
        disk.apply(op);
        let allowed = allowed(&acked, i + 1);
        let what = format!("{name}, seed {seed}: after operation {i}");
        check(&disk.fork().crash(), allowed, &mut rng, &format!("{what}, the machine goes on"));
        check(&disk.fork().power_loss(|| true), allowed, &mut rng, &format!("{what}, all kept"));
        check(&disk.fork().power_loss(|| false), allowed, &mut rng, &format!("{what}, nothing kept"));
        for image in 0..TORN_IMAGES {
            let part = rng.u32(1..8);
            let torn = disk.fork().power_loss(|| rng.u32(0..8) < part);
            let what = format!("{what}, torn image {image}");
            if rng.u64(0..deep_every) == 0 {
                check_crashes_of_start(&torn, allowed, &mut rng, &what);
            }
            check(&torn, allowed, &mut rng, &what);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_at_any_operation() {
    crash_everywhere("the short run", &short_run(), SEED, 100);
}

#[test]
fn nothing_acknowledged_is_lost_in_random_runs() {
    for seed in SEED..SEED + 3 {
        crash_everywhere("a random run", &random_run(&mut Rng::with_seed(seed)), seed, 200);
    }
}

/// Any call fails once; the process stops; what a restart finds is what was acknowledged, and survives the power as well.
#[test]
fn after_a_disk_error_a_restart_finds_what_was_acknowledged() {
    let mut rng = Rng::with_seed(SEED);
    let mut call = 0;
    loop {
        let disk = SimDisk::new(SEED);
        disk.fail_at(call);
        let (acked, error) = run(&disk, &short_run());
        let Some(error) = error else { break };
        assert!(matches!(error, LogError::Io { .. }), "call {call}: {error}");
        // Operations are not recorded here: the last append is unknown if it did not return.
        let first = acked.iter().rposition(|acked| acked.done == 0).unwrap();
        let what = format!("call {call} failed with {error}");
        check(&disk.fork().crash(), &acked[first..], &mut rng, &what);
        check(&disk.fork().power_loss(|| false), &acked[first..], &mut rng, &format!("{what}, nothing kept"));
        check(&disk.power_loss(|| rng.bool()), &acked[first..], &mut Rng::with_seed(call), &format!("{what}, torn"));
        call += 1;
    }
    assert!(call > 100, "only {call} calls");
}

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

/// A log of two segments and its content. The last batch is followed by a statement that it is durable when `marked`.
fn small_log(marked: bool) -> (SimDisk, Model) {
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

fn segments(disk: &SimDisk) -> Vec<String> {
    use kv_raft::Disk;
    disk.list("log")
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".log"))
        .map(|name| format!("log/{name}"))
        .collect()
}

/// Damage is refused with a name and an offset, or changes nothing. Returns whether it was refused.
fn refused_or_harmless(disk: &SimDisk, model: &Model, what: &str) -> bool {
    match open(disk) {
        Ok((mut log, recovered)) => {
            assert_eq!(&observe(&mut log, &recovered), model, "{what}: a silent change");
            false
        }
        Err(LogError::Corrupt { .. }) => true,
        Err(other) => panic!("{what}: {other}"),
    }
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    // Every bit with KV_EVERY_BIT set; a prime stride otherwise, which meets every bit of some byte of each sector.
    let stride = if std::env::var_os("KV_EVERY_BIT").is_some() { 1 } else { 31 };
    for marked in [false, true] {
        let (disk, model) = small_log(marked);
        let mut refused = 0;
        for path in segments(&disk) {
            for bit in (0..disk.content(&path).unwrap().len() * 8).step_by(stride) {
                let damaged = disk.fork();
                damaged.damage(&path, |content| content[bit / 8] ^= 1 << (bit % 8));
                refused += usize::from(refused_or_harmless(&damaged, &model, &format!("bit {bit} of {path}")));
            }
        }
        assert!(refused * stride > 5_000 * 8, "only {refused} were refused");
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

#[test]
fn a_write_may_stop_at_any_sixteen_bytes() {
    let disk = SimDisk::new(SEED);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&[entry(1, 1, 400)]).unwrap();
    let before = disk.fork();
    disk.record();
    log.append(&[entry(2, 1, 1000)]).unwrap();
    let Op::Write { file, offset, bytes } = disk.recorded().remove(0) else { panic!("a write comes first") };
    for cut in (0..=bytes.len()).step_by(16) {
        // The first bytes, then the last ones.
        for (offset, bytes) in [(offset, &bytes[..cut]), (offset + cut, &bytes[cut..])] {
            let torn = before.fork();
            torn.apply(&Op::Write { file, offset, bytes: bytes.to_vec() });
            let (_, recovered) = open(&torn.crash()).unwrap_or_else(|error| panic!("{cut}: {error}"));
            let whole = bytes.len() == 1056;
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
            let stats = log.stats();
            assert!(stats.segments <= 1 + u64::from(restart && !installed), "{at}, {installed}, {restart}: {stats:?}");
            assert_eq!(segments(&disk).len() as u64, stats.segments);
            let (mut log, recovered) = open(&disk.crash()).unwrap();
            assert_eq!((recovered.last_index, observe(&mut log, &recovered).entries.len()), (at, 0));
        }
    }
}

const HEADER: SnapshotHeader = SnapshotHeader { index: 9, term: 2, cluster_id: 7 };

fn write_snapshot(disk: &SimDisk, header: SnapshotHeader) -> Result<u64, SnapshotError> {
    let mut writer = SnapshotWriter::create(disk, header)?;
    for part in 0..5u8 {
        writer.write(&vec![part; 700])?;
    }
    writer.finish()
}

fn read_snapshot(disk: &SimDisk, header: SnapshotHeader) -> Result<Vec<u8>, SnapshotError> {
    let mut reader = SnapshotReader::open(disk, header)?;
    let mut out = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}

fn snapshot_content() -> Vec<u8> {
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
    for bit in (0..content.len() * 8).step_by(7) {
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
