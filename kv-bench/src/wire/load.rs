//! The clients: the very same for each server.
//!
//! In a *closed loop* a client starts its next operation when the last one is answered. In an *open loop* operations
//! start on a schedule that knows nothing of answers, and an operation's latency counts from the moment it was meant to
//! start. A server that stalls for a second therefore shows it in every operation that was due in that second, and not in
//! one alone (the mistake known as coordinated omission).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::options::Workload;

/// A server that leaves a client without an answer for as long is out of the race.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Writers that store the keys before a run.
const FILLERS_MAX: u32 = 64;
/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// Values are slices of random bytes, at different offsets: no two in a row are equal, none costs time to make.
const OFFSETS: usize = 4096;

/// Latencies in nanoseconds of the gets and of the puts.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    pub(super) gets: Histogram<u64>,
    pub(super) puts: Histogram<u64>,
}

/// What one run of the clients saw.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) latencies: Latencies,
    /// From the start to the last answer.
    pub(super) elapsed: Duration,
    /// Operations of the schedule that no client came to start: the server was too slow for the rate.
    pub(super) unsent: u64,
}

/// The clients' connections and what they send.
#[derive(Debug, Clone)]
pub(super) struct Load {
    workload: Workload,
    channels: Vec<Channel>,
    keys: Arc<[Bytes]>,
    values: Bytes,
    seed: u64,
}

/// When operations are meant to start.
#[derive(Debug)]
struct Schedule {
    start: Instant,
    operations: u64,
    per_second: u32,
    /// Operations that some client has taken on.
    taken: AtomicU64,
    /// One permit for each operation that is due.
    due: Semaphore,
}

/// When a client starts its next operation.
#[derive(Clone)]
enum Pace {
    /// At once, until then.
    Closed(Instant),
    /// On schedule; what is late is started until then.
    Open(Arc<Schedule>, Instant),
}

impl Latencies {
    fn new() -> Self {
        let histogram = Histogram::new(DIGITS).expect("up to five digits are allowed");
        Self { gets: histogram.clone(), puts: histogram }
    }

    fn record(&mut self, get: bool, latency: Duration) {
        let histogram = if get { &mut self.gets } else { &mut self.puts };
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX >> 1);
        histogram.record(ns).expect("it grows to what it is given");
    }

    fn add(&mut self, other: &Self) {
        self.gets.add(&other.gets).expect("it grows to what it is given");
        self.puts.add(&other.puts).expect("it grows to what it is given");
    }
}

impl Outcome {
    /// Operations that were answered.
    pub(super) fn operations(&self) -> u64 {
        self.latencies.gets.len() + self.latencies.puts.len()
    }
}

impl Load {
    pub(super) fn new(workload: &Workload, channels: Vec<Channel>, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let values = std::iter::repeat_with(|| random.u8(..)).take(workload.value_bytes + OFFSETS).collect();
        // One more than is stored: the end of the last range.
        let keys = (0..=workload.keys).map(|number| format!("bench/{number:08}").into()).collect();
        Self { workload: workload.clone(), channels, keys, values, seed }
    }

    /// Bytes of a key and of its value: what one put asks to be kept.
    pub(super) fn put_bytes(&self) -> usize {
        self.keys[0].len() + self.workload.value_bytes
    }

    /// Stores every key once.
    pub(super) async fn fill(&self) -> Result<()> {
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
    pub(super) async fn run(&self, length: Duration) -> Result<Outcome> {
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
            Pace::Open(schedule, _) => schedule.operations.saturating_sub(schedule.taken.load(Ordering::Relaxed)),
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
        let request = PutRequest { key: self.keys[index].clone(), value, ..PutRequest::default() };
        client.put(request).await.context("a put failed")?;
        Ok(())
    }
}

impl Schedule {
    /// Starts the thread that says what is due.
    fn begin(start: Instant, length: Duration, per_second: u32) -> Arc<Self> {
        let operations = (length.as_millis() * u128::from(per_second)).div_ceil(1000);
        let operations = u64::try_from(operations).expect("a run lasts minutes");
        let schedule = Self { start, operations, per_second, taken: AtomicU64::new(0), due: Semaphore::new(0) };
        let schedule = Arc::new(schedule);
        let pacer = Arc::clone(&schedule);
        // A thread of its own: tokio's timer wakes to the millisecond, the system's to about 50 us.
        std::thread::spawn(move || pacer.pace());
        schedule
    }

    fn pace(&self) {
        for operation in 0..self.operations {
            let wait = self.due_at(operation).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            self.due.add_permits(1);
        }
        // Enough for every client to see that nothing is left.
        self.due.add_permits(Semaphore::MAX_PERMITS >> 1);
    }

    fn due_at(&self, operation: u64) -> Instant {
        let ns = u128::from(operation) * 1_000_000_000 / u128::from(self.per_second);
        self.start + Duration::from_nanos(u64::try_from(ns).expect("a run lasts minutes"))
    }
}

impl Pace {
    /// Waits until an operation is due. From when its latency counts; nothing when the run is over.
    async fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        match self {
            Self::Closed(end) => (now < *end).then_some(now),
            Self::Open(schedule, end) => {
                schedule.due.acquire().await.expect("it is never closed").forget();
                if Instant::now() >= *end {
                    return None;
                }
                let operation = schedule.taken.fetch_add(1, Ordering::Relaxed);
                (operation < schedule.operations).then(|| schedule.due_at(operation))
            }
        }
    }
}

/// Waits for all; the first error ends the others.
async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client panicked")??;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_due_evenly() {
        let start = Instant::now();
        let schedule =
            Schedule { start, operations: 9, per_second: 4, taken: AtomicU64::new(0), due: Semaphore::new(0) };
        let due: Vec<u128> = (0..6).map(|operation| (schedule.due_at(operation) - start).as_millis()).collect();
        assert_eq!(due, [0, 250, 500, 750, 1000, 1250]);
    }

    /// A stall that began before an operation was due is part of its latency.
    #[tokio::test]
    async fn latency_counts_from_the_intended_start() {
        let start = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let schedule =
            Schedule { start, operations: 2, per_second: 1, taken: AtomicU64::new(0), due: Semaphore::new(0) };
        schedule.pace();
        let pace = Pace::Open(Arc::new(schedule), start + Duration::from_secs(60));
        assert_eq!(pace.next().await, Some(start), "three seconds ago, not now");
        assert_eq!(pace.next().await, Some(start + Duration::from_secs(1)));
        assert_eq!(pace.next().await, None, "the schedule is done");
    }

    #[tokio::test]
    async fn a_run_that_is_too_late_ends_with_operations_unsent() {
        let start = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let schedule = Arc::new(Schedule {
            start,
            operations: 2,
            per_second: 1,
            taken: AtomicU64::new(0),
            due: Semaphore::new(0),
        });
        schedule.pace();
        let pace = Pace::Open(Arc::clone(&schedule), start + Duration::from_secs(2));
        assert_eq!(pace.next().await, None);
        assert_eq!(schedule.taken.load(Ordering::Relaxed), 0);
    }
}
