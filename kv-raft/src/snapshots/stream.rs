//! The frames of a snapshot stream, in order: the same on disk and between members.

use kv_codec::DecodeError;
use kv_codec::chunk::{CHUNK_HEADER_BYTES, ChunkHeader, END_BYTES, FrameSeed, SnapshotHeader, StreamEnd};
use kv_codec::planted::{Bug, is_planted};
use xxhash_rust::xxh3::Xxh3Default;

/// How far a stream has come: what its next frame must be, and its end.
///
/// One side frames ([`StreamState::frame`], [`StreamState::end_frame`]), the other checks ([`StreamState::check`],
/// [`StreamState::check_end`]); what was read is worth nothing before its end was checked.
#[derive(Clone)]
pub struct StreamState {
    seed: FrameSeed,
    hasher: Box<Xxh3Default>,
    chunks: u64,
    payload_bytes: u64,
}

impl StreamState {
    /// The state after the header.
    #[must_use]
    pub fn new(header: &SnapshotHeader) -> Self {
        let mut hasher = Box::new(Xxh3Default::new());
        hasher.update(&header.encode());
        Self { seed: header.seed(), hasher, chunks: 0, payload_bytes: 0 }
    }

    /// What to write before a chunk's payload.
    ///
    /// # Panics
    /// When the payload is empty or longer than [`kv_codec::chunk::CHUNK_BYTES_MAX`].
    #[must_use]
    pub fn frame(&mut self, payload: &[u8]) -> [u8; CHUNK_HEADER_BYTES] {
        let frame = self.seed.chunk_header(self.chunks, payload);
        self.add(payload);
        frame
    }

    /// The last frame.
    #[must_use]
    pub fn end_frame(&self) -> [u8; CHUNK_HEADER_BYTES + END_BYTES] {
        self.seed.end_frame(&self.end())
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`].
    pub fn check(&mut self, head: ChunkHeader, payload: &[u8]) -> Result<(), DecodeError> {
        let checked = self.seed.check_chunk(head, self.chunks, payload);
        if !is_planted(Bug::NoSnapshotChecksum) {
            checked?;
        }
        self.add(payload);
        Ok(())
    }

    /// Compares what came with what the end says.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`] for a damaged end, [`DecodeError::Invalid`] for one of another stream.
    pub fn check_end(&self, head: ChunkHeader, rest: &[u8; END_BYTES]) -> Result<(), DecodeError> {
        let end = self.seed.decode_end(head, self.chunks, rest)?;
        if end != self.end() && !is_planted(Bug::NoSnapshotChecksum) {
            return Err(DecodeError::Invalid("digest of the snapshot"));
        }
        Ok(())
    }

    fn add(&mut self, payload: &[u8]) {
        self.hasher.update(payload);
        self.chunks += 1;
        self.payload_bytes += payload.len() as u64;
    }

    fn end(&self) -> StreamEnd {
        let digest = self.hasher.digest128().to_be_bytes();
        StreamEnd { payload_bytes: self.payload_bytes, chunks: self.chunks, digest }
    }
}
