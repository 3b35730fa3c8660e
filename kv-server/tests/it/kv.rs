//! KV: put, range, delete, and the words of refusal.

use bytes::Bytes;
use kv_server::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kv_server::proto::etcdserverpb::{DeleteRangeRequest, MemberListRequest, PutRequest, RangeRequest, StatusRequest};
use tonic::Code;

use crate::harness::{Clients, Served, check_refused, get, keys, prefix, revision};

#[tokio::test]
async fn a_put_is_read_back_with_its_history() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    assert_eq!(revision(clients.range(get("k")).await.header), 1, "an empty store is at revision 1");

    assert_eq!(clients.put("k", "first").await, 2);
    let put = PutRequest { key: "k".into(), value: "second".into(), prev_kv: true, ..Default::default() };
    let replaced = clients.kv.put(put).await.unwrap().into_inner();
    assert_eq!(revision(replaced.header), 3);
    let prev = replaced.prev_kv.expect("it was asked for");
    assert_eq!((&prev.value[..], prev.version, prev.mod_revision), (&b"first"[..], 1, 2));

    let now = clients.range(get("k")).await;
    assert_eq!((now.count, now.more, now.kvs.len()), (1, false, 1));
    let kv = &now.kvs[0];
    assert_eq!((&kv.key[..], &kv.value[..], kv.lease), (&b"k"[..], &b"second"[..], 0));
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));

    let before = clients.range(RangeRequest { revision: 2, ..get("k") }).await;
    assert_eq!(before.kvs[0].value, "first");
    assert_eq!(revision(before.header), 3, "the header is of now, whatever revision was read");
    let future = clients.kv.range(RangeRequest { revision: 4, ..get("k") }).await;
    check_refused(future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    let serializable = clients.range(RangeRequest { serializable: true, ..get("k") }).await;
    assert_eq!(serializable.kvs, now.kvs);
    drop(clients);
    served.stop().await;
}

#[tokio::test]
async fn headers_name_cluster_member_and_term() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let put = clients.kv.put(PutRequest { key: "k".into(), ..Default::default() }).await.unwrap().into_inner();
    let header = put.header.unwrap();
    let members = clients.cluster.member_list(MemberListRequest { linearizable: true });
    let members = members.await.unwrap().into_inner();
    let status = clients.maintenance.status(StatusRequest {}).await.unwrap().into_inner();

    // What etcd computes for a single member that advertises http://localhost:2380 in "etcd-cluster".
    assert_eq!((header.member_id, header.cluster_id), (0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32));
    assert_eq!(header.revision, 2);
    assert_eq!(header.raft_term, status.raft_term);
    assert!(header.raft_term >= 2, "entry 1 is of term 1, and this member was elected since");
    assert_eq!(members.header.unwrap().revision, 0, "cluster calls tell no revision");
    assert_eq!(members.members.len(), 1);
    let member = &members.members[0];
    assert_eq!((member.id, member.name.as_str(), member.is_learner), (header.member_id, "default", false));
    assert_eq!(member.client_ur_ls, ["http://127.0.0.1:2379"]);
    assert_eq!(member.peer_ur_ls, ["http://localhost:2380"]);
    assert_eq!((status.leader, status.version.as_str(), status.errors.len()), (header.member_id, "3.7.0", 0));
    assert!(status.raft_applied_index > 1 && status.raft_index >= status.raft_applied_index);
    assert!(status.db_size > 0);
    drop(clients);
    served.stop().await;
}

