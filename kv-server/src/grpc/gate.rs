//! What is refused before it is read, whatever it asks for:
//!
//! * calls that need a leader (`hasleader: true`, etcd's `WithRequireLeader`) while none is known;
//! * all but a few calls on a learner, which may be far behind.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::response::Response;
use futures_util::future::{Either, Ready, ready};
use http::Request;
use tonic::Status;
use tower::{Layer, Service};

use super::direct::RANGE;
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
        let required = request.headers().get(HAS_LEADER).is_some_and(|value| value == "true");
        (required && self.core.leader.borrow().id == 0).then_some(ApiError::NoLeader)
    }
}

impl<B, S: Service<Request<B>, Response = Response>> Service<Request<B>> for Gated<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.refusal(&request) {
            Some(refusal) => Either::Left(ready(Ok(Status::from(refusal).into_http()))),
            None => Either::Right(self.inner.call(request)),
        }
    }
}
