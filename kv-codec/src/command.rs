//! Commands: what one client asked to change, and the batches of them that make one raft entry.
//!
//! ```text
//! batch   = version (1 byte, 1) | count (u32 LE) | count x ( length (varint) | command )
//! command = header | body
//! header  = origin (u64 LE) | seq (u64 LE) | epoch (varint) | auth_revision (varint) | user (length, bytes)
//! body    = kind (1 byte) | fields of that kind
//! ```
//!
//! Consensus reads a command's [`CommandHeader`] and never its body; the store reads both. Bodies nest no deeper than they are
//! declared, and every length is checked against its limit before it is used.
//!
//! ```
//! use kv_codec::command::{Batch, BatchBuilder, Body, CommandHeader, Put};
//! let header = CommandHeader { origin: 1, epoch: 7, seq: 42, auth_revision: 0, user: b"" };
//! let put = Body::Put(Put { key: b"k", value: b"v", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false });
//! let mut batch = BatchBuilder::default();
//! batch.push(&put.encode(&header));
//! let bytes = batch.finish();
//! let commands: Vec<_> = Batch::decode(&bytes)?.collect::<Result<_, _>>()?;
//! assert_eq!(commands[0].header, header);
//! assert_eq!(Body::decode(commands[0].body)?, put);
//! # Ok::<(), kv_codec::DecodeError>(())
//! ```

mod txn;

use bytes::Bytes;

pub use txn::{Compare, CompareResult, CompareTarget, Op, Range, TXN_DEPTH_MAX, Txn};
use txn::{decode_txn, encode_txn};

use crate::DecodeError;
use crate::member::{Member, NAME_BYTES_MAX, URLS_MAX};
use crate::varint::{Reader, len_u64, put_bytes, put_u64};

/// The batch format that this build writes.
pub const BATCH_VERSION: u8 = 1;
/// The longest key, value or range end. Requests are limited far below this by `--max-request-bytes`; this bounds the decoder.
pub const FIELD_BYTES_MAX: u64 = 1 << 30;
/// The longest user name.
pub const USER_BYTES_MAX: u64 = 4096;
/// The learners a cluster may have unless it is told otherwise (etcd's `--max-learners`).
pub const LEARNERS_DEFAULT: u64 = 1;
/// Bytes before the first command of a batch.
const BATCH_HEADER_BYTES: usize = 5;
/// Room for a header but for the user's name: all of them but those of absurd epochs fit.
const HEADER_BYTES: usize = 24;
/// Room for what a body has beside keys and values: its kind, flags, lengths.
const BODY_FIELD_BYTES: usize = 24;

/// Who asked for a command, and as whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandHeader<'a> {
    /// The member that took the request from its client.
    pub origin: u64,
    /// Which run of that member: raised at each start, so that a sequence number is never used twice.
    pub epoch: u64,
    /// The number of the command in that run, rising.
    pub seq: u64,
    /// The revision of the auth store under which the request was allowed; 0 with authentication off.
    pub auth_revision: u64,
    /// The authenticated user's name; empty with authentication off.
    pub user: &'a [u8],
}

impl CommandHeader<'_> {
    /// The bytes of a command with a body of the caller's own, for a state machine that does not know [`Body`]:
    /// [`CommandRef::body`] gives it back as it is here.
    #[must_use]
    pub fn encode(&self, body: &[u8]) -> Vec<u8> {
        let mut out = self.begin(body.len());
        out.extend_from_slice(body);
        out
    }

    /// The header's bytes, and room for a body.
    fn begin(&self, body_bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.user.len() + body_bytes);
        out.extend_from_slice(&self.origin.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        put_u64(&mut out, self.epoch);
        put_u64(&mut out, self.auth_revision);
        put_bytes(&mut out, self.user);
        out
    }
}

