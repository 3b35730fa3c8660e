//! The same requests to this server and to etcd, whole answers compared.
//!
//! `etcd-3.5.1.transcript` holds requests and what etcd 3.5.1 answered; this server is asked the same, from an empty store. Ids and
//! terms are left out: they are each cluster's own. To record it anew, start an empty etcd and run
//! `KV_ETCD=http://127.0.0.1:2379 cargo test -p kv-server --test it -- --ignored record`; `KV_REQUESTS` and `KV_SEED` choose others,
//! `KV_TRANSCRIPT` another file, which the comparison then reads as well.

use std::path::PathBuf;

use fastrand::Rng;
use kv_server::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::request_op::Request as OpRequest;
use kv_server::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
};
use prost::Message;
use tonic::transport::Channel;

use crate::harness::Served;

/// One call.
#[derive(Debug, Clone, PartialEq)]
enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
}

impl Request {
    fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Range(request) => (0, request.encode_to_vec()),
            Self::Put(request) => (1, request.encode_to_vec()),
            Self::Delete(request) => (2, request.encode_to_vec()),
            Self::Txn(request) => (3, request.encode_to_vec()),
            Self::Compact(request) => (4, request.encode_to_vec()),
        }
    }

    fn decode(kind: u8, bytes: &[u8]) -> Self {
        match kind {
            0 => Self::Range(RangeRequest::decode(bytes).unwrap()),
            1 => Self::Put(PutRequest::decode(bytes).unwrap()),
            2 => Self::Delete(DeleteRangeRequest::decode(bytes).unwrap()),
            3 => Self::Txn(TxnRequest::decode(bytes).unwrap()),
            _ => Self::Compact(CompactionRequest::decode(bytes).unwrap()),
        }
    }

    /// The answer without ids and term, or the error's code and text.
    async fn ask(&self, client: &mut KvClient<Channel>) -> Result<Vec<u8>, (i32, String)> {
        macro_rules! answer {
            ($call:expr) => {{
                let mut answer = $call.await.map_err(|status| (status.code() as i32, status.message().to_owned()))?;
                answer.get_mut().header = answer.get_ref().header.as_ref().map(neutral);
                Ok(answer.into_inner().encode_to_vec())
            }};
        }
        match self.clone() {
            Self::Range(request) => answer!(client.range(request)),
            Self::Put(request) => answer!(client.put(request)),
            Self::Delete(request) => answer!(client.delete_range(request)),
            Self::Txn(request) => answer!(client.txn(request)),
            Self::Compact(request) => answer!(client.compact(request)),
        }
    }
}

fn neutral(header: &ResponseHeader) -> ResponseHeader {
    ResponseHeader { revision: header.revision, ..ResponseHeader::default() }
}

/// Draws requests over few keys, so that they meet.
struct Draw {
    rng: Rng,
    /// About how far the revision has come, for historical reads and compactions.
    revision: i64,
}

impl Draw {
    fn key(&mut self) -> Vec<u8> {
        match self.rng.u8(0..40) {
            0 => Vec::new(),
            1 => vec![0],
            2 => vec![0xff; 3],
            _ => format!("k{}", self.rng.u8(0..12)).into_bytes(),
        }
    }

    fn range_end(&mut self) -> Vec<u8> {
        match self.rng.u8(0..10) {
            0..5 => Vec::new(),
            5 => vec![0],
            6 => b"l".to_vec(),
            _ => self.key(),
        }
    }

    fn old_revision(&mut self) -> i64 {
        match self.rng.u8(0..12) {
            0 => -1,
            1 => self.revision + 100,
            2..5 => self.rng.i64(1..=self.revision),
            5 => (self.revision - 3).max(1),
            _ => 0,
        }
    }

