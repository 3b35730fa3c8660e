//! Backups: the whole store in one file, as the Snapshot call streams it and `kv-server snapshot` reads it.
//!
//! ```text
//! backup = header (36 bytes, as of a snapshot file) | chunk ... chunk | 0u32 | zeros to a multiple of 512 | SHA-256 of all before
//! chunk  = payload length u32 | crc u32 | payload              (as in a snapshot file)
//! ```
//! Clients of etcd check that the length is 32 above a multiple of 512. The payloads, joined, are the store's snapshot content.

use std::cell::Cell;
use std::io::{self, Read};

use kv_codec::DecodeError;
use kv_codec::chunk::{CHUNK_HEADER_BYTES, ChunkHeader, HEADER_BYTES, SnapshotHeader};
use kv_store::{SnapshotLoader, View};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// What the length is a multiple of, the hash aside.
const ALIGN: u64 = 512;
/// The length of the hash.
const HASH_BYTES: usize = 32;
/// What ends the chunks.
const END: [u8; 4] = [0; 4];

/// Why a backup cannot be read.
#[derive(Debug, Error)]
pub(crate) enum BackupError {
    /// The disk.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// It is no backup, or damaged.
    #[error("it is damaged, or no backup of this program: {0}")]
    Decode(#[from] DecodeError),
    /// The hash at its end is not that of what comes before.
    #[error(
        "its hash does not match: it is damaged, or was not taken by a Snapshot call (then give --skip-hash-check)"
    )]
    Hash,
}

/// How long a backup of `view` is.
pub(crate) fn len(view: &View) -> u64 {
    let chunks: u64 = view.chunks().map(|chunk| (CHUNK_HEADER_BYTES + chunk.len()) as u64).sum();
    let content = HEADER_BYTES as u64 + chunks + END.len() as u64;
    content.next_multiple_of(ALIGN) + HASH_BYTES as u64
}

/// Hands the bytes of a backup of `view` to `sink`, a chunk of the content at a time.
///
/// # Errors
/// Whatever `sink` returns.
pub(crate) fn write<E>(view: &View, cluster_id: u64, mut sink: impl FnMut(Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let header = SnapshotHeader { index: view.applied_index(), term: view.applied_term(), cluster_id };
    let mut hasher = Sha256::new();
    let written = Cell::new(0);
    let mut put = |bytes: Vec<u8>| {
        hasher.update(&bytes);
        written.set(written.get() + bytes.len() as u64);
        sink(bytes)
    };
    put(header.encode().to_vec())?;
    for (ordinal, chunk) in (0..).zip(view.chunks()) {
        put([&header.seed().chunk_header(ordinal, &chunk)[..], &chunk].concat())?;
    }
    put(END.to_vec())?;
    let padding = written.get().next_multiple_of(ALIGN) - written.get();
    put(vec![0; usize::try_from(padding).expect("less than ALIGN")])?;
    sink(hasher.finalize().to_vec())
}

/// A backup that was read.
#[derive(Debug)]
pub(crate) struct Backup {
    /// The store.
    pub(crate) view: View,
    /// Bytes of the file.
    pub(crate) bytes: u64,
}

/// Reads a backup, and checks the hash at its end unless it is to be skipped.
///
/// # Errors
/// [`BackupError`].
pub(crate) fn read(file: impl Read, check_hash: bool) -> Result<Backup, BackupError> {
    let mut source = Source { file, hasher: Sha256::new(), bytes: 0 };
    let header = SnapshotHeader::decode(&source.take::<HEADER_BYTES>()?)?;
    let mut loader = SnapshotLoader::default();
    for ordinal in 0.. {
        let length = source.take::<4>()?;
        if length == END {
            break;
        }
        let crc = source.take::<4>()?;
        let head = ChunkHeader::decode(&[length, crc].concat().try_into().expect("eight bytes"))?;
        let mut payload = vec![0; head.payload_bytes];
        source.fill(&mut payload)?;
        header.seed().check_chunk(head, ordinal, &payload)?;
        loader.push(&payload)?;
    }
    let view = loader.finish()?;
    let padding = source.bytes.next_multiple_of(ALIGN) - source.bytes;
    let mut rest = vec![0; usize::try_from(padding).expect("less than ALIGN")];
    source.fill(&mut rest)?;
    let Source { mut file, hasher, bytes } = source;
    let mut hash = Vec::new();
    file.read_to_end(&mut hash)?;
    if check_hash && hash != hasher.finalize()[..] {
        return Err(BackupError::Hash);
    }
    Ok(Backup { view, bytes: bytes + hash.len() as u64 })
}

/// A file that is hashed as it is read.
struct Source<F> {
    file: F,
    hasher: Sha256,
    bytes: u64,
}

impl<F: Read> Source<F> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BackupError::Decode(DecodeError::Truncated("backup")),
            _ => BackupError::Io(error),
        })?;
        self.hasher.update(&*bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use kv_store::{Members, Store};

    fn backup() -> (View, Vec<u8>) {
        let store = Store::genesis(Members::default());
        let view = store.view().clone();
        let mut bytes = Vec::new();
        write(&view, 7, |piece| {
            bytes.extend_from_slice(&piece);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap();
        (view, bytes)
    }

    #[test]
    fn a_backup_comes_back_and_no_flipped_bit_does() {
        let (view, bytes) = backup();
        assert_eq!(bytes.len() as u64, len(&view));
        assert_eq!(bytes.len() % 512, 32);
        let found = read(&bytes[..], true).unwrap();
        assert_eq!((found.view.state_hash(), found.bytes), (view.state_hash(), bytes.len() as u64));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes[..], true).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], true).is_err(), "cut at {cut}");
        }
        let bare = &bytes[..bytes.len() - HASH_BYTES];
        assert!(matches!(read(bare, true), Err(BackupError::Hash)));
        assert!(read(bare, false).is_ok());
    }
}
