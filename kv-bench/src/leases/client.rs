//! The client of many leases.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::lease_client::LeaseClient;
use kv_server::proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::figures::{latencies, record};
use crate::pace::all;

/// Clients that grant.
const GRANTERS: u32 = 64;

/// Ids begin at 1: 0 asks for one of the server's choice.
fn id(number: u32) -> i64 {
    i64::from(number) + 1
}

/// Grants the leases; with a key on each, if asked for.
pub(super) async fn grant(channels: &[Channel], numbers: Range<u32>, seconds: u32, with_key: bool) -> Result<()> {
    let (next, mut granters) = (Arc::new(AtomicU32::new(numbers.start)), JoinSet::new());
    for granter in 0..GRANTERS {
        let channel = channels[granter as usize % channels.len()].clone();
        let (next, end) = (Arc::clone(&next), numbers.end);
        granters.spawn(async move {
            let (mut leases, mut kv) = (LeaseClient::new(channel.clone()), KvClient::new(channel));
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return Ok(());
                }
                let granted = leases.lease_grant(LeaseGrantRequest { ttl: seconds.into(), id: id(number) }).await;
                granted.context("a lease was not granted")?;
                if with_key {
                    let key = format!("leased/{number}").into();
                    let put = kv.put(PutRequest { key, lease: id(number), ..Default::default() }).await;
                    put.context("a put on a lease failed")?;
                }
            }
        });
    }
    all(granters).await
}

/// Keeps the leases alive, one after the other and again from the first, `each` times on each connection's stream: one is due `every` so
/// often from `start` on. How long the answers took, from when each was due.
pub(super) async fn keep_alive(
    channels: &[Channel],
    numbers: Range<u32>,
    each: u32,
    start: Instant,
    every: Duration,
) -> Result<Histogram<u64>> {
    let (mut streams, step) = (JoinSet::new(), channels.len());
    for (first, channel) in (numbers.start..).zip(channels) {
        let (mut leases, numbers) = (LeaseClient::new(channel.clone()), first..numbers.end);
        streams.spawn(async move {
            let ids = numbers.step_by(step).map(id).cycle().zip(0..each);
            let requests = tokio_stream::iter(ids.clone()).then(move |(id, number)| async move {
                tokio::time::sleep_until((start + every * number).into()).await;
                LeaseKeepAliveRequest { id }
            });
            let mut answers = leases.lease_keep_alive(requests).await.context("keeping alive")?.into_inner();
            let mut times = latencies();
            for (id, number) in ids {
                let answer = answers.message().await.context("keep-alives broke off")?.context("keep-alives ended")?;
                ensure!(answer.id == id && answer.ttl > 0, "lease {id} is not alive: {answer:?}");
                record(&mut times, (start + every * number).elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut sum = latencies();
    while let Some(ended) = streams.join_next().await {
        sum.add(ended.context("a stream panicked")??).expect("it grows to what it is given");
    }
    Ok(sum)
}
