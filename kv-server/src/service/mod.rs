//! The logic of the API: a request in, a response or an [`ApiError`] out. No transport here.

mod alarm;
mod cluster;
mod election;
mod encode;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod owner;
mod pairs;
mod range;
mod range_stream;
mod reconfig;
mod replace;
mod txn;
pub(crate) mod txn_check;
pub(crate) mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use alarm::{in_use_bytes, taken_bytes};
pub(crate) use election::Observer;
pub(crate) use maintenance::BACKUPS_MAX;
pub(crate) use pairs::Encoded;
pub(crate) use replace::Replacement;

use bytes::Bytes;
use kv_codec::command::{Body, CommandHeader};
use kv_raft::{ConfChange, Handle};
use kv_store::{Applied, Block, Outcome, ReadError, Rejection, ViewReader};
use tokio::sync::Semaphore;
use tokio::sync::watch::Receiver;

use crate::lessors::Lessors;
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::mvccpb::KeyValue;
use crate::status::ApiError;
use crate::steps::Steps;
use crate::version::ReportedVersion;
use crate::waiters::{Queued, Waiters};
use crate::watches::Watches;

/// What a request may cost at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of an encoded command.
    pub(crate) request_bytes_max: usize,
    /// Operations in one transaction.
    pub(crate) txn_ops_max: usize,
    /// Learners in the cluster.
    pub(crate) learners_max: u64,
    /// Whether a change of the membership is refused that could leave the cluster unable to decide.
    pub(crate) strict_reconfig_check: bool,
    /// Bytes of the store; `None` for no limit.
    pub(crate) quota_bytes: Option<u64>,
    /// How long a call waits for the log.
    pub(crate) request_timeout: Duration,
    /// How long a leader may be silent. A lease is prolonged by as much when one begins: its client has to find it.
    pub(crate) election_timeout: Duration,
    /// Time between a leader's heartbeats: about what a message takes to the farthest member, or more.
    pub(crate) heartbeat_interval: Duration,
    /// The least seconds that a lease is granted.
    pub(crate) lease_ttl_min: i64,
    /// How often a quiet watcher hears of progress, if it wants to.
    pub(crate) watch_progress_interval: Duration,
}

/// How long to wait before a leader is tried again that could not be reached.
const LEADER_PAUSE: Duration = Duration::from_millis(20);

/// Who leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leader {
    /// Its id; 0 for none known.
    pub(crate) id: u64,
    /// Since when.
    pub(crate) since: Instant,
}

/// Everything a call needs. One per server.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) epoch: u64,
    pub(crate) version: ReportedVersion,
    pub(crate) limits: Limits,
    pub(crate) views: ViewReader,
    pub(crate) driver: Handle,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) watches: Arc<Watches>,
    pub(crate) lessors: Arc<Lessors>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) applied: Receiver<u64>,
    /// Who leads, and since when this member knows.
    pub(crate) leader: Receiver<Leader>,
    /// The steps of large answers.
    pub(crate) steps: Arc<Steps>,
    /// One permit for each backup that may be on its way.
    pub(crate) backups: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