#[tokio::test]
async fn a_range_is_limited_counted_and_stripped() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    for key in ["b", "a/3", "a/1", "a/2", "a"] {
        clients.put(key, "v").await;
    }
    let all = clients.range(prefix("a/")).await;
    assert_eq!((keys(&all), all.count, all.more), (vec!["a/1", "a/2", "a/3"], 3, false));
    let limited = clients.range(RangeRequest { limit: 2, ..prefix("a/") }).await;
    assert_eq!((keys(&limited), limited.count, limited.more), (vec!["a/1", "a/2"], 3, true));
    let exact = clients.range(RangeRequest { limit: 3, ..prefix("a/") }).await;
    assert_eq!((exact.kvs.len(), exact.more), (3, false));
    for none in [-1, i64::MIN] {
        let unlimited = clients.range(RangeRequest { limit: none, ..prefix("a/") }).await;
        assert_eq!((unlimited.kvs.len(), unlimited.more), (3, false), "a limit of {none} is none");
    }
    let counted = clients.range(RangeRequest { count_only: true, limit: 1, ..prefix("a/") }).await;
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 3, false));
    let bare = clients.range(RangeRequest { keys_only: true, ..prefix("a/") }).await;
    assert_eq!(keys(&bare), keys(&all));
    assert!(bare.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0));

    let zero = || Bytes::from_static(b"\0");
    let from = clients.range(RangeRequest { key: "a/2".into(), range_end: zero(), ..Default::default() }).await;
    assert_eq!(keys(&from), ["a/2", "a/3", "b"]);
    let everything = clients.range(RangeRequest { key: zero(), range_end: zero(), ..Default::default() }).await;
    assert_eq!(everything.count, 5);
    let backwards = clients.range(RangeRequest { range_end: "a".into(), ..get("b") }).await;
    assert_eq!((backwards.kvs.len(), backwards.count), (0, 0));
    drop(clients);
    served.stop().await;
}

#[tokio::test]
async fn a_range_is_sorted_as_asked() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    // Created c, a, b; modified a, b, c; versions a 1, b 2, c 3; values c, b, a.
    for (key, value) in [("c", "?"), ("c", "?"), ("a", "z"), ("b", "?"), ("b", "y"), ("c", "x")] {
        clients.put(key, value).await;
    }
    let everything = RangeRequest { range_end: "d".into(), ..get("a") };
    use SortTarget::{Create, Key, Mod, Value, Version};
    for (target, rising) in [(Key, "abc"), (Version, "abc"), (Create, "cab"), (Mod, "abc"), (Value, "cba")] {
        for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
            let request = RangeRequest { sort_order: order.into(), sort_target: target.into(), ..everything.clone() };
            let sorted = keys(&clients.range(request).await).concat();
            let falling: String = rising.chars().rev().collect();
            assert_eq!(
                sorted,
                if order == SortOrder::Descend { falling } else { rising.into() },
                "{target:?} {order:?}"
            );
        }
    }
    let last = RangeRequest { sort_order: SortOrder::Descend.into(), limit: 1, ..everything.clone() };
    let last = clients.range(last).await;
    assert_eq!((keys(&last), last.count, last.more), (vec!["c"], 3, true), "sorted first, limited then");
    let filtered = RangeRequest { min_mod_revision: 5, max_create_revision: 2, ..everything.clone() };
    let filtered = clients.range(filtered).await;
    assert_eq!((keys(&filtered), filtered.count), (vec!["c"], 3), "the count knows no filter");

    for unknown in [3, 17, -1, i32::MIN, i32::MAX] {
        let order = clients.kv.range(RangeRequest { sort_order: unknown, ..everything.clone() }).await;
        check_refused(order, Code::InvalidArgument, "etcdserver: invalid sort option");
    }
    for unknown in [5, 17, -1, i32::MIN, i32::MAX] {
        let target = clients.kv.range(RangeRequest { sort_target: unknown, ..everything.clone() }).await;
        check_refused(target, Code::InvalidArgument, "etcdserver: invalid sort option");
    }
    drop(clients);
    served.stop().await;
}

#[tokio::test]
async fn a_deletion_counts_and_returns_what_it_took() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    for key in ["a/1", "a/2", "b"] {
        clients.put(key, key).await;
    }
    let delete = DeleteRangeRequest { key: "a/".into(), range_end: "a0".into(), prev_kv: true };
    let deleted = clients.kv.delete_range(delete.clone()).await.unwrap().into_inner();
    assert_eq!((deleted.deleted, revision(deleted.header)), (2, 5));
    let taken: Vec<_> = deleted.prev_kvs.iter().map(|kv| &kv.value[..]).collect();
    assert_eq!(taken, [b"a/1", b"a/2"]);

    let again = clients.kv.delete_range(delete).await.unwrap().into_inner();
    assert_eq!((again.deleted, again.prev_kvs.len(), revision(again.header)), (0, 0, 5), "nothing, so no new revision");
    let quiet = DeleteRangeRequest { key: "b".into(), ..Default::default() };
    let quiet = clients.kv.delete_range(quiet).await.unwrap().into_inner();
    assert_eq!((quiet.deleted, quiet.prev_kvs.len(), revision(quiet.header)), (1, 0, 6));

    let before = clients.range(RangeRequest { revision: 4, ..get("a/1") }).await;
    assert_eq!(before.kvs[0].value, "a/1");
    clients.put("b", "back").await;
    let back = clients.range(get("b")).await;
    assert_eq!((back.kvs[0].version, back.kvs[0].create_revision), (1, 7), "a new life");
    drop(clients);
    served.stop().await;
}

