//! Long answers that cost their client little: they are counted, and not looked at.

use anyhow::{Context, Result};
use bytes::Buf;
use http::uri::PathAndQuery;
use kv_server::proto::etcdserverpb::RangeRequest;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;

/// Asks for a range; the bytes of the answer.
pub(crate) async fn list(channel: &Channel, request: RangeRequest) -> Result<usize> {
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.context("the connection")?;
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
    let answer = grpc.unary(tonic::Request::new(request), path, Uninspected).await.context("a list failed")?;
    Ok(answer.into_inner())
}

/// A message goes out as usual; what comes is thrown away but for its length.
struct Uninspected;

impl Codec for Uninspected {
    type Encode = RangeRequest;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Uninspected {
    type Item = RangeRequest;
    type Error = Status;

    fn encode(&mut self, request: RangeRequest, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Uninspected {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let bytes = message.remaining();
        message.advance(bytes);
        Ok(Some(bytes))
    }
}
