//! Members of one process: what one's driver sends, another's gets, over no network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use slog::Logger;

use crate::disk::Disk;
use crate::driver::{DriverEvent, Handle};
use crate::file_log::LogIds;
use crate::io::{Envelope, Input, PeerMessage};
use crate::member::Member;
use crate::recovery::{RecoverError, write_snapshot};
use crate::state_machine::StateMachine;
use crate::tail::Position;

/// Carries messages and snapshots between the members of one process: for examples and tests.
///
/// * What is for a member that has not joined, or has stopped, is lost, as on any network.
/// * A snapshot is written to its follower's disk by the sender's thread: meant for small states.
#[derive(Debug)]
pub struct Loopback<D> {
    members: Mutex<BTreeMap<u64, (Handle, Arc<D>)>>,
}

impl<D> Default for Loopback<D> {
    fn default() -> Self {
        Self { members: Mutex::default() }
    }
}

impl<D: Disk> Loopback<D> {
    /// [`Member::start`] of one that talks to those that joined, and they to it. `on_event` gets all events but messages and
    /// snapshots.
    ///
    /// # Errors
    /// [`RecoverError`]; nothing was started.
    ///
    /// # Panics
    /// When the operating system has no thread left.
    pub fn join<M: StateMachine>(
        self: &Arc<Self>,
        ids: LogIds,
        disk: &Arc<D>,
        genesis: M,
        logger: &Logger,
        mut on_event: impl FnMut(DriverEvent<M::Image>) + Send + 'static,
    ) -> Result<Member, RecoverError> {
        let network = Arc::clone(self);
        let route = move |event| match event {
            DriverEvent::Messages(messages) => messages.into_iter().for_each(|message| network.deliver(message)),
            DriverEvent::Snapshot(message, image) => network.deliver_snapshot::<M>(ids.cluster_id, message, &image),
            other => on_event(other),
        };
        let member = Member::start(ids, disk, genesis, logger, route)?;
        self.members().insert(ids.member_id, (member.handle().clone(), Arc::clone(disk)));
        Ok(member)
    }

    fn deliver(&self, message: Envelope) {
        if let Some((to, _)) = self.members().get(&message.to) {
            // One that has stopped hears nothing.
            let _ = to.input(Input::Message(message));
        }
    }

    fn deliver_snapshot<M: StateMachine>(&self, cluster_id: u64, message: Envelope, image: &M::Image) {
        let (from, to) = (message.from, message.to);
        let follower = self.members().get(&to).cloned();
        let ok = follower.is_some_and(|(handle, disk)| {
            let at = position(&message);
            // What it has already may be what it reads just now.
            let has_it = handle.status().numbers().applied >= at.index;
            let written = has_it || write_snapshot::<M, D>(disk.as_ref(), cluster_id, at, image).is_ok();
            written && handle.input(Input::Message(message)).is_ok()
        });
        if let Some((sender, _)) = self.members().get(&from) {
            let _ = sender.input(Input::SnapshotSent { to, ok });
        }
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<u64, (Handle, Arc<D>)>> {
        self.members.lock().expect("nothing panics under the lock")
    }
}

/// Where the snapshot of this message stands.
fn position(message: &Envelope) -> Position {
    let PeerMessage::Raft(message) = &message.body else {
        unreachable!("snapshots travel beside raft's own messages");
    };
    let metadata = message.get_snapshot().get_metadata();
    Position { index: metadata.index, term: metadata.term }
}
