//! A connection between members: the greeting, frames, and how long it may be silent.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kv_codec::DecodeError;
use kv_codec::peer::{
    FRAME_HEADER_BYTES, FrameHeader, GREETING_BYTES, Greeting, REPLY_BYTES, Refusal, Reply, put_frame,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// A connection on which nothing comes, or goes, for so long is given up: a network that swallows everything says nothing else.
/// (etcd's 5 s.)
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often each side says that it is there.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(1);
/// How much is asked of the system at once, when no frame is known to need more.
const READ_BYTES: usize = 64 * 1024;
/// Payloads up to this are copied out of what was read: an entry that is kept for followers must not keep more than a few times its own
/// length.
const COPIED_BYTES_MAX: usize = 16 * 1024;
/// How much of a long frame is made room for before it has come: what was announced is not yet there.
const GROW_BYTES_MAX: usize = 1 << 20;

/// What a frame's first byte says it is.
pub(super) mod kind {
    /// A message of consensus.
    pub(in crate::peer) const MESSAGE: u8 = 1;
    /// Asks whether the other side is there, with a number.
    pub(in crate::peer) const PING: u8 = 2;
    /// It is; the number of the ping, or none.
    pub(in crate::peer) const PONG: u8 = 3;
    /// A question, behind its number.
    pub(in crate::peer) const QUESTION: u8 = 4;
    /// An answer, behind the number of its question.
    pub(in crate::peer) const ANSWER: u8 = 5;
    /// A snapshot's end: whether it is stored.
    pub(in crate::peer) const STORED: u8 = 6;
}

/// Why a connection between members ended.
#[derive(Debug, Error)]
pub(crate) enum PeerError {
    /// The network.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An address that cannot be dialed.
    #[error("{0}")]
    Address(String),
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// Nothing came, or nothing went, for [`SILENCE_MAX`].
    #[error("nothing was heard for {SILENCE_MAX:?}")]
    Silent,
    /// Bytes that no member sends.
    #[error("it sent what no member sends: {0}")]
    Decode(#[from] DecodeError),
    /// A message that is out of place.
    #[error("it sent what no member sends: {0}")]
    Nonsense(&'static str),
    /// The other side does not want this member.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// This side does not want the other.
    #[error("refused it: {0}")]
    Refuse(Refusal),
    /// The same member connected again.
    #[error("a newer connection of the same member took its place")]
    Replaced,
    /// The snapshot that was to come is of no use, or cannot be stored.
    #[error("the snapshot was not stored: {0}")]
    NotStored(String),
    /// The server stops.
    #[error("this server stops")]
    Stopped,
}

/// Reads frames. Every method may be given up and called again: what came is kept.
pub(super) struct Incoming<R> {
    stream: R,
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(stream: R, frame_bytes_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), frame_bytes_max }
    }

    /// The payload of the next frame: its kind, and what follows.
    ///
    /// # Errors
    /// [`PeerError`]; the connection is of no use after it.
    pub(super) async fn frame(&mut self) -> Result<Bytes, PeerError> {
        self.fill(FRAME_HEADER_BYTES).await?;
        let header = self.buffer.first_chunk().expect("it was just filled");
        let header = FrameHeader::decode(*header, self.frame_bytes_max)?;
        self.fill(FRAME_HEADER_BYTES + header.payload_bytes()).await?;
        header.check(&self.buffer[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.payload_bytes()])?;
        self.buffer.advance(FRAME_HEADER_BYTES);
        Ok(self.take(header.payload_bytes()))
    }

    /// Waits until so many bytes are there; they stay.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(super) async fn fill(&mut self, bytes: usize) -> Result<&[u8], PeerError> {
        while self.buffer.len() < bytes {
            let missing = bytes - self.buffer.len();
            self.buffer.reserve(missing.clamp(READ_BYTES, GROW_BYTES_MAX));
            match timeout(SILENCE_MAX, self.stream.read_buf(&mut self.buffer)).await {
                Err(_) => return Err(PeerError::Silent),
                Ok(Ok(0)) => return Err(PeerError::Closed),
                Ok(read) => drop(read?),
            }
        }
        Ok(&self.buffer[..bytes])
    }

    /// Takes bytes that are there.
    pub(super) fn take(&mut self, bytes: usize) -> Bytes {
        if bytes > COPIED_BYTES_MAX {
            return self.buffer.split_to(bytes).freeze();
        }
        let taken = Bytes::copy_from_slice(&self.buffer[..bytes]);
        self.buffer.advance(bytes);
        taken
    }
}

/// Writes all of `bytes`. A network that takes them slowly is fine, one that takes none for [`SILENCE_MAX`] is not.
pub(super) async fn write<W: AsyncWrite + Unpin>(stream: &mut W, mut bytes: &[u8]) -> Result<(), PeerError> {
    while !bytes.is_empty() {
        match timeout(SILENCE_MAX, stream.write(bytes)).await {
            Err(_) => return Err(PeerError::Silent),
            Ok(Ok(0)) => return Err(PeerError::Closed),
            Ok(written) => bytes = &bytes[written?..],
        }
    }
    timeout(SILENCE_MAX, stream.flush()).await.map_err(|_| PeerError::Silent)??;
    Ok(())
}

/// Appends a frame of this kind that holds `body`.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    put_frame(out, |out| {
        out.push(kind);
        out.extend_from_slice(body);
    });
}

/// Says who dials whom; the epoch of the other side's run.
///
/// # Errors
/// [`PeerError::Refused`] with the other side's reason.
pub(super) async fn greet<S>(stream: &mut S, greeting: &Greeting) -> Result<u64, PeerError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    write(stream, &greeting.encode()).await?;
    let mut reply = [0; REPLY_BYTES];
    read_exact(stream, &mut reply).await?;
    let reply = Reply::decode(&reply)?;
    reply.verdict.map_err(PeerError::Refused)?;
    Ok(reply.epoch)
}

/// Reads a greeting.
pub(super) async fn greeted<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Result<Greeting, DecodeError>, PeerError> {
    let mut greeting = [0; GREETING_BYTES];
    read_exact(stream, &mut greeting).await?;
    Ok(Greeting::decode(&greeting))
}

async fn read_exact<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut [u8]) -> Result<(), PeerError> {
    let read = timeout(SILENCE_MAX, stream.read_exact(bytes)).await.map_err(|_| PeerError::Silent)?;
    match read {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(PeerError::Closed),
        Err(error) => Err(error.into()),
    }
}

/// The number in a ping or a pong; 0 where there is none.
pub(super) fn number(body: &[u8]) -> u64 {
    body.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
