//! The clients: the very same for each server.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::response_op::Response as Answer;
use kv_server::proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::options::Workload;
use crate::budget::guarded_put;
use crate::figures::{latencies, record};
use crate::pace::{Pace, Schedule, all};

/// A server that leaves a client without an answer for as long is out of the race.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Writers that store the keys before a run.
const FILLERS_MAX: u32 = 64;
/// Values are slices of random bytes, at different offsets: no two in a row are equal, none costs time to make.
const OFFSETS: usize = 4096;

/// Latencies in nanoseconds of the gets and of the puts.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    pub(crate) gets: Histogram<u64>,
    pub(crate) puts: Histogram<u64>,
}

/// What one run of the clients saw.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) latencies: Latencies,
    /// From the start to the last answer.
    pub(crate) elapsed: Duration,
    /// Operations of the schedule that no client came to start: the server was too slow for the rate.
    pub(crate) unsent: u64,
}

/// The clients' connections and what they send.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    workload: Workload,
    channels: Vec<Channel>,
    keys: Arc<[Bytes]>,
    /// For each key the revision at which it was last seen to change; 0 before that.
    seen: Arc<[AtomicI64]>,
    values: Bytes,
    seed: u64,
}

impl Latencies {
    fn new() -> Self {
        Self { gets: latencies(), puts: latencies() }
    }

    fn record(&mut self, get: bool, latency: Duration) {
        record(if get { &mut self.gets } else { &mut self.puts }, latency);
    }

    fn add(&mut self, other: &Self) {
        self.gets.add(&other.gets).expect("it grows to what it is given");
        self.puts.add(&other.puts).expect("it grows to what it is given");
    }
}

impl Outcome {
    /// Operations that were answered.
    pub(crate) fn operations(&self) -> u64 {
        self.latencies.gets.len() + self.latencies.puts.len()
    }
}

impl Load {
    pub(crate) fn new(workload: &Workload, channels: Vec<Channel>, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let values = std::iter::repeat_with(|| random.u8(..)).take(workload.value_bytes + OFFSETS).collect();
        // One more than is stored: the end of the last range.
        let keys = (0..=workload.keys).map(|number| format!("bench/{number:08}").into()).collect();
        let seen = (0..=workload.keys).map(|_| AtomicI64::new(0)).collect();
        Self { workload: workload.clone(), channels, keys, seen, values, seed }
    }

    /// Bytes of a key and of its value: what one put asks to be kept.
    pub(crate) fn put_bytes(&self) -> usize {
        self.keys[0].len() + self.workload.value_bytes
    }

    /// Stores every key once.
    pub(crate) async fn fill(&self) -> Result<()> {
        let (mut fillers, stored) = (JoinSet::new(), self.keys.len() - 1);
        for first in 0..FILLERS_MAX.min(self.workload.keys) {
            let load = self.clone();
            let mut client = self.client(first);
            fillers.spawn(async move {
                let mut random = fastrand::Rng::with_seed(load.seed ^ u64::from(first));
                for index in (first as usize..stored).step_by(FILLERS_MAX as usize) {
                    load.put(&mut client, index, &mut random).await?;
                }
                Ok(())
            });
        }
        all(fillers).await.context("storing the keys")?;
        Ok(())
    }

