//! Streams that need a leader (`hasleader: true`, etcd's `WithRequireLeader`) end when there has been none for long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::service::{Core, Leader};
use crate::status::ApiError;

/// Election timeouts without a leader that a stream outlives (etcd's 3).
const TIMEOUTS_MAX: u32 = 3;
/// The calls that go on for as long as the client likes.
const STREAMS: [&str; 3] =
    ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive", "/v3electionpb.Election/Observe"];

/// Whether a call goes on for as long as the client likes.
pub(super) fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// Sends what `stream` does, until there has been no leader for long.
pub(super) fn led(core: &Core, stream: Body) -> Body {
    let patience = core.limits.election_timeout.saturating_mul(TIMEOUTS_MAX);
    Body::new(Led { stream: Some(stream), leaderless: leaderless(core.leader.clone(), patience).boxed() })
}

/// Ends once no leader has been known for so long.
async fn leaderless(mut leader: Receiver<Leader>, patience: Duration) {
    loop {
        let lost = leader.wait_for(|leader| leader.id == 0).await.map(|leader| leader.since);
        let Ok(lost) = lost else {
            // Whoever would know has stopped, and so do all streams.
            return std::future::pending().await;
        };
        let found = leader.wait_for(|leader| leader.id != 0).map(drop);
        if timeout_at(Instant::from_std(lost) + patience, found).await.is_err() {
            return;
        }
    }
}

/// See [`led`].
struct Led {
    /// `None` once it was ended.
    stream: Option<Body>,
    leaderless: BoxFuture<'static, ()>,
}

impl http_body::Body for Led {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(stream).poll_frame(context) {
            return Poll::Ready(frame);
        }
        std::task::ready!(self.leaderless.poll_unpin(context));
        self.stream = None;
        let mut trailers = HeaderMap::new();
        let added = Status::from(ApiError::NoLeader).add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers)).map_err(axum::Error::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
