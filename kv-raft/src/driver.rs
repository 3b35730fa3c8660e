//! Runs a [`Node`]: the one module of this crate with a thread, a channel and a clock.
//!
//! A single thread takes everything that waits, packs the proposals into one entry, steps and polls the node, writes and syncs
//! the log, applies, publishes and hands the results over. While it does so, the next proposals collect in the queue: the batch
//! grows with the load by itself, and an idle Put costs one wake of this thread. What is slow and can be done beside that has
//! threads of its own ([`chores`]).

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the driver is where threads and the clock are"
)]

mod chores;
mod handle;
mod overtaken;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kv_codec::command::{Batch, BatchBuilder, seq};
use slog::{Logger, error, info, warn};
use thiserror::Error;

use crate::applier::{Origin, apply_run};
use crate::disk::Disk;
use crate::file_log::FileLog;
use crate::io::{ConfChange, Effects, Envelope, Input, Leadership, Persist, RejectReason, Rejected};
use crate::log_store::{LogError, LogStore};
use crate::node::{Node, NodeConfig};
use crate::recovery::{RecoverError, Replica, install_snapshot};
use crate::snapshots::SnapshotError;
use crate::state_machine::{MachineError, StateMachine};
use crate::tail::Position;
use chores::{Chores, Done};
use handle::Queue;
pub use handle::{COMMAND_BYTES_MAX, Handle, ProposeError, Status};
use overtaken::Overtaken;

/// How to run a node.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The node.
    pub node: NodeConfig,
    /// The cluster it belongs to; snapshots carry it.
    pub cluster_id: u64,
    /// How long a tick is.
    pub tick: Duration,
    /// Take a snapshot after so many entries; by bytes when `None`.
    pub snapshot_entries: Option<u64>,
    /// Take a snapshot when the log since the last one is larger than this and than that snapshot.
    pub snapshot_bytes_min: u64,
    /// Bytes of commands in one entry, one larger command aside; with 0 every command has an entry of its own.
    pub batch_bytes_max: usize,
}

impl DriverConfig {
    /// The usual [`DriverConfig::batch_bytes_max`]: an entry that is one write and one message, and not too long for either.
    pub const BATCH_BYTES_MAX: usize = 1 << 20;
    /// The usual [`DriverConfig::snapshot_bytes_min`]: a restart applies what is above a snapshot in well under a second.
    pub const SNAPSHOT_BYTES_MIN: u64 = 64 << 20;

    /// Runs `node` of this cluster with a tick of 100 ms (etcd's heartbeat interval), and snapshots by bytes.
    #[must_use]
    pub const fn new(node: NodeConfig, cluster_id: u64) -> Self {
        Self {
            node,
            cluster_id,
            tick: Duration::from_millis(100),
            snapshot_entries: None,
            snapshot_bytes_min: Self::SNAPSHOT_BYTES_MIN,
            batch_bytes_max: Self::BATCH_BYTES_MAX,
        }
    }
}

/// What the driver tells whoever started it. Called on the driver's thread: be brief.
#[derive(Debug)]
pub enum DriverEvent<I> {
    /// Send these to the other members.
    Messages(Vec<Envelope>),
    /// Deliver this state to a follower, then [`Handle::input`] an [`Input::SnapshotSent`].
    Snapshot(Envelope, I),
    /// These commands (by sequence number) were not taken and are in no log.
    Rejected(Vec<u64>, RejectReason),
    /// These reads may be served once the index beside them is published.
    ReadsReady(Vec<(u64, u64)>),
    /// These reads were refused: too many wait.
    ReadsDropped(Vec<u64>),
    /// Leader or term changed.
    Leadership(Leadership),
    /// A leader of a later term has begun: of this member's commands up to this sequence number, those that were not applied by now never
    /// will be, or were applied by way of a snapshot.
    Overtaken(u64),
    /// This member was removed from the cluster.
    Removed,
    /// The driver cannot go on and has stopped. The process must end: what is on disk decides after a restart.
    Fatal(FatalError),
}