    /// Runs the clients for `length`.
    pub(crate) async fn run(&self, length: Duration) -> Result<Outcome> {
        let start = Instant::now();
        let pace = match self.workload.rate {
            None => Pace::Closed(start + length),
            // Whoever is late at the end gets the same time once more.
            Some(rate) => Pace::Open(Schedule::begin(start, length, rate), start + 2 * length),
        };
        let shared: Vec<_> = self.channels.iter().map(|_| Arc::new(Mutex::new(Latencies::new()))).collect();
        let mut clients = JoinSet::new();
        for number in 0..self.workload.clients {
            let latencies = Arc::clone(&shared[number as usize % shared.len()]);
            let (load, client, pace) = (self.clone(), self.client(number), pace.clone());
            clients.spawn(async move { load.one_client(number, client, &pace, &latencies).await });
        }
        tokio::time::timeout(2 * length + ANSWER_WITHIN, all(clients))
            .await
            .with_context(|| format!("operations without an answer for {ANSWER_WITHIN:?}"))??;
        let elapsed = start.elapsed();
        let mut latencies = Latencies::new();
        for part in shared {
            latencies.add(&part.lock().expect("nothing panics under the lock"));
        }
        let unsent = match pace {
            Pace::Closed(_) => 0,
            Pace::Open(schedule, _) => schedule.unsent(),
        };
        Ok(Outcome { latencies, elapsed, unsent })
    }

    /// Clients take turns over the connections.
    fn client(&self, number: u32) -> KvClient<Channel> {
        KvClient::new(self.channels[number as usize % self.channels.len()].clone())
    }

    async fn one_client(
        &self,
        number: u32,
        mut client: KvClient<Channel>,
        pace: &Pace,
        latencies: &Mutex<Latencies>,
    ) -> Result<()> {
        // Each client draws its own numbers, the same ones against each server.
        let mut random = fastrand::Rng::with_seed(self.seed.wrapping_add(u64::from(number) << 32));
        while let Some(from) = pace.next().await {
            let get = random.u32(..100) < self.workload.get_percent;
            if get {
                self.get(&mut client, &mut random).await?;
            } else {
                let index = random.usize(..self.keys.len() - 1);
                self.put(&mut client, index, &mut random).await?;
            }
            let latency = from.elapsed();
            latencies.lock().expect("nothing panics under the lock").record(get, latency);
        }
        Ok(())
    }

    /// One linearizable get; an answer that is not what was stored is an error, however fast it came.
    async fn get(&self, client: &mut KvClient<Channel>, random: &mut fastrand::Rng) -> Result<()> {
        let asked = self.workload.range_keys as usize;
        let first = random.usize(..self.keys.len() - asked);
        let range_end = if asked == 1 { Bytes::new() } else { self.keys[first + asked].clone() };
        let request = RangeRequest { key: self.keys[first].clone(), range_end, ..RangeRequest::default() };
        let response = client.range(request).await.context("a get failed")?.into_inner();
        let right = response.kvs.len() == asked
            && response.kvs.iter().all(|pair| pair.value.len() == self.workload.value_bytes);
        ensure!(right, "a get of {asked} key(s) was answered with {} or with other values", response.kvs.len());
        Ok(())
    }

    async fn put(&self, client: &mut KvClient<Channel>, index: usize, random: &mut fastrand::Rng) -> Result<()> {
        let from = random.usize(..OFFSETS);
        let value = self.values.slice(from..from + self.workload.value_bytes);
        let key = self.keys[index].clone();
        if self.workload.guarded {
            return self.guarded_put(client, index, key, value).await;
        }
        let request = PutRequest { key, value, ..PutRequest::default() };
        client.put(request).await.context("a put failed")?;
        Ok(())
    }

    /// Puts if nobody else has since this key was last seen; else it is seen now.
    async fn guarded_put(&self, client: &mut KvClient<Channel>, index: usize, key: Bytes, value: Bytes) -> Result<()> {
        let seen = &self.seen[index];
        let request = guarded_put(key, seen.load(Ordering::Relaxed), value);
        let answer = client.txn(request).await.context("a transaction failed")?.into_inner();
        let revision = match (answer.succeeded, answer.responses.first().and_then(|first| first.response.as_ref())) {
            (true, _) => answer.header.map(|header| header.revision),
            (false, Some(Answer::ResponseRange(found))) => Some(found.kvs.first().map_or(0, |pair| pair.mod_revision)),
            _ => None,
        };
        seen.store(revision.context("a transaction answered neither of its two requests")?, Ordering::Relaxed);
        Ok(())
    }
}
