//! What stands around the records: the header of a segment and the header of a batch. All integers are little-endian.
//!
//! Bytes never written can be told from any others: a new segment is filled with repetitions of its tag before it is used, and one
//! that is used again has the [`Fingerprints`] of its sectors behind its header. Batches start at multiples of [`BATCH_ALIGN`], so
//! that a header lies within one sector and every part of a batch within a sector is a whole number of [`WORD_BYTES`]. Their
//! payloads are [`mask`]ed: no two lives of a segment hold the same bytes for the same payload.

use crate::DecodeError;
use crate::record::fingerprints::Fingerprints;
use crate::record::{HardState, SnapshotMark};
use crate::varint::Reader;

/// The version of the segment format that this build writes.
pub const SEGMENT_VERSION: u8 = 2;
/// The first version, which is read as well: payloads stand as they are, and no segment has fingerprints.
pub const SEGMENT_VERSION_PLAIN: u8 = 1;
/// What a disk writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// What the operating system writes out as one: the next append may be copied into it meanwhile. Where pages are longer, so is what
/// that can tear.
pub const PAGE_BYTES: usize = 4096;
/// What a copy between two places in memory moves as a whole.
pub const WORD_BYTES: usize = 8;
/// A segment's header: one sector.
pub const SEGMENT_HEADER_BYTES: usize = SECTOR_BYTES;
/// A batch's header.
pub const BATCH_HEADER_BYTES: usize = 32;
/// Where batches start, and what their payloads are padded to: the length of a header.
pub const BATCH_ALIGN: u64 = BATCH_HEADER_BYTES as u64;
/// The length of a tag.
pub const TAG_BYTES: usize = 16;

/// Sixteen random bytes: what a segment holds where nothing was written, old content aside.
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
    /// The version of its format: [`SEGMENT_VERSION`] or [`SEGMENT_VERSION_PLAIN`].
    pub version: u8,
    /// What new segments are filled with, and the rest of a page that a batch is the first to come into.
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
    /// The checksum of the [`Fingerprints`] that follow the header; `None` in a segment that was filled with its tag.
    pub fingerprints: Option<u32>,
}

impl SegmentHeader {
    /// Where the first batch begins.
    #[must_use]
    pub fn batches_at(&self) -> u64 {
        SEGMENT_HEADER_BYTES as u64 + self.fingerprints.map_or(0, |_| Fingerprints::bytes_in(self.bytes))
    }

    /// Takes what stands on disk in this segment back to a payload, padding included.
    pub fn unmask(&self, payload: &mut [u8]) {
        if self.version != SEGMENT_VERSION_PLAIN {
            mask(&self.tag, payload);
        }
    }

