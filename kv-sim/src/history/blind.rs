//! Whether the calls on one key are linearizable, by values alone: a mistake in the revisions themselves cannot hide here.
//!
//! The search is Wing and Gong's, with Lowe's memory of states seen: take, again and again, some call that could be next in real
//! time and does not contradict the state; go back when none can.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Call, End, Guard, History, Request, Step, Told};

/// What a call did to the key, or saw of it. Values are numbered, `None` is a key that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It became this.
    Set(Option<u32>),
    /// It was this.
    Read(Option<u32>),
    /// It was this and became that.
    Swap(Option<u32>, Option<u32>),
}

/// A call on the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When it was made.
    pub made: u64,
    /// When it was answered; [`u64::MAX`] for never: it may have happened at any time since, or not at all.
    pub answered: u64,
    /// What it was.
    pub kind: Kind,
}

/// More calls than these are not looked at.
const EVENTS_MAX: usize = 512;
/// The longest search: beyond it nothing is known.
const STEPS_MAX: usize = 20_000;

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains it all.
    Linearizable,
    /// There is none.
    Not,
    /// The search was given up.
    Undecided,
}

/// Searches for an order of `events`.
#[must_use]
pub fn search(events: &[Event]) -> Verdict {
    let mut events: Vec<Event> = events.to_vec();
    drop_unseen(&mut events);
    events.sort_by_key(|event| event.made);
    if events.len() > EVENTS_MAX {
        return Verdict::Undecided;
    }
    let mut done = vec![false; events.len()];
    let mut state = None;
    let mut seen: BTreeSet<(Vec<bool>, Option<u32>)> = BTreeSet::new();
    // What was taken, and the state before.
    let mut taken: Vec<(usize, Option<u32>)> = Vec::new();
    let mut from = 0;
    for _ in 0..STEPS_MAX {
        let deadline = (0..events.len()).filter(|i| !done[*i]).map(|i| events[i].answered).min();
        if deadline.is_none_or(|deadline| deadline == u64::MAX) {
            return Verdict::Linearizable;
        }
        let deadline = deadline.expect("just seen");
        let next = (from..events.len())
            .take_while(|i| events[*i].made < deadline)
            .filter(|i| !done[*i])
            .find_map(|i| Some((i, after(state, events[i].kind)?)));
        if let Some((i, new)) = next {
            done[i] = true;
            if seen.insert((done.clone(), new)) {
                taken.push((i, state));
                (state, from) = (new, 0);
            } else {
                done[i] = false;
                from = i + 1;
            }
        } else if let Some((i, before)) = taken.pop() {
            done[i] = false;
            (state, from) = (before, i + 1);
        } else {
            return Verdict::Not;
        }
    }
    Verdict::Undecided
}

/// The state after a call, if it fits.
fn after(state: Option<u32>, kind: Kind) -> Option<Option<u32>> {
    match kind {
        Kind::Set(value) => Some(value),
        Kind::Read(value) => (value == state).then_some(state),
        Kind::Swap(from, to) => (from == state).then_some(to),
    }
}

/// A put that was never answered and whose value nobody saw need not have happened.
fn drop_unseen(events: &mut Vec<Event>) {
    let seen: BTreeSet<u32> = events
        .iter()
        .filter_map(|event| match event.kind {
            Kind::Read(value) | Kind::Swap(value, _) => value,
            Kind::Set(_) => None,
        })
        .collect();
    events.retain(|event| match event.kind {
        Kind::Set(Some(value)) | Kind::Swap(_, Some(value)) => event.answered < u64::MAX || seen.contains(&value),
        _ => true,
    });
}

impl History {
    /// The calls that concern `key`, by what they say of its values.
    #[must_use]
    pub fn events_of(&self, key: &[u8]) -> Vec<Event> {
        let mut numbers: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let mut number = |value: &[u8]| {
            let next = u32::try_from(numbers.len()).expect("a run has few values");
            *numbers.entry(value.to_vec()).or_insert(next)
        };
        let mut events = Vec::new();
        for call in self.calls() {
            let (answered, answer) = match &call.end {
                End::Answered(at, answer) => (*at, Some(answer)),
                End::Unknown => (u64::MAX, None),
                End::Refused => continue,
            };
            if let Some(kind) = kind_of(call, answer, key, &mut number) {
                events.push(Event { made: call.made, answered, kind });
            }
        }
        events
    }
}

fn kind_of(call: &Call, answer: Option<&Answer>, key: &[u8], number: &mut impl FnMut(&[u8]) -> u32) -> Option<Kind> {
    let effect = |steps: &[Step], number: &mut dyn FnMut(&[u8]) -> u32| {
        steps.iter().rev().find_map(|step| match step {
            Step::Put(name, value) => (name == key).then(|| Some(number(value))),
            Step::Delete(from, end) => within(key, from, end).then_some(None),
            Step::Range(..) => None,
        })
    };
    match (&call.request, answer) {
        (Request::Write(step), _) => effect(std::slice::from_ref(step), number).map(Kind::Set),
        (Request::Txn { success, failure, .. }, Some(Answer { told: Told::Txn(held, _), .. })) => {
            effect(if *held { success } else { failure }, number).map(Kind::Set)
        }
        // Which list ran is not known. A guarded append writes its key in the first only.
        (Request::Txn { guards, success, failure }, None) => {
            let guarded = guards.iter().any(|(_, guard)| matches!(guard, Guard::ModIs(_)));
            let effect_of_failure = effect(failure, number);
            let effect_of_success = effect(success, number);
            let known = guarded || effect_of_failure == effect_of_success;
            // With two possible effects this key cannot be judged by it; both lists of our clients do the same to a key.
            known.then_some(effect_of_success)?.map(Kind::Set)
        }
        (
            Request::Range { key: from, end, limit: 0, revision: 0 },
            Some(Answer { told: Told::Range(pairs, ..), .. }),
        ) if within(key, from, end) && !call.may_be_old => {
            let found = pairs.iter().find(|pair| pair.key == key);
            Some(Kind::Read(found.map(|pair| number(&pair.value))))
        }
        _ => None,
    }
}

fn within(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    if end.is_empty() { key == from } else { from <= key && key < end }
}