    fn range(&mut self) -> RangeRequest {
        let rng = &mut self.rng;
        let bound = |rng: &mut Rng, revision| if rng.u8(0..10) == 0 { rng.i64(0..=revision) } else { 0 };
        // By other targets equal elements come in any order, so those are the store's model's.
        let sort_order = if rng.u8(0..3) == 0 { rng.i32(0..3) } else { 0 };
        let rng = &mut self.rng;
        RangeRequest {
            limit: if rng.bool() { 0 } else { rng.i64(-1..6) },
            sort_order,
            sort_target: 0,
            serializable: rng.u8(0..5) == 0,
            keys_only: rng.u8(0..8) == 0,
            count_only: rng.u8(0..8) == 0,
            min_mod_revision: bound(rng, self.revision),
            max_mod_revision: bound(rng, self.revision),
            min_create_revision: bound(rng, self.revision),
            max_create_revision: bound(rng, self.revision),
            key: self.key().into(),
            range_end: self.range_end().into(),
            revision: self.old_revision(),
        }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.rng.u8(0..12) == 0;
        let value = if ignore_value && self.rng.u8(0..4) > 0 { Vec::new() } else { vec![b'v'; self.rng.usize(0..20)] };
        PutRequest {
            key: self.key().into(),
            value: value.into(),
            lease: if self.rng.u8(0..20) == 0 { 77 } else { 0 },
            prev_kv: self.rng.bool(),
            ignore_value,
            ignore_lease: self.rng.u8(0..12) == 0,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        // Everything at once only now and then, or there is never much to see.
        let range_end = if self.rng.u8(0..8) == 0 { self.range_end() } else { Vec::new() };
        DeleteRangeRequest { key: self.key().into(), range_end: range_end.into(), prev_kv: self.rng.bool() }
    }

    fn compare(&mut self) -> Compare {
        let number = if self.rng.bool() { self.rng.i64(0..4) } else { self.rng.i64(0..=self.revision) };
        let (target, union) = match self.rng.u8(0..5) {
            0 => (CompareTarget::Version, TargetUnion::Version(number)),
            1 => (CompareTarget::Create, TargetUnion::CreateRevision(number)),
            2 => (CompareTarget::Mod, TargetUnion::ModRevision(number)),
            3 => (CompareTarget::Value, TargetUnion::Value(vec![b'v'; self.rng.usize(0..20)].into())),
            _ => (CompareTarget::Lease, TargetUnion::Lease(number)),
        };
        let results = [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        Compare {
            result: results[self.rng.usize(0..4)].into(),
            target: target.into(),
            target_union: (self.rng.u8(0..20) > 0).then_some(union),
            key: self.key().into(),
            range_end: if self.rng.u8(0..5) == 0 { self.range_end() } else { Vec::new() }.into(),
        }
    }

    fn ops(&mut self, depth: u8) -> Vec<RequestOp> {
        let count = self.rng.usize(0..4);
        let op = |draw: &mut Self| match draw.rng.u8(0..10) {
            0..4 => Some(OpRequest::RequestRange(draw.range())),
            4..7 => Some(OpRequest::RequestPut(draw.put())),
            7..9 => Some(OpRequest::RequestDeleteRange(draw.delete())),
            _ if depth > 0 => Some(OpRequest::RequestTxn(draw.txn(depth - 1))),
            _ => (draw.rng.u8(0..4) > 0).then(|| OpRequest::RequestRange(draw.range())),
        };
        (0..count).map(|_| RequestOp { request: op(self) }).collect()
    }

    fn txn(&mut self, depth: u8) -> TxnRequest {
        let compares = self.rng.usize(0..3);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.ops(depth),
            failure: self.ops(depth),
        }
    }

    fn request(&mut self) -> Request {
        self.revision += 1;
        match self.rng.u8(0..100) {
            0..30 => Request::Range(self.range()),
            30..60 => Request::Put(self.put()),
            60..67 => Request::Delete(self.delete()),
            67..99 => Request::Txn(self.txn(2)),
            _ => {
                let revision = if self.rng.u8(0..4) == 0 { self.old_revision() } else { self.revision / 2 };
                Request::Compact(CompactionRequest { revision, physical: self.rng.bool() })
            }
        }
    }
}

fn transcript() -> PathBuf {
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/etcd-3.5.1.transcript");
    std::env::var_os("KV_TRANSCRIPT").map_or_else(|| recorded.into(), PathBuf::from)
}

/// One exchange: kind, request, then 0 and the answer, or code and text; lengths as u32, little-endian.
fn put_part(out: &mut Vec<u8>, part: &[u8]) {
    out.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
    out.extend_from_slice(part);
}

fn part<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (length, after) = rest.split_first_chunk::<4>().unwrap();
    let (part, after) = after.split_at(u32::from_le_bytes(*length) as usize);
    *rest = after;
    part
}

fn byte(rest: &mut &[u8]) -> u8 {
    let (first, after) = rest.split_first().unwrap();
    *rest = after;
    *first
}

#[tokio::test]
#[ignore = "records what a live etcd answers"]
async fn record() {
    let endpoint = std::env::var("KV_ETCD").expect("KV_ETCD names an empty etcd");
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let mut client = KvClient::connect(endpoint).await.unwrap();
    let mut draw = Draw { rng: Rng::with_seed(number("KV_SEED", 1)), revision: 1 };
    let mut out = Vec::new();
    for _ in 0..number("KV_REQUESTS", 2_500) {
        let request = draw.request();
        let (kind, bytes) = request.encode();
        out.push(kind);
        put_part(&mut out, &bytes);
        match request.ask(&mut client).await {
            Ok(answer) => {
                out.push(0);
                put_part(&mut out, &answer);
            }
            Err((code, text)) => {
                out.push(u8::try_from(code).unwrap());
                put_part(&mut out, text.as_bytes());
            }
        }
    }
    std::fs::write(transcript(), out).unwrap();
}

#[tokio::test]
async fn answers_are_etcds() {
    let recorded = std::fs::read(transcript()).unwrap();
    let server = Served::start(&[]).await;
    let mut client = KvClient::connect(format!("http://{}", server.address)).await.unwrap();
    let (mut rest, mut number) = (&recorded[..], 0);
    while !rest.is_empty() {
        let kind = byte(&mut rest);
        let request = Request::decode(kind, part(&mut rest));
        let expected = match byte(&mut rest) {
            0 => Ok(part(&mut rest).to_vec()),
            code => Err((i32::from(code), String::from_utf8(part(&mut rest).to_vec()).unwrap())),
        };
        let answer = request.ask(&mut client).await;
        assert_eq!(answer, expected, "request {number}: {request:#?}");
        number += 1;
    }
    assert!(number >= 1_000, "the transcript has only {number} requests");
    drop(client);
    server.stop().await;
}