/// A write of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put<'a> {
    /// The key, not empty.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The lease to attach; 0 for none.
    pub lease: i64,
    /// Whether the caller wants the previous key-value pair.
    pub prev_kv: bool,
    /// Keep the current value; it is an error if the key does not exist.
    pub ignore_value: bool,
    /// Keep the current lease; it is an error if the key does not exist.
    pub ignore_lease: bool,
}

/// A deletion of a range of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteRange<'a> {
    /// The first key.
    pub key: &'a [u8],
    /// The end of the range as in the etcd API: empty for one key, `"\0"` for every key from `key` on.
    pub range_end: &'a [u8],
    /// Whether the caller wants what was deleted.
    pub prev_kv: bool,
}

/// What is wrong with a member or its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The store is as large as it may be.
    NoSpace,
    /// A member differs from the others.
    Corrupt,
}

/// Raises an alarm or calls it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// Whether it is raised.
    pub raise: bool,
    /// Whose it is.
    pub member: u64,
    /// Which.
    pub kind: AlarmKind,
}

/// What a leader says that saw a lease expire. It counts only if both are still so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// The leader's term, at least 1.
    pub term: u64,
    /// The entry that granted the lease.
    pub granted: u64,
}

/// What is left of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseCheckpoint {
    /// The lease.
    pub id: i64,
    /// The entry that granted it: another lease of that id is not meant.
    pub granted: u64,
    /// Seconds; 0 for all that it was granted.
    pub remaining_ttl: i64,
}

