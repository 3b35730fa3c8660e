//! Calls that ask for a leader (`hasleader: true`, etcd's `WithRequireLeader`): without one they are refused at once.

use std::task::{Context, Poll};

use axum::response::Response;
use futures_util::future::{Either, Ready, ready};
use http::Request;
use tokio::sync::watch::Receiver;
use tonic::Status;
use tower::{Layer, Service};

use crate::service::Leader;
use crate::status::ApiError;

/// The header that asks for it.
const HAS_LEADER: &str = "hasleader";

/// Refuses calls that need a leader while none is known.
#[derive(Debug, Clone)]
pub(super) struct RequireLeader(pub(super) Receiver<Leader>);

impl<S> Layer<S> for RequireLeader {
    type Service = Required<S>;

    fn layer(&self, inner: S) -> Required<S> {
        Required { inner, leader: self.0.clone() }
    }
}

/// A service behind [`RequireLeader`].
#[derive(Debug, Clone)]
pub(super) struct Required<S> {
    inner: S,
    leader: Receiver<Leader>,
}

impl<B, S: Service<Request<B>, Response = Response>> Service<Request<B>> for Required<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let required = request.headers().get(HAS_LEADER).is_some_and(|value| value == "true");
        if required && self.leader.borrow().id == 0 {
            return Either::Left(ready(Ok(Status::from(ApiError::NoLeader).into_http())));
        }
        Either::Right(self.inner.call(request))
    }
}
