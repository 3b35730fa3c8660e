//! `etcdserverpb.Lease`.

use std::pin::Pin;

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use super::streamed::Streamed;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::status::ApiError;

const SERVICE: &str = "etcdserverpb.Lease";

#[tonic::async_trait]
impl Lease for Api {
    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        self.unary(SERVICE, "LeaseGrant", self.core.lease_grant(request.get_ref())).await
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.unary(SERVICE, "LeaseRevoke", self.core.lease_revoke(request.get_ref())).await
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let streamed = Streamed::begin(&self.core, SERVICE, "LeaseKeepAlive", "bidi_stream");
        let keeping = Keeping { api: self.clone(), requests: request.into_inner(), streamed };
        let answers = stream::unfold(Some(keeping), async |keeping| {
            let mut keeping = keeping?;
            match keeping.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(keeping))),
                Ok(None) => {
                    keeping.streamed.end(tonic::Code::Ok);
                    None
                }
                Err(status) => {
                    keeping.streamed.end(status.code());
                    Some((Err(status), None))
                }
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.unary(SERVICE, "LeaseTimeToLive", self.core.lease_time_to_live(request.get_ref())).await
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.unary(SERVICE, "LeaseLeases", async { Ok(self.core.lease_leases()) }).await
    }
}

/// A stream of keep-alives: each is answered in its turn.
struct Keeping {
    api: Api,
    requests: Streaming<LeaseKeepAliveRequest>,
    streamed: Streamed,
}

impl Keeping {
    /// The next answer; `None` once the client has said all it had to say.
    async fn next(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Status> {
        let request = tokio::select! {
            request = self.requests.message() => request?,
            _ = self.api.stop.changed() => return Err(ApiError::Stopped.into()),
        };
        match request {
            Some(request) => Ok(Some(self.api.core.lease_keep_alive(&request).await?)),
            None => Ok(None),
        }
    }
}
