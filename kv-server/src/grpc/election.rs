//! `v3electionpb.Election`.

use std::pin::Pin;

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::Api;
use super::streamed::Streamed;
use crate::proto::v3electionpb::election_server::Election;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse, ResignRequest,
    ResignResponse,
};
use crate::service::Observer;

const SERVICE: &str = "v3electionpb.Election";

#[tonic::async_trait]
impl Election for Api {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        self.unary(SERVICE, "Campaign", self.until_stopped(self.core.campaign(request.get_ref()))).await
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        self.unary(SERVICE, "Proclaim", self.core.proclaim(request.get_ref())).await
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        self.unary(SERVICE, "Leader", self.core.leader(request.get_ref())).await
    }

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let observing = Observing {
            api: self.clone(),
            observer: Observer::new(&self.core, &request.get_ref().name),
            streamed: Streamed::begin(&self.core, SERVICE, "Observe", "server_stream"),
        };
        let words = stream::unfold(Some(observing), async |observing| {
            let mut observing = observing?;
            match observing.api.until_stopped(observing.observer.next()).await {
                Ok(word) => Some((Ok(word), Some(observing))),
                Err(error) => {
                    observing.streamed.end(error.code());
                    Some((Err(error.into()), None))
                }
            }
        });
        Ok(Response::new(Box::pin(words)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        self.unary(SERVICE, "Resign", self.core.resign(request.get_ref())).await
    }
}

/// An observation under way.
struct Observing {
    api: Api,
    observer: Observer,
    streamed: Streamed,
}
