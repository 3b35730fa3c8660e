//! Maintenance: Status, HashKV.

use super::{Core, count};
use crate::proto::etcdserverpb::{
    AlarmResponse, DowngradeInfo, HashKvRequest, HashKvResponse, HashRequest, HashResponse, StatusResponse,
};
use crate::status::ApiError;

/// etcd's quota when none is set: what `Status` shows for "no limit" as well.
const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;

impl Core {
    /// What this member knows of itself.
    pub(crate) fn status(&self) -> StatusResponse {
        let view = self.views.load_full();
        let raft = self.driver.status().numbers();
        let bytes = view.bytes();
        let mut errors = Vec::new();
        if raft.leader == 0 {
            errors.push(ApiError::NoLeader.to_string());
        }
        let me = view.members().get(self.member_id);
        StatusResponse {
            header: self.header(view.revision()),
            version: self.version.server().to_owned(),
            db_size: count(bytes.history),
            leader: raft.leader,
            raft_index: raft.committed,
            raft_term: raft.term,
            raft_applied_index: view.applied_index(),
            errors,
            db_size_in_use: count(bytes.live),
            is_learner: me.is_some_and(|member| member.is_learner),
            storage_version: self.version.cluster().to_owned(),
            db_size_quota: count(self.limits.quota_bytes.unwrap_or(QUOTA_BYTES_DEFAULT)),
            downgrade_info: Some(DowngradeInfo::default()),
        }
    }

    /// The alarms that are raised: none, since nothing raises one.
    pub(crate) fn alarms(&self) -> AlarmResponse {
        AlarmResponse { header: self.header(self.views.load().revision()), alarms: Vec::new() }
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
