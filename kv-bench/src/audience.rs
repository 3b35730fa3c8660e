//! Who watches: streams that note how late each change came.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;
use kv_server::proto::etcdserverpb::WatchCreateRequest;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::figures::{latencies, record};
use crate::watching::Watching;

/// Streams that are opened at once.
const OPENING_MAX: usize = 32;
/// How long the last changes may take to come. A server that is later has lost them.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(1);
/// Bytes at the start of a value that say when it was due, and who puts it.
const STAMP_BYTES: usize = 8 + 4;
/// Instead of a writer, where nobody waits.
pub(crate) const NOBODY: u32 = u32::MAX;

/// Where a writer waits for its change to reach everybody.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    missing: AtomicU32,
    complete: Notify,
}

/// What streams and writers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What times are counted from.
    origin: Instant,
    /// One for each writer.
    deliveries: Vec<Delivery>,
}

/// The streams, each with its watchers. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Audience {
    pub(crate) shared: Arc<Shared>,
    /// Delays in nanoseconds: from when a change was due to when a stream had it.
    heard: Vec<Arc<Mutex<Histogram<u64>>>>,
    listeners: JoinSet<Result<()>>,
}

impl Shared {
    pub(crate) fn new(writers: u32) -> Arc<Self> {
        let deliveries = (0..writers).map(|_| Delivery::default()).collect();
        Arc::new(Self { origin: Instant::now(), deliveries })
    }

    /// A value of `bytes` bytes that was due at `due`.
    pub(crate) fn value(&self, due: Instant, writer: u32, bytes: usize) -> Bytes {
        let mut value = BytesMut::zeroed(bytes.max(STAMP_BYTES));
        let ns = due.saturating_duration_since(self.origin).as_nanos();
        (&mut value[..]).put_u64(u64::try_from(ns).unwrap_or(u64::MAX));
        (&mut value[8..]).put_u32(writer);
        value.freeze()
    }

    /// The next change of `writer` goes to so many watchers.
    pub(crate) fn expect(&self, writer: u32, watchers: u32) {
        self.deliveries[writer as usize].missing.store(watchers, Ordering::Release);
    }

    /// Waits until it has come to all of them.
    pub(crate) async fn delivered(&self, writer: u32) {
        self.deliveries[writer as usize].complete.notified().await;
    }

    fn heard(&self, value: &[u8], heard: &mut Histogram<u64>) -> Result<()> {
        ensure!(value.len() >= STAMP_BYTES, "a change of {} bytes, which nobody made", value.len());
        let mut stamp = value;
        let due = self.origin + Duration::from_nanos(stamp.get_u64());
        record(heard, due.elapsed());
        let waits = self.deliveries.get(stamp.get_u32() as usize);
        if let Some(delivery) = waits.filter(|delivery| delivery.missing.fetch_sub(1, Ordering::AcqRel) == 1) {
            delivery.complete.notify_one();
        }
        Ok(())
    }
}

impl Audience {
    /// Opens a stream for each list of watchers, over the connections in turn.
    pub(crate) async fn open(
        channels: &[Channel],
        streams: Vec<Vec<WatchCreateRequest>>,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let mut audience = Self { shared: Arc::clone(shared), heard: Vec::new(), listeners: JoinSet::new() };
        let mut opening = JoinSet::new();
        for (number, creates) in streams.into_iter().enumerate() {
            while opening.len() >= OPENING_MAX {
                audience.listen(opening.join_next().await)?;
            }
            let channel = channels[number % channels.len()].clone();
            opening.spawn(async move { Watching::open(&channel, creates).await });
        }
        while !opening.is_empty() {
            audience.listen(opening.join_next().await)?;
        }
        Ok(audience)
    }

    fn listen(&mut self, opened: Option<Result<Result<Watching>, tokio::task::JoinError>>) -> Result<()> {
        let mut watching = opened.context("a stream was being opened")?.context("opening a stream panicked")??;
        let heard = Arc::new(Mutex::new(latencies()));
        self.heard.push(Arc::clone(&heard));
        let shared = Arc::clone(&self.shared);
        self.listeners.spawn(async move {
            loop {
                let answer = watching.next().await?;
                let mut heard = heard.lock().expect("nothing panics under the lock");
                for event in answer.events {
                    shared.heard(&event.kv.context("a change of nothing")?.value, &mut heard)?;
                }
            }
        });
        Ok(())
    }

    /// All delays since it was last asked, once there are `wanted`.
    pub(crate) async fn take(&mut self, wanted: u64) -> Result<Histogram<u64>> {
        let deadline = Instant::now() + DELIVERED_WITHIN;
        while self.count() < wanted {
            if let Some(ended) = self.listeners.try_join_next() {
                ended.context("a listener panicked")??;
            }
            if Instant::now() > deadline {
                bail!("{} of {wanted} changes came within {DELIVERED_WITHIN:?}", self.count());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        let mut sum = latencies();
        for heard in &self.heard {
            let mut heard = heard.lock().expect("nothing panics under the lock");
            sum.add(&*heard).expect("it grows to what it is given");
            heard.clear();
        }
        ensure!(sum.len() == wanted, "{} changes came, and {wanted} were made", sum.len());
        Ok(sum)
    }

    fn count(&self) -> u64 {
        self.heard.iter().map(|heard| heard.lock().expect("nothing panics under the lock").len()).sum()
    }

    /// Ends all watchers.
    pub(crate) async fn close(mut self) {
        self.listeners.shutdown().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_delivered_when_the_last_has_it() {
        let shared = Shared::new(2);
        let (mut heard, due) = (latencies(), Instant::now());
        let value = shared.value(due, 1, 100);
        assert_eq!(value.len(), 100);
        shared.expect(1, 2);
        shared.heard(&value, &mut heard).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), shared.delivered(1)).await.is_err());
        shared.heard(&value, &mut heard).unwrap();
        shared.delivered(1).await;
        shared.heard(&shared.value(due, NOBODY, 0), &mut heard).unwrap();
        assert_eq!(heard.len(), 3);
        assert!(shared.heard(b"short", &mut heard).is_err());
    }
}
