//! Whether all members hold the same: hashes of the history, compared at equal revisions and equal compactions.
//!
//! * A member compares itself with the others before it serves clients, if it is to: one that differs does not begin to serve.
//! * The leader compares all of them from time to time, and what each had at every compaction.
//!
//! Where they differ, those that differ from most members are corrupt; where there is no such majority, nobody knows who is, and the alarm
//! names member 0. With the alarm raised, nothing is written any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_store::KvHash;
use slog::{Logger, debug, error, info, warn};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::peer::{Answer, Question};
use crate::service::{Core, aside};
use crate::status::ApiError;

/// How long a member that starts waits for the hashes of the others: they may be starting, too, or be down.
const INITIAL_PATIENCE: Duration = Duration::from_secs(5);
/// How long the leader waits: a hash takes time in proportion to the history.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before a member is asked again: it may have yet to reach the revision.
const PAUSE: Duration = Duration::from_millis(100);
/// Who is named when nobody knows who is corrupt, as in etcd.
const NOBODY: u64 = 0;

/// This member holds something else than others, at a revision that all have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "found data inconsistency with peers: at revision {revision} this member's hash is {hash:08x}, other members have another one ({others}); \
     do not start it on this data: remove the member from the cluster, and add it anew with an empty directory"
)]
pub struct Inconsistent {
    revision: i64,
    hash: u32,
    /// Who has which.
    others: String,
}

/// The hashes of all members at one revision; none of those that gave none that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Compared {
    own: KvHash,
    hashes: BTreeMap<u64, Option<u32>>,
}

impl Compared {
    /// Whether every member gave its hash.
    fn is_complete(&self) -> bool {
        self.hashes.values().all(Option::is_some)
    }

    /// Those whose hash is not this member's.
    fn others(&self) -> Vec<String> {
        let differs = |(id, hash): (&u64, &Option<u32>)| {
            let hash = hash.filter(|hash| *hash != self.own.hash)?;
            Some(format!("{id:x}: {hash:08x}"))
        };
        self.hashes.iter().filter_map(differs).collect()
    }

    /// Who is corrupt.
    fn corrupt(&self) -> Vec<u64> {
        let mut counts = BTreeMap::new();
        for hash in self.hashes.values().flatten() {
            *counts.entry(*hash).or_insert(0) += 1;
        }
        if counts.len() < 2 {
            return Vec::new();
        }
        let most = counts.into_iter().find(|(_, count)| *count > self.hashes.len() / 2);
        let Some((right, _)) = most else {
            return vec![NOBODY];
        };
        let wrong = self.hashes.iter().filter(|(_, hash)| hash.is_some_and(|hash| hash != right));
        wrong.map(|(id, _)| *id).collect()
    }
}

/// Hashes the history up to `revision` (0: the current one) on every member.
async fn compare(core: &Arc<Core>, revision: i64, patience: Duration) -> Result<Compared, ApiError> {
    core.metrics.corruption_checks.inc();
    let own = core.kv_hash(revision).await?;
    let mut asked = JoinSet::new();
    for id in core.views.load_full().members().iter().map(|member| member.id).filter(|id| *id != core.member_id) {
        let core = Arc::clone(core);
        asked.spawn(async move { (id, ask(&core, id, own, patience).await) });
    }
    let mut hashes = BTreeMap::from([(core.member_id, Some(own.hash))]);
    hashes.extend(asked.join_all().await);
    Ok(Compared { own, hashes })
}

