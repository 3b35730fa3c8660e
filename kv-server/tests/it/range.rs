//! Range: answers of every length, encoded whole or on the way, say what single gets say.

use bytes::Bytes;
use kv_server::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kv_server::proto::etcdserverpb::request_op::Request;
use kv_server::proto::etcdserverpb::response_op::Response;
use kv_server::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
};
use kv_server::proto::mvccpb::KeyValue;
use prost::Message;
use tonic::Code;
use tonic::body::Body;
use tower::ServiceExt;

use crate::harness::{Clients, Served, check_refused, framed, get, metric, poll, prefix};

/// More than six steps of an answer have.
const KEYS: usize = 3_500;

fn key(number: usize) -> Bytes {
    format!("key-{number:05}").into()
}

/// Most are short; some are longer than a step of an answer is.
fn value(number: usize) -> Bytes {
    let len = if number.is_multiple_of(500) { 300_000 } else { number % 64 };
    vec![u8::try_from(number % 251).unwrap(); len].into()
}

async fn put(clients: &mut Clients, number: usize, value: Bytes) {
    let put = PutRequest { key: key(number), value, ..Default::default() };
    clients.kv.put(put).await.unwrap();
}

fn stripped(kvs: &[KeyValue]) -> Vec<KeyValue> {
    kvs.iter().map(|kv| KeyValue { value: Bytes::new(), ..kv.clone() }).collect()
}

#[track_caller]
fn check(found: &RangeResponse, wanted: &[KeyValue], count: usize) {
    assert_eq!((found.kvs.len(), found.count), (wanted.len(), i64::try_from(count).unwrap()));
    assert_eq!(found.more, wanted.len() < count && !wanted.is_empty());
    let differ = found.kvs.iter().zip(wanted).find(|(found, wanted)| found != wanted);
    assert!(differ.is_none(), "{differ:?}");
}

/// With the one thread beside the runtime's taken, `request` does not come to its end while others are served; without, it does.
async fn aside<T: Send + 'static>(clients: &mut Clients, request: impl Future<Output = T> + Send + 'static) -> T {
    let (release, released) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || released.recv());
    let asked = tokio::spawn(request);
    for number in 0..10 {
        put(clients, number, "again".into()).await;
    }
    assert!(!asked.is_finished(), "it kept the runtime's thread");
    drop(release);
    asked.await.unwrap()
}

/// What takes a time that grows with the store is none of the runtime's threads' business: all other calls are.
#[test]
fn what_grows_with_the_store_is_read_aside() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let served = Served::start(&[]).await;
        let mut clients = Clients::connect(served.address).await;
        for number in 0..1_100 {
            put(&mut clients, number, value(1)).await;
        }
        let everything = prefix("key-");
        let sorted = RangeRequest { sort_target: SortTarget::Version.into(), limit: 5, ..everything.clone() };
        let past = RangeRequest { revision: 20, limit: 5, ..everything.clone() };
        for (request, count, shown) in [(sorted, 1_100, 5), (past, 19, 5)] {
            let mut kv = clients.kv.clone();
            let found = aside(&mut clients, async move { kv.range(request).await }).await.unwrap().into_inner();
            assert_eq!((found.count, found.kvs.len(), found.more), (count, shown, true));
        }

        let mut kv = clients.kv.clone();
        let op = |range| RequestOp { request: Some(Request::RequestRange(range)) };
        let txn = TxnRequest { success: vec![op(get("k")), op(everything)], ..Default::default() };
        let answer = aside(&mut clients, async move { kv.txn(txn).await }).await.unwrap().into_inner();
        let Some(Response::ResponseRange(found)) = &answer.responses[1].response else { panic!("{answer:?}") };
        assert_eq!((found.count, found.kvs.len()), (1_100, 1_100));

        let channel = clients.channel.clone();
        let json = r#"{"key":"a2V5LQ==","range_end":"a2V5Lg==","limit":2}"#;
        let request = http::Request::post("/v3/kv/range").body(Body::new(json.to_owned())).unwrap();
        let answer = aside(&mut clients, channel.oneshot(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        drop((clients, answer));
        served.stop().await;
    });
}

