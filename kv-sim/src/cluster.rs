//! The members, their disks and network, and the events that move them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use kv_codec::command::{
    BatchBuilder, Body, CommandHeader, Compare, CompareResult, CompareTarget, DeleteRange, Op, Put, Txn,
};
use kv_codec::member::Member as MemberRecord;
use kv_raft::snapshots::SnapshotError;
use kv_raft::{
    Effects, Envelope, FileLog, Input, LogEntry, LogIds, LogOptions, LogStore, Node, NodeConfig, Persist, Position,
    Record, RecoverError, RecoverOptions, SnapshotMark, StateMachine, TailLimits, install_snapshot, recover, snapshots,
    write_snapshot,
};
use kv_store::{Applied, Members, Outcome, Store, View};

use crate::checker::{Acked, Checker, each_once};
use crate::disk::SimDisk;
use crate::machine::Machine;
use crate::network::Network;
use crate::plan::Plan;

const CLUSTER_ID: u64 = 0xc1;
const TICK_US: u64 = 100_000;
/// Once the faults are over, the cluster has to be whole within this.
const CONVERGE_US: u64 = 60_000_000;
const KEYS: u64 = 12;

/// What one run exercised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// A hash over every step: two runs of one seed have the same.
    pub trace_hash: u32,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Writes whose outcome the client never learned.
    pub unknown: u64,
    /// Linearizable reads that were served.
    pub reads: u64,
    /// Terms that had a leader.
    pub terms: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Of those, with the machine.
    pub power_losses: u64,
    /// Of those, in the middle of a write: by a disk that failed, or with the process.
    pub disk_errors: u64,
    /// Recoveries that cut a torn write.
    pub cuts: u64,
    /// Snapshots that were sent and installed.
    pub installs: u64,
}

#[derive(Debug)]
enum Event {
    Tick { member: u64, boot: u64 },
    Written { member: u64, boot: u64 },
    Deliver(Envelope),
    DeliverSnapshot(Envelope, Box<View>),
    Call,
    Crash,
    Restart(u64),
    Partition,
    Mend,
}

/// A member's process.
struct Life {
    node: Node,
    log: FileLog<SimDisk>,
    disk: Arc<SimDisk>,
    machine: Machine,
    epoch: u64,
    seq: u64,
    to_persist: VecDeque<Persist>,
    writing: bool,
    snapshot: Position,
    offered: Option<(Position, View)>,
    /// Writes of this process' clients, by sequence number.
    calls: BTreeMap<u64, Acked>,
    /// Reads: what was acknowledged when they began, and the index they wait for.
    reads: BTreeMap<u64, (i64, Option<u64>)>,
}

/// A member's machine, which outlives its process.
struct Machinery {
    disk: SimDisk,
    boot: u64,
    life: Option<Life>,
}

/// The simulated cluster.
struct Cluster {
    plan: Plan,
    rng: Rng,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    members: BTreeMap<u64, Machinery>,
    network: Network,
    checker: Checker,
    report: Report,
    trace: bool,
    value: u64,
    chaos: bool,
    calling: bool,
}

/// The process died of its disk; recovery will look at it.
struct Died;

type Step<T = ()> = Result<T, Fault>;

enum Fault {
    Died,
    Broken(String),
}

impl From<Died> for Fault {
    fn from(_: Died) -> Self {
        Self::Died
    }
}

impl From<String> for Fault {
    fn from(broken: String) -> Self {
        Self::Broken(broken)
    }
}

/// Runs one seed.
///
/// # Errors
/// Which guarantee was broken, and when.
pub fn simulate(seed: u64, trace: bool) -> Result<Report, String> {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::draw(&mut rng);
    if trace {
        println!("{plan:?}");
    }
    let disk = |rng: &mut Rng| Machinery { disk: SimDisk::new(rng.u64(..)), boot: 0, life: None };
    let members = (1..=plan.members).map(|id| (id, disk(&mut rng))).collect();
    let mut cluster = Cluster {
        plan,
        rng,
        now: 0,
        events: BTreeMap::new(),
        scheduled: 0,
        members,
        network: Network::default(),
        checker: Checker::default(),
        report: Report::default(),
        trace,
        value: 0,
        chaos: true,
        calling: true,
    };
    cluster.run().map_err(|broken| format!("at {} us: {broken}", cluster.now))?;
    Ok(cluster.report)
}

