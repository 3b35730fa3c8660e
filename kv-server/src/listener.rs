//! Accepting connections: HTTP/1 and h2c on one port.

use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use slog::{Logger, debug, warn};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// gRPC's ping of an idle client, and how long it has to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_hours(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take to send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Calls that a client may have given up before we got to them. Beyond it the client is taken for an attacker and loses its
/// connection, with all watches on it; a deadline that passes for a few hundred calls at once is no attack.
const GIVEN_UP_STREAMS_MAX: usize = 4096;
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
}

impl Listener {
    /// Serves until `stop` changes, then lets open calls finish. An accept or a connection that fails ends nothing else.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<()>, logger: Logger) {
        let builder = self.builder();
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = stop.changed() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.spawn(&builder, &graceful, stream, peer, &logger),
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
    }

    fn builder(&self) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.max_concurrent_streams)
            .max_pending_accept_reset_streams(GIVEN_UP_STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        builder
    }

    fn spawn(
        &self,
        builder: &Builder<TokioExecutor>,
        graceful: &GracefulShutdown,
        stream: TcpStream,
        peer: SocketAddr,
        logger: &Logger,
    ) {
        // Small answers must not wait for the acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(logger, "cannot set TCP_NODELAY"; "peer" => %peer, "error" => %error);
        }
        let service = TowerToHyperService::new(self.routes.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let logger = logger.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(logger, "connection ended"; "peer" => %peer, "error" => %error);
            }
        });
    }
}
