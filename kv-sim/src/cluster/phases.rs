//! The phases of a run: chaos; a quorum alone must commit and agree; all of them must; then everything is looked at.

use kv_raft::StateMachine;

use super::clients::{judged_key, read};
use super::{Cluster, Event, Fate, TICK_US};
use crate::history::Request;
use crate::history::blind::{Verdict, search};
use crate::report::Counts;

/// Once the faults are over, a quorum, and then the cluster, has to be whole within this.
const CONVERGE_US: u64 = 60_000_000;
/// Segments that a log keeps beside those for entries of no snapshot, each of which may be as long as one: the current segment, and
/// what starts and hard states take.
const SEGMENTS_MAX: u64 = 64;
/// Snapshot files of one member: the one that counts, and newer ones of leaders that were not needed in the end. The next snapshot
/// removes those.
const SNAPSHOTS_MAX: usize = 10;
/// Revisions looked at on every member at the end.
const REVISIONS_READ: i64 = 12;

impl Cluster {
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.checker.voters(1, (1..=self.plan.members).collect());
        for id in 1..=self.plan.members + self.plan.learner {
            self.add_host(id);
            self.start(id)?;
        }
        self.schedule(1_000, Event::Call);
        self.begin_strikes();
        self.begin_operating();
        self.run_until(self.plan.chaos_ms * 1_000)?;
        self.end_faults()?;
        self.quorum_alone()?;
        self.everybody()?;
        self.look_at_everything()?;
        let counts = &mut self.report.counts;
        counts.virtual_ms = self.now / 1_000;
        counts.terms = self.checker.terms_led();
        counts.checked = self.history.answered_count();
        counts.unknown = self.history.unknown_count();
        Ok(())
    }

    fn run_while(&mut self, what: &str, unfinished: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = self.now + CONVERGE_US;
        while unfinished(self) {
            if self.now > deadline {
                return Err(format!("the faults are over, and {what}"));
            }
            self.run_until(self.now + TICK_US)?;
        }
        Ok(())
    }

    fn end_faults(&mut self) -> Result<(), String> {
        self.chaos = false;
        self.network.heal();
        self.note(format_args!("faults end"));
        for host in self.hosts.values_mut() {
            host.paused_until = 0;
            host.stalled_until = 0;
            host.doomed = None;
            host.disk.set_space(None);
            // A failure that was armed and not reached must not strike now.
            host.disk.fail_at(u64::MAX);
            host.disk.stop_at(u64::MAX);
        }
        Ok(())
    }

    fn start_all(&mut self, which: impl Fn(u64) -> bool) -> Result<(), String> {
        let ids: Vec<u64> = self.hosts.keys().copied().filter(|id| which(*id)).collect();
        ids.into_iter().try_for_each(|id| self.start(id))
    }

    /// A random quorum has to do without the others.
    fn quorum_alone(&mut self) -> Result<(), String> {
        // Damage shows at the start.
        self.start_all(|_| true)?;
        let mut voters = self.membership().voters;
        self.streams.nemesis.shuffle(&mut voters);
        voters.retain(|id| self.hosts.get(id).is_some_and(|host| host.life.is_some()));
        let of = self.membership().voters.len();
        // Where a change may still come, or not all know of the last one, another number may be a quorum.
        let members = self.membership();
        let agreed = self.lives().all(|(_, life)| life.node.membership() == members);
        let quorum = if self.change_may_come() || !agreed { voters.len() } else { of / 2 + 1 };
        let (alone, down) = voters.split_at(quorum.min(voters.len()));
        if !down.is_empty() {
            self.report.counts.quorums += 1;
            self.note(format_args!("only {alone:?} go on"));
        }
        for &member in down {
            self.kill(member, false);
            // It stays down until all are wanted.
            self.events.retain(|_, event| !matches!(event, Event::Restart(id) if *id == member));
        }
        let Counts { acked, reads, .. } = self.report.counts;
        self.run_while("a quorum commits nothing", |cluster| cluster.report.counts.acked < acked + 3)?;
        self.run_while("a quorum serves no read", |cluster| cluster.report.counts.reads == reads)
    }

    fn everybody(&mut self) -> Result<(), String> {
        self.start_all(|_| true)?;
        let goal = self.report.counts.acked + 3;
        self.run_while("the cluster commits nothing", |cluster| cluster.report.counts.acked < goal)?;
        // Lost members are replaced before clients and operator stop.
        self.run_while("a lost member is not replaced", |cluster| {
            let members = cluster.membership();
            members
                .voters
                .iter()
                .chain(&members.learners)
                .any(|id| cluster.hosts.get(id).is_none_or(|host| host.fate == Fate::Lost))
        })?;
        self.calling = false;
        self.run_while("the cluster does not converge", |cluster| !cluster.converged())
    }

    /// Whether all members run, have applied the same, to the end of the log, and let no read wait.
    fn converged(&self) -> bool {
        let members = self.membership();
        let mut ends = members.voters.iter().chain(&members.learners).map(|id| {
            let life = self.hosts.get(id)?.life.as_ref()?;
            let node = &life.node;
            let whole = node.membership() == members && life.reads.is_empty();
            whole.then(|| (life.machine.view().applied_index(), node.last_index()))
        });
        let first = ends.next().flatten();
        first.is_some_and(|(applied, last)| applied == last && applied >= self.checker.committed_index())
            && ends.all(|end| end == first)
    }

    /// The final checks.
    fn look_at_everything(&mut self) -> Result<(), String> {
        let model = self.history.check()?;
        let members = self.membership();
        let ids: Vec<u64> = members.voters.iter().chain(&members.learners).copied().collect();
        let (from, to) = (model.compacted().max(1), model.revision());
        let mut revisions: Vec<i64> = (from..=to).take(2).collect();
        revisions.extend((0..REVISIONS_READ).map(|_| self.streams.clients.i64(from..=to)));
        for id in ids {
            self.compare_state(id)?;
            let life = self.life(id);
            // Purged or not, nothing of it may show.
            while life.machine.maintain() {}
            life.machine.publish();
            self.compare_state(id)?;
            let life = self.life(id);
            let view = life.machine.reader().load_full();
            if (view.revision(), view.compact_revision()) != (to, model.compacted()) {
                let found = (view.revision(), view.compact_revision());
                return Err(format!("member {id} is at revisions {found:?}, not at {:?}", (to, model.compacted())));
            }
            for revision in revisions.iter().copied().chain([from - 1, to + 1]).filter(|revision| *revision > 0) {
                let request = Request::Range { key: b"\x01".to_vec(), end: b"\xff".to_vec(), limit: 0, revision };
                let (found, expected) = (read(&view, &request), model.read(&request));
                if found != expected {
                    return Err(format!("member {id} has {found:?} at revision {revision}, not {expected:?}"));
                }
            }
            self.compare_hashes(id, &revisions)?;
            self.bounded(id)?;
        }
        self.judge_blindly()
    }

    /// `HashKV` is the same on all members, at any revision.
    fn compare_hashes(&mut self, id: u64, revisions: &[i64]) -> Result<(), String> {
        let view = self.life(id).machine.reader().load_full();
        for &revision in revisions {
            let hash = view.hash_kv(revision).map_err(|error| format!("member {id}, HashKV({revision}): {error}"))?;
            let known = *self.hashes.entry(revision).or_insert((id, hash));
            if known.1 != hash {
                return Err(format!("members {} and {id} differ in HashKV({revision})", known.0));
            }
        }
        Ok(())
    }

    /// What must not pile up.
    fn bounded(&mut self, id: u64) -> Result<(), String> {
        use kv_raft::{Disk, LogStats, LogStore};
        let life = self.life(id);
        let LogStats { segments, segments_reused, .. } = life.log.stats();
        let entries = life.machine.applied().index - life.snapshot.index;
        let snapshots = life.disk.list("snap").map_or(0, |names| names.len());
        if segments > SEGMENTS_MAX + entries || snapshots > SNAPSHOTS_MAX {
            return Err(format!("member {id} keeps {segments} segments for {entries} entries, {snapshots} snapshots"));
        }
        self.report.counts.segments_reused += segments_reused;
        Ok(())
    }

    /// One key, without believing any revision.
    fn judge_blindly(&mut self) -> Result<(), String> {
        let key = judged_key(&mut self.streams.clients);
        let events = self.history.events_of(&key);
        self.report.counts.blind_keys += 1;
        match search(&events) {
            Verdict::Linearizable => Ok(()),
            Verdict::Undecided => {
                self.report.counts.blind_undecided += 1;
                Ok(())
            }
            Verdict::Not => Err(format!("no order explains the {} calls on {}", events.len(), key.escape_ascii())),
        }
    }
}
