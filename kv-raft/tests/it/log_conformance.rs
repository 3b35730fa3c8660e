//! Both logs through one script and one property, against a model of a few lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kv_raft::{
    Disk, EntryKind, FileLog, HardState, LogEntry, LogError, LogIds, LogOptions, LogStore, MemLog, RealDisk, Record,
    Recovered, SnapshotMark, SyncMode,
};
use proptest::prelude::*;

/// A log that can be left and come back to.
trait Subject: Sized {
    type Log: LogStore;
    fn log(&mut self) -> &mut Self::Log;
    fn reopen(self) -> (Self, Recovered);
}

struct InFiles {
    log: FileLog<RealDisk>,
    dir: tempfile::TempDir,
}

fn open(dir: &tempfile::TempDir) -> (FileLog<RealDisk>, Recovered) {
    // Syncs are the business of the simulated disk's tests.
    let disk = Arc::new(RealDisk::new(dir.path(), SyncMode::UnsafeNone));
    let ids = LogIds { cluster_id: 1, member_id: 2 };
    FileLog::open(disk, LogOptions { segment_bytes_first: 4096, segment_bytes_max: 16384, ..LogOptions::new(ids) })
        .unwrap()
}

impl InFiles {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { log: open(&dir).0, dir }
    }
}

impl Subject for InFiles {
    type Log = FileLog<RealDisk>;

    fn log(&mut self) -> &mut Self::Log {
        // As the driver does, but on this thread.
        let disk = RealDisk::new(self.dir.path(), SyncMode::UnsafeNone);
        if let Some(retirement) = self.log.retirement() {
            self.log.add_retired(retirement.run(&disk).unwrap());
        }
        if let Some(spec) = self.log.spare_wanted() {
            self.log.add_spare(spec.prepare(&disk).unwrap());
        }
        &mut self.log
    }

    fn reopen(self) -> (Self, Recovered) {
        let Self { log, dir } = self;
        drop(log);
        let (log, recovered) = open(&dir);
        (Self { log, dir }, recovered)
    }
}

struct InMemory(MemLog);

impl Subject for InMemory {
    type Log = MemLog;

    fn log(&mut self) -> &mut MemLog {
        &mut self.0
    }

    fn reopen(self) -> (Self, Recovered) {
        let recovered = self.0.recovered();
        (self, recovered)
    }
}

/// What a log is to hold.
#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<u64, (u64, Bytes)>,
    hard_state: HardState,
    snapshot: Option<SnapshotMark>,
    released: u64,
}

impl Model {
    fn base(&self) -> u64 {
        self.snapshot.map_or(0, |mark| mark.index)
    }

    fn last(&self) -> u64 {
        self.entries.keys().last().map_or(self.base(), |last| self.base().max(*last))
    }

    fn add(&mut self, record: &Record) {
        match record {
            Record::HardState(state) => self.hard_state = *state,
            Record::Snapshot(mark) => {
                if mark.installed || mark.index > self.last() {
                    self.entries.clear();
                    self.released = mark.index;
                }
                self.snapshot = Some(*mark);
            }
            Record::Entry(entry) => {
                self.entries.split_off(&entry.index);
                self.entries.insert(entry.index, (entry.term, entry.payload.clone()));
            }
        }
    }

    fn check(&self, log: &mut impl LogStore) {
        // From what was released on, and from every snapshot on.
        for after in [self.released, self.base(), self.last(), self.last() + 5] {
            let mut found = Vec::new();
            log.replay(after, &mut |entry| {
                found.push((entry.index, (entry.term, entry.payload)));
                Ok(())
            })
            .unwrap();
            let expected: Vec<_> =
                self.entries.range(after + 1..).map(|(index, entry)| (*index, entry.clone())).collect();
            assert_eq!(found, expected, "after {after}");
        }
    }
}

fn entry(index: u64, term: u64, payload: Vec<u8>) -> Record {
    Record::Entry(LogEntry { index, term, kind: EntryKind::Normal, payload: payload.into() })
}

fn mark(index: u64, installed: bool) -> Record {
    Record::Snapshot(SnapshotMark { index, term: 1, installed })
}

#[derive(Debug, Clone)]
enum Step {
    /// Entries of these payload lengths, replacing so many of the last ones.
    Append {
        replace: u64,
        payloads: Vec<usize>,
    },
    HardState(u64, u64),
    /// A snapshot at this part of what is there, in percent, then a release.
    Snapshot(u64),
    /// A snapshot so far beyond, or before, the last entry.
    Install(i64),
    MarkDurable,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..4, prop::collection::vec(0usize..3000, 1..4))
            .prop_map(|(replace, payloads)| Step::Append { replace, payloads }),
        1 => (1u64..9, 1u64..9).prop_map(|(term, vote)| Step::HardState(term, vote)),
        2 => (0u64..=100).prop_map(Step::Snapshot),
        1 => (-3i64..10).prop_map(Step::Install),
        2 => Just(Step::MarkDurable),
        2 => Just(Step::Reopen),
    ]
}

