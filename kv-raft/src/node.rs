//! One member's consensus, as a pure value: inputs in, effects out.

mod elections;
mod proposals;
mod ready;

use std::collections::VecDeque;

use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::{HardState, LogEntry};
use raft::eraftpb::{ConfChangeType, Message, MessageType};
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole, Storage};
use slog::{Logger, info, warn};

use crate::forward::{Gate, Span};
use crate::io::{ConfChange, Effects, Envelope, Input, Leadership, Membership, PeerMessage, Persist, Ticket};
use crate::reads::{Asker, Reads};
use crate::tail::{Position, Tail, TailLimits, to_raft_entry};
use crate::validate::{MessageError, check};
use elections::Hurry;

/// Payload bytes of one append message (etcd's 1 MiB).
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Payload bytes handed over for applying at once.
const COMMITTED_BYTES_MAX: u64 = 16 << 20;
/// Payload bytes that may be proposed and not committed.
const UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;
/// Ticks without an answer before a follower asks its leader again for a read round: more than a round trip takes, and far less than an
/// election.
const ASK_AGAIN_TICKS: u64 = 2;
/// Append messages in flight to one follower (etcd's 512).
const INFLIGHT_MESSAGES_MAX: usize = 512;

/// What makes one node differ from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeConfig {
    /// The member's id, not 0.
    pub id: u64,
    /// Which run of the member this is; higher at each start.
    pub epoch: u64,
    /// Spreads election timeouts. The same seed repeats the same elections.
    pub seed: u64,
    /// Ticks without a leader before a follower stands for election, at least.
    pub election_ticks: usize,
    /// Ticks between two heartbeats.
    pub heartbeat_ticks: usize,
    /// How much of the log stays in memory.
    pub tail: TailLimits,
}

impl NodeConfig {
    /// A heartbeat each tick and an election after ten without one, as etcd has it. Members that share a seed (0 here) still draw
    /// different election timeouts: their ids differ.
    #[must_use]
    pub fn new(id: u64, epoch: u64) -> Self {
        Self { id, epoch, seed: 0, election_ticks: 10, heartbeat_ticks: 1, tail: TailLimits::default() }
    }
}

/// What a node starts from: the state machine's state and the log above it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// The entry below the first of `entries`.
    pub base: Position,
    /// The log above `base`, to its end.
    pub entries: Vec<LogEntry>,
    /// Term, vote and commit as they are on disk.
    pub hard_state: HardState,
    /// The last entry that the state machine has applied; all of it is committed.
    pub applied: u64,
    /// The membership in the state machine.
    pub membership: Membership,
}

/// One member's consensus.
///
/// * A message that promises something about the disk leaves only after the write it promises is [`Input::Persisted`].
/// * While a new term or vote is not durable, no message leaves at all.
/// * Nothing but a change of term, vote, log or snapshot causes a write, and a membership change that is about to be applied: it is
///   durable as committed before, so that a member that has applied one never comes back without it.
/// * A proposal is stepped on the leader only: raft's own forwarding never happens.
/// * A second membership change is refused until the first is applied, and so is the promotion of a learner that lacks much of the log.
/// * It does not stand for election between a snapshot's arrival and its install: raft would look for entries that the snapshot
///   replaced. Nor, as the only voter, before its whole log is durable.
/// * Entries after a conf change come out only once it is [`Input::ConfApplied`], and after an install only once it is
///   [`Input::SnapshotInstalled`].
/// * Raft's membership equals the state machine's after every change.
pub struct Node {
    config: NodeConfig,
    raw: RawNode<Tail>,
    log: Logger,
    ticks: u64,
    reads: Reads,
    gate: Gate,
    /// What the next poll gives.
    effects: Effects,
    /// The last ticket that waits for the disk, and the last that came back.
    asked: Ticket,
    persisted: Ticket,
    /// The ticket of the last change of term or vote.
    vote_ticket: Ticket,
    /// Messages and the ticket each waits for; tickets rise.
    held: VecDeque<(Ticket, Message)>,
    /// The hard state as it was last written.
    written: HardState,
    /// Committed entries that have not been handed over, and the ticket each waits for.
    to_apply: VecDeque<(LogEntry, Ticket)>,
    /// Nothing is handed over before this conf change is applied.
    conf_gate: Option<u64>,
    /// Nothing is handed over before this snapshot is installed: its place, its ticket, whether it was asked for.
    install_gate: Option<(Position, Ticket, bool)>,
    leadership: Leadership,
    /// What was sent to the leader since the last tick may be lost.
    leader_missed: bool,
    /// The leader's process has ended, and no other leads yet.
    hurry: Option<Hurry>,
    /// The last term in which this member led and handed over to be removed.
    handed_over: u64,
    removed: bool,
}

