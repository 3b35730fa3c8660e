//! What raft has ready, turned into effects: what to write, what waits for the disk, what may leave, what may be applied.

use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::{EntryKind, Record, SnapshotMark};
use raft::Ready;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use slog::debug;

use super::Node;
use crate::io::{Envelope, PeerMessage, SnapshotToSend, Ticket};
use crate::tail::{Position, from_raft_hard_state, to_log_entry};

impl Node {
    pub(super) fn take_ready(&mut self, records: &mut Vec<Record>) {
        let mut ready = self.raw.ready();
        let number = ready.number();
        let sync = ready.must_sync() || self.commits_conf_change(&ready);
        let vote_changed = self.note_hard_state(&ready);
        if sync {
            self.asked = number;
            self.note_records(&mut ready, records);
        }
        if vote_changed {
            self.vote_ticket = number;
        }
        for state in ready.take_read_states() {
            if let Some(round) = self.reads.round_of(&state.request_ctx) {
                self.finish_round(round, state.index);
            }
        }
        let committed = ready.take_committed_entries();
        self.to_apply.extend(committed.iter().map(|entry| {
            let entry = to_log_entry(entry);
            // What was written last says that it is committed.
            let ticket = if entry.kind == EntryKind::ConfChange { self.asked } else { 0 };
            (entry, ticket)
        }));
        let at_once = ready.take_messages();
        let after_persist = ready.take_persisted_messages();
        self.raw.advance_append_async(ready);
        if self.asked == self.persisted || is_planted(Bug::CommitUnpersisted) {
            // Nothing waits for the disk, so this one, which writes nothing, is persisted.
            self.raw.on_persist_ready(number);
        }
        for message in at_once {
            self.hold(if is_planted(Bug::NoHoldOnTermChange) { 0 } else { self.vote_ticket }, message);
        }
        for message in after_persist {
            let vote = message.get_msg_type() == MessageType::MsgRequestVoteResponse;
            if is_planted(Bug::SendBeforePersisted) || is_planted(Bug::VoteBeforeDurable) && vote {
                self.send(message);
                continue;
            }
            self.hold(self.asked, message);
        }
    }

    /// Whether a membership change is committed, and the log does not say so yet. Who comes back without it would ask members
    /// that are gone for their votes.
    fn commits_conf_change(&self, ready: &Ready) -> bool {
        let conf_change = |entry: &Entry| entry.get_entry_type() != EntryType::EntryNormal;
        self.raw.raft.hard_state().commit != self.written.commit
            && ready.committed_entries().iter().any(conf_change)
            && !is_planted(Bug::ConfChangeNotSynced)
    }

    /// Keeps the hard state; whether term or vote changed.
    fn note_hard_state(&mut self, ready: &Ready) -> bool {
        let Some(hard_state) = ready.hs() else {
            return false;
        };
        let hard_state = from_raft_hard_state(hard_state);
        self.raw.mut_store().set_hard_state(hard_state);
        (hard_state.term, hard_state.vote) != (self.written.term, self.written.vote)
    }

    /// Moves what a write must hold into the log's tail and the list of records.
    fn note_records(&mut self, ready: &mut Ready, records: &mut Vec<Record>) {
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let at = Position { index: metadata.index, term: metadata.term };
            self.raw.mut_store().restore(at);
            self.to_apply.clear();
            self.install_gate = Some((at, self.asked, false));
            records.push(Record::Snapshot(SnapshotMark { index: at.index, term: at.term, installed: true }));
        }
        let entries = ready.take_entries();
        records.extend(entries.iter().map(|entry| Record::Entry(to_log_entry(entry))));
        self.raw.mut_store().append(entries);
        let hard_state = from_raft_hard_state(&self.raw.raft.hard_state());
        let only_vote = (hard_state.term, hard_state.commit) == (self.written.term, self.written.commit);
        if hard_state != self.written && !(is_planted(Bug::ForgetVote) && only_vote) {
            records.push(Record::HardState(hard_state));
            self.written = hard_state;
        }
    }

    /// Sends `message` once `ticket` is persisted.
    fn hold(&mut self, ticket: Ticket, message: Message) {
        // Never past a message that waits already: the order between two members is worth keeping.
        let ticket = self.held.back().map_or(ticket, |(last, _)| ticket.max(*last));
        if ticket > self.persisted {
            self.held.push_back((ticket, message));
        } else {
            self.send(message);
        }
    }

    pub(super) fn send(&mut self, message: Message) {
        let kind = message.get_msg_type();
        debug_assert!(!matches!(kind, MessageType::MsgPropose | MessageType::MsgReadIndex), "raft forwards nothing");
        let (from, to) = (message.from, message.to);
        let metadata = message.get_snapshot().get_metadata();
        let at = Position { index: metadata.index, term: metadata.term };
        let envelope = Envelope { from, to, body: PeerMessage::Raft(Box::new(message)) };
        if kind == MessageType::MsgSnapshot {
            debug!(self.log, "snapshot to send"; "to" => to, "index" => at.index);
            self.raw.mut_store().withdraw_offer();
            self.effects.snapshots_to_send.push(SnapshotToSend { at, message: envelope });
        } else {
            self.effects.messages.push(envelope);
        }
    }

    /// Hands over what may be applied now.
    pub(super) fn hand_over(&mut self) {
        if let Some((at, ticket, asked)) = &mut self.install_gate {
            if !*asked && (*ticket <= self.persisted || is_planted(Bug::InstallBeforePersisted)) {
                *asked = true;
                self.effects.install = Some(*at);
            }
            if !is_planted(Bug::ApplyDuringInstall) {
                return;
            }
        }
        while (self.conf_gate.is_none() || is_planted(Bug::NoConfGate))
            && self.to_apply.front().is_some_and(|(_, ticket)| *ticket <= self.persisted)
            && let Some((entry, _)) = self.to_apply.pop_front()
        {
            if entry.kind == EntryKind::ConfChange {
                self.conf_gate = Some(entry.index);
            }
            self.effects.committed.push(entry);
        }
    }
}
