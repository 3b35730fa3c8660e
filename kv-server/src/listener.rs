//! Accepting connections: HTTP/1, h2c and, on a peer port, other members, all on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use kv_codec::peer::MAGIC;
use slog::{Logger, debug, warn};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::authority::{Mended, PREFACE};
use crate::gathered::{Gathering, served};
use crate::peer::Acceptor;
use crate::turns::Turns;

/// gRPC's ping of an idle client, and how long it has to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_hours(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a new connection may say nothing.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP/1 connection may take to send a request's headers, the pause since the last answer included.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Calls that a client may have given up before we got to them. Beyond it the client is taken for an attacker and loses its
/// connection, with all watches on it; a deadline that passes for a few hundred calls at once is no attack.
const GIVEN_UP_STREAMS_MAX: usize = 4096;
/// How long to wait for more of a preface that came in part.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// How long to wait after an accept that failed: with no file descriptor left the next one fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long open connections have to finish what they are at when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What a client may send on a stream, and on a connection, before it hears from us: large enough that no put waits for a window.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A bound port and what answers on it.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) routes: axum::Router,
    pub(crate) max_concurrent_streams: u32,
    /// On a peer port: who answers the other members.
    pub(crate) acceptor: Option<Arc<Acceptor>>,
}

impl Listener {
    /// Serves until `stop` changes, then lets open calls finish. An accept or a connection that fails ends nothing else.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<()>, logger: Logger) {
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = stop.changed() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let served = self.connection(&graceful, stop.clone(), (stream, peer), &logger);
                    connections.spawn(served);
                }
                Err(error) => {
                    warn!(logger, "cannot accept a connection"; "error" => %error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
            warn!(logger, "connections were still busy when the server stopped");
        }
        // Nobody is answered once the member is gone.
        connections.shutdown().await;
    }

    fn builder(&self, turns: Turns) -> Builder<Turns> {
        let mut builder = Builder::new(turns);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            // 0 is etcd's "no limit".
            .max_concurrent_streams(if self.max_concurrent_streams == 0 {
                u32::MAX
            } else {
                self.max_concurrent_streams
            })
            .max_pending_accept_reset_streams(GIVEN_UP_STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        builder
    }

    fn connection(
        &self,
        graceful: &GracefulShutdown,
        mut stop: watch::Receiver<()>,
        (stream, peer): (TcpStream, SocketAddr),
        logger: &Logger,
    ) -> impl Future<Output = ()> + Send + use<> {
        // Small answers must not wait for the acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(logger, "cannot set TCP_NODELAY"; "peer" => %peer, "error" => %error);
        }
        let service = TowerToHyperService::new(self.routes.clone());
        let turns = Turns::default();
        let (builder, watcher, logger) = (self.builder(turns.clone()), graceful.watcher(), logger.clone());
        let acceptor = self.acceptor.clone();
        async move {
            // Until it says what it speaks, hyper has no timer for a connection.
            let spoken = tokio::select! {
                spoken = tokio::time::timeout(HEADER_TIMEOUT, has_spoken(&stream)) => spoken.ok().and_then(Result::ok),
                _ = stop.changed() => None,
            };
            let Some(first) = spoken else {
                debug!(logger, "connection said nothing"; "peer" => %peer);
                return;
            };
            if let Some(acceptor) = acceptor.filter(|_| first == MAGIC[0]) {
                tokio::select! {
                    () = acceptor.serve(stream, peer) => {}
                    _ = stop.changed() => {}
                }
                return;
            }
            let (reader, writer) = stream.into_split();
            let stream = Gathering::new(reader, writer);
            let outgoing = stream.outgoing();
            let connection = builder.serve_connection(TokioIo::new(Mended::new(stream)), service).into_owned();
            let error = match served(watcher.watch(connection), outgoing, turns).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(error) => error.into(),
            };
            debug!(logger, "connection ended"; "peer" => %peer, "error" => %error);
        }
    }
}

/// Waits until what came tells HTTP/1 from HTTP/2, and both from another member; the first byte of it.
async fn has_spoken(stream: &TcpStream) -> std::io::Result<u8> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 || seen == PREFACE.len() || first[..seen] != PREFACE[..seen] {
            return Ok(first[0]);
        }
        // The rest of the preface is on its way; a peek returns at once while any byte waits.
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}
