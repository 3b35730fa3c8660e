//! What goes into a [`Node`](crate::Node) and what comes out: the contract between the pure core and whoever runs it.

use bytes::Bytes;
use kv_codec::record::{EntryKind, LogEntry, Record};
use raft::eraftpb::{Message, MessageType};

use crate::tail::{Position, to_log_entry};

/// Names a write that the core waits for; tickets rise.
pub type Ticket = u64;

/// The voters and learners of a cluster, ids rising.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that only take the log.
    pub learners: Vec<u64>,
}

/// A change of the membership, one member at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfChange {
    /// A new voter, or a learner that becomes one.
    AddVoter(u64),
    /// A new learner.
    AddLearner(u64),
    /// A member that leaves.
    Remove(u64),
}

/// A message between two members.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Who sent it.
    pub from: u64,
    /// Whom it is for.
    pub to: u64,
    /// What it says.
    pub body: PeerMessage,
}

/// What members say to each other.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerMessage {
    /// Raft's own. Never a proposal, a read or a transfer: those are below, or local.
    Raft(Box<Message>),
    /// A batch of commands for the leader to propose. Sent once; never again after an unknown outcome. One that is certainly not taken is
    /// given back.
    Forward {
        /// The term whose leader is meant; no other takes it.
        leader_term: u64,
        /// A [`kv_codec::command::Batch`].
        batch: Bytes,
    },
    /// A membership change for the leader to propose. Sent once, as a [`PeerMessage::Forward`]; a refusal is answered.
    ForwardChange {
        /// The term whose leader is meant; no other takes it.
        leader_term: u64,
        /// What raft has to do.
        change: ConfChange,
        /// A batch of the one command that says so to the state machine.
        batch: Bytes,
    },
    /// Answers a [`PeerMessage::Forward`] or [`PeerMessage::ForwardChange`] that was not taken: it is in no log.
    Refused {
        /// Why.
        reason: RejectReason,
        /// The batch as it was sent.
        batch: Bytes,
    },
    /// Asks the leader for an index at which a read is linearizable.
    ReadRequest {
        /// The asker's boot epoch.
        epoch: u64,
        /// The asker's round, never used twice in an epoch.
        round: u64,
    },
    /// Answers a [`PeerMessage::ReadRequest`].
    ReadResponse {
        /// From the request.
        epoch: u64,
        /// From the request.
        round: u64,
        /// The leader's term.
        term: u64,
        /// The read may be served once this index is applied.
        index: u64,
    },
}

/// What a message says about its sender's disk: it must not leave before that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Nothing.
    Nothing,
    /// The sender is in this term, and will never be in an earlier one.
    Term(u64),
    /// It gave its vote of a term to a candidate.
    Vote {
        /// The term.
        term: u64,
        /// The candidate.
        candidate: u64,
    },
    /// Its log agrees with the leader's of `term` up to `index`.
    Log {
        /// The leader's term.
        term: u64,
        /// The last entry.
        index: u64,
    },
}

impl Envelope {
    /// The bytes of this message, give or take what is around its entries or commands.
    #[must_use]
    pub fn bytes_about(&self) -> usize {
        64 + match &self.body {
            PeerMessage::Raft(message) => {
                message.get_entries().iter().map(|entry| 32 + entry.data.len() + entry.context.len()).sum()
            }
            PeerMessage::Forward { batch, .. }
            | PeerMessage::ForwardChange { batch, .. }
            | PeerMessage::Refused { batch, .. } => batch.len(),
            PeerMessage::ReadRequest { .. } | PeerMessage::ReadResponse { .. } => 0,
        }
    }
}

impl PeerMessage {
    /// Where the snapshot stands that this message speaks of. It is not to be stepped before that snapshot's content is stored.
    #[must_use]
    pub fn snapshot(&self) -> Option<Position> {
        let Self::Raft(message) = self else {
            return None;
        };
        let metadata = message.get_snapshot().get_metadata();
        let at = Position { index: metadata.index, term: metadata.term };
        (message.get_msg_type() == MessageType::MsgSnapshot).then_some(at)
    }

    /// What this message would bring into a log: the payloads of entries, and batches that are to become some.
    pub fn payloads(&self) -> impl Iterator<Item = (EntryKind, Bytes)> + '_ {
        let (entries, proposed) = match self {
            Self::Raft(message) => (message.get_entries(), None),
            Self::Forward { batch, .. } => (&[][..], Some((EntryKind::Normal, batch))),
            Self::ForwardChange { batch, .. } => (&[][..], Some((EntryKind::ConfChange, batch))),
            Self::Refused { .. } | Self::ReadRequest { .. } | Self::ReadResponse { .. } => (&[][..], None),
        };
        let proposed = proposed.map(|(kind, batch)| (kind, batch.clone()));
        entries.iter().map(to_log_entry).map(|entry| (entry.kind, entry.payload)).chain(proposed)
    }

    /// What this message promises.
    #[must_use]
    pub fn promise(&self) -> Promise {
        let Self::Raft(message) = self else {
            return Promise::Nothing;
        };
        match message.get_msg_type() {
            // They ask what would be, and change nothing.
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse => Promise::Nothing,
            MessageType::MsgRequestVoteResponse if !message.reject => {
                Promise::Vote { term: message.term, candidate: message.to }
            }
            MessageType::MsgAppendResponse if !message.reject => {
                Promise::Log { term: message.term, index: message.index }
            }
            _ => Promise::Term(message.term),
        }
    }
}

