//! Sends a snapshot to a follower: made, framed and written chunk by chunk.

use std::sync::Arc;
use std::time::Duration;

use kv_codec::chunk::{CHUNK_BYTES_MAX, SnapshotHeader};
use kv_codec::peer::Stream;
use kv_raft::snapshots::StreamState;
use kv_raft::{Envelope, Input};
use kv_store::View;
use slog::{info, warn};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dial::Dialer;
use super::link::put_message;
use super::wire::{Incoming, PeerError, kind, write};
use super::{SMALL_FRAME_BYTES_MAX, Shared};
use crate::machine::free;

/// Chunks that are made before they are taken.
const CHUNKS_AHEAD: usize = 4;
/// How fast a snapshot goes out at most: the cluster serves meanwhile, on the same network and the same processors.
const BYTES_PER_SECOND: u32 = 96 << 20;

/// Delivers the state that `message` speaks of, and tells raft how it went, whatever happens.
pub(super) async fn deliver(shared: Arc<Shared>, dialer: Dialer, message: Envelope, view: View) {
    let to = message.to;
    let peer = format!("{to:x}");
    let index = view.applied_index();
    info!(shared.logger, "sending snapshot"; "remote-peer-id" => &peer, "index" => index);
    let report = Report { shared: Arc::clone(&shared), to, ok: false };
    match send(&shared, &dialer, &message, view).await {
        Ok(bytes) => {
            info!(shared.logger, "sent database snapshot"; "remote-peer-id" => &peer, "index" => index, "bytes" => bytes);
            report.succeeded();
        }
        Err(error) => {
            warn!(shared.logger, "failed to send snapshot"; "remote-peer-id" => &peer, "index" => index, "error" => %error);
        }
    }
}

/// Tells raft when it is dropped: a task that is aborted has an end as well.
struct Report {
    shared: Arc<Shared>,
    to: u64,
    ok: bool,
}

impl Report {
    fn succeeded(mut self) {
        self.ok = true;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.shared.input(Input::SnapshotSent { to: self.to, ok: self.ok });
    }
}

async fn send(shared: &Shared, dialer: &Dialer, message: &Envelope, view: View) -> Result<u64, PeerError> {
    let stream = match dialer.dial(Stream::Snapshot).await {
        Ok(stream) => stream,
        Err(error) => {
            free(view);
            return Err(error);
        }
    };
    let (read, mut out) = stream.into_split();
    let mut incoming = Incoming::new(read, SMALL_FRAME_BYTES_MAX);
    let (index, term) = (view.applied_index(), view.applied_term());
    let header = SnapshotHeader { index, term, cluster_id: shared.cluster_id };
    let mut sending = Sending { out: &mut out, state: StreamState::new(&header), pace: Pace::new(), bytes: 0 };
    let mut first = Vec::new();
    put_message(&mut first, message);
    first.extend_from_slice(&header.encode());
    sending.write(&first).await?;
    let mut chunks = chunks_of(view);
    loop {
        tokio::select! {
            chunk = chunks.recv() => match chunk {
                Some(chunk) => sending.chunk(&chunk).await?,
                None => break,
            },
            frame = incoming.frame() => if stored(&frame?)? {
                // The follower has it already.
                return Ok(sending.bytes);
            },
        }
    }
    let end = sending.state.end_frame();
    sending.write(&end).await?;
    while !stored(&incoming.frame().await?)? {}
    shared.metrics.peer(dialer.to).sent_bytes.inc_by(sending.bytes);
    Ok(sending.bytes)
}

/// The chunks of a state, made on a thread beside the runtime's, where the state is dropped as well.
fn chunks_of(view: View) -> mpsc::Receiver<Vec<u8>> {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        for chunk in view.chunks() {
            if sender.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    chunks
}

/// Whether the follower says that it has stored all; a pong only says that it is there.
fn stored(frame: &[u8]) -> Result<bool, PeerError> {
    match frame {
        [kind::PONG, ..] => Ok(false),
        [kind::STORED, 1] => Ok(true),
        [kind::STORED, 0] => Err(PeerError::NotStored("the follower could not store it; its log says why".to_owned())),
        _ => Err(PeerError::Nonsense("a frame that is no word on a snapshot")),
    }
}

struct Sending<'a, W> {
    out: &'a mut W,
    state: StreamState,
    pace: Pace,
    bytes: u64,
}

impl<W: AsyncWrite + Unpin> Sending<'_, W> {
    async fn chunk(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        for payload in bytes.chunks(CHUNK_BYTES_MAX) {
            let frame = self.state.frame(payload);
            self.write(&[&frame[..], payload].concat()).await?;
            self.pace.keep(payload.len()).await;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        self.bytes += bytes.len() as u64;
        write(self.out, bytes).await
    }
}

/// Keeps to [`BYTES_PER_SECOND`]. Time that was lost is not made up for.
struct Pace {
    next: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { next: Instant::now() }
    }

    async fn keep(&mut self, bytes: usize) {
        let takes = Duration::from_secs(1) / BYTES_PER_SECOND * u32::try_from(bytes).unwrap_or(u32::MAX);
        self.next = self.next.max(Instant::now()) + takes;
        tokio::time::sleep_until(self.next).await;
    }
}