fn conforms<S: Subject>(mut subject: S, steps: &[Step]) {
    let mut model = Model::default();
    for (n, step) in steps.iter().enumerate() {
        let (base, last) = (model.base(), model.last());
        let records = match step {
            Step::Append { replace, payloads } => {
                let first = last + 1 - (*replace).min(last - base);
                let term = n as u64;
                let entries = payloads.iter().zip(first..);
                entries.map(|(&bytes, index)| entry(index, term, vec![n.to_le_bytes()[0]; bytes])).collect()
            }
            Step::HardState(term, vote) => {
                vec![Record::HardState(HardState { term: *term, vote: *vote, commit: last })]
            }
            Step::Snapshot(percent) => vec![mark(base + (last - base) * percent / 100, false)],
            Step::Install(distance) => vec![mark(last.saturating_add_signed(*distance).max(base), true)],
            Step::MarkDurable | Step::Reopen => Vec::new(),
        };
        subject.log().append(&records).unwrap();
        records.iter().for_each(|record| model.add(record));
        match step {
            Step::Snapshot(_) | Step::Install(_) => {
                subject.log().release(model.base()).unwrap();
                model.released = model.base();
                model.entries = model.entries.split_off(&(model.base() + 1));
                assert_eq!(subject.log().stats().bytes_since_snapshot, 0);
            }
            Step::MarkDurable => subject.log().mark_durable().unwrap(),
            Step::Reopen => {
                let (reopened, found) = subject.reopen();
                subject = reopened;
                assert_eq!((found.hard_state, found.snapshot), (model.hard_state, model.snapshot));
                assert_eq!((found.last_index, found.cut), (model.last(), None));
                assert_eq!(found.entries, model.entries.len() as u64);
            }
            Step::Append { .. } | Step::HardState(..) => {}
        }
        model.check(subject.log());
    }
}

#[test]
fn both_logs_follow_one_script() {
    let append = |replace, payloads: &[usize]| Step::Append { replace, payloads: payloads.to_vec() };
    let script = [
        Step::HardState(1, 2),
        append(0, &[10, 2000, 0]),
        append(2, &[500]),
        Step::Reopen,
        append(0, &[3000, 3000, 3000]),
        append(4, &[1]),
        Step::Snapshot(50),
        append(0, &[20_000, 7]),
        Step::MarkDurable,
        Step::Reopen,
        Step::Reopen,
        // Below the last entry, and above it.
        Step::Install(-1),
        append(0, &[9]),
        Step::Install(7),
        Step::Reopen,
        append(0, &[9, 9]),
        Step::Snapshot(100),
        Step::Reopen,
    ];
    conforms(InFiles::new(), &script);
    conforms(InMemory(MemLog::new()), &script);
}

#[test]
fn segments_are_used_again_and_their_number_is_bounded() {
    let mut subject = InFiles::new();
    let mut model = Model::default();
    for round in 0..40u64 {
        for _ in 0..10 {
            let records = [entry(model.last() + 1, round, vec![round.to_le_bytes()[0]; 5000])];
            subject.log().append(&records).unwrap();
            records.iter().for_each(|record| model.add(record));
        }
        model.check(subject.log());
        let records = [mark(model.last() - 1, false)];
        subject.log().append(&records).unwrap();
        records.iter().for_each(|record| model.add(record));
        subject.log().release(model.base()).unwrap();
        model.released = model.base();
        model.entries = model.entries.split_off(&(model.base() + 1));
        let files = RealDisk::new(subject.dir.path(), SyncMode::UnsafeNone).list("log").unwrap().len();
        assert!(files <= 12, "{files} files after round {round}");
        if round == 20 {
            assert!(subject.log().stats().segments_reused >= 60, "{:?}", subject.log().stats());
            subject = subject.reopen().0;
        }
    }
    let stats = subject.log().stats();
    assert!(stats.segments_reused >= 50, "{stats:?}");
    // Batches of 5 KB in segments of 16 KiB: less than half as much goes to filling pages and to preparing. New segments would take
    // more than the batches.
    assert!(stats.bytes_written < 19 * 10 * 5000 * 3 / 2, "{stats:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn both_logs_are_the_model(steps in prop::collection::vec(step(), 1..40)) {
        conforms(InFiles::new(), &steps);
        conforms(InMemory(MemLog::new()), &steps);
    }
}

fn refuses_what_is_gone(mut subject: impl Subject) {
    let log = subject.log();
    log.append(&[mark(5, true), entry(6, 1, vec![1])]).unwrap();
    let error = log.replay(4, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, LogError::Released { after: 4, first: 6 }), "{error}");
    let error = log.replay(5, &mut |_| Err(LogError::Replay("enough".into()))).unwrap_err();
    assert!(matches!(&error, LogError::Replay(why) if why == "enough"), "{error}");
    log.replay(5, &mut |_| Ok(())).unwrap();
    let large = entry(7, 1, vec![0; (64 << 20) + 1]);
    assert!(matches!(log.append(&[large]), Err(LogError::TooLarge { .. })));
    log.append(&[entry(7, 1, vec![])]).unwrap();
}

#[test]
fn what_cannot_be_done_is_an_error_and_leaves_the_log_usable() {
    refuses_what_is_gone(InFiles::new());
    refuses_what_is_gone(InMemory(MemLog::new()));
}

fn panics(mut subject: impl Subject, records: &[Record]) -> String {
    subject.log().append(&[mark(5, false), entry(6, 1, vec![])]).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| subject.log().append(records)));
    *caught.expect_err("a panic").downcast::<String>().expect("a sentence")
}

#[test]
fn a_hole_and_a_replaced_snapshot_are_bugs() {
    for (record, sentence) in [
        (entry(8, 1, vec![]), "entry 8 does not follow entry 6"),
        (entry(5, 1, vec![]), "entry 5 replaces one that the snapshot at 5 contains"),
    ] {
        assert_eq!(panics(InFiles::new(), std::slice::from_ref(&record)), sentence);
        assert_eq!(panics(InMemory(MemLog::new()), std::slice::from_ref(&record)), sentence);
    }
}
