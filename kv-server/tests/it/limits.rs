//! Requests at and beyond each limit: etcd's code and text, and a server that goes on.

use kv_server::proto::etcdserverpb::compare::CompareTarget;
use kv_server::proto::etcdserverpb::request_op::Request;
use kv_server::proto::etcdserverpb::{
    CompactionRequest, Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use prost::Message;
use prost::encoding::encode_varint;
use tonic::Code;

use crate::harness::{Clients, Served, call, framed, get, revision};

/// A put within `depth` transactions. Written from the inside: messages so deep cannot be encoded or dropped by recursion.
fn nested(depth: usize) -> Vec<u8> {
    let put = PutRequest { key: "deep".into(), ..Default::default() };
    let innermost = RequestOp { request: Some(Request::RequestPut(put)) };
    let mut bytes = TxnRequest { success: vec![innermost], ..Default::default() }.encode_to_vec();
    for _ in 1..depth {
        // As `request_txn` of an operation, and that as `success` of a transaction.
        for field in [4_u8, 2] {
            let mut around = vec![field << 3 | 2];
            encode_varint(bytes.len() as u64, &mut around);
            around.append(&mut bytes);
            bytes = around;
        }
    }
    bytes
}

fn ops(count: usize) -> Vec<RequestOp> {
    let range = RangeRequest { key: "k".into(), ..Default::default() };
    vec![RequestOp { request: Some(Request::RequestRange(range)) }; count]
}

#[tokio::test]
async fn each_limit_has_etcds_answer() {
    let served = Served::start(&[]).await;
    let clients = Clients::connect(served.address).await;
    let ask = async |method: &str, body: Vec<u8>| {
        let status = call(&clients.channel, &format!("/etcdserverpb.KV/{method}"), body).await;
        (status.code(), status.message().to_owned())
    };
    let ok = (Code::Ok, String::new());
    let refused = |code: Code, text: &str| (code, text.to_owned());
    let too_many = refused(Code::InvalidArgument, "etcdserver: too many operations in txn request");

    for depth in [1, 50, 51, 128] {
        assert_eq!(ask("Txn", framed(&nested(depth))).await, ok, "{depth} deep");
    }
    for depth in [129, 1_000, 10_000] {
        assert_eq!(ask("Txn", framed(&nested(depth))).await, too_many, "{depth} deep");
    }
    for (count, expected) in [(128, &ok), (129, &too_many)] {
        let success = TxnRequest { success: ops(count), ..Default::default() };
        let failure = TxnRequest { failure: ops(count), ..Default::default() };
        let compare = Compare { key: "k".into(), ..Default::default() };
        let compare = TxnRequest { compare: vec![compare; count], ..Default::default() };
        for txn in [success, failure, compare] {
            assert_eq!(ask("Txn", framed(&txn.encode_to_vec())).await, *expected, "{count} operations");
        }
    }

    // 1.5 MiB of a command: the key, and a little around it.
    let put =
        |bytes: usize| framed(&PutRequest { key: vec![b'k'; bytes].into(), ..Default::default() }.encode_to_vec());
    assert_eq!(ask("Put", put(1_572_000)).await, ok);
    assert_eq!(ask("Put", put(1_572_864)).await, refused(Code::InvalidArgument, "etcdserver: request is too large"));
    let (code, text) = ask("Put", put(2_200_000)).await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.starts_with("grpc: received message larger than max (2200"), "{text}");
    let range = RangeRequest { key: vec![b'k'; 2_000_000].into(), ..Default::default() };
    assert_eq!(ask("Range", framed(&range.encode_to_vec())).await, ok, "a read has the transport's limit alone");

    let range = |range: RangeRequest| framed(&RangeRequest { key: "k".into(), ..range }.encode_to_vec());
    for negative in [-1, i64::MIN] {
        assert_eq!(ask("Range", range(RangeRequest { limit: negative, ..Default::default() })).await, ok);
        assert_eq!(ask("Range", range(RangeRequest { revision: negative, ..Default::default() })).await, ok);
    }
    let future = refused(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    assert_eq!(ask("Range", range(RangeRequest { revision: i64::MAX, ..Default::default() })).await, future);
    let compact = |revision: i64| framed(&CompactionRequest { revision, physical: false }.encode_to_vec());
    let compacted = refused(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(ask("Compact", compact(i64::MIN)).await, compacted);
    assert_eq!(ask("Compact", compact(i64::MAX)).await, future);
    let bad_sort = refused(Code::InvalidArgument, "etcdserver: invalid sort option");
    for unknown in [-1, 3, i32::MAX] {
        assert_eq!(ask("Range", range(RangeRequest { sort_order: unknown, ..Default::default() })).await, bad_sort);
    }
    for unknown in [-1, 5, i32::MIN] {
        assert_eq!(ask("Range", range(RangeRequest { sort_target: unknown, ..Default::default() })).await, bad_sort);
    }
    drop(clients);
    served.stop().await;
}

/// As etcd 3.5.1 answers: what it does not know is equal, and holds, but for a value that is not there.
#[tokio::test]
async fn a_condition_that_nobody_knows_holds_as_in_etcd() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    clients.put("there", "v").await;
    let (version, value) = (CompareTarget::Version as i32, CompareTarget::Value as i32);
    let results = [0, 1, 2, 3, 7, -2];
    let table = [
        ("there", version, [false, true, false, true, true, true]),
        ("there", value, [false, true, false, true, true, true]),
        ("missing", version, [true, false, false, false, true, true]),
        ("missing", value, [false; 6]),
        ("there", 9, [true, false, false, false, true, true]),
        ("missing", -1, [true, false, false, false, true, true]),
    ];
    for (key, target, holds) in table {
        for (result, expected) in results.into_iter().zip(holds) {
            let compare = Compare { key: key.into(), target, result, ..Default::default() };
            for success in [vec![], vec![write_of("k")]] {
                let txn = TxnRequest { compare: vec![compare.clone()], success, failure: vec![] };
                let answer = clients.kv.txn(txn).await.unwrap().into_inner();
                assert_eq!(answer.succeeded, expected, "{key}, target {target}, result {result}");
            }
        }
    }
    drop(clients);
    served.stop().await;
}

fn write_of(key: &'static str) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key: key.into(), ..Default::default() })) }
}

#[tokio::test]
async fn a_frame_that_is_none_is_refused() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let range = RangeRequest { key: "k".into(), ..Default::default() }.encode_to_vec();
    let txn = TxnRequest { success: ops(3), ..Default::default() }.encode_to_vec();
    for (method, message) in [("Range", range), ("Txn", txn)] {
        let path = format!("/etcdserverpb.KV/{method}");
        let whole = framed(&message);
        for cut in 0..whole.len() {
            let status = call(&clients.channel, &path, whole[..cut].to_vec()).await;
            assert_eq!(status.code(), Code::Internal, "{method} cut at {cut}: {status}");
        }
        // A message that is cut within its frame: some cuts are between two fields.
        for cut in 0..message.len() {
            let status = call(&clients.channel, &path, framed(&message[..cut])).await;
            assert!(matches!(status.code(), Code::Ok | Code::Internal | Code::InvalidArgument), "{method}: {status}");
        }
        for flag in 1..=u8::MAX {
            let mut flagged = whole.clone();
            flagged[0] = flag;
            assert_eq!(call(&clients.channel, &path, flagged).await.code(), Code::Unimplemented, "{method}");
        }
        let endless = [&[0, 0xff, 0xff, 0xff, 0xff][..], &message].concat();
        let status = call(&clients.channel, &path, endless).await;
        let text = "grpc: received message larger than max (4294967295 vs. 2097152)";
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, text));
    }
    let found = clients.range(get("k")).await;
    assert_eq!((found.count, revision(found.header)), (0, 1), "none of it was a write");
    drop(clients);
    served.stop().await;
}

/// The generated client reads what is encoded past the generated server.
#[tokio::test]
async fn a_nested_answer_is_whole() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let compare = Compare { key: "k".into(), target: CompareTarget::Version.into(), ..Default::default() };
    let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    let inner = TxnRequest {
        compare: vec![compare.clone()],
        success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
        failure: vec![],
    };
    let outer = RequestOp { request: Some(Request::RequestTxn(inner)) };
    let txn = TxnRequest { compare: vec![compare], success: [vec![outer], ops(1)].concat(), failure: vec![] };
    let TxnResponse { header, succeeded, responses } = clients.kv.txn(txn).await.unwrap().into_inner();
    assert!(succeeded);
    assert_eq!((revision(header), responses.len()), (2, 2));
    drop(clients);
    served.stop().await;
}
