//! What stands around the records: the header of a segment and the header of a batch. All integers are little-endian.
//!
//! A segment is filled with repetitions of its tag before it is used, so that bytes never written can be told from any others.
//! Batches start at multiples of [`BATCH_ALIGN`], so that a header lies within one sector and every part of a batch within a
//! sector is a whole number of [`TAG_BYTES`].

use crate::DecodeError;
use crate::record::{HardState, SnapshotMark};
use crate::varint::Reader;

/// The version of the segment format that this build reads and writes.
pub const SEGMENT_VERSION: u8 = 1;
/// A segment's header: one sector.
pub const SEGMENT_HEADER_BYTES: usize = 512;
/// A batch's header.
pub const BATCH_HEADER_BYTES: usize = 32;
/// Where batches start, and what their payloads are padded to: the length of a header.
pub const BATCH_ALIGN: u64 = BATCH_HEADER_BYTES as u64;
/// The length of a tag.
pub const TAG_BYTES: usize = 16;

/// Sixteen random bytes: what a segment holds where nothing was written.
pub type Tag = [u8; TAG_BYTES];

const MAGIC: [u8; 8] = *b"kvlogseg";
const CRC_AT: usize = 12;
/// No sequence, epoch, ordinal or index comes near.
const NUMBER_MAX: u64 = 1 << 62;

/// What the records before some point of the log add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    /// The last hard state.
    pub hard_state: HardState,
    /// The last snapshot mark.
    pub snapshot: Option<SnapshotMark>,
    /// The index of the last entry, or of the snapshot when there is none above it.
    pub last_index: u64,
}

/// The first sector of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What the rest of the segment was filled with.
    pub tag: Tag,
    /// The number in the file's name.
    pub sequence: u64,
    /// The file's length.
    pub bytes: u64,
    /// The cluster whose log this is.
    pub cluster_id: u64,
    /// The member whose log this is.
    pub member_id: u64,
    /// How many times the log had been opened when the segment was made.
    pub epoch: u64,
    /// The ordinal of its first batch. Batches of older segments from this ordinal on are void.
    pub first_ordinal: u64,
    /// Batches up to this ordinal were synced before the segment got its name.
    pub watermark: u64,
    /// The chain after the batch before the first.
    pub chain: u32,
    /// The state before the first batch.
    pub state: LogState,
}

impl SegmentHeader {
    /// The header's bytes. A checksum over the whole sector is part of them.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let snapshot = self.state.snapshot;
        let mut sector = [0; SEGMENT_HEADER_BYTES];
        sector[..8].copy_from_slice(&MAGIC);
        sector[8] = SEGMENT_VERSION;
        sector[16..32].copy_from_slice(&self.tag);
        let mark = snapshot.unwrap_or(SnapshotMark { index: 0, term: 0, installed: false });
        let fields = [
            self.sequence,
            self.bytes,
            self.cluster_id,
            self.member_id,
            self.epoch,
            self.first_ordinal,
            self.watermark,
            u64::from(self.chain),
            self.state.hard_state.term,
            self.state.hard_state.vote,
            self.state.hard_state.commit,
            u64::from(snapshot.is_some()) + u64::from(mark.installed),
            mark.index,
            mark.term,
            self.state.last_index,
        ];
        for (field, at) in fields.iter().zip(sector[32..].as_chunks_mut::<8>().0) {
            *at = field.to_le_bytes();
        }
        let crc = sector_crc(&sector);
        sector[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`] for a sector that is not as written, [`DecodeError::Version`] for an intact one of a version
    /// unknown here, [`DecodeError::Invalid`] for a field that this version does not write.
    pub fn decode(sector: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, DecodeError> {
        if sector[..8] != MAGIC {
            return Err(DecodeError::Invalid("segment magic"));
        }
        let mut reader = Reader::new(&sector[CRC_AT..]);
        if reader.fixed_u32("segment header")? != sector_crc(sector) {
            return Err(DecodeError::Checksum("segment header"));
        }
        if sector[8] != SEGMENT_VERSION {
            return Err(DecodeError::Version { what: "log segment", found: sector[8] });
        }
        let tag = reader.array("tag")?;
        let mut next = || reader.fixed_u64("segment header");
        let header = Self {
            tag,
            sequence: next()?,
            bytes: next()?,
            cluster_id: next()?,
            member_id: next()?,
            epoch: next()?,
            first_ordinal: next()?,
            watermark: next()?,
            chain: u32::try_from(next()?).map_err(|_| DecodeError::Invalid("segment chain"))?,
            state: LogState {
                hard_state: HardState { term: next()?, vote: next()?, commit: next()? },
                snapshot: match (next()?, next()?, next()?) {
                    (0, ..) => None,
                    (kind @ 1..=2, index, term) => Some(SnapshotMark { index, term, installed: kind == 2 }),
                    _ => return Err(DecodeError::Invalid("segment snapshot")),
                },
                last_index: next()?,
            },
        };
        let numbers = [header.sequence, header.epoch, header.watermark, header.state.last_index];
        // Fields of this version alone; ordinals from 1; nothing that the next number would overflow.
        if header.encode() != *sector
            || header.first_ordinal == 0
            || header.watermark < header.first_ordinal - 1
            || numbers.iter().any(|&number| number > NUMBER_MAX)
        {
            return Err(DecodeError::Invalid("segment header"));
        }
        Ok(header)
    }
}

/// The checksum's place is the same in every version, so that a damaged header is never taken for a newer one.
fn sector_crc(sector: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&sector[..CRC_AT]), &sector[CRC_AT + 4..])
}

/// What stands before a batch's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Bytes of records; the padding is not counted.
    pub payload_bytes: u32,
    /// [`chain`] up to and with this batch.
    pub chain: u32,
    /// The batch's number, from 1.
    pub ordinal: u64,
    /// Batches up to this ordinal were synced before this one was written.
    pub watermark: u64,
}

impl BatchHeader {
    /// The header's bytes. Its checksum covers the segment's tag, so that a batch of another segment never fits.
    #[must_use]
    pub fn encode(&self, tag: &Tag) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        out[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[8..12].copy_from_slice(&self.chain.to_le_bytes());
        out[16..24].copy_from_slice(&self.ordinal.to_le_bytes());
        out[24..32].copy_from_slice(&self.watermark.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(tag), &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`], [`DecodeError::Invalid`].
    pub fn decode(bytes: &[u8; BATCH_HEADER_BYTES], tag: &Tag) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let crc = reader.fixed_u32("batch header")?;
        if crc != crc32c::crc32c_append(crc32c::crc32c(tag), reader.rest()) {
            return Err(DecodeError::Checksum("batch header"));
        }
        let payload_bytes = reader.fixed_u32("batch header")?;
        let chain = reader.fixed_u32("batch header")?;
        let reserved = reader.fixed_u32("batch header")?;
        let ordinal = reader.fixed_u64("batch header")?;
        let watermark = reader.fixed_u64("batch header")?;
        if reserved != 0 || watermark >= ordinal {
            return Err(DecodeError::Invalid("batch header"));
        }
        Ok(Self { payload_bytes, chain, ordinal, watermark })
    }

    /// How many bytes the batch takes: header, payload, padding.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        BATCH_HEADER_BYTES as u64 + u64::from(self.payload_bytes).next_multiple_of(BATCH_ALIGN)
    }
}