/// What a member says of itself once it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The member.
    pub id: u64,
    /// Its human-readable name.
    pub name: String,
    /// Where its clients reach it.
    pub client_urls: Vec<String>,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// See [`Put`].
    Put(Put<'a>),
    /// See [`DeleteRange`].
    DeleteRange(DeleteRange<'a>),
    /// See [`Txn`].
    Txn(Txn<'a>),
    /// Gives up history below a revision.
    Compact {
        /// The oldest revision that stays readable.
        revision: i64,
    },
    /// Grants a lease.
    LeaseGrant {
        /// Its id, not 0.
        id: i64,
        /// How many seconds it lives without being kept alive.
        ttl: i64,
    },
    /// Ends a lease and deletes the keys that are attached to it.
    LeaseRevoke {
        /// The lease.
        id: i64,
        /// The leader that saw it expire; `None` when its client asks for it.
        expired: Option<Expired>,
    },
    /// Notes what is left of leases, for a leader that comes later to go on from.
    LeaseCheckpoint {
        /// The term in whose entries the command counts.
        term: u64,
        /// What is left of each.
        checkpoints: Vec<LeaseCheckpoint>,
    },
    /// See [`Alarm`].
    Alarm(Alarm),
    /// See [`Publish`].
    Publish(Publish),
    /// Adds a member (travels in a conf-change entry).
    MemberAdd {
        /// The member.
        member: Member,
        /// How many learners there may be then, at least [`LEARNERS_DEFAULT`].
        learners_max: u64,
    },
    /// Removes a member (travels in a conf-change entry).
    MemberRemove(u64),
    /// Makes a learner a voter (travels in a conf-change entry).
    MemberPromote(u64),
    /// Replaces a member's peer URLs; raft does not need to know.
    MemberUpdate {
        /// The member.
        id: u64,
        /// Its new peer URLs.
        peer_urls: Vec<String>,
    },
}

const KIND_PUT: u8 = 1;
const KIND_DELETE_RANGE: u8 = 2;
const KIND_TXN: u8 = 3;
const KIND_COMPACT: u8 = 4;
const KIND_LEASE_GRANT: u8 = 6;
const KIND_LEASE_REVOKE: u8 = 7;
const KIND_LEASE_CHECKPOINT: u8 = 8;
const KIND_ALARM: u8 = 9;
const KIND_PUBLISH: u8 = 64;
const KIND_MEMBER_ADD: u8 = 65;
const KIND_MEMBER_REMOVE: u8 = 66;
const KIND_MEMBER_PROMOTE: u8 = 67;
const KIND_MEMBER_UPDATE: u8 = 68;

const FLAG_PREV_KV: u8 = 1;
const FLAG_IGNORE_VALUE: u8 = 2;
const FLAG_IGNORE_LEASE: u8 = 4;
const FLAG_RAISE: u8 = 1;

impl Body<'_> {
    /// The bytes of the command that `header` and `self` make.
    #[must_use]
    pub fn encode(&self, header: &CommandHeader<'_>) -> Vec<u8> {
        let payload = match self {
            Body::Put(put) => put.key.len() + put.value.len(),
            Body::DeleteRange(delete) => delete.key.len() + delete.range_end.len(),
            // A guess: most transactions are one guarded put.
            Body::Txn(_) => 1024,
            _ => 64,
        };
        let mut out = header.begin(BODY_FIELD_BYTES + payload);
        self.encode_body(&mut out);
        out
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Body::Put(put) => encode_put(out, put),
            Body::DeleteRange(delete) => encode_delete(out, delete),
            Body::Txn(txn) => {
                out.push(KIND_TXN);
                encode_txn(out, txn);
            }
            Body::Compact { revision } => {
                out.push(KIND_COMPACT);
                put_u64(out, revision.cast_unsigned());
            }
            Body::LeaseGrant { id, ttl } => {
                out.push(KIND_LEASE_GRANT);
                put_u64(out, id.cast_unsigned());
                put_u64(out, ttl.cast_unsigned());
            }
            Body::LeaseRevoke { id, expired } => {
                out.push(KIND_LEASE_REVOKE);
                put_u64(out, id.cast_unsigned());
                put_u64(out, expired.map_or(0, |expired| expired.term));
                if let Some(expired) = expired {
                    put_u64(out, expired.granted);
                }
            }
            Body::LeaseCheckpoint { term, checkpoints } => {
                out.push(KIND_LEASE_CHECKPOINT);
                put_u64(out, *term);
                put_u64(out, checkpoints.len() as u64);
                for LeaseCheckpoint { id, granted, remaining_ttl } in checkpoints {
                    put_u64(out, id.cast_unsigned());
                    put_u64(out, *granted);
                    put_u64(out, remaining_ttl.cast_unsigned());
                }
            }
            Body::Alarm(alarm) => {
                out.push(KIND_ALARM);
                out.push(flag(alarm.raise, FLAG_RAISE));
                out.push(alarm.kind.number());
                out.extend_from_slice(&alarm.member.to_le_bytes());
            }
            Body::Publish(publish) => {
                out.push(KIND_PUBLISH);
                out.extend_from_slice(&publish.id.to_le_bytes());
                put_bytes(out, publish.name.as_bytes());
                crate::member::put_strings(out, &publish.client_urls);
            }
            Body::MemberAdd { member, learners_max } => {
                out.push(KIND_MEMBER_ADD);
                member.encode(out);
                if *learners_max != LEARNERS_DEFAULT {
                    put_u64(out, *learners_max);
                }
            }
            Body::MemberRemove(id) => {
                out.push(KIND_MEMBER_REMOVE);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Body::MemberPromote(id) => {
                out.push(KIND_MEMBER_PROMOTE);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Body::MemberUpdate { id, peer_urls } => {
                out.push(KIND_MEMBER_UPDATE);
                out.extend_from_slice(&id.to_le_bytes());
                crate::member::put_strings(out, peer_urls);
            }
        }
    }
}

impl<'a> Body<'a> {
    /// Reads the body that [`Body::encode`] wrote after the header.
    ///
    /// # Errors
    /// Any [`DecodeError`]; bytes after the last field are one.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let body = match reader.u8("command kind")? {
            KIND_PUT => Body::Put(decode_put(&mut reader)?),
            KIND_DELETE_RANGE => Body::DeleteRange(decode_delete(&mut reader)?),
            KIND_TXN => Body::Txn(decode_txn(&mut reader, TXN_DEPTH_MAX)?),
            KIND_COMPACT => Body::Compact { revision: reader.i64("revision")? },
            KIND_LEASE_GRANT => Body::LeaseGrant { id: reader.i64("lease")?, ttl: reader.i64("TTL")? },
            KIND_LEASE_REVOKE => Body::LeaseRevoke {
                id: reader.i64("lease")?,
                expired: match reader.u64("term")? {
                    0 => None,
                    term => Some(Expired { term, granted: reader.u64("index of a grant")? }),
                },
            },
            KIND_LEASE_CHECKPOINT => {
                let checkpoint = |reader: &mut Reader<'a>| {
                    Ok(LeaseCheckpoint {
                        id: reader.i64("lease")?,
                        granted: reader.u64("index of a grant")?,
                        remaining_ttl: reader.i64("TTL")?,
                    })
                };
                Body::LeaseCheckpoint { term: reader.u64("term")?, checkpoints: list(&mut reader, checkpoint)? }
            }
            KIND_ALARM => Body::Alarm(Alarm {
                raise: flags(&mut reader, FLAG_RAISE)? != 0,
                kind: AlarmKind::from_number(reader.u8("alarm")?)?,
                member: reader.fixed_u64("member id")?,
            }),
            KIND_PUBLISH => Body::Publish(Publish {
                id: reader.fixed_u64("member id")?,
                name: crate::member::string(&mut reader, NAME_BYTES_MAX, "member name")?,
                client_urls: crate::member::strings(&mut reader, URLS_MAX, "client URLs")?,
            }),
            KIND_MEMBER_ADD => decode_member_add(&mut reader)?,
            KIND_MEMBER_REMOVE => Body::MemberRemove(reader.fixed_u64("member id")?),
            KIND_MEMBER_PROMOTE => Body::MemberPromote(reader.fixed_u64("member id")?),
            KIND_MEMBER_UPDATE => Body::MemberUpdate {
                id: reader.fixed_u64("member id")?,
                peer_urls: crate::member::strings(&mut reader, URLS_MAX, "peer URLs")?,
            },
            _ => return Err(DecodeError::Invalid("command kind")),
        };
        reader.end("command")?;
        Ok(body)
    }

    /// Whether it travels in a conf-change entry, alone, and in no other.
    #[must_use]
    pub fn is_conf_change(&self) -> bool {
        matches!(self, Self::MemberAdd { .. } | Self::MemberRemove(_) | Self::MemberPromote(_))
    }
}

