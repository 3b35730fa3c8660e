//! Frames of a snapshot stream, on disk and between members. All integers are little-endian.
//!
//! ```text
//! stream = header | chunk ... chunk | end
//! header = magic (7 bytes) | version | index u64 | term u64 | cluster id u64 | crc u32
//! chunk  = payload length u32, 1 to 1 MiB | crc u32 | payload
//! end    = 0u32 | crc u32 | payload bytes in total u64 | number of chunks u64 | digest 16 bytes
//! ```
//! Each CRC32C of a chunk starts from the header's and covers the length, the chunk's ordinal and the payload, so that a chunk
//! of another stream or place does not fit. The digest is XXH3-128 (big-endian, its canonical form) over the header and all
//! payloads; who computes it is the caller.

use crate::DecodeError;
use crate::varint::Reader;

/// The version of the stream that this build reads and writes.
pub const STREAM_VERSION: u8 = 1;
/// The length of a stream's header.
pub const HEADER_BYTES: usize = 36;
/// What stands before a chunk's payload.
pub const CHUNK_HEADER_BYTES: usize = 8;
/// What follows an end frame's first eight bytes.
pub const END_BYTES: usize = 32;
/// The largest payload of a chunk.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

const MAGIC: [u8; 7] = *b"kvsnaps";
const CRC_AT: usize = 32;

/// Which snapshot a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The last entry that the snapshot contains.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The cluster that it belongs to.
    pub cluster_id: u64,
}

impl SnapshotHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..7].copy_from_slice(&MAGIC);
        out[7] = STREAM_VERSION;
        out[8..16].copy_from_slice(&self.index.to_le_bytes());
        out[16..24].copy_from_slice(&self.term.to_le_bytes());
        out[24..32].copy_from_slice(&self.cluster_id.to_le_bytes());
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for bytes that start no stream, [`DecodeError::Checksum`], [`DecodeError::Version`].
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        if bytes[..7] != MAGIC {
            return Err(DecodeError::Invalid("snapshot magic"));
        }
        let mut reader = Reader::new(&bytes[8..]);
        let header = Self {
            index: reader.fixed_u64("snapshot header")?,
            term: reader.fixed_u64("snapshot header")?,
            cluster_id: reader.fixed_u64("snapshot header")?,
        };
        if reader.fixed_u32("snapshot header")? != crc32c::crc32c(&bytes[..CRC_AT]) {
            return Err(DecodeError::Checksum("snapshot header"));
        }
        if bytes[7] != STREAM_VERSION {
            return Err(DecodeError::Version { what: "snapshot", found: bytes[7] });
        }
        Ok(header)
    }

    /// What the checksums of this stream's frames start from.
    #[must_use]
    pub fn seed(&self) -> FrameSeed {
        // Without the header's own checksum: over bytes and their CRC, a CRC is the same for all bytes.
        FrameSeed(crc32c::crc32c(&self.encode()[..CRC_AT]))
    }
}

/// Binds the frames of a stream to its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSeed(u32);

impl FrameSeed {
    /// The bytes before the payload of chunk number `ordinal`, counted from 0.
    ///
    /// # Panics
    /// When the payload is empty or longer than [`CHUNK_BYTES_MAX`].
    #[must_use]
    pub fn chunk_header(self, ordinal: u64, payload: &[u8]) -> [u8; CHUNK_HEADER_BYTES] {
        assert!(!payload.is_empty() && payload.len() <= CHUNK_BYTES_MAX, "a chunk of {} bytes", payload.len());
        let len = u32::try_from(payload.len()).expect("CHUNK_BYTES_MAX fits");
        frame(len, self.crc(ordinal, len, payload))
    }

    /// The whole end frame, after `end.chunks` chunks.
    #[must_use]
    pub fn end_frame(self, end: &StreamEnd) -> [u8; CHUNK_HEADER_BYTES + END_BYTES] {
        let mut out = [0; CHUNK_HEADER_BYTES + END_BYTES];
        out[8..16].copy_from_slice(&end.payload_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&end.chunks.to_le_bytes());
        out[24..40].copy_from_slice(&end.digest);
        let crc = self.crc(end.chunks, 0, &out[8..]);
        out[..8].copy_from_slice(&frame(0, crc));
        out
    }

    /// Checks what follows a chunk's header.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`].
    pub fn check_chunk(self, head: ChunkHeader, ordinal: u64, payload: &[u8]) -> Result<(), DecodeError> {
        let matches = payload.len() == head.payload_bytes && head.crc == self.crc(ordinal, head.len(), payload);
        matches.then_some(()).ok_or(DecodeError::Checksum("snapshot chunk"))
    }

