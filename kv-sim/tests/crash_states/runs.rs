//! The runs that are recorded, and what was acknowledged at each moment of one.

use fastrand::Rng;
use kv_raft::snapshots::{self, SnapshotError};
use kv_raft::{EntryKind, FileLog, LogEntry, LogError, LogStore, Record};
use kv_sim::disk::SimDisk;

use super::snapshot::{header, write_snapshot};
use super::{Model, entry, hard_state, mark, open, try_observe};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Append(Vec<Record>),
    MarkDurable,
    Release(u64),
    /// What was released gets out of use.
    Retire,
    /// A snapshot of the last entries up to this one, of this term: its file, its mark, and what it stands for released.
    Snapshot(u64, u64),
    Spare,
    /// The process ends, the machine goes on.
    Crash,
}

/// An append of a run: operations recorded when it began and when it returned, and what the log then holds.
pub(crate) struct Acked {
    pub(crate) begun: usize,
    pub(crate) done: usize,
    pub(crate) model: Model,
    /// Whether a file stands behind the snapshot's mark.
    pub(crate) files: bool,
}

/// The least a step sequence needs: every kind of step, several segments, conflicts, both kinds of snapshot.
pub(crate) fn short_run() -> Vec<Step> {
    use Step::{Append, Crash, MarkDurable, Release, Retire, Spare};
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
        Retire,
        Spare,
        Append(vec![entry(9, 3, 64)]),
        // A batch longer than any segment.
        Append(vec![entry(10, 3, 9000)]),
        Append(vec![mark(20, 4, true), hard_state(4, 20)]),
        Release(20),
        Append(vec![entry(21, 4, 31)]),
        Retire,
        Crash,
        Append(vec![entry(22, 4, 33)]),
        MarkDurable,
    ]
}

/// An entry of zeroes: what it leaves in a sector is the same in each life of a segment, but for the masks.
pub(crate) fn zeroes(index: u64, bytes: usize) -> Record {
    Record::Entry(LogEntry { index, term: 1, kind: EntryKind::Normal, payload: vec![0; bytes].into() })
}

/// Segments of the greatest length that retire and are used again, twice over: as a spare, and where they are needed at once. What
/// they held was batches as they are written again, zeroes among them.
pub(crate) fn recycling_run() -> Vec<Step> {
    use Step::{Append, Crash, MarkDurable, Release, Retire, Spare};
    let mut steps = vec![Append(vec![hard_state(1, 0)])];
    let mut last = 0;
    for round in 0..4 {
        for i in 0..6 {
            last += 1;
            let record = if i % 2 == 0 { zeroes(last, 2600) } else { entry(last, 1, 1100 + 300 * i) };
            steps.push(Append(vec![record]));
            if i == 3 {
                steps.push(MarkDurable);
            }
        }
        steps.extend([Append(vec![mark(last - 1, 1, false)]), Release(last - 1)]);
        match round {
            0 | 2 => steps.extend([Retire, Spare]),
            // The next segment comes first, and is a new one.
            1 => {
                last += 2;
                steps.extend([Append(vec![zeroes(last - 1, 3000)]), Append(vec![zeroes(last, 3000)]), Retire]);
            }
            _ => steps.push(Retire),
        }
    }
    steps.extend([Crash, Append(vec![zeroes(last + 1, 700)]), MarkDurable]);
    steps
}

pub(crate) fn random_run(rng: &mut Rng) -> Vec<Step> {
    let (mut last, mut base, mut term) = (0, 0, 1);
    let mut steps = vec![Step::Append(vec![hard_state(1, 0)])];
    for _ in 0..22 {
        let step = match rng.u32(0..14) {
            0 => Step::MarkDurable,
            1 => Step::Spare,
            2 => Step::Crash,
            3 if last > base => {
                base = rng.u64(base + 1..=last);
                Step::Snapshot(base, term)
            }
            12 | 13 => Step::Retire,
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
pub(crate) fn run(disk: &SimDisk, steps: &[Step]) -> (Vec<Acked>, Option<LogError>) {
    let mut acked = vec![Acked { begun: 0, done: 0, model: Model::default(), files: false }];
    let mut disk = disk.clone();
    let result = try_run(&mut disk, steps, &mut acked);
    (acked, result.err())
}

pub(crate) fn retire(log: &mut FileLog<SimDisk>, disk: &SimDisk) -> Result<(), LogError> {
    if let Some(retirement) = log.retirement() {
        log.add_retired(retirement.run(disk)?);
    }
    Ok(())
}

fn try_run(disk: &mut SimDisk, steps: &[Step], acked: &mut Vec<Acked>) -> Result<(), LogError> {
    let (mut log, mut recovered) = open(disk)?;
    for step in steps {
        match step {
            Step::Append(records) => {
                let mut model = acked.last().unwrap().model.clone();
                model.append(records);
                let files = acked.last().unwrap().files;
                // Before the append, so that what a failing one may have left is known.
                acked.push(Acked { begun: disk.recorded_len(), done: usize::MAX, model, files });
                log.append(records)?;
                acked.last_mut().unwrap().done = disk.recorded_len();
            }
            Step::MarkDurable => log.mark_durable()?,
            Step::Release(index) => log.release(*index)?,
            Step::Retire => retire(&mut log, disk)?,
            Step::Snapshot(index, term) => {
                write_snapshot(disk, header(*index, *term)).map_err(into_log_error)?;
                let mut model = acked.last().unwrap().model.clone();
                let records = [mark(*index, *term, false)];
                model.append(&records);
                acked.push(Acked { begun: disk.recorded_len(), done: usize::MAX, model, files: true });
                log.append(&records)?;
                acked.last_mut().unwrap().done = disk.recorded_len();
                log.release(*index)?;
                snapshots::prune_below(disk, *index).map_err(into_log_error)?;
            }
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
pub(crate) fn allowed(acked: &[Acked], ops: usize) -> &[Acked] {
    let first = acked.iter().rposition(|acked| acked.done <= ops).unwrap();
    let last = acked.iter().rposition(|acked| acked.begun <= ops).unwrap();
    &acked[first..=last]
}

/// An error of the disk is one, whoever met it.
fn into_log_error(error: SnapshotError) -> LogError {
    match error {
        SnapshotError::Io { op, path, source } => LogError::Io { op, path, source },
        other => panic!("{other}"),
    }
}
