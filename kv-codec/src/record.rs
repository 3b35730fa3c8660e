//! Records of the write-ahead log, and ([`frame`], [`fingerprints`]) what stands around them in a segment.
//!
//! ```text
//! record    = 1 entry | 2 hard state | 3 snapshot mark           (one byte, then the fields)
//! entry     = kind (0 normal, 1 conf change) | index | term | payload (length, bytes)
//! hard state= term | vote (u64 LE) | commit
//! mark      = index | term | installed (0 or 1)
//! ```
//! Integers are varints but for the vote, which is a member id: 64 random bits.

pub mod fingerprints;
pub mod frame;

use bytes::Bytes;

use crate::DecodeError;
use crate::varint::{Reader, put_bytes, put_u64};

/// The largest payload of one entry, in bytes.
pub const ENTRY_BYTES_MAX: u64 = 64 << 20;

const TAG_ENTRY: u8 = 1;
const TAG_HARD_STATE: u8 = 2;
const TAG_SNAPSHOT: u8 = 3;

/// What an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A batch of commands, or nothing.
    Normal,
    /// A change of the membership.
    ConfChange,
}

/// One element of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position, from 1, without holes.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// What the payload is.
    pub kind: EntryKind,
    /// At most [`ENTRY_BYTES_MAX`] bytes.
    pub payload: Bytes,
}

/// What raft must not forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// The highest term seen.
    pub term: u64,
    /// Whom this member voted for in it; 0 for nobody.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

/// Says that a snapshot at `index` is durable and stands for the log up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotMark {
    /// The last entry that the snapshot contains.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// Received from a leader: all entries before the mark are void. Otherwise it was taken here, and entries above `index`
    /// stay valid.
    pub installed: bool,
}

/// One thing that the log keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An entry; it replaces an earlier one at its index and all after that.
    Entry(LogEntry),
    /// The hard state; the last one counts.
    HardState(HardState),
    /// A snapshot; the last one counts.
    Snapshot(SnapshotMark),
}

/// Appends the bytes of `record`.
///
/// # Panics
/// When an entry's payload is longer than [`ENTRY_BYTES_MAX`], which no reader would take.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Entry(entry) => {
            assert!(entry.payload.len() as u64 <= ENTRY_BYTES_MAX, "entry {} is over ENTRY_BYTES_MAX", entry.index);
            out.push(TAG_ENTRY);
            out.push(match entry.kind {
                EntryKind::Normal => 0,
                EntryKind::ConfChange => 1,
            });
            put_u64(out, entry.index);
            put_u64(out, entry.term);
            put_bytes(out, &entry.payload);
        }
        Record::HardState(state) => {
            out.push(TAG_HARD_STATE);
            put_u64(out, state.term);
            out.extend_from_slice(&state.vote.to_le_bytes());
            put_u64(out, state.commit);
        }
        Record::Snapshot(mark) => {
            out.push(TAG_SNAPSHOT);
            put_u64(out, mark.index);
            put_u64(out, mark.term);
            out.push(u8::from(mark.installed));
        }
    }
}

/// The records of one batch, in order. Payloads are slices of the batch, not copies. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records {
    rest: Bytes,
}

impl Records {
    /// Reads the payload of a batch.
    #[must_use]
    pub const fn new(batch: Bytes) -> Self {
        Self { rest: batch }
    }

