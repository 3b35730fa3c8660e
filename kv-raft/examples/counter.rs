//! A counter on three members of one process: who adds to it, on any member, is told the sum.
use std::{sync::Arc, sync::mpsc, time::Duration};

use bytes::Bytes;
use kv_raft::*;

/// The sum, the last entry in it, and whom to tell.
struct Counter(u64, Position, mpsc::Sender<u64>);

impl StateMachine for Counter {
    type Response = u64;
    type Image = [u64; 3];
    fn apply(&mut self, entry: &LogEntry, sums: &mut Vec<u64>) -> Result<(), MachineError> {
        self.1 = Position { index: entry.index, term: entry.term };
        for command in commands(entry)? {
            self.0 += command.body.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            sums.push(self.0);
        }
        Ok(())
    }
    fn done(&mut self, sums: Vec<(u64, u64)>) {
        sums.iter().for_each(|(_seq, sum)| self.2.send(*sum).expect("main listens"));
    }
    fn applied(&self) -> Position {
        self.1
    }
    fn membership(&self) -> Membership {
        Membership { voters: vec![1, 2, 3], learners: vec![] }
    }
    fn image(&self) -> [u64; 3] {
        [self.0, self.1.index, self.1.term]
    }
    fn write_image<E>(image: &[u64; 3], sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        image.iter().try_for_each(|number| sink(&number.to_le_bytes()))
    }
    fn install(&mut self, source: &mut dyn FnMut() -> Result<Option<Bytes>, MachineError>) -> Result<(), MachineError> {
        let mut number = || source()?.and_then(|chunk| chunk[..].try_into().ok()).ok_or(MachineError("cut".into()));
        let [sum, index, term] = [number()?, number()?, number()?].map(u64::from_le_bytes);
        (self.0, self.1) = (sum, Position { index, term });
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (dir, logger) = (tempfile::tempdir()?, slog::Logger::root(slog::Discard, slog::o!()));
    let (network, (told, sums)) = (Arc::new(Loopback::default()), mpsc::channel());
    let mut members = Vec::new();
    for member_id in 1..=3 {
        let disk = Arc::new(RealDisk::new(dir.path().join(member_id.to_string()), SyncMode::Fsync));
        disk.make_dir("")?;
        let (ids, zero) = (LogIds { cluster_id: 7, member_id }, Counter(0, Position::GENESIS, told.clone()));
        members.push(network.join(ids, &disk, zero, &logger, |_| ())?);
    }
    for member in &members {
        member.wait_for_leader().ok_or("the driver has stopped")?;
        member.propose(&[2])?;
        println!("the sum is {}", sums.recv_timeout(Duration::from_secs(30))?);
    }
    Ok(())
}
