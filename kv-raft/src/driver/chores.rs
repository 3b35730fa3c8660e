//! Slow work on threads beside the driver's: a snapshot, the next segment of the log, and what is not needed any more.
//!
//! A thread lives as long as its chore and ends with an event that says what came of it. At most one of each kind runs. Segments are
//! retired and old snapshots removed by the same one, in turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use kv_codec::record::{Record, SnapshotMark};
use slog::{info, warn};

use super::{AbortOnPanic, Driver, Event, FatalError};
use crate::disk::Disk;
use crate::file_log::{Retired, Spare};
use crate::log_store::{LogError, LogStore};
use crate::recovery::write_snapshot;
use crate::snapshots::{self, SnapshotError};
use crate::state_machine::StateMachine;
use crate::tail::Position;

/// Ticks before what found the disk full, or no thread, is tried again.
const RETRY_TICKS: u64 = 100;

/// What came of a chore.
pub(super) enum Done {
    Snapshot(Position, Result<u64, SnapshotError>),
    Spare(Result<Spare, LogError>),
    Retirement(Result<Retired, LogError>),
    Pruning(Result<(), SnapshotError>),
}

/// Chores and their threads.
#[derive(Debug, Default)]
pub(super) struct Chores {
    snapshot: Chore,
    spare: Chore,
    cleanup: Chore,
    /// Snapshots of entries below this one are to be removed.
    prune_below: Option<u64>,
    /// Threads that were started, ended or not.
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Chore {
    running: bool,
    /// Not to be started before these ticks.
    not_before: u64,
}

impl Chore {
    fn may_start(&self, ticks: u64) -> bool {
        !self.running && ticks >= self.not_before
    }

    fn started(&mut self, started: bool, ticks: u64) {
        self.running = started;
        if !started {
            self.put_off(ticks);
        }
    }

    fn put_off(&mut self, ticks: u64) {
        self.not_before = ticks + RETRY_TICKS;
    }
}

impl Chores {
    /// Old snapshots are to be removed.
    pub(super) fn prune_below(&mut self, index: u64) {
        self.prune_below = Some(index);
    }

    /// Waits until all are done.
    pub(super) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // One that panicked has ended the process.
            drop(thread.join());
        }
    }
}

impl<M: StateMachine, D: Disk> Driver<M, D> {
    /// Starts what is due.
    pub(super) fn start_chores(&mut self) {
        self.chores.threads.retain(|thread| !thread.is_finished());
        if self.chores.spare.may_start(self.ticks) {
            self.prepare_spare();
        }
        if self.chores.cleanup.may_start(self.ticks) {
            self.clean_up();
        }
        if self.chores.snapshot.may_start(self.ticks) {
            self.maybe_snapshot();
        }
    }

    pub(super) fn on_done(&mut self, done: Done) -> Result<(), FatalError> {
        match done {
            Done::Snapshot(at, written) => self.on_snapshot_written(at, written)?,
            Done::Spare(spare) => self.on_spare(spare)?,
            Done::Retirement(retired) => {
                self.chores.cleanup.running = false;
                self.log.add_retired(retired?);
            }
            Done::Pruning(pruned) => {
                self.chores.cleanup.running = false;
                pruned?;
            }
        }
        Ok(())
    }

    fn prepare_spare(&mut self) {
        let Some(spec) = self.log.spare_wanted() else {
            return;
        };
        let disk = Arc::clone(&self.disk);
        // Without one the log prepares a segment itself when it needs it.
        let started = self.start_thread("kv-log-spare", move || Done::Spare(spec.prepare(disk.as_ref())));
        self.chores.spare.started(started, self.ticks);
    }

