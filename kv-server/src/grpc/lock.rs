//! `v3lockpb.Lock`.

use tonic::{Request, Response, Status};

use super::Api;
use crate::proto::v3lockpb::lock_server::Lock;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

const SERVICE: &str = "v3lockpb.Lock";

#[tonic::async_trait]
impl Lock for Api {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.unary(SERVICE, "Lock", self.until_stopped(self.core.acquire(request.get_ref()))).await
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        self.unary(SERVICE, "Unlock", self.core.release(request.get_ref())).await
    }
}
