//! Receives a snapshot, chunk by chunk, into a file of its own; only one that is whole becomes a message to raft.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use kv_codec::chunk::{CHUNK_HEADER_BYTES, ChunkHeader, END_BYTES, HEADER_BYTES, SnapshotHeader};
use kv_codec::peer::Greeting;
use kv_raft::snapshots::{SnapshotError, SnapshotReader, SnapshotWriter, StreamState, discard_received};
use kv_raft::{Envelope, Input, RealDisk};
use slog::{info, warn};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::interval;

use super::Shared;
use super::accept::message;
use super::wire::{Incoming, PING_INTERVAL, PeerError, kind, put, write};

/// Chunks that wait for the disk.
const CHUNKS_AHEAD: usize = 4;

/// Where snapshots are received, one at a time: a new one ends the one before, whose sender leads no more or has begun anew.
#[derive(Debug)]
pub(super) struct Intake {
    disk: Arc<RealDisk>,
    newest: watch::Sender<u64>,
    turn: Arc<Semaphore>,
    applied: watch::Receiver<u64>,
}

impl Intake {
    pub(super) fn new(disk: Arc<RealDisk>, applied: watch::Receiver<u64>) -> Self {
        Self { disk, newest: watch::channel(0).0, turn: Arc::new(Semaphore::new(1)), applied }
    }

    /// Receives one snapshot, and says how it went.
    pub(super) async fn receive<R, W>(
        &self,
        shared: &Shared,
        greeting: &Greeting,
        mut incoming: Incoming<R>,
        out: W,
    ) -> Result<(), PeerError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (say, said) = oneshot::channel();
        let speaking = tokio::spawn(speak(out, said));
        let outcome = self.take(shared, greeting, &mut incoming).await;
        // A sender that has gone hears nothing more.
        let _ = say.send(outcome.is_ok());
        drop(speaking.await);
        outcome
    }

    async fn take<R: AsyncRead + Unpin>(
        &self,
        shared: &Shared,
        greeting: &Greeting,
        incoming: &mut Incoming<R>,
    ) -> Result<(), PeerError> {
        let mut mine = 0;
        self.newest.send_modify(|newest| {
            *newest += 1;
            mine = *newest;
        });
        let mut newest = self.newest.subscribe();
        let message = message(greeting, &incoming.frame().await?)?;
        let at = message.body.snapshot().ok_or(PeerError::Nonsense("a message that is no snapshot's"))?;
        incoming.fill(HEADER_BYTES).await?;
        let header = incoming.take(HEADER_BYTES);
        let header = SnapshotHeader::decode(header.first_chunk().expect("it was just filled"))?;
        if header != (SnapshotHeader { index: at.index, term: at.term, cluster_id: shared.cluster_id }) {
            return Err(PeerError::Nonsense("a snapshot that is not the one its message speaks of"));
        }
        let from = format!("{:x}", greeting.from);
        if *self.applied.borrow() >= at.index {
            info!(shared.logger, "a snapshot is not needed"; "remote-peer-id" => from, "index" => at.index);
            return Ok(());
        }
        let replaced = newest.wait_for(|newest| *newest != mine);
        tokio::select! {
            stored = self.store(shared, message, header, incoming) => stored?,
            _ = replaced => return Err(PeerError::NotStored("another one is coming".to_owned())),
        }
        info!(shared.logger, "received snapshot"; "remote-peer-id" => from, "index" => at.index);
        Ok(())
    }

    async fn store<R: AsyncRead + Unpin>(
        &self,
        shared: &Shared,
        message: Envelope,
        header: SnapshotHeader,
        incoming: &mut Incoming<R>,
    ) -> Result<(), PeerError> {
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| PeerError::Stopped)?;
        let (chunks, to_write) = mpsc::channel(CHUNKS_AHEAD);
        let disk = Arc::clone(&self.disk);
        let writing = tokio::task::spawn_blocking(move || {
            let written = write_down(&disk, header, to_write);
            // Whose turn is next finds nothing of this one.
            let swept = discard_received(disk.as_ref());
            drop(turn);
            written.and_then(|whole| swept.map(|()| whole))
        });
        let mut state = StreamState::new(&header);
        // A writer that failed takes no more, and says why below.
        while let Some(chunk) = next_chunk(incoming, &mut state).await? {
            if chunks.send(Piece::Chunk(chunk)).await.is_err() {
                break;
            }
        }
        drop(chunks.send(Piece::End).await);
        match writing.await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Err(PeerError::NotStored("it was not whole".to_owned())),
            Ok(Err(error)) => {
                if is_fatal(&error) {
                    (shared.fatal)(&error.to_string());
                }
                warn!(shared.logger, "cannot store a snapshot"; "error" => %error);
                return Err(PeerError::NotStored(error.to_string()));
            }
            Err(_) => return Err(PeerError::Stopped),
        }
        shared.input(Input::Message(message));
        Ok(())
    }
}

/// The next chunk, checked; `None` once the end was checked as well. What came of a chunk stays if this is given up.
async fn next_chunk<R: AsyncRead + Unpin>(
    incoming: &mut Incoming<R>,
    state: &mut StreamState,
) -> Result<Option<Bytes>, PeerError> {
    let head = incoming.fill(CHUNK_HEADER_BYTES).await?;
    let head = ChunkHeader::decode(head.first_chunk().expect("it was just filled"))?;
    let bytes = if head.payload_bytes == 0 { END_BYTES } else { head.payload_bytes };
    incoming.fill(CHUNK_HEADER_BYTES + bytes).await?;
    let payload = incoming.take(CHUNK_HEADER_BYTES + bytes).slice(CHUNK_HEADER_BYTES..);
    if head.payload_bytes == 0 {
        state.check_end(head, payload.first_chunk().expect("it was just filled"))?;
        return Ok(None);
    }
    state.check(head, &payload)?;
    Ok(Some(payload))
}

/// What comes for the writer. A channel that ends without the end is a snapshot that does.
enum Piece {
    Chunk(Bytes),
    End,
}

/// Whether nobody knows any more what the disk holds. A full one is no such case, nor a file that a newer snapshot swept away.
fn is_fatal(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::Io { source, .. } if !error.is_full() && source.kind() != ErrorKind::NotFound)
}

/// Writes a snapshot's file and reads it back; false for one that ended early.
fn write_down(
    disk: &RealDisk,
    header: SnapshotHeader,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<bool, SnapshotError> {
    let mut writer = SnapshotWriter::receive(disk, header)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Chunk(chunk)) => writer.write(&chunk)?,
            Some(Piece::End) => break,
            None => return Ok(false),
        }
    }
    writer.finish()?;
    // Once raft hears of it, nothing else stands for the log.
    let mut reader = SnapshotReader::open(disk, header)?;
    while reader.next_chunk()?.is_some() {}
    Ok(true)
}

/// Says that this side is there, and in the end whether all is stored.
async fn speak<W: AsyncWrite + Unpin>(mut out: W, mut said: oneshot::Receiver<bool>) {
    let mut pongs = interval(PING_INTERVAL);
    loop {
        let mut frame = Vec::new();
        let ends = tokio::select! {
            stored = &mut said => {
                put(&mut frame, kind::STORED, &[u8::from(stored.unwrap_or(false))]);
                true
            }
            _ = pongs.tick() => {
                put(&mut frame, kind::PONG, &[]);
                false
            }
        };
        if write(&mut out, &frame).await.is_err() || ends {
            return;
        }
    }
}
