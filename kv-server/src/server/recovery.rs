//! What the disk held: recovered, forced to go on alone, or replaced by what the others have.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kv_raft::{FileLog, RealDisk, RecoverOptions, Replica, SyncMode, TailLimits, recover};
use kv_store::Store;
use slog::{Logger, info, warn};
use tokio::sync::watch;

use super::{StartError, log_options};
use crate::bell;
use crate::config::Config;
use crate::data_dir::{DataDir, Identity, Resync};
use crate::machine::Machine;
use crate::waiters::Completion;
use crate::{alone, join, resync};

/// What the disk held, and where its results go.
pub(super) struct Recovered {
    pub(super) data_dir: Arc<Mutex<DataDir>>,
    pub(super) disk: Arc<RealDisk>,
    pub(super) replica: Replica<Machine, FileLog<RealDisk>>,
}

/// Recovers what the directory holds. If that is damaged, and if it was asked for, the others replace this member, which begins anew.
pub(super) async fn recover_or_resync(
    config: &Arc<Config>,
    identity: Identity,
    genesis: Store,
    (completions, applied): (&bell::Sender<Completion>, watch::Sender<u64>),
    logger: &Logger,
) -> Result<Recovered, StartError> {
    let machine = |store| Machine::new(store, completions.clone(), applied.clone());
    let damage = match recover_beside(config, identity, machine(genesis), logger).await {
        Err(error) if config.resync_from_cluster && error.is_damage() => error.to_string(),
        Ok(recovered) => {
            let resync = locked(&recovered.data_dir).resync();
            match resync {
                // What was damaged is whole again, too late: the others have begun to replace it.
                Some(Resync::Asked { new, .. }) if config.resync_from_cluster && is_known(config, new).await => {
                    "the others have begun to replace this member".to_owned()
                }
                _ => {
                    if config.resync_from_cluster && !recovered.replica.report.fresh && resync.is_none() {
                        warn!(
                            logger,
                            "--resync-from-cluster has nothing to do: this member's log and snapshot are whole"
                        );
                    }
                    return Ok(recovered);
                }
            }
        }
        Err(error) => return Err(error),
    };
    warn!(logger, "re-syncing from the cluster"; "error" => damage);
    let identity = resync::begin_anew(config, logger).await?;
    recover_beside(config, identity, machine(Store::newcomer()), logger).await
}

/// Whether the others have a member with this id.
async fn is_known(config: &Config, id: u64) -> bool {
    join::reach_others(config).await.iter().any(|(_, other)| other.members.iter().any(|member| member.id == id))
}

pub(super) fn locked(data_dir: &Mutex<DataDir>) -> MutexGuard<'_, DataDir> {
    data_dir.lock().expect("nobody panics with it")
}

/// Recovers on a thread beside the runtime's: it reads all that there is.
async fn recover_beside(
    config: &Arc<Config>,
    new: Identity,
    genesis: Machine,
    logger: &Logger,
) -> Result<Recovered, StartError> {
    let (config, logger) = (Arc::clone(config), logger.clone());
    let recovering = tokio::task::spawn_blocking(move || recover_member(&config, new, genesis, &logger));
    recovering.await.map_err(|_| StartError::Interrupted)?
}

fn recover_member(config: &Config, new: Identity, genesis: Machine, logger: &Logger) -> Result<Recovered, StartError> {
    let mut data_dir = DataDir::open(&config.data_dir, new)?;
    if config.force_new_cluster && data_dir.is_started() {
        force_new_cluster(&mut data_dir, config, logger)?;
    }
    let sync = if config.unsafe_no_fsync { SyncMode::UnsafeNone } else { SyncMode::Fsync };
    let disk = Arc::new(RealDisk::new(data_dir.path(), sync));
    let options = RecoverOptions { log: log_options(data_dir.identity()), tail: TailLimits::default() };
    let replica = recover(&disk, &options, genesis).map_err(|source| StartError::Recover {
        path: config.data_dir.clone(),
        others: config.initial_cluster.len() > 1,
        source,
    })?;
    data_dir.note_log()?;
    Ok(Recovered { data_dir: Arc::new(Mutex::new(data_dir)), disk, replica })
}

fn force_new_cluster(data_dir: &mut DataDir, config: &Config, logger: &Logger) -> Result<(), StartError> {
    let others =
        alone::go_on_alone(data_dir).map_err(|source| StartError::Alone { path: config.data_dir.clone(), source })?;
    if let Some(others) = others {
        let removed = others.iter().map(|id| format!("{id:x}")).collect::<Vec<_>>().join(",");
        warn!(logger, "forced a new cluster of this member alone; start it without --force-new-cluster from now on";
            "cluster-id" => format!("{:x}", data_dir.identity().cluster_id), "removed" => removed);
    }
    Ok(())
}

/// One line that says what was there, and what it has come to.
pub(super) fn log_recovery(logger: &Logger, Recovered { data_dir, replica, .. }: &Recovered, took: Duration) {
    let identity = locked(data_dir).identity();
    let (view, report) = (replica.machine.store().view(), &replica.report);
    let what = if report.fresh { "started a new member" } else { "recovered" };
    info!(logger, "{}", what;
        "cluster-id" => format!("{:x}", identity.cluster_id),
        "member-id" => format!("{:x}", identity.member_id),
        "revision" => view.revision(),
        "keys" => view.live_keys(),
        "snapshot-index" => report.snapshot.index,
        "entries-applied" => report.entries_applied,
        "entries-uncommitted" => report.entries_uncommitted,
        "cut" => report.cut.as_deref().unwrap_or("none"),
        "boot-epoch" => replica.epoch,
        "took" => format!("{took:?}"),
    );
}
