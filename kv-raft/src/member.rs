//! A running member in one value: for those who want a replicated state machine and nothing special.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use kv_codec::command::CommandHeader;
use slog::Logger;

use crate::disk::Disk;
use crate::driver::{Driver, DriverConfig, DriverEvent, Handle, ProposeError};
use crate::file_log::LogIds;
use crate::node::NodeConfig;
use crate::recovery::{RecoverError, RecoverOptions, recover};
use crate::state_machine::StateMachine;

/// A state machine that runs on this member: recovered, driven, and given commands of any bytes.
///
/// * Sequence numbers rise in the order in which commands are queued.
/// * Dropping it finishes what was queued, says in the log that all of it is durable, and waits for the driver's end.
#[derive(Debug)]
pub struct Member {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    id: u64,
    epoch: u64,
    /// The last sequence number. Held while a command is queued.
    seq: Mutex<u64>,
    leader: Arc<Leader>,
}

/// The leader as it was last heard of, 0 for none; nothing once the driver has stopped by itself.
#[derive(Debug)]
struct Leader {
    known: Mutex<Option<u64>>,
    changed: Condvar,
}

impl Leader {
    fn set(&self, leader: Option<u64>) {
        *self.known.lock().expect("nothing panics under the lock") = leader;
        self.changed.notify_all();
    }
}

impl Member {
    /// Recovers the member `ids` names from `disk` and drives it. `genesis` is the state of a new cluster, as of entry 1 of term 1;
    /// `on_event` is called on the driver's thread and carries the messages.
    ///
    /// # Errors
    /// [`RecoverError`]; nothing was started.
    ///
    /// # Panics
    /// When the operating system has no thread left.
    pub fn start<M: StateMachine, D: Disk>(
        ids: LogIds,
        disk: &Arc<D>,
        genesis: M,
        logger: &Logger,
        mut on_event: impl FnMut(DriverEvent<M::Image>) + Send + 'static,
    ) -> Result<Self, RecoverError> {
        let replica = recover(disk, &RecoverOptions::new(ids), genesis)?;
        let (id, epoch) = (ids.member_id, replica.epoch);
        let config = DriverConfig::new(NodeConfig::new(id, epoch), ids.cluster_id);
        let leader = Arc::new(Leader { known: Mutex::new(Some(0)), changed: Condvar::new() });
        let heard = Arc::clone(&leader);
        let listen = move |event| {
            match &event {
                DriverEvent::Leadership(leadership) => heard.set(Some(leadership.leader)),
                DriverEvent::Fatal(_) => heard.set(None),
                _ => {}
            }
            on_event(event);
        };
        let (handle, thread) = Driver::start(config, replica, Arc::clone(disk), logger, Box::new(listen));
        Ok(Self { handle, thread: Some(thread), id, epoch, seq: Mutex::new(0), leader })
    }

    /// Waits until a leader is known: its id. Nothing when the driver has stopped by itself.
    ///
    /// # Panics
    /// When another thread panicked in here.
    #[must_use]
    pub fn wait_for_leader(&self) -> Option<u64> {
        let known = self.leader.known.lock().expect("nothing panics under the lock");
        *self.leader.changed.wait_while(known, |known| *known == Some(0)).expect("nothing panics under the lock")
    }

    /// Queues a command; its sequence number, by which [`StateMachine::done`] or [`DriverEvent::Rejected`] tells what became of it.
    /// Neither comes when the leader is lost meanwhile: its outcome is then unknown.
    ///
    /// # Errors
    /// [`ProposeError`]; the command is in no log.
    ///
    /// # Panics
    /// When another thread panicked in here.
    pub fn propose(&self, body: &[u8]) -> Result<u64, ProposeError> {
        let mut last = self.seq.lock().expect("nothing panics under the lock");
        let seq = *last + 1;
        let header = CommandHeader { origin: self.id, epoch: self.epoch, seq, ..CommandHeader::default() };
        self.handle.propose(header.encode(body))?;
        *last = seq;
        Ok(seq)
    }

    /// The driver: its numbers, reads, inputs.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            // A driver that panicked has ended the process.
            drop(thread.join());
        }
    }
}
