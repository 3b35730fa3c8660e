//! A member's process: what the driver does in a server, one event at a time on the simulated clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kv_codec::member::Member as MemberRecord;
use kv_codec::planted::{Bug, is_planted};
use kv_raft::snapshots::SnapshotError;
use kv_raft::{
    Effects, Envelope, FileLog, Input, LogEntry, LogError, LogIds, LogOptions, LogStore, Node, NodeConfig, Origin,
    Persist, Position, Record, RecoverError, RecoverOptions, SnapshotMark, StateMachine, TailLimits, apply_run,
    install_snapshot, recover, snapshots, write_snapshot,
};
use kv_store::{Members, Store, View};

use super::{CLUSTER_ID, Cluster, Died, Event, Fate, Fault, Host, TICK_US, Work};
use crate::checker::HASH_EVERY;
use crate::disk::SimDisk;
use crate::history::CallId;
use crate::machine::Machine;
use crate::plan::Plan;

/// Payload bytes of the log that stay in memory.
const TAIL_BYTES_MAX: usize = 1 << 20;
/// Writes that may wait for a disk: far above what the slowest one lets pile up here.
const WRITES_WAITING_MAX: usize = 20_000;
/// Calls to a disk within which a process that is about to die in a write does so.
const CALLS_OF_A_WRITE: u64 = 6;
/// Calls to a disk of an append that fits the segment, and one more.
const CALLS_OF_AN_APPEND: u64 = 3;
/// Calls to a disk within which a start is cut short.
const CALLS_OF_A_START: u64 = 60;

/// A member's process.
pub(super) struct Life {
    pub(super) node: Node,
    pub(super) log: FileLog<SimDisk>,
    pub(super) disk: Arc<SimDisk>,
    pub(super) machine: Machine,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    /// Writes that wait for the disk, in order; the first may be one that found it full.
    to_persist: VecDeque<Persist>,
    writing: bool,
    /// What the last snapshot stands for.
    pub(super) snapshot: Position,
    /// A snapshot that is being written.
    snapshot_running: Option<(Position, View)>,
    offered: Option<(Position, Arc<View>)>,
    /// Writes of this process' clients, by sequence number.
    pub(super) calls: BTreeMap<u64, CallId>,
    /// Reads, and the index they wait for.
    pub(super) reads: BTreeMap<u64, (CallId, Option<u64>)>,
    pub(super) removed: bool,
}

impl Life {
    pub(super) fn is_full(&self) -> bool {
        !self.writing && !self.to_persist.is_empty()
    }

    /// Makes one write of all that wait: the last ticket stands for the ones before.
    fn join_waiting(&mut self) {
        let Some(ticket) = self.to_persist.back().map(|persist| persist.ticket) else { return };
        let records = self.to_persist.drain(..).flat_map(|persist| persist.records).collect();
        self.to_persist.push_back(Persist { ticket, records });
    }
}

impl Cluster {
    /// The state that every member starts from, of whatever age: the cluster as it was founded.
    fn genesis(&self) -> Machine {
        let (voters, all) = (self.plan.members, self.plan.members + self.plan.learner);
        let members = (1..=all).map(|id| self.member_record(id, id > voters));
        Machine::new(Store::genesis(Members::new(members, [])))
    }

    #[allow(clippy::unused_self, reason = "it belongs to the cluster's founding")]
    pub(super) fn member_record(&self, id: u64, is_learner: bool) -> MemberRecord {
        let peer_urls = vec![format!("http://m{id}:2380")];
        MemberRecord { id, name: format!("m{id}"), peer_urls, client_urls: vec![], is_learner }
    }

    /// Puts up a machine for a member.
    pub(super) fn add_host(&mut self, id: u64) {
        let rng = &mut self.streams.hosts;
        let disk = SimDisk::new(rng.u64(..));
        let skew = self.plan.skew.min(900);
        let tick_us = TICK_US * rng.u64(1_000 - skew..=1_000 + skew) / 1_000;
        let host = Host {
            disk,
            boot: 0,
            life: None,
            fate: Fate::Well,
            paused_until: 0,
            stalled_until: 0,
            doomed: None,
            tick_us,
        };
        self.hosts.insert(id, host);
    }