impl Cluster {
    fn run(&mut self) -> Result<(), String> {
        for id in 1..=self.plan.members {
            self.start(id)?;
        }
        self.schedule(1_000, Event::Call);
        for (every, event) in [(self.plan.crash_ms, Event::Crash), (self.plan.partition_ms, Event::Partition)] {
            if every > 0 {
                let after = self.rng.u64(0..=every * 2_000);
                self.schedule(after, event);
            }
        }
        self.run_until(self.plan.chaos_ms * 1_000)?;
        self.end_faults()?;
        let goal = self.checker.acked_count() + 3;
        self.run_while("commits nothing", |cluster| cluster.checker.acked_count() < goal)?;
        self.calling = false;
        self.run_while("does not converge", |cluster| !cluster.converged())?;
        for (id, member) in &self.members {
            let life = member.life.as_ref().expect("all members run");
            self.checker.all_present(*id, life.machine.view())?;
            each_once(*id, life.machine.view())?;
        }
        self.report.virtual_ms = self.now / 1_000;
        self.report.acked = self.checker.acked_count() as u64;
        self.report.terms = self.checker.terms_led() as u64;
        Ok(())
    }

    fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.handle(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn run_while(&mut self, what: &str, unfinished: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = self.now + CONVERGE_US;
        while unfinished(self) {
            if self.now > deadline {
                return Err(format!("the faults are over, and the cluster {what}"));
            }
            self.run_until(self.now + TICK_US)?;
        }
        Ok(())
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + after, self.scheduled), event);
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let text = text();
        let line = format!("{:>10} {text}", self.now);
        self.report.trace_hash = self.report.trace_hash.rotate_left(5) ^ hash(line.as_bytes());
        if self.trace {
            println!("{line}");
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { member, boot } => self.with(member, boot, |cluster, member, boot| {
                cluster.schedule(TICK_US, Event::Tick { member, boot });
                cluster.idle(member)?;
                cluster.step(member, Input::Tick)
            }),
            Event::Written { member, boot } => self.with(member, boot, |cluster, member, _| cluster.written(member)),
            Event::Deliver(envelope) => {
                let boot = self.members[&envelope.to].boot;
                self.with(envelope.to, boot, |cluster, member, _| cluster.step(member, Input::Message(envelope)))
            }
            Event::DeliverSnapshot(message, image) => {
                let (from, to) = (message.from, message.to);
                let boot = self.members[&to].boot;
                let ok = self.members[&to].life.is_some();
                self.with(to, boot, |cluster, member, _| cluster.receive_snapshot(member, message, &image))?;
                let boot = self.members[&from].boot;
                self.with(from, boot, |cluster, member, _| cluster.step(member, Input::SnapshotSent { to, ok }))
            }
            Event::Call => {
                let after = self.rng.u64(100..=self.plan.call_ms * 2_000);
                if self.calling {
                    self.schedule(after, Event::Call);
                }
                let member = self.rng.u64(1..=self.plan.members);
                let boot = self.members[&member].boot;
                self.with(member, boot, |cluster, member, _| cluster.call(member))
            }
            Event::Crash => self.strike(),
            Event::Restart(member) => {
                if self.members[&member].life.is_none() {
                    self.start(member)?;
                }
                Ok(())
            }
            Event::Partition => {
                if self.chaos {
                    self.network.partition(&mut self.rng, self.plan.members);
                    self.note(|| "partition".into());
                    let lasts = self.rng.u64(100_000..=4_000_000);
                    self.schedule(lasts, Event::Mend);
                }
                Ok(())
            }
            Event::Mend => {
                self.network.mend();
                let after = self.rng.u64(1..=self.plan.partition_ms * 2_000);
                self.schedule(after, Event::Partition);
                Ok(())
            }
        }
    }

    /// Runs something in a member's process, if it is still the one that was meant. A disk that fails ends the process.
    fn with(&mut self, member: u64, boot: u64, work: impl FnOnce(&mut Self, u64, u64) -> Step) -> Result<(), String> {
        let machinery = &self.members[&member];
        if machinery.life.is_none() || machinery.boot != boot {
            return Ok(());
        }
        match work(self, member, boot) {
            Ok(()) => Ok(()),
            Err(Fault::Broken(broken)) => Err(broken),
            Err(Fault::Died) => {
                self.report.disk_errors += 1;
                let power = self.rng.bool();
                self.kill(member, power);
                Ok(())
            }
        }
    }

    fn life(&mut self, member: u64) -> &mut Life {
        let machinery = self.members.get_mut(&member).expect("members are never removed");
        machinery.life.as_mut().expect("the caller has looked")
    }

    fn start(&mut self, id: u64) -> Result<(), String> {
        let voters = (1..=self.plan.members).map(|id| MemberRecord {
            id,
            name: format!("m{id}"),
            peer_urls: vec![format!("http://m{id}:2380")],
            client_urls: vec![],
            is_learner: false,
        });
        let genesis = Machine::new(Store::genesis(Members::new(voters, [])));
        let tail = TailLimits { entries_max: self.plan.tail_entries, bytes_max: 1 << 20 };
        let ids = LogIds { cluster_id: CLUSTER_ID, member_id: id };
        let log = LogOptions { ids, segment_bytes_first: self.plan.segment_bytes, segment_bytes_max: 1 << 18 };
        let machinery = self.members.get_mut(&id).expect("members are never removed");
        machinery.boot += 1;
        let boot = machinery.boot;
        let disk = Arc::new(machinery.disk.clone());
        let replica = recover(&disk, &RecoverOptions { log, tail }, genesis)
            .map_err(|error| format!("member {id} refuses to start: {error}"))?;
        let config = NodeConfig {
            id,
            epoch: replica.epoch,
            seed: self.plan.chaos_ms,
            election_ticks: 10,
            heartbeat_ticks: 1,
            tail,
        };
        let applied = replica.node.applied;
        let hash = replica.machine.view().state_hash();
        let life = Life {
            node: Node::new(config, replica.node, &slog::Logger::root(slog::Discard, slog::o!())),
            log: replica.log,
            disk,
            machine: replica.machine,
            epoch: replica.epoch,
            seq: 0,
            to_persist: VecDeque::new(),
            writing: false,
            snapshot: replica.report.snapshot,
            offered: None,
            calls: BTreeMap::new(),
            reads: BTreeMap::new(),
        };
        machinery.life = Some(life);
        self.report.cuts += u64::from(replica.report.cut.is_some());
        self.note(|| format!("m{id} starts, applied {applied}"));
        self.checker.applied(id, applied, hash)?;
        let phase = self.rng.u64(0..TICK_US);
        self.schedule(phase, Event::Tick { member: id, boot });
        if self.plan.members == 1 {
            self.with(id, boot, |cluster, member, _| cluster.step(member, Input::Campaign))?;
        }
        Ok(())
    }

    /// Kills what the plan says.
    fn strike(&mut self) -> Result<(), String> {
        if !self.chaos {
            return Ok(());
        }
        let all = self.rng.u32(0..1_000) < self.plan.crash_all;
        let power = self.rng.u32(0..1_000) < self.plan.power_loss;
        let one = self.rng.u64(1..=self.plan.members);
        for member in 1..=self.plan.members {
            if (all || member == one) && self.members[&member].life.is_some() {
                self.kill(member, power);
            }
        }
        let after = self.rng.u64(1..=self.plan.crash_ms * 2_000);
        self.schedule(after, Event::Crash);
        Ok(())
    }

    fn kill(&mut self, member: u64, power: bool) {
        let machinery = self.members.get_mut(&member).expect("members are never removed");
        let life = machinery.life.take().expect("the caller has looked");
        self.report.unknown += life.calls.len() as u64;
        drop(life);
        let rng = &mut self.rng;
        machinery.disk = if power { machinery.disk.power_loss(|| rng.bool()) } else { machinery.disk.crash() };
        // A failure that was armed and not reached is not the next process'.
        machinery.disk.fail_at(u64::MAX);
        self.report.crashes += 1;
        self.report.power_losses += u64::from(power);
        self.note(|| format!("m{member} dies{}", if power { " with its machine" } else { "" }));
        let after = self.rng.u64(1_000..=3_000_000);
        self.schedule(after, Event::Restart(member));
    }

    fn end_faults(&mut self) -> Result<(), String> {
        self.chaos = false;
        self.network.heal();
        self.note(|| "faults end".into());
        for id in 1..=self.plan.members {
            // A failure that was armed and not reached must not strike now.
            if let Some(life) = &self.members[&id].life {
                life.disk.fail_at(u64::MAX);
                life.disk.stop_at(u64::MAX);
            } else {
                self.start(id)?;
            }
        }
        Ok(())
    }

    /// Whether all members run and have applied the same, to the end of the log.
    fn converged(&self) -> bool {
        let ends: Vec<_> = self
            .members
            .values()
            .map(|member| {
                let life = member.life.as_ref()?;
                Some((life.machine.view().applied_index(), life.node.last_index()))
            })
            .collect();
        let first = ends[0];
        first.is_some_and(|(applied, last)| applied == last) && ends.iter().all(|end| *end == first)
    }

    /// Steps a member and does what follows from it.
    fn step(&mut self, member: u64, input: Input) -> Step {
        // A member refuses what a deposed leader still says.
        let _ = self.life(member).node.step(input);
        self.settle(member)
    }

    fn settle(&mut self, member: u64) -> Step {
        loop {
            let effects = self.life(member).node.poll();
            if effects.is_empty() {
                return Ok(());
            }
            self.effects(member, effects)?;
        }
    }

    fn effects(&mut self, member: u64, effects: Effects) -> Step {
        if let Some(leadership) = effects.leadership {
            self.note(|| format!("m{member} sees leader {} in term {}", leadership.leader, leadership.term));
            if leadership.leader == member {
                self.checker.leader(leadership.term, member)?;
            }
        }
        for envelope in effects.messages {
            self.send(envelope.from, envelope.to, || Event::Deliver(envelope.clone()));
        }
        if let Some(persist) = effects.persist {
            self.life(member).to_persist.push_back(persist);
            self.write(member);
        }
        if !effects.committed.is_empty() {
            self.apply(member, &effects.committed)?;
        }
        if let Some(at) = effects.install {
            self.install(member, at)?;
        }
        let life = self.life(member);
        if effects.snapshot_wanted {
            let at = life.machine.applied();
            life.offered = Some((at, life.machine.image()));
            let _ = life.node.step(Input::SnapshotReady(at, life.machine.membership()));
        }
        for (read, index) in effects.reads_ready {
            if let Some(read) = life.reads.get_mut(&read) {
                read.1 = Some(index);
            }
        }
        // A write that was not taken is in no log: its client knows.
        for rejected in &effects.rejected {
            let commands = kv_codec::command::Batch::decode(&rejected.batch).into_iter().flatten().flatten();
            commands.for_each(|command| drop(life.calls.remove(&command.header.seq)));
        }
        for to_send in effects.snapshots_to_send {
            self.send_snapshot(member, to_send.at, to_send.message);
        }
        self.serve_reads(member)
    }

    fn send(&mut self, from: u64, to: u64, event: impl Fn() -> Event) {
        for after in self.network.copies(&self.plan, &mut self.rng, from, to) {
            self.schedule(after, event());
        }
    }

    fn send_snapshot(&mut self, member: u64, at: Position, message: Envelope) {
        let to = message.to;
        match self.life(member).offered.clone() {
            Some((offered, image)) if offered == at => {
                let before = self.scheduled;
                self.send(member, to, || Event::DeliverSnapshot(message.clone(), Box::new(image.clone())));
                if self.scheduled == before {
                    let _ = self.life(member).node.step(Input::SnapshotSent { to, ok: false });
                }
            }
            _ => drop(self.life(member).node.step(Input::SnapshotSent { to, ok: false })),
        }
    }

    fn receive_snapshot(&mut self, member: u64, message: Envelope, image: &View) -> Step {
        let at = Position { index: image.applied_index(), term: image.applied_term() };
        let life = self.life(member);
        // One that is being installed is not written over.
        if at > life.snapshot && at > life.machine.applied() {
            write_snapshot::<Machine, _>(life.disk.as_ref(), CLUSTER_ID, at, image).map_err(|_| Died)?;
            self.step(member, Input::Message(message))?;
        }
        Ok(())
    }

    fn install(&mut self, member: u64, at: Position) -> Step {
        let life = self.life(member);
        let installed = install_snapshot(&life.disk, CLUSTER_ID, at, &mut life.machine);
        installed.map_err(|error| match error {
            RecoverError::Snapshot(SnapshotError::Io { .. }) => Fault::Died,
            error => Fault::Broken(format!("member {member} cannot install snapshot {}: {error}", at.index)),
        })?;
        life.machine.publish();
        life.snapshot = at;
        let _ = life.node.step(Input::SnapshotInstalled(at.index));
        life.log.release(at.index).map_err(|_| Died)?;
        let hash = life.machine.view().state_hash();
        self.checker.applied(member, at.index, hash)?;
        self.report.installs += 1;
        self.note(|| format!("m{member} installs snapshot {}", at.index));
        Ok(())
    }

    /// Begins a write of everything that waits, unless one is under way.
    fn write(&mut self, member: u64) {
        let life = self.life(member);
        if !life.writing {
            life.writing = true;
            let boot = self.members[&member].boot;
            let after = self.rng.u64(20..=20 + self.plan.write_us_max);
            self.schedule(after, Event::Written { member, boot });
        }
    }

    fn written(&mut self, member: u64) -> Step {
        let fails = self.chaos && self.rng.u32(0..1_000) < self.plan.disk_error;
        let (stops, later) = (self.rng.bool(), self.rng.u64(0..6));
        let life = self.life(member);
        if fails {
            let call = life.disk.calls() + later;
            if stops { life.disk.stop_at(call) } else { life.disk.fail_at(call) }
        }
        life.writing = false;
        let waiting: Vec<_> = life.to_persist.drain(..).collect();
        let Some(ticket) = waiting.last().map(|persist| persist.ticket) else {
            return Ok(());
        };
        let records: Vec<Record> = waiting.into_iter().flat_map(|persist| persist.records).collect();
        life.log.append(&records).map_err(|_| Died)?;
        self.note(|| format!("m{member} persisted {ticket}"));
        self.step(member, Input::Persisted(ticket))
    }

    fn apply(&mut self, member: u64, entries: &[LogEntry]) -> Step {
        let last = entries.last().expect("not empty").index;
        let life = self.life(member);
        let mut responses = Vec::new();
        let mut results: Vec<(u64, Applied)> = Vec::new();
        for entry in entries {
            life.machine.apply(entry, &mut responses).map_err(|error| format!("member {member}: {error}"))?;
            let mut responses = responses.drain(..);
            for command in kv_codec::command::Batch::decode(&entry.payload).into_iter().flatten().flatten() {
                let response = responses.next().expect("one result for each command");
                if (command.header.origin, command.header.epoch) == (member, life.epoch) {
                    results.push((command.header.seq, response));
                }
            }
        }
        life.machine.publish();
        let _ = life.node.step(Input::Applied(last));
        let hash = life.machine.view().state_hash();
        self.note(|| format!("m{member} applied {last}, state {hash:08x}"));
        self.checker.applied(member, last, hash)?;
        for (seq, applied) in results {
            self.answer(member, seq, &applied)?;
        }
        self.maybe_snapshot(member)
    }

    fn answer(&mut self, member: u64, seq: u64, applied: &Applied) -> Step {
        let Some(write) = self.life(member).calls.remove(&seq) else {
            return Ok(());
        };
        match &applied.outcome {
            // A deletion of nothing has no revision of its own.
            Outcome::Deleted { prev } if prev.is_empty() => Ok(()),
            Outcome::Put { .. } | Outcome::Deleted { .. } | Outcome::Txn(_) => {
                Ok(self.checker.acked(applied.revision, write)?)
            }
            other => Err(Fault::Broken(format!("{write:?} was answered by {other:?}"))),
        }
    }

    fn maybe_snapshot(&mut self, member: u64) -> Step {
        let entries = self.plan.snapshot_entries;
        let life = self.life(member);
        let at = life.machine.applied();
        if at.index - life.snapshot.index < entries {
            return Ok(());
        }
        let mut taken = || -> Result<(), Died> {
            write_snapshot::<Machine, _>(life.disk.as_ref(), CLUSTER_ID, at, life.machine.view()).map_err(|_| Died)?;
            let mark = SnapshotMark { index: at.index, term: at.term, installed: false };
            life.log.append(&[Record::Snapshot(mark)]).map_err(|_| Died)?;
            life.log.release(at.index).map_err(|_| Died)?;
            snapshots::prune_below(life.disk.as_ref(), at.index).map_err(|_| Died)
        };
        taken()?;
        life.snapshot = at;
        Ok(())
    }

    /// What a member does between two steps of work.
    fn idle(&mut self, member: u64) -> Step {
        let (durable, spare, maintains) = (self.rng.bool(), self.rng.bool(), self.rng.bool());
        let life = self.life(member);
        if maintains {
            life.machine.maintain();
        }
        if durable && !life.writing {
            life.log.mark_durable().map_err(|_| Died)?;
        }
        if spare && let Some(spec) = life.log.spare_wanted() {
            let spare = spec.prepare(life.disk.as_ref()).map_err(|_| Died)?;
            life.log.add_spare(spare);
        }
        Ok(())
    }

    /// A client of `member` writes or reads.
    fn call(&mut self, member: u64) -> Step {
        let (kind, key, compacts) = (self.rng.u8(0..10), self.rng.u64(0..KEYS), self.rng.u8(0..16) == 0);
        let key = format!("key{key:02}").into_bytes();
        let at_least = self.checker.acked_revision();
        self.value += 1;
        let value = format!("value{}", self.value).into_bytes();
        let life = self.life(member);
        life.seq += 1;
        let seq = life.seq;
        if kind < 3 {
            life.reads.insert(seq, (at_least, None));
            return self.step(member, Input::Read(seq));
        }
        let put = Put { key: &key, value: &value, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
        let (body, write) = match kind {
            3 => {
                let delete = DeleteRange { key: &key, range_end: b"", prev_kv: false };
                (Body::DeleteRange(delete), Some(Acked { key: key.clone(), value: None }))
            }
            4 if compacts => (Body::Compact { revision: at_least - 5 }, None),
            5 => {
                // Either case puts: what is checked is that exactly one of them does.
                let exists = CompareTarget::Version(0);
                let exists = Compare { key: &key, range_end: b"", result: CompareResult::Greater, target: exists };
                let (success, failure) = (vec![Op::Put(put)], vec![Op::Put(put)]);
                let txn = Txn { compare: vec![exists], success, failure };
                (Body::Txn(txn), Some(Acked { key: key.clone(), value: Some(value.clone()) }))
            }
            _ => (Body::Put(put), Some(Acked { key: key.clone(), value: Some(value.clone()) })),
        };
        let header = CommandHeader { origin: member, epoch: life.epoch, seq, ..CommandHeader::default() };
        let mut batch = BatchBuilder::default();
        batch.push(&body.encode(&header));
        if let Some(write) = write {
            life.calls.insert(seq, write);
        }
        self.step(member, Input::Propose(batch.finish()))
    }

    /// Serves the reads whose index is applied.
    fn serve_reads(&mut self, member: u64) -> Step {
        let life = self.life(member);
        let applied = life.machine.view().applied_index();
        let revision = life.machine.view().revision();
        let ready = |read: &(i64, Option<u64>)| read.1.is_some_and(|index| index <= applied);
        let served: Vec<(u64, i64)> =
            life.reads.iter().filter(|(_, read)| ready(read)).map(|(id, read)| (*id, read.0)).collect();
        for (id, at_least) in served {
            self.life(member).reads.remove(&id);
            self.report.reads += 1;
            self.checker.read(member, at_least, revision)?;
        }
        Ok(())
    }
}

/// FNV-1a, for telling traces apart.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
