//! Those who hold leases: they take one, put a key on it, keep it alive for a while, and let go of it.

use std::sync::Arc;
use std::time::Duration;

use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::lease_client::LeaseClient;
use kv_server::proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest};
use kv_sim::history::{Request, Step};
use tonic::Status;
use tonic::transport::Channel;

use super::calls::{Call, ask};
use super::shared::Shared;

/// What begins the keys of leases. Nobody but the lease deletes them.
pub(super) const LEASED: &str = "chaos/lease/";
/// Seconds that are asked for: as few as etcd grants, so that leases end within the faults.
const TTL_SECONDS: i64 = 2;
/// A call about a lease that takes longer was in vain.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// One lease in this many is revoked instead of left alone.
const REVOKED_EVERY: u32 = 4;
/// Times that a lease is kept alive, at most.
const KEPT_MAX: u32 = 6;

/// A lease, as its holder knows it.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) id: i64,
    pub(super) key: Vec<u8>,
    /// All answers that promised it some time.
    pub(super) promises: Vec<Promise>,
    /// Somebody asked to revoke it: it may be gone at any time since.
    pub(super) revoked: bool,
}

/// It lives for `ttl` nanoseconds from some moment between `made` and `answered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) made: u64,
    pub(super) answered: u64,
    pub(super) ttl: u64,
}

/// One holder of one lease after another.
pub(super) struct Lessee {
    pub(super) id: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) random: fastrand::Rng,
}

impl Lessee {
    /// Holds leases until the load ends: the leases, and the puts of their keys.
    pub(super) async fn run(mut self) -> (Vec<Lease>, Vec<Call>) {
        let (mut leases, mut calls) = (Vec::new(), Vec::new());
        while !self.shared.stopped() {
            if let Some(lease) = self.hold(leases.len(), &mut calls).await {
                leases.push(lease);
            }
        }
        (leases, calls)
    }

    async fn hold(&mut self, number: usize, calls: &mut Vec<Call>) -> Option<Lease> {
        let channel = self.shared.connect(&mut self.random).await?;
        let made = self.shared.now();
        let request = LeaseGrantRequest { ttl: TTL_SECONDS, id: 0 };
        let granted = within(LeaseClient::new(channel.clone()).lease_grant(request)).await?.into_inner();
        let promise = Promise { made, answered: self.shared.now(), ttl: nanoseconds(granted.ttl) };
        let key = format!("{LEASED}{}/{number:06}", self.id).into_bytes();
        let mut lease = Lease { id: granted.id, key: key.clone(), promises: vec![promise], revoked: false };

        let request = Request::Write(Step::Put(key, format!("lease {}.{number}", self.id).into_bytes()));
        let made = self.shared.now();
        let outcome = ask(&mut KvClient::new(channel), &request, lease.id, false).await;
        let ended = self.shared.now();
        calls.push(Call { client: self.id, request, lease: lease.id, serializable: false, made, ended, outcome });

        for _ in 0..self.random.u32(..=KEPT_MAX) {
            if self.shared.stopped() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(300..1_000))).await;
            let Some(channel) = self.shared.connect(&mut self.random).await else { continue };
            let made = self.shared.now();
            match within(keep_alive(channel, lease.id)).await {
                Some(0) => break,
                Some(ttl) => {
                    let answered = self.shared.now();
                    lease.promises.push(Promise { made, answered, ttl: nanoseconds(ttl) });
                }
                None => {}
            }
        }
        if self.random.u32(..REVOKED_EVERY) == 0 {
            lease.revoked = true;
            if let Some(channel) = self.shared.connect(&mut self.random).await {
                drop(within(LeaseClient::new(channel).lease_revoke(LeaseRevokeRequest { id: lease.id })).await);
            }
        }
        Some(lease)
    }
}

/// The time that it has left now, in seconds; 0 when it is gone.
async fn keep_alive(channel: Channel, id: i64) -> Result<i64, Status> {
    let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut answers = LeaseClient::new(channel).lease_keep_alive(requests).await?.into_inner();
    let answer = answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
    Ok(answer.ttl.max(0))
}

/// An answer that came in time.
async fn within<T>(asked: impl Future<Output = Result<T, Status>>) -> Option<T> {
    tokio::time::timeout(ANSWER_WITHIN, asked).await.ok()?.ok()
}

fn nanoseconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000)
}

impl Lease {
    /// Until when it was promised to live, at the least.
    pub(super) fn promised_until(&self) -> u64 {
        self.promises.iter().map(|promise| promise.made.saturating_add(promise.ttl)).max().unwrap_or(0)
    }
}
