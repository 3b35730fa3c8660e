//! Entries that cannot be applied, and conf changes.

use kv_codec::command::{BatchBuilder, Body, CommandHeader};
use kv_codec::member::Member;
use kv_codec::{DecodeError, command};
use kv_store::{ApplyError, ConfChange, Outcome, Rejection, Store};
use proptest::prelude::*;

use crate::script::{apply, config, entry, genesis, members, put, script};

fn batch(bodies: &[Body<'_>]) -> Vec<u8> {
    let mut batch = BatchBuilder::default();
    bodies.iter().for_each(|body| batch.push(&body.encode(&CommandHeader::default())));
    batch.finish().to_vec()
}

fn newcomer(id: u64) -> Member {
    Member { id, peer_urls: vec![format!("http://new{id}:2380")], is_learner: false, ..members().remove(0) }
}

/// A store at index 3, term 2.
fn store() -> Store {
    let mut store = genesis();
    store.apply(2, 1, &entry(&[put(b"k", b"v")]), &mut Vec::new()).unwrap();
    store.apply(3, 2, b"", &mut Vec::new()).unwrap();
    store
}

#[test]
fn an_entry_out_of_order_is_an_error_and_changes_nothing() {
    let good = entry(&[put(b"k", b"w")]);
    let conf = batch(&[Body::MemberRemove(2)]);
    for (index, term) in [(2, 2), (3, 2), (5, 2), (0, 2), (u64::MAX, 2), (4, 1)] {
        let mut store = store();
        let before = store.view().state_hash();
        let wanted = ApplyError::OutOfOrder { index, applied: 3 };
        let mut results = Vec::new();
        assert_eq!(store.apply(index, term, &good, &mut results), Err(wanted.clone()));
        assert_eq!(store.apply_conf_change(index, term, &conf).unwrap_err(), wanted);
        assert!(results.is_empty());
        assert_eq!(store.view().state_hash(), before);
        store.apply(4, 2, &good, &mut results).unwrap();
        assert_eq!((store.view().applied_index(), store.view().applied_term(), results.len()), (4, 2, 1));
    }
}

fn add(member: Member) -> Body<'static> {
    Body::MemberAdd { member, learners_max: command::LEARNERS_DEFAULT }
}

#[test]
fn a_command_of_the_wrong_kind_is_an_error() {
    let wrong = Err(ApplyError::WrongKind { index: 4 });
    for body in [add(newcomer(7)), Body::MemberRemove(2), Body::MemberPromote(3)] {
        let mut store = store();
        assert_eq!(store.apply(4, 2, &batch(&[body]), &mut Vec::new()), wrong);
        assert_eq!(store.view().members(), genesis().view().members());
    }
    let update = Body::MemberUpdate { id: 1, peer_urls: vec![] };
    for bodies in [vec![update], vec![Body::MemberRemove(2), Body::MemberRemove(3)]] {
        let mut store = store();
        assert_eq!(store.apply_conf_change(4, 2, &batch(&bodies)).map(drop), wrong);
        assert_eq!(store.view().members(), genesis().view().members());
    }
    assert_eq!(store().apply_conf_change(4, 2, &entry(&[put(b"k", b"")])).map(drop), wrong);
}

#[test]
fn an_unreadable_batch_is_an_error_that_names_the_entry() {
    let mut newer = entry(&[put(b"k", b"")]);
    newer[0] = 9;
    let source = DecodeError::Version { what: "batch", found: 9 };
    let wanted = Err(ApplyError::Decode { index: 4, source });
    assert_eq!(store().apply(4, 2, &newer, &mut Vec::new()), wanted);
    assert_eq!(store().apply_conf_change(4, 2, &newer).map(drop), wanted);
    assert!(matches!(store().apply_conf_change(4, 2, b"").map(drop), Err(ApplyError::Decode { index: 4, .. })));
    let huge = [&[command::BATCH_VERSION][..], &[0xff; 4]].concat();
    assert!(matches!(store().apply(4, 2, &huge, &mut Vec::new()), Err(ApplyError::Decode { index: 4, .. })));
}

