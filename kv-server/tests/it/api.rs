//! Every method of etcd is answered: by what it does, or by a status that names it.

use tonic::Code;

use crate::harness::{Clients, Served, call, framed};

const PROTOS: [&str; 4] = [
    include_str!("../../proto/etcdserverpb.proto"),
    include_str!("../../proto/v3lockpb.proto"),
    include_str!("../../proto/v3electionpb.proto"),
    include_str!("../../proto/health.proto"),
];

/// What this version does. The rest says that it does not.
pub(crate) const IMPLEMENTED: [&str; 34] = [
    "etcdserverpb.Cluster/MemberAdd",
    "etcdserverpb.Cluster/MemberList",
    "etcdserverpb.Cluster/MemberPromote",
    "etcdserverpb.Cluster/MemberRemove",
    "etcdserverpb.Cluster/MemberUpdate",
    "etcdserverpb.KV/Compact",
    "etcdserverpb.KV/DeleteRange",
    "etcdserverpb.KV/Put",
    "etcdserverpb.KV/Range",
    "etcdserverpb.KV/RangeStream",
    "etcdserverpb.KV/Txn",
    "etcdserverpb.Lease/LeaseGrant",
    "etcdserverpb.Lease/LeaseKeepAlive",
    "etcdserverpb.Lease/LeaseLeases",
    "etcdserverpb.Lease/LeaseRevoke",
    "etcdserverpb.Lease/LeaseTimeToLive",
    "etcdserverpb.Maintenance/Alarm",
    "etcdserverpb.Maintenance/Defragment",
    "etcdserverpb.Maintenance/Downgrade",
    "etcdserverpb.Maintenance/Hash",
    "etcdserverpb.Maintenance/HashKV",
    "etcdserverpb.Maintenance/MoveLeader",
    "etcdserverpb.Maintenance/Snapshot",
    "etcdserverpb.Maintenance/Status",
    "etcdserverpb.Watch/Watch",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "v3electionpb.Election/Campaign",
    "v3electionpb.Election/Leader",
    "v3electionpb.Election/Observe",
    "v3electionpb.Election/Proclaim",
    "v3electionpb.Election/Resign",
    "v3lockpb.Lock/Lock",
    "v3lockpb.Lock/Unlock",
];

/// The full name of every method in the `.proto` files.
fn methods() -> Vec<String> {
    let mut methods = Vec::new();
    for proto in PROTOS {
        let (mut package, mut service) = ("", "");
        for line in proto.lines().map(str::trim) {
            let after =
                |word: &str| line.strip_prefix(word).map(|rest| rest.split([' ', ';', '(', '{']).next().unwrap());
            package = after("package ").unwrap_or(package);
            service = after("service ").unwrap_or(service);
            methods.extend(after("rpc ").map(|method| format!("{package}.{service}/{method}")));
        }
    }
    methods
}

#[tokio::test]
async fn a_method_that_is_not_there_is_named() {
    let served = Served::start(&[]).await;
    let clients = Clients::connect(served.address).await;
    let methods = methods();
    assert!(methods.len() > 50, "{methods:?}");
    for method in &IMPLEMENTED {
        assert!(methods.iter().any(|known| known == method), "{method}");
    }
    for method in methods.iter().filter(|method| !IMPLEMENTED.contains(&method.as_str())) {
        let status = call(&clients.channel, &format!("/{method}"), framed(&[])).await;
        assert_eq!(status.code(), Code::Unimplemented, "{method}");
        assert_eq!(status.message(), format!("etcdserver: {method} is not available in this version"));
    }
    drop(clients);
    served.stop().await;
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_unimplemented() {
    let served = Served::start(&[]).await;
    let clients = Clients::connect(served.address).await;
    for path in ["/etcdserverpb.KV/Nonsense", "/etcdserverpb.Nonsense/Range", "/x", "/"] {
        let status = call(&clients.channel, path, framed(&[])).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    drop(clients);
    served.stop().await;
}
