//! `etcdserverpb.KV`.

use std::pin::Pin;

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

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.unary(SERVICE, "DeleteRange", self.core.delete_range(request.get_ref())).await
    }

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let mut streamed = Streamed::begin(&self.core, SERVICE, "RangeStream", "server_stream");
        let mut parts = self.core.range_stream(request.into_inner()).await.inspect_err(|error| {
            streamed.end(error.code());
        })?;
        let answers = std::iter::from_fn(move || {
            let part = parts.next();
            if part.is_none() {
                streamed.end(Code::Ok);
            }
            part.map(Ok)
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        unreachable!("`Direct` answers it before tonic sees it")
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        self.unary(SERVICE, "Compact", self.core.compact(request.get_ref())).await
    }
}