    fn on_spare(&mut self, spare: Result<Spare, LogError>) -> Result<(), FatalError> {
        self.chores.spare.running = false;
        match spare {
            Ok(spare) => self.log.add_spare(spare),
            Err(LogError::Full { .. }) => {
                warn!(self.logger, "no space to prepare the next log segment");
                self.chores.spare.put_off(self.ticks);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Retires what the log released, then removes old snapshots: segments may be needed again soon.
    fn clean_up(&mut self) {
        let disk = Arc::clone(&self.disk);
        let started = if let Some(retirement) = self.log.retirement() {
            self.start_thread("kv-cleanup", move || Done::Retirement(retirement.run(disk.as_ref())))
        } else if let Some(below) = self.chores.prune_below.take() {
            let started =
                self.start_thread("kv-cleanup", move || Done::Pruning(snapshots::prune_below(disk.as_ref(), below)));
            if !started {
                self.chores.prune_below = Some(below);
            }
            started
        } else {
            return;
        };
        self.chores.cleanup.started(started, self.ticks);
    }

    fn maybe_snapshot(&mut self) {
        let (last, bytes) = self.snapshot;
        let applied = self.machine.applied();
        let due = match self.config.snapshot_entries {
            Some(entries) => applied.index - last.index >= entries.max(1),
            None => self.log.stats().bytes_since_snapshot >= bytes.max(self.config.snapshot_bytes_min),
        };
        if !due || applied == last || !self.blocked.is_empty() {
            return;
        }
        let disk = Arc::clone(&self.disk);
        let (image, cluster_id) = (self.machine.image(), self.config.cluster_id);
        let work = move || {
            let written = write_snapshot::<M, D>(disk.as_ref(), cluster_id, applied, &image);
            // Dropping a large old view takes long; it happens here.
            drop(image);
            Done::Snapshot(applied, written)
        };
        let started = self.start_thread("kv-snapshot", work);
        self.chores.snapshot.started(started, self.ticks);
    }

    fn on_snapshot_written(&mut self, at: Position, written: Result<u64, SnapshotError>) -> Result<(), FatalError> {
        self.chores.snapshot.running = false;
        match written {
            Ok(bytes) => {
                // A received snapshot may have overtaken this one.
                if at > self.snapshot.0 {
                    self.switch_to_snapshot(at, bytes)?;
                }
                self.chores.prune_below(self.snapshot.0.index);
            }
            Err(error) if error.is_full() => {
                warn!(self.logger, "no space for a snapshot; the log keeps growing"; "error" => %error);
                self.log.give_up_retired();
                self.chores.snapshot.put_off(self.ticks);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// From here on the snapshot stands for the log up to `at`.
    fn switch_to_snapshot(&mut self, at: Position, bytes: u64) -> Result<(), FatalError> {
        let mark = SnapshotMark { index: at.index, term: at.term, installed: false };
        match self.log.append(&[Record::Snapshot(mark)]) {
            Ok(()) => {}
            Err(full @ LogError::Full { .. }) => {
                warn!(self.logger, "no room to note a snapshot in the log; it is taken again later"; "error" => %full);
                self.chores.snapshot.put_off(self.ticks);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        self.log.release(at.index)?;
        self.snapshot = (at, bytes);
        self.status.snapshots.fetch_add(1, Ordering::Relaxed);
        info!(self.logger, "saved snapshot"; "snapshot-index" => at.index, "bytes" => bytes);
        Ok(())
    }

    /// Starts a thread for a chore; false where the system has none left.
    fn start_thread(&mut self, name: &str, chore: impl FnOnce() -> Done + Send + 'static) -> bool {
        let events = self.own_events.clone();
        let work = move || {
            let _guard = AbortOnPanic;
            // Nobody listens once the driver has stopped.
            drop(events.send(Event::Done(chore())));
        };
        match std::thread::Builder::new().name(name.into()).spawn(work) {
            Ok(thread) => self.chores.threads.push(thread),
            Err(error) => {
                warn!(self.logger, "cannot start a thread"; "name" => name, "error" => %error);
                return false;
            }
        }
        true
    }
}
