//! Histories that are right, and one for each way to be wrong.

use super::*;

const KEY: &[u8] = b"k";

fn stored(value: &str, create_revision: i64, mod_revision: i64, version: i64) -> Stored {
    Stored { value: value.into(), create_revision, mod_revision, version }
}

fn state(revision: i64, key: Option<Stored>) -> State {
    State { revision, keys: key.map(|stored| (KEY.to_vec(), stored)).into_iter().collect() }
}

fn put(value: &str, revision: i64) -> Event {
    let answer = Answer::Acknowledged { revision, changed: 1, previous: None };
    Event { key: KEY.to_vec(), op: Op::Put(value.into()), answer }
}

fn delete(revision: i64, changed: i64) -> Event {
    let answer = Answer::Acknowledged { revision, changed, previous: None };
    Event { key: KEY.to_vec(), op: Op::Delete, answer }
}

fn unknown(op: Op) -> Event {
    Event { key: KEY.to_vec(), op, answer: Answer::Unknown }
}

/// A ledger that begins with an empty store at revision 1 and has seen `events`, all of them fine.
fn ledger(events: Vec<Event>) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.settle(&state(1, None));
    assert_eq!(ledger.record(events), []);
    ledger
}

/// The one violation found.
fn one(ledger: &Ledger, state: &State) -> Violation {
    let found = ledger.check(state);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().expect("there is one")
}

#[test]
fn what_was_acknowledged_and_is_there_is_fine() {
    let ledger = ledger(vec![put("a", 2), put("b", 3), delete(4, 1), delete(4, 0), put("c", 5), put("d", 6)]);
    assert_eq!(ledger.check(&state(6, Some(stored("d", 5, 6, 2)))), []);
}

#[test]
fn a_lost_write_is_found() {
    let ledger = ledger(vec![put("a", 2), put("b", 3)]);
    assert!(matches!(one(&ledger, &state(3, None)), Violation::Lost { found: None, .. }));
    // The one before is back.
    assert!(matches!(one(&ledger, &state(3, Some(stored("a", 2, 2, 1)))), Violation::Lost { found: Some(_), .. }));
}

#[test]
fn a_revision_that_goes_back_is_found() {
    let mut ledger = ledger(vec![put("a", 2), delete(3, 1)]);
    assert_eq!(one(&ledger, &state(2, None)), Violation::RevisionBack { told: 3, found: 2 });
    // Also across rounds, and when the last answer was a read's.
    ledger.settle(&state(3, None));
    assert_eq!(one(&ledger, &state(2, None)), Violation::RevisionBack { told: 3, found: 2 });
}

#[test]
fn a_changed_value_revision_or_version_is_found() {
    let ledger = ledger(vec![put("a", 2), put("b", 3)]);
    let right = stored("b", 2, 3, 2);
    assert_eq!(ledger.check(&state(3, Some(right.clone()))), []);
    let wrong = [stored("x", 2, 3, 2), stored("b", 3, 3, 2), stored("b", 2, 4, 2), stored("b", 2, 3, 1)];
    for found in wrong {
        let expected = right.clone();
        let violation = Violation::Changed { key: KEY.to_vec(), expected, found: found.clone() };
        assert_eq!(one(&ledger, &state(3, Some(found))), violation);
    }
}

#[test]
fn a_resurrected_delete_is_found() {
    let ledger = ledger(vec![put("a", 2), delete(3, 1)]);
    let found = stored("a", 2, 2, 1);
    let violation = Violation::Resurrected { key: KEY.to_vec(), deleted_at: 3, found: found.clone() };
    assert_eq!(one(&ledger, &state(3, Some(found))), violation);
}

#[test]
fn a_key_that_no_one_wrote_is_found() {
    assert_eq!(one(&ledger(vec![]), &state(1, Some(stored("a", 1, 1, 1)))), Violation::Foreign { key: KEY.to_vec() });
}

#[test]
fn an_unknown_put_may_be_there_or_not() {
    let mut ledger = ledger(vec![put("a", 2), unknown(Op::Put("b".into()))]);
    assert_eq!(ledger.unknown(), 1);
    assert_eq!(ledger.check(&state(2, Some(stored("a", 2, 2, 1)))), []);
    let applied = state(3, Some(stored("b", 2, 3, 2)));
    assert_eq!(ledger.check(&applied), []);
    // Once seen it must stay: it is no longer in doubt.
    assert_eq!(ledger.settle(&applied), 1);
    assert_eq!(ledger.unknown(), 0);
    assert!(matches!(one(&ledger, &state(3, Some(stored("a", 2, 2, 1)))), Violation::Lost { .. }));
}

