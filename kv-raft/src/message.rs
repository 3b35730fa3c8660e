//! What members say to each other, as bytes.
//!
//! ```text
//! message       = version (1 byte, 1) | kind (1 byte) | from | to (8 bytes each, little-endian) | body
//! body, 1 raft  = raft's kind (1 byte) | term | log term | index | commit | commit's term | snapshot request | hint of a
//!                 refusal | priority (varints) | refusal (0 or 1) | context (length, bytes)
//!               | entries (count, then of each: kind (1 byte), index, term (varints), payload (length, bytes))
//!               | snapshot (0, or 1 and: index, term (varints), voters, learners (each a count and 8 bytes each))
//! 2 forward     = term of the leader that is meant (varint) | a batch
//! 3 read        = epoch | round                                                                               (varints)
//! 4 read's answer = epoch | round | term | index                                                              (varints)
//! 5 change      = term of the leader that is meant (varint) | what to do (1 byte: 1 add a voter, 2 add a learner, 3 remove)
//!               | member (8 bytes) | a batch of one command
//! 6 refusal     = why (1 byte: 1 no leader, 2 busy, 3 another change is pending, 4 not in sync, 5 no space) | the batch as it was sent
//! ```
//!
//! Raft's own protobuf stays in memory: what travels is read by nothing but this. Whether a message makes sense is for
//! [`crate::Node`] to say; here it only has to be one. Framing and checksums are the transport's.

use bytes::Bytes;
use kv_codec::DecodeError;
use kv_codec::record::{ENTRY_BYTES_MAX, EntryKind, LogEntry};
use kv_codec::varint::{Reader, put_bytes, put_u64};
use raft::eraftpb::{Entry, Message, MessageType};

use crate::io::{ConfChange, Envelope, Membership, PeerMessage, RejectReason};
use crate::tail::{Position, snapshot_at, to_log_entry, to_raft_entry};

/// The format that this build speaks.
pub const MESSAGE_VERSION: u8 = 1;

const RAFT: u8 = 1;
const FORWARD: u8 = 2;
const READ_REQUEST: u8 = 3;
const READ_RESPONSE: u8 = 4;
const FORWARD_CHANGE: u8 = 5;
const REFUSED: u8 = 6;

/// Raft says little there: why somebody stands for election.
const CONTEXT_BYTES_MAX: u64 = 1024;

/// The kinds of raft's messages that travel, each at its number.
const RAFT_KINDS: [MessageType; 10] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgTimeoutNow,
];

impl Envelope {
    /// The bytes of this message.
    ///
    /// # Panics
    /// When raft's message is of a kind that never travels; a [`crate::Node`] sends none.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes_about());
        self.encode_to(&mut out);
        out
    }

    /// Appends the bytes of this message.
    ///
    /// # Panics
    /// As [`Envelope::encode`].
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        let kind = match &self.body {
            PeerMessage::Raft(_) => RAFT,
            PeerMessage::Forward { .. } => FORWARD,
            PeerMessage::ReadRequest { .. } => READ_REQUEST,
            PeerMessage::ReadResponse { .. } => READ_RESPONSE,
            PeerMessage::ForwardChange { .. } => FORWARD_CHANGE,
            PeerMessage::Refused { .. } => REFUSED,
        };
        out.extend_from_slice(&[MESSAGE_VERSION, kind]);
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.to.to_le_bytes());
        match &self.body {
            PeerMessage::Raft(message) => put_raft(out, message),
            PeerMessage::Forward { leader_term, batch } => {
                put_u64(out, *leader_term);
                out.extend_from_slice(batch);
            }
            PeerMessage::ReadRequest { epoch, round } => {
                [*epoch, *round].into_iter().for_each(|number| put_u64(out, number));
            }
            PeerMessage::ReadResponse { epoch, round, term, index } => {
                [*epoch, *round, *term, *index].into_iter().for_each(|number| put_u64(out, number));
            }
            PeerMessage::ForwardChange { leader_term, change, batch } => {
                put_u64(out, *leader_term);
                put_change(out, *change);
                out.extend_from_slice(batch);
            }
            PeerMessage::Refused { reason, batch } => {
                out.push(reason_number(*reason));
                out.extend_from_slice(batch);
            }
        }
    }

    /// Reads what [`Envelope::encode`] wrote. Payloads stay where they are in `bytes`.
    ///
    /// # Errors
    /// Any [`DecodeError`]; bytes after the last field are one.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let found = reader.u8("message version")?;
        if found != MESSAGE_VERSION {
            return Err(DecodeError::Version { what: "message", found });
        }
        let kind = reader.u8("message kind")?;
        let (from, to) = (reader.fixed_u64("sender")?, reader.fixed_u64("receiver")?);
        let body = match kind {
            RAFT => {
                let mut message = raft_message(&mut reader, bytes)?;
                (message.from, message.to) = (from, to);
                PeerMessage::Raft(Box::new(message))
            }
            FORWARD => {
                let leader_term = reader.u64("term")?;
                let batch = bytes.slice_ref(reader.take(reader.rest().len(), "batch")?);
                PeerMessage::Forward { leader_term, batch }
            }
            FORWARD_CHANGE => PeerMessage::ForwardChange {
                leader_term: reader.u64("term")?,
                change: change(&mut reader)?,
                batch: bytes.slice_ref(reader.take(reader.rest().len(), "batch")?),
            },
            REFUSED => PeerMessage::Refused {
                reason: reason(reader.u8("reason")?)?,
                batch: bytes.slice_ref(reader.take(reader.rest().len(), "batch")?),
            },
            READ_REQUEST => PeerMessage::ReadRequest { epoch: reader.u64("epoch")?, round: reader.u64("round")? },
            READ_RESPONSE => PeerMessage::ReadResponse {
                epoch: reader.u64("epoch")?,
                round: reader.u64("round")?,
                term: reader.u64("term")?,
                index: reader.u64("index")?,
            },
            _ => return Err(DecodeError::Invalid("message kind")),
        };
        reader.end("message")?;
        Ok(Self { from, to, body })
    }
}

