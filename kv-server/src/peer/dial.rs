//! Reaching another member, and how long to wait before trying again.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use kv_codec::peer::{Greeting, Refusal, Stream};
use slog::{Logger, info, warn};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::{PeerError, greet};
use crate::config::{Scheme, Url};

/// How long a member may take to accept a connection. One behind a network that swallows everything is tried once more soon after
/// that is mended.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after a connection that failed, which doubles: a member that was restarted is found at once, one that is gone costs
/// little.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Dials one member.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) cluster_id: u64,
    pub(super) from: u64,
    pub(super) epoch: u64,
    pub(super) to: u64,
    /// Where it is, each tried in turn.
    pub(super) urls: Vec<String>,
}

impl Dialer {
    /// A connection on which both sides know each other.
    ///
    /// # Errors
    /// What the last address said; that nobody listens only if none of them does.
    pub(super) async fn dial(&self, stream: Stream) -> Result<TcpStream, PeerError> {
        let Self { cluster_id, from, epoch, to, .. } = *self;
        let greeting = Greeting { stream, cluster_id, from, to, epoch };
        let mut failed = PeerError::Address("it has no peer URL".to_owned());
        for (nth, url) in self.urls.iter().enumerate() {
            match reach(url, &greeting).await {
                Ok(connection) => return Ok(connection),
                Err(error) if is_refused(&error) && nth > 0 && !is_refused(&failed) => {}
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

async fn reach(url: &str, greeting: &Greeting) -> Result<TcpStream, PeerError> {
    let url = Url::parse(url).map_err(PeerError::Address)?;
    if url.scheme() != Scheme::Http {
        return Err(PeerError::Address(format!("{url}: only http:// is available in this version")));
    }
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((url.host(), url.port()))).await;
    let mut stream = connected.map_err(|_| PeerError::Silent)??;
    // A heartbeat must not wait for the acknowledgement of what went before.
    stream.set_nodelay(true)?;
    greet(&mut stream, greeting).await?;
    Ok(stream)
}

/// What was said of a member last, and how long to wait before it is tried again.
pub(super) struct Patience {
    logger: Logger,
    to: u64,
    pause: Duration,
    said: Option<String>,
    reached: Option<Instant>,
}

impl Patience {
    pub(super) fn new(logger: &Logger, to: u64) -> Self {
        Self { logger: logger.clone(), to, pause: BACKOFF_MIN, said: None, reached: None }
    }

    /// It is reached: the next failure is worth a line.
    pub(super) fn reached(&mut self) {
        self.said = None;
        self.reached = Some(Instant::now());
        info!(self.logger, "connected to peer"; "remote-peer-id" => format!("{:x}", self.to));
    }

    /// Says why a connection ended, or was not made, once for each reason, and waits.
    pub(super) async fn wait(&mut self, error: &PeerError) {
        let id = format!("{:x}", self.to);
        let why = error.to_string();
        match self.reached.take() {
            Some(since) => {
                warn!(self.logger, "lost connection to peer"; "remote-peer-id" => id, "error" => why);
                // One that ends as soon as it is made is not made again in a hurry.
                if since.elapsed() > BACKOFF_MAX {
                    self.pause = BACKOFF_MIN;
                }
            }
            None if self.said.as_ref() == Some(&why) => {}
            None => {
                warn!(self.logger, "cannot reach peer; trying on"; "remote-peer-id" => id, "error" => &why);
                self.said = Some(why);
            }
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
    }
}

/// Whether the machine that was dialed says that nobody listens there.
pub(super) fn is_refused(error: &PeerError) -> bool {
    matches!(error, PeerError::Io(error) if error.kind() == ErrorKind::ConnectionRefused)
}

/// Whether a member was told that it is no part of the cluster any more.
pub(super) fn says_removed(error: &PeerError) -> bool {
    matches!(error, PeerError::Refused(Refusal::Removed))
}
