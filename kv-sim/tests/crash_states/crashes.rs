//! Crashes at every operation.

use fastrand::Rng;
use kv_raft::{LogError, LogStore};
use kv_sim::disk::{Op, SECTOR_BYTES, SimDisk};

use super::runs::{Acked, Step, allowed, random_run, recycling_run, retire, run, short_run};
use super::snapshot::{header, read_snapshot, snapshot_content};
use super::{SEED, entry, hard_state, observe, open, wanted};

/// Opens what a crash left, twice over, and goes on from there.
fn check(image: &SimDisk, allowed: &[Acked], rng: &mut Rng, what: &str) {
    let (mut log, recovered) = open(image).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = observe(&mut log, &recovered);
    // What a snapshot of our own stands for can be read.
    let matching = allowed.iter().find(|acked| acked.model == found);
    if let Some(mark) = found.snapshot.filter(|_| matching.is_some_and(|acked| acked.files)) {
        let content = read_snapshot(image, header(mark.index, mark.term));
        assert_eq!(content.unwrap_or_else(|error| panic!("{what}: {error}")), snapshot_content(), "{what}");
    }
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

/// How many disks of one moment are tried before they are sampled, and how many samples: in `cargo test`, and with
/// `KV_EVERY_STATE`.
const DISKS_MAX: [usize; 2] = [16, 4_096];
const SAMPLES: [u64; 2] = [12, 256];
/// Disks of one moment that are torn at words.
const TORN_AT_WORDS: [u64; 2] = [4, 64];

/// What was tried.
#[derive(Debug, Default)]
struct Tried {
    operations: u64,
    disks: u64,
    torn_writes: u64,
    crashes_of_a_start: u64,
    /// Moments at which every legal disk was tried.
    exhausted: u64,
}

impl std::ops::AddAssign for Tried {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.disks += other.disks;
        self.torn_writes += other.torn_writes;
        self.crashes_of_a_start += other.crashes_of_a_start;
        self.exhausted += other.exhausted;
    }
}

fn crash_everywhere(name: &str, steps: &[Step], seed: u64, deep_every: u64) -> Tried {
    let every = usize::from(wanted("KV_EVERY_STATE"));
    let mut tried = Tried::default();
    let mut rng = Rng::with_seed(seed);
    let recorder = SimDisk::new(seed);
    recorder.record();
    let (acked, error) = run(&recorder, steps);
    assert!(error.is_none(), "{name}: {error:?}");
    let disk = SimDisk::new(seed ^ 1);
    for (i, op) in recorder.recorded().iter().enumerate() {
        tried.operations += 1;
        if let Op::Write { file, offset, bytes } = op {
            // The process dies inside the write: its first sectors are in the page cache.
            let sectors = bytes.len().div_ceil(SECTOR_BYTES);
            let most = if every == 1 { sectors } else { sectors.min(6) };
            for cut in (1..most).map(|n| n * SECTOR_BYTES - offset % SECTOR_BYTES) {
                let part = disk.fork();
                part.apply(&Op::Write { file: *file, offset: *offset, bytes: bytes[..cut].to_vec() });
                let what = format!("{name}, seed {seed}: {cut} bytes into operation {i}");
                check(&part.crash(), allowed(&acked, i), &mut rng, &what);
                tried.torn_writes += 1;
            }
        }
        disk.apply(op);
        let allowed = allowed(&acked, i + 1);
        let what = format!("{name}, seed {seed}: after operation {i}");
        check(&disk.fork().crash(), allowed, &mut rng, &format!("{what}, the machine goes on"));
        let questions = disk.unsynced();
        let exhaustive = questions < usize::BITS as usize && 1 << questions <= DISKS_MAX[every];
        let images = if exhaustive { 1 << questions } else { SAMPLES[every] + 2 };
        tried.exhausted += u64::from(exhaustive);
        for image in 0..images {
            let mut question = 0;
            let part = rng.u32(1..8);
            let torn = disk.fork().power_loss(|| {
                question += 1;
                match (exhaustive, image) {
                    (true, _) => image >> (question - 1) & 1 == 1,
                    (false, 0) => false,
                    (false, 1) => true,
                    (false, _) => rng.u32(0..8) < part,
                }
            });
            let what = format!("{what}, disk {image} of {images}");
            if rng.u64(0..deep_every) == 0 {
                check_crashes_of_start(&torn, allowed, &mut rng, &what);
                tried.crashes_of_a_start += 1;
            }
            check(&torn, allowed, &mut rng, &what);
            tried.disks += 1;
        }
        for image in 0..if questions > 0 { TORN_AT_WORDS[every] } else { 0 } {
            let torn = disk.fork().power_loss_by_words(&mut rng);
            check(&torn, allowed, &mut rng, &format!("{what}, torn at words, disk {image}"));
            tried.disks += 1;
        }
    }
    tried
}

/// Ten runs: one with every kind of step, the others at random.
#[test]
fn nothing_acknowledged_is_lost_at_any_operation() {
    let mut tried = crash_everywhere("the short run", &short_run(), SEED, 100);
    for seed in SEED..SEED + 9 {
        tried += crash_everywhere("a random run", &random_run(&mut Rng::with_seed(seed)), seed, 200);
    }
    println!("{tried:?}");
    assert!(
        tried.operations > 800 && tried.exhausted > tried.operations / 2 && tried.crashes_of_a_start > 10,
        "{tried:?}"
    );
}

#[test]
fn nothing_acknowledged_is_lost_in_segments_that_are_used_again() {
    let (disk, steps) = (SimDisk::new(SEED), recycling_run());
    let mut log = open(&disk).unwrap().0;
    let mut most = 0;
    for step in &steps {
        match step {
            Step::Append(records) => log.append(records).unwrap(),
            Step::Release(index) => log.release(*index).unwrap(),
            Step::Retire => retire(&mut log, &disk).unwrap(),
            _ => {}
        }
        most = most.max(log.stats().segments_reused);
    }
    assert!(most >= 4, "{most} were used again");
    crash_everywhere("segments used again", &steps, SEED, 200);
}

/// Any call fails once; the process stops; what a restart finds is what was acknowledged, and survives the power as well.
#[test]
fn after_a_disk_error_a_restart_finds_what_was_acknowledged() {
    a_disk_error_everywhere(&short_run());
    a_disk_error_everywhere(&recycling_run());
}

fn a_disk_error_everywhere(steps: &[Step]) {
    let mut rng = Rng::with_seed(SEED);
    let mut call = 0;
    loop {
        let disk = SimDisk::new(SEED);
        disk.fail_at(call);
        let (acked, error) = run(&disk, steps);
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
