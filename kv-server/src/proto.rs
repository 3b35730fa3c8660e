//! The messages, servers and clients of the etcd v3 API, generated from `proto/` by `build.rs`.
//!
//! One module for each protobuf package. `bytes` fields are [`bytes::Bytes`]: slices of the message
//! they arrived in. Nothing here has behaviour of its own; numbers, names and their casing are the
//! wire contract of etcd v3 and never change.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::cast_possible_truncation, clippy::unwrap_used)]

/// `authpb`: users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// `etcdserverpb`: KV, Watch, Lease, Cluster, Maintenance and Auth.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// `grpc.health.v1`: the health check of gRPC.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// `mvccpb`: keys at a revision, and their changes.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// `v3electionpb`: leader election among clients.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// `v3lockpb`: locks among clients.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

#[cfg(test)]
mod tests {
    use super::etcdserverpb::{self as pb, compare};
    use super::{authpb, mvccpb, v3electionpb, v3lockpb};
    use bytes::Bytes;
    use prost::Message;

    fn check(message: &(impl Message + std::fmt::Debug), encoded: &[u8]) {
        assert_eq!(message.encode_to_vec(), encoded, "{message:?}");
    }

    /// A key byte is the field's number << 3 with its wire type: 0 varint, 2 length and bytes.
    #[test]
    fn fields_have_the_numbers_of_etcd() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let header = Some(pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 });
        check(header.as_ref().expect("set above"), &[0x08, 1, 0x10, 2, 0x18, 3, 0x20, 4]);
        check(
            &mvccpb::KeyValue {
                key: bytes("k"),
                create_revision: 1,
                mod_revision: 2,
                version: 3,
                value: bytes("v"),
                lease: 4,
            },
            &[0x0a, 1, b'k', 0x10, 1, 0x18, 2, 0x20, 3, 0x2a, 1, b'v', 0x30, 4],
        );
        // 64 takes a key of two bytes.
        check(
            &pb::Compare {
                result: compare::CompareResult::NotEqual.into(),
                target: compare::CompareTarget::Lease.into(),
                key: bytes("k"),
                range_end: bytes("e"),
                target_union: Some(compare::TargetUnion::Lease(5)),
            },
            &[0x08, 3, 0x10, 4, 0x1a, 1, b'k', 0x40, 5, 0x82, 0x04, 1, b'e'],
        );
        check(&pb::LeaseGrantRequest { ttl: 1, id: 2 }, &[0x08, 1, 0x10, 2]);
        check(
            &pb::LeaseTimeToLiveResponse {
                id: 1,
                ttl: 2,
                granted_ttl: 3,
                keys: vec![bytes("k")],
                ..Default::default()
            },
            &[0x10, 1, 0x18, 2, 0x20, 3, 0x2a, 1, b'k'],
        );
        check(
            &pb::RangeRequest {
                limit: 1,
                revision: 2,
                sort_order: pb::range_request::SortOrder::Descend.into(),
                sort_target: pb::range_request::SortTarget::Value.into(),
                serializable: true,
                keys_only: true,
                count_only: true,
                max_create_revision: 9,
                ..Default::default()
            },
            &[0x18, 1, 0x20, 2, 0x28, 2, 0x30, 4, 0x38, 1, 0x40, 1, 0x48, 1, 0x68, 9],
        );
        check(
            &pb::WatchResponse { fragment: true, events: vec![mvccpb::Event::default()], ..Default::default() },
            &[0x38, 1, 0x5a, 0],
        );
        check(
            &pb::StatusResponse {
                is_learner: true,
                storage_version: "s".to_owned(),
                db_size_quota: 7,
                downgrade_info: Some(pb::DowngradeInfo::default()),
                ..Default::default()
            },
            &[0x50, 1, 0x5a, 1, b's', 0x60, 7, 0x6a, 0],
        );
        check(
            &pb::Member { id: 1, is_learner: true, client_ur_ls: vec!["u".to_owned()], ..Default::default() },
            &[0x08, 1, 0x22, 1, b'u', 0x28, 1],
        );
        check(
            &authpb::Permission { perm_type: authpb::permission::Type::Readwrite.into(), ..Default::default() },
            &[0x08, 2],
        );
        check(&v3lockpb::LockRequest { name: bytes("n"), lease: 1 }, &[0x0a, 1, b'n', 0x10, 1]);
        check(
            &v3electionpb::ProclaimRequest {
                leader: Some(v3electionpb::LeaderKey { rev: 1, lease: 2, ..Default::default() }),
                value: bytes("v"),
            },
            &[0x0a, 4, 0x18, 1, 0x20, 2, 0x12, 1, b'v'],
        );
    }

    #[test]
    fn values_are_slices_of_the_message() {
        let message = Bytes::from(pb::PutRequest { value: vec![7; 100].into(), ..Default::default() }.encode_to_vec());
        let decoded = pb::PutRequest::decode(message.clone()).expect("it was encoded above");
        assert!(message.as_ptr_range().contains(&decoded.value.as_ptr()), "the value was copied");
    }
}
