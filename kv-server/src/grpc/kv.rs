//! `etcdserverpb.KV`.

use std::pin::Pin;

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::Api;
use super::streamed::Streamed;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};

pub(super) const SERVICE: &str = "etcdserverpb.KV";

#[tonic::async_trait]
impl Kv for Api {
    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        unreachable!("`Direct` answers it before tonic sees it")
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.unary(SERVICE, "Put", self.core.put(request.get_ref())).await
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        unreachable!("`Direct` answers it before tonic sees it")
    }

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let mut streamed = Streamed::begin(&self.core, SERVICE, "RangeStream", "server_stream");
        let parts = self.core.range_stream(request.into_inner()).await.inspect_err(|error| {
            streamed.end(error.code());
        })?;
        let answers = stream::unfold((parts, streamed), async |(mut parts, mut streamed)| {
            let part = parts.recv().await;
            if part.is_none() {
                streamed.end(Code::Ok);
            }
            Some((Ok(part?), (parts, streamed)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        unreachable!("`Direct` answers it before tonic sees it")
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        self.unary(SERVICE, "Compact", self.core.compact(request.get_ref())).await
    }
}