#[test]
fn an_unknown_put_that_was_not_there_must_not_come_later() {
    let mut ledger = ledger(vec![put("a", 2), unknown(Op::Put("b".into()))]);
    assert_eq!(ledger.settle(&state(2, Some(stored("a", 2, 2, 1)))), 0);
    assert!(matches!(one(&ledger, &state(3, Some(stored("b", 2, 3, 2)))), Violation::Changed { .. }));
}

#[test]
fn an_unknown_put_is_there_exactly_as_sent_or_not_at_all() {
    let ledger = ledger(vec![put("a", 2), unknown(Op::Put("bbbb".into()))]);
    // Cut, at an acknowledged revision, or with a version that skips.
    for found in [stored("bb", 2, 3, 2), stored("bbbb", 2, 2, 2), stored("bbbb", 2, 3, 3), stored("bbbb", 3, 3, 1)] {
        assert!(matches!(one(&ledger, &state(3, Some(found))), Violation::Changed { .. }));
    }
    assert!(matches!(one(&ledger, &state(3, None)), Violation::Lost { .. }));
}

#[test]
fn an_unknown_delete_may_have_happened_or_not() {
    let ledger = ledger(vec![put("a", 2), unknown(Op::Delete)]);
    assert_eq!(ledger.check(&state(2, Some(stored("a", 2, 2, 1)))), []);
    assert_eq!(ledger.check(&state(3, None)), []);
    assert!(matches!(one(&ledger, &state(3, Some(stored("x", 3, 3, 1)))), Violation::Changed { .. }));
}

#[test]
fn a_write_applied_twice_or_not_counted_is_found() {
    let ledger = ledger(vec![put("a", 2), put("b", 3), unknown(Op::Delete)]);
    assert_eq!(one(&ledger, &state(5, None)), Violation::RevisionCount { expected: 4, found: 5 });
    let kept = state(4, Some(stored("b", 2, 3, 2)));
    assert_eq!(one(&ledger, &kept), Violation::RevisionCount { expected: 3, found: 4 });
}

#[test]
fn one_revision_for_two_writes_is_found() {
    let mut ledger = ledger(vec![put("a", 2)]);
    let other = Event { key: b"other".to_vec(), ..put("b", 2) };
    assert_eq!(ledger.record(vec![other]), [Violation::RevisionShared { revision: 2 }]);
}

#[test]
fn answers_that_do_not_fit_the_history_are_found() {
    let fits = |events: Vec<Event>| {
        let mut ledger = ledger(vec![put("a", 2)]);
        let found = ledger.record(events);
        assert!(found.iter().all(|violation| matches!(violation, Violation::WrongAnswer { .. })), "{found:?}");
        found.is_empty()
    };
    let with_previous = |previous: Option<Stored>| {
        let answer = Answer::Acknowledged { revision: 3, changed: 1, previous: Some(previous) };
        Event { answer, ..put("b", 3) }
    };
    assert!(fits(vec![with_previous(Some(stored("a", 2, 2, 1)))]));
    assert!(!fits(vec![with_previous(None)]));
    assert!(!fits(vec![with_previous(Some(stored("x", 2, 2, 1)))]));
    // A delete counts what was there.
    assert!(fits(vec![delete(3, 1), delete(3, 0)]));
    assert!(!fits(vec![delete(3, 0)]));
    assert!(!fits(vec![delete(3, 1), delete(3, 1)]));
    // A writer's answers rise.
    assert!(!fits(vec![put("b", 4), put("c", 3)]));
    assert!(!fits(vec![put("b", 1)]));
}

#[test]
fn a_hash_of_one_revision_stays_the_same() {
    let mut ledger = ledger(vec![]);
    assert_eq!(ledger.hash(7, 0xabcd), None);
    assert_eq!(ledger.hash(8, 0x1234), None);
    assert_eq!(ledger.hash(7, 0xabcd), None);
    assert_eq!(ledger.hash(7, 0xabce), Some(Violation::HashChanged { revision: 7, before: 0xabcd, after: 0xabce }));
    assert_eq!(ledger.hashed_revisions().collect::<Vec<_>>(), [7, 8]);
}
