//! Lock: Lock, Unlock. A lock keeps others out only as long as its lease lives: who does something while it holds one checks in the same
//! transaction that the lock's key is still there.

use std::sync::Arc;

use kv_codec::command::{Body, DeleteRange};

use super::Core;
use super::owner::Waiting;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use crate::status::ApiError;

impl Core {
    /// Waits until the caller holds the lock.
    pub(crate) async fn acquire(self: &Arc<Self>, request: &LockRequest) -> Result<LockResponse, ApiError> {
        let place = self.take_place(&request.name, request.lease, b"").await?;
        let waiting = Waiting::new(self, &place);
        let revision = self.wait_for_place(&request.name, &place).await?.ok_or(ApiError::SessionExpired)?;
        waiting.keep();
        // Who had not to wait is told of the revision that gave it the lock.
        let revision = if place.found.is_none() { place.at.max(revision) } else { revision };
        Ok(LockResponse { header: self.header(revision), key: place.key.into() })
    }

    /// Gives the lock up.
    pub(crate) async fn release(&self, request: &UnlockRequest) -> Result<UnlockResponse, ApiError> {
        if request.key.is_empty() {
            return Err(ApiError::EmptyKey);
        }
        let delete = DeleteRange { key: &request.key, range_end: b"", prev_kv: false };
        let applied = self.replicate(&Body::DeleteRange(delete)).await?;
        Ok(UnlockResponse { header: self.header(applied.revision) })
    }
}
