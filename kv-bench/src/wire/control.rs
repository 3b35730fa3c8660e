//! The control: a gRPC server with nothing behind it but a map under a mutex.
//!
//! It keeps nothing on disk, has no revisions and no log. What it costs is the price of the transport and of the
//! client: no server on tonic can be much faster, and a figure of ours is to be read beside it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result};
use bytes::Bytes;
use kv_server::proto::etcdserverpb::kv_server::{Kv, KvServer};
use kv_server::proto::etcdserverpb::request_op::Request as Op;
use kv_server::proto::etcdserverpb::response_op::Response as Done;
use kv_server::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use kv_server::proto::mvccpb::KeyValue;
use tonic::{Request, Response, Status, Streaming};

/// Where the control listens.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlOptions {
    /// The address to serve on, as `127.0.0.1:PORT`.
    #[arg(long)]
    pub listen: SocketAddr,
}

/// Serves Range, Put and transactions of puts until the process ends.
///
/// # Errors
/// When it cannot listen on the address.
pub async fn control(options: ControlOptions) -> Result<()> {
    let listen = options.listen;
    // tonic's own error for a port in use is the word "transport error" alone.
    let socket = std::net::TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    drop(socket);
    let server = tonic::transport::Server::builder().add_service(KvServer::new(Control::default()));
    server.serve(listen).await.with_context(|| format!("serving on {listen}"))
}

#[derive(Debug, Default)]
struct Control {
    map: Mutex<BTreeMap<Bytes, Bytes>>,
}

impl Control {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.map.lock().expect("nothing panics under the lock")
    }

    fn found(&self, request: &RangeRequest) -> Vec<KeyValue> {
        let pair = |(key, value): (&Bytes, &Bytes)| KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            lease: 0,
        };
        let map = self.map();
        if request.range_end.is_empty() {
            return map.get_key_value(&request.key).map(pair).into_iter().collect();
        }
        // An inverted range would panic in the map.
        if request.key >= request.range_end {
            return Vec::new();
        }
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let bounds: (Bound<&Bytes>, Bound<&Bytes>) =
            (Bound::Included(&request.key), Bound::Excluded(&request.range_end));
        map.range::<Bytes, _>(bounds).take(limit).map(pair).collect()
    }
}

/// As large on the wire as a real server's.
fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: u64::MAX, member_id: u64::MAX, revision: 2, raft_term: 2 })
}

#[tonic::async_trait]
impl Kv for Control {
    type RangeStreamStream = Streaming<RangeStreamResponse>;

    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let kvs = self.found(request.get_ref());
        let count = i64::try_from(kvs.len()).map_err(|_| Status::internal("too many keys"))?;
        Ok(Response::new(RangeResponse { header: header(), kvs, more: false, count }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let PutRequest { key, value, .. } = request.into_inner();
        self.map().insert(key, value);
        Ok(Response::new(PutResponse { header: header(), prev_kv: None }))
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(not_here())
    }

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(not_here())
    }

    /// Without revisions there is nothing to compare: every transaction succeeds, and its puts are done.
    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let mut responses = Vec::new();
        for RequestOp { request } in request.into_inner().success {
            let Some(Op::RequestPut(PutRequest { key, value, .. })) = request else { return Err(not_here()) };
            self.map().insert(key, value);
            let done =
                ResponseOp { response: Some(Done::ResponsePut(PutResponse { header: header(), prev_kv: None })) };
            responses.push(done);
        }
        Ok(Response::new(TxnResponse { header: header(), succeeded: true, responses }))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Err(not_here())
    }
}

fn not_here() -> Status {
    Status::unimplemented("the control has Range, Put and transactions of puts only")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_what_was_put() {
        let control = Control::default();
        for key in ["a", "b", "c", "d"] {
            control.map().insert(key.into(), "v".into());
        }
        let keys = |key: &'static str, range_end: &'static str, limit: i64| -> Vec<Bytes> {
            let request =
                RangeRequest { key: key.into(), range_end: range_end.into(), limit, ..RangeRequest::default() };
            control.found(&request).into_iter().map(|pair| pair.key).collect()
        };
        assert_eq!(keys("b", "", 0), ["b"]);
        assert_eq!(keys("x", "", 0), [""; 0]);
        assert_eq!(keys("b", "d", 0), ["b", "c"]);
        assert_eq!(keys("a", "e", 3), ["a", "b", "c"]);
        assert_eq!(keys("d", "a", 0), [""; 0]);
    }
}