#[test]
fn an_update_of_urls_is_a_normal_entry() {
    let mut store = store();
    let update = |urls: &[&str]| {
        batch(&[Body::MemberUpdate { id: 3, peer_urls: urls.iter().map(|url| (*url).to_owned()).collect() }])
    };
    let mut results = Vec::new();
    store.apply(4, 2, &update(&["http://moved:1"]), &mut results).unwrap();
    store.apply(5, 2, &update(&["http://host1:2380"]), &mut results).unwrap();
    let moved = store.view().members().get(3).unwrap();
    assert_eq!((&moved.peer_urls[..], moved.is_learner), (&["http://moved:1".to_owned()][..], true));
    assert!(matches!(&results[0].outcome, Outcome::Members(members) if members == store.view().members()));
    assert_eq!(results[1].outcome, Outcome::Rejected(Rejection::PeerUrlExists));
}

/// Each change as consensus has to follow it; a refused one moves nothing but the applied index.
#[test]
fn conf_changes() {
    let mut store = store();
    let mut change = |body: Body<'_>| {
        let index = store.view().applied_index() + 1;
        let before = store.view().members().clone();
        let (applied, change) = store.apply_conf_change(index, 2, &batch(&[body])).unwrap();
        assert_eq!((applied.revision, store.view().revision(), store.view().applied_index()), (2, 2, index));
        match &applied.outcome {
            Outcome::Members(members) => assert_eq!(members, store.view().members()),
            Outcome::Rejected(_) => assert_eq!(&before, store.view().members()),
            outcome => panic!("{outcome:?}"),
        }
        match applied.outcome {
            Outcome::Rejected(rejection) => (Some(rejection), change),
            _ => (None, change),
        }
    };
    assert_eq!(change(add(newcomer(7))), (None, Some(ConfChange::AddVoter(7))));
    assert_eq!(change(add(newcomer(7))), (Some(Rejection::MemberIdExists), None));
    assert_eq!(change(add(newcomer(99))), (Some(Rejection::MemberIdExists), None));
    assert_eq!(change(Body::MemberPromote(3)), (None, Some(ConfChange::AddVoter(3))));
    assert_eq!(change(Body::MemberPromote(3)), (Some(Rejection::NotLearner), None));
    let learner = Member { is_learner: true, ..newcomer(8) };
    assert_eq!(change(add(learner)), (None, Some(ConfChange::AddLearner(8))));
    for (id, wanted) in [(7, None), (3, None), (2, None), (1, Some(Rejection::NotEnoughMembers))] {
        assert_eq!(change(Body::MemberRemove(id)), (wanted, wanted.is_none().then_some(ConfChange::Remove(id))));
    }
    assert_eq!(change(Body::MemberRemove(7)), (Some(Rejection::MemberNotFound), None));
}

/// etcd looks for the lease first.
#[test]
fn a_lease_that_is_not_there_is_refused_before_a_missing_key() {
    let mut store = store();
    let refused = |store: &mut Store, lease| {
        let mut op = put(b"missing", b"");
        if let crate::script::Op::Put { lease: asked, ignore_value, .. } = &mut op {
            (*asked, *ignore_value) = (lease, true);
        }
        apply_at_term_2(store, &entry(&[op]))
    };
    assert_eq!(refused(&mut store, 77), Outcome::Rejected(Rejection::LeaseNotFound));
    assert_eq!(refused(&mut store, 0), Outcome::Rejected(Rejection::KeyNotFound));
    assert_eq!(store.view().revision(), 2);
}

fn apply_at_term_2(store: &mut Store, bytes: &[u8]) -> Outcome {
    let mut results = Vec::new();
    store.apply(store.view().applied_index() + 1, 2, bytes, &mut results).unwrap();
    results.remove(0).outcome
}

proptest! {
    #![proptest_config(config(500))]

    /// A damaged entry returns: an error, or what the bytes now say.
    #[test]
    fn a_damaged_batch_returns(script in script(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        for step in script.iter().filter(|step| !step.ops.is_empty()) {
            let mut bytes = entry(&step.ops);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            for conf in [false, true] {
                let mut store = genesis();
                let mut results = Vec::new();
                let done = if conf {
                    store.apply_conf_change(2, 1, &bytes).map(drop)
                } else {
                    store.apply(2, 1, &bytes, &mut results)
                };
                if done.is_ok() {
                    apply(&mut store, &[put(b"next", b"")]);
                }
            }
        }
    }
}
