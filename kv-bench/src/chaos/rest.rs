//! The end of a run: a healed cluster that nobody uses any more must answer at every member, let go of leases, and be equal everywhere.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kv_server::proto::etcdserverpb::{HashKvRequest, RangeRequest, RangeResponse};
use kv_sim::history::Pair;
use tonic::transport::Channel;

use super::calls::pair;
use super::lessees::LEASED;
use super::shared::{PREFIX, PREFIX_END, Shared};
use crate::members::{Cluster, revision_of};

/// How long the cluster may take for each step.
pub(super) const REST_WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(100);
/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The end of the keys of leases.
const LEASED_END: &str = "chaos/lease0";
/// Revisions before the last whose hash is compared as well, as far as they are not compacted.
const HASHED_BEFORE: [i64; 3] = [1, 10, 100];

/// A cluster at rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) revision: i64,
    /// Revisions whose hash is equal everywhere.
    pub(super) hashed: u64,
    /// By the member's name: all pairs, by its own word.
    pub(super) states: Vec<(String, Vec<Pair>)>,
}

/// Waits for it.
///
/// # Errors
/// What the cluster did not do in time, or where its members differ.
pub(super) async fn rest(shared: &Shared, cluster: &mut Cluster, compacted: i64) -> Result<Rest> {
    cluster.wait_ready(REST_WITHIN).await?;
    let mut channels = Vec::new();
    for member in cluster.members() {
        let channel = member.endpoint().connect().await.with_context(|| format!("connecting to {}", member.name()))?;
        channels.push((member.name().to_owned(), channel));
    }
    leases_end(&channels[0].1).await?;
    let revision = agree(&channels).await?;
    ensure!(revision >= shared.revision(), "{} was told, and all are at {revision}", shared.revision());
    let earlier = HASHED_BEFORE.iter().map(|before| revision - before).filter(|earlier| *earlier > compacted.max(0));
    let mut rest = Rest { revision, ..Rest::default() };
    for revision in earlier.chain([revision]) {
        hashes_equal(&channels, revision).await?;
        rest.hashed += 1;
    }
    for (name, channel) in &channels {
        let all = read(channel, PREFIX, PREFIX_END, true).await?;
        rest.states.push((name.clone(), all.kvs.into_iter().map(pair).collect()));
    }
    Ok(rest)
}

/// Until no lease has a key any more: nobody keeps them alive.
async fn leases_end(channel: &Channel) -> Result<()> {
    let started = Instant::now();
    loop {
        let left = read(channel, LEASED, LEASED_END, false).await?.count;
        if left == 0 {
            return Ok(());
        }
        if started.elapsed() > REST_WITHIN {
            bail!("{left} key(s) of leases that nobody keeps alive are still there after {REST_WITHIN:?}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Until all members are at one revision, by their own word. The revision.
async fn agree(channels: &[(String, Channel)]) -> Result<i64> {
    let started = Instant::now();
    loop {
        let mut revisions = Vec::new();
        for (_, channel) in channels {
            revisions.push(revision_of(read(channel, LEASED, "", true).await?.header)?);
        }
        if revisions.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(revisions[0]);
        }
        ensure!(started.elapsed() < REST_WITHIN, "members are still at revisions {revisions:?} after {REST_WITHIN:?}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}

async fn hashes_equal(channels: &[(String, Channel)], revision: i64) -> Result<()> {
    let mut hashes = Vec::new();
    for (name, channel) in channels {
        let mut maintenance = MaintenanceClient::new(channel.clone());
        let answer = tokio::time::timeout(ANSWER_WITHIN, maintenance.hash_kv(HashKvRequest { revision })).await;
        let answer = answer.context("no answer to HashKV")?.with_context(|| format!("HashKV({revision}) of {name}"))?;
        hashes.push(answer.into_inner().hash);
    }
    ensure!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "HashKV({revision}) differs: {hashes:08x?}");
    Ok(())
}

async fn read(channel: &Channel, key: &'static str, end: &'static str, serializable: bool) -> Result<RangeResponse> {
    let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let request = RangeRequest { key: key.into(), range_end: end.into(), serializable, ..RangeRequest::default() };
    let answer = tokio::time::timeout(ANSWER_WITHIN, kv.range(request)).await.context("no answer to a read")?;
    Ok(answer.context("a read")?.into_inner())
}
