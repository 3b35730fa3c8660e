//! Clients that do not wait for their answers.

use kv_server::proto::etcdserverpb::PutRequest;

use crate::harness::{Clients, Served, metric, poll, prefix, revision};

const CALLS: usize = 200;
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_leaves_no_waiter() {
    let served = Served::start(&[]).await;
    let (address, mut clients) = (served.address, Clients::connect(served.address).await);
    let mut cancelled = 0;
    for round in 0..ROUNDS {
        let before = served_puts(address);
        let calls: Vec<_> = (0..CALLS)
            .map(|n| {
                let mut kv = clients.kv.clone();
                let put = PutRequest {
                    key: format!("c/{round}/{n}").into(),
                    value: vec![0; 4096].into(),
                    ..Default::default()
                };
                tokio::spawn(async move { kv.put(put).await.map(drop) })
            })
            .collect();
        // While the server is in the middle of them: one is answered, the others are on the way.
        poll("the first put", || (served_puts(address) > before).then_some(()));
        calls.iter().for_each(|call| call.abort());
        for call in calls {
            cancelled += usize::from(call.await.is_err_and(|ended| ended.is_cancelled()));
        }
    }
    assert!(cancelled > 0, "every call was faster than its cancellation");
    poll("no call to wait", || (metric(address, "etcd_server_proposals_pending") == 0).then_some(()));

    // What came through came through whole, and the next call is served.
    let last = clients.put("c/end", "v").await;
    let answer = clients.range(prefix("c/")).await;
    // A call that the server got to later than its cancellation may still come in.
    let now = revision(answer.header);
    assert!(now >= last, "{now} after {last}");
    assert_eq!(answer.count, now - 1, "one key for each revision");
    drop(clients);
    served.stop().await;
}

fn served_puts(address: std::net::SocketAddr) -> u64 {
    metric(address, "etcd_mvcc_put_total")
}
