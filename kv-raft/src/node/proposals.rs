//! What becomes an entry: proposals of this member, and those that others forward to the leader.

use bytes::Bytes;
use kv_codec::record::ENTRY_BYTES_MAX;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Node, raft_conf_change};
use crate::forward::Span;
use crate::io::{ConfChange, Envelope, Leadership, PeerMessage, RejectReason, Rejected};
use crate::validate::MessageError;

/// How much of the leader's log a learner has to have before it votes, in tenths (etcd's 90 %).
const IN_SYNC_TENTHS: u64 = 9;

/// What becomes of a forwarded batch.
enum Forwarded {
    Take,
    /// It is in no log, and never will be.
    GiveBack,
    /// It may be in a log already, or nobody knows.
    Drop,
}

impl Node {
    pub(super) fn receive_forward(&mut self, from: u64, leader_term: u64, batch: Bytes) -> Result<(), MessageError> {
        let span = self.forwarded(from, &batch)?;
        match self.take_forward(leader_term, span) {
            Forwarded::Take if !self.step_proposal(batch.clone()) => self.refuse(from, self.why_not_taken(), batch),
            Forwarded::GiveBack => self.refuse(from, self.why_not_taken(), batch),
            Forwarded::Take | Forwarded::Drop => {}
        }
        Ok(())
    }

    pub(super) fn receive_forwarded_change(
        &mut self,
        from: u64,
        leader_term: u64,
        change: ConfChange,
        batch: Bytes,
    ) -> Result<(), MessageError> {
        let span = self.forwarded(from, &batch)?;
        if !span.is_one() {
            return Err(MessageError::Batch(kv_codec::DecodeError::Invalid("forwarded change")));
        }
        match self.take_forward(leader_term, span) {
            Forwarded::Take => {
                if let Err(reason) = self.step_conf_change(change, &batch) {
                    self.refuse(from, reason, batch);
                }
            }
            Forwarded::GiveBack => self.refuse(from, self.why_not_taken(), batch),
            Forwarded::Drop => {}
        }
        Ok(())
    }

    fn take_forward(&mut self, leader_term: u64, span: Span) -> Forwarded {
        let term = self.raw.raft.term;
        if self.is_leader() && leader_term == term {
            return if self.gate.admit(term, leader_term, span) { Forwarded::Take } else { Forwarded::Drop };
        }
        if self.gate.may_give_back(term, leader_term, span) { Forwarded::GiveBack } else { Forwarded::Drop }
    }

    /// Tells who forwarded it that it was not taken: it need not wonder, and may send it to whoever leads next.
    fn refuse(&mut self, to: u64, reason: RejectReason, batch: Bytes) {
        let body = PeerMessage::Refused { reason, batch };
        self.effects.messages.push(Envelope { from: self.config.id, to, body });
    }

    /// Why raft takes no proposal now.
    fn why_not_taken(&self) -> RejectReason {
        // A leader that is about to hand over takes none: it would not know what became of them.
        let leads_on = self.is_leader() && self.raw.raft.lead_transferee.is_none();
        if leads_on { RejectReason::Busy } else { RejectReason::NoLeader }
    }

    /// Whose batch it is, if `from` may send it.
    fn forwarded(&self, from: u64, batch: &Bytes) -> Result<Span, MessageError> {
        let span = Span::of(batch).map_err(MessageError::Batch)?;
        if batch.len() as u64 > ENTRY_BYTES_MAX {
            return Err(MessageError::Batch(kv_codec::DecodeError::TooLong {
                what: "forwarded batch",
                len: batch.len() as u64,
                max: ENTRY_BYTES_MAX,
            }));
        }
        if span.origin != from {
            return Err(MessageError::WrongMember { from: span.origin, to: self.config.id, id: self.config.id });
        }
        Ok(span)
    }

    pub(super) fn propose(&mut self, batch: Bytes) {
        if self.is_leader() {
            if !self.step_proposal(batch.clone()) {
                self.reject(batch, self.why_not_taken());
            }
            return;
        }
        let Leadership { term, leader } = self.leadership();
        if leader == 0 {
            return self.reject(batch, RejectReason::NoLeader);
        }
        self.forward(leader, PeerMessage::Forward { leader_term: term, batch });
    }

    fn forward(&mut self, leader: u64, body: PeerMessage) {
        self.effects.messages.push(Envelope { from: self.config.id, to: leader, body });
    }

    /// Appends a batch to the leader's log; whether raft took it. (Raft's own `propose` would copy it.)
    fn step_proposal(&mut self, batch: Bytes) -> bool {
        let entry = Entry { data: batch, ..Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.config.id;
        message.set_entries(vec![entry].into());
        self.raw.raft.step(message).is_ok()
    }

    pub(super) fn propose_conf_change(&mut self, change: ConfChange, batch: Bytes) {
        if self.is_leader() {
            if let Err(reason) = self.step_conf_change(change, &batch) {
                self.reject(batch, reason);
            }
            return;
        }
        let Leadership { term, leader } = self.leadership();
        if leader == 0 {
            return self.reject(batch, RejectReason::NoLeader);
        }
        self.forward(leader, PeerMessage::ForwardChange { leader_term: term, change, batch });
    }

    /// Appends a membership change to the leader's log, or says why not.
    fn step_conf_change(&mut self, change: ConfChange, batch: &Bytes) -> Result<(), RejectReason> {
        // Raft would log an empty entry in its place, and say nothing.
        if self.raw.raft.has_pending_conf() {
            return Err(RejectReason::ConfChangePending);
        }
        if change == ConfChange::Remove(self.config.id) && self.hands_over_before_removal() {
            // Nobody would lead once it is applied, for as long as an election takes.
            return Err(RejectReason::ConfChangePending);
        }
        if !self.is_in_sync(change) {
            return Err(RejectReason::NotInSync);
        }
        let proposed = self.raw.propose_conf_change(batch.to_vec(), raft_conf_change(change));
        proposed.map_err(|_| self.why_not_taken())
    }

    /// Whether a learner that `change` promotes, if it does, can vote at once: a quorum that waits for it would wait long.
    fn is_in_sync(&self, change: ConfChange) -> bool {
        let ConfChange::AddVoter(id) = change else {
            return true;
        };
        let members = self.raw.raft.prs();
        let matched = |id| members.get(id).map_or(0, |progress| progress.matched);
        let is_promoted = members.conf().learners().contains(&id);
        !is_promoted || matched(id).saturating_mul(10) >= matched(self.config.id).saturating_mul(IN_SYNC_TENTHS)
    }

    pub(super) fn reject(&mut self, batch: Bytes, reason: RejectReason) {
        self.effects.rejected.push(Rejected { batch, reason });
    }
}
