//! What is refused before it is read, whatever it asks for:
//!
//! * calls that need a leader (`hasleader: true`, etcd's `WithRequireLeader`) while none is known, and when there is none for long
//!   while they stream;
//! * all but a few calls on a learner, which may be far behind.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Ready, ready};
use http::Request;
use tonic::Status;
use tower::{Layer, Service};

use super::direct::RANGE;
use super::leader::{is_stream, led};
use crate::service::Core;
use crate::status::ApiError;

/// The header that asks for a leader.
const HAS_LEADER: &str = "hasleader";
/// What a learner answers; of ranges, those that may be old (see [`Core::check_learner_range`]).
const LEARNERS_CALLS: [&str; 3] = [RANGE, "/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot"];

/// Refuses what this member cannot answer now.
#[derive(Debug, Clone)]
pub(super) struct Gate(pub(super) Arc<Core>);

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, core: Arc::clone(&self.0) }
    }
}

/// A service behind a [`Gate`].
#[derive(Debug, Clone)]
pub(super) struct Gated<S> {
    inner: S,
    core: Arc<Core>,
}

impl<S> Gated<S> {
    fn refusal<B>(&self, request: &Request<B>) -> Option<ApiError> {
        if self.core.is_learner() && !LEARNERS_CALLS.contains(&request.uri().path()) {
            return Some(ApiError::NotSupportedForLearner);
        }
        (needs_leader(request) && self.core.leader.borrow().id == 0).then_some(ApiError::NoLeader)
    }
}

fn needs_leader<B>(request: &Request<B>) -> bool {
    request.headers().get(HAS_LEADER).is_some_and(|value| value == "true")
}

type Outcome<E> = Result<Response, E>;

impl<B, S> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<Either<Ready<Outcome<S::Error>>, BoxFuture<'static, Outcome<S::Error>>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(refusal) = self.refusal(&request) {
            return Either::Left(Either::Left(ready(Ok(Status::from(refusal).into_http()))));
        }
        let is_led = needs_leader(&request) && is_stream(request.uri().path());
        let called = self.inner.call(request);
        if !is_led {
            return Either::Right(called);
        }
        let core = Arc::clone(&self.core);
        Either::Left(Either::Right(async move { Ok(called.await?.map(|stream| led(&core, stream))) }.boxed()))
    }
}
