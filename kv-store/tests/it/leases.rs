//! Leases on a clock of the test's: none ends before its time, and none lives for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_codec::command::{BatchBuilder, Body, CommandHeader, Expired};
use kv_store::{Applied, Due, Lessor, Outcome, Rejection, Renewal, SnapshotLoader, Store};
use proptest::prelude::*;

use crate::script::{Op, config, genesis, put};

const GRACE: Duration = Duration::from_secs(1);
const LEASES: i64 = 4;

fn secs(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

#[derive(Debug, Clone)]
enum Action {
    Grant(i64, i64),
    Revoke(i64),
    KeepAlive(i64),
    Pass(u64),
    /// What the leader wants goes into its log.
    Propose,
    /// What was proposed first is applied; later than other commands, as it may be.
    Apply,
    /// What was proposed first gets lost on the way.
    Lose,
    Attach(i64, u8),
    /// Another leader, or this one again. What the old one proposed may still come.
    Lead,
}

fn action() -> impl Strategy<Value = Action> {
    let lease = || 1..=LEASES;
    prop_oneof![
        3 => (lease(), prop_oneof![1..12i64, 200..1_000i64]).prop_map(|(id, ttl)| Action::Grant(id, ttl)),
        1 => lease().prop_map(Action::Revoke),
        6 => lease().prop_map(Action::KeepAlive),
        6 => prop_oneof![3 => 100..4_000u64, 1 => 10_000..700_000u64].prop_map(Action::Pass),
        6 => Just(Action::Propose),
        6 => Just(Action::Apply),
        1 => Just(Action::Lose),
        3 => (lease(), 0..6u8).prop_map(|(id, key)| Action::Attach(id, key)),
        1 => Just(Action::Lead),
    ]
}

struct Run {
    store: Store,
    lessor: Lessor,
    term: u64,
    now: Duration,
    /// On their way: the command, and whose lease it ends.
    proposed: Vec<(Body<'static>, Option<(i64, u64)>)>,
    /// Until when each lease was promised to live.
    promised: BTreeMap<i64, Duration>,
}

impl Run {
    fn new() -> Self {
        let store = genesis();
        let lessor = Lessor::lead(store.view().leases(), Duration::ZERO, GRACE);
        Self { store, lessor, term: 1, now: Duration::ZERO, proposed: Vec::new(), promised: BTreeMap::new() }
    }

    fn apply(&mut self, body: &Body<'_>) -> Applied {
        let mut batch = BatchBuilder::default();
        batch.push(&body.encode(&CommandHeader::default()));
        let mut results = Vec::new();
        let index = self.store.view().applied_index() + 1;
        self.store.apply(index, self.term, &batch.finish(), &mut results).unwrap();
        self.lessor.follow(self.store.view().leases(), self.now);
        results.remove(0)
    }

    fn propose(&mut self) {
        let Due { expired, checkpoints } = self.lessor.due(self.now, 3);
        for (id, granted) in expired {
            let expired = Some(Expired { term: self.term, granted });
            self.proposed.push((Body::LeaseRevoke { id, expired }, Some((id, granted))));
        }
        if !checkpoints.is_empty() {
            self.proposed.push((Body::LeaseCheckpoint { term: self.term, checkpoints }, None));
        }
    }

    fn apply_first(&mut self) -> Result<(), TestCaseError> {
        if self.proposed.is_empty() {
            return Ok(());
        }
        let (body, ends) = self.proposed.remove(0);
        let there = ends.is_some_and(|(id, _)| self.store.view().leases().get(id).is_some());
        let applied = self.apply(&body);
        let Some((id, granted)) = ends else { return Ok(()) };
        if applied.outcome == Outcome::LeaseRevoked {
            let promised = self.promised.remove(&id).unwrap();
            prop_assert!(there && promised <= self.now, "lease {} ended {:?} early", id, promised - self.now);
        } else {
            let allowed = [Rejection::LeaseNotFound, Rejection::OldTerm].map(Outcome::Rejected);
            prop_assert!(allowed.contains(&applied.outcome));
            self.lessor.failed((id, granted), self.now);
        }
        Ok(())
    }

    fn keep_alive(&mut self, id: i64) -> Result<(), TestCaseError> {
        let there = self.store.view().leases().get(id).is_some();
        match self.lessor.renew(id, self.now) {
            Renewal::Unknown => prop_assert!(!there),
            Renewal::Ending => prop_assert!(there && self.promised[&id] <= self.now),
            Renewal::Renewed { ttl, noted } => {
                prop_assert!(there);
                if let Some(noted) = noted {
                    // Behind every other in the log.
                    while !self.proposed.is_empty() {
                        self.apply_first()?;
                    }
                    self.apply(&Body::LeaseCheckpoint { term: self.term, checkpoints: vec![noted.undo] });
                    self.lessor.undone(noted);
                }
                self.promised.insert(id, self.now + secs(ttl));
            }
        }
        Ok(())
    }

    /// A new leader: all it has is what the log says, or the snapshot of it.
    fn lead(&mut self) -> Result<(), TestCaseError> {
        self.term += 1;
        let mut loader = SnapshotLoader::default();
        self.store.view().chunks().for_each(|chunk| loader.push(&chunk).unwrap());
        self.store.install(loader.finish().unwrap());
        let before: BTreeMap<_, _> =
            (1..=LEASES).filter_map(|id| Some((id, self.lessor.time_to_live(id, self.now)?.1))).collect();
        self.lessor = Lessor::lead(self.store.view().leases(), self.now, GRACE);
        for (id, left) in before {
            let (ttl, anew) = self.lessor.time_to_live(id, self.now).unwrap();
            prop_assert!(anew >= left && anew <= secs(ttl) + GRACE, "{:?} of {}, {:?} before", anew, ttl, left);
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<(), TestCaseError> {
        match *action {
            Action::Grant(id, ttl) => {
                if self.apply(&Body::LeaseGrant { id, ttl }).outcome == Outcome::LeaseGranted {
                    self.promised.insert(id, self.now + secs(ttl));
                    let left = self.lessor.time_to_live(id, self.now);
                    prop_assert_eq!(left, Some((ttl, secs(ttl))), "whatever had this id before");
                }
            }
            Action::Revoke(id) => {
                if self.apply(&Body::LeaseRevoke { id, expired: None }).outcome == Outcome::LeaseRevoked {
                    self.promised.remove(&id);
                }
            }
            Action::KeepAlive(id) => self.keep_alive(id)?,
            Action::Pass(millis) => self.now += Duration::from_millis(millis),
            Action::Propose => self.propose(),
            Action::Apply => self.apply_first()?,
            Action::Lose => {
                if !self.proposed.is_empty()
                    && let (_, Some(ends)) = self.proposed.remove(0)
                {
                    self.lessor.failed(ends, self.now);
                }
            }
            Action::Attach(id, key) => {
                let Op::Put { key, value, .. } = put(&[key], b"") else { unreachable!("a put is a put") };
                let put = kv_codec::command::Put {
                    key: &key,
                    value: &value,
                    lease: id,
                    prev_kv: false,
                    ignore_value: false,
                    ignore_lease: false,
                };
                self.apply(&Body::Put(put));
            }
            Action::Lead => self.lead()?,
        }
        prop_assert_eq!(self.promised.len(), self.store.view().leases().iter().len());
        prop_assert_eq!(self.lessor.by_deadline().len(), self.promised.len());
        Ok(())
    }

    /// Nobody keeps anything alive any more: it all ends, and what is attached with it.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            self.now += Duration::from_secs(30);
            self.propose();
            while !self.proposed.is_empty() {
                self.apply_first()?;
            }
        }
        prop_assert_eq!(self.store.view().leases().iter().len(), 0);
        prop_assert_eq!(self.store.view().live_keys(), 0);
        prop_assert_eq!(self.lessor.next_due(), None);
        Ok(())
    }
}

proptest! {
    #![proptest_config(config(3_000))]
    #[test]
    fn no_lease_ends_before_its_time_and_none_lives_for_ever(
        actions in prop::collection::vec(action(), 1..80),
    ) {
        let mut run = Run::new();
        for action in &actions {
            run.act(action)?;
        }
        run.finish()?;
    }
}

/// A lease with keys, and its leader.
fn leased(ttl: i64) -> Run {
    let mut run = Run::new();
    for action in [Action::Grant(1, ttl), Action::Attach(1, 2), Action::Attach(1, 1)] {
        run.act(&action).unwrap();
    }
    run
}

/// What was left of a lease was noted after it had been kept alive: a leader that came then ended it early.
#[test]
fn a_note_that_was_on_its_way_does_not_outlive_a_keep_alive() {
    let mut run = leased(60);
    run.now += secs(30);
    run.propose();
    let (note, _) = run.proposed.remove(0);
    let Renewal::Renewed { ttl: 60, noted: Some(noted) } = run.lessor.renew(1, run.now) else {
        panic!("the note is forgotten");
    };
    run.apply(&note);
    assert_eq!(run.store.view().leases().get(1).unwrap().seconds(), 30);
    let undo = Body::LeaseCheckpoint { term: run.term, checkpoints: vec![noted.undo] };
    run.apply(&undo);
    run.lessor.undone(noted);
    assert_eq!(run.store.view().leases().get(1).unwrap().seconds(), 60);
    assert_eq!(run.lessor.renew(1, run.now), Renewal::Renewed { ttl: 60, noted: None });
}

/// etcd 12528, 17425: a leader that had been replaced ended leases that were kept alive at the new one.
#[test]
fn what_an_old_leader_saw_expire_lives_on() {
    let mut run = leased(5);
    run.now += secs(6);
    run.propose();
    run.lead().unwrap();
    run.keep_alive(1).unwrap();
    let (body, _) = run.proposed.remove(0);
    assert_eq!(run.apply(&body).outcome, Outcome::Rejected(Rejection::OldTerm));
    assert!(run.store.view().leases().get(1).is_some());
    assert_eq!(run.store.view().live_keys(), 2);
}

/// etcd 14087: a lease was ended twice; a leader that had been replaced noted what was left of leases.
#[test]
fn an_end_that_comes_twice_and_an_old_note_touch_no_other_lease() {
    let mut run = leased(60);
    run.now += secs(30);
    run.propose();
    let (note, _) = run.proposed.remove(0);
    run.now += secs(30);
    run.propose();
    let (end, _) = run.proposed.remove(0);
    assert_eq!(run.apply(&end).outcome, Outcome::LeaseRevoked);
    assert_eq!(run.apply(&end).outcome, Outcome::Rejected(Rejection::LeaseNotFound));
    run.apply(&Body::LeaseGrant { id: 1, ttl: 60 });
    assert_eq!(run.apply(&end).outcome, Outcome::Rejected(Rejection::LeaseNotFound), "another of the same number");
    run.apply(&note);
    assert_eq!(run.store.view().leases().get(1).unwrap().seconds(), 60, "nor is the note of it");
    run.now += secs(30);
    run.propose();
    let (note, _) = run.proposed.remove(0);
    run.term += 1;
    assert_eq!(run.apply(&note).outcome, Outcome::Rejected(Rejection::OldTerm));
    assert_eq!(run.store.view().leases().get(1).unwrap().seconds(), 60);
}

/// etcd 20616, 14758: a keep-alive was answered with a time to live, and the keys went all the same.
#[test]
fn what_is_about_to_end_is_not_kept_alive() {
    let mut run = leased(5);
    run.now += secs(5);
    assert_eq!(run.lessor.renew(1, run.now), Renewal::Ending, "past its time, if not yet noticed");
    run.propose();
    assert_eq!(run.lessor.renew(1, run.now), Renewal::Ending);
    run.apply_first().unwrap();
    assert_eq!(run.lessor.renew(1, run.now), Renewal::Unknown);
    assert_eq!(run.store.view().revision(), 4, "both keys in one revision");
}

/// etcd 13508, 17132: each new leader gave every lease all of its time.
#[test]
fn what_nobody_keeps_alive_ends_however_often_the_leader_changes() {
    let mut run = leased(3_600);
    let mut lived = Duration::ZERO;
    while run.store.view().leases().get(1).is_some() {
        // A leader for ten minutes, again and again.
        for _ in 0..10 {
            run.now += secs(60);
            lived += secs(60);
            run.propose();
            while !run.proposed.is_empty() {
                run.apply_first().unwrap();
            }
        }
        run.lead().unwrap();
        assert!(lived < secs(2 * 3_600), "it lives for ever");
    }
    assert!(lived >= secs(3_600));
}

/// etcd 9399: a huge time to live ended at once.
#[test]
fn the_longest_and_the_shortest_lease() {
    let mut run = Run::new();
    for (id, ttl) in [(1, i64::MAX), (2, 9_000_000_000), (3, 1)] {
        run.apply(&Body::LeaseGrant { id, ttl });
    }
    run.now += secs(1);
    assert_eq!(run.lessor.due(run.now, 9).expired, [(3, 4)]);
    run.now += secs(8_999_999_998);
    assert!(run.lessor.due(run.now, 9).expired.is_empty());
    assert_eq!(run.lessor.by_deadline(), [3, 2, 1]);
}

/// etcd 10686, 9935: a lease whose end got lost was never ended.
#[test]
fn an_end_that_got_lost_is_tried_again() {
    let mut run = leased(2);
    run.now += secs(3);
    run.propose();
    run.act(&Action::Lose).unwrap();
    run.propose();
    assert!(run.proposed.is_empty(), "not at once");
    run.now += secs(1);
    run.propose();
    run.apply_first().unwrap();
    assert_eq!(run.store.view().live_keys(), 0);
}
