//! Lease: LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kv_codec::command::Body;
use kv_store::Renewal;

use super::Core;
use super::alarm::LEASE_BYTES;
use crate::lessors::Led;
use crate::peer::{Answer, Question};
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::status::ApiError;

/// The most seconds that a lease is granted (as in etcd).
const TTL_MAX: i64 = 9_000_000_000;
/// How long to wait before the leader is asked again (as in etcd).
const LESSOR_PAUSE: Duration = Duration::from_millis(50);

impl Core {
    /// Grants a lease.
    pub(crate) async fn lease_grant(&self, request: &LeaseGrantRequest) -> Result<LeaseGrantResponse, ApiError> {
        if request.ttl > TTL_MAX {
            return Err(ApiError::LeaseTtlTooLarge);
        }
        self.check_quota(LEASE_BYTES).await?;
        let id = if request.id == 0 { random_id()? } else { request.id };
        let ttl = request.ttl.max(self.limits.lease_ttl_min);
        let applied = self.replicate(&Body::LeaseGrant { id, ttl }).await?;
        self.metrics.leases_granted.inc();
        // Its time begins before its client hears of it.
        drop(self.lessor(|_| ()));
        Ok(LeaseGrantResponse { header: self.header(applied.revision), id, ttl, error: String::new() })
    }

    /// Ends a lease and deletes its keys.
    pub(crate) async fn lease_revoke(&self, request: &LeaseRevokeRequest) -> Result<LeaseRevokeResponse, ApiError> {
        let applied = self.replicate(&Body::LeaseRevoke { id: request.id, expired: None }).await?;
        self.metrics.leases_revoked.inc();
        Ok(LeaseRevokeResponse { header: self.header(applied.revision) })
    }

    /// Keeps a lease alive. One that is not there, or is about to end, has 0 seconds.
    pub(crate) async fn lease_keep_alive(
        &self,
        request: &LeaseKeepAliveRequest,
    ) -> Result<LeaseKeepAliveResponse, ApiError> {
        let id = request.id;
        // From before: what the client is told of the store was so when its lease was kept alive.
        let header = self.header(self.views.load().revision());
        match self.ask_lessor(Question::KeepAlive(id)).await? {
            Answer::KeptAlive(ttl) => {
                if ttl > 0 {
                    self.metrics.leases_renewed.inc();
                }
                Ok(LeaseKeepAliveResponse { header, id, ttl })
            }
            Answer::CannotEnd => Err(ApiError::Corrupt),
            _ => Err(ApiError::NotPrimaryLessor),
        }
    }

    /// Answers another member, which has none but this to ask; nothing about leases while this one does not lead.
    pub(crate) async fn answer(&self, question: Question) -> Answer {
        self.answer_or(question).await.unwrap_or(Answer::Nothing)
    }

    async fn answer_or(&self, question: Question) -> Result<Answer, ApiError> {
        match question {
            Question::KeepAlive(id) => match self.keep_alive(id).await {
                Err(ApiError::Corrupt) => Ok(Answer::CannotEnd),
                ttl => ttl.map(Answer::KeptAlive),
            },
            Question::TimeToLive(id) => self.time_to_live(id).await,
            Question::Hash(revision) => match self.kv_hash(revision).await {
                Err(ApiError::Compacted) => Ok(Answer::Unknown),
                hash => hash.map(Answer::Hash),
            },
        }
    }

    /// Asks the leader's lessor, here or wherever it is, until there is an answer.
    async fn ask_lessor(&self, question: Question) -> Result<Answer, ApiError> {
        let began = Instant::now();
        loop {
            let leader = self.leader.borrow().id;
            let left = self.limits.request_timeout.saturating_sub(began.elapsed());
            let asked = async {
                if leader != self.member_id {
                    return Ok(self.peers.ask(leader, question).await.unwrap_or(Answer::Nothing));
                }
                self.answer_or(question).await
            };
            let answer = tokio::time::timeout(left, asked).await.unwrap_or(Err(ApiError::Timeout));
            match answer {
                // It does not lead any more, or not yet, or hands over.
                Ok(Answer::Nothing)
                | Err(ApiError::NotPrimaryLessor | ApiError::LeaderChanged | ApiError::NoLeader) => {}
                Err(ApiError::Timeout) => return Err(self.timed_out(began)),
                answer => return answer,
            }
            if left.is_zero() {
                return Err(self.timed_out(began));
            }
            tokio::time::sleep(LESSOR_PAUSE.min(left)).await;
        }
    }