fn put_change(out: &mut Vec<u8>, change: ConfChange) {
    let (kind, id) = match change {
        ConfChange::AddVoter(id) => (1, id),
        ConfChange::AddLearner(id) => (2, id),
        ConfChange::Remove(id) => (3, id),
    };
    out.push(kind);
    out.extend_from_slice(&id.to_le_bytes());
}

fn change(reader: &mut Reader<'_>) -> Result<ConfChange, DecodeError> {
    let (kind, id) = (reader.u8("change")?, reader.fixed_u64("member")?);
    match kind {
        // Raft knows no member 0.
        _ if id == 0 => Err(DecodeError::Invalid("member")),
        1 => Ok(ConfChange::AddVoter(id)),
        2 => Ok(ConfChange::AddLearner(id)),
        3 => Ok(ConfChange::Remove(id)),
        _ => Err(DecodeError::Invalid("change")),
    }
}

fn reason_number(reason: RejectReason) -> u8 {
    match reason {
        RejectReason::NoLeader => 1,
        RejectReason::Busy => 2,
        RejectReason::ConfChangePending => 3,
        RejectReason::NotInSync => 4,
        RejectReason::NoSpace => 5,
    }
}

fn reason(number: u8) -> Result<RejectReason, DecodeError> {
    match number {
        1 => Ok(RejectReason::NoLeader),
        2 => Ok(RejectReason::Busy),
        3 => Ok(RejectReason::ConfChangePending),
        4 => Ok(RejectReason::NotInSync),
        5 => Ok(RejectReason::NoSpace),
        _ => Err(DecodeError::Invalid("reason")),
    }
}

fn put_raft(out: &mut Vec<u8>, message: &Message) {
    let kind = RAFT_KINDS.iter().position(|kind| *kind == message.get_msg_type());
    let kind = kind.and_then(|kind| u8::try_from(kind).ok()).expect("only kinds that travel are sent");
    out.push(kind);
    let numbers = [message.term, message.log_term, message.index, message.commit, message.commit_term];
    let more = [message.request_snapshot, message.reject_hint, message.priority.cast_unsigned()];
    numbers.into_iter().chain(more).for_each(|number| put_u64(out, number));
    out.push(u8::from(message.reject));
    put_bytes(out, &message.context);
    put_u64(out, message.get_entries().len() as u64);
    for entry in message.get_entries() {
        let LogEntry { index, term, kind, payload } = to_log_entry(entry);
        out.push(match kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
        });
        put_u64(out, index);
        put_u64(out, term);
        put_bytes(out, &payload);
    }
    out.push(u8::from(message.has_snapshot()));
    if message.has_snapshot() {
        let metadata = message.get_snapshot().get_metadata();
        put_u64(out, metadata.index);
        put_u64(out, metadata.term);
        let state = metadata.get_conf_state();
        for ids in [&state.voters, &state.learners] {
            put_u64(out, ids.len() as u64);
            ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        }
    }
}

fn raft_message(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Message, DecodeError> {
    let kind = RAFT_KINDS.get(usize::from(reader.u8("raft message kind")?));
    let mut message = Message::default();
    message.set_msg_type(*kind.ok_or(DecodeError::Invalid("raft message kind"))?);
    message.term = reader.u64("term")?;
    message.log_term = reader.u64("log term")?;
    message.index = reader.u64("index")?;
    message.commit = reader.u64("commit")?;
    message.commit_term = reader.u64("commit term")?;
    message.request_snapshot = reader.u64("snapshot request")?;
    message.reject_hint = reader.u64("hint")?;
    message.priority = reader.i64("priority")?;
    message.reject = reader.bool("refusal")?;
    message.context = bytes.slice_ref(reader.bytes(CONTEXT_BYTES_MAX, "context")?);
    let entries = list(reader, |reader| raft_entry(reader, bytes))?;
    message.set_entries(entries.into());
    if reader.bool("snapshot")? {
        let at = Position { index: reader.u64("snapshot index")?, term: reader.u64("snapshot term")? };
        let mut ids = || list(reader, |reader| reader.fixed_u64("member"));
        message.set_snapshot(snapshot_at(at, &Membership { voters: ids()?, learners: ids()? }));
    }
    Ok(message)
}

fn raft_entry(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Entry, DecodeError> {
    let kind = if reader.bool("entry kind")? { EntryKind::ConfChange } else { EntryKind::Normal };
    let (index, term) = (reader.u64("entry index")?, reader.u64("entry term")?);
    let payload = bytes.slice_ref(reader.bytes(ENTRY_BYTES_MAX, "entry")?);
    Ok(to_raft_entry(LogEntry { index, term, kind, payload }))
}

/// A count and so many items, each of a byte at least: the message's own length bounds what is kept.
fn list<'a, T>(
    reader: &mut Reader<'a>,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.u64("count")?;
    if count > reader.rest().len() as u64 {
        return Err(DecodeError::Truncated("list"));
    }
    (0..count).map(|_| item(reader)).collect()
}