impl Node {
    /// A node that goes on from `state`. It does nothing before its first input.
    ///
    /// # Panics
    /// When `state` contradicts itself (entries that do not follow `base`, a commit beyond the log's end).
    #[must_use]
    pub fn new(config: NodeConfig, state: NodeState, log: &Logger) -> Self {
        let mut tail = Tail::new(state.base, state.hard_state, state.membership, config.tail);
        tail.append(state.entries.into_iter().map(to_raft_entry));
        let raft_config = raft::Config {
            id: config.id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: if is_planted(Bug::StartFromIndexZero) { 0 } else { state.applied },
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            // A paused leader wakes up inside what it thinks is its lease: never serve reads from one.
            read_only_option: ReadOnlyOption::Safe,
            ..raft::Config::default()
        };
        let raw = RawNode::new(&raft_config, tail, log).expect("the state was checked at recovery");
        let leadership = Leadership { term: raw.raft.term, leader: 0 };
        let mut node = Self {
            config,
            raw,
            log: log.clone(),
            ticks: 0,
            reads: Reads::new(config.id, config.epoch),
            gate: Gate::new(state.hard_state.term),
            effects: Effects::default(),
            asked: 0,
            persisted: 0,
            vote_ticket: 0,
            held: VecDeque::new(),
            written: state.hard_state,
            to_apply: VecDeque::new(),
            conf_gate: None,
            install_gate: None,
            leadership,
            leader_missed: false,
            hurry: None,
            handed_over: 0,
            removed: false,
        };
        node.set_election_timeout();
        node
    }

    /// Takes one input. What follows from it comes out of the next [`Node::poll`].
    ///
    /// # Errors
    /// [`MessageError`] for a peer's message that no correct member sends; it had no effect.
    pub fn step(&mut self, input: Input) -> Result<(), MessageError> {
        let outcome = self.dispatch(input);
        self.set_election_timeout();
        outcome
    }

    fn dispatch(&mut self, input: Input) -> Result<(), MessageError> {
        match input {
            Input::Tick => self.tick(),
            Input::Message(envelope) => return self.receive(envelope),
            Input::Propose(batch) => self.propose(batch),
            Input::ProposeConfChange(change, batch) => self.propose_conf_change(change, batch),
            Input::Read(read) => {
                if !self.reads.join(Asker::Local(read)) {
                    self.effects.reads_dropped.push(read);
                }
            }
            Input::Persisted(ticket) => self.on_persisted(ticket),
            Input::Applied(index) => self.on_applied(index),
            Input::ConfApplied { index, change, membership } => self.on_conf_applied(index, change, &membership),
            Input::SnapshotReady(at, membership) => self.raw.mut_store().offer_snapshot(at, membership),
            Input::SnapshotInstalled(index) => self.on_installed(index),
            Input::SnapshotSent { to, ok } => {
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raw.report_snapshot(to, status);
            }
            Input::Unreachable(peer) => {
                self.raw.report_unreachable(peer);
                self.leader_missed |= peer == self.raw.raft.leader_id;
            }
            Input::Gone(peer) => self.on_gone(peer),
            Input::Transfer(to) => {
                // On a follower raft would forward it; who asks a follower asks the leader instead.
                if self.is_leader() {
                    self.raw.transfer_leader(to);
                }
            }
            Input::HandOver => {
                // Nobody is told when there is no other: whoever asked looks at who leads.
                self.hand_over_leadership();
            }
            Input::Campaign => {
                // Raft would elect a member that knows of no voter yet.
                if self.may_stand() && self.raw.raft.promotable() {
                    // An error means that raft will not stand: it leads already.
                    drop(self.raw.campaign());
                }
            }
        }
        Ok(())
    }

    /// What is to be done now.
    pub fn poll(&mut self) -> Effects {
        // Reads of an earlier leader's rounds join the round that starts here.
        self.note_leadership();
        let mut records = Vec::new();
        self.start_read_round();
        loop {
            while self.raw.has_ready() {
                self.take_ready(&mut records);
            }
            // What waited for a round that ended here has its own at once.
            if !self.start_read_round() {
                break;
            }
        }
        if !records.is_empty() {
            self.effects.persist = Some(Persist { ticket: self.asked, records });
        }
        self.effects.snapshot_wanted |= self.raw.store().take_snapshot_wanted();
        self.hand_over();
        self.note_leadership();
        std::mem::take(&mut self.effects)
    }

