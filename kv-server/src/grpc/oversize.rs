//! A message that is larger than any may be, in the words of the gRPC library that etcd uses.
//!
//! tonic answers it with `OutOfRange`, which etcd's clients take for a compacted revision.

use std::fmt::Display;
use std::task::{Context, Poll};

use http::Request;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;
use tower::util::{MapResponse, ServiceExt};

type Response = http::Response<Body>;

/// A service whose answers to an oversized message are gRPC's usual ones.
#[derive(Debug, Clone)]
pub(super) struct Oversize<S>(MapResponse<S, fn(Response) -> Response>);

impl<S: Service<Request<Body>, Response = Response>> Oversize<S> {
    pub(super) fn new(service: S) -> Self {
        Self(service.map_response(reword as fn(Response) -> Response))
    }
}

impl<S: NamedService> NamedService for Oversize<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>, Response = Response>> Service<Request<Body>> for Oversize<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = <MapResponse<S, fn(Response) -> Response> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

fn reword(response: Response) -> Response {
    // Only an answer without a message has its status in its head.
    match Status::from_header_map(response.headers()).and_then(|status| reworded(&status)) {
        Some(status) => status.into_http(),
        None => response,
    }
}

fn reworded(status: &Status) -> Option<Status> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let rest = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (found, limit) = rest.strip_suffix(" bytes")?.split_once(" bytes, the limit is: ")?;
    Some(too_large(found, limit))
}

/// What etcd's library answers to a message of `found` bytes where `limit` are allowed.
pub(super) fn too_large(found: impl Display, limit: impl Display) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"))
}
