//! All members are restarted one after the other while clients write and read: none of them is told of a failure that its library would
//! not have tried again by itself.

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kv_server::proto::etcdserverpb::PutRequest;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::cluster::Cluster;
use crate::harness::{DEADLINE, get, poll, prefix};

/// Clients, each with one call at a time.
const WRITERS: usize = 8;
const READERS: usize = 4;
/// How long a library waits before it tries another endpoint.
const BACKOFF: Duration = Duration::from_millis(25);

/// A client as etcd's own: it goes round the endpoints, and repeats a read that found a member unavailable, a write only if it was
/// certainly not sent.
struct Client {
    members: Vec<KvClient<Channel>>,
    next: usize,
}

impl Client {
    fn new(addresses: &[SocketAddr], first: usize) -> Self {
        let connect = |address| Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { members: addresses.iter().map(|address| KvClient::new(connect(address))).collect(), next: first }
    }

    fn member(&mut self) -> &mut KvClient<Channel> {
        self.next = (self.next + 1) % self.members.len();
        &mut self.members[self.next]
    }

    async fn put(&mut self, key: String) -> Result<(), Status> {
        let put = PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
        let until = Instant::now() + DEADLINE;
        loop {
            match self.member().put(put.clone()).await {
                Err(status) if was_not_sent(&status) && Instant::now() < until => tokio::time::sleep(BACKOFF).await,
                done => return done.map(drop),
            }
        }
    }

    /// Whether a key is there.
    async fn has(&mut self, key: &str) -> Result<bool, Status> {
        let until = Instant::now() + DEADLINE;
        let is_worth_it = |status: &Status| status.code() == Code::Unavailable || was_not_sent(status);
        loop {
            match self.member().range(get(key)).await {
                Err(status) if is_worth_it(&status) && Instant::now() < until => tokio::time::sleep(BACKOFF).await,
                answer => return Ok(answer?.into_inner().kvs.len() == 1),
            }
        }
    }
}

/// Whether a call has reached no server: none listens, or it says that it did not look at it.
fn was_not_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(status);
    while let Some(error) = cause {
        let is_refused =
            error.downcast_ref().is_some_and(|error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused);
        let is_unsent = error.downcast_ref().is_some_and(|error: &hyper::Error| error.is_canceled());
        let is_passed_over = error.to_string().contains("not a result of an error");
        if is_refused || is_unsent || is_passed_over {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_call() {
    let mut cluster = Cluster::start(3, &["--unsafe-no-fsync"]);
    let addresses: Vec<SocketAddr> = (0..3).map(|nth| cluster.address(nth)).collect();
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for nth in 0..WRITERS + READERS {
        let (stop, calls, mut client) = (Arc::clone(&stop), Arc::clone(&calls), Client::new(&addresses, nth));
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                let called = if nth < WRITERS {
                    client.put(format!("k{nth}-{done:06}")).await
                } else {
                    client.has("first").await.map(|found| assert!(found, "what was written is read"))
                };
                called.map_err(|status| format!("call {done} of client {nth}: {status:?}"))?;
                done += 1;
                calls.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<usize, String>(done)
        }));
        if nth == 0 {
            Client::new(&addresses, 0).put("first".to_owned()).await.unwrap();
        }
    }
    let goes_on = || {
        let before = calls.load(Ordering::Relaxed);
        poll("calls to go on", || (calls.load(Ordering::Relaxed) >= before + 100).then_some(()));
    };
    // The followers first, the leader last; then each once more, whoever leads.
    let leader = cluster.leader().await;
    for nth in (1..=3).map(|nth| (leader + nth) % 3).chain(0..3) {
        tokio::task::block_in_place(goes_on);
        cluster.terminate(nth);
        tokio::task::block_in_place(goes_on);
        cluster.revive(nth);
    }
    tokio::task::block_in_place(goes_on);
    stop.store(true, Ordering::Relaxed);
    let mut written = 1;
    for (nth, task) in tasks.into_iter().enumerate() {
        let done = task.await.unwrap().unwrap_or_else(|error| panic!("{error}"));
        written += if nth < WRITERS { done } else { 0 };
    }
    cluster.agree().await;
    let kvs = cluster.clients(0).await.range(prefix("k")).await.kvs;
    assert_eq!(kvs.len() + 1, written, "what was answered is there");
    assert!(kvs.iter().all(|kv| kv.version == 1), "once");
}
