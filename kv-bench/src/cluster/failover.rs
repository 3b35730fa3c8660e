//! How long nobody can write when the leader goes: from the moment it is struck to the first write that is answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use kv_server::proto::etcdserverpb::PutRequest;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::figures::{Figures, latencies, percentile_ms, record};
use crate::members::Cluster;

/// Between two writes to each survivor. What a member does with a write that comes while nobody leads is its business: a later one may be
/// answered before an earlier one.
const WRITE_EVERY: Duration = Duration::from_millis(5);
/// A cluster that answers no write for so long is broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a member may take to come back and all of them to answer.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Before each strike the cluster is left alone for a random time in here, so that no strike falls at the same point of a tick.
const CALM_MS: std::ops::Range<u64> = 500..1_500;

/// How the leader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    /// SIGKILL: its connections end with it.
    Kill,
    /// SIGSTOP: its connections stay, and nothing comes from it any more.
    Silence,
}

/// Strikes the leader so often, brings it back each time, and notes how long writes took to be answered again.
pub(super) async fn strike_leaders(
    figures: &mut Figures<'_>,
    cluster: &mut Cluster,
    strike: Strike,
    times: u32,
    random: &mut fastrand::Rng,
) -> Result<()> {
    let mut outages = latencies();
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(random.u64(CALM_MS))).await;
        record(&mut outages, once(cluster, strike).await?);
    }
    add(figures, strike, &outages);
    Ok(())
}

async fn once(cluster: &mut Cluster, strike: Strike) -> Result<Duration> {
    let leader = cluster.wait_leader(BACK_WITHIN).await?;
    let mut survivors = Vec::new();
    for (slot, endpoint) in cluster.endpoints().into_iter().enumerate() {
        if slot != leader {
            survivors.push(endpoint.connect().await.context("connecting to a survivor")?);
        }
    }
    let struck = Instant::now();
    match strike {
        Strike::Kill => cluster.kill(leader),
        Strike::Silence => cluster.pause(leader)?,
    }
    first_write(&survivors).await?;
    let outage = struck.elapsed();
    match strike {
        Strike::Kill => cluster.restart(leader)?,
        Strike::Silence => cluster.resume(leader)?,
    }
    cluster.wait_ready(BACK_WITHIN).await?;
    Ok(outage)
}

/// Until a write is answered, of those that were sent meanwhile on a schedule to each of `survivors`.
async fn first_write(survivors: &[Channel]) -> Result<()> {
    let started = Instant::now();
    let (mut puts, mut due) = (JoinSet::new(), started);
    while started.elapsed() < ANSWER_WITHIN {
        for channel in survivors {
            let mut kv = KvClient::new(channel.clone());
            let put = PutRequest { key: "failover".into(), value: "written".into(), ..PutRequest::default() };
            puts.spawn(async move { kv.put(put).await });
        }
        due += WRITE_EVERY;
        // Until the next ones are due.
        while let Ok(Some(answer)) = tokio::time::timeout_at(due.into(), puts.join_next()).await {
            if answer.context("a put panicked")?.is_ok() {
                return Ok(());
            }
        }
        tokio::time::sleep_until(due.into()).await;
    }
    bail!("no write was answered within {ANSWER_WITHIN:?} of the end of the leader")
}

fn add(figures: &mut Figures<'_>, strike: Strike, outages: &Histogram<u64>) {
    let [median, high, worst] = match strike {
        Strike::Kill => [
            "leader killed: no write for, p50",
            "leader killed: no write for, p99",
            "leader killed: no write for, worst",
        ],
        Strike::Silence => [
            "leader silent: no write for, p50",
            "leader silent: no write for, p99",
            "leader silent: no write for, worst",
        ],
    };
    figures.add(median, "ms", percentile_ms(outages, 50.0));
    figures.add(high, "ms", percentile_ms(outages, 99.0));
    figures.add(worst, "ms", percentile_ms(outages, 100.0));
}