/// What is longer than a step is made in steps, as far as its client reads; a client that goes in the middle leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_made_in_steps_and_small_ones_are_not() {
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    let steps = || metric(served.address, "kv_answer_steps_total");
    for number in 0..600 {
        put(&mut clients, number, vec![7; 6_000].into()).await;
    }
    let everything = prefix("key-");
    let small = [
        RangeRequest { key: key(1), ..Default::default() },
        RangeRequest { limit: 5, ..everything.clone() },
        RangeRequest { limit: 500, keys_only: true, ..everything.clone() },
        RangeRequest { count_only: true, ..everything.clone() },
    ];
    for request in small {
        clients.range(request).await;
    }
    assert_eq!(steps(), 0);
    assert_eq!(clients.range(everything.clone()).await.kvs.len(), 600);
    // Ten pairs each; the first 512 were sized without a turn.
    assert_eq!(steps(), 1 + 60);
    let mut parts = clients.kv.range_stream(everything.clone()).await.unwrap().into_inner();
    while parts.message().await.unwrap().is_some() {}
    assert!(steps() > 61 + 50, "{}", steps());

    for _ in 0..4 {
        let unread = clients.kv.range_stream(everything.clone()).await.unwrap();
        let request = http::Request::post("/etcdserverpb.KV/Range").header("content-type", "application/grpc");
        let body = http_body_util::Full::new(Bytes::from(framed(&everything.encode_to_vec())));
        let answer = clients.channel.clone().oneshot(request.body(Body::new(body)).unwrap()).await.unwrap();
        assert_eq!(metric(served.address, "kv_answers_in_steps"), 2);
        drop((unread, answer));
        // Their turns are free at once, and what made them ends.
        assert_eq!(clients.range(everything.clone()).await.kvs.len(), 600);
        poll("answers that end", || (metric(served.address, "kv_answers_in_steps") == 0).then_some(()));
    }
    drop((clients, parts));
    served.stop().await;
}

/// What a deletion of many keys was asked to show is encoded as a range is, and so is what it shows in a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn deletions_show_what_was_there_whatever_its_length() {
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let mut clients = Clients::connect(served.address).await;
    for (count, len) in [(0, 0), (1, 3), (20, 10), (600, 0), (30, 10_000)] {
        for in_txn in [false, true] {
            for number in 0..count {
                put(&mut clients, number, vec![1; len].into()).await;
            }
            let all = clients.range(prefix("key-")).await.kvs;
            let RangeRequest { key, range_end, .. } = prefix("key-");
            let delete = DeleteRangeRequest { key, range_end, prev_kv: true };
            let answer = if in_txn {
                let op = RequestOp { request: Some(Request::RequestDeleteRange(delete)) };
                let txn = TxnRequest { success: vec![op], ..Default::default() };
                let answer = clients.kv.txn(txn).await.unwrap().into_inner();
                let Some(Response::ResponseDeleteRange(deleted)) = answer.responses[0].response.clone() else {
                    panic!("{answer:?}")
                };
                deleted
            } else {
                clients.kv.delete_range(delete).await.unwrap().into_inner()
            };
            assert_eq!((answer.deleted, answer.prev_kvs == all), (i64::try_from(count).unwrap(), true));
            assert_eq!(all.len(), count);
        }
    }
    assert!(metric(served.address, "kv_answer_steps_total") > 0);
    let unshown = DeleteRangeRequest { key: key(1), ..Default::default() };
    assert_eq!(clients.kv.delete_range(unshown).await.unwrap().into_inner().deleted, 0);
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_every_length_say_what_single_gets_say() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    for number in 0..KEYS {
        put(&mut clients, number, value(number)).await;
    }
    let first_revision = clients.range(get("key-00000")).await.header.unwrap().revision;
    for number in (0..KEYS).step_by(7) {
        put(&mut clients, number, "changed".into()).await;
    }
    let mut all = Vec::new();
    for number in 0..KEYS {
        let found = clients.range(RangeRequest { key: key(number), ..Default::default() }).await;
        all.extend(found.kvs);
    }
    assert_eq!(all.len(), KEYS);

    let everything = prefix("key-");
    for limit in [0, 1, 511, 512, 513, 1_024, 1_025, 3_499, 3_500, 3_501, i64::MAX] {
        let shown = usize::try_from(limit).ok().filter(|limit| (1..KEYS).contains(limit)).unwrap_or(KEYS);
        let found = clients.range(RangeRequest { limit, ..everything.clone() }).await;
        check(&found, &all[..shown], KEYS);
        let found = clients.range(RangeRequest { limit, keys_only: true, ..everything.clone() }).await;
        check(&found, &stripped(&all[..shown]), KEYS);
    }
    check(&clients.range(RangeRequest { count_only: true, ..everything.clone() }).await, &[], KEYS);

    let sorted = |order: SortOrder, target: SortTarget| RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        ..everything.clone()
    };
    let backwards: Vec<_> = all.iter().rev().cloned().collect();
    check(&clients.range(sorted(SortOrder::Descend, SortTarget::Key)).await, &backwards, KEYS);
    let limited = RangeRequest { limit: 2_000, ..sorted(SortOrder::Descend, SortTarget::Key) };
    check(&clients.range(limited).await, &backwards[..2_000], KEYS);
    let mut by_change = all.clone();
    by_change.sort_by_key(|kv| kv.mod_revision);
    check(&clients.range(sorted(SortOrder::Ascend, SortTarget::Mod)).await, &by_change, KEYS);

    let before = clients.range(RangeRequest { revision: first_revision, ..everything.clone() }).await;
    assert_eq!((before.count, before.kvs.len()), (i64::try_from(KEYS).unwrap(), KEYS));
    assert!(before.kvs.iter().enumerate().all(|(number, kv)| kv.value == value(number) && kv.version == 1));
    let future = clients.kv.range(RangeRequest { revision: i64::MAX, ..everything }).await;
    check_refused(future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    drop(clients);
    served.stop().await;
}
