//! Who writes what is watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kv_server::proto::etcdserverpb::PutRequest;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::audience::{NOBODY, Shared};
use crate::pace::{Pace, Schedule, all};

/// Writers at once, on a schedule or flat out.
pub(super) const WRITERS: u32 = 64;

/// What is put, and who is to hear of it.
#[derive(Debug, Clone)]
pub(super) struct Writers {
    pub(super) channels: Vec<Channel>,
    pub(super) shared: Arc<Shared>,
    pub(super) keys: Arc<[Bytes]>,
    pub(super) value_bytes: usize,
    /// Watchers of each key.
    pub(super) watchers: u32,
}

impl Writers {
    /// Puts for `length`: `rate` a second on schedule, or flat out, each writer's next when its last has reached all watchers. How many.
    pub(super) async fn run(&self, length: Duration, rate: Option<u32>) -> Result<u64> {
        let start = Instant::now();
        let pace = match rate {
            Some(rate) => Pace::Open(Schedule::begin(start, length, rate), start + 2 * length),
            None => Pace::Closed(start + length),
        };
        let (puts, mut writers) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        for number in 0..WRITERS {
            let (writer, pace, puts) = (self.clone(), pace.clone(), Arc::clone(&puts));
            writers.spawn(async move { writer.one(number, &pace, &puts).await });
        }
        all(writers).await?;
        if let Pace::Open(schedule, _) = pace {
            ensure!(schedule.unsent() == 0, "too slow for the schedule: {} puts were never started", schedule.unsent());
        }
        Ok(puts.load(Ordering::Relaxed))
    }

    async fn one(&self, number: u32, pace: &Pace, puts: &AtomicU64) -> Result<()> {
        let mut kv = KvClient::new(self.channels[number as usize % self.channels.len()].clone());
        let mut random = fastrand::Rng::with_seed(number.into());
        while let Some(due) = pace.next().await {
            let key = self.keys[random.usize(..self.keys.len())].clone();
            // On schedule nobody waits: a delay is to be seen, and not to be made good by fewer puts.
            let waits = matches!(pace, Pace::Closed(_));
            let value = self.shared.value(due, if waits { number } else { NOBODY }, self.value_bytes);
            if waits {
                self.shared.expect(number, self.watchers);
            }
            kv.put(PutRequest { key, value, ..Default::default() }).await.context("a put failed")?;
            if waits {
                self.shared.delivered(number).await;
            }
            puts.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