/// Why the driver cannot go on.
#[derive(Debug, Error)]
pub enum FatalError {
    /// A write or sync of the log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A write or sync of a snapshot failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A committed entry could not be applied.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A received snapshot could not be installed.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

enum Event {
    Command(Vec<u8>),
    ConfChange(ConfChange, Vec<u8>),
    Input(Input),
    /// An input, and what is let go of once it was taken.
    Held(Input, Box<dyn Send>),
    Done(Done),
    Shutdown,
}

/// A running node.
///
/// * Only this thread touches node, log and state machine: there is no lock.
/// * A full disk refuses writes and stops nothing: the log goes on by itself once there is room.
/// * An effect's write is durable before the node hears of it, and everything applied is published before it is answered.
pub struct Driver<M: StateMachine, D: Disk> {
    config: DriverConfig,
    node: Node,
    log: FileLog<D>,
    machine: M,
    disk: Arc<D>,
    logger: Logger,
    on_event: Box<dyn FnMut(DriverEvent<M::Image>) + Send>,
    own_events: Sender<Event>,
    queue: Arc<Queue>,
    status: Arc<Status>,
    batch: BatchBuilder,
    /// The last snapshot: its place and size.
    snapshot: (Position, u64),
    chores: Chores,
    ticks: u64,
    /// The state that a follower was promised.
    offered: Option<(Position, M::Image)>,
    /// Whether the log has said that all in it is durable.
    idle: bool,
    /// Whether the state machine has work of its own left.
    maintaining: bool,
    /// The last command in `batch`, by its number; those that were given to consensus.
    last: u64,
    overtaken: Overtaken,
    /// Writes that found the disk full, in order. Until they are done proposals are refused; everything else goes on.
    blocked: VecDeque<Persist>,
}

impl<M: StateMachine, D: Disk> Driver<M, D> {
    /// Starts a thread that runs `replica`. `on_event` is called on it.
    ///
    /// # Panics
    /// When the operating system has no thread left.
    pub fn start(
        config: DriverConfig,
        replica: Replica<M, FileLog<D>>,
        disk: Arc<D>,
        logger: &Logger,
        on_event: Box<dyn FnMut(DriverEvent<M::Image>) + Send>,
    ) -> (Handle, JoinHandle<()>) {
        let (events, inbox) = channel();
        let handle = Handle { events: events.clone(), queue: Arc::default(), status: Arc::default() };
        let snapshot = (replica.report.snapshot, 0);
        let mut driver = Self {
            node: Node::new(config.node, replica.node, logger),
            config,
            log: replica.log,
            machine: replica.machine,
            disk,
            logger: logger.clone(),
            on_event,
            own_events: events,
            queue: Arc::clone(&handle.queue),
            status: Arc::clone(&handle.status),
            batch: BatchBuilder::default(),
            snapshot,
            chores: Chores::default(),
            ticks: 0,
            offered: None,
            idle: false,
            maintaining: false,
            last: 0,
            overtaken: Overtaken::default(),
            blocked: VecDeque::new(),
        };
        driver.note_status();
        let thread = std::thread::Builder::new().name("kv-raft".into());
        let work = move || {
            let _guard = AbortOnPanic;
            driver.run(&inbox);
        };
        let thread = thread.spawn(work).expect("a thread can be started");
        (handle, thread)
    }

    fn run(&mut self, inbox: &Receiver<Event>) {
        let ended = self.drive(inbox);
        // Nobody keeps the view current from here on.
        self.status.lone_leader.store(false, Ordering::Release);
        // What they still write must be over before somebody else opens the directory.
        self.chores.join();
        if let Err(fatal) = ended {
            error!(self.logger, "cannot go on"; "error" => %fatal);
            (self.on_event)(DriverEvent::Fatal(fatal));
        }
    }

