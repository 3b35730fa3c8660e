//! A few nodes without disk or network: the test decides what is persisted, applied and delivered, and when.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use bytes::Bytes;
use kv_codec::command::{Batch, BatchBuilder, Body, CommandHeader, Put};
use kv_raft::{
    Effects, EntryKind, Envelope, HardState, Input, Membership, Node, NodeConfig, NodeState, PeerMessage, Position,
    Record, TailLimits,
};

/// One command of `origin` in its first run.
pub(crate) fn batch(origin: u64, seq: u64) -> Bytes {
    let put = Put { key: b"k", value: b"v", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
    let header = CommandHeader { origin, epoch: 1, seq, ..CommandHeader::default() };
    let mut batch = BatchBuilder::default();
    batch.push(&Body::Put(put).encode(&header));
    batch.finish()
}

pub(crate) fn membership(voters: &[u64], learners: &[u64]) -> Membership {
    Membership { voters: voters.to_vec(), learners: learners.to_vec() }
}

/// A member of a new cluster: a snapshot at entry 1 of term 1.
pub(crate) fn node(id: u64, membership: Membership) -> Node {
    node_with(id, membership, TailLimits::default())
}

pub(crate) fn node_with(id: u64, membership: Membership, tail: TailLimits) -> Node {
    let config = NodeConfig { id, epoch: 1, seed: 7, election_ticks: 10, heartbeat_ticks: 1, tail };
    let state = NodeState {
        base: Position { index: 1, term: 1 },
        entries: vec![],
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        applied: 1,
        membership,
    };
    Node::new(config, state, &slog::Logger::root(slog::Discard, slog::o!()))
}

/// What effects say, in one line each; the golden traces are made of these.
pub(crate) fn render(effects: &Effects) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").unwrap();
    if let Some(leadership) = effects.leadership {
        line(format!("leader {} term {}", leadership.leader, leadership.term));
    }
    if let Some(persist) = &effects.persist {
        let records: Vec<_> = persist.records.iter().map(render_record).collect();
        line(format!("persist {}", records.join(", ")));
    }
    for message in &effects.messages {
        line(format!("send {}", render_message(message)));
    }
    for entry in &effects.committed {
        let kind = if entry.kind == EntryKind::ConfChange { " conf change" } else { "" };
        line(format!("apply {}{kind}", entry.index));
    }
    for rejected in &effects.rejected {
        line(format!("reject {:?}", rejected.reason));
    }
    for (read, index) in &effects.reads_ready {
        line(format!("read {read} at {index}"));
    }
    for to_send in &effects.snapshots_to_send {
        line(format!("send snapshot {} to {}", to_send.at.index, to_send.message.to));
    }
    if effects.snapshot_wanted {
        line("snapshot wanted".into());
    }
    if let Some(at) = effects.install {
        line(format!("install {}", at.index));
    }
    if effects.removed {
        line("removed".into());
    }
    out
}

fn render_record(record: &Record) -> String {
    match record {
        Record::Entry(entry) => format!("entry {}@{}", entry.index, entry.term),
        Record::HardState(hs) => format!("term {} vote {} commit {}", hs.term, hs.vote, hs.commit),
        Record::Snapshot(mark) => format!("snapshot {}@{}", mark.index, mark.term),
    }
}

fn render_message(envelope: &Envelope) -> String {
    let body = match &envelope.body {
        PeerMessage::Raft(message) => {
            let rejected = if message.reject { " reject" } else { "" };
            format!("{:?} index {} entries {}{rejected}", message.get_msg_type(), message.index, message.entries.len())
        }
        PeerMessage::Forward { leader_term, batch } => {
            format!("Forward term {leader_term} commands {}", Batch::decode(batch).unwrap().count())
        }
        PeerMessage::ForwardChange { leader_term, change, .. } => {
            format!("ForwardChange term {leader_term} {change:?}")
        }
        PeerMessage::Refused { reason, .. } => format!("Refused {reason:?}"),
        PeerMessage::ReadRequest { round, .. } => format!("ReadRequest {round}"),
        PeerMessage::ReadResponse { round, index, .. } => format!("ReadResponse {round} index {index}"),
    };
    format!("to {}: {body}", envelope.to)
}

/// Nodes whose disk is instant and whose network loses nothing but what is cut.
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) cut: Vec<u64>,
    pub(crate) applied: BTreeMap<u64, Vec<u64>>,
    pub(crate) reads: Vec<(u64, u64, u64)>,
    pub(crate) sent: Vec<Envelope>,
}

impl Cluster {
    pub(crate) fn new(voters: &[u64]) -> Self {
        let membership = membership(voters, &[]);
        let nodes = voters.iter().map(|&id| (id, node(id, membership.clone()))).collect();
        Self { nodes, cut: vec![], applied: BTreeMap::new(), reads: vec![], sent: vec![] }
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(crate) fn step(&mut self, id: u64, input: Input) {
        self.node(id).step(input).unwrap();
        self.settle();
    }

    /// Delivers these, and whatever follows.
    pub(crate) fn send(&mut self, messages: Vec<Envelope>) {
        messages.into_iter().for_each(|message| self.deliver(message));
        self.settle();
    }

    /// Persists, applies and delivers until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        let mut mail = VecDeque::new();
        loop {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            let mut quiet = true;
            for id in ids {
                let effects = self.node(id).poll();
                quiet &= effects.is_empty();
                self.handle(id, effects, &mut mail);
            }
            while let Some(envelope) = mail.pop_front() {
                quiet = false;
                self.deliver(envelope);
            }
            if quiet {
                return;
            }
        }
    }

    fn handle(&mut self, id: u64, effects: Effects, mail: &mut VecDeque<Envelope>) {
        mail.extend(effects.messages);
        let node = self.nodes.get_mut(&id).unwrap();
        if let Some(persist) = effects.persist {
            node.step(Input::Persisted(persist.ticket)).unwrap();
        }
        for entry in &effects.committed {
            assert_eq!(entry.kind, EntryKind::Normal, "this harness applies no conf change");
            self.applied.entry(id).or_default().push(entry.index);
        }
        if let Some(last) = effects.committed.last() {
            node.step(Input::Applied(last.index)).unwrap();
        }
        self.reads.extend(effects.reads_ready.into_iter().map(|(read, index)| (id, read, index)));
    }

    fn deliver(&mut self, envelope: Envelope) {
        self.sent.push(envelope.clone());
        let is_cut = self.cut.contains(&envelope.from) || self.cut.contains(&envelope.to);
        if let Some(node) = self.nodes.get_mut(&envelope.to).filter(|_| !is_cut) {
            // What a deposed leader still says is refused, not an error of the test.
            let _ = node.step(Input::Message(envelope));
        }
    }

    pub(crate) fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for node in self.nodes.values_mut() {
                node.step(Input::Tick).unwrap();
            }
            self.settle();
        }
    }

    pub(crate) fn leader(&self) -> u64 {
        let leaders: Vec<_> = self.nodes.iter().filter(|(_, node)| node.is_leader()).map(|(id, _)| *id).collect();
        assert_eq!(leaders.len(), 1, "leaders: {leaders:?}");
        leaders[0]
    }
}