#[tokio::test]
async fn a_wrong_request_is_refused_in_etcds_words() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let kv = &mut clients.kv;
    let no_key = "etcdserver: key is not provided";
    check_refused(kv.put(PutRequest::default()).await, Code::InvalidArgument, no_key);
    check_refused(kv.range(RangeRequest::default()).await, Code::InvalidArgument, no_key);
    check_refused(kv.delete_range(DeleteRangeRequest::default()).await, Code::InvalidArgument, no_key);

    let put = PutRequest { key: "k".into(), ..Default::default() };
    let both = PutRequest { ignore_value: true, value: "v".into(), ..put.clone() };
    check_refused(kv.put(both).await, Code::InvalidArgument, "etcdserver: value is provided");
    let both = PutRequest { ignore_lease: true, lease: 7, ..put.clone() };
    check_refused(kv.put(both).await, Code::InvalidArgument, "etcdserver: lease is provided");
    let of_nothing = PutRequest { ignore_value: true, ..put.clone() };
    check_refused(kv.put(of_nothing).await, Code::InvalidArgument, "etcdserver: key not found");
    let of_nothing = PutRequest { ignore_lease: true, ..put.clone() };
    check_refused(kv.put(of_nothing).await, Code::InvalidArgument, "etcdserver: key not found");
    for lease in [1, -1, i64::MAX] {
        let unknown = PutRequest { lease, ..put.clone() };
        check_refused(kv.put(unknown).await, Code::NotFound, "etcdserver: requested lease not found");
    }
    assert_eq!(clients.put("k", "kept").await, 2, "nothing refused took a revision");
    let touched = PutRequest { ignore_value: true, ignore_lease: true, ..put };
    assert_eq!(revision(clients.kv.put(touched).await.unwrap().into_inner().header), 3);
    let kept = clients.range(get("k")).await;
    assert_eq!((&kept.kvs[0].value[..], kept.kvs[0].version), (&b"kept"[..], 2));
    drop(clients);
    served.stop().await;
}

#[tokio::test]
async fn a_request_has_a_size_limit_and_the_store_a_quota() {
    let served = Served::start(&["--max-request-bytes=4096", "--quota-backend-bytes=16384"]).await;
    let mut clients = Clients::connect(served.address).await;
    let put = |bytes: usize| PutRequest { key: "k".into(), value: vec![b'v'; bytes].into(), ..Default::default() };
    check_refused(clients.kv.put(put(4096)).await, Code::InvalidArgument, "etcdserver: request is too large");
    // Beyond what any request may have around it, the message itself is refused.
    let far = clients.kv.put(put(4096 + 512 * 1024)).await;
    let bytes = 4096 + 512 * 1024 + 7;
    let text = format!("grpc: received message larger than max ({bytes} vs. {})", 4096 + 512 * 1024);
    check_refused(far, Code::ResourceExhausted, &text);

    let mut revision_before = 1;
    let full = loop {
        match clients.kv.put(put(2048)).await {
            Ok(answer) => {
                let revision = revision(answer.into_inner().header);
                assert!(revision > revision_before && revision < 16, "the quota was never reached");
                revision_before = revision;
            }
            Err(status) => break status,
        }
    };
    assert_eq!((full.code(), full.message()), (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"));
    assert_eq!(clients.range(get("k")).await.kvs[0].mod_revision, revision_before, "reads go on");
    drop(clients);
    served.stop().await;
}
