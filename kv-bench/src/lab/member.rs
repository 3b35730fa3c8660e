//! An engine through raft and log: the very driver, node and log of `kv-server`, with any engine as the state machine.

use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kv_raft::{
    ConfChange, Driver, DriverConfig, DriverEvent, Handle, LogEntry, LogIds, LogOptions, MachineError, Membership,
    NodeConfig, Position, RealDisk, RecoverOptions, StateMachine, Status, SyncMode, TailLimits, recover,
};
use tempfile::TempDir;

use super::engine::{Answer, Found, Write};
use super::path::Path;

const ID: u64 = 1;
/// The client's number takes the low eight bits of a sequence number.
pub(crate) const CLIENTS_MAX: usize = 256;
const TICK: Duration = Duration::from_millis(100);
/// An election of one takes a few writes; an answer takes one.
const WITHIN: Duration = Duration::from_secs(30);
/// How often a waiting client looks whether its member still works.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a member runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setup {
    /// Whether operations that wait at the same time share an entry.
    pub(crate) proposer: bool,
    /// Whether a sync reaches the disk.
    pub(crate) sync: SyncMode,
}

impl Setup {
    /// As `kv-server` runs.
    pub(crate) const USUAL: Self = Self { proposer: true, sync: SyncMode::Fsync };
}

/// Where the answer for one client comes in.
#[derive(Debug, Default)]
struct Slot {
    answer: Mutex<(Option<Thread>, Option<Answer>)>,
}

/// What clients and the driver's thread share.
struct Shared {
    path: Path,
    slots: Vec<Slot>,
    failed: AtomicBool,
}

/// A running member. Dropping it stops it and removes its files.
pub(crate) struct Member {
    shared: Arc<Shared>,
    driver: Handle,
    thread: Option<JoinHandle<()>>,
    epoch: u64,
    _dir: TempDir,
}

impl Member {
    /// Starts a member in a fresh directory under `out` and waits until it leads.
    ///
    /// # Errors
    /// When the disk says no, or it does not lead in time.
    pub(crate) fn start(path: Path, setup: Setup, out: &FilePath) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-").tempdir_in(out);
        let dir = dir.with_context(|| format!("making a directory in {}", out.display()))?;
        let slots = (0..CLIENTS_MAX).map(|_| Slot::default()).collect();
        let shared = Arc::new(Shared { path, slots, failed: AtomicBool::new(false) });
        let machine = Machine { shared: Arc::clone(&shared), applied: Position { index: 1, term: 1 } };
        let disk = Arc::new(RealDisk::new(dir.path(), setup.sync));
        let log = LogOptions::new(LogIds { cluster_id: ID, member_id: ID });
        let tail = TailLimits::default();
        let replica = recover(&disk, &RecoverOptions { log, tail }, machine).context("starting a member")?;
        let epoch = replica.epoch;
        let node = NodeConfig { id: ID, epoch, seed: 1, election_ticks: 10, heartbeat_ticks: 1, tail };
        let batch_bytes_max = if setup.proposer { DriverConfig::BATCH_BYTES_MAX } else { 0 };
        let config = DriverConfig {
            node,
            cluster_id: ID,
            tick: TICK,
            snapshot_entries: None,
            // The state machine has no image: the log is all there is.
            snapshot_bytes_min: u64::MAX,
            batch_bytes_max,
        };
        let watched = Arc::clone(&shared);
        let on_event = Box::new(move |event| {
            if let DriverEvent::Fatal(_) | DriverEvent::Rejected(..) = event {
                watched.failed.store(true, Ordering::Release);
            }
        });
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let (driver, thread) = Driver::start(config, replica, disk, &logger, on_event);
        let member = Self { shared, driver, thread: Some(thread), epoch, _dir: dir };
        let deadline = Instant::now() + WITHIN;
        while !member.driver.status().is_lone_leader() {
            ensure!(Instant::now() < deadline, "the member does not lead within {WITHIN:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(member)
    }

    /// The engine and what is around it.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Entries, commands and syncs up to now.
    #[must_use]
    pub(crate) fn status(&self) -> &Status {
        self.driver.status()
    }

    /// Proposes a write and waits until it is applied. One call of a client at a time.
    ///
    /// # Errors
    /// When the member cannot go on.
    pub(crate) fn write(&self, client: u8, write: &Write<'_>, found: &mut Found) -> Result<Answer> {
        let slot = &self.shared.slots[usize::from(client)];
        lock(slot).0 = Some(std::thread::current());
        let command = self.shared.path.encode(client, ID, self.epoch, write)?;
        self.driver.propose(command).context("proposing")?;
        let answer = loop {
            if let Some(answer) = lock(slot).1.take() {
                break answer;
            }
            if self.shared.failed.load(Ordering::Acquire) {
                bail!("the member refused a write, or its disk failed");
            }
            std::thread::park_timeout(LOOK_EVERY);
        };
        self.shared.path.answered(write, found);
        Ok(answer)
    }
}

fn lock(slot: &Slot) -> std::sync::MutexGuard<'_, (Option<Thread>, Option<Answer>)> {
    slot.answer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Member {
    fn drop(&mut self) {
        self.driver.shutdown();
        if let Some(thread) = self.thread.take() {
            // A driver that panicked has ended the process.
            drop(thread.join());
        }
    }
}

/// The state machine: an engine, whose answers go to the clients' slots.
struct Machine {
    shared: Arc<Shared>,
    applied: Position,
}

impl StateMachine for Machine {
    type Response = Answer;
    type Image = ();

    fn apply(&mut self, entry: &LogEntry, responses: &mut Vec<Answer>) -> Result<(), MachineError> {
        self.applied = Position { index: entry.index, term: entry.term };
        if !entry.payload.is_empty() {
            let applied = self.shared.path.apply(&entry.payload, responses);
            applied.map_err(|error| MachineError(format!("{error:#}")))?;
        }
        Ok(())
    }

    fn apply_conf_change(&mut self, _: &LogEntry) -> Result<(Answer, Option<ConfChange>), MachineError> {
        Err(MachineError("the lab changes no membership".into()))
    }

    fn publish(&mut self) {}

    fn done(&mut self, results: Vec<(u64, Answer)>) {
        for (seq, answer) in results {
            let client = usize::from(seq.to_le_bytes()[0]);
            let mut slot = lock(&self.shared.slots[client]);
            slot.1 = Some(answer);
            let waiting = slot.0.clone();
            drop(slot);
            if let Some(waiting) = waiting {
                waiting.unpark();
            }
        }
    }

    fn applied(&self) -> Position {
        self.applied
    }

    fn membership(&self) -> Membership {
        Membership { voters: vec![ID], learners: Vec::new() }
    }

    fn image(&self) {}

    fn write_image<E>((): &(), sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        sink(b"nothing")
    }

    fn install(
        &mut self,
        _: &mut dyn FnMut() -> Result<Option<bytes::Bytes>, MachineError>,
    ) -> Result<(), MachineError> {
        Err(MachineError("the lab keeps no snapshots".into()))
    }
}