impl AlarmKind {
    /// Its number in our formats, which is that of the etcd API.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::NoSpace => 1,
            Self::Corrupt => 2,
        }
    }

    /// The alarm of a number.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for one that there is not.
    pub fn from_number(number: u8) -> Result<Self, DecodeError> {
        match number {
            1 => Ok(Self::NoSpace),
            2 => Ok(Self::Corrupt),
            _ => Err(DecodeError::Invalid("alarm")),
        }
    }
}

fn decode_member_add<'a>(reader: &mut Reader<'a>) -> Result<Body<'a>, DecodeError> {
    let member = Member::decode(reader)?;
    if reader.rest().is_empty() {
        return Ok(Body::MemberAdd { member, learners_max: LEARNERS_DEFAULT });
    }
    match reader.u64("learners")? {
        // There is one way to write it; and a cluster that may have none is not told so by a member that joins.
        ..=LEARNERS_DEFAULT => Err(DecodeError::Invalid("learners")),
        learners_max => Ok(Body::MemberAdd { member, learners_max }),
    }
}

fn encode_put(out: &mut Vec<u8>, put: &Put<'_>) {
    out.push(KIND_PUT);
    out.push(
        flag(put.prev_kv, FLAG_PREV_KV)
            | flag(put.ignore_value, FLAG_IGNORE_VALUE)
            | flag(put.ignore_lease, FLAG_IGNORE_LEASE),
    );
    put_u64(out, put.lease.cast_unsigned());
    put_bytes(out, put.key);
    put_bytes(out, put.value);
}

