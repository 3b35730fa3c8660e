//! Maintenance: Status, hashes, backups, and who leads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_raft::Input;
use tokio::sync::mpsc;

use super::alarm::{alarm_text, in_use_bytes, taken_bytes};
use super::{Core, count};
use crate::backup;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::{
    DefragmentResponse, DowngradeInfo, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotResponse, StatusResponse,
};
use crate::status::ApiError;
use crate::version;

/// Bytes of one piece of a backup (as in etcd).
const BLOB_BYTES: usize = 32 * 1024;
/// Pieces of a backup that are made before they are taken.
const BLOBS_AHEAD: usize = 16;
/// Backups that are on their way at once. Each holds a thread, and the store as it was, for as long as its client takes.
pub(crate) const BACKUPS_MAX: usize = 16;
/// How often it is looked who leads, while leadership is handed over.
const TRANSFER_LOOK: Duration = Duration::from_millis(10);
/// etcd's quota when none is set: what `Status` shows for "no limit" as well.
const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;

impl Core {
    /// What this member knows of itself.
    pub(crate) fn status(&self) -> StatusResponse {
        let view = self.views.load_full();
        let raft = self.driver.status().numbers();
        let mut errors = Vec::new();
        if raft.leader == 0 {
            errors.push(ApiError::NoLeader.to_string());
        }
        errors.extend(view.alarms().iter().map(|(member, kind)| alarm_text(member, kind)));
        StatusResponse {
            header: self.header(view.revision()),
            version: self.version.server().to_owned(),
            db_size: count(taken_bytes(&view)),
            leader: raft.leader,
            raft_index: raft.committed,
            raft_term: raft.term,
            raft_applied_index: view.applied_index(),
            errors,
            db_size_in_use: count(in_use_bytes(&view)),
            is_learner: self.is_learner(),
            storage_version: self.version.cluster().to_owned(),
            db_size_quota: count(self.limits.quota_bytes.unwrap_or(QUOTA_BYTES_DEFAULT)),
            downgrade_info: Some(DowngradeInfo::default()),
        }
    }

    /// Hands leadership to another voter, and waits until that one leads. The answer has no header.
    pub(crate) async fn move_leader(&self, request: &MoveLeaderRequest) -> Result<MoveLeaderResponse, ApiError> {
        let leader = || self.driver.status().numbers().leader;
        if leader() != self.member_id {
            return Err(ApiError::NotLeader);
        }
        let target = request.target_id;
        if self.views.load().members().get(target).is_none_or(|member| member.is_learner) {
            return Err(ApiError::BadLeaderTransferee);
        }
        self.driver.input(Input::Transfer(target)).map_err(|_| ApiError::Stopped)?;
        let moved = async {
            while leader() != target {
                tokio::time::sleep(TRANSFER_LOOK).await;
            }
        };
        let moved = tokio::time::timeout(self.limits.request_timeout, moved).await;
        moved.map_err(|_| ApiError::TimeoutLeaderTransfer)?;
        Ok(MoveLeaderResponse { header: None })
    }

    /// There is no earlier version to go down to: none but this reads the formats on disk, and no downgrade is ever begun. So a version that can
    /// be read is never the right one, and there is nothing to cancel: both in etcd 3.5's words. What is reported as the version of etcd is
    /// set by an environment variable, and is no part of what is stored.
    pub(crate) fn downgrade(&self, request: &DowngradeRequest) -> Result<DowngradeResponse, ApiError> {
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) if !version::is_version(&request.version) => {
                Err(ApiError::WrongDowngradeVersionFormat)
            }
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => Err(ApiError::InvalidDowngradeTargetVersion),
            Ok(DowngradeAction::Cancel) => Err(ApiError::NoInflightDowngrade),
            Err(_) => Err(ApiError::UnknownMethod),
        }
    }

    /// There is nothing to defragment: what a compaction drops is free at once. The answer has no header.
    pub(crate) fn defragment(&self) -> DefragmentResponse {
        DefragmentResponse { header: None }
    }

    /// The store as of now, as a backup: its bytes in pieces, the hash in the last one. They are made as they are taken, so that they take
    /// the memory of a few pieces.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`] while [`BACKUPS_MAX`] others are on their way.
    pub(crate) fn snapshot(&self) -> Result<mpsc::Receiver<SnapshotResponse>, ApiError> {
        let permit = Arc::clone(&self.backups).try_acquire_owned().map_err(|_| ApiError::TooManyRequests)?;
        let (sender, blobs) = mpsc::channel(BLOBS_AHEAD);
        let view = self.views.load_full();
        let (cluster_id, header) = (self.cluster_id, self.header(view.revision()));
        let version = self.version.cluster().to_owned();
        tokio::task::spawn_blocking(move || {
            let mut left = backup::len(&view);
            let gone = backup::write(&view, cluster_id, |bytes| {
                bytes.chunks(BLOB_BYTES).try_for_each(|blob| {
                    left -= blob.len() as u64;
                    let blob = Bytes::copy_from_slice(blob);
                    let version = version.clone();
                    sender.blocking_send(SnapshotResponse { header, remaining_bytes: left, blob, version })
                })
            });
            // A client that has gone wants no more of it.
            drop((gone, permit));
        });
        Ok(blobs)
    }

    /// The hash of all revisions up to one. Takes time in proportion to the history: call it off the runtime's threads.
    pub(crate) fn hash_kv(&self, request: &HashKvRequest) -> Result<HashKvResponse, ApiError> {
        let view = self.views.load_full();
        let hash = view.hash_kv(request.revision)?;
        Ok(HashKvResponse {
            header: self.header(view.revision()),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.revision,
        })
    }

    /// The hash of everything that is replicated. Takes time in proportion to the store.
    pub(crate) fn hash(&self, _request: &HashRequest) -> HashResponse {
        let view = self.views.load_full();
        HashResponse { header: self.header(view.revision()), hash: view.state_hash() }
    }
}
