//! Sends consensus' messages to one member, over one connection that is made anew whenever it breaks.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use kv_codec::peer::{Stream, put_frame};
use kv_raft::{Envelope, Input};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use super::dial::{Dialer, Patience, is_refused, says_removed};
use super::outbox::Outbox;
use super::wire::{Incoming, PING_INTERVAL, PeerError, SILENCE_MAX, kind, number, put, write};
use super::{SMALL_FRAME_BYTES_MAX, Shared};

/// How much goes out in one write: enough for a batch of everything small that waits, and for a few long messages.
const WRITE_BYTES: usize = 4 << 20;

/// One member, as this one sends to it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) dialer: Dialer,
    pub(super) outbox: Arc<Outbox>,
    /// Since when it has been connected without a break.
    pub(super) since: Arc<Mutex<Option<Instant>>>,
}

impl Link {
    /// Keeps a connection, until it is aborted.
    pub(super) async fn run(self) {
        let to = self.dialer.to;
        let mut patience = Patience::new(&self.shared.logger, to);
        loop {
            let error = match self.dialer.dial(Stream::Messages).await {
                Ok(stream) => {
                    patience.reached();
                    self.outbox.open();
                    let connected = Connected::begin(&self);
                    let error = self.send(stream).await.expect_err("it sends until it cannot");
                    drop(connected);
                    // What was written may be lost; what was not goes with the next connection, if that is made at once.
                    self.shared.input(Input::Unreachable(to));
                    patience.wait(&error).await;
                    continue;
                }
                Err(error) => error,
            };
            self.shared.lost(self.outbox.close());
            self.shared.input(Input::Unreachable(to));
            if is_refused(&error) {
                self.shared.refused_to_connect(to);
            }
            if says_removed(&error) {
                self.shared.removed();
            }
            patience.wait(&error).await;
        }
    }

    async fn send(&self, stream: TcpStream) -> Result<std::convert::Infallible, PeerError> {
        let (read, mut out) = stream.into_split();
        let mut incoming = Incoming::new(read, SMALL_FRAME_BYTES_MAX);
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pinged, mut asked) = (0_u64, Instant::now());
        let mut heard = Instant::now();
        let mut buffer = Vec::new();
        let metrics = self.shared.metrics.peer(self.dialer.to);
        loop {
            buffer.clear();
            tokio::select! {
                () = self.outbox.filled() => {
                    for message in self.outbox.take(WRITE_BYTES) {
                        put_message(&mut buffer, &message);
                    }
                }
                _ = pings.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(PeerError::Silent);
                    }
                    pinged += 1;
                    asked = Instant::now();
                    put(&mut buffer, kind::PING, &pinged.to_le_bytes());
                }
                frame = incoming.frame() => {
                    let frame = frame?;
                    if frame[0] != kind::PONG {
                        return Err(PeerError::Nonsense("an answer that is no answer to a ping"));
                    }
                    heard = Instant::now();
                    if number(&frame[1..]) == pinged {
                        metrics.round_trip.observe(asked.elapsed().as_secs_f64());
                    }
                    continue;
                }
            }
            write(&mut out, &buffer).await?;
            metrics.sent_bytes.inc_by(buffer.len() as u64);
            if buffer.capacity() > WRITE_BYTES {
                buffer = Vec::new();
            }
        }
    }
}

/// Appends the frame of a message.
pub(super) fn put_message(out: &mut Vec<u8>, message: &Envelope) {
    put_frame(out, |out| {
        out.push(kind::MESSAGE);
        message.encode_to(out);
    });
}

/// Notes a connection as long as it lasts.
struct Connected<'a>(&'a Link);

impl<'a> Connected<'a> {
    fn begin(link: &'a Link) -> Self {
        *link.since.lock().expect("nothing panics while it holds the time") = Some(Instant::now());
        link.shared.metrics.active.with_label_values(&link.shared.labels(link.dialer.to)).set(1);
        Self(link)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let Self(link) = self;
        *link.since.lock().expect("nothing panics while it holds the time") = None;
        link.shared.metrics.active.with_label_values(&link.shared.labels(link.dialer.to)).set(0);
    }
}