impl Core {
    /// The header of a response; `revision` is the one of the operation, or the store's.
    pub(crate) fn header(&self, revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.driver.status().numbers().term,
        })
    }

    /// Whether this member has no vote.
    pub(crate) fn is_learner(&self) -> bool {
        self.views.load().members().get(self.member_id).is_some_and(|member| member.is_learner)
    }

    /// Whether this member leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.driver.status().numbers().leader == self.member_id
    }

    /// Replicates a command and waits until it is applied and published. One that found no leader is in no log: it waits for the
    /// next leader.
    pub(crate) async fn replicate(&self, body: &Body<'_>) -> Result<Applied, ApiError> {
        let began = Instant::now();
        let left = || self.limits.request_timeout.saturating_sub(began.elapsed());
        loop {
            match result_within(self.queue(body), left()).await {
                Err(ApiError::NoLeader) if self.leader_within(left()).await => {}
                Err(ApiError::NoLeader | ApiError::Timeout) => return self.settled(Err(self.timed_out(began))),
                outcome => return self.settled(outcome),
            }
        }
    }

    /// Waits for a leader to be known, and a moment more if one is: it was out of reach. False when the time is up first.
    pub(crate) async fn leader_within(&self, left: Duration) -> bool {
        let mut leader = self.leader.clone();
        let waits = async {
            tokio::time::sleep(LEADER_PAUSE).await;
            leader.wait_for(|leader| leader.id != 0).await.is_ok()
        };
        tokio::time::timeout(left, waits).await.unwrap_or(false)
    }

    /// What to tell a call that began then and has got no answer.
    pub(crate) fn timed_out(&self, began: Instant) -> ApiError {
        let Leader { id: leader, since } = *self.leader.borrow();
        if leader == 0 || began < since {
            return ApiError::TimeoutLeaderFailure;
        }
        let connected = |id| self.peers.connected_since(id).is_some_and(|since| since <= began);
        let others = || self.views.load_full().members().voters().into_iter().filter(|id| *id != self.member_id);
        let reached = if leader == self.member_id {
            others().count() <= 2 * others().filter(|id| connected(*id)).count()
        } else {
            connected(leader)
        };
        if reached { ApiError::Timeout } else { ApiError::TimeoutConnectionLost }
    }

    /// Queues a command for the log.
    pub(crate) fn queue(&self, body: &Body<'_>) -> Result<Queued<'_>, ApiError> {
        let command = self.command(body)?;
        self.waiters.queue_with(command, |command| self.driver.propose(command))
    }

    /// Queues a change of the membership: what raft has to do, and the command that says so to the store.
    fn queue_change(&self, change: ConfChange, body: &Body<'_>) -> Result<Queued<'_>, ApiError> {
        let command = self.command(body)?;
        self.waiters.queue_with(command, |command| self.driver.propose_conf_change(change, command))
    }

    fn command(&self, body: &Body<'_>) -> Result<Vec<u8>, ApiError> {
        let header = CommandHeader { origin: self.member_id, epoch: self.epoch, ..CommandHeader::default() };
        let command = body.encode(&header);
        if command.len() > self.limits.request_bytes_max {
            return Err(ApiError::RequestTooLarge);
        }
        Ok(command)
    }

    /// Waits until a command that was queued is applied and published.
    pub(crate) async fn outcome(&self, queued: Result<Queued<'_>, ApiError>) -> Result<Applied, ApiError> {
        self.settled(result_within(queued, self.limits.request_timeout).await)
    }

    /// What a call is told of its command in the end.
    fn settled(&self, result: Result<Applied, ApiError>) -> Result<Applied, ApiError> {
        if result.is_err() {
            self.metrics.proposals_failed.inc();
        }
        match result? {
            Applied { outcome: Outcome::Rejected(rejection), .. } => Err(rejection.into()),
            applied => Ok(applied),
        }
    }

    /// Waits until the published view is at least as new as this call.
    pub(crate) async fn read_barrier(&self) -> Result<(), ApiError> {
        if self.driver.status().is_lone_leader() {
            return Ok(());
        }
        let began = Instant::now();
        let index = match self.waiters.reads.index(&self.driver, self.limits.request_timeout).await {
            Err(ApiError::Timeout) => return Err(self.timed_out(began)),
            index => index?,
        };
        if *self.applied.borrow() >= index {
            return Ok(());
        }
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| *applied >= index);
        match tokio::time::timeout(self.limits.request_timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ApiError::Stopped),
            Err(_) => Err(ApiError::Timeout),
        }
    }
}

async fn result_within(queued: Result<Queued<'_>, ApiError>, timeout: Duration) -> Result<Applied, ApiError> {
    queued?.result(timeout).await
}

/// Does what takes a time that grows with the store on a thread beside the runtime's: those have other calls to serve.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    // It ends early only when the server does.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ApiError::Stopped))
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::KeyNotFound => Self::KeyNotFound,
            Rejection::LeaseNotFound => Self::LeaseNotFound,
            Rejection::LeaseExists => Self::LeaseExists,
            Rejection::OldTerm => Self::LeaderChanged,
            Rejection::NoSpace => Self::NoSpace,
            Rejection::Corrupt => Self::Corrupt,
            Rejection::Compacted => Self::Compacted,
            Rejection::FutureRevision => Self::FutureRevision,
            Rejection::MemberNotFound => Self::MemberNotFound,
            Rejection::MemberIdExists => Self::MemberExists,
            Rejection::PeerUrlExists => Self::PeerUrlExists,
            Rejection::TooManyLearners => Self::TooManyLearners,
            Rejection::NotLearner => Self::MemberNotLearner,
            Rejection::NotEnoughMembers => Self::MemberNotEnoughStarted,
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { .. } => Self::Compacted,
            ReadError::Future { .. } => Self::FutureRevision,
        }
    }
}

/// A block as the API shows it.
pub(crate) fn key_value(block: &Block) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(block.key()),
        create_revision: block.create_revision(),
        mod_revision: block.mod_revision(),
        version: block.version(),
        value: Bytes::copy_from_slice(block.value()),
        lease: block.lease(),
    }
}

/// A count as the API's signed integers carry it.
fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
