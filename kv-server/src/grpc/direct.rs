//! Calls that go past tonic's codec.
//!
//! * Range, DeleteRange: tonic has a message whole in memory before it sends the first byte, in a buffer that grows by doubling. A list of all
//!   keys is as long as the store, so its bytes are made here as fast as the client takes them.
//! * Txn: the generated decoder takes less nesting than etcd; see [`nested`](super::nested).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use prost::{DecodeError, Message as _};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::nested::{NestedError, decode_txn};
use super::oversize::too_large;
use super::{Api, kv};
use crate::proto::etcdserverpb::{DeleteRangeRequest, RangeRequest};
use crate::service::Encoded;
use crate::status::ApiError;

pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";
/// What stands before a message: whether it is compressed (1 byte), its length (4).
const PREFIX_BYTES: usize = 5;
/// The longest answer that gRPC's clients take, and etcd sends.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Answers Range, DeleteRange and Txn; hands everything else on.
#[derive(Debug, Clone)]
pub(super) struct Direct<S> {
    pub(super) api: Api,
    /// Bytes of a request.
    pub(super) receive_bytes_max: usize,
    pub(super) others: S,
}

impl<S: NamedService> NamedService for Direct<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Direct<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.others.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let (api, bytes_max) = (self.api.clone(), self.receive_bytes_max);
        match request.uri().path() {
            RANGE => Box::pin(async move { Ok(answer(api.range(request.into_body(), bytes_max).await)) }),
            DELETE_RANGE => Box::pin(async move { Ok(answer(api.delete_range(request.into_body(), bytes_max).await)) }),
            TXN => Box::pin(async move { Ok(answer(api.txn(request.into_body(), bytes_max).await)) }),
            _ => Box::pin(self.others.call(request)),
        }
    }
}

impl Api {
    async fn range(&self, body: Body, bytes_max: usize) -> Result<Message, Status> {
        let call = async {
            let request = RangeRequest::decode(receive(body, bytes_max).await?).map_err(undecodable)?;
            self.core.check_learner_range(&request)?;
            Message::new(self.core.encoded_range(&request, PREFIX_BYTES).await?)
        };
        self.counted(kv::SERVICE, "Range", call).await
    }

    async fn delete_range(&self, body: Body, bytes_max: usize) -> Result<Message, Status> {
        let call = async {
            let request = DeleteRangeRequest::decode(receive(body, bytes_max).await?).map_err(undecodable)?;
            Message::new(self.core.encoded_delete_range(&request, PREFIX_BYTES).await?)
        };
        self.counted(kv::SERVICE, "DeleteRange", call).await
    }

    async fn txn(&self, body: Body, bytes_max: usize) -> Result<Message, Status> {
        let call = async {
            let decoded = decode_txn(receive(body, bytes_max).await?, self.core.limits.txn_ops_max);
            let request = decoded.map_err(|error| match error {
                NestedError::Decode(error) => undecodable(error),
                NestedError::TooDeep | NestedError::TooMany => ApiError::TooManyOps.into(),
            })?;
            Message::new(self.core.encoded_txn(&request, PREFIX_BYTES).await?)
        };
        self.counted(kv::SERVICE, "Txn", call).await
    }
}

fn undecodable(error: DecodeError) -> Status {
    // The error says itself that it is about Protobuf.
    Status::internal(error.to_string())
}

/// The one message of a unary request.
async fn receive(mut body: Body, bytes_max: usize) -> Result<Bytes, Status> {
    let mut received = BytesMut::new();
    let mut wanted = PREFIX_BYTES;
    while received.len() < wanted {
        let frame = body.frame().await.ok_or_else(|| {
            let why = if received.is_empty() { "Missing request message." } else { "Unexpected EOF decoding stream." };
            Status::internal(why)
        })?;
        let Ok(bytes) = frame?.into_data() else {
            continue;
        };
        received.extend_from_slice(&bytes);
        if let Some(prefix) = received.first_chunk::<PREFIX_BYTES>() {
            let [compressed, length @ ..] = *prefix;
            if compressed != 0 {
                return Err(Status::unimplemented("grpc: the request is compressed, which this server does not read"));
            }
            let length = u32::from_be_bytes(length) as usize;
            if length > bytes_max {
                return Err(too_large(length, bytes_max));
            }
            wanted = PREFIX_BYTES + length;
        }
    }
    received.truncate(wanted);
    received.advance(PREFIX_BYTES);
    Ok(received.freeze())
}

/// An answer: its message, whole or made as it is taken, then the trailers.
struct Message {
    /// Prefix and first bytes.
    first: BytesMut,
    rest: Option<mpsc::Receiver<Bytes>>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Rest,
    Done,
}

impl Message {
    /// A message that has room for the prefix in front.
    fn new(Encoded { len, mut first, rest }: Encoded) -> Result<Self, Status> {
        if len > MESSAGE_BYTES_MAX {
            let why = format!("grpc: trying to send message larger than max ({len} vs. {MESSAGE_BYTES_MAX})");
            return Err(Status::resource_exhausted(why));
        }
        let prefix = u32::try_from(len).expect("at most 2 GiB");
        first[1..PREFIX_BYTES].copy_from_slice(&prefix.to_be_bytes());
        Ok(Self { first, rest, state: State::First })
    }
}

fn answer(outcome: Result<Message, Status>) -> Response<Body> {
    match outcome {
        Ok(message) => {
            let mut response = Response::new(Body::new(message));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        Err(status) => status.into_http(),
    }
}

impl http_body::Body for Message {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = match this.state {
            State::First => {
                this.state = State::Rest;
                Frame::data(std::mem::take(&mut this.first).freeze())
            }
            State::Rest => match this.rest.as_mut().map_or(Poll::Ready(None), |rest| rest.poll_recv(context)) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(piece)) => Frame::data(piece),
                Poll::Ready(None) => {
                    this.state = State::Done;
                    let mut trailers = HeaderMap::with_capacity(1);
                    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                    Frame::trailers(trailers)
                }
            },
            State::Done => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Done
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