    fn drive(&mut self, inbox: &Receiver<Event>) -> Result<(), FatalError> {
        // A lone voter needs no election timeout to know that nobody else leads.
        if self.node.membership().voters == [self.config.node.id] {
            self.step(Input::Campaign);
        }
        self.settle()?;
        let mut next_tick = Instant::now() + self.config.tick;
        loop {
            let until_tick = next_tick.saturating_duration_since(Instant::now());
            let wait = if self.maintaining { Duration::ZERO } else { until_tick };
            let first = match inbox.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let worked = first.is_some() || self.maintaining;
            let mut running = true;
            for event in first.into_iter().chain(inbox.try_iter()) {
                running &= self.take(event)?;
            }
            self.propose_batch();
            let now = Instant::now();
            if now >= next_tick {
                // A thread that was held up owes one tick, not all that it missed: time that nobody saw is no sign of silence.
                next_tick = now + self.config.tick;
                self.ticks += 1;
                self.write_blocked(false)?;
                self.step(Input::Tick);
                if let Some(last) = self.overtaken.tick() {
                    (self.on_event)(DriverEvent::Overtaken(last));
                }
            }
            self.settle()?;
            self.maintaining = self.machine.maintain();
            self.rest(worked, running)?;
            if !running {
                return Ok(());
            }
        }
    }

    /// Between two rounds of work: says that all is durable when nothing was asked for a tick, and prepares what is needed next.
    fn rest(&mut self, worked: bool, running: bool) -> Result<(), FatalError> {
        if (!worked || !running) && !self.idle {
            self.log.mark_durable()?;
            self.idle = true;
        }
        if running {
            self.start_chores();
        }
        Ok(())
    }

    /// Takes one event; false for the last.
    fn take(&mut self, event: Event) -> Result<bool, FatalError> {
        match event {
            Event::Command(command) => {
                self.queue.release(command.len());
                if !self.batch.is_empty() && self.batch.bytes_with(&command) > self.config.batch_bytes_max {
                    self.propose_batch();
                }
                self.push(&command);
            }
            Event::ConfChange(change, command) => {
                self.propose_batch();
                self.push(&command);
                let batch = self.batch.finish();
                self.overtaken.proposed(self.node.leadership().term, self.last);
                self.step(Input::ProposeConfChange(change, batch));
            }
            Event::Input(input) => self.step(input),
            Event::Held(input, held) => {
                self.step(input);
                drop(held);
            }
            Event::Done(done) => self.on_done(done)?,
            Event::Shutdown => return Ok(false),
        }
        Ok(true)
    }

    fn push(&mut self, command: &[u8]) {
        self.last = seq(command);
        self.batch.push(command);
    }

    fn propose_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.status.entries.fetch_add(1, Ordering::Relaxed);
        self.status.commands.fetch_add(u64::from(self.batch.len()), Ordering::Relaxed);
        let batch = self.batch.finish();
        if self.blocked.is_empty() {
            self.overtaken.proposed(self.node.leadership().term, self.last);
            self.step(Input::Propose(batch));
        } else {
            (self.on_event)(DriverEvent::Rejected(sequence_numbers(&batch), RejectReason::NoSpace));
        }
    }

    fn step(&mut self, input: Input) {
        if let Err(refused) = self.node.step(input) {
            warn!(self.logger, "dropped a peer's message"; "error" => %refused);
        }
    }

    /// Polls until nothing is left to do.
    fn settle(&mut self) -> Result<(), FatalError> {
        loop {
            let effects = self.node.poll();
            if effects.is_empty() {
                self.note_status();
                return Ok(());
            }
            self.handle(effects)?;
        }
    }

