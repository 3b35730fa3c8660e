//! A cluster of nodes, as the server sees it: what they write, and what their API servers watch and list.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use kv_server::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::lease_client::LeaseClient;
use kv_server::proto::etcdserverpb::request_op::Request;
use kv_server::proto::etcdserverpb::response_op::Response;
use kv_server::proto::etcdserverpb::{
    CompactionRequest, Compare, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::audience::{Audience, NOBODY, Shared};
use crate::figures::{latencies, record};
use crate::list::list;
use crate::pace::{Pace, Schedule, all};
use crate::target::Running;
use crate::watching::of_range;

/// Connections of the nodes' writes, which in a real cluster go through the API servers.
const CONNECTIONS: u32 = 6;
const API_SERVERS: u32 = 3;
/// Kinds of objects; each API server watches all of them. Three are written.
const KINDS: u32 = 60;
const LEASES: u32 = 0;
const PODS: u32 = 1;
const EVENTS: u32 = 2;
const LEASE_BYTES: usize = 400;
const POD_BYTES: usize = 4 * 1024;
const EVENT_BYTES: usize = 700;
const PODS_PER_NODE: u32 = 4;
/// Events live for an hour and a minute.
const EVENT_SECONDS: i64 = 3_660;
/// Pods of one page of a list.
const PAGE_KEYS: i64 = 500;
/// Requests in flight of each kind.
const CLIENTS: u32 = 64;
/// A node renews its lease, changes a pod and tells of an event in so long; API servers list.
pub(super) const PERIOD: Duration = Duration::from_secs(10);
/// Between two compactions.
const COMPACT_EVERY: Duration = Duration::from_secs(300);

/// What was seen while so many nodes were there.
#[derive(Debug)]
pub(super) struct Seen {
    /// Of the guarded writes, from when each was due.
    pub(super) txns: Histogram<u64>,
    /// From when a write was due to when an API server had its change.
    pub(super) delays: Histogram<u64>,
    /// Writes that were due and never begun.
    pub(super) unsent: u64,
    pub(super) writes_per_second: f64,
    pub(super) cores: f64,
}

/// Nodes, and how much faster than in life their time goes.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    channels: Arc<[Channel]>,
    shared: Arc<Shared>,
    /// The revision at which each node's lease was written last.
    nodes: Arc<[AtomicI64]>,
    speed: u32,
    event_lease: i64,
    /// Writes that changed something.
    changes: Arc<AtomicU64>,
    txns: Arc<Mutex<Histogram<u64>>>,
}

fn key(kind: u32, name: &str) -> Bytes {
    format!("/registry/{kind:02}/{name}").into()
}

impl Cluster {
    /// Stores the objects of so many nodes.
    pub(super) async fn build(server: &Running, nodes: u32, speed: u32) -> Result<Self> {
        let channels: Arc<[Channel]> = server.connect(CONNECTIONS).await?.into();
        let granted = LeaseClient::new(channels[0].clone())
            .lease_grant(LeaseGrantRequest { ttl: EVENT_SECONDS, id: 0 })
            .await
            .context("granting the lease of the events")?;
        let cluster = Self {
            channels,
            shared: Shared::new(0),
            nodes: (0..nodes).map(|_| AtomicI64::new(0)).collect(),
            speed,
            event_lease: granted.into_inner().id,
            changes: Arc::default(),
            txns: Arc::new(Mutex::new(latencies())),
        };
        let (next, mut fillers) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for client in 0..CLIENTS {
            let (cluster, next) = (cluster.clone(), Arc::clone(&next));
            fillers.spawn(async move {
                let mut kv = cluster.kv(client);
                loop {
                    let node = next.fetch_add(1, Ordering::Relaxed);
                    if node >= cluster.nodes.len() {
                        return Ok(());
                    }
                    cluster.renew(&mut kv, node, Instant::now()).await?;
                    for pod in 0..PODS_PER_NODE {
                        cluster.change_pod(&mut kv, node, pod, Instant::now()).await?;
                    }
                }
            });
        }
        all(fillers).await.context("storing the objects")?;
        Ok(cluster)
    }

    fn kv(&self, client: u32) -> KvClient<Channel> {
        KvClient::new(self.channels[client as usize % self.channels.len()].clone())
            .max_decoding_message_size(usize::MAX)
    }

    /// Lets the nodes live for `length`.
    pub(super) async fn live(&self, server: &Running, length: Duration) -> Result<Seen> {
        let api_servers = server.connect(API_SERVERS).await?;
        let watcher = |kind| -> Vec<WatchCreateRequest> {
            let range = of_range(key(kind, ""), format!("/registry/{kind:02}0").into());
            vec![WatchCreateRequest { prev_kv: true, progress_notify: true, ..range }]
        };
        // Streams go over the connections in turn: each kind once to each API server.
        let watchers = (0..KINDS).flat_map(|kind| (0..API_SERVERS).map(move |_| watcher(kind))).collect();
        let mut audience = Audience::open(&api_servers, watchers, &self.shared).await?;
        self.changes.store(0, Ordering::Relaxed);
        self.txns.lock().expect("nothing panics under the lock").clear();
        let mut around = JoinSet::new();
        for channel in api_servers {
            let cluster = self.clone();
            around.spawn(async move { cluster.list_for_ever(channel).await });
        }
        let cluster = self.clone();
        around.spawn(async move { cluster.compact_for_ever().await });

        let (before, start) = (server.counters()?, Instant::now());
        let nodes = u64::try_from(self.nodes.len()).context("too many nodes")?;
        let rate =
            u32::try_from((nodes * u64::from(self.speed)).div_ceil(PERIOD.as_secs())).context("too many nodes")?;
        let (mut writers, mut schedules) = (JoinSet::new(), Vec::new());
        for kind in [LEASES, PODS, EVENTS] {
            let schedule = Schedule::begin(start, length, rate);
            schedules.push(Arc::clone(&schedule));
            let (pace, next) = (Pace::Open(schedule, start + length * 3 / 2), Arc::new(AtomicUsize::new(0)));
            for client in 0..CLIENTS {
                let (cluster, pace, next) = (self.clone(), pace.clone(), Arc::clone(&next));
                writers.spawn(async move { cluster.write(kind, client, &pace, &next).await });
            }
        }
        all(writers).await?;
        let changes = self.changes.load(Ordering::Relaxed);
        let (after, elapsed) = (server.counters()?, start.elapsed().as_secs_f64());
        if let Some(ended) = around.try_join_next() {
            ended.context("an API server panicked")??;
        }
        around.shutdown().await;
        let delays = audience.take(changes * u64::from(API_SERVERS)).await?;
        audience.close().await;
        let txns = self.txns.lock().expect("nothing panics under the lock").clone();
        Ok(Seen {
            txns,
            delays,
            unsent: schedules.iter().map(|schedule| schedule.unsent()).sum(),
            writes_per_second: changes as f64 / elapsed,
            cores: after.cpu.saturating_sub(before.cpu).as_secs_f64() / elapsed,
        })
    }

