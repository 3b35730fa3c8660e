//! Whether all that clients were told can be true. Pure: what was seen in, violations out.
//!
//! The order of writes is that of their revisions: a watcher of everything has the log, and every write that was acknowledged has its
//! revision in it. What has no answer is looked for by its value, which nobody else writes; a delete by what it would have deleted.
//! Then [`History`] does every call in that order on a naive model, compares whole answers, and looks at the real time between
//! calls; and sampled keys are looked at again by values alone.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use kv_sim::history::blind::{self, Verdict};
use kv_sim::history::{Answer, CallId, History, Model, Request, Step, Told};

use super::calls::{Call, Outcome};
use super::heard::{self, Log};
use super::lessees::{LEASED, Lease};
use super::watchers::{Change, Watched};

/// Keys whose calls are looked at by values alone.
const BLIND_KEYS: usize = 200;
/// Violations of one kind that are told: one lost revision can make thousands.
const TOLD_MAX: usize = 5;

/// What was seen of a run.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) calls: Vec<Call>,
    pub(super) leases: Vec<Lease>,
    /// First the watcher of everything.
    pub(super) watched: Vec<Watched>,
    /// The highest revision that anyone asked to compact up to.
    pub(super) compacted: i64,
    /// The revision at the end.
    pub(super) last: i64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) violations: Vec<String>,
    /// The state that the history leads to, where it leads to one.
    pub(super) model: Option<Model>,
    /// Writes without an answer that had happened.
    pub(super) unknown_applied: u64,
    /// Keys looked at by values alone, and those among them where the search was given up.
    pub(super) blind: u64,
    pub(super) undecided: u64,
}

/// Who made a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Call(usize),
    /// A lease that ended, by its key.
    Lease(Vec<u8>),
}

/// Looks at everything.
pub(super) fn check(seen: &Seen, random: &mut fastrand::Rng) -> Found {
    let mut found = Found::default();
    for call in &seen.calls {
        if let Outcome::Nonsense(what) = &call.outcome {
            found.violations.push(format!("client {}: {:?} was answered by {what}", call.client, call.request));
        }
    }
    let Some(everything) = seen.watched.first() else { return found };
    let log = match heard::log(everything, seen.last) {
        Ok(log) => log,
        Err(why) => {
            found.violations.push(why);
            return found;
        }
    };
    let others = seen.watched.iter().skip(1);
    found.violations.extend(others.filter_map(|watched| heard::compare(watched, &log, seen.last).err()));
    found.violations.extend(leases(&seen.leases, &log));
    let owners = match owners(&seen.calls, &log) {
        Ok(owners) => owners,
        Err(violations) => {
            found.violations.extend(violations);
            return found;
        }
    };
    found.unknown_applied = owners.values().filter(|owner| is_unknown(owner, &seen.calls)).count() as u64;
    match history(seen, &owners) {
        Ok(history) => linearizable(&history, &log, random, &mut found),
        Err(why) => found.violations.push(why),
    }
    found
}

fn is_unknown(owner: &Owner, calls: &[Call]) -> bool {
    matches!(owner, Owner::Call(call) if matches!(calls[*call].outcome, Outcome::Unknown(_)))
}

/// Leases that ended before their time.
fn leases(leases: &[Lease], log: &Log) -> Vec<String> {
    let ended = log.iter().flat_map(|(revision, made)| {
        let gone = made.changes.iter().filter(|change| change.pair.is_none());
        gone.map(move |change| (&change.key[..], (*revision, made.at)))
    });
    let ended: HashMap<&[u8], (i64, u64)> = ended.collect();
    let mut violations = Vec::new();
    for lease in leases.iter().filter(|lease| !lease.revoked) {
        let Some((revision, at)) = ended.get(&lease.key[..]) else { continue };
        if *at < lease.promised_until() {
            let early_ms = (lease.promised_until() - at) / 1_000_000;
            violations.push(format!(
                "lease {:x} ended {early_ms} ms before it was promised to: {} was deleted at revision {revision}",
                lease.id,
                lease.key.escape_ascii()
            ));
        }
    }
    violations.truncate(TOLD_MAX);
    violations
}

/// Who made each revision of the log.
fn owners(calls: &[Call], log: &Log) -> Result<BTreeMap<i64, Owner>, Vec<String>> {
    let mut owners: BTreeMap<i64, Owner> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let Outcome::Answered(answer) = &call.outcome else { continue };
        let (keys, revision) = (changed(&call.request, answer), answer.revision);
        if keys.is_empty() {
            continue;
        }
        if let Err(why) = acknowledged(call, revision, &keys, log) {
            violations.push(why);
        } else if let Some(Owner::Call(other)) = owners.insert(revision, Owner::Call(index)) {
            violations.push(format!("{:?} and {:?} share revision {revision}", calls[other].request, call.request));
        }
    }
    let mut unanswered = Unanswered::of(calls);
    let mut alive: BTreeSet<&[u8]> = BTreeSet::new();
    for (&revision, made) in log {
        if let Entry::Vacant(place) = owners.entry(revision) {
            match unanswered.owner(&made.changes, &alive) {
                Some(owner) => drop(place.insert(owner)),
                None => violations.push(format!("nobody asked for revision {revision}: {:?}", made.changes)),
            }
        }
        for change in &made.changes {
            if change.pair.is_some() {
                alive.insert(&change.key)
            } else {
                alive.remove(&change.key[..])
            };
        }
    }
    violations.truncate(TOLD_MAX);
    if violations.is_empty() { Ok(owners) } else { Err(violations) }
}

