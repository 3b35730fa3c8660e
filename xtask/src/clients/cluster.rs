//! What etcdctl is asked to do with a cluster of three: look at it, move its leader, change its members, carry it into another one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::etcdctl::{Etcdctl, LINE_WITHIN, LOOK_EVERY};
use super::server::{Server, free_ports};
use crate::run::step;

/// A member's name, and the ports where clients and members reach it.
#[derive(Clone)]
struct Place {
    name: &'static str,
    client: u16,
    peer: u16,
    /// Where the others are to reach it later.
    moved: u16,
}

impl Place {
    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    fn moved_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.moved)
    }
}

/// Asks all of it.
pub(super) fn run(program: &Path, binary: &Path, directory: &Path) -> Result<()> {
    let ports = free_ports(12)?;
    let places = ["m1", "m2", "m3", "m4"].into_iter().zip(ports.chunks(3));
    let places = places.map(|(name, ports)| Place { name, client: ports[0], peer: ports[1], moved: ports[2] });
    let places: Vec<Place> = places.collect();
    let (three, fourth) = (&places[..3], &places[3]);
    let directory = directory.join(format!("cluster-{}", three[0].client));
    std::fs::create_dir_all(&directory)?;
    let mut servers = start(binary, &directory, three, &[])?;
    let clients: Vec<u16> = three.iter().map(|place| place.client).collect();
    let etcdctl = Etcdctl::new(program, &clients);
    is_complete(&etcdctl, 3)?;
    every_member_answers(program, &etcdctl, three)?;
    the_leader_moves(&etcdctl)?;
    a_member_comes_and_goes(&etcdctl, binary, &directory, fourth)?;
    is_complete(&etcdctl, 3)?;
    let backup = directory.join("backup");
    let backup = backup.to_string_lossy();
    Etcdctl::new(program, &clients[..1]).shows(&["snapshot", "save", &backup], "Snapshot saved at")?;
    servers.clear();
    let restored = directory.join("restored");
    restore(binary, &backup, &restored, three)?;
    let _servers = start(binary, &restored, three, &["--initial-cluster-token=restored"])?;
    is_complete(&etcdctl, 3)?;
    for place in three {
        Etcdctl::new(program, &[place.client]).expect(&["get", "k/m1"], "k/m1\nfrom m1\n")?;
    }
    etcdctl.expect(&["put", "after", "x"], "OK\n")
}

fn initial_cluster(places: &[Place]) -> String {
    places.iter().map(|place| format!("{}={}", place.name, place.peer_url())).collect::<Vec<_>>().join(",")
}

/// Starts all at once: each waits for most of the others.
fn start(binary: &Path, directory: &Path, places: &[Place], extra: &[&str]) -> Result<Vec<Server>> {
    let cluster = initial_cluster(places);
    let begin = |place: &Place| begin(binary, directory, place, &cluster, extra);
    let mut servers = places.iter().map(begin).collect::<Result<Vec<_>>>()?;
    servers.iter_mut().try_for_each(Server::wait_until_ready)?;
    Ok(servers)
}

fn begin(binary: &Path, directory: &Path, place: &Place, cluster: &str, extra: &[&str]) -> Result<Server> {
    let listen = format!("--listen-peer-urls={},{}", place.peer_url(), place.moved_url());
    let mut flags = vec!["--name", place.name, "--initial-cluster", cluster, &listen];
    flags.extend(extra);
    Server::begin(binary, &directory.join(place.name), (place.client, place.peer), &flags)
}

/// What each member says of itself.
fn statuses(etcdctl: &Etcdctl) -> Result<Vec<Value>> {
    let json = etcdctl.ask(&["endpoint", "status", "--cluster", "--write-out=json"])?;
    Ok(serde_json::from_str::<Value>(&json)?.as_array().context("a list")?.clone())
}

