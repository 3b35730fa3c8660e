//! The client of one large store: fills it, and reads it in every size.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::figures::{latencies, percentile_ms, record};
use crate::list::list;
use crate::target::Running;

const CONNECTIONS: u32 = 8;
/// How long a snapshot may take.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Puts in flight while the store is filled.
const WRITERS: u32 = 256;

const VALUE_BYTES_MAX: usize = 64 * 1024;
/// What servers hold unless told otherwise, history included; then they refuse writes.
const QUOTA_BYTES: usize = 2 * 1024 * 1024 * 1024;
/// A key is stored, put anew, and its older revision stays until a compaction.
const REVISIONS: usize = 2;
/// Of a key and of what servers keep with each revision, about.
const REVISION_BYTES: usize = 100;

/// What the store holds.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Contents {
    /// Keys of the store.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u32,
    /// Bytes of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub value: usize,
}

impl Contents {
    pub(crate) fn check(&self, keys: RangeInclusive<u32>) -> Result<()> {
        let (least, most) = (keys.start(), keys.end());
        ensure!(keys.contains(&self.keys), "--keys is from {least} to {most}, not {}", self.keys);
        let value = self.value;
        ensure!((1..=VALUE_BYTES_MAX).contains(&value), "--value is from 1 to {VALUE_BYTES_MAX} bytes, not {value}");
        let fitting = QUOTA_BYTES / REVISIONS / (value + REVISION_BYTES);
        ensure!(
            self.keys as usize <= fitting,
            "--keys is at most {fitting} with a --value of {value} bytes, not {}: more does not fit into a server",
            self.keys
        );
        Ok(())
    }
}

/// A client of a store of so many keys.
pub(crate) struct Client {
    channels: Vec<Channel>,
    keys: Arc<[Bytes]>,
    value_bytes: usize,
    seed: u64,
}

