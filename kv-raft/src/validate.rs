//! Whether a peer's raft message has the shape that raft takes for granted. raft-rs panics on well-framed nonsense; a peer that
//! sends it must not take this member down.

use kv_codec::record::ENTRY_BYTES_MAX;
use raft::eraftpb::{EntryType, Message, MessageType};
use raft::{RaftLog, Storage};
use thiserror::Error;

/// Why a peer's message was not stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MessageError {
    /// It is for another member, or claims to be from this one.
    #[error("message from {from} to {to} reached member {id}")]
    WrongMember {
        /// The sender.
        from: u64,
        /// The receiver it names.
        to: u64,
        /// This member.
        id: u64,
    },
    /// A kind that never travels between members.
    #[error("a {0:?} message does not travel between members")]
    LocalKind(MessageType),
    /// A field that no correct member sends.
    #[error("{kind:?} message with invalid {field}")]
    Invalid {
        /// The kind.
        kind: MessageType,
        /// The field.
        field: &'static str,
    },
    /// A batch of commands that cannot be read, or mixes members.
    #[error("forwarded batch: {0}")]
    Batch(kv_codec::DecodeError),
    /// An answer that only the leader of the current term may give.
    #[error("an answer from member {from}, which does not lead")]
    NotLeader {
        /// The sender.
        from: u64,
    },
}

/// No term or index comes near this; below it none of raft's sums overflows.
const NUMBER_END: u64 = 1 << 62;

/// Checks everything about `message` that raft-rs would panic on, or trust.
pub(crate) fn check<S: Storage>(message: &Message, log: &RaftLog<S>) -> Result<(), MessageError> {
    let kind = message.get_msg_type();
    let require = |holds: bool, field| if holds { Ok(()) } else { Err(MessageError::Invalid { kind, field }) };
    require(message.term > 0 && message.term < NUMBER_END, "term")?;
    require(message.index < NUMBER_END && message.commit < NUMBER_END, "index")?;
    require(message.reject_hint < NUMBER_END && message.commit_term < NUMBER_END, "hint")?;
    match kind {
        MessageType::MsgAppend => {
            // Raft takes term 0 for that of every entry it does not have.
            require(message.log_term > 0 && message.log_term <= message.term, "log term")?;
            check_entries(message, log)
        }
        MessageType::MsgHeartbeat => require(message.commit <= log.last_index(), "commit"),
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            let conf_state = metadata.get_conf_state();
            require(metadata.index > 0 && metadata.index < NUMBER_END, "snapshot index")?;
            require(metadata.term > 0 && metadata.term <= message.term, "snapshot term")?;
            require(!conf_state.voters.is_empty(), "snapshot voters")?;
            require(conf_state.voters_outgoing.is_empty() && conf_state.learners_next.is_empty(), "joint membership")?;
            let mut ids: Vec<u64> = conf_state.voters.iter().chain(&conf_state.learners).copied().collect();
            ids.sort_unstable();
            require(ids[0] != 0 && ids.windows(2).all(|pair| pair[0] < pair[1]), "snapshot members")
        }
        MessageType::MsgAppendResponse => {
            require(message.reject || message.index <= log.last_index(), "index")?;
            require(message.request_snapshot == 0, "snapshot request")
        }
        MessageType::MsgRequestVote
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => Err(MessageError::LocalKind(kind)),
    }
}

/// Entries follow the message's place without a gap, terms never fall, and none contradicts a committed one.
fn check_entries<S: Storage>(message: &Message, log: &RaftLog<S>) -> Result<(), MessageError> {
    let invalid = |field| Err(MessageError::Invalid { kind: MessageType::MsgAppend, field });
    let mut previous = (message.index, message.log_term);
    for entry in message.get_entries() {
        if entry.index != previous.0 + 1 {
            return invalid("entry index");
        }
        if entry.term == 0 || entry.term < previous.1 || entry.term > message.term {
            return invalid("entry term");
        }
        if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
            return invalid("entry type");
        }
        if entry.data.len() as u64 > ENTRY_BYTES_MAX || entry.context.len() as u64 > ENTRY_BYTES_MAX {
            return invalid("entry length");
        }
        // Compacted entries are committed and long agreed on.
        let known = entry.index <= log.committed && entry.index >= log.first_index();
        if known && !log.match_term(entry.index, entry.term) {
            return invalid("entry, which contradicts a committed one");
        }
        previous = (entry.index, entry.term);
    }
    Ok(())
}
