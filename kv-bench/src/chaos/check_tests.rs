//! Runs that must pass, and ones that must not: each breaks one promise.

#![allow(clippy::unwrap_used)]

use kv_sim::history::{Guard, Pair};

use super::super::lessees::Promise;
use super::super::watchers::{Change, Heard};
use super::*;

const MS: u64 = 1_000_000;

fn put(key: &str, value: &str) -> Request {
    Request::Write(Step::Put(key.into(), value.into()))
}

fn get(key: &str) -> Request {
    Request::Range { key: key.into(), end: Vec::new(), limit: 0, revision: 0 }
}

fn pair(key: &str, value: &str, create_revision: i64, mod_revision: i64, version: i64) -> Pair {
    Pair { key: key.into(), value: value.into(), create_revision, mod_revision, version }
}

fn call(client: u32, made: u64, ended: u64, request: Request, outcome: Outcome) -> Call {
    Call { client, request, lease: 0, serializable: false, made, ended, outcome }
}

fn told(revision: i64, told: Told) -> Outcome {
    Outcome::Answered(Answer { revision, told })
}

fn told_pair(revision: i64, pair: Option<Pair>) -> Outcome {
    let count = u64::from(pair.is_some());
    told(revision, Told::Range(pair.into_iter().collect(), count, false))
}

fn unknown() -> Outcome {
    Outcome::Unknown("no answer".into())
}

fn change(key: &str, pair: Option<Pair>) -> Change {
    Change { key: key.into(), pair }
}

fn everything(changes: Vec<(i64, Change)>) -> Watched {
    let keys = (b"chaos/".to_vec(), b"chaos0".to_vec());
    let heard = changes.into_iter().map(|change| Heard::Changes(500 * MS, vec![change]));
    Watched { name: "everything", keys, heard: [Heard::Opened(1)].into_iter().chain(heard).collect() }
}

/// Two puts of one key one after the other, a put and a delete that nobody was told of, a lease that ends, and a read.
fn right() -> Seen {
    let (one, two) = (pair("chaos/k/1", "0.0", 2, 2, 1), pair("chaos/k/1", "0.1", 2, 3, 2));
    let (late, leased) = (pair("chaos/k/2", "1.0", 4, 4, 1), pair("chaos/lease/1", "lease", 5, 5, 1));
    let calls = vec![
        call(0, 10, 20, put("chaos/k/1", "0.0"), told(2, Told::Put(None))),
        call(0, 30, 40, put("chaos/k/1", "0.1"), told(3, Told::Put(Some(one.clone())))),
        call(1, 25, 90, put("chaos/k/2", "1.0"), unknown()),
        call(1, 100, 110, put("chaos/k/2", "1.1"), unknown()),
        call(2, 50, 60, put("chaos/lease/1", "lease"), told(5, Told::Put(None))),
        call(3, 70, 80, get("chaos/k/1"), told_pair(5, Some(two.clone()))),
        call(3, 120, 130, Request::Write(Step::Delete("chaos/k/2".into(), Vec::new())), unknown()),
        call(3, 140, 150, Request::Write(Step::Delete("chaos/k/2".into(), Vec::new())), told(7, Told::Deleted(vec![]))),
    ];
    let leases = vec![Lease {
        id: 7,
        key: b"chaos/lease/1".to_vec(),
        promises: vec![Promise { made: 45, answered: 48, ttl: 400 * MS }],
        revoked: false,
    }];
    let changes = vec![
        (2, change("chaos/k/1", Some(one))),
        (3, change("chaos/k/1", Some(two))),
        (4, change("chaos/k/2", Some(late))),
        (5, change("chaos/lease/1", Some(leased))),
        (6, change("chaos/lease/1", None)),
        (7, change("chaos/k/2", None)),
    ];
    Seen { calls, leases, watched: vec![everything(changes)], compacted: 0, last: 7 }
}

fn violations(seen: &Seen) -> Vec<String> {
    check(seen, &mut fastrand::Rng::with_seed(1)).violations
}

#[track_caller]
fn wrong(says: &str, change: impl FnOnce(&mut Seen)) {
    let mut seen = right();
    change(&mut seen);
    let violations = violations(&seen);
    assert!(violations.iter().any(|violation| violation.contains(says)), "{says:?} is not in {violations:#?}");
}

fn heard(seen: &mut Seen) -> &mut Vec<Heard> {
    &mut seen.watched[0].heard
}

#[test]
fn a_right_run_is_right() {
    let found = check(&right(), &mut fastrand::Rng::with_seed(1));
    assert_eq!(found.violations, [""; 0]);
    assert_eq!((found.unknown_applied, found.undecided), (2, 0));
    assert_eq!(found.model.unwrap().revision(), 7);
}

