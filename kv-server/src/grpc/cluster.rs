//! `etcdserverpb.Cluster`.

use tonic::{Request, Response, Status};

use super::Api;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};

const SERVICE: &str = "etcdserverpb.Cluster";

#[tonic::async_trait]
impl Cluster for Api {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        self.unary(SERVICE, "MemberList", self.core.member_list(request.get_ref())).await
    }

    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        self.unary(SERVICE, "MemberAdd", self.core.member_add(request.get_ref())).await
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.unary(SERVICE, "MemberRemove", self.core.member_remove(request.get_ref())).await
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.unary(SERVICE, "MemberUpdate", self.core.member_update(request.get_ref())).await
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.unary(SERVICE, "MemberPromote", self.core.member_promote(request.get_ref())).await
    }
}