fn decode_put<'a>(reader: &mut Reader<'a>) -> Result<Put<'a>, DecodeError> {
    let flags = flags(reader, FLAG_PREV_KV | FLAG_IGNORE_VALUE | FLAG_IGNORE_LEASE)?;
    Ok(Put {
        lease: reader.i64("lease")?,
        key: reader.bytes(FIELD_BYTES_MAX, "key")?,
        value: reader.bytes(FIELD_BYTES_MAX, "value")?,
        prev_kv: flags & FLAG_PREV_KV != 0,
        ignore_value: flags & FLAG_IGNORE_VALUE != 0,
        ignore_lease: flags & FLAG_IGNORE_LEASE != 0,
    })
}

fn encode_delete(out: &mut Vec<u8>, delete: &DeleteRange<'_>) {
    out.push(KIND_DELETE_RANGE);
    out.push(flag(delete.prev_kv, FLAG_PREV_KV));
    put_bytes(out, delete.key);
    put_bytes(out, delete.range_end);
}

fn decode_delete<'a>(reader: &mut Reader<'a>) -> Result<DeleteRange<'a>, DecodeError> {
    let flags = flags(reader, FLAG_PREV_KV)?;
    Ok(DeleteRange {
        key: reader.bytes(FIELD_BYTES_MAX, "key")?,
        range_end: reader.bytes(FIELD_BYTES_MAX, "range end")?,
        prev_kv: flags & FLAG_PREV_KV != 0,
    })
}

/// A count and so many items. Each takes at least a byte, so that the input's own length bounds what is kept.
fn list<'a, T>(
    reader: &mut Reader<'a>,
    item: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.u64("count")?;
    if count > reader.rest().len() as u64 {
        return Err(DecodeError::Truncated("list"));
    }
    (0..count).map(|_| item(reader)).collect()
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn flags(reader: &mut Reader<'_>, known: u8) -> Result<u8, DecodeError> {
    let flags = reader.u8("command flags")?;
    if flags & !known == 0 { Ok(flags) } else { Err(DecodeError::Invalid("command flags")) }
}

/// Where the sequence number stands in an encoded command.
const SEQ_AT: std::ops::Range<usize> = 8..16;

/// Gives an encoded command its sequence number. Numbers are drawn when a command is queued, so that their order is the queue's.
///
/// # Panics
/// When `command` is not what [`Body::encode`] made.
pub fn set_seq(command: &mut [u8], seq: u64) {
    command[SEQ_AT].copy_from_slice(&seq.to_le_bytes());
}

/// Reads what [`set_seq`] wrote.
///
/// # Panics
/// When `command` is not what [`Body::encode`] made.
#[must_use]
pub fn seq(command: &[u8]) -> u64 {
    let bytes = command[SEQ_AT].try_into().expect("a number of 8 bytes");
    u64::from_le_bytes(bytes)
}

/// One command of a [`Batch`], its body not yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandRef<'a> {
    /// Who asked.
    pub header: CommandHeader<'a>,
    /// What for: bytes for [`Body::decode`].
    pub body: &'a [u8],
}

impl<'a> CommandRef<'a> {
    /// Splits an encoded command into header and body.
    ///
    /// # Errors
    /// Any [`DecodeError`] of the header.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header = CommandHeader {
            origin: reader.fixed_u64("origin")?,
            seq: reader.fixed_u64("seq")?,
            epoch: reader.u64("epoch")?,
            auth_revision: reader.u64("auth revision")?,
            user: reader.bytes(USER_BYTES_MAX, "user")?,
        };
        Ok(Self { header, body: reader.rest() })
    }
}