/// Calls without an answer, by what they would leave in the log. Those that were refused are among them: they must leave nothing, and it is
/// [`History`] that says so.
struct Unanswered<'a> {
    calls: &'a [Call],
    by_value: HashMap<(&'a [u8], &'a [u8]), usize>,
    /// Deletes, the oldest last.
    deletes: Vec<usize>,
}

impl<'a> Unanswered<'a> {
    fn of(calls: &'a [Call]) -> Self {
        let mut unanswered = Self { calls, by_value: HashMap::new(), deletes: Vec::new() };
        for (index, call) in calls.iter().enumerate() {
            if matches!(call.outcome, Outcome::Unknown(_) | Outcome::Refused(_)) {
                unanswered.by_value.extend(puts(&call.request).map(|(key, value)| ((key, value), index)));
                if matches!(&call.request, Request::Write(Step::Delete(..))) {
                    unanswered.deletes.push(index);
                }
            }
        }
        unanswered.deletes.sort_by_key(|index| std::cmp::Reverse(calls[*index].made));
        unanswered
    }

    /// Who made these changes, while these keys were alive. Deletes that would do the same are taken by age: the oldest could be the first.
    fn owner(&mut self, changes: &[Change], alive: &BTreeSet<&[u8]>) -> Option<Owner> {
        let mut put = changes.iter().filter_map(|change| change.pair.as_ref()).peekable();
        if put.peek().is_some() {
            return put.find_map(|pair| self.by_value.get(&(&pair.key[..], &pair.value[..]))).copied().map(Owner::Call);
        }
        if let [Change { key, .. }] = changes
            && key.starts_with(LEASED.as_bytes())
        {
            return Some(Owner::Lease(key.clone()));
        }
        let gone: BTreeSet<&[u8]> = changes.iter().map(|change| &change.key[..]).collect();
        let fits = |index: &usize| deletes_these(&self.calls[*index].request, &gone, alive);
        let position = self.deletes.iter().rposition(fits)?;
        Some(Owner::Call(self.deletes.remove(position)))
    }
}

/// Whether a write that was acknowledged is where its answer says.
fn acknowledged(call: &Call, revision: i64, keys: &BTreeSet<&[u8]>, log: &Log) -> Result<(), String> {
    let lost = |what: &str| {
        let (client, request) = (call.client, &call.request);
        Err(format!("LOST: client {client} was told that {request:?} is done at revision {revision}: {what}"))
    };
    let Some(made) = log.get(&revision) else { return lost("there is no such revision") };
    let found: BTreeSet<&[u8]> = made.changes.iter().map(|change| &change.key[..]).collect();
    if found != *keys {
        return lost(&format!("that revision is {:?}", made.changes));
    }
    let values: HashMap<&[u8], &[u8]> = puts(&call.request).collect();
    let other = made.changes.iter().filter_map(|change| change.pair.as_ref());
    match other.into_iter().find(|pair| values.get(&pair.key[..]) != Some(&&pair.value[..])) {
        Some(pair) => lost(&format!("that revision is {pair:?}")),
        None => Ok(()),
    }
}

/// The keys that a call says it has changed.
fn changed<'a>(request: &'a Request, answer: &'a Answer) -> BTreeSet<&'a [u8]> {
    match (request, &answer.told) {
        (Request::Write(step), told) => changed_by(step, told).collect(),
        (Request::Txn { success, failure, .. }, Told::Txn(held, told)) => {
            let steps = if *held { success } else { failure };
            steps.iter().zip(told).flat_map(|(step, (_, told))| changed_by(step, told)).collect()
        }
        _ => BTreeSet::new(),
    }
}

fn changed_by<'a>(step: &'a Step, told: &'a Told) -> impl Iterator<Item = &'a [u8]> {
    let (put, gone) = match (step, told) {
        (Step::Put(key, _), _) => (Some(&key[..]), &[][..]),
        (Step::Delete(..), Told::Deleted(gone)) => (None, &gone[..]),
        _ => (None, &[][..]),
    };
    put.into_iter().chain(gone.iter().map(|pair| &pair.key[..]))
}

/// Keys and values that a call may put.
fn puts(request: &Request) -> impl Iterator<Item = (&[u8], &[u8])> {
    let (one, success, failure) = match request {
        Request::Write(step) => (Some(step), &[][..], &[][..]),
        Request::Txn { success, failure, .. } => (None, &success[..], &failure[..]),
        _ => (None, &[][..], &[][..]),
    };
    let steps = one.into_iter().chain(success).chain(failure);
    steps.filter_map(|step| match step {
        Step::Put(key, value) => Some((&key[..], &value[..])),
        _ => None,
    })
}