/// What happens to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// One tick of the clock passed.
    Tick,
    /// A peer's message arrived. A snapshot's counts as arrived when its whole content is stored and verified.
    Message(Envelope),
    /// Commands to replicate: a [`kv_codec::command::Batch`].
    Propose(Bytes),
    /// A membership change to replicate: what raft has to do, and the batch of one command that says so to the state machine.
    ProposeConfChange(ConfChange, Bytes),
    /// A read wants to be linearizable; the number comes back in [`Effects::reads_ready`].
    Read(u64),
    /// Everything up to this ticket is durable.
    Persisted(Ticket),
    /// All normal entries up to this index are applied.
    Applied(u64),
    /// The conf-change entry at `index` is applied.
    ConfApplied {
        /// The entry.
        index: u64,
        /// What raft has to follow; `None` when the state machine refused.
        change: Option<ConfChange>,
        /// The membership after it, which raft's own must equal.
        membership: Membership,
    },
    /// The state machine holds a snapshot ready for followers (an answer to [`Effects::snapshot_wanted`]).
    SnapshotReady(Position, Membership),
    /// The state machine now is the snapshot of [`Effects::install`].
    SnapshotInstalled(u64),
    /// The content of a [`SnapshotToSend`] was delivered, or not.
    SnapshotSent {
        /// The follower.
        to: u64,
        /// Whether it has it.
        ok: bool,
    },
    /// Messages to this peer are being lost. Reads that asked it ask again with the next tick.
    Unreachable(u64),
    /// The process of this peer has ended: its machine says so. A slow one has not, nor one that is cut off.
    Gone(u64),
    /// Hand leadership to this member.
    Transfer(u64),
    /// Hand leadership to whoever needs least for it.
    HandOver,
    /// Stand for election now.
    Campaign,
}

/// Records to write and sync, together, before [`Input::Persisted`].
#[derive(Debug, Clone, PartialEq)]
pub struct Persist {
    /// What to report when they are durable.
    pub ticket: Ticket,
    /// What to write, in order.
    pub records: Vec<Record>,
}

/// A snapshot that a follower needs.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotToSend {
    /// Where the snapshot stands.
    pub at: Position,
    /// What to hand the follower's node once the content is there.
    pub message: Envelope,
}

/// Why a proposal was not taken. It is in no log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// There is no leader to propose to, or it is handing over.
    NoLeader,
    /// Too much is uncommitted.
    Busy,
    /// Another membership change is not applied yet, or the leader that is to be removed hands over first.
    ConfChangePending,
    /// The learner that is to become a voter lacks too much of the log.
    NotInSync,
    /// The disk has no room for the log.
    NoSpace,
}

/// A proposal that was not taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// The batch that was proposed.
    pub batch: Bytes,
    /// Why.
    pub reason: RejectReason,
}

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader's id; 0 for none known.
    pub leader: u64,
}

/// What a node wants done. The order of handling is free but for what the fields say; nothing here repeats.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// Send these. Loss is fine.
    pub messages: Vec<Envelope>,
    /// Write and sync these, then step [`Input::Persisted`].
    pub persist: Option<Persist>,
    /// Apply these in order, then step [`Input::Applied`] of the last. A conf change is always the last one, and is answered by
    /// [`Input::ConfApplied`] instead; nothing follows before.
    pub committed: Vec<LogEntry>,
    /// Proposals that were not taken.
    pub rejected: Vec<Rejected>,
    /// Reads that may be served once the index beside them is applied.
    pub reads_ready: Vec<(u64, u64)>,
    /// Reads that were refused: too many wait.
    pub reads_dropped: Vec<u64>,
    /// Hold a snapshot of the applied state ready and step [`Input::SnapshotReady`].
    pub snapshot_wanted: bool,
    /// Deliver the content of these, then step [`Input::SnapshotSent`].
    pub snapshots_to_send: Vec<SnapshotToSend>,
    /// Make the stored snapshot at this place the state, then step [`Input::SnapshotInstalled`].
    pub install: Option<Position>,
    /// Leader or term changed. What was in flight towards the old leader may be in the log of the next, or not.
    pub leadership: Option<Leadership>,
    /// This member is no longer part of the cluster.
    pub removed: bool,
}

impl Effects {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