/// Joins encoded commands to one raft entry.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl BatchBuilder {
    /// Adds a command that [`Body::encode`] made.
    pub fn push(&mut self, command: &[u8]) {
        if self.bytes.is_empty() {
            // One allocation, which is the batch's own if no other command comes.
            self.bytes.reserve_exact(self.bytes_with(command));
            self.bytes.push(BATCH_VERSION);
            self.bytes.extend_from_slice(&[0; 4]);
        }
        put_bytes(&mut self.bytes, command);
        self.count += 1;
    }

    /// How many commands it holds.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch's bytes if `command` were added.
    #[must_use]
    pub fn bytes_with(&self, command: &[u8]) -> usize {
        self.bytes.len().max(BATCH_HEADER_BYTES) + len_u64(command.len() as u64) + command.len()
    }

    /// The batch; the builder is empty again.
    ///
    /// # Panics
    /// When it holds no command: an entry without commands is raft's own.
    #[must_use]
    pub fn finish(&mut self) -> Bytes {
        assert!(self.count > 0, "a batch holds at least one command");
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes[1..BATCH_HEADER_BYTES].copy_from_slice(&self.count.to_le_bytes());
        self.count = 0;
        Bytes::from(bytes)
    }
}

/// Walks the commands of a batch without copying.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Batch<'a> {
    /// Opens a batch.
    ///
    /// # Errors
    /// [`DecodeError::Version`] for a format that this build does not know, [`DecodeError::Truncated`],
    /// [`DecodeError::Invalid`] for a batch of none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let found = reader.u8("batch version")?;
        if found != BATCH_VERSION {
            return Err(DecodeError::Version { what: "batch", found });
        }
        let left = reader.fixed_u32("batch count")?;
        if left == 0 {
            return Err(DecodeError::Invalid("batch count"));
        }
        Ok(Self { reader, left })
    }

    fn command(&mut self) -> Result<CommandRef<'a>, DecodeError> {
        let command = CommandRef::decode(self.reader.bytes(u64::from(u32::MAX), "command")?)?;
        if self.left == 0 {
            self.reader.end("batch")?;
        }
        Ok(command)
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<CommandRef<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let command = self.command();
        if command.is_err() {
            self.left = 0;
        }
        Some(command)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(key: &'static [u8]) -> Body<'static> {
        Body::Put(Put { key, value: b"value", lease: -1, prev_kv: true, ignore_value: false, ignore_lease: true })
    }

    fn a_txn() -> Txn<'static> {
        let compare = |result, target| Compare { key: b"k", range_end: b"l", result, target };
        let range = Range {
            key: b"a",
            range_end: b"\0",
            limit: -1,
            revision: 7,
            sort_order: 2,
            sort_target: 4,
            keys_only: true,
            count_only: false,
            mod_revisions: (1, 2),
            create_revisions: (3, 4),
        };
        let Body::Put(put) = put(b"key") else { unreachable!() };
        let delete = DeleteRange { key: b"a", range_end: b"", prev_kv: false };
        Txn {
            compare: vec![
                compare(CompareResult::Equal, CompareTarget::Version(1)),
                compare(CompareResult::Greater, CompareTarget::Create(-2)),
                compare(CompareResult::Less, CompareTarget::Mod(3)),
                compare(CompareResult::NotEqual, CompareTarget::Value(b"v")),
                compare(CompareResult::Equal, CompareTarget::Lease(5)),
            ],
            success: vec![Op::Range(range), Op::Put(put), Op::Txn(Txn::default())],
            failure: vec![Op::DeleteRange(delete), Op::Txn(Txn { success: vec![Op::Put(put)], ..Txn::default() })],
        }
    }

    #[test]
    fn a_transaction_nests_only_so_deep() {
        for (depth, fits) in [(1, true), (TXN_DEPTH_MAX, true), (TXN_DEPTH_MAX + 1, false), (1_000_000, false)] {
            // No conditions, one operation, which is a transaction; the innermost has none; no operations for the other case.
            let within = depth as usize - 1;
            let bytes = [vec![KIND_TXN], [0, 1, KIND_TXN].repeat(within), vec![0; 3], vec![0; within]].concat();
            assert_eq!(Body::decode(&bytes).is_ok(), fits, "{depth} levels");
        }
    }

    fn a_learner() -> Member {
        let peer_urls = vec!["http://p:2".into()];
        Member { id: 9, name: String::new(), peer_urls, client_urls: vec![], is_learner: true }
    }

    fn bodies() -> Vec<Body<'static>> {
        vec![
            put(b"key"),
            Body::DeleteRange(DeleteRange { key: b"a", range_end: b"b", prev_kv: true }),
            Body::Txn(a_txn()),
            Body::Compact { revision: 12 },
            Body::LeaseGrant { id: i64::MIN, ttl: 60 },
            Body::LeaseRevoke { id: -1, expired: None },
            Body::LeaseRevoke { id: 1, expired: Some(Expired { term: 7, granted: 300 }) },
            Body::LeaseCheckpoint {
                term: 3,
                checkpoints: vec![
                    LeaseCheckpoint { id: 1, granted: 8, remaining_ttl: 300 },
                    LeaseCheckpoint { id: 2, granted: 0, remaining_ttl: 0 },
                ],
            },
            Body::Alarm(Alarm { raise: true, member: 9, kind: AlarmKind::NoSpace }),
            Body::Alarm(Alarm { raise: false, member: 0, kind: AlarmKind::Corrupt }),
            Body::Publish(Publish { id: 7, name: "n".into(), client_urls: vec!["http://a:1".into()] }),
            Body::MemberAdd { member: a_learner(), learners_max: LEARNERS_DEFAULT },
            Body::MemberAdd { member: a_learner(), learners_max: 300 },
            Body::MemberRemove(u64::MAX),
            Body::MemberPromote(3),
            Body::MemberUpdate { id: 4, peer_urls: vec!["http://q:3".into(), "http://r:4".into()] },
        ]
    }

    /// The format is a promise to data directories already written: these bytes never change.
    #[test]
    fn golden_batch() {
        let header = CommandHeader { origin: 0x0102, epoch: 1, seq: 300, auth_revision: 0, user: b"u" };
        let mut batch = BatchBuilder::default();
        batch.push(&put(b"k").encode(&header));
        assert_eq!(
            batch.finish().as_ref(),
            [
                1, 1, 0, 0, 0,  // version, count
                40, // command length
                2, 1, 0, 0, 0, 0, 0, 0, // origin
                0x2c, 1, 0, 0, 0, 0, 0, 0, // seq
                1, 0, 1, b'u', // epoch, auth revision, user
                1, 5, // put, prev_kv | ignore_lease
                255, 255, 255, 255, 255, 255, 255, 255, 255, 1, // lease -1
                1, b'k', 5, b'v', b'a', b'l', b'u', b'e'
            ]
        );
    }

    fn body(body: Body<'_>) -> Vec<u8> {
        let command = body.encode(&CommandHeader::default());
        CommandRef::decode(&command).unwrap().body.to_vec()
    }

    #[test]
    fn golden_members() {
        let learner = [&[65, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1, 10][..], b"http://p:2", &[0, 1]].concat();
        assert_eq!(body(Body::MemberAdd { member: a_learner(), learners_max: 1 }), learner);
        assert_eq!(
            body(Body::MemberAdd { member: a_learner(), learners_max: 300 }),
            [&learner[..], &[0xac, 2]].concat()
        );
        for fewer in [0, 1] {
            let bytes = [&learner[..], &[fewer]].concat();
            assert_eq!(Body::decode(&bytes), Err(DecodeError::Invalid("learners")));
        }
        assert_eq!(body(Body::MemberRemove(3)), [66, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(body(Body::MemberPromote(3)), [67, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn golden_leases_and_alarms() {
        assert_eq!(body(Body::LeaseGrant { id: 300, ttl: 60 }), [6, 0xac, 2, 60]);
        assert_eq!(body(Body::LeaseRevoke { id: 300, expired: None }), [7, 0xac, 2, 0]);
        let expired = Some(Expired { term: 2, granted: 9 });
        assert_eq!(body(Body::LeaseRevoke { id: 300, expired }), [7, 0xac, 2, 2, 9]);
        let checkpoint = LeaseCheckpoint { id: 5, granted: 6, remaining_ttl: 9 };
        assert_eq!(body(Body::LeaseCheckpoint { term: 4, checkpoints: vec![checkpoint] }), [8, 4, 1, 5, 6, 9]);
        let alarm = Alarm { raise: true, member: 3, kind: AlarmKind::NoSpace };
        assert_eq!(body(Body::Alarm(alarm)), [9, 1, 1, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_body_of_the_callers_own_comes_back() {
        let header = CommandHeader { origin: 1, epoch: u64::MAX, seq: 3, auth_revision: 4, user: b"root" };
        for body in [&b""[..], b"x", &[0; 1000]] {
            let command = header.encode(body);
            assert_eq!(CommandRef::decode(&command).unwrap(), CommandRef { header, body });
        }
        // Ours is nothing else.
        let command = put(b"k").encode(&header);
        assert_eq!(header.encode(CommandRef::decode(&command).unwrap().body), command);
    }

    #[test]
    fn a_sequence_number_is_set_in_place() {
        let mut command = put(b"k").encode(&CommandHeader { epoch: 9, ..CommandHeader::default() });
        set_seq(&mut command, 77);
        let header = CommandRef::decode(&command).unwrap().header;
        assert_eq!((header.seq, header.epoch), (77, 9));
    }

    #[test]
    fn every_body_comes_back() {
        let header = CommandHeader { origin: 1, epoch: 2, seq: 3, auth_revision: 4, user: b"root" };
        let mut batch = BatchBuilder::default();
        for body in bodies() {
            let command = body.encode(&header);
            let expected = batch.bytes_with(&command);
            batch.push(&command);
            assert_eq!(batch.bytes.len(), expected);
        }
        let bytes = batch.finish();
        let decoded: Vec<_> = Batch::decode(&bytes).unwrap().map(Result::unwrap).collect();
        assert_eq!(decoded.len(), bodies().len());
        for (command, body) in decoded.iter().zip(bodies()) {
            assert_eq!(command.header, header);
            assert_eq!(Body::decode(command.body), Ok(body));
        }
    }

    #[test]
    fn a_batch_says_what_is_wrong_with_it() {
        assert_eq!(Batch::decode(&[2]).unwrap_err(), DecodeError::Version { what: "batch", found: 2 });
        assert_eq!(Batch::decode(&[1, 0, 0, 0, 0]).unwrap_err(), DecodeError::Invalid("batch count"));
        let mut batch = BatchBuilder::default();
        batch.push(&put(b"k").encode(&CommandHeader::default()));
        let mut bytes = batch.finish().to_vec();
        bytes.push(0);
        let last = Batch::decode(&bytes).unwrap().last().unwrap();
        assert_eq!(last.unwrap_err(), DecodeError::Trailing("batch"));
    }

    proptest! {
        #[test]
        fn any_bytes_into_a_batch_return(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(batch) = Batch::decode(&bytes) {
                for command in batch.flatten() {
                    let _ = Body::decode(command.body);
                }
            }
        }

        #[test]
        fn a_damaged_batch_returns(at in 0usize..400, value: u8) {
            let mut batch = BatchBuilder::default();
            for body in bodies() {
                batch.push(&body.encode(&CommandHeader::default()));
            }
            let mut bytes = batch.finish().to_vec();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(batch) = Batch::decode(&bytes) {
                for command in batch.flatten() {
                    if let Ok(body) = Body::decode(command.body) {
                        // What decodes is canonical.
                        let again = body.encode(&command.header);
                        prop_assert_eq!(CommandRef::decode(&again).unwrap(), command);
                    }
                }
            }
        }
    }
}