    async fn write(&self, kind: u32, client: u32, pace: &Pace, next: &AtomicUsize) -> Result<()> {
        let mut kv = self.kv(client);
        while let Some(due) = pace.next().await {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let (node, round) = (turn % self.nodes.len(), turn / self.nodes.len());
            let round = u32::try_from(round).context("a run lasts minutes")?;
            match kind {
                LEASES => self.renew(&mut kv, node, due).await?,
                PODS => self.change_pod(&mut kv, node, round % PODS_PER_NODE, due).await?,
                _ => {
                    let value = self.shared.value(due, NOBODY, EVENT_BYTES);
                    let key = key(EVENTS, &format!("{node:06}.{}", fastrand::u64(..)));
                    self.put(&mut kv, PutRequest { key, value, lease: self.event_lease, ..Default::default() }).await?;
                }
            }
        }
        Ok(())
    }

    async fn put(&self, kv: &mut KvClient<Channel>, put: PutRequest) -> Result<()> {
        kv.put(put).await.context("a put failed")?;
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn change_pod(&self, kv: &mut KvClient<Channel>, node: usize, pod: u32, due: Instant) -> Result<()> {
        let value = self.shared.value(due, NOBODY, POD_BYTES);
        self.put(kv, PutRequest { key: key(PODS, &format!("{node:06}-{pod}")), value, ..Default::default() }).await
    }

    /// Writes a node's lease if nobody else has since; otherwise learns who did.
    async fn renew(&self, kv: &mut KvClient<Channel>, node: usize, due: Instant) -> Result<()> {
        let key = key(LEASES, &format!("{node:06}"));
        let known = self.nodes[node].load(Ordering::Relaxed);
        let put =
            PutRequest { key: key.clone(), value: self.shared.value(due, NOBODY, LEASE_BYTES), ..Default::default() };
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(known)),
            ..Default::default()
        };
        let operation = |request| vec![RequestOp { request: Some(request) }];
        let txn = TxnRequest {
            compare: vec![compare],
            success: operation(Request::RequestPut(put)),
            failure: operation(Request::RequestRange(RangeRequest { key, ..Default::default() })),
        };
        let answer = kv.txn(txn).await.context("a guarded put failed")?.into_inner();
        record(&mut self.txns.lock().expect("nothing panics under the lock"), due.elapsed());
        let revision = if answer.succeeded {
            self.changes.fetch_add(1, Ordering::Relaxed);
            answer.header.context("an answer without a header")?.revision
        } else {
            let found = answer.responses.into_iter().next().and_then(|answer| answer.response);
            let Some(Response::ResponseRange(range)) = found else { anyhow::bail!("no answer to the other get") };
            range.kvs.first().map_or(0, |pair| pair.mod_revision)
        };
        self.nodes[node].store(revision, Ordering::Relaxed);
        Ok(())
    }

    /// What an API server lists: all leases at once, all pods in pages.
    async fn list_for_ever(&self, channel: Channel) -> Result<()> {
        let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let mut due = tokio::time::interval(PERIOD / self.speed);
        loop {
            due.tick().await;
            let leases = RangeRequest {
                key: key(LEASES, ""),
                range_end: format!("/registry/{LEASES:02}0").into(),
                ..Default::default()
            };
            list(&channel, leases).await?;
            let (mut from, end) = (key(PODS, ""), Bytes::from(format!("/registry/{PODS:02}0")));
            loop {
                let page = RangeRequest { key: from, range_end: end.clone(), limit: PAGE_KEYS, ..Default::default() };
                let page = kv.range(page).await.context("a page failed")?.into_inner();
                let last = page.kvs.last().context("an empty page")?;
                if !page.more {
                    break;
                }
                // The first key after the last.
                from = [&last.key[..], &[0]].concat().into();
            }
        }
    }

    async fn compact_for_ever(&self) -> Result<()> {
        let mut kv = self.kv(0);
        let every = COMPACT_EVERY / self.speed;
        let mut due = tokio::time::interval_at(tokio::time::Instant::now() + every / 2, every);
        loop {
            due.tick().await;
            let now = kv.range(RangeRequest { key: "none".into(), ..Default::default() }).await?.into_inner();
            let revision = now.header.context("an answer without a header")?.revision;
            let compacted = kv.compact(CompactionRequest { revision, physical: false }).await;
            ensure!(compacted.is_ok(), "a compaction failed: {compacted:?}");
        }
    }
}