    fn read(&self) -> Result<(Record, usize), DecodeError> {
        let mut reader = Reader::new(&self.rest);
        let record = match reader.u8("record kind")? {
            TAG_ENTRY => {
                let kind = if reader.bool("entry kind")? { EntryKind::ConfChange } else { EntryKind::Normal };
                let index = reader.u64("entry index")?;
                let term = reader.u64("entry term")?;
                let payload = self.rest.slice_ref(reader.bytes(ENTRY_BYTES_MAX, "entry payload")?);
                Record::Entry(LogEntry { index, term, kind, payload })
            }
            TAG_HARD_STATE => Record::HardState(HardState {
                term: reader.u64("hard state term")?,
                vote: reader.fixed_u64("vote")?,
                commit: reader.u64("commit index")?,
            }),
            TAG_SNAPSHOT => Record::Snapshot(SnapshotMark {
                index: reader.u64("snapshot index")?,
                term: reader.u64("snapshot term")?,
                installed: reader.bool("snapshot kind")?,
            }),
            _ => return Err(DecodeError::Invalid("record kind")),
        };
        Ok((record, reader.rest().len()))
    }
}

impl Iterator for Records {
    type Item = Result<Record, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match self.read() {
            Ok((record, left)) => {
                drop(self.rest.split_to(self.rest.len() - left));
                Some(Ok(record))
            }
            Err(error) => {
                self.rest.clear();
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = Record> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            (any::<u64>(), any::<u64>(), any::<bool>(), bytes).prop_map(|(index, term, conf, payload)| {
                let kind = if conf { EntryKind::ConfChange } else { EntryKind::Normal };
                Record::Entry(LogEntry { index, term, kind, payload: payload.into() })
            }),
            any::<(u64, u64, u64)>()
                .prop_map(|(term, vote, commit)| { Record::HardState(HardState { term, vote, commit }) }),
            any::<(u64, u64, bool)>()
                .prop_map(|(index, term, installed)| { Record::Snapshot(SnapshotMark { index, term, installed }) }),
        ]
    }

    #[test]
    fn the_bytes_are_these() {
        let mut out = Vec::new();
        let payload = Bytes::from_static(b"ab");
        encode(&Record::Entry(LogEntry { index: 300, term: 2, kind: EntryKind::ConfChange, payload }), &mut out);
        encode(&Record::HardState(HardState { term: 1, vote: 0x0102, commit: 5 }), &mut out);
        encode(&Record::Snapshot(SnapshotMark { index: 7, term: 3, installed: true }), &mut out);
        assert_eq!(out, [1, 1, 0xac, 2, 2, 2, b'a', b'b', 2, 1, 2, 1, 0, 0, 0, 0, 0, 0, 5, 3, 7, 3, 1]);
    }

    #[test]
    fn a_payload_is_not_copied() {
        let mut out = Vec::new();
        let payload = Bytes::from(vec![7; 100]);
        encode(&Record::Entry(LogEntry { index: 1, term: 1, kind: EntryKind::Normal, payload }), &mut out);
        let batch = Bytes::from(out);
        let within = batch.as_ptr_range();
        let Some(Ok(Record::Entry(entry))) = Records::new(batch).next() else { panic!("an entry") };
        assert!(within.contains(&entry.payload.as_ptr()));
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_by_its_length() {
        let mut out = vec![TAG_ENTRY, 0, 1, 1];
        put_u64(&mut out, ENTRY_BYTES_MAX + 1);
        let found = Records::new(out.into()).next();
        assert!(matches!(found, Some(Err(DecodeError::TooLong { what: "entry payload", .. }))), "{found:?}");
    }

    proptest! {
        #[test]
        fn records_come_back(records in proptest::collection::vec(any_record(), 0..8)) {
            let mut out = Vec::new();
            for record in &records {
                encode(record, &mut out);
            }
            let found: Vec<_> = Records::new(out.into()).map(Result::unwrap).collect();
            prop_assert_eq!(found, records);
        }

        #[test]
        fn any_bytes_return_and_what_decodes_encodes_back(bytes in proptest::collection::vec(0u8..5, 0..64)) {
            let mut out = Vec::new();
            for record in Records::new(bytes.clone().into()) {
                match record {
                    Ok(record) => encode(&record, &mut out),
                    Err(_) => return Ok(()),
                }
                prop_assert_eq!(&out[..], &bytes[..out.len()]);
            }
            prop_assert_eq!(out, bytes);
        }
    }
}