    /// Starts a member's process, unless it runs or never will again.
    pub(super) fn start(&mut self, id: u64) -> Result<(), String> {
        let genesis = self.genesis();
        let tail = TailLimits { entries_max: to_usize(self.plan.tail_entries), bytes_max: TAIL_BYTES_MAX };
        let ids = LogIds { cluster_id: CLUSTER_ID, member_id: id };
        let Plan { segment_bytes: segment_bytes_first, segment_bytes_max, .. } = self.plan;
        let log = LogOptions { ids, segment_bytes_first, segment_bytes_max };
        let cut_short = self.chaos && self.streams.disks.u64(0..1_000) < self.plan.recovery_crash;
        let (after, errs) = (self.streams.disks.u64(0..CALLS_OF_A_START), self.streams.disks.u8(0..4) == 0);
        let Some(host) = self.hosts.get_mut(&id).filter(|host| host.life.is_none()) else { return Ok(()) };
        if matches!(host.fate, Fate::Lost | Fate::Removed) {
            return Ok(());
        }
        host.boot += 1;
        let (boot, tick_us) = (host.boot, host.tick_us);
        let disk = Arc::new(host.disk.clone());
        let call = disk.calls() + after;
        if cut_short {
            if errs { disk.fail_at(call) } else { disk.stop_at(call) }
        }
        let recovered = recover(&disk, &RecoverOptions { log, tail }, genesis);
        let met = cut_short && disk.calls() > call;
        disk.fail_at(u64::MAX);
        disk.stop_at(u64::MAX);
        let replica = match recovered {
            Ok(replica) => replica,
            Err(error) => return self.start_failed(id, &error, met),
        };
        let host = self.host(id);
        host.fate = Fate::Well;
        let config = NodeConfig {
            id,
            epoch: replica.epoch,
            seed: boot,
            election_ticks: to_usize(self.plan.election_ticks),
            heartbeat_ticks: 1,
            tail,
        };
        self.checker.recovered(id, &replica.node)?;
        let applied = replica.node.applied;
        let removed = replica.machine.view().members().removed().any(|left| left == id);
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
            snapshot_running: None,
            offered: None,
            calls: BTreeMap::new(),
            reads: BTreeMap::new(),
            removed,
        };
        self.host(id).life = Some(life);
        self.report.counts.torn_cut += u64::from(replica.report.cut.is_some());
        self.note(format_args!("m{id} starts, applied {applied}"));
        self.note_recovered(id)?;
        self.compare_state(id)?;
        self.meet_members(id);
        let phase = self.streams.hosts.u64(0..tick_us);
        self.schedule(phase, Event::Tick { member: id, boot });
        self.with(id, Some(boot), |cluster| {
            let alone = cluster.life(id).node.membership().voters == [id];
            if alone { cluster.step(id, Input::Campaign) } else { Ok(()) }
        })
    }

    /// A start may be the first to apply what was committed in the last moments before: it counts as applied from there on.
    fn note_recovered(&mut self, id: u64) -> Result<(), String> {
        let known = self.history.last_index();
        let life = self.hosts.get_mut(&id).and_then(|host| host.life.as_mut()).expect("it was just started");
        let (applied, term) = (life.machine.applied().index, life.node.leadership().term);
        let mut entries = Vec::new();
        if applied > known {
            let replayed = life.log.replay(known, &mut |entry| {
                entries.push(entry);
                Ok(())
            });
            replayed.map_err(|error| format!("member {id} cannot read its log again: {error}"))?;
        }
        for entry in entries.iter().filter(|entry| entry.index <= applied) {
            self.checker.applies(id, term, entry)?;
            self.history.committed(entry)?;
        }
        Ok(())
    }

    /// A start that did not succeed: cut short by us, refused for damage that we did, or a violation.
    fn start_failed(&mut self, id: u64, error: &RecoverError, cut_short: bool) -> Result<(), String> {
        let damaged = self.host(id).fate == Fate::Damaged;
        if cut_short && is_io(error) {
            self.report.counts.recoveries_cut += 1;
            let rng = &mut self.streams.disks;
            let power = rng.bool();
            let after = rng.u64(1_000..=500_000);
            self.take_down(id, power);
            self.note(format_args!("m{id} is cut short in its start"));
            self.schedule(after, Event::Restart(id));
            return Ok(());
        }
        if damaged {
            self.report.counts.damage_refused += 1;
            self.host(id).fate = Fate::Lost;
            self.note(format_args!("m{id} refuses to start: {error}"));
            return Ok(());
        }
        if matches!(error, RecoverError::Log(LogError::Full { .. })) {
            self.schedule(TICK_US, Event::Restart(id));
            return Ok(());
        }
        Err(format!("member {id} refuses to start: {error}"))
    }

    /// Ends a process.
    pub(super) fn kill(&mut self, member: u64, power: bool) {
        let after = self.streams.disks.u64(1_000..=3_000_000);
        let reused = self.host(member).life.take().map_or(0, |life| life.log.stats().segments_reused);
        self.take_down(member, power);
        self.report.counts.segments_reused += reused;
        self.report.counts.crashes += 1;
        self.report.counts.power_losses += u64::from(power);
        self.note(format_args!("m{member} dies{}", if power { " with its machine" } else { "" }));
        if !power {
            self.announce_end(member);
        }
        self.schedule(after, Event::Restart(member));
    }

    /// The machine of a process that has ended closes its connections.
    fn announce_end(&mut self, gone: u64) {
        let others: Vec<u64> = self.hosts.keys().copied().filter(|id| *id != gone).collect();
        for to in others {
            self.send(gone, to, || Event::Gone { to, gone });
        }
    }

    /// What the disk holds once nobody holds it.
    fn take_down(&mut self, member: u64, power: bool) {
        let by_pages = self.streams.disks.u64(0..1_000) < self.plan.by_pages;
        let by_words = self.streams.disks.u64(0..1_000) < self.plan.by_words;
        let rng = &mut self.streams.disks;
        let host = self.hosts.get_mut(&member).expect("the caller knows the member");
        host.disk = match (power, by_pages, by_words) {
            (false, ..) => host.disk.crash(),
            (true, true, _) => host.disk.power_loss_by_pages(rng),
            (true, false, true) => host.disk.power_loss_by_words(rng),
            (true, false, false) => host.disk.power_loss(|| rng.bool()),
        };
        // A failure that was armed and not reached is not the next process'.
        host.disk.fail_at(u64::MAX);
        host.disk.stop_at(u64::MAX);
        host.paused_until = 0;
        host.doomed = None;
    }

    /// The process of a member that left ends once a quorum of the others knows: until then they may need its vote to find out.
    pub(super) fn maybe_retire(&mut self, member: u64) {
        let voters = self.life(member).machine.membership().voters;
        let knows = |id: &&u64| {
            let life = self.hosts.get(id).and_then(|host| host.life.as_ref());
            life.is_some_and(|life| life.node.membership().voters.iter().all(|voter| *voter != member))
        };
        if voters.iter().filter(knows).count() <= voters.len() / 2 {
            return;
        }
        let host = self.host(member);
        host.life = None;
        host.fate = Fate::Removed;
        self.note(format_args!("m{member} has left"));
    }

    pub(super) fn tick(&mut self, member: u64, boot: u64) -> Work {
        let tick_us = self.host(member).tick_us;
        self.schedule(tick_us, Event::Tick { member, boot });
        self.idle(member)?;
        if self.life(member).is_full() {
            self.begin_write(member);
        }
        self.step(member, Input::Tick)
    }

    /// What a member does between two rounds of work.
    fn idle(&mut self, member: u64) -> Work {
        let rng = &mut self.streams.disks;
        let (durable, spare, maintains) = (rng.bool(), rng.bool(), rng.bool());
        let retires = rng.u8(0..4) == 0;
        let life = self.life(member);
        if maintains {
            life.machine.maintain();
        }
        if durable && !life.writing && life.to_persist.is_empty() {
            life.log.mark_durable().map_err(|_| Died)?;
        }
        if retires && let Some(retirement) = life.log.retirement() {
            let retired = retirement.run(life.disk.as_ref()).map_err(|_| Died)?;
            life.log.add_retired(retired);
        }
        if spare && let Some(spec) = life.log.spare_wanted() {
            match spec.prepare(life.disk.as_ref()) {
                Ok(spare) => life.log.add_spare(spare),
                Err(LogError::Full { .. }) => {}
                Err(_) => return Err(Fault::Died),
            }
        }
        self.maybe_snapshot(member);
        Ok(())
    }

    /// Steps a member and does what follows from it.
    pub(super) fn step(&mut self, member: u64, input: Input) -> Work {
        // A member refuses what a deposed leader still says.
        let _ = self.life(member).node.step(input);
        loop {
            let effects = self.life(member).node.poll();
            if effects.is_empty() {
                return Ok(());
            }
            self.effects(member, effects)?;
        }
    }

    fn effects(&mut self, member: u64, effects: Effects) -> Work {
        if let Some(leadership) = effects.leadership {
            self.note(format_args!("m{member} sees leader {} in term {}", leadership.leader, leadership.term));
            let life = self.hosts[&member].life.as_ref().expect("it has effects");
            self.report.counts.elections_in_flight += u64::from(leadership.leader != 0 && !life.calls.is_empty());
            if leadership.leader == member {
                let node = &life.node;
                self.checker.leader(leadership.term, member, node.last_index(), |index| node.term_at(index))?;
            }
        }
        for envelope in effects.messages {
            self.checker.sent(&envelope)?;
            let carried = carried(&envelope)?;
            self.send(envelope.from, envelope.to, || Event::Deliver(carried.clone()));
        }
        for rejected in &effects.rejected {
            // A write that was not taken is in no log: its client knows.
            self.refuse(member, &rejected.batch);
        }
        if let Some(persist) = effects.persist {
            let life = self.life(member);
            let blocked = life.is_full();
            life.to_persist.push_back(persist);
            if life.to_persist.len() > WRITES_WAITING_MAX {
                return Err(Fault::Broken(format!("member {member} lets {} writes wait", life.to_persist.len())));
            }
            if !blocked {
                self.begin_write(member);
            }
        }
        if !effects.committed.is_empty() {
            self.apply(member, effects.committed)?;
        }
        if let Some(at) = effects.install {
            self.install(member, at)?;
        }
        let life = self.life(member);
        if effects.snapshot_wanted {
            let at = life.machine.applied();
            life.offered = Some((at, Arc::new(life.machine.image())));
            let _ = life.node.step(Input::SnapshotReady(at, life.machine.membership()));
        }
        life.removed |= effects.removed;
        for (read, index) in effects.reads_ready {
            if let Some(read) = life.reads.get_mut(&read) {
                read.1 = Some(index);
            }
        }
        for to_send in effects.snapshots_to_send {
            self.send_snapshot(member, to_send.at, to_send.message)?;
        }
        self.serve_reads(member);
        Ok(())
    }

    fn send(&mut self, from: u64, to: u64, event: impl Fn() -> Event) -> bool {
        let copies = self.network.copies(&self.plan, &mut self.streams.network, self.now, from, to);
        for after in &copies {
            self.schedule(*after, event());
        }
        !copies.is_empty()
    }

    fn send_snapshot(&mut self, member: u64, at: Position, message: Envelope) -> Work {
        self.checker.sent(&message)?;
        let message = carried(&message)?;
        let to = message.to;
        let sent = match self.life(member).offered.clone() {
            Some((offered, image)) if offered == at => {
                self.send(member, to, || Event::DeliverSnapshot(message.clone(), Arc::clone(&image)))
            }
            _ => false,
        };
        if !sent {
            let _ = self.life(member).node.step(Input::SnapshotSent { to, ok: false });
        }
        Ok(())
    }

    pub(super) fn receive_snapshot(&mut self, member: u64, message: Envelope, image: &View) -> Work {
        let at = Position { index: image.applied_index(), term: image.applied_term() };
        let life = self.life(member);
        // One that is being installed is not written over.
        if at <= life.snapshot || at <= life.machine.applied() {
            return Ok(());
        }
        let overlaps = life.snapshot_running.is_some();
        match write_snapshot::<Machine, _>(life.disk.as_ref(), CLUSTER_ID, at, image) {
            Ok(_) => {}
            Err(error) if error.is_full() => return Ok(()),
            Err(_) => return Err(Fault::Died),
        }
        self.report.counts.overlapping += u64::from(overlaps);
        self.step(member, Input::Message(message))
    }

    fn install(&mut self, member: u64, at: Position) -> Work {
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
        snapshots::prune_below(life.disk.as_ref(), at.index).map_err(|_| Died)?;
        self.report.counts.installs += 1;
        self.note(format_args!("m{member} installs snapshot {}", at.index));
        self.compare_state(member)?;
        Ok(())
    }

    /// Begins a write of what waits, unless one is under way.
    fn begin_write(&mut self, member: u64) {
        let boot = self.host(member).boot;
        let life = self.life(member);
        if !life.writing {
            life.writing = true;
            let after = self.streams.disks.u64(20..=20 + self.plan.write_us_max);
            self.schedule(after, Event::Written { member, boot });
        }
    }

    pub(super) fn written(&mut self, member: u64) -> Work {
        let rng = &mut self.streams.disks;
        let fails = rng.u64(0..1_000) < self.plan.disk_error && self.chaos;
        let (stops, later) = (rng.bool(), rng.u64(0..CALLS_OF_A_WRITE));
        let in_write = rng.u64(0..CALLS_OF_AN_APPEND);
        let joins = rng.bool();
        let doomed = self.host(member).doomed.is_some();
        let (fails, stops) = (fails || doomed, stops || doomed);
        let later = if doomed { in_write } else { later };
        let life = self.life(member);
        if fails {
            let call = life.disk.calls() + later;
            if stops { life.disk.stop_at(call) } else { life.disk.fail_at(call) }
        }
        life.writing = false;
        if joins {
            life.join_waiting();
        }
        for _ in 0..life.to_persist.len() {
            let Some(persist) = self.life(member).to_persist.pop_front() else { break };
            match self.append(member, &persist.records)? {
                true => {
                    self.note(format_args!("m{member} persisted {}", persist.ticket));
                    self.step(member, Input::Persisted(persist.ticket))?;
                }
                false => {
                    self.life(member).to_persist.push_front(persist);
                    return Ok(());
                }
            }
        }
        // What the steps above asked for in the meantime.
        if !self.life(member).to_persist.is_empty() {
            self.begin_write(member);
        }
        Ok(())
    }

    /// Appends to the log; false when the disk is full.
    fn append(&mut self, member: u64, records: &[Record]) -> Work<bool> {
        self.checker.writes(member, records);
        let life = self.life(member);
        match life.log.append(records) {
            Ok(()) => {
                self.checker.wrote(member, records)?;
                Ok(true)
            }
            Err(LogError::Full { .. }) => {
                self.checker.did_not_write(member);
                Ok(false)
            }
            Err(_) => Err(Fault::Died),
        }
    }

    fn apply(&mut self, member: u64, mut entries: Vec<LogEntry>) -> Work {
        // Runs end where states are compared.
        while !entries.is_empty() {
            let length = entries
                .iter()
                .position(|entry| entry.index.is_multiple_of(HASH_EVERY))
                .map_or(entries.len(), |at| at + 1);
            let rest = entries.split_off(length);
            self.apply_some(member, &entries)?;
            entries = rest;
        }
        Ok(())
    }

    fn apply_some(&mut self, member: u64, entries: &[LogEntry]) -> Work {
        let life = self.hosts.get_mut(&member).and_then(|host| host.life.as_mut()).expect("it has effects");
        let term = life.node.leadership().term;
        for entry in entries {
            self.checker.applies(member, term, entry)?;
            self.history.committed(entry)?;
        }
        let origin = Origin { id: member, epoch: life.epoch };
        let run = apply_run(&mut life.machine, origin, entries);
        let run = run.map_err(|error| format!("member {member}: {error}"))?;
        let last = entries.last().expect("a run has at least one entry").index;
        let change = match &run.input {
            Input::ConfApplied { change, .. } => *change,
            _ => None,
        };
        let voters = life.machine.membership().voters;
        let _ = life.node.step(run.input);
        self.note(format_args!("m{member} applied {last}"));
        if last.is_multiple_of(HASH_EVERY) {
            self.compare_state(member)?;
        }
        if let Some(change) = change {
            self.checker.voters(last, voters);
            self.changed(member, last, change)?;
        }
        for (seq, applied) in run.results {
            self.answer(member, seq, &applied)?;
        }
        self.maybe_snapshot(member);
        Ok(())
    }

    pub(super) fn compare_state(&mut self, member: u64) -> Result<(), String> {
        let view = self.life(member).machine.view();
        let (index, state, revision) = (view.applied_index(), view.state_hash(), view.revision());
        self.note(format_args!("m{member} state {state:08x} at {index}"));
        self.checker.state(member, index, state, revision)
    }

    /// Begins a snapshot when enough was applied since the last one.
    fn maybe_snapshot(&mut self, member: u64) {
        let (entries, longest) = (self.plan.snapshot_entries, self.plan.snapshot_ms_max);
        let boot = self.host(member).boot;
        let life = self.life(member);
        let at = life.machine.applied();
        if at.index - life.snapshot.index < entries || life.snapshot_running.is_some() || life.is_full() {
            return;
        }
        life.snapshot_running = Some((at, life.machine.image()));
        let after = self.streams.disks.u64(100..=longest * 1_000 + 100);
        self.schedule(after, Event::SnapshotDone { member, boot });
    }

    /// A snapshot is written: from here on it stands for the log.
    pub(super) fn snapshot_done(&mut self, member: u64) -> Work {
        let life = self.life(member);
        let (at, image) = life.snapshot_running.take().expect("one was begun");
        let overtaken = at <= life.snapshot;
        self.report.counts.overlapping += u64::from(overtaken);
        if is_planted(Bug::MarkBeforeSnapshot) && !overtaken {
            self.switch_to_snapshot(member, at)?;
        }
        let life = self.life(member);
        match write_snapshot::<Machine, _>(life.disk.as_ref(), CLUSTER_ID, at, &image) {
            Ok(_) => {}
            Err(error) if error.is_full() => return Ok(()),
            Err(_) => return Err(Fault::Died),
        }
        // A received snapshot may have overtaken this one.
        if at > self.life(member).snapshot {
            self.switch_to_snapshot(member, at)?;
        }
        let life = self.life(member);
        snapshots::prune_below(life.disk.as_ref(), life.snapshot.index).map_err(|_| Died)?;
        Ok(())
    }

    fn switch_to_snapshot(&mut self, member: u64, at: Position) -> Work {
        let mark = SnapshotMark { index: at.index, term: at.term, installed: false };
        if !self.append(member, &[Record::Snapshot(mark)])? {
            return Ok(());
        }
        let life = self.life(member);
        life.log.release(at.index).map_err(|_| Died)?;
        life.snapshot = at;
        self.report.counts.snapshots += 1;
        Ok(())
    }
}

fn is_io(error: &RecoverError) -> bool {
    matches!(error, RecoverError::Log(LogError::Io { .. }) | RecoverError::Snapshot(SnapshotError::Io { .. }))
        || error.to_string().starts_with("cannot ")
}

/// A knob as a length.
fn to_usize(knob: u64) -> usize {
    usize::try_from(knob).expect("knobs are small")
}

/// A message as it arrives: its bytes, read again.
fn carried(envelope: &Envelope) -> Result<Envelope, String> {
    Envelope::decode(&envelope.encode().into()).map_err(|error| format!("{envelope:?} cannot be read again: {error}"))
}