    /// Keeps a lease alive, on the leader; its seconds, 0 if it is gone or about to be.
    async fn keep_alive(&self, id: i64) -> Result<i64, ApiError> {
        // A leader that was replaced may have missed that the lease ended.
        self.read_barrier().await?;
        let renewed = self.lessor(|Led { lessor, now, term }| {
            let renewal = lessor.renew(id, now);
            let undone = match renewal {
                Renewal::Renewed { noted: Some(noted), .. } => {
                    // Queued before the lessor can note anything else.
                    let undo = Body::LeaseCheckpoint { term, checkpoints: vec![noted.undo] };
                    Some((noted, self.queue(&undo)))
                }
                _ => None,
            };
            (renewal, undone)
        });
        let (renewal, undone) = renewed?;
        if let Some((noted, queued)) = undone {
            self.outcome(queued).await?;
            self.lessor(|led| led.lessor.undone(noted))?;
        }
        match renewal {
            Renewal::Renewed { ttl, .. } => Ok(ttl),
            Renewal::Unknown => Ok(0),
            Renewal::Ending => {
                self.lease_ended(id).await?;
                Ok(0)
            }
        }
    }

    /// Waits until a lease that is due is gone, and its keys with it; not while the CORRUPT alarm keeps it.
    async fn lease_ended(&self, id: i64) -> Result<(), ApiError> {
        let granted = |core: &Self| core.views.load().leases().get(id).map(|lease| lease.granted);
        let before = granted(self);
        let is_gone = || before.is_none() || granted(self) != before;
        let mut published = self.applied.clone();
        let decided = published.wait_for(|_| is_gone() || self.leases_cannot_end());
        match tokio::time::timeout(self.limits.request_timeout, decided).await {
            Ok(Ok(_)) if is_gone() => Ok(()),
            Ok(Ok(_)) => Err(ApiError::Corrupt),
            Ok(Err(_)) => Err(ApiError::Stopped),
            Err(_) => Err(ApiError::Timeout),
        }
    }

    /// What is left of a lease, and its keys. One that is not there has -1 seconds.
    pub(crate) async fn lease_time_to_live(
        &self,
        request: &LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, ApiError> {
        self.read_barrier().await?;
        let left = self.ask_lessor(Question::TimeToLive(request.id)).await?;
        let view = self.views.load_full();
        let header = self.header(view.revision());
        let Answer::TimeToLive(granted_ttl, ttl) = left else {
            return Ok(LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, granted_ttl: 0, keys: Vec::new() });
        };
        let keys = view.leases().keys(request.id).map(Bytes::copy_from_slice);
        let keys = if request.keys { keys.collect() } else { Vec::new() };
        Ok(LeaseTimeToLiveResponse { header, id: request.id, ttl, granted_ttl, keys })
    }

    /// What is left of a lease, on the leader.
    async fn time_to_live(&self, id: i64) -> Result<Answer, ApiError> {
        self.read_barrier().await?;
        let left = self.lessor(|led| led.lessor.time_to_live(id, led.now))?;
        let seconds = |left: Duration| i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        Ok(left.map_or(Answer::Unknown, |(granted, left)| Answer::TimeToLive(granted, seconds(left))))
    }

    /// The leases, the one that ends next first where this member knows their time.
    pub(crate) fn lease_leases(&self) -> LeaseLeasesResponse {
        let view = self.views.load_full();
        let by_deadline = self.lessor(|led| led.lessor.by_deadline());
        let ids = by_deadline.unwrap_or_else(|_| view.leases().iter().map(|(id, _)| id).collect());
        let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
        LeaseLeasesResponse { header: self.header(view.revision()), leases }
    }
}

/// A number that no other lease has but by the rarest chance: positive, and not 0.
fn random_id() -> Result<i64, ApiError> {
    let drawn = getrandom::u64().map_err(|_| ApiError::Stopped)?;
    Ok((drawn >> 1).cast_signed().max(1))
}
