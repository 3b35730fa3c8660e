//! When leases end.
//!
//! The replicated state knows no time: a lease is a number of seconds. The leader's lessor gives each a deadline on its own clock, moves
//! it when the lease is kept alive, and says which leases are due. Those end by a command in the log, which counts in the leader's own
//! term only. So a lease never ends but by its leader's clock, and what a leader said of its time holds as long as it leads.
//!
//! A new leader, or the same one after a restart, gives each lease all of its seconds anew: it cannot know when it was last kept alive.
//! So that one which nobody keeps alive is not prolonged by that for ever, what is left of it is noted in the log now and then.
//!
//! Time is an argument, counted from any moment that stays the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use im::OrdMap;
use im::ordmap::DiffItem;
use kv_codec::command::LeaseCheckpoint;

use crate::{Lease, Leases};

/// What is left of a lease is noted once in so long (as in etcd), or in half of its seconds. A lease that is kept alive as clients do
/// it, every third of its seconds, is never noted.
const CHECKPOINT_INTERVAL_MAX: Duration = Duration::from_mins(5);
/// Shorter leases are not noted: all that a restart can give them is this.
const CHECKPOINTED_TTL_MIN: i64 = 10;
/// When to try again to end a lease that could not be ended.
const RETRY: Duration = Duration::from_secs(1);

/// The leases of a leader, with their deadlines.
///
/// * It has an entry for each lease in `seen`, which is what it was shown last.
/// * Each entry that is not ending is in `queue` at `queued`, which is at or before whatever is to be done next with it.
/// * An entry that is past its deadline is never kept alive again.
#[derive(Debug, Default)]
pub struct Lessor {
    seen: OrdMap<i64, Lease>,
    entries: BTreeMap<i64, Entry>,
    queue: BTreeSet<(Duration, i64)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    ttl: i64,
    granted: u64,
    deadline: Duration,
    /// When to note what is left; never for `None`.
    checkpoint: Option<Duration>,
    queued: Duration,
    /// How often what is left of it was to be noted, and how many of those notes are known to be put right.
    notes: u64,
    notes_undone: u64,
    /// Its end is on its way through the log.
    ending: bool,
}

impl Entry {
    fn next(&self) -> Duration {
        self.checkpoint.map_or(self.deadline, |checkpoint| checkpoint.min(self.deadline))
    }
}

/// What became of keeping a lease alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It has all of its seconds again.
    Renewed {
        /// How many.
        ttl: i64,
        /// The log says, or is about to say, that it has fewer. That has to be put right before the client hears of its time: a leader
        /// that comes now would believe it. To be done by a checkpoint that is behind every other in the log, and then said by
        /// [`Lessor::undone`].
        noted: Option<Noted>,
    },
    /// It is past its deadline, and about to end.
    Ending,
    /// There is none.
    Unknown,
}

/// Notes of what is left of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// The checkpoint that puts them right.
    pub undo: LeaseCheckpoint,
    /// How many there were.
    notes: u64,
}

/// What a lessor wants in the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// Leases to end, and the entry that granted each.
    pub expired: Vec<(i64, u64)>,
    /// What is left of others.
    pub checkpoints: Vec<LeaseCheckpoint>,
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

fn checkpoint_interval(ttl: i64) -> Option<Duration> {
    (ttl > CHECKPOINTED_TTL_MIN).then(|| (seconds(ttl) / 2).min(CHECKPOINT_INTERVAL_MAX))
}

impl Lessor {
    /// A lessor that begins to lead: each lease has what the log says it has, and `grace` beside, in which its client may find the new
    /// leader.
    #[must_use]
    pub fn lead(leases: &Leases, now: Duration, grace: Duration) -> Self {
        let mut lessor = Self::default();
        lessor.follow(leases, now);
        for (id, entry) in &mut lessor.entries {
            entry.deadline += grace;
            lessor.queue.remove(&(entry.queued, *id));
            entry.queued = entry.next();
            lessor.queue.insert((entry.queued, *id));
        }
        lessor
    }

    /// Learns of leases that were granted and of leases that are gone. Takes time in proportion to those.
    pub fn follow(&mut self, leases: &Leases, now: Duration) {
        let seen = std::mem::replace(&mut self.seen, leases.all().clone());
        for change in seen.diff(leases.all()) {
            match change {
                DiffItem::Add(id, lease) => self.add(*id, lease, now),
                // The same number, and another lease.
                DiffItem::Update { old, new } if old.1.granted != new.1.granted => self.add(*new.0, new.1, now),
                DiffItem::Update { .. } => {}
                DiffItem::Remove(id, _) => self.remove(*id),
            }
        }
    }