/// Whether a delete of keys among those alive would delete exactly these.
fn deletes_these(request: &Request, gone: &BTreeSet<&[u8]>, alive: &BTreeSet<&[u8]>) -> bool {
    let Request::Write(Step::Delete(key, end)) = request else { return false };
    if end.is_empty() {
        return gone.len() == 1 && gone.contains(&key[..]);
    }
    let from = (Bound::Included(&key[..]), Bound::Unbounded);
    let within = alive.range::<[u8], _>(from).take_while(|name| **name < &end[..]);
    within.eq(gone.iter())
}

/// The calls in the order of time, each with its place in the order of revisions.
fn history(seen: &Seen, owners: &BTreeMap<i64, Owner>) -> Result<History, String> {
    let mut history = History::default();
    let mut places: HashMap<usize, i64> = HashMap::new();
    for (revision, owner) in owners {
        match owner {
            Owner::Lease(key) => {
                let ended = history.made(Request::Write(Step::Delete(key.clone(), Vec::new())));
                history.placed(ended, index(*revision)?, true)?;
            }
            Owner::Call(call) => {
                if let Some(first) = places.insert(*call, *revision) {
                    let request = &seen.calls[*call].request;
                    return Err(format!("{request:?} takes effect at revision {first} and again at {revision}"));
                }
            }
        }
    }
    // What happens at one moment counts as overlapping: it is made first.
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (index, call) in seen.calls.iter().enumerate() {
        moments.extend([(call.made, false, index), (call.ended, true, index)]);
    }
    moments.sort_unstable();
    let mut ids: HashMap<usize, CallId> = HashMap::new();
    for (_, ended, number) in moments {
        let call = &seen.calls[number];
        if let Outcome::Answered(Answer { told: Told::Compacted, .. }) = &call.outcome {
            compacted(call, seen.compacted)?;
            continue;
        }
        if !ended {
            let made = if call.serializable { History::made_without_floor } else { History::made };
            let id = made(&mut history, call.request.clone());
            ids.insert(number, id);
            if !matches!(call.outcome, Outcome::Answered(_))
                && let Some(revision) = places.get(&number)
            {
                history.placed(id, index(*revision)?, true)?;
            }
            continue;
        }
        let id = ids[&number];
        match &call.outcome {
            Outcome::Answered(answer) if matches!(call.request, Request::Range { .. }) => {
                history.served(id, index(answer.revision)?, answer.clone());
            }
            Outcome::Answered(answer) => {
                let changes = !changed(&call.request, answer).is_empty();
                history.placed(id, index(answer.revision)?, changes)?;
                history.answered(id, answer.clone())?;
            }
            Outcome::Refused(_) => history.refused(id),
            Outcome::Unknown(_) | Outcome::Nonsense(_) => {}
        }
    }
    Ok(history)
}

/// Whether a read could be told that its revision is gone.
fn compacted(call: &Call, compacted: i64) -> Result<(), String> {
    match call.request {
        Request::Range { revision, .. } if revision > 0 && revision < compacted => Ok(()),
        _ => Err(format!("{:?} was told of a compaction, and nobody compacted beyond {compacted}", call.request)),
    }
}

fn index(revision: i64) -> Result<u64, String> {
    u64::try_from(revision).map_err(|_| format!("revision {revision} was told"))
}

/// Every answer against the model; the log against the model; and some keys by values alone.
fn linearizable(history: &History, log: &Log, random: &mut fastrand::Rng, found: &mut Found) {
    match history.check() {
        Ok(model) => {
            found.violations.extend(told_wrong(log, &model));
            found.model = Some(model);
        }
        Err(why) => found.violations.push(format!("not linearizable: {why}")),
    }
    let changes = log.values().flat_map(|revision| &revision.changes);
    let mut keys: Vec<&Vec<u8>> = changes.map(|change| &change.key).collect::<BTreeSet<_>>().into_iter().collect();
    random.shuffle(&mut keys);
    for key in keys.into_iter().take(BLIND_KEYS) {
        found.blind += 1;
        match blind::search(&history.events_of(key)) {
            Verdict::Linearizable => {}
            Verdict::Undecided => found.undecided += 1,
            Verdict::Not => {
                found.violations.push(format!("not linearizable by values alone: key {}", key.escape_ascii()));
            }
        }
    }
}

/// Changes that watchers were told and that the model did not make.
fn told_wrong(log: &Log, model: &Model) -> Vec<String> {
    let told = log.iter().flat_map(|(revision, made)| made.changes.iter().map(move |change| (*revision, change)));
    let wrong = told.filter(|(revision, change)| {
        let pair = change.pair.clone();
        model.pairs(&change.key, &[], *revision) != pair.into_iter().collect::<Vec<_>>()
    });
    let wrong = wrong.map(|(revision, change)| format!("watchers were told {change:?} at revision {revision}"));
    wrong.take(TOLD_MAX).collect()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
