//! The driver on a disk without room: writes are refused, nothing stops, and it goes on by itself.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kv_codec::command::{Body, CommandHeader, Put};
use kv_codec::member::Member;
use kv_raft::{
    Driver, DriverConfig, DriverEvent, Handle, LogIds, LogOptions, NodeConfig, RecoverOptions, RejectReason,
    TailLimits, recover,
};
use kv_sim::SimDisk;
use kv_sim::machine::Machine;
use kv_store::{Members, Store, ViewReader};

const OPTIONS: RecoverOptions = RecoverOptions {
    log: LogOptions {
        ids: LogIds { cluster_id: 1, member_id: 1 },
        segment_bytes_first: 1 << 16,
        segment_bytes_max: 1 << 16,
    },
    tail: TailLimits { entries_max: 100, bytes_max: 1 << 20 },
};

struct Member1 {
    driver: Handle,
    views: ViewReader,
    refused: Receiver<Vec<u64>>,
    thread: std::thread::JoinHandle<()>,
}

fn start(disk: &SimDisk) -> Member1 {
    let member = Member { id: 1, name: String::new(), peer_urls: vec![], client_urls: vec![], is_learner: false };
    let genesis = Machine::new(Store::genesis(Members::new([member], [])));
    let disk = Arc::new(disk.clone());
    let replica = recover(&disk, &OPTIONS, genesis).unwrap();
    let views = replica.machine.reader();
    let node =
        NodeConfig { id: 1, epoch: replica.epoch, seed: 1, election_ticks: 10, heartbeat_ticks: 1, tail: OPTIONS.tail };
    let config = DriverConfig {
        node,
        cluster_id: 1,
        tick: Duration::from_millis(5),
        snapshot_entries: None,
        snapshot_bytes_min: u64::MAX,
        batch_bytes_max: DriverConfig::BATCH_BYTES_MAX,
    };
    let (sender, refused) = channel();
    let on_event = Box::new(move |event| match event {
        DriverEvent::Rejected(numbers, RejectReason::NoSpace) => drop(sender.send(numbers)),
        DriverEvent::Fatal(error) => panic!("{error}"),
        _ => {}
    });
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let (driver, thread) = Driver::start(config, replica, disk, &logger, on_event);
    Member1 { driver, views, refused, thread }
}

impl Member1 {
    fn put(&self, seq: u64) {
        let (key, value) = (seq.to_be_bytes(), vec![7; 8 << 10]);
        let put = Put { key: &key, value: &value, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
        let header = CommandHeader { origin: 1, epoch: 1, seq, ..CommandHeader::default() };
        self.driver.propose(Body::Put(put).encode(&header)).unwrap();
    }

    /// Waits until so many keys are there.
    fn wait_for_keys(&self, keys: u64) {
        for _ in 0..10_000 {
            if self.views.load().live_keys() >= keys {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{} keys instead of {keys}", self.views.load().live_keys());
    }
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_by_itself() {
    let disk = SimDisk::new(1);
    let member = start(&disk);
    member.put(1);
    member.wait_for_keys(1);
    // The segment in use has room, the next one has not.
    disk.set_space(Some(0));
    let mut seq = 1;
    let refused = loop {
        seq += 1;
        member.put(seq);
        if let Ok(refused) = member.refused.recv_timeout(Duration::from_millis(20)) {
            break refused;
        }
        assert!(seq < 100, "a full disk takes everything");
    };
    assert_eq!(refused, [seq]);
    // The first write that found no room was taken and waits; reads are served meanwhile.
    let (taken, served) = (seq - 1, member.views.load().live_keys());
    assert_eq!(served, taken - 1);
    disk.set_space(None);
    member.wait_for_keys(taken);
    member.put(seq + 1);
    member.wait_for_keys(taken + 1);
    member.driver.shutdown();
    member.thread.join().unwrap();

    let again = start(&disk.power_loss(|| false));
    again.wait_for_keys(taken + 1);
    assert!(again.views.load().get(&seq.to_be_bytes()).is_none(), "a refused write is in no log");
}