    fn handle(&mut self, effects: Effects) -> Result<(), FatalError> {
        if let Some(leadership) = effects.leadership {
            self.on_leadership(leadership);
        }
        if !effects.messages.is_empty() {
            (self.on_event)(DriverEvent::Messages(effects.messages));
        }
        for Rejected { batch, reason } in effects.rejected {
            (self.on_event)(DriverEvent::Rejected(sequence_numbers(&batch), reason));
        }
        if let Some(persist) = effects.persist {
            self.blocked.push_back(persist);
            self.write_blocked(true)?;
        }
        if !effects.committed.is_empty() {
            let NodeConfig { id, epoch, .. } = self.config.node;
            let run = apply_run(&mut self.machine, Origin { id, epoch }, &effects.committed)?;
            self.step(run.input);
            // A read that waits for this index looks at the status before the view.
            self.note_status();
            self.machine.done(run.results);
            self.overtaken.applied(effects.committed.last().expect("not empty").term);
        }
        if let Some(at) = effects.install {
            install_snapshot(&self.disk, self.config.cluster_id, at, &mut self.machine)?;
            if self.machine.applied() != at {
                let found = self.machine.applied().index;
                return Err(MachineError(format!("snapshot {} holds the state of entry {found}", at.index)).into());
            }
            self.machine.publish();
            self.snapshot = (at, 0);
            self.overtaken.applied(at.term);
            self.step(Input::SnapshotInstalled(at.index));
            self.log.release(at.index)?;
            // A follower that lives on its leader's snapshots takes none of its own, which would remove them.
            self.chores.prune_below(at.index);
            info!(self.logger, "applied snapshot"; "index" => at.index);
        }
        if effects.snapshot_wanted {
            let at = self.machine.applied();
            self.offered = Some((at, self.machine.image()));
            self.step(Input::SnapshotReady(at, self.machine.membership()));
        }
        for to_send in effects.snapshots_to_send {
            self.send_snapshot(to_send.at, to_send.message);
        }
        if !effects.reads_ready.is_empty() {
            (self.on_event)(DriverEvent::ReadsReady(effects.reads_ready));
        }
        if !effects.reads_dropped.is_empty() {
            (self.on_event)(DriverEvent::ReadsDropped(effects.reads_dropped));
        }
        if effects.removed {
            (self.on_event)(DriverEvent::Removed);
        }
        Ok(())
    }

    /// Writes what waits, in order, until nothing does or the disk is full. `first` says that one of them is new.
    fn write_blocked(&mut self, first: bool) -> Result<(), FatalError> {
        if first && self.blocked.len() > 1 {
            // An earlier one waits for room; the next tick tries again.
            return Ok(());
        }
        while let Some(persist) = self.blocked.front() {
            let started = Instant::now();
            match self.log.append(&persist.records) {
                Ok(()) => {}
                Err(full @ LogError::Full { .. }) => {
                    if first {
                        warn!(self.logger, "writes are refused until there is room"; "error" => %full);
                    }
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.status.fsync_micros.fetch_add(micros, Ordering::Relaxed);
            self.status.fsyncs.fetch_add(1, Ordering::Relaxed);
            self.idle = false;
            let ticket = persist.ticket;
            self.blocked.pop_front();
            self.step(Input::Persisted(ticket));
        }
        Ok(())
    }

    fn on_leadership(&mut self, leadership: Leadership) {
        info!(self.logger, "leadership"; "term" => leadership.term, "leader" => format!("{:x}", leadership.leader));
        if leadership.leader != 0 && leadership.leader != self.status.leader.load(Ordering::Acquire) {
            self.status.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        if leadership.leader != self.config.node.id {
            // An old state is not kept alive for followers of somebody else.
            self.offered = None;
        }
        (self.on_event)(DriverEvent::Leadership(leadership));
    }

    fn send_snapshot(&mut self, at: Position, message: Envelope) {
        let to = message.to;
        match self.offered.take_if(|(offered, _)| *offered == at) {
            Some((_, image)) => (self.on_event)(DriverEvent::Snapshot(message, image)),
            // Another follower took it; raft asks again.
            None => self.step(Input::SnapshotSent { to, ok: false }),
        }
    }

    fn note_status(&self) {
        let status = &self.status;
        let Leadership { term, leader } = self.node.leadership();
        status.lone_leader.store(self.node.is_lone_leader(), Ordering::Release);
        status.term.store(term, Ordering::Release);
        status.leader.store(leader, Ordering::Release);
        status.committed.store(self.node.committed(), Ordering::Release);
        status.applied.store(self.node.applied(), Ordering::Release);
    }
}

/// Ends the process when its thread panics: a member without its driver would answer reads for ever and writes never.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// The sequence numbers of a batch of this member's own.
fn sequence_numbers(batch: &[u8]) -> Vec<u64> {
    let commands = Batch::decode(batch).into_iter().flatten();
    commands.filter_map(|command| command.ok().map(|command| command.header.seq)).collect()
}
