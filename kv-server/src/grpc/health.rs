//! `grpc.health.v1.Health`.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Api;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};

/// What is served: connections are taken only once this member serves.
fn serving(request: &HealthCheckRequest) -> Result<HealthCheckResponse, Status> {
    if request.service.is_empty() {
        Ok(HealthCheckResponse { status: ServingStatus::Serving.into() })
    } else {
        Err(Status::not_found("unknown service"))
    }
}

#[tonic::async_trait]
impl Health for Api {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        serving(request.get_ref()).map(Response::new)
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // The stream stays open, as the protocol asks: a status that changes is one more message.
        let now =
            serving(request.get_ref()).unwrap_or(HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() });
        let (sender, receiver) = mpsc::channel(1);
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            if sender.send(Ok(now)).await.is_ok() {
                // Until the server stops or the client goes.
                tokio::select! {
                    _ = stop.changed() => {}
                    () = sender.closed() => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
