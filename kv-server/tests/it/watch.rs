//! Watches over the wire: what comes, in which order, and that nothing is left when the client goes.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::watch_client::WatchClient;
use kv_server::proto::etcdserverpb::watch_request::RequestUnion;
use kv_server::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
    WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::harness::{Clients, DEADLINE, Served, http_get, metric, poll};

/// A stream of watches, from its client's side.
pub(crate) struct Watch {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watch {
    pub(crate) async fn open(channel: &Channel) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let answers =
            WatchClient::new(channel.clone()).watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    pub(crate) async fn ask(&self, union: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(union) }).await.unwrap();
    }

    pub(crate) async fn create(&self, create: WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(create)).await;
    }

    async fn cancel(&self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    async fn progress(&self) {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    pub(crate) async fn next(&mut self) -> WatchResponse {
        let answer = tokio::time::timeout(DEADLINE, self.answers.message()).await.expect("an answer in time");
        answer.unwrap().expect("the stream goes on")
    }
}

fn key(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), ..Default::default() }
}

fn all() -> WatchCreateRequest {
    WatchCreateRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() }
}

/// Answer and its revision as one line: what clients go by.
fn line(answer: &WatchResponse) -> String {
    let mut line = format!("{} at {}", answer.watch_id, answer.header.as_ref().unwrap().revision);
    if answer.created {
        line += " created";
    }
    if answer.canceled {
        line += &format!(" canceled {:?} {}", answer.cancel_reason, answer.compact_revision);
    }
    for event in &answer.events {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let kv = event.kv.as_ref().unwrap();
        line += &format!(" {}{}={}", if event.r#type == 1 { "-" } else { "" }, text(&kv.key), text(&kv.value));
        if let Some(prev) = &event.prev_kv {
            line += &format!("<{}", text(&prev.value));
        }
    }
    line
}

pub(crate) fn nothing_is_watched(address: SocketAddr) {
    for gauge in ["watch_stream_total", "watcher_total", "slow_watcher_total", "pending_events_total"] {
        let name = format!("etcd_debugging_mvcc_{gauge}");
        poll(&name, || (metric(address, &name) == 0).then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_is_answered_in_order() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut watch = Watch::open(&clients.channel).await;
    watch.create(WatchCreateRequest { prev_kv: true, ..all() }).await;
    watch.create(WatchCreateRequest { filters: vec![0], watch_id: 7, ..key("a") }).await;
    let mut lines = vec![line(&watch.next().await), line(&watch.next().await)];
    clients.put("a", "1").await;
    clients.put("a", "2").await;
    clients.kv.delete_range(DeleteRangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    let mut events: Vec<String> = Vec::new();
    // Changes that come together may be told together.
    while events.concat().matches('a').count() < 4 {
        let answer = line(&watch.next().await);
        events.push(
            answer.split_once(" at ").map(|(id, rest)| format!("{id}:{};", rest.split_once(' ').unwrap().1)).unwrap(),
        );
    }
    let of = |id: &str| events.iter().filter_map(|event| event.strip_prefix(id)).collect::<String>().replace(';', " ");
    assert_eq!(of("0:"), "a=1 a=2<1 -a=<2 ");
    assert_eq!(of("7:"), "-a= ");
    watch.progress().await;
    watch.cancel(7).await;
    watch.cancel(9).await;
    watch.cancel(7).await;
    // Refused, and the others live on.
    watch.create(WatchCreateRequest { watch_id: 0, start_revision: -1, ..key("a") }).await;
    watch.create(WatchCreateRequest { range_end: "a".into(), ..key("b") }).await;
    watch.create(WatchCreateRequest { watch_id: 7, start_revision: 4, ..key("a") }).await;
    for _ in 0..6 {
        lines.push(line(&watch.next().await));
    }
    watch.create(WatchCreateRequest { watch_id: 7, ..key("a") }).await;
    watch.progress().await;
    for _ in 0..2 {
        lines.push(line(&watch.next().await));
    }
    let duplicate = "mvcc: duplicate watch ID provided on the WatchStream";
    assert_eq!(
        lines,
        [
            "0 at 1 created".to_owned(),
            "7 at 1 created".to_owned(),
            "-1 at 4".to_owned(),
            "7 at 4 canceled \"\" 0".to_owned(),
            "-1 at 4 created canceled \"mvcc: required revision has been compacted\" 0".to_owned(),
            "-1 at 4 created canceled \"mvcc: watcher range is empty\" 0".to_owned(),
            "7 at 4 created".to_owned(),
            "7 at 4 -a=".to_owned(),
            format!("-1 at 4 created canceled {duplicate:?} 0"),
            "-1 at 4".to_owned(),
        ]
    );
    clients.kv.compact(CompactionRequest { revision: 4, physical: true }).await.unwrap();
    watch.create(WatchCreateRequest { start_revision: 3, ..key("a") }).await;
    assert_eq!(line(&watch.next().await), "1 at 4 created");
    assert_eq!(line(&watch.next().await), "1 at 0 canceled \"\" 4");
    drop(watch);
    nothing_is_watched(served.address);
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_watches_on_one_stream() {
    const WATCHES: i64 = 100_000;
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut watch = Watch::open(&clients.channel).await;
    let requests = watch.requests.clone();
    let asking = tokio::spawn(async move {
        for number in 0..WATCHES {
            let create = RequestUnion::CreateRequest(key(&number.to_string()));
            requests.send(WatchRequest { request_union: Some(create) }).await.unwrap();
        }
    });
    for id in 0..WATCHES {
        let answer = watch.next().await;
        assert!(answer.created && answer.watch_id == id);
    }
    asking.await.unwrap();
    assert_eq!(i64::try_from(metric(served.address, "etcd_debugging_mvcc_watcher_total")), Ok(WATCHES));
    clients.put("77777", "v").await;
    assert_eq!(line(&watch.next().await), "77777 at 2 77777=v");
    drop(watch);
    nothing_is_watched(served.address);
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_nobody_back_and_loses_nothing() {
    const PUTS: usize = 20_000;
    let served = Served::start(&["--unsafe-no-fsync"]).await;
    let clients = Clients::connect(served.address).await;
    // On a connection of its own: what it does not read fills no window of the others.
    let mut slow = Watch::open(&Clients::connect(served.address).await.channel).await;
    slow.create(all()).await;
    assert!(slow.next().await.created);
    let puts: Vec<_> = (0..8)
        .map(|writer| {
            let mut kv: KvClient<Channel> = clients.kv.clone();
            tokio::spawn(async move {
                for number in 0..PUTS / 8 {
                    let put = PutRequest {
                        key: format!("{writer}/{number}").into(),
                        value: vec![7; 2_000].into(),
                        ..Default::default()
                    };
                    kv.put(put).await.unwrap();
                }
            })
        })
        .collect();
    for put in puts {
        put.await.unwrap();
    }
    poll("the client to fall behind", || {
        (metric(served.address, "etcd_debugging_mvcc_slow_watcher_total") == 1).then_some(())
    });
    let mut next = 2;
    while next < 2 + PUTS {
        for event in slow.next().await.events {
            assert_eq!(usize::try_from(event.kv.unwrap().mod_revision), Ok(next), "each once, in order");
            next += 1;
        }
    }
    drop(slow);
    nothing_is_watched(served.address);
    drop(clients);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_dropped_leave_nothing_and_count_as_canceled() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut watches = Vec::new();
    for _ in 0..50 {
        let mut watch = Watch::open(&clients.channel).await;
        watch.create(all()).await;
        watch.next().await;
        watches.push(watch);
    }
    for number in 0..20 {
        clients.put("k", &number.to_string()).await;
    }
    // In the middle of what they are told.
    drop(watches);
    nothing_is_watched(served.address);
    let label = "{grpc_code=\"Canceled\",grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 50";
    poll("fifty canceled calls", || {
        http_get(served.address, "/metrics").body.contains(&format!("grpc_server_handled_total{label}")).then_some(())
    });
    drop(clients);
    served.stop().await;
}

#[tokio::test]
async fn quiet_watchers_hear_of_progress() {
    let served = Served::start(&["--watch-progress-notify-interval=100ms"]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut watch = Watch::open(&clients.channel).await;
    watch.create(WatchCreateRequest { progress_notify: true, ..key("k") }).await;
    watch.create(key("k")).await;
    clients.put("other", "v").await;
    let mut lines = Vec::new();
    while lines.len() < 4 {
        lines.push(line(&watch.next().await));
    }
    assert_eq!(lines[2..], ["0 at 2", "0 at 2"], "of the one that wants to");
    drop((clients, watch));
    served.stop().await;
}

#[tokio::test]
async fn a_message_is_cut_if_its_watcher_wants_it() {
    let served = Served::start(&["--max-request-bytes=1048576"]).await;
    let mut clients = Clients::connect(served.address).await;
    let value = "v".repeat(1 << 20 >> 1);
    for number in 0..8 {
        clients.put(&format!("k{number}"), &value).await;
    }
    let mut watch = Watch::open(&clients.channel).await;
    watch.create(WatchCreateRequest { fragment: true, prev_kv: true, ..all() }).await;
    watch.next().await;
    let everything = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
    clients.kv.delete_range(everything).await.unwrap();
    let (mut events, mut pieces) = (0, 0);
    while events < 8 {
        let answer = watch.next().await;
        let bytes: usize = answer.events.iter().map(|event| event.prev_kv.as_ref().unwrap().value.len()).sum();
        assert!(bytes < (1 << 20) + (1 << 19));
        events += answer.events.len();
        pieces += usize::from(answer.fragment);
    }
    assert!(pieces > 0);
    drop((clients, watch));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_answers_line_by_line() {
    let served = Served::start(&[]).await;
    let mut clients = Clients::connect(served.address).await;
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let body =
        r#"{"create_request":{"key":"aw=="}}{"create_request":{"key":"aw==","watch_id":"0","filters":["NOPUT"]}}"#;
    write!(stream, "POST /v3/watch HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let mut next = || lines.by_ref().find(|line| line.starts_with("{\"result\"")).unwrap();
    assert!(next().ends_with("\"revision\":\"1\",\"raft_term\":\"2\"},\"created\":true}}"));
    assert!(next().ends_with("\"watch_id\":\"1\",\"created\":true}}"));
    clients.put("k", "v").await;
    let event =
        r#""events":[{"kv":{"key":"aw==","create_revision":"2","mod_revision":"2","version":"1","value":"dg=="}}]}}"#;
    assert!(next().ends_with(event));
    drop((lines, stream));
    nothing_is_watched(served.address);
    drop(clients);
    served.stop().await;
}
