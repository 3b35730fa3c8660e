//! The operations whose costs are counted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kv_server::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::request_op::Request;
use kv_server::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Keys that are there before anything is counted.
const KEYS: u64 = 1_000;
const VALUE_BYTES: usize = 256;
/// Kubernetes' usual object, or so.
const OBJECT_BYTES: usize = 400;
/// Between two operations: every thread of the server sleeps again by then.
const PAUSE: Duration = Duration::from_millis(1);

/// One kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Range,
    /// A put if the key is as it was last seen, else a get of it: how Kubernetes writes.
    Guarded,
}

impl Operation {
    pub(super) const ALL: [Self; 3] = [Self::Put, Self::Range, Self::Guarded];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Range => "range",
            Self::Guarded => "guarded",
        }
    }
}

/// A client that does one operation after the other.
pub(super) struct Caller {
    client: KvClient<Channel>,
    /// The revision of the key that is guarded.
    revision: i64,
    done: u64,
}

impl Caller {
    /// Stores the keys.
    pub(super) async fn new(channel: Channel) -> Result<Self> {
        let mut caller = Self { client: KvClient::new(channel), revision: 0, done: 0 };
        for number in 0..KEYS {
            caller.put(key(number), VALUE_BYTES).await?;
        }
        caller.revision = caller.put("guarded".into(), OBJECT_BYTES).await?;
        Ok(caller)
    }

    /// Does an operation `times` times, with a pause after each.
    pub(super) async fn call(&mut self, operation: Operation, times: u64) -> Result<()> {
        for _ in 0..times {
            self.done += 1;
            let key = key(self.done * 7 % KEYS);
            match operation {
                Operation::Put => drop(self.put(key, VALUE_BYTES).await?),
                Operation::Range => {
                    let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
                    let found = self.client.range(request).await.context("a range failed")?.into_inner();
                    ensure!(found.kvs.len() == 1, "a range of one key found {}", found.kvs.len());
                }
                Operation::Guarded => self.guarded().await?,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// So many puts at once.
    pub(super) async fn puts_at_once(&self, puts: u64) -> Result<()> {
        let mut calls = JoinSet::new();
        for number in 0..puts {
            let mut client = self.client.clone();
            let put = PutRequest { key: key(number).into(), value: value(VALUE_BYTES), ..PutRequest::default() };
            calls.spawn(async move { client.put(put).await });
        }
        while let Some(done) = calls.join_next().await {
            done.context("a put panicked")?.context("a put failed")?;
        }
        Ok(())
    }

    async fn put(&mut self, key: String, bytes: usize) -> Result<i64> {
        let request = PutRequest { key: key.into(), value: value(bytes), ..PutRequest::default() };
        let answer = self.client.put(request).await.context("a put failed")?.into_inner();
        Ok(answer.header.context("an answer without a header")?.revision)
    }

    async fn guarded(&mut self) -> Result<()> {
        let request = guarded_put("guarded".into(), self.revision, value(OBJECT_BYTES));
        let answer = self.client.txn(request).await.context("a transaction failed")?.into_inner();
        ensure!(answer.succeeded, "nobody else writes the guarded key");
        self.revision = answer.header.context("an answer without a header")?.revision;
        Ok(())
    }
}

fn key(number: u64) -> String {
    format!("budget/{number:06}")
}

fn value(bytes: usize) -> bytes::Bytes {
    vec![b'v'; bytes].into()
}

/// Puts `key` if its last change was at `revision`, else gets it.
pub(crate) fn guarded_put(key: bytes::Bytes, revision: i64, value: bytes::Bytes) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Compare::default()
    };
    let put = Request::RequestPut(PutRequest { key: key.clone(), value, ..PutRequest::default() });
    let get = Request::RequestRange(RangeRequest { key, ..RangeRequest::default() });
    let only = |request| vec![RequestOp { request: Some(request) }];
    TxnRequest { compare: vec![compare], success: only(put), failure: only(get) }
}