impl Client {
    pub(crate) async fn connect(server: &Running, keys: u32, value_bytes: usize, seed: u64) -> Result<Self> {
        let keys = (0..keys).map(key).collect();
        Ok(Self { channels: server.connect(CONNECTIONS).await?, keys, value_bytes, seed })
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes of a key and its value.
    pub(crate) fn pair_bytes(&self) -> usize {
        self.keys[0].len() + self.value_bytes
    }

    /// A client on the first connection.
    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channels[0].clone()).max_decoding_message_size(usize::MAX)
    }

    /// Puts every key once, in random order.
    pub(crate) async fn put_all(&self) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut order: Vec<Bytes> = self.keys.to_vec();
        random.shuffle(&mut order);
        let (order, next): (Arc<[Bytes]>, _) = (order.into(), Arc::new(AtomicU32::new(0)));
        let mut writers = JoinSet::<Result<()>>::new();
        for number in 0..WRITERS {
            let channel = self.channels[number as usize % self.channels.len()].clone();
            let (order, next, value_bytes) = (Arc::clone(&order), Arc::clone(&next), self.value_bytes);
            let mut random = fastrand::Rng::with_seed(random.u64(..));
            writers.spawn(async move {
                let mut kv = KvClient::new(channel);
                while let Some(key) = order.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let mut value = vec![0; value_bytes];
                    random.fill(&mut value);
                    let put = PutRequest { key: key.clone(), value: value.into(), ..Default::default() };
                    kv.put(put).await.context("a put failed")?;
                }
                Ok(())
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.context("a writer panicked")??;
        }
        Ok(())
    }

    /// The median time in milliseconds of a page from a random place to the end, limited to `limit` keys.
    pub(crate) async fn pages(&self, limit: i64, reads: usize) -> Result<f64> {
        let (mut kv, mut random, mut times) = (self.kv(), fastrand::Rng::with_seed(self.seed), Times::new());
        for _ in 0..reads {
            let first = random.usize(..self.keys.len());
            let (key, wanted) = (self.keys[first].clone(), self.keys.len() - first);
            let page = kv.range(RangeRequest { key, range_end: "\0".into(), limit, ..Default::default() });
            let count = times.time(page).await.context("a page failed")?.count;
            // The pulse has a key of its own behind them.
            let counted = usize::try_from(count).unwrap_or_default();
            ensure!((wanted..=wanted + 1).contains(&counted), "a count of {count}, not {wanted}");
        }
        Ok(times.median_ms())
    }

    /// The median times in milliseconds of a range of `len` keys at a random place of this store, and of the `other`. They take turns.
    pub(crate) async fn ranges_beside(&self, other: &Self, len: usize, reads: usize) -> Result<(f64, f64)> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let (mut times, mut other_times) = (Times::new(), Times::new());
        for _ in 0..reads {
            for (client, times) in [(self, &mut times), (other, &mut other_times)] {
                let first = random.usize(..client.keys.len() - len);
                let (key, range_end) = (client.keys[first].clone(), client.keys[first + len].clone());
                let mut kv = client.kv();
                let range = kv.range(RangeRequest { key, range_end, ..Default::default() });
                let found = times.time(range).await.context("a range failed")?.kvs.len();
                ensure!(found == len, "a range of {len} keys was answered with {found}");
            }
        }
        Ok((times.median_ms(), other_times.median_ms()))
    }

    /// Lists everything in one answer, which is not looked at; its bytes.
    pub(crate) async fn list_all(&self) -> Result<usize> {
        let request = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let bytes = list(&self.channels[0], request).await?;
        let wanted = self.keys.len() * self.pair_bytes();
        ensure!(bytes >= wanted, "a list of {bytes} bytes does not hold {wanted}");
        Ok(bytes)
    }

    /// Lists the first `keys` keys over and over, each client on a connection of its own, until it is dropped.
    pub(crate) async fn list_for_ever(server: &Running, clients: u32, keys: u32) -> Result<()> {
        let mut lists = JoinSet::<Result<()>>::new();
        for channel in server.connect(clients).await? {
            lists.spawn(async move {
                loop {
                    let request = RangeRequest { key: key(0), range_end: key(keys), ..Default::default() };
                    list(&channel, request).await?;
                }
            });
        }
        crate::pace::all(lists).await
    }

    /// Takes everything as a stream.
    pub(crate) async fn stream_all(&self) -> Result<()> {
        let request = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let mut parts = self.kv().range_stream(request).await.context("the stream failed")?.into_inner();
        let mut keys = 0;
        while let Some(part) = parts.message().await.context("the stream broke off")? {
            keys += part.range_response.map_or(0, |part| part.kvs.len());
        }
        ensure!(keys >= self.keys.len(), "a stream of {keys} keys does not hold {}", self.keys.len());
        Ok(())
    }

    /// Compacts at the current revision and waits until what that hides is gone.
    pub(crate) async fn compact(&self) -> Result<()> {
        let mut kv = self.kv();
        let now = kv.range(RangeRequest { key: "none".into(), ..Default::default() }).await?.into_inner();
        let revision = now.header.context("an answer without a header")?.revision;
        kv.compact(CompactionRequest { revision, physical: true }).await.context("the compaction failed")?;
        Ok(())
    }

    /// Waits until our server, which writes snapshots all the time, has written one more.
    pub(crate) async fn snapshot(&self, server: &Running) -> Result<()> {
        let before = snapshots(server).await?;
        let deadline = Instant::now() + SNAPSHOT_WITHIN;
        while snapshots(server).await? == before {
            ensure!(Instant::now() < deadline, "no snapshot was written in {SNAPSHOT_WITHIN:?}");
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }
}

/// How many snapshots our server has written, by its metrics.
async fn snapshots(server: &Running) -> Result<u64> {
    let metrics = server.metrics().await?;
    let value = metrics.lines().find_map(|line| line.strip_prefix("kv_snapshots_total "));
    value.and_then(|value| value.parse().ok()).context("the server counts no snapshots")
}

fn key(number: u32) -> Bytes {
    format!("million/{number:08}").into()
}

/// How long calls took, one after the other.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        Self(latencies())
    }

    async fn time<T>(&mut self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        let started = Instant::now();
        let answer = call.await?;
        record(&mut self.0, started.elapsed());
        Ok(answer.into_inner())
    }

    fn median_ms(&self) -> f64 {
        percentile_ms(&self.0, 50.0).unwrap_or_default()
    }
}
