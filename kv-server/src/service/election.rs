//! Election: Campaign, Proclaim, Leader, Observe, Resign.

use std::sync::Arc;

use kv_codec::command::{Op, Put};
use kv_store::{Block, KeyRange, SortOrder, WatchMessage, WatchRequest};

use super::owner::{Waiting, by_creation, prefix, prefix_end};
use super::{Core, key_value};
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use crate::status::ApiError;
use crate::watches::WatchCall;

impl Core {
    /// Waits until the caller leads.
    pub(crate) async fn campaign(self: &Arc<Self>, request: &CampaignRequest) -> Result<CampaignResponse, ApiError> {
        let place = self.take_place(&request.name, request.lease, &request.value).await?;
        let waiting = Waiting::new(self, &place);
        let leader = LeaderKey {
            name: request.name.clone(),
            key: place.key.clone().into(),
            rev: place.revision,
            lease: place.lease,
        };
        if place.found.as_ref().is_some_and(|found| found.value() != request.value) {
            self.proclaim_as(&leader, &request.value).await?;
        }
        let revision = self.wait_for_place(&request.name, &place).await?.ok_or(ApiError::ElectionNotLeader)?;
        waiting.keep();
        Ok(CampaignResponse { header: self.header(revision), leader: Some(leader) })
    }

    /// Changes what the leader says.
    pub(crate) async fn proclaim(&self, request: &ProclaimRequest) -> Result<ProclaimResponse, ApiError> {
        let leader = request.leader.as_ref().ok_or(ApiError::LeaderFieldMissing)?;
        let revision = self.proclaim_as(leader, &request.value).await?;
        Ok(ProclaimResponse { header: self.header(revision) })
    }

    async fn proclaim_as(&self, leader: &LeaderKey, value: &[u8]) -> Result<i64, ApiError> {
        if leader.key.is_empty() {
            return Err(ApiError::EmptyKey);
        }
        let LeaderKey { key, lease, .. } = leader;
        let put = Put { key, value, lease: *lease, prev_kv: false, ignore_value: false, ignore_lease: false };
        let (revision, outcome) = self.if_created_at(key, leader.rev, vec![Op::Put(put)], Vec::new()).await?;
        if outcome.succeeded { Ok(revision) } else { Err(ApiError::ElectionNotLeader) }
    }

    /// Who leads.
    pub(crate) async fn leader(&self, request: &LeaderRequest) -> Result<LeaderResponse, ApiError> {
        self.read_barrier().await?;
        let view = self.views.load_full();
        let leader = by_creation(&view, &prefix(&request.name), SortOrder::Ascend, 0);
        let leader = leader.ok_or(ApiError::ElectionNoLeader)?;
        Ok(LeaderResponse { header: self.header(view.revision()), kv: Some(key_value(leader)) })
    }

    /// Gives the leadership up.
    pub(crate) async fn resign(&self, request: &ResignRequest) -> Result<ResignResponse, ApiError> {
        let leader = request.leader.as_ref().ok_or(ApiError::LeaderFieldMissing)?;
        if leader.key.is_empty() {
            return Err(ApiError::EmptyKey);
        }
        let (revision, _) = self.leave_place(&leader.key, leader.rev).await?;
        Ok(ResignResponse { header: self.header(revision) })
    }
}

/// Who leads, and whatever it proclaims, one leader after another.
pub(crate) struct Observer {
    core: Arc<Core>,
    prefix: Vec<u8>,
    /// The leader, and the changes of its key.
    leader: Option<WatchCall>,
    /// Of a leader: what it proclaimed and was not yet told.
    ready: std::collections::VecDeque<(i64, Block)>,
}

impl Observer {
    pub(crate) fn new(core: &Arc<Core>, name: &[u8]) -> Self {
        Self { core: Arc::clone(core), prefix: prefix(name), leader: None, ready: std::collections::VecDeque::new() }
    }

    /// The next word of a leader.
    pub(crate) async fn next(&mut self) -> Result<LeaderResponse, ApiError> {
        loop {
            if let Some((revision, block)) = self.ready.pop_front() {
                return Ok(LeaderResponse { header: self.core.header(revision), kv: Some(key_value(&block)) });
            }
            match &mut self.leader {
                None => self.find().await?,
                Some(call) => match call.message().await {
                    WatchMessage::Events { revision, events, .. } => {
                        for event in events {
                            if event.block().is_tombstone() {
                                self.leader = None;
                                break;
                            }
                            self.ready.push_back((revision, event.block().clone()));
                        }
                    }
                    WatchMessage::Created { .. } | WatchMessage::Progress { .. } => {}
                    WatchMessage::Compacted { .. } | WatchMessage::Refused { .. } | WatchMessage::Canceled { .. } => {
                        self.leader = None;
                    }
                },
            }
        }
    }

    /// Finds the leader, or waits until there may be one.
    async fn find(&mut self) -> Result<(), ApiError> {
        self.core.read_barrier().await?;
        let view = self.core.views.load_full();
        let start_revision = view.revision() + 1;
        let mut call = WatchCall::open(Arc::clone(&self.core.watches), self.core.views.clone());
        if let Some(leader) = by_creation(&view, &self.prefix, SortOrder::Ascend, 0) {
            self.ready.push_back((view.revision(), leader.clone()));
            call.create(&WatchRequest { start_revision, ..WatchRequest::new(KeyRange::Single(leader.key())) });
            self.leader = Some(call);
            return Ok(());
        }
        let end = prefix_end(&self.prefix);
        let range = KeyRange::Span(&self.prefix, &end);
        call.create(&WatchRequest { start_revision, no_delete: true, ..WatchRequest::new(range) });
        while matches!(call.message().await, WatchMessage::Created { .. }) {}
        Ok(())
    }
}
