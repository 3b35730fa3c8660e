//! `etcdserverpb.KV/Range`, past tonic's codec: an answer is sent while it is encoded.
//!
//! tonic has a message whole in memory before it sends the first byte, in a buffer that grows by doubling. A list of all keys is as long
//! as the store, so its bytes are made here as fast as the client takes them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use prost::Message;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use super::oversize::too_large;
use super::{Api, kv};
use crate::proto::etcdserverpb::RangeRequest;
use crate::service::EncodedRange;

const PATH: &str = "/etcdserverpb.KV/Range";
/// What stands before a message: whether it is compressed (1 byte), its length (4).
const PREFIX_BYTES: usize = 5;
/// The longest answer that gRPC's clients take, and etcd sends.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Answers Range; hands everything else on.
#[derive(Debug, Clone)]
pub(super) struct Ranges<S> {
    pub(super) api: Api,
    /// Bytes of a request.
    pub(super) receive_bytes_max: usize,
    pub(super) others: S,
}

impl<S: NamedService> NamedService for Ranges<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Ranges<S>
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
        if request.uri().path() != PATH {
            return Box::pin(self.others.call(request));
        }
        let (api, receive_bytes_max) = (self.api.clone(), self.receive_bytes_max);
        Box::pin(async move {
            let call = async {
                let message = receive(request.into_body(), receive_bytes_max).await?;
                let request = RangeRequest::decode(message)
                    .map_err(|error| Status::internal(format!("failed to decode Protobuf message: {error}")))?;
                let encoded = api.core.encoded_range(&request, PREFIX_BYTES).await?;
                respond(encoded)
            };
            Ok(api.counted(kv::SERVICE, "Range", call).await.unwrap_or_else(Status::into_http))
        })
    }
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

fn respond(mut encoded: EncodedRange) -> Result<Response<Body>, Status> {
    if encoded.len > MESSAGE_BYTES_MAX {
        let why = format!("grpc: trying to send message larger than max ({} vs. {MESSAGE_BYTES_MAX})", encoded.len);
        return Err(Status::new(Code::ResourceExhausted, why));
    }
    let length = u32::try_from(encoded.len).expect("at most 2 GiB");
    encoded.first[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    let mut response = Response::new(Body::new(RangeBody { encoded, state: State::First }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// An answer on its way: its message, made as it is taken, then the trailers.
struct RangeBody {
    encoded: EncodedRange,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Message,
    Done,
}

impl http_body::Body for RangeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = match this.state {
            State::First => {
                this.state = State::Message;
                Frame::data(std::mem::take(&mut this.encoded.first).freeze())
            }
            State::Message => match this.encoded.next_chunk() {
                Some(chunk) => Frame::data(chunk),
                None => {
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
