//! A small put, or a get of it, at regular intervals, and how long each took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::task::JoinSet;
use tonic::Status;

use crate::figures::{latencies, record};
use crate::target::Running;

/// Sorts behind every key of the store.
const KEY: &str = "pulse";

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    Puts,
    /// A put and a get in turn.
    PutsAndGets,
}

/// How long operations took, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) puts: Histogram<u64>,
    pub(crate) gets: Histogram<u64>,
}

impl Times {
    fn add(&mut self, (get, took): (bool, Duration)) {
        record(if get { &mut self.gets } else { &mut self.puts }, took);
    }
}

/// Small operations on a schedule, on a thread and a connection of their own: what the other clients are busy with holds none of them up.
pub(crate) struct Pulse {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Times>>,
}

impl Pulse {
    pub(crate) fn start(server: &Running, beat: Beat, every: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, endpoint) = (Arc::clone(&stop), server.endpoint());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let beats = async move {
            let kv = KvClient::new(endpoint.connect().await.context("connecting to the server")?);
            let (mut puts, mut times) = (JoinSet::new(), Times { puts: latencies(), gets: latencies() });
            let (mut due, mut get) = (Instant::now(), false);
            while !stopped.load(Ordering::Relaxed) {
                tokio::time::sleep_until(due.into()).await;
                let mut kv = kv.clone();
                // Its latency counts from when it was due: a stall shows in every put that it held up.
                puts.spawn(async move {
                    if get {
                        kv.range(RangeRequest { key: KEY.into(), ..Default::default() }).await.map(drop)?;
                    } else {
                        let put = PutRequest { key: KEY.into(), value: "beat".into(), ..Default::default() };
                        kv.put(put).await.map(drop)?;
                    }
                    Ok::<_, Status>((get, due.elapsed()))
                });
                get = beat == Beat::PutsAndGets && !get;
                due += every;
                while let Some(done) = puts.try_join_next() {
                    times.add(done.context("the pulse panicked")?.context("an operation of the pulse failed")?);
                }
            }
            while let Some(done) = puts.join_next().await {
                times.add(done.context("the pulse panicked")?.context("an operation of the pulse failed")?);
            }
            Ok(times)
        };
        let thread = std::thread::spawn(move || runtime.block_on(beats));
        Ok(Self { stop, thread })
    }

    /// How long its operations took.
    pub(crate) fn stop(self) -> Result<Times> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the pulse panicked"))?
    }
}
