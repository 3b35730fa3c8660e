//! `--force-new-cluster`: a member that goes on alone because the others are lost.
//!
//! What its log holds counts, whether or not it was known to be committed: any of it may have been acknowledged, and what was not may
//! still come to be. The cluster that it makes has an id of its own, so that whoever of the old one comes back is a stranger to it.

use std::sync::Arc;

use kv_codec::record::EntryKind;
use kv_raft::{RealDisk, RecoverError, RecoverOptions, StateMachine, SyncMode, TailLimits, recover};
use kv_store::Store;
use thiserror::Error;
use tokio::sync::watch;

use crate::bell;
use crate::data_dir::{DataDir, DataDirError, Identity};
use crate::ids;
use crate::machine::Machine;
use crate::server::log_options;

/// Why a member cannot go on alone.
#[derive(Debug, Error)]
pub enum AloneError {
    /// The directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What it holds.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// It was removed, or has never heard of its cluster.
    #[error("this member is none of its cluster's, by what its log says: there is nothing that it could go on with")]
    NoMember,
}

/// Makes a cluster of this member alone of what the directory holds. The ids of the members that are no more; `None` when it is alone
/// already.
pub(crate) fn go_on_alone(data_dir: &mut DataDir) -> Result<Option<Vec<u64>>, AloneError> {
    let old = data_dir.identity();
    let disk = Arc::new(RealDisk::new(data_dir.path(), SyncMode::Fsync));
    let options = |identity| RecoverOptions { log: log_options(identity), tail: TailLimits::default() };
    let mut replica = recover(&disk, &options(old), machine(Store::newcomer()))?;
    let rest = replica.node.entries.iter().filter(|entry| entry.index > replica.node.applied);
    for entry in rest {
        let applied = match entry.kind {
            EntryKind::Normal => replica.machine.apply(entry, &mut Vec::new()),
            EntryKind::ConfChange => replica.machine.apply_conf_change(entry).map(drop),
        };
        applied.map_err(RecoverError::from)?;
    }
    let view = replica.machine.store().view().clone();
    let others: Vec<u64> = view.members().iter().map(|member| member.id).filter(|id| *id != old.member_id).collect();
    let view = view.alone(old.member_id, replica.node.hard_state.term).map_err(|_| AloneError::NoMember)?;
    if others.is_empty() && view.members() == replica.machine.store().view().members() {
        return Ok(None);
    }
    drop(replica);
    let new = Identity { cluster_id: ids::cluster_id(&[old.cluster_id, old.member_id]), ..old };
    let next = Arc::new(RealDisk::new(&data_dir.begin_replacing()?, SyncMode::Fsync));
    recover(&next, &options(new), machine(Store::from_view(view)))?;
    data_dir.replace(new)?;
    Ok(Some(others))
}

/// A state machine that tells nobody.
fn machine(store: Store) -> Machine {
    Machine::new(store, bell::Sender::nowhere(), watch::channel(0).0)
}
