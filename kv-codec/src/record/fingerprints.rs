//! What a segment that is used again held before: one fingerprint for each of its sectors.
//!
//! A sector that still has its fingerprint was not written since. Two different contents have the same one by a chance of about
//! 2^-31: CRC32C tells them apart by their difference, in which the random [masks](super::frame::mask) of both lives are.

use crate::DecodeError;
use crate::record::frame::{SECTOR_BYTES, SEGMENT_HEADER_BYTES};

const BYTES_EACH: usize = 4;

/// The fingerprints of a segment, as they stand behind its header.
///
/// * Each sector of the file has four bytes, little-endian; those of the header and of the fingerprints themselves are zero.
/// * Zeroes follow up to the next sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprints {
    table: Vec<u8>,
}

impl Fingerprints {
    /// How many bytes they take in a segment of this length.
    #[must_use]
    pub const fn bytes_in(segment_bytes: u64) -> u64 {
        (segment_bytes / SECTOR_BYTES as u64 * BYTES_EACH as u64).next_multiple_of(SECTOR_BYTES as u64)
    }

    /// The fingerprints of a segment whose sectors behind the table are to be [pushed](Self::push) one by one.
    #[must_use]
    pub fn of_segment(segment_bytes: u64) -> Self {
        let in_memory = |bytes: u64| usize::try_from(bytes).expect("a segment's table fits into memory");
        let mut table = Vec::with_capacity(in_memory(Self::bytes_in(segment_bytes)));
        let front = SEGMENT_HEADER_BYTES + in_memory(Self::bytes_in(segment_bytes));
        table.resize(front / SECTOR_BYTES * BYTES_EACH, 0);
        Self { table }
    }

    /// Adds the next sector.
    pub fn push(&mut self, sector: &[u8]) {
        self.table.extend_from_slice(&fingerprint(sector));
    }

    /// The bytes, and the checksum for [`SegmentHeader::fingerprints`](super::frame::SegmentHeader::fingerprints).
    #[must_use]
    pub fn encode(mut self) -> (Vec<u8>, u32) {
        self.table.resize(self.table.len().next_multiple_of(SECTOR_BYTES), 0);
        let checksum = crc32c::crc32c(&self.table);
        (self.table, checksum)
    }

    /// Takes bytes that were read.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`].
    pub fn decode(table: Vec<u8>, checksum: u32) -> Result<Self, DecodeError> {
        if crc32c::crc32c(&table) == checksum { Ok(Self { table }) } else { Err(DecodeError::Checksum("fingerprints")) }
    }

    /// Whether the sector of this number holds what it held when its fingerprint was taken.
    #[must_use]
    pub fn is_old(&self, sector: u64, content: &[u8]) -> bool {
        let number = usize::try_from(sector).ok();
        let expected = number.and_then(|number| self.table.as_chunks::<BYTES_EACH>().0.get(number));
        expected == Some(&fingerprint(content))
    }
}

fn fingerprint(sector: &[u8]) -> [u8; BYTES_EACH] {
    crc32c::crc32c(sector).to_le_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn golden_fingerprints() {
        let mut fingerprints = Fingerprints::of_segment(4096);
        for byte in 2..8 {
            fingerprints.push(&[byte; SECTOR_BYTES]);
        }
        let (table, checksum) = fingerprints.encode();
        assert_eq!(
            (table.len() as u64, Fingerprints::bytes_in(4096), Fingerprints::bytes_in(64 << 20)),
            (512, 512, 512 << 10)
        );
        assert_eq!(table[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0xdb, 0x23, 0x9e, 0xaa]);
        assert!(table[32..].iter().all(|byte| *byte == 0));
        assert_eq!(checksum, crc32c::crc32c(&table));
    }

    #[test]
    fn a_sector_is_old_until_a_bit_of_it_changes() {
        let mut fingerprints = Fingerprints::of_segment(4096);
        (2..8).for_each(|byte| fingerprints.push(&[byte; SECTOR_BYTES]));
        let (table, checksum) = fingerprints.encode();
        let read = Fingerprints::decode(table.clone(), checksum).unwrap();
        let mut sector = [5; SECTOR_BYTES];
        assert!(read.is_old(5, &sector) && !read.is_old(4, &sector) && !read.is_old(1 << 40, &sector));
        for bit in 0..SECTOR_BYTES * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            assert!(!read.is_old(5, &sector), "bit {bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..table.len() * 8 {
            let mut table = table.clone();
            table[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Fingerprints::decode(table, checksum), Err(DecodeError::Checksum("fingerprints")), "bit {bit}");
        }
    }
}