/// What a member has at the revision of `own`; none when it cannot be compared.
async fn ask(core: &Core, id: u64, own: KvHash, patience: Duration) -> Option<u32> {
    let answered = async {
        loop {
            match core.peers.ask(id, Question::Hash(own.revision)).await {
                Some(Answer::Hash(hash)) => {
                    return Some(hash).filter(|hash| hash.compact_revision == own.compact_revision);
                }
                // It was compacted meanwhile: to wait brings nothing.
                Some(Answer::Unknown) => return None,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    Some(tokio::time::timeout(patience, answered).await.ok()??.hash)
}

/// Compares this member with the others before it serves. Those that do not answer are passed over.
pub(crate) async fn check_initially(core: &Arc<Core>, logger: &Logger) -> Result<(), Inconsistent> {
    info!(logger, "starting initial corruption check"; "timeout" => ?INITIAL_PATIENCE);
    let compared = match compare(core, 0, INITIAL_PATIENCE).await {
        Ok(compared) => compared,
        Err(error) => {
            warn!(logger, "no initial corruption check"; "error" => %error);
            return Ok(());
        }
    };
    let (own, others) = (compared.own, compared.others());
    if !others.is_empty() {
        core.metrics.corruptions.inc();
        return Err(Inconsistent { revision: own.revision, hash: own.hash, others: others.join(", ") });
    }
    if !compared.is_complete() {
        warn!(logger, "initial corruption check without some members, which gave no hash to compare"; "members" => silent(&compared));
    }
    info!(logger, "initial corruption checking passed; no corruption"; "revision" => own.revision);
    Ok(())
}

fn silent(compared: &Compared) -> String {
    let silent = compared.hashes.iter().filter(|(_, hash)| hash.is_none()).map(|(id, _)| format!("{id:x}"));
    silent.collect::<Vec<_>>().join(",")
}

/// Compares all members now and then, as long as this one leads, until the server stops.
pub(crate) async fn check_periodically(
    core: Arc<Core>,
    every: Duration,
    logger: Logger,
    mut stop: watch::Receiver<()>,
) {
    while pause(every, &mut stop).await {
        if core.leads() {
            check(&core, 0, &logger).await;
        }
    }
}

/// Compares what all members had at each compaction, as long as this one leads, until the server stops.
pub(crate) async fn check_compactions(core: Arc<Core>, every: Duration, logger: Logger, mut stop: watch::Receiver<()>) {
    let mut checked = 0;
    while pause(every, &mut stop).await {
        let compacted: Vec<i64> =
            core.views.load_full().compacted_at().filter(|revision| *revision > checked).collect();
        for revision in compacted {
            // One that not all could answer is looked at again, until it is forgotten.
            if !core.leads() || !check(&core, revision, &logger).await {
                break;
            }
            checked = revision;
        }
    }
}

/// False when the server stops.
async fn pause(every: Duration, stop: &mut watch::Receiver<()>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(every) => true,
        _ = stop.changed() => false,
    }
}

/// Compares all members at a revision, and raises the alarm for those that differ. Whether all could be compared.
async fn check(core: &Arc<Core>, revision: i64, logger: &Logger) -> bool {
    let began = Instant::now();
    let compared = match compare(core, revision, PATIENCE).await {
        Ok(compared) => compared,
        Err(error) => {
            warn!(logger, "failed corruption check"; "revision" => revision, "error" => %error);
            return false;
        }
    };
    let own = compared.own;
    for member in compared.corrupt() {
        core.metrics.corruptions.inc();
        error!(logger, "found hash mismatch: a member holds other data than the others";
            "corrupt-member-id" => format!("{member:x}"), "revision" => own.revision,
            "compact-revision" => own.compact_revision, "hashes" => format!("{:x?}", compared.hashes));
        if let Err(error) = core.raise_corrupt(member).await {
            warn!(logger, "failed to raise the CORRUPT alarm; the next check tries again"; "error" => %error);
            return false;
        }
    }
    debug!(logger, "finished corruption check"; "revision" => own.revision, "complete" => compared.is_complete(),
        "took" => ?began.elapsed());
    compared.is_complete()
}

impl Core {
    /// Hashes the history up to `revision` (0: the current one), beside the runtime's threads.
    pub(crate) async fn kv_hash(&self, revision: i64) -> Result<KvHash, ApiError> {
        let view = self.views.load_full();
        aside(move || Ok(view.hash_kv(revision)?)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(hashes: &[Option<u32>]) -> Compared {
        let own = KvHash { hash: hashes[0].unwrap_or_default(), compact_revision: -1, revision: 9 };
        Compared { own, hashes: (1..).zip(hashes.iter().copied()).collect() }
    }

    #[test]
    fn most_members_are_right() {
        let (a, b, c) = (Some(1), Some(2), Some(3));
        for (hashes, corrupt) in [
            (&[a][..], &[][..]),
            (&[a, a, a], &[]),
            (&[a, None, None], &[]),
            (&[a, a, b], &[3]),
            (&[b, a, a], &[1]),
            (&[a, b, a, None, a], &[2]),
            (&[a, b, a, c, a], &[2, 4]),
            // Two of four, or of three of which one says nothing, are not most.
            (&[a, b], &[NOBODY]),
            (&[a, b, None], &[NOBODY]),
            (&[a, b, a, b], &[NOBODY]),
            (&[a, b, c], &[NOBODY]),
        ] {
            assert_eq!(compared(hashes).corrupt(), corrupt, "{hashes:?}");
        }
    }

    #[test]
    fn a_member_is_told_whom_it_differs_from() {
        let compared = compared(&[Some(1), Some(1), Some(0xab), None]);
        assert_eq!(compared.others(), ["3: 000000ab"]);
        assert!(!compared.is_complete());
        assert_eq!(silent(&compared), "4");
    }
}
