//! [`Member`] and [`Loopback`]: whole members with a state machine of their own, in one process.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use kv_raft::{
    CommandHeader, ConfChange, Disk, LogEntry, LogIds, Loopback, MachineError, Member, Membership, Position, RealDisk,
    StateMachine, SyncMode, commands,
};
use slog::{Discard, Logger, o};

/// Bytes that all commands had together.
struct Total {
    bytes: u64,
    at: Position,
    voters: Vec<u64>,
    results: Sender<(u64, u64)>,
}

impl StateMachine for Total {
    type Response = u64;
    type Image = [u64; 3];

    fn apply(&mut self, entry: &LogEntry, responses: &mut Vec<u64>) -> Result<(), MachineError> {
        self.at = Position { index: entry.index, term: entry.term };
        for command in commands(entry)? {
            self.bytes += command.body.len() as u64;
            responses.push(self.bytes);
        }
        Ok(())
    }

    fn done(&mut self, results: Vec<(u64, u64)>) {
        results.into_iter().for_each(|result| self.results.send(result).unwrap());
    }

    fn applied(&self) -> Position {
        self.at
    }

    fn membership(&self) -> Membership {
        Membership { voters: self.voters.clone(), learners: vec![] }
    }

    fn image(&self) -> [u64; 3] {
        [self.bytes, self.at.index, self.at.term]
    }

    fn write_image<E>(image: &[u64; 3], sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        image.iter().try_for_each(|number| sink(&number.to_le_bytes()))
    }

    fn install(&mut self, source: &mut dyn FnMut() -> Result<Option<Bytes>, MachineError>) -> Result<(), MachineError> {
        let mut number = || Ok(u64::from_le_bytes(source()?.unwrap()[..].try_into().unwrap()));
        self.bytes = number()?;
        self.at = Position { index: number()?, term: number()? };
        Ok(())
    }
}

/// Members of one cluster, each with a directory.
struct Cluster {
    dir: tempfile::TempDir,
    network: Arc<Loopback<RealDisk>>,
    voters: Vec<u64>,
}

impl Cluster {
    fn new(voters: &[u64]) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), network: Arc::default(), voters: voters.to_vec() }
    }

    fn start(&self, member_id: u64) -> (Member, Receiver<(u64, u64)>) {
        let disk = Arc::new(RealDisk::new(self.dir.path().join(member_id.to_string()), SyncMode::UnsafeNone));
        disk.make_dir("").unwrap();
        let (results, inbox) = channel();
        let total = Total { bytes: 0, at: Position::GENESIS, voters: self.voters.clone(), results };
        let ids = LogIds { cluster_id: 7, member_id };
        let member = self.network.join(ids, &disk, total, &Logger::root(Discard, o!()), |_| ()).unwrap();
        (member, inbox)
    }
}

/// Proposes until there is a result: on a machine that stands still a leader may be lost, and what was on its way to it.
fn ask(member: &Member, results: &Receiver<(u64, u64)>, body: &[u8]) -> u64 {
    loop {
        member.wait_for_leader().unwrap();
        member.propose(body).unwrap();
        if let Ok((_, total)) = results.recv_timeout(Duration::from_secs(10)) {
            return total;
        }
    }
}

#[test]
fn a_result_comes_to_the_member_that_asked_and_outlives_a_restart() {
    let cluster = Cluster::new(&[1]);
    let (member, results) = cluster.start(1);
    assert_eq!(member.wait_for_leader(), Some(1));
    assert_eq!(member.propose(b"four").unwrap(), 1);
    assert_eq!(member.propose(b"seven").unwrap(), 2);
    assert_eq!((results.recv().unwrap(), results.recv().unwrap()), ((1, 4), (2, 9)));
    drop(member);

    let (member, results) = cluster.start(1);
    member.wait_for_leader().unwrap();
    member.propose(b"").unwrap();
    assert_eq!(results.recv().unwrap(), (1, 9), "numbers begin anew, the state goes on");
}

/// Its log begins above what the others still have: it can go on from nothing but a snapshot.
#[test]
fn a_member_that_comes_late_gets_the_state_as_a_snapshot() {
    const MIB: usize = 1 << 20;
    let cluster = Cluster::new(&[1, 2, 3]);
    let (first, results) = cluster.start(1);
    let (_second, _) = cluster.start(2);
    first.wait_for_leader().unwrap();
    // More than the 32 MiB that a member keeps for those who are a little behind.
    for _ in 0..40 {
        ask(&first, &results, &[0; MIB]);
    }
    let (late, results) = cluster.start(3);
    assert!(ask(&late, &results, b"!") > 40 * MIB as u64);
}

#[test]
fn a_machine_without_membership_changes_refuses_them_and_goes_on() {
    let cluster = Cluster::new(&[1]);
    let (member, results) = cluster.start(1);
    member.wait_for_leader().unwrap();
    // Of a run that was not this one: its result is nobody's.
    let command = CommandHeader { origin: 1, epoch: 0, seq: 1, ..CommandHeader::default() }.encode(b"four");
    member.handle().propose_conf_change(ConfChange::AddLearner(9), command).unwrap();
    member.propose(b"!").unwrap();
    assert_eq!(results.recv().unwrap(), (1, 5), "the command beside the change was applied as any other");
}