#[test]
fn an_acknowledged_write_that_is_gone_is_found() {
    // Another one in its place, and none at all.
    wrong("LOST", |seen| {
        let other = pair("chaos/k/1", "1.1", 2, 3, 2);
        heard(seen)[2] = Heard::Changes(1, vec![(3, change("chaos/k/1", Some(other)))]);
    });
    wrong("LOST", |seen| {
        seen.calls[1].outcome = told(8, Told::Put(None));
    });
    wrong("LOST", |seen| {
        heard(seen).truncate(2);
        seen.last = 2;
    });
}

#[test]
fn a_stale_read_is_found() {
    wrong("not linearizable", |seen| {
        seen.calls[5].outcome = told_pair(2, Some(pair("chaos/k/1", "0.0", 2, 2, 1)));
    });
    // By values alone as well, whatever revision it claims.
    wrong("by values alone: key chaos/k/1", |seen| {
        seen.calls[5].outcome = told_pair(5, Some(pair("chaos/k/1", "0.0", 2, 2, 1)));
    });
    let mut seen = right();
    seen.calls[5].outcome = told_pair(2, Some(pair("chaos/k/1", "0.0", 2, 2, 1)));
    seen.calls[5].serializable = true;
    assert_eq!(violations(&seen), [""; 0], "it asked for no more");
}

#[test]
fn a_wrong_answer_is_found() {
    wrong("not linearizable", |seen| seen.calls[1].outcome = told(3, Told::Put(None)));
    wrong("was answered by", |seen| seen.calls[1].outcome = Outcome::Nonsense("a negative count".into()));
    wrong("share revision 2", |seen| {
        seen.calls.push(call(5, 10, 20, put("chaos/k/1", "0.0"), told(2, Told::Put(None))));
    });
    wrong("told of a compaction", |seen| seen.calls[5].outcome = told(0, Told::Compacted));
}

#[test]
fn what_was_refused_or_nobody_asked_for_does_not_happen() {
    wrong("was refused", |seen| seen.calls[2].outcome = Outcome::Refused("bad".into()));
    wrong("nobody asked for revision 4", |seen| drop(seen.calls.remove(2)));
    wrong("nobody asked for revision 7", |seen| drop(seen.calls.remove(6)));
}

#[test]
fn a_write_does_not_happen_before_it_is_made_or_twice() {
    wrong("not linearizable", |seen| seen.calls[2].made = 65);
    wrong("and again at 8", |seen| {
        let again = pair("chaos/k/2", "1.0", 8, 8, 1);
        heard(seen).push(Heard::Changes(1, vec![(8, change("chaos/k/2", Some(again)))]));
        seen.last = 8;
    });
}

#[test]
fn a_lease_that_ends_early_is_found() {
    wrong("lease 7 ended 100 ms before", |seen| seen.leases[0].promises[0].ttl = 600 * MS);
    let mut seen = right();
    seen.leases[0].promises[0].ttl = 600 * MS;
    seen.leases[0].revoked = true;
    assert_eq!(violations(&seen), [""; 0]);
}

#[test]
fn what_watchers_are_told_is_what_happened() {
    wrong("watchers were told", |seen| {
        let other = pair("chaos/k/2", "1.0", 4, 4, 9);
        heard(seen)[3] = Heard::Changes(1, vec![(4, change("chaos/k/2", Some(other)))]);
    });
    wrong("not told of revision 3", |seen| {
        let mut other = right().watched.remove(0);
        other.heard.remove(2);
        seen.watched.push(other);
    });
}

#[test]
fn transactions_own_their_revision_only_if_they_change_something() {
    let mut seen = right();
    let guarded = |failure| Request::Txn {
        guards: vec![(b"chaos/k/9".to_vec(), Guard::ModIs(9))],
        success: vec![Step::Put("chaos/k/9".into(), "4.0".into())],
        failure,
    };
    seen.calls.push(call(4, 160, 170, guarded(vec![]), told(7, Told::Txn(false, vec![]))));
    seen.calls.push(call(4, 180, 190, guarded(vec![]), unknown()));
    assert_eq!(violations(&seen), [""; 0]);
    let put = vec![Step::Put("chaos/k/9".into(), "4.1".into())];
    let answer = Told::Txn(false, vec![(8, Told::Put(None))]);
    seen.calls.push(call(4, 200, 210, guarded(put), told(8, answer)));
    assert!(violations(&seen).iter().any(|violation| violation.contains("LOST")));
}