    fn add(&mut self, id: i64, lease: &Lease, now: Duration) {
        self.remove(id);
        let checkpoint = checkpoint_interval(lease.ttl).map(|interval| now + interval);
        let deadline = now.saturating_add(seconds(lease.seconds()));
        let (queued, ending) = (deadline, false);
        let (ttl, granted) = (lease.ttl, lease.granted);
        let mut entry = Entry { ttl, granted, deadline, checkpoint, queued, notes: 0, notes_undone: 0, ending };
        entry.queued = entry.next();
        self.queue.insert((entry.queued, id));
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: i64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.queue.remove(&(entry.queued, id));
        }
    }

    /// Keeps a lease alive.
    pub fn renew(&mut self, id: i64, now: Duration) -> Renewal {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Renewal::Unknown;
        };
        if entry.ending || now >= entry.deadline {
            return Renewal::Ending;
        }
        // It stays in the queue where it was: what is too early there is put off when its time comes.
        entry.deadline = now.saturating_add(seconds(entry.ttl));
        entry.checkpoint = checkpoint_interval(entry.ttl).map(|interval| now + interval);
        let is_noted = self.seen.get(&id).is_some_and(|lease| lease.remaining_ttl > 0);
        let undo = LeaseCheckpoint { id, granted: entry.granted, remaining_ttl: 0 };
        let is_noted = is_noted || entry.notes > entry.notes_undone;
        let noted = is_noted.then_some(Noted { undo, notes: entry.notes });
        Renewal::Renewed { ttl: entry.ttl, noted }
    }

    /// The log says that a lease has all of its seconds, whatever `noted` said.
    pub fn undone(&mut self, noted: Noted) {
        let LeaseCheckpoint { id, granted, .. } = noted.undo;
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.granted == granted) {
            entry.notes_undone = entry.notes_undone.max(noted.notes);
        }
    }

    /// How long a lease was granted for, in seconds, and what is left.
    #[must_use]
    pub fn time_to_live(&self, id: i64, now: Duration) -> Option<(i64, Duration)> {
        self.entries.get(&id).map(|entry| (entry.ttl, entry.deadline.saturating_sub(now)))
    }

    /// The leases, the one that ends next first.
    #[must_use]
    pub fn by_deadline(&self) -> Vec<i64> {
        let mut ids: Vec<_> = self.entries.iter().map(|(id, entry)| (entry.deadline, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// What is to be done now: at most `max` leases to end, and as many to note.
    pub fn due(&mut self, now: Duration, max: usize) -> Due {
        let mut due = Due::default();
        while due.expired.len() < max && due.checkpoints.len() < max {
            let Some((_, id)) = self.queue.first().copied().filter(|(at, _)| *at <= now) else { break };
            self.queue.pop_first();
            let entry = self.entries.get_mut(&id).expect("what is queued is there");
            if entry.deadline <= now {
                entry.ending = true;
                due.expired.push((id, entry.granted));
                continue;
            }
            if entry.checkpoint.is_some_and(|at| at <= now) {
                entry.checkpoint = checkpoint_interval(entry.ttl).map(|interval| now + interval);
                let left = (entry.deadline - now).as_millis().div_ceil(1000);
                let remaining_ttl = i64::try_from(left).unwrap_or(i64::MAX).min(entry.ttl);
                entry.notes += 1;
                due.checkpoints.push(LeaseCheckpoint { id, granted: entry.granted, remaining_ttl });
            }
            entry.queued = entry.next();
            self.queue.insert((entry.queued, id));
        }
        due
    }

    /// A lease that was due could not be ended. It stays past its deadline, and is due again after a while, unless it is gone after
    /// all.
    pub fn failed(&mut self, (id, granted): (i64, u64), now: Duration) {
        let is_meant = |entry: &&mut Entry| entry.ending && entry.granted == granted;
        if let Some(entry) = self.entries.get_mut(&id).filter(is_meant) {
            entry.ending = false;
            entry.queued = now + RETRY;
            self.queue.insert((entry.queued, id));
        }
    }

    /// When to ask for what is due next; not at all for `None`.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.queue.first().map(|(at, _)| *at)
    }
}
