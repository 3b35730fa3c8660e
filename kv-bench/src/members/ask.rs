//! Questions to a member, each on a connection of its own and with an end.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kv_server::proto::etcdserverpb::cluster_client::ClusterClient;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kv_server::proto::etcdserverpb::{
    MemberAddRequest, MemberRemoveRequest, RangeRequest, ResponseHeader, StatusRequest,
};
use tonic::transport::Endpoint;

/// How long a member may take over a question about itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long a change of the membership may take: it waits for a leader, and for the members to know each other.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) id: u64,
    /// 0 when it knows none.
    pub(crate) leader: u64,
    pub(crate) term: u64,
    /// The last entry that it knows to be committed, and the last that it applied.
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) revision: i64,
    pub(crate) version: String,
    pub(crate) learner: bool,
}

impl Status {
    /// Whether it says that it leads.
    pub(crate) fn leads(&self) -> bool {
        self.leader == self.id && self.id != 0
    }
}

/// The header that every answer has.
fn header_of(header: Option<ResponseHeader>) -> Result<ResponseHeader> {
    header.context("an answer without a header")
}

/// The revision in an answer's header.
///
/// # Errors
/// It has none.
pub(crate) fn revision_of(header: Option<ResponseHeader>) -> Result<i64> {
    Ok(header_of(header)?.revision)
}

pub(super) async fn status(endpoint: &Endpoint) -> Result<Status> {
    let asked = async {
        let mut maintenance = MaintenanceClient::new(endpoint.connect().await?);
        Ok::<_, anyhow::Error>(maintenance.status(StatusRequest {}).await?.into_inner())
    };
    let status = tokio::time::timeout(ANSWER_WITHIN, asked).await.context("no answer")??;
    let header = header_of(status.header)?;
    Ok(Status {
        id: header.member_id,
        leader: status.leader,
        term: status.raft_term,
        committed: status.raft_index,
        applied: status.raft_applied_index,
        revision: header.revision,
        version: status.version,
        learner: status.is_learner,
    })
}

/// Whether it answers a linearizable read.
pub(super) async fn answers(endpoint: &Endpoint) -> bool {
    let asked = async {
        let request = RangeRequest { key: "ready".into(), ..RangeRequest::default() };
        KvClient::new(endpoint.connect().await.ok()?).range(request).await.ok()
    };
    tokio::time::timeout(ANSWER_WITHIN, asked).await.is_ok_and(|answer| answer.is_some())
}

/// It is done as well when nobody has this id any more.
pub(super) async fn remove_member(endpoint: &Endpoint, id: u64) -> Result<()> {
    let asked = async {
        let removed = ClusterClient::new(endpoint.connect().await?).member_remove(MemberRemoveRequest { id }).await;
        done_or(removed, "member not found")
    };
    tokio::time::timeout(CHANGE_WITHIN, asked).await.context("no answer")?
}

/// It is done as well when somebody has this URL already.
pub(super) async fn add_member(endpoint: &Endpoint, peer_url: &str) -> Result<()> {
    let request = MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: false };
    let asked = async {
        let added = ClusterClient::new(endpoint.connect().await?).member_add(request).await;
        done_or(added, "eer URLs already exists")
    };
    tokio::time::timeout(CHANGE_WITHIN, asked).await.context("no answer")?
}

/// A refusal that says `already` comes of an earlier request whose answer was lost.
fn done_or<T>(answer: Result<tonic::Response<T>, tonic::Status>, already: &str) -> Result<()> {
    match answer {
        Err(status) if !status.message().contains(already) => bail!("{:?}: {}", status.code(), status.message()),
        _ => Ok(()),
    }
}