/// So many members are there, all well, one of them leads, and all hold the same.
fn is_complete(etcdctl: &Etcdctl, members: usize) -> Result<()> {
    let listed = etcdctl.ask(&["member", "list"])?;
    let started = listed.lines().filter(|line| line.contains(", started, ")).count();
    ensure!((started, listed.lines().count()) == (members, members), "{members} members are listed as {listed:?}");
    // It says so on stdout or on stderr, by its version; its exit code is what counts.
    etcdctl.ask(&["endpoint", "health", "--cluster"])?;
    let table = etcdctl.shows(&["endpoint", "status", "--cluster", "--write-out=table"], "RAFT TERM")?;
    ensure!(table.matches("http://127.0.0.1:").count() == members, "{members} members have the statuses\n{table}");
    let until = Instant::now() + LINE_WITHIN;
    loop {
        let statuses = statuses(etcdctl)?;
        let leaders: BTreeSet<_> = statuses.iter().filter_map(|status| status["Status"]["leader"].as_u64()).collect();
        let hashes = etcdctl.ask(&["endpoint", "hashkv", "--cluster"])?;
        let hashes: BTreeSet<_> = hashes.lines().filter_map(|line| line.split(", ").nth(1)).collect();
        if (statuses.len(), leaders.len(), hashes.len()) == (members, 1, 1) && !leaders.contains(&0) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "they never agree: {statuses:#?} {hashes:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

fn every_member_answers(program: &Path, all: &Etcdctl, places: &[Place]) -> Result<()> {
    for place in places {
        let (key, value) = (format!("k/{}", place.name), format!("from {}", place.name));
        Etcdctl::new(program, &[place.client]).expect(&["put", &key, &value], "OK\n")?;
        for other in places {
            Etcdctl::new(program, &[other.client]).expect(&["get", &key], &format!("{key}\n{value}\n"))?;
        }
    }
    all.expect(&["del", "--prefix", "k/m2"], "1\n")
}

fn the_leader_moves(etcdctl: &Etcdctl) -> Result<()> {
    let statuses = statuses(etcdctl)?;
    let leader = statuses[0]["Status"]["leader"].as_u64().context("a leader")?;
    let ids = statuses.iter().filter_map(|status| status["Status"]["header"]["member_id"].as_u64());
    let heir = ids.into_iter().find(|id| *id != leader).context("another member")?;
    let (from, to) = (format!("{leader:x}"), format!("{heir:x}"));
    etcdctl.expect(&["move-leader", &to], &format!("Leadership transferred from {from} to {to}\n"))?;
    let moved = self::statuses(etcdctl)?;
    ensure!(
        moved.iter().any(|status| status["Status"]["leader"] == heir),
        "nobody knows of the new leader: {moved:#?}"
    );
    etcdctl.refused(&["move-leader", "7"], "bad leader transferee")
}

/// A learner is added, started with what etcdctl printed, promoted, given another URL, and removed.
fn a_member_comes_and_goes(etcdctl: &Etcdctl, binary: &Path, directory: &Path, place: &Place) -> Result<()> {
    let add = ["member", "add", place.name, "--learner", "--peer-urls", &place.peer_url()];
    // Until then the members have been connected for too short a time.
    let added = etcdctl.ask_at_last(&add, "unhealthy cluster")?;
    // Set in 16 columns: an id that begins with zeroes has blanks before it.
    let id = added.split_whitespace().nth(1).context("the member's id")?;
    let line = added.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER=\""));
    let cluster = line.and_then(|line| line.strip_suffix('"')).context("what to start it with")?;
    etcdctl.refused(&["member", "promote", id], "can only promote a learner member which is in sync with leader")?;
    let mut server = begin(binary, directory, place, cluster, &["--initial-cluster-state=existing"])?;
    let promoted = etcdctl.ask_at_last(&["member", "promote", id], "in sync with leader")?;
    ensure!(promoted.contains("promoted in cluster"), "{promoted}");
    server.wait_until_ready()?;
    is_complete(etcdctl, 4)?;
    etcdctl.shows(&["member", "update", id, "--peer-urls", &place.moved_url()], "updated in cluster")?;
    etcdctl.shows(&["member", "list"], &place.moved_url())?;
    etcdctl.expect(&["put", "moved", "x"], "OK\n")?;
    is_complete(etcdctl, 4)?;
    // The connections to where it is now are new.
    let removed = etcdctl.ask_at_last(&["member", "remove", id], "unhealthy cluster")?;
    ensure!(removed.contains("removed from cluster"), "{removed}");
    server.ends()?;
    etcdctl.refused(&["member", "remove", id], "member not found")
}

/// The same backup on each machine, each with its own name.
fn restore(binary: &Path, backup: &str, directory: &Path, places: &[Place]) -> Result<()> {
    let cluster = initial_cluster(places);
    for place in places {
        let mut restore = Command::new(binary);
        restore.args(["snapshot", "restore", backup, "--data-dir"]).arg(directory.join(place.name));
        restore.args(["--name", place.name, "--initial-cluster", &cluster, "--initial-cluster-token", "restored"]);
        step(restore.args(["--initial-advertise-peer-urls", &place.peer_url()]))?;
    }
    Ok(())
}