    /// Whether this member leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether this member leads alone, without a learner even, and has applied an entry of its own term: a read of the published
    /// view is then linearizable without a round. A learner may have applied, and shown, what is committed here and not yet applied.
    #[must_use]
    pub fn is_lone_leader(&self) -> bool {
        let raft = &self.raw.raft;
        let alone = raft.prs().is_singleton() && raft.prs().conf().learners().is_empty();
        let alone = alone || is_planted(Bug::StaleLeaderRead);
        let caught_up = raft.apply_to_current_term() || is_planted(Bug::EarlyLoneLeader);
        self.is_leader() && alone && caught_up
    }

    /// Who leads in which term.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        Leadership { term: self.raw.raft.term, leader: self.raw.raft.leader_id }
    }

    /// The last committed index.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// The last index that raft knows to be applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.raw.raft.raft_log.applied
    }

    /// The last index of the log, durable or not.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// The term of the entry at `index`, if it is still in memory.
    #[must_use]
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.raw.store().term(index).ok()
    }

    /// The membership that raft works with.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let conf = self.raw.raft.prs().conf().to_conf_state();
        let sorted = |mut ids: Vec<u64>| {
            ids.sort_unstable();
            ids
        };
        Membership { voters: sorted(conf.voters), learners: sorted(conf.learners) }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        if self.is_leader() || self.may_stand() {
            self.raw.tick();
        }
        let missed = std::mem::take(&mut self.leader_missed);
        if !is_planted(Bug::LostRoundForgotten) {
            // A round that got no answer within an election timeout was lost.
            self.reads.retry_before(self.ticks.saturating_sub(self.config.election_ticks as u64));
            self.ask_leader_again(if missed { 0 } else { ASK_AGAIN_TICKS });
        }
    }

    /// A follower's round got no answer for some ticks, or its leader could not be reached: everything else on this member that reads waits
    /// for it. It is asked again with a tick, not at once: it may be lost again.
    fn ask_leader_again(&mut self, patience: u64) {
        let leader = self.raw.raft.leader_id;
        if self.is_leader() || leader == 0 {
            return;
        }
        for round in self.reads.ask_again(self.ticks.saturating_sub(patience), self.ticks) {
            self.ask_leader(leader, round);
        }
    }

    fn ask_leader(&mut self, leader: u64, round: u64) {
        let body = PeerMessage::ReadRequest { epoch: self.config.epoch, round };
        self.effects.messages.push(Envelope { from: self.config.id, to: leader, body });
    }

    /// Whether this member may stand for election. A lone voter leads as soon as it stands: raft wants its whole log durable then.
    fn may_stand(&self) -> bool {
        let raft = &self.raw.raft;
        let durable = raft.raft_log.persisted == raft.raft_log.last_index();
        self.install_gate.is_none() && (durable || !raft.prs().is_singleton())
    }

    fn receive(&mut self, envelope: Envelope) -> Result<(), MessageError> {
        let Envelope { from, to, body } = envelope;
        let id = self.config.id;
        if to != id || from == id || from == 0 {
            return Err(MessageError::WrongMember { from, to, id });
        }
        match body {
            PeerMessage::Raft(message) => {
                if (message.from, message.to) != (from, to) {
                    return Err(MessageError::WrongMember { from: message.from, to: message.to, id });
                }
                check(&message, &self.raw.raft.raft_log)?;
                if message.get_msg_type() == MessageType::MsgTimeoutNow && !self.may_stand() {
                    return Ok(());
                }
                // The one error left is an answer from a member that was removed.
                drop(self.raw.step(*message));
                Ok(())
            }
            PeerMessage::Forward { leader_term, batch } => self.receive_forward(from, leader_term, batch),
            PeerMessage::ForwardChange { leader_term, change, batch } => {
                self.receive_forwarded_change(from, leader_term, change, batch)
            }
            PeerMessage::Refused { reason, batch } => {
                let span = Span::of(&batch).map_err(MessageError::Batch)?;
                // What an earlier run asked for, nobody waits for any more.
                if (span.origin, span.epoch) == (id, self.config.epoch) {
                    self.reject(batch, reason);
                }
                Ok(())
            }
            PeerMessage::ReadRequest { epoch, round } => {
                if self.is_leader() {
                    // Without room the follower's round times out and asks again.
                    let _ = self.reads.join(Asker::Peer { from, epoch, round });
                }
                Ok(())
            }
            PeerMessage::ReadResponse { epoch, round, term, index } => {
                let leadership = self.leadership();
                if (from, term) != (leadership.leader, leadership.term) || epoch != self.config.epoch {
                    return Err(MessageError::NotLeader { from });
                }
                self.finish_round(round, index);
                Ok(())
            }
        }
    }

    fn on_persisted(&mut self, ticket: Ticket) {
        assert!(ticket <= self.asked, "ticket {ticket} was never given out");
        assert!(ticket > self.persisted, "ticket {ticket} came back twice");
        self.persisted = ticket;
        self.raw.on_persist_ready(ticket);
        while self.held.front().is_some_and(|(waits_for, _)| *waits_for <= ticket) {
            let (_, message) = self.held.pop_front().expect("just seen");
            self.send(message);
        }
    }

    fn on_applied(&mut self, index: u64) {
        self.raw.advance_apply_to(index);
        self.raw.mut_store().trim(index);
    }

    fn on_conf_applied(&mut self, index: u64, change: Option<ConfChange>, membership: &Membership) {
        assert_eq!(self.conf_gate, Some(index), "this conf change was not handed over");
        self.conf_gate = None;
        if self.install_gate.is_some_and(|(at, ..)| at.index >= index) {
            // A snapshot overtook it, and brought its own membership.
            return;
        }
        if let Some(change) = change {
            self.raw.apply_conf_change(&raft_conf_change(change)).expect("single changes are always applicable");
        }
        self.on_applied(index);
        assert_eq!(self.membership(), *membership, "raft and the state machine disagree on the members");
        let id = self.config.id;
        if change == Some(ConfChange::Remove(id)) {
            info!(self.log, "this member was removed from the cluster"; "index" => index);
            self.removed = true;
            self.effects.removed = true;
            if self.is_leader() && !is_planted(Bug::RemovedLeads) {
                // Raft would go on leading a cluster it is no part of.
                let term = self.raw.raft.term;
                self.raw.raft.become_follower(term, 0);
            }
        }
    }

    fn on_installed(&mut self, index: u64) {
        match self.install_gate {
            Some((at, _, true)) if at.index == index => self.install_gate = None,
            _ => panic!("snapshot {index} was not asked to be installed"),
        }
        assert_eq!(self.conf_gate, None, "a conf change is applied before a snapshot above it is installed");
        self.on_applied(index);
    }

    /// Opens a read round if any read waits, none is on its way, and it can be answered. Whether it did.
    ///
    /// What comes while one is on its way goes together in the next.
    fn start_read_round(&mut self) -> bool {
        let must_wait = self.reads.is_open() && !is_planted(Bug::JoinSentRound);
        if must_wait || !self.reads.has_waiting() {
            return false;
        }
        let Leadership { leader, .. } = self.leadership();
        if self.is_leader() {
            // Before the first commit of its term raft drops a round without a word.
            if !self.raw.raft.commit_to_current_term() {
                return false;
            }
            let round = self.reads.start(self.ticks);
            let context = self.reads.context(round);
            self.raw.read_index(context);
        } else {
            if leader == 0 {
                return false;
            }
            let round = self.reads.start(self.ticks);
            self.ask_leader(leader, round);
        }
        true
    }

    fn finish_round(&mut self, round: u64, index: u64) {
        for asker in self.reads.finish(round) {
            match asker {
                Asker::Local(read) => self.effects.reads_ready.push((read, index)),
                Asker::Peer { from, epoch, round } => {
                    let body = PeerMessage::ReadResponse { epoch, round, term: self.raw.raft.term, index };
                    self.effects.messages.push(Envelope { from: self.config.id, to: from, body });
                }
            }
        }
    }

    fn note_leadership(&mut self) {
        let now = self.leadership();
        if now == self.leadership {
            return;
        }
        if now.leader == 0 && !self.removed {
            warn!(self.log, "lost the leader"; "term" => now.term);
        }
        self.leadership = now;
        self.reads.reset();
        self.effects.leadership = Some(now);
    }
}

/// Spreads the bits of a number (the finalizer of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn raft_conf_change(change: ConfChange) -> raft::eraftpb::ConfChange {
    let (kind, id) = match change {
        ConfChange::AddVoter(id) => (ConfChangeType::AddNode, id),
        ConfChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
        ConfChange::Remove(id) => (ConfChangeType::RemoveNode, id),
    };
    let mut out = raft::eraftpb::ConfChange::default();
    out.set_change_type(kind);
    out.node_id = id;
    out
}

/// Whether an entry carries commands (a leader's first entry, and one that took a refused change's place, carry none).
pub(crate) fn carries_commands(entry: &LogEntry) -> bool {
    !entry.payload.is_empty()
}
