//! Histories that must pass, and ones that must not.

#![allow(clippy::unwrap_used)]

use kv_codec::command::{BatchBuilder, Body, CommandHeader};
use kv_raft::EntryKind;

use super::blind::{Event, Kind, Verdict, search};
use super::*;

fn put(key: &str, value: &str) -> Request {
    Request::Write(Step::Put(key.into(), value.into()))
}

fn get(key: &str) -> Request {
    Request::Range { key: key.into(), end: vec![], limit: 0, revision: 0 }
}

fn pair(key: &str, value: &str, create_revision: i64, mod_revision: i64, version: i64) -> Pair {
    Pair { key: key.into(), value: value.into(), create_revision, mod_revision, version }
}

fn told_put(revision: i64, before: Option<Pair>) -> Answer {
    Answer { revision, told: Told::Put(before) }
}

fn told_range(revision: i64, pairs: Vec<Pair>) -> Answer {
    let count = pairs.len() as u64;
    Answer { revision, told: Told::Range(pairs, count, false) }
}

/// An entry of commands with these sequence numbers.
fn entry(index: u64, seqs: &[u64]) -> LogEntry {
    let mut batch = BatchBuilder::default();
    for &seq in seqs {
        batch.push(&Body::Compact { revision: 0 }.encode(&CommandHeader {
            origin: 1,
            seq,
            ..CommandHeader::default()
        }));
    }
    LogEntry { index, term: 1, kind: EntryKind::Normal, payload: batch.finish() }
}

/// Two puts of one key, answered, and a read in between and after.
fn history() -> (History, CallId, CallId) {
    let mut history = History::default();
    let first = history.made(put("k", "a"));
    history.named(first, 1, 0, 1);
    history.committed(&entry(2, &[1])).unwrap();
    history.answered(first, told_put(2, None)).unwrap();
    let read = history.made(get("k"));
    let second = history.made(put("k", "b"));
    history.named(second, 1, 0, 2);
    history.committed(&entry(3, &[2])).unwrap();
    (history, second, read)
}

#[test]
fn a_right_history_is_right() {
    let (mut history, second, read) = history();
    history.answered(second, told_put(3, Some(pair("k", "a", 2, 2, 1)))).unwrap();
    // It began before the second put was answered: either state will do.
    history.served(read, 2, told_range(2, vec![pair("k", "a", 2, 2, 1)]));
    let model = history.check().unwrap();
    assert_eq!(model.revision(), 3);
    assert_eq!(search(&history.events_of(b"k")), Verdict::Linearizable);
}

#[test]
fn a_stale_read_is_found() {
    let (mut history, second, _) = history();
    history.answered(second, told_put(3, Some(pair("k", "a", 2, 2, 1)))).unwrap();
    let late = history.made(get("k"));
    history.served(late, 2, told_range(2, vec![pair("k", "a", 2, 2, 1)]));
    assert!(history.check().unwrap_err().contains("was answered before"));
    assert_eq!(search(&history.events_of(b"k")), Verdict::Not);
}

#[test]
fn a_stale_read_that_may_be_old_is_fine() {
    let (mut history, second, _) = history();
    history.answered(second, told_put(3, Some(pair("k", "a", 2, 2, 1)))).unwrap();
    let late = history.made_without_floor(get("k"));
    history.served(late, 2, told_range(2, vec![pair("k", "a", 2, 2, 1)]));
    history.check().unwrap();
}

#[test]
fn a_wrong_answer_is_found_in_every_field() {
    let right = pair("k", "a", 2, 2, 1);
    let wrong = [
        told_put(4, Some(right.clone())),
        told_put(3, None),
        told_put(3, Some(Pair { version: 2, ..right.clone() })),
        told_put(3, Some(Pair { create_revision: 1, ..right.clone() })),
        told_put(3, Some(Pair { mod_revision: 3, ..right.clone() })),
        told_put(3, Some(Pair { value: b"b".to_vec(), ..right })),
    ];
    for answer in wrong {
        let (mut history, second, _) = history();
        history.answered(second, answer.clone()).unwrap();
        history.check().expect_err(&format!("{answer:?}"));
    }
}

#[test]
fn what_is_answered_is_committed_once_and_was_sent() {
    let (mut history, ..) = history();
    let third = history.made(put("k", "c"));
    history.answered(third, told_put(4, None)).unwrap_err();
    history.named(third, 1, 0, 3);
    history.committed(&entry(4, &[3])).unwrap();
    assert!(history.committed(&entry(5, &[3])).unwrap_err().contains("and again"));
    assert!(history.committed(&entry(6, &[9])).unwrap_err().contains("nobody sent"));
}

#[test]
fn what_was_refused_is_not_committed() {
    let (mut history, second, _) = history();
    history.refused(second);
    assert!(history.check().unwrap_err().contains("was refused"));
}