/// The chain after a batch: a checksum over everything since the log began, seeded with the one `before`. `padded` is the payload
/// with its padding.
#[must_use]
pub fn chain(before: u32, ordinal: u64, payload_bytes: u32, padded: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(before, &ordinal.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &payload_bytes.to_le_bytes());
    crc32c::crc32c_append(crc, padded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: Tag = [0xa5; TAG_BYTES];

    fn header() -> SegmentHeader {
        SegmentHeader {
            tag: TAG,
            sequence: 3,
            bytes: 1 << 20,
            cluster_id: 11,
            member_id: 12,
            epoch: 4,
            first_ordinal: 9,
            watermark: 10,
            chain: 0xdead_beef,
            state: LogState {
                hard_state: HardState { term: 5, vote: 12, commit: 40 },
                snapshot: Some(SnapshotMark { index: 30, term: 4, installed: true }),
                last_index: 44,
            },
        }
    }

    #[test]
    fn a_segment_header_comes_back_and_no_flipped_bit_does() {
        for snapshot in [None, header().state.snapshot, Some(SnapshotMark { index: 1, term: 1, installed: false })] {
            let mut header = header();
            header.state.snapshot = snapshot;
            assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        }
        let sector = header().encode();
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut sector = sector;
            sector[bit / 8] ^= 1 << (bit % 8);
            let found = SegmentHeader::decode(&sector);
            assert!(matches!(found, Err(DecodeError::Checksum(_) | DecodeError::Invalid(_))), "bit {bit}: {found:?}");
        }
    }

    #[test]
    fn an_intact_header_of_a_newer_version_is_named_so() {
        let mut sector = header().encode();
        sector[8] = 2;
        let crc = sector_crc(&sector);
        sector[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&sector), Err(DecodeError::Version { what: "log segment", found: 2 }));
    }

    #[test]
    fn a_batch_header_fits_its_own_segment_only() {
        let header = BatchHeader { payload_bytes: 33, chain: 1, ordinal: 2, watermark: 1 };
        assert_eq!(header.batch_bytes(), 32 + 64);
        assert_eq!(BatchHeader::decode(&header.encode(&TAG), &TAG), Ok(header));
        assert!(BatchHeader::decode(&header.encode(&TAG), &[0; TAG_BYTES]).is_err());
        let later = BatchHeader { watermark: 2, ..header };
        assert!(BatchHeader::decode(&later.encode(&TAG), &TAG).is_err());
        for bit in 0..BATCH_HEADER_BYTES * 8 {
            let mut bytes = header.encode(&TAG);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&bytes, &TAG).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_return(sector in proptest::collection::vec(any::<u8>(), SEGMENT_HEADER_BYTES), fix: bool) {
            let mut sector: [u8; SEGMENT_HEADER_BYTES] = sector.try_into().unwrap();
            if fix {
                sector[..8].copy_from_slice(&MAGIC);
                sector[8] = SEGMENT_VERSION;
                let crc = sector_crc(&sector);
                sector[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok(header) = SegmentHeader::decode(&sector) {
                prop_assert_eq!(header.encode(), sector);
            }
            if let Ok(batch) = BatchHeader::decode(&sector[..32].try_into().unwrap(), &TAG) {
                prop_assert_eq!(&batch.encode(&TAG)[..], &sector[..32]);
            }
        }
    }
}
