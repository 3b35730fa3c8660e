//! The gRPC skin: generated services on one side, [`Core`] on the other. Thin on purpose, the only place that knows tonic.

mod cluster;
mod direct;
mod election;
mod gate;
mod health;
mod kv;
mod leader;
mod lease;
mod lock;
mod maintenance;
mod nested;
mod oversize;
mod streamed;
mod watch;
pub(crate) mod watch_frame;
pub(crate) mod watching;

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::watch::Receiver;
use tonic::service::Routes;
use tonic::{Response, Status};

use direct::Direct;
use gate::Gate;
use oversize::Oversize;
use watch::WatchServer;

use crate::metrics::Metrics;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;
use crate::service::Core;
use crate::status::ApiError;

/// What a message may hold beside the request itself (etcd's 512 KiB).
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// One service of the API.
#[derive(Debug, Clone)]
struct Api {
    core: Arc<Core>,
    /// Changes when the server stops: streams that would go on for ever end then.
    stop: Receiver<()>,
    /// By method; looked up here, an answered call takes no lock of the registry's.
    counters: Arc<BTreeMap<&'static str, Counters>>,
}

/// What is counted of a method.
#[derive(Debug)]
struct Counters {
    started: IntCounter,
    ok: IntCounter,
}

/// The unary methods, by service.
const METHODS: [(&str, &[&str]); 6] = [
    ("etcdserverpb.KV", &["Range", "Put", "DeleteRange", "Txn", "Compact"]),
    ("etcdserverpb.Maintenance", &["Status", "Hash", "HashKV", "Alarm", "Defragment", "MoveLeader", "Downgrade"]),
    ("etcdserverpb.Cluster", &["MemberList", "MemberAdd", "MemberRemove", "MemberUpdate", "MemberPromote"]),
    ("etcdserverpb.Lease", &["LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases"]),
    ("v3lockpb.Lock", &["Lock", "Unlock"]),
    ("v3electionpb.Election", &["Campaign", "Proclaim", "Leader", "Resign"]),
];

fn counters(metrics: &Metrics) -> BTreeMap<&'static str, Counters> {
    let all = METHODS.iter().flat_map(|(service, methods)| methods.iter().map(move |method| (*service, *method)));
    let counters = all.map(|(service, method)| {
        let started = metrics.grpc_started.with_label_values(&[method, service, "unary"]);
        let ok = metrics.grpc_handled.with_label_values(&["OK", method, service, "unary"]);
        (method, Counters { started, ok })
    });
    counters.collect()
}

/// The longest message that is read.
pub(crate) fn message_bytes_max(core: &Core) -> usize {
    core.limits.request_bytes_max.saturating_add(MESSAGE_OVERHEAD_BYTES)
}

/// All services, ready to be served.
pub(crate) fn routes(core: &Arc<Core>, stop: &Receiver<()>) -> axum::Router {
    let api = Api { core: Arc::clone(core), stop: stop.clone(), counters: Arc::new(counters(&core.metrics)) };
    let receive = message_bytes_max(core);
    // gRPC's own limit of 2 GiB is all that bounds an answer.
    let send = usize::MAX;
    let kv = KvServer::new(api.clone()).max_decoding_message_size(receive).max_encoding_message_size(send);
    let maintenance =
        MaintenanceServer::new(api.clone()).max_decoding_message_size(receive).max_encoding_message_size(send);
    let cluster = ClusterServer::new(api.clone()).max_decoding_message_size(receive).max_encoding_message_size(send);
    let kv = Direct { api: api.clone(), receive_bytes_max: receive, others: Oversize::new(kv) };
    let lease = LeaseServer::new(api.clone()).max_decoding_message_size(receive).max_encoding_message_size(send);
    let lock = LockServer::new(api.clone()).max_decoding_message_size(receive);
    let election = ElectionServer::new(api.clone()).max_decoding_message_size(receive).max_encoding_message_size(send);
    let watch = WatchServer { api: api.clone(), receive_max: receive };
    let mut routes = Routes::builder();
    routes
        .add_service(kv)
        .add_service(Oversize::new(maintenance))
        .add_service(Oversize::new(cluster))
        .add_service(Oversize::new(watch))
        .add_service(Oversize::new(lease))
        .add_service(Oversize::new(lock))
        .add_service(Oversize::new(election))
        .add_service(HealthServer::new(api));
    // What no service knows is answered by the HTTP side.
    routes.routes().into_axum_router().reset_fallback().layer(Gate(Arc::clone(core)))
}

impl Api {
    /// Gives up a call that may wait for ever when the server stops.
    async fn until_stopped<T>(&self, call: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        until_stopped(self.stop.clone(), call).await
    }

    /// Counts a unary call and turns its outcome into what tonic sends.
    async fn unary<T>(
        &self,
        service: &'static str,
        method: &'static str,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<Response<T>, Status> {
        self.counted(service, method, async { call.await.map(Response::new).map_err(Status::from) }).await
    }

    /// Counts a unary call, begun and ended.
    async fn counted<T>(
        &self,
        service: &'static str,
        method: &'static str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let counters = self.counters.get(method).expect("every method is in METHODS");
        counters.started.inc();
        let outcome = call.await;
        match &outcome {
            Ok(_) => counters.ok.inc(),
            Err(status) => {
                let labels = [code_name(status.code()), method, service, "unary"];
                self.core.metrics.grpc_handled.with_label_values(&labels).inc();
            }
        }
        outcome
    }
}

/// Gives up a call that may wait for ever when the server stops.
pub(crate) async fn until_stopped<T>(
    mut stop: Receiver<()>,
    call: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    tokio::select! {
        done = call => done,
        _ = stop.changed() => Err(ApiError::Stopped),
    }
}

/// gRPC's name of a code, as etcd's metrics carry it.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