#[test]
fn a_write_takes_its_place_after_what_was_answered_before_it() {
    let mut history = History::default();
    let (first, second) = (history.made(put("k", "a")), history.made(put("k", "b")));
    history.named(first, 1, 0, 1);
    history.named(second, 1, 0, 2);
    history.committed(&entry(2, &[1, 2])).unwrap();
    history.answered(second, told_put(3, Some(pair("k", "a", 2, 2, 1)))).unwrap();
    let third = history.made(put("k", "c"));
    history.calls[third].floor = (2, 1);
    history.named(third, 1, 0, 3);
    history.committed.push(((2, 0), third));
    assert!(history.check().unwrap_err().contains("before it was made"));
}

#[test]
fn the_model_knows_ranges_transactions_and_compaction() {
    let mut model = Model::default();
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        model.write(&put(key, value));
    }
    let guards = vec![(b"a".to_vec(), Guard::ModIs(2)), (b"z".to_vec(), Guard::ModIs(0))];
    let success = vec![Step::Delete(b"b".to_vec(), b"d".to_vec()), Step::Range(b"a".to_vec(), b"z".to_vec(), 0)];
    let told = model.write(&Request::Txn { guards: guards.clone(), success: success.clone(), failure: vec![] });
    let gone = vec![pair("b", "2", 3, 3, 1), pair("c", "3", 4, 4, 1)];
    let left = Told::Range(vec![pair("a", "1", 2, 2, 1)], 1, false);
    assert_eq!(told.told, Told::Txn(true, vec![(5, Told::Deleted(gone)), (5, left)]));
    model.write(&put("a", "4"));
    assert_eq!(model.write(&Request::Txn { guards, success, failure: vec![] }).told, Told::Txn(false, vec![]));
    assert_eq!(model.write(&Request::Compact(5)).told, Told::Done);
    assert_eq!(model.write(&Request::Compact(5)).told, Told::Compacted);
    assert_eq!(model.write(&Request::Compact(7)).told, Told::Future);
    let read =
        |revision, limit| model.read(&Request::Range { key: b"a".to_vec(), end: b"z".to_vec(), limit, revision }).told;
    assert_eq!(read(4, 0), Told::Compacted);
    assert_eq!(read(9, 0), Told::Future);
    assert_eq!(read(5, 1), Told::Range(vec![pair("a", "1", 2, 2, 1)], 1, false));
    assert_eq!(read(0, 0), Told::Range(vec![pair("a", "4", 2, 6, 2)], 1, false));
}

#[test]
fn the_model_refuses_a_transaction_whole() {
    let mut model = Model::default();
    for value in ["1", "2", "3"] {
        model.write(&put("a", value));
    }
    model.write(&Request::Compact(3));
    let mut told = |revision| {
        let steps = vec![Step::Put(b"b".to_vec(), b"4".to_vec()), Step::Range(b"a".to_vec(), vec![], revision)];
        model.write(&Request::Txn { guards: vec![], success: steps, failure: vec![] })
    };
    assert_eq!(told(2), Answer { revision: 4, told: Told::Compacted });
    assert_eq!(told(5), Answer { revision: 4, told: Told::Future });
    let old = Told::Range(vec![pair("a", "2", 2, 3, 2)], 1, false);
    assert_eq!(told(3), Answer { revision: 5, told: Told::Txn(true, vec![(5, Told::Put(None)), (5, old)]) });
}

fn event(made: u64, answered: u64, kind: Kind) -> Event {
    Event { made, answered, kind }
}

#[test]
fn orders_are_found_and_contradictions_too() {
    use Kind::{Read, Set, Swap};
    let never = u64::MAX;
    let cases = [
        // Overlapping writes may go either way round.
        (vec![event(1, 4, Set(Some(1))), event(2, 5, Set(Some(2))), event(6, 7, Read(Some(1)))], Verdict::Linearizable),
        (vec![event(1, 2, Set(Some(1))), event(3, 4, Set(Some(2))), event(5, 6, Read(Some(1)))], Verdict::Not),
        // Two reads that see two orders.
        (
            vec![
                event(1, 10, Set(Some(1))),
                event(2, 11, Set(Some(2))),
                event(3, 4, Read(Some(1))),
                event(5, 6, Read(Some(2))),
                event(7, 8, Read(Some(1))),
            ],
            Verdict::Not,
        ),
        // An unknown write may have happened, late, or never.
        (
            vec![event(1, never, Set(Some(1))), event(2, 3, Read(None)), event(4, 5, Read(Some(1)))],
            Verdict::Linearizable,
        ),
        (vec![event(1, never, Set(Some(1))), event(2, 3, Read(Some(1))), event(4, 5, Read(None))], Verdict::Not),
        (vec![event(1, never, Set(Some(1))), event(4, 5, Read(None))], Verdict::Linearizable),
        // Two swaps from one value.
        (vec![event(1, 4, Swap(None, Some(1))), event(2, 5, Swap(None, Some(2)))], Verdict::Not),
    ];
    for (events, verdict) in cases {
        assert_eq!(search(&events), verdict, "{events:?}");
    }
}