    /// The header's bytes. A checksum over the whole sector is part of them.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let snapshot = self.state.snapshot;
        let mut sector = [0; SEGMENT_HEADER_BYTES];
        sector[..8].copy_from_slice(&MAGIC);
        sector[8] = self.version;
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
            u64::from(self.fingerprints.is_some()),
            u64::from(self.fingerprints.unwrap_or(0)),
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
        let version = sector[8];
        if !(SEGMENT_VERSION_PLAIN..=SEGMENT_VERSION).contains(&version) {
            return Err(DecodeError::Version { what: "log segment", found: version });
        }
        let tag = reader.array("tag")?;
        let mut next = || reader.fixed_u64("segment header");
        let crc = |crc: u64| u32::try_from(crc).map_err(|_| DecodeError::Invalid("segment checksum"));
        let header = Self {
            version,
            tag,
            sequence: next()?,
            bytes: next()?,
            cluster_id: next()?,
            member_id: next()?,
            epoch: next()?,
            first_ordinal: next()?,
            watermark: next()?,
            chain: crc(next()?)?,
            state: LogState {
                hard_state: HardState { term: next()?, vote: next()?, commit: next()? },
                snapshot: match (next()?, next()?, next()?) {
                    (0, ..) => None,
                    (kind @ 1..=2, index, term) => Some(SnapshotMark { index, term, installed: kind == 2 }),
                    _ => return Err(DecodeError::Invalid("segment snapshot")),
                },
                last_index: next()?,
            },
            fingerprints: match (next()?, next()?) {
                (0, _) => None,
                (1, checksum) => Some(crc(checksum)?),
                _ => return Err(DecodeError::Invalid("segment fingerprints")),
            },
        };
        let numbers = [header.sequence, header.epoch, header.watermark, header.state.last_index];
        // Fields of this version alone; ordinals from 1; whole sectors; nothing that the next number would overflow.
        if header.encode() != *sector
            || header.first_ordinal == 0
            || header.watermark < header.first_ordinal - 1
            || (version == SEGMENT_VERSION_PLAIN && header.fingerprints.is_some())
            || !header.bytes.is_multiple_of(SECTOR_BYTES as u64)
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

/// Takes a payload, padding included, to what stands on disk in a segment of this tag, and back.
///
/// Each 16 bytes are combined by exclusive or with the tag moved on by one byte. A client chooses what it stores, zeroes say, but
/// cannot choose what is written: neither the tag nor what the same sector held in an earlier life of the segment.
pub fn mask(tag: &Tag, payload: &mut [u8]) {
    let key = u128::from_le_bytes(*tag).rotate_left(8);
    for unit in payload.as_chunks_mut::<TAG_BYTES>().0 {
        *unit = (u128::from_le_bytes(*unit) ^ key).to_le_bytes();
    }
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
            version: SEGMENT_VERSION,
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
            fingerprints: Some(0x1234_5678),
        }
    }

    #[test]
    fn a_segment_header_comes_back_and_no_flipped_bit_does() {
        for snapshot in [None, header().state.snapshot, Some(SnapshotMark { index: 1, term: 1, installed: false })] {
            let mut header = header();
            header.state.snapshot = snapshot;
            for fingerprints in [None, Some(0), header.fingerprints] {
                header.fingerprints = fingerprints;
                assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
            }
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
    fn golden_segment_header() {
        // Offset and bytes of each field that docs/formats.md lists, the checksum aside.
        let sector = header().encode();
        let golden: [(usize, &[u8]); 6] = [
            (0, b"kvlogseg\x02\0\0\0"),
            (16, &[0xa5; 16]),
            (32, &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0]),
            (64, &[4, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]),
            (120, &[2, 0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0]),
            (152, &[1, 0, 0, 0, 0, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0]),
        ];
        for (at, bytes) in golden {
            assert_eq!(&sector[at..at + bytes.len()], bytes, "at {at}");
        }
        assert_eq!(header().batches_at(), 512 + 8192);
        assert_eq!(SegmentHeader { fingerprints: None, ..header() }.batches_at(), 512);
    }

    #[test]
    fn a_mask_comes_off_and_hides_zeroes_and_the_tag() {
        let tag: Tag = *b"0123456789abcdef";
        let mut payload = [0; 64];
        payload[32..48].copy_from_slice(&tag);
        let plain = payload;
        mask(&tag, &mut payload);
        assert_eq!(payload[..16], *b"f0123456789abcde");
        assert!(payload.chunks_exact(TAG_BYTES).all(|unit| unit != tag && unit != [0; TAG_BYTES]));
        mask(&tag, &mut payload);
        assert_eq!(payload, plain);
    }

    #[test]
    fn the_first_version_has_plain_payloads_and_no_fingerprints() {
        let plain = SegmentHeader { version: SEGMENT_VERSION_PLAIN, fingerprints: None, ..header() };
        assert_eq!((plain.encode()[8], SegmentHeader::decode(&plain.encode())), (1, Ok(plain)));
        let fingerprinted = SegmentHeader { fingerprints: Some(0), ..plain };
        assert_eq!(SegmentHeader::decode(&fingerprinted.encode()), Err(DecodeError::Invalid("segment header")));
        let mut payload = *b"sixteen bytes...";
        plain.unmask(&mut payload);
        assert_eq!(&payload, b"sixteen bytes...");
        header().unmask(&mut payload);
        assert_ne!(&payload, b"sixteen bytes...");
    }

    #[test]
    fn an_intact_header_of_a_newer_version_is_named_so() {
        let mut sector = header().encode();
        sector[8] = SEGMENT_VERSION + 1;
        let crc = sector_crc(&sector);
        sector[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&sector), Err(DecodeError::Version { what: "log segment", found: 3 }));
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
