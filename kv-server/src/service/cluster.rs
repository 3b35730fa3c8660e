//! Cluster: MemberList.

use super::Core;
use crate::proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse};
use crate::status::ApiError;

impl Core {
    /// The members, by rising id. The header of a cluster call has no revision.
    pub(crate) async fn member_list(&self, request: &MemberListRequest) -> Result<MemberListResponse, ApiError> {
        if request.linearizable {
            self.read_barrier().await?;
        }
        let view = self.views.load_full();
        let members = view.members().iter().map(|member| Member {
            id: member.id,
            name: member.name.clone(),
            peer_ur_ls: member.peer_urls.clone(),
            client_ur_ls: member.client_urls.clone(),
            is_learner: member.is_learner,
        });
        Ok(MemberListResponse { header: self.header(0), members: members.collect() })
    }
}
