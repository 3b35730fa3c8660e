//! Three members in processes of their own: every one answers, any one may die, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use kv_server::proto::etcdserverpb::lease_client::LeaseClient;
use kv_server::proto::etcdserverpb::watch_client::WatchClient;
use kv_server::proto::etcdserverpb::watch_request::RequestUnion;
use kv_server::proto::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, MemberListRequest, PutRequest,
    StatusRequest, StatusResponse, WatchCreateRequest, WatchRequest,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use crate::harness::{Clients, DEADLINE, Process, check_refused, free_addresses, get, http_get, metric};

/// Short, so that a leader is missed soon; long enough for a busy machine.
const TIMEOUTS: [&str; 2] = ["--heartbeat-interval=50", "--election-timeout=500"];

/// What a member is started with that joins a cluster.
pub(crate) const EXISTING: &str = "--initial-cluster-state=existing";

/// A cluster on ports that were free a moment ago. Its members are killed when it is dropped.
pub(crate) struct Cluster {
    dir: TempDir,
    urls: Vec<[String; 2]>,
    extra: Vec<String>,
    members: Vec<Option<Process>>,
    /// Those that the cluster has removed: nobody is told of them any more.
    removed: BTreeSet<usize>,
}

impl Cluster {
    /// Starts so many members and waits until all serve.
    pub(crate) fn start(members: usize, extra: &[&str]) -> Self {
        let extra = TIMEOUTS.iter().chain(extra).map(|flag| (*flag).to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let urls = (0..members).map(|_| free_urls()).collect();
        let mut cluster = Self { dir, urls, extra, members: Vec::new(), removed: BTreeSet::new() };
        cluster.members = (0..members).map(|nth| Some(cluster.begin(nth))).collect();
        cluster.members.iter_mut().flatten().for_each(Process::serves);
        cluster
    }

    /// Starts a member, and waits for nothing.
    pub(crate) fn begin(&self, nth: usize) -> Process {
        self.begin_with(nth, &[])
    }

    pub(crate) fn begin_with(&self, nth: usize, more: &[&str]) -> Process {
        let flags = self.flags(nth);
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Process::begin(&self.dir(nth), &flags)
    }

    /// The directory of a member.
    pub(crate) fn dir(&self, nth: usize) -> PathBuf {
        self.dir.path().join(format!("m{nth}"))
    }

    /// What a member is started with.
    pub(crate) fn flags(&self, nth: usize) -> Vec<String> {
        let [client, peer] = &self.urls[nth];
        let known = self.urls.iter().enumerate().filter(|(other, _)| *other == nth || !self.removed.contains(other));
        let cluster: Vec<_> = known.map(|(nth, urls)| format!("m{nth}={}", urls[1])).collect();
        let mut flags = vec![
            format!("--name=m{nth}"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", cluster.join(",")),
        ];
        flags.extend(self.extra.iter().cloned());
        flags
    }

    /// Room for one more member, of which nobody has been told. Its number, and its peer URL.
    pub(crate) fn place(&mut self) -> (usize, String) {
        self.urls.push(free_urls());
        self.members.push(None);
        (self.urls.len() - 1, self.urls[self.urls.len() - 1][1].clone())
    }

    /// Starts a member that the cluster waits for, and waits until it serves.
    pub(crate) fn join(&mut self, nth: usize) {
        self.revive_with(nth, &[EXISTING]);
    }

    /// Waits for the end of a member that the cluster has removed. How it ended, and all it said.
    pub(crate) fn leaves(&mut self, nth: usize) -> (ExitStatus, Vec<String>) {
        self.removed.insert(nth);
        self.members[nth].take().expect("it runs").wait()
    }

    /// Has a member that is removed while it is dead forgotten.
    pub(crate) fn forget(&mut self, nth: usize) {
        assert!(self.members[nth].is_none(), "it runs");
        self.removed.insert(nth);
    }

    /// Starts a member that was killed, and waits until it serves.
    pub(crate) fn revive(&mut self, nth: usize) {
        self.revive_with(nth, &[]);
    }

    pub(crate) fn revive_with(&mut self, nth: usize, more: &[&str]) {
        let mut process = self.begin_with(nth, more);
        process.serves();
        self.members[nth] = Some(process);
    }

    /// Starts a dead member alone, for good.
    pub(crate) fn alone(&mut self, nth: usize) {
        self.revive_with(nth, &["--force-new-cluster"]);
    }

    /// How many members there are, or were.
    pub(crate) fn places(&self) -> usize {
        self.members.len()
    }

    /// Whether a member was started, and neither killed nor seen leaving.
    pub(crate) fn runs(&self, nth: usize) -> bool {
        self.members[nth].is_some()
    }

    /// Starts all members, which are dead, at once.
    pub(crate) fn revive_all(&mut self, more: &[&str]) {
        self.members = (0..self.members.len()).map(|nth| Some(self.begin_with(nth, more))).collect();
        self.members.iter_mut().flatten().for_each(Process::serves);
    }

    /// Where a member is reached by others, as they are told.
    pub(crate) fn peer_url(&self, nth: usize) -> &str {
        &self.urls[nth][1]
    }

    /// Kills a member as a power cut would.
    pub(crate) fn kill(&mut self, nth: usize) {
        self.members[nth].take().expect("it runs").kill();
    }

    /// Stops a member as machines are stopped; what it said.
    pub(crate) fn terminate(&mut self, nth: usize) -> Vec<String> {
        let (status, lines) = self.members[nth].take().expect("it runs").terminate();
        assert_eq!(status.code(), Some(143), "{lines:#?}");
        lines
    }

    /// A member that runs.
    pub(crate) fn member(&mut self, nth: usize) -> &mut Process {
        self.members[nth].as_mut().expect("it runs")
    }

    /// Where a member serves clients.
    pub(crate) fn address(&self, nth: usize) -> SocketAddr {
        self.members[nth].as_ref().expect("it runs").client
    }

    pub(crate) async fn clients(&self, nth: usize) -> Clients {
        Clients::connect(self.address(nth)).await
    }

    pub(crate) async fn status(&self, nth: usize) -> StatusResponse {
        let mut clients = self.clients(nth).await;
        clients.maintenance.status(StatusRequest {}).await.unwrap().into_inner()
    }

    /// Who leads, as all members that run say.
    pub(crate) async fn leader(&self) -> usize {
        let until = Instant::now() + DEADLINE;
        let running: Vec<usize> = (0..self.members.len()).filter(|nth| self.members[*nth].is_some()).collect();
        loop {
            let mut leaders = Vec::new();
            for nth in &running {
                let status = self.status(*nth).await;
                leaders.push((status.leader, status.raft_term));
            }
            let agreed = leaders.windows(2).all(|pair| pair[0] == pair[1]);
            if agreed && leaders[0].0 != 0 {
                for nth in &running {
                    if self.status(*nth).await.header.unwrap().member_id == leaders[0].0 {
                        return *nth;
                    }
                }
            }
            assert!(Instant::now() < until, "no leader: {leaders:x?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until every member that runs has applied the same, and checks that it is the same.
    pub(crate) async fn agree(&self) {
        let until = Instant::now() + DEADLINE;
        let running: Vec<usize> = (0..self.members.len()).filter(|nth| self.members[*nth].is_some()).collect();
        loop {
            let mut hashes = Vec::new();
            for nth in &running {
                hashes.push(self.clients(*nth).await.hash_kv(0).await);
            }
            let last = hashes[0].0;
            if hashes.iter().all(|(revision, _)| *revision == last) {
                assert!(hashes.iter().all(|hash| *hash == hashes[0]), "they differ: {hashes:x?}");
                return;
            }
            assert!(Instant::now() < until, "they never meet: {hashes:x?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn free_urls() -> [String; 2] {
    free_addresses().map(|address| format!("http://{address}"))
}

/// Puts until it is done: a call whose leader is lost is told that nobody knows.
pub(crate) async fn put_at_last(clients: &mut Clients, key: &str, value: &str) {
    let until = Instant::now() + DEADLINE;
    loop {
        let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        match clients.kv.put(put).await {
            Ok(_) => return,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert!(Instant::now() < until, "{status}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_answers_everything() {
    let cluster = Cluster::start(3, &[]);
    let leader = cluster.leader().await;
    let mut ids = Vec::new();
    for nth in 0..3 {
        let (key, value) = (format!("k{nth}"), format!("v{nth}"));
        let mut clients = cluster.clients(nth).await;
        let revision = clients.put(&key, &value).await;
        for other in 0..3 {
            let mut clients = cluster.clients(other).await;
            let answer = clients.range(get(&key)).await;
            let header = answer.header.unwrap();
            assert_eq!((answer.kvs[0].value.as_ref(), header.revision), (value.as_bytes(), revision), "m{other}");
            assert!(header.raft_term > 1);
        }
        let status = cluster.status(nth).await;
        assert!(status.errors.is_empty(), "{:?}", status.errors);
        assert!(!status.is_learner);
        ids.push(status.header.unwrap().member_id);
        let list = clients.cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
        let mut names: Vec<_> = list.members.iter().map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["m0", "m1", "m2"]);
        assert_eq!(metric(cluster.address(nth), "etcd_server_has_leader"), 1);
        assert_eq!(metric(cluster.address(nth), "etcd_server_is_leader"), u64::from(nth == leader));
        assert_eq!(metric(cluster.address(nth), "etcd_network_known_peers"), 2);
        assert_eq!(http_get(cluster.address(nth), "/health").json()["health"], "true");
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "each speaks for itself");
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_and_ends_by_the_leaders_clock_whoever_is_asked() {
    let mut cluster = Cluster::start(3, &[]);
    let mut short = 0;
    for nth in 0..3 {
        let clients = cluster.clients(nth).await;
        let mut leases = LeaseClient::new(clients.channel.clone());
        let grant = |ttl| LeaseGrantRequest { ttl, id: 0 };
        let id = leases.lease_grant(grant(600)).await.unwrap().into_inner().id;
        let put = PutRequest { key: "k".into(), lease: id, ..Default::default() };
        clients.kv.clone().put(put).await.unwrap();
        for other in 0..3 {
            let mut leases = LeaseClient::new(cluster.clients(other).await.channel);
            let requests = tokio_stream::iter([LeaseKeepAliveRequest { id }, LeaseKeepAliveRequest { id: 1 }]);
            let mut answers = leases.lease_keep_alive(requests).await.unwrap().into_inner();
            assert_eq!(answers.next().await.unwrap().unwrap().ttl, 600);
            assert_eq!(answers.next().await.unwrap().unwrap().ttl, 0, "there is no lease 1");
            let ask = LeaseTimeToLiveRequest { id, keys: true };
            let left = leases.lease_time_to_live(ask).await.unwrap().into_inner();
            assert_eq!((left.granted_ttl, left.keys.len()), (600, 1));
            assert!((1..=600).contains(&left.ttl), "{left:?}");
            let none = leases.lease_time_to_live(LeaseTimeToLiveRequest { id: 1, keys: true }).await.unwrap();
            assert_eq!(none.into_inner().ttl, -1);
        }
        short = leases.lease_grant(grant(1)).await.unwrap().into_inner().id;
        let key = format!("short{nth}").into();
        clients.kv.clone().put(PutRequest { key, lease: short, ..Default::default() }).await.unwrap();
    }
    // The next leader goes on with their time, with nothing else to wake it.
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let mut leases = LeaseClient::new(cluster.clients((leader + 1) % 3).await.channel);
    let until = Instant::now() + DEADLINE;
    while leases.lease_time_to_live(LeaseTimeToLiveRequest { id: short, keys: false }).await.unwrap().into_inner().ttl
        >= 0
    {
        assert!(Instant::now() < until, "it never ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for nth in (0..3).filter(|nth| *nth != leader) {
        let mut clients = cluster.clients(nth).await;
        assert_eq!(clients.range(get("short2")).await.kvs.len(), 0);
        assert_eq!(clients.range(get("k")).await.kvs.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_member_may_be_killed_and_comes_back() {
    let mut cluster = Cluster::start(3, &[]);
    for round in 0..3 {
        // The leader first, then whoever.
        let victim = if round == 0 { cluster.leader().await } else { round };
        cluster.kill(victim);
        for nth in (0..3).filter(|nth| *nth != victim) {
            let mut clients = cluster.clients(nth).await;
            put_at_last(&mut clients, &format!("r{round}m{nth}"), "v").await;
        }
        cluster.revive(victim);
        let mut clients = cluster.clients(victim).await;
        for nth in (0..3).filter(|nth| *nth != victim) {
            assert_eq!(clients.range(get(&format!("r{round}m{nth}"))).await.kvs.len(), 1, "m{victim} has it");
        }
        put_at_last(&mut clients, &format!("r{round}m{victim}"), "v").await;
        cluster.agree().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over_first() {
    let mut cluster = Cluster::start(3, &[]);
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let mut ids = BTreeMap::new();
        for nth in (0..3).filter(|nth| *nth != leader) {
            ids.insert(format!("{:x}", cluster.status(nth).await.header.unwrap().member_id), nth);
        }
        let lines = cluster.terminate(leader);
        let handed_over = lines.iter().find(|line| line.contains("handed over leadership"));
        let handed_over: Value = serde_json::from_str(handed_over.expect("it says so")).unwrap();
        let heir = ids[handed_over["to"].as_str().unwrap()];
        put_at_last(&mut cluster.clients(heir).await, "k", "v").await;
        cluster.revive(leader);
    }
    cluster.agree().await;
}

/// It would take 40 s to miss a leader that only says nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_process_ends_is_missed_at_once() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.extra = ["--heartbeat-interval=100", "--election-timeout=40000"].map(str::to_owned).to_vec();
    for nth in 0..3 {
        cluster.terminate(nth);
        cluster.revive(nth);
    }
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let mut clients = cluster.clients((leader + 1) % 3).await;
    put_at_last(&mut clients, "k", "v").await;
}

/// Nobody knows what became of it, and nobody waits for what cannot come: without a word it would be told of a timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_the_last_leader_may_have_is_told_that_it_changed() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.clients(0).await.put("k", "v").await;
    cluster.agree().await;
    let leader = cluster.leader().await;
    let mut follower = cluster.clients((leader + 1) % 3).await;
    cluster.member(leader).freeze(true);
    let put = PutRequest { key: "k".into(), value: "w".into(), ..Default::default() };
    check_refused(follower.kv.put(put).await, Code::Unavailable, "etcdserver: leader changed");
    assert_eq!(follower.range(get("k")).await.kvs[0].value, "v");
    cluster.member(leader).freeze(false);
    cluster.agree().await;
    assert_eq!(follower.range(get("k")).await.kvs[0].value, "v", "a leader of the past takes it no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_ask_for_a_leader_end_when_there_is_none_for_long() {
    let mut cluster = Cluster::start(3, &[]);
    let channel = cluster.clients(2).await.channel;
    let request = |hasleader: &str| {
        let create = WatchCreateRequest { key: "k".into(), ..Default::default() };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let mut request = Request::new(tokio_stream::iter([create]).chain(tokio_stream::pending()));
        request.metadata_mut().insert("hasleader", hasleader.parse().unwrap());
        request
    };
    let mut watch = WatchClient::new(channel.clone());
    let mut asks = watch.watch(request("true")).await.unwrap().into_inner();
    let mut asks_not = watch.watch(request("false")).await.unwrap().into_inner();
    assert!(asks.message().await.unwrap().unwrap().created && asks_not.message().await.unwrap().unwrap().created);
    let mut alive = Request::new(tokio_stream::pending());
    alive.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let mut alive = LeaseClient::new(channel).lease_keep_alive(alive).await.unwrap().into_inner();
    cluster.kill(0);
    cluster.kill(1);
    let ended = async { [asks.message().await.map(drop), alive.message().await.map(drop)] };
    for ended in tokio::time::timeout(DEADLINE, ended).await.expect("they end") {
        let status = ended.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
    }
    cluster.revive(0);
    put_at_last(&mut cluster.clients(0).await, "k", "v").await;
    assert_eq!(asks_not.message().await.unwrap().unwrap().events.len(), 1, "who did not ask goes on");
}

/// Who watches through a member that is sent a snapshot has been told less than that holds.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_outlive_a_snapshot_or_are_told_where_history_begins() {
    // More than a member keeps of the log for others.
    const VALUES: i64 = 40;
    let mut cluster = Cluster::start(3, &[]);
    let leader = cluster.leader().await;
    let slow = (leader + 1) % 3;
    let slow_id = cluster.status(slow).await.header.unwrap().member_id;
    let mut clients = cluster.clients(leader).await;
    let first = clients.put("k", "v").await;
    cluster.agree().await;
    let channel = cluster.clients(slow).await.channel;
    let watch = async |start_revision| {
        let (key, range_end) = (b"k".as_slice().into(), b"l".as_slice().into());
        let create = WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = tokio_stream::iter([create]).chain(tokio_stream::pending());
        let mut answers = WatchClient::new(channel.clone()).watch(requests).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().unwrap().created);
        answers
    };
    let (compacted, last) = (first + VALUES / 2, first + VALUES);
    let mut from_now = watch(0).await;
    let mut from_then_on = watch(compacted).await;

    cluster.member(slow).freeze(true);
    // From here on nothing waits for it any more.
    cluster.member(leader).wait_for_line("it is out of reach", |line| {
        // At the start it may have been refused: it was not there yet.
        let is_refused = line["error"].as_str().is_some_and(|error| error.contains("refused"));
        let is_of_slow = line["remote-peer-id"] == format!("{slow_id:x}");
        line["msg"] == "cannot reach peer; trying on" && is_of_slow && !is_refused
    });
    let value = "x".repeat(1 << 20);
    for nth in 0..VALUES {
        clients.put(&format!("k{nth}"), &value).await;
    }
    let compact = CompactionRequest { revision: compacted, physical: false };
    clients.kv.compact(compact).await.unwrap();
    cluster.member(slow).freeze(false);
    cluster.member(slow).wait_for("applied snapshot");

    let mut told = compacted - 1;
    while told < last {
        for event in from_then_on.message().await.unwrap().unwrap().events {
            told += 1;
            assert_eq!(event.kv.unwrap().mod_revision, told, "none is left out, and none comes twice");
        }
    }
    let answer = from_now.message().await.unwrap().unwrap();
    assert!(answer.canceled && answer.events.is_empty(), "it is told of nothing but the gap");
    assert_eq!(answer.compact_revision, compacted);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_most_members_gone_only_serializable_reads_are_answered() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.clients(0).await.put("k", "v").await;
    cluster.agree().await;
    let mut last = cluster.clients(2).await;
    cluster.kill(0);
    cluster.kill(1);
    let mut read = get("k");
    read.serializable = true;
    assert_eq!(last.range(read).await.kvs.len(), 1);
    // 5 s and two election timeouts.
    let put = || Request::new(PutRequest { key: "k".into(), ..Default::default() });
    let refused = last.kv.put(put()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let told = refused.message().to_owned();
    let texts =
        ["etcdserver: leader changed", "etcdserver: request timed out, possibly due to previous leader failure"];
    assert!(texts.contains(&told.as_str()), "{told}");
    let mut at_once = put();
    at_once.metadata_mut().insert("hasleader", "true".parse().unwrap());
    check_refused(last.kv.put(at_once).await, Code::Unavailable, "etcdserver: no leader");
    cluster.revive(0);
    put_at_last(&mut last, "k2", "v").await;
    cluster.revive(1);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_far_behind_gets_a_snapshot() {
    // More than a member keeps of the log for others.
    const VALUES: usize = 40;
    let mut cluster = Cluster::start(3, &[]);
    cluster.kill(2);
    let mut clients = cluster.clients(0).await;
    let value = "x".repeat(1 << 20);
    for nth in 0..VALUES {
        put_at_last(&mut clients, &format!("big{nth}"), &value).await;
    }
    cluster.revive(2);
    cluster.member(2).wait_for("applied snapshot");
    assert_eq!(cluster.clients(2).await.range(get("big0")).await.kvs[0].value.len(), value.len());
    cluster.agree().await;
    cluster.kill(2);
    put_at_last(&mut clients, "after", "v").await;
    cluster.revive(2);
    assert_eq!(cluster.clients(2).await.range(get("after")).await.kvs.len(), 1, "it goes on from the snapshot");
    cluster.agree().await;
}