    /// Reads what follows the header of an end frame, after `chunks` chunks.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`].
    pub fn decode_end(self, head: ChunkHeader, chunks: u64, rest: &[u8; END_BYTES]) -> Result<StreamEnd, DecodeError> {
        if head.payload_bytes != 0 || head.crc != self.crc(chunks, 0, rest) {
            return Err(DecodeError::Checksum("snapshot end"));
        }
        let mut reader = Reader::new(rest);
        Ok(StreamEnd {
            payload_bytes: reader.fixed_u64("snapshot end")?,
            chunks: reader.fixed_u64("snapshot end")?,
            digest: reader.array("snapshot end")?,
        })
    }

    fn crc(self, ordinal: u64, len: u32, payload: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(self.0, &len.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &ordinal.to_le_bytes());
        crc32c::crc32c_append(crc, payload)
    }
}

fn frame(len: u32, crc: u32) -> [u8; CHUNK_HEADER_BYTES] {
    let mut out = [0; CHUNK_HEADER_BYTES];
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// What stands before a chunk's payload, or (length 0) starts the end frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The payload's length, at most [`CHUNK_BYTES_MAX`]; 0 in an end frame.
    pub payload_bytes: usize,
    crc: u32,
}

impl ChunkHeader {
    /// Reads the length and the checksum, which [`FrameSeed::check_chunk`] or [`FrameSeed::decode_end`] compares.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`].
    pub fn decode(bytes: &[u8; CHUNK_HEADER_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let len = reader.fixed_u32("snapshot chunk")?;
        let crc = reader.fixed_u32("snapshot chunk")?;
        let (found, max) = (u64::from(len), CHUNK_BYTES_MAX as u64);
        match usize::try_from(len) {
            Ok(payload_bytes) if found <= max => Ok(Self { payload_bytes, crc }),
            _ => Err(DecodeError::TooLong { what: "snapshot chunk", len: found, max }),
        }
    }

    fn len(self) -> u32 {
        u32::try_from(self.payload_bytes).unwrap_or(u32::MAX)
    }
}

/// What the end of a stream says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEnd {
    /// Payload bytes of all chunks.
    pub payload_bytes: u64,
    /// How many chunks there were.
    pub chunks: u64,
    /// XXH3-128 over the header and all payloads.
    pub digest: [u8; 16],
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: SnapshotHeader = SnapshotHeader { index: 9, term: 2, cluster_id: 77 };

    #[test]
    fn a_header_comes_back_and_no_flipped_bit_does() {
        let bytes = HEADER.encode();
        assert_eq!(SnapshotHeader::decode(&bytes), Ok(HEADER));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = SnapshotHeader::decode(&bytes);
            assert!(matches!(found, Err(DecodeError::Checksum(_) | DecodeError::Invalid(_))), "bit {bit}: {found:?}");
        }
    }

    #[test]
    fn a_chunk_fits_its_stream_and_place_only() {
        let seed = HEADER.seed();
        let head = ChunkHeader::decode(&seed.chunk_header(3, b"payload")).unwrap();
        assert_eq!(head.payload_bytes, 7);
        assert_eq!(seed.check_chunk(head, 3, b"payload"), Ok(()));
        assert!(seed.check_chunk(head, 4, b"payload").is_err());
        assert!(seed.check_chunk(head, 3, b"paYload").is_err());
        let other = SnapshotHeader { index: 10, ..HEADER }.seed();
        assert!(other.check_chunk(head, 3, b"payload").is_err());
    }

    #[test]
    fn an_end_comes_back_and_no_flipped_bit_does() {
        let seed = HEADER.seed();
        let end = StreamEnd { payload_bytes: 7, chunks: 1, digest: [8; 16] };
        let frame = seed.end_frame(&end);
        let decode = |frame: [u8; 40]| {
            let head = ChunkHeader::decode(&frame[..8].try_into().unwrap())?;
            seed.decode_end(head, 1, &frame[8..].try_into().unwrap())
        };
        assert_eq!(decode(frame), Ok(end));
        for bit in 0..frame.len() * 8 {
            let mut frame = frame;
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(frame).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_return(bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES)) {
            let bytes: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
            if let Ok(header) = SnapshotHeader::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
            if let Ok(head) = ChunkHeader::decode(&bytes[..8].try_into().unwrap()) {
                prop_assert!(head.payload_bytes <= CHUNK_BYTES_MAX);
            }
        }
    }
}
