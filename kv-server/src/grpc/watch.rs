//! `etcdserverpb.Watch`, by hand: its answers are encoded by [`super::watch_frame`].

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use super::Api;
use super::watch_frame::{WatchCodec, WatchFrame};
use super::watching::watch_frames;
use crate::proto::etcdserverpb as pb;

/// The service. It has one method.
#[derive(Debug, Clone)]
pub(super) struct WatchServer {
    pub(super) api: Api,
    pub(super) receive_max: usize,
}

impl NamedService for WatchServer {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl Service<http::Request<Body>> for WatchServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { api, receive_max } = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/etcdserverpb.Watch/Watch" {
                return Ok(Status::unimplemented("").into_http());
            }
            let mut grpc = Grpc::new(WatchCodec).apply_max_message_size_config(Some(receive_max), None);
            Ok(grpc.streaming(WatchMethod(api), request).await)
        })
    }
}

/// The method.
struct WatchMethod(Api);

type Answers = Pin<Box<dyn Stream<Item = Result<WatchFrame, Status>> + Send>>;

impl StreamingService<pb::WatchRequest> for WatchMethod {
    type Response = WatchFrame;
    type ResponseStream = Answers;
    type Future = std::future::Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        let Api { core, stop, .. } = &self.0;
        let frames = watch_frames(core, stop, request.into_inner());
        let answers = frames.map(|frame| frame.map_err(Status::from));
        std::future::ready(Ok(Response::new(Box::pin(answers))))
    }
}
