//! `etcdserverpb.Maintenance`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::Api;
use super::streamed::Streamed;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest,
    SnapshotResponse, StatusRequest, StatusResponse,
};
use crate::service::Core;
use crate::status::ApiError;

const SERVICE: &str = "etcdserverpb.Maintenance";

impl Api {
    /// Runs what takes long off the threads that serve connections.
    async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Core) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let core = Arc::clone(&self.core);
        let done = tokio::task::spawn_blocking(move || work(&core)).await;
        done.unwrap_or(Err(ApiError::Stopped))
    }
}

#[tonic::async_trait]
impl Maintenance for Api {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.unary(SERVICE, "Status", async { Ok(self.core.status()) }).await
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let request = request.into_inner();
        self.unary(SERVICE, "HashKV", self.offload(move |core| core.hash_kv(&request))).await
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let request = request.into_inner();
        self.unary(SERVICE, "Hash", self.offload(move |core| Ok(core.hash(&request)))).await
    }

    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        self.unary(SERVICE, "Alarm", self.core.alarm(request.get_ref())).await
    }

    async fn defragment(&self, _: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.unary(SERVICE, "Defragment", async { Ok(self.core.defragment()) }).await
    }

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let mut streamed = Streamed::begin(&self.core, SERVICE, "Snapshot", "server_stream");
        let blobs = self.core.snapshot().inspect_err(|error| streamed.end(error.code()))?;
        let answers = stream::unfold((blobs, streamed), async |(mut blobs, mut streamed)| {
            let blob = blobs.recv().await;
            if blob.is_none() {
                streamed.end(Code::Ok);
            }
            Some((Ok(blob?), (blobs, streamed)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        self.unary(SERVICE, "MoveLeader", self.core.move_leader(request.get_ref())).await
    }

    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        self.unary(SERVICE, "Downgrade", async { self.core.downgrade(request.get_ref()) }).await
    }
}
