//! Compaction: what it keeps, and that nobody sees when it is purged.

use kv_store::{Block, KeyRange, RangeQuery, ReadError, Store};
use proptest::prelude::*;

use crate::model::ask;
use crate::script::{Op, Query, apply, config, genesis, put, script};
use crate::snapshot::assert_same;

fn del(key: &[u8]) -> Op {
    Op::Delete { key: key.to_vec(), end: Vec::new() }
}

/// A store after `ops`, each in an entry of its own.
fn store(ops: &[Op]) -> Store {
    let mut store = genesis();
    ops.iter().for_each(|op| drop(apply(&mut store, std::slice::from_ref(op))));
    store
}

proptest! {
    #![proptest_config(config(500))]

    /// Two replicas, one of which purges as the script says and the other as `budgets` say, cannot be told apart.
    #[test]
    fn replicas_purge_when_they_like(
        script in script(),
        budgets in prop::collection::vec(prop_oneof![2 => Just(0), 2 => 1..20usize, 1 => Just(usize::MAX)], 12),
    ) {
        let (mut one, mut other) = (genesis(), genesis());
        for (step, budget) in script.iter().zip(budgets) {
            prop_assert_eq!(apply(&mut one, &step.ops), apply(&mut other, &step.ops));
            one.purge(step.purge);
            other.purge(budget);
            assert_same(one.view(), other.view())?;
        }
    }

    /// To ask for a hash before it is computed, or when it is half computed, is to get the same.
    #[test]
    fn a_compaction_keeps_the_hash_from_before(script in script(), budget in 1..5usize) {
        let mut store = genesis();
        for step in &script {
            for op in &step.ops {
                let Op::Compact(revision) = op else {
                    apply(&mut store, std::slice::from_ref(op));
                    continue;
                };
                let before = store.view().hash_kv(*revision);
                let compacts = *revision > store.view().compact_revision() && before.is_ok();
                apply(&mut store, std::slice::from_ref(op));
                while compacts && *revision > 0 && store.purge(budget) {
                    prop_assert_eq!(store.view().hash_kv(*revision), before);
                }
                if compacts && *revision > 0 {
                    prop_assert_eq!(store.view().hash_kv(*revision), before);
                }
            }
        }
    }
}

/// Revisions: 2 and 4 of "a", 3 and 5 of "b", 6 deletes "a", 7 deletes "b".
fn two_deleted_keys() -> Vec<Op> {
    vec![put(b"a", b"1"), put(b"b", b"1"), put(b"a", b"2"), put(b"b", b"2"), del(b"a"), del(b"b")]
}

/// The blocks that are left, told by their bytes: 41 for a deletion, 42 for a put.
#[test]
fn a_deletion_below_goes_and_one_at_the_revision_stays_until_the_next() {
    let history_after = |compactions: &[i64]| {
        let mut store = store(&two_deleted_keys());
        for revision in compactions {
            apply(&mut store, &[Op::Compact(*revision)]);
            assert!(!store.purge(usize::MAX));
        }
        store.view().bytes().history
    };
    assert_eq!(history_after(&[]), 4 * 42 + 2 * 41);
    assert_eq!(history_after(&[3]), 4 * 42 + 2 * 41, "both are the newest");
    assert_eq!(history_after(&[4]), 3 * 42 + 2 * 41);
    assert_eq!(history_after(&[6]), 42 + 2 * 41, "the deletion of \"a\" is at the revision");
    assert_eq!(history_after(&[7]), 41, "the deletion of \"a\" is below");
    assert_eq!(history_after(&[6, 7]), 41);
    assert_eq!(history_after(&[2, 3, 4, 5, 6, 7]), 41);
    let mut store = store(&two_deleted_keys());
    apply(&mut store, &[Op::Compact(7), put(b"c", b""), Op::Compact(8)]);
    assert!(!store.purge(usize::MAX));
    assert_eq!((store.view().bytes().history, store.view().revision()), (41, 8), "only \"c\" is left");
}

/// The revision is a number of its own: it does not go with the last change.
#[test]
fn the_revision_outlives_its_change() {
    let mut store = store(&[put(b"a", b""), del(b"a"), del(b"nothing"), Op::Compact(3), Op::Compact(3)]);
    assert!(!store.purge(usize::MAX));
    assert_eq!(store.view().revision(), 3);
    let loaded = {
        let mut loader = kv_store::SnapshotLoader::default();
        store.view().chunks().for_each(|chunk| loader.push(&chunk).unwrap());
        loader.finish().unwrap()
    };
    assert_eq!((loaded.revision(), loaded.compact_revision()), (3, 3));
    assert_eq!(apply(&mut store, &[put(b"a", b"")])[0].revision, 4);
}

/// Each step drops little, and readers of any moment find what they found before.
#[test]
fn a_purge_goes_in_small_steps_and_hides_nothing() {
    let mut ops: Vec<Op> = (0..300u16).map(|n| put(&[b'k', (n % 50) as u8], &n.to_be_bytes())).collect();
    ops.extend((0..25u8).map(|n| del(&[b'k', n])));
    let mut store = store(&ops);
    let (now, past) = (ask(store.view(), &Query::all(0)), ask(store.view(), &Query::all(320)));
    apply(&mut store, &[Op::Compact(320)]);
    let (mut steps, mut bytes) = (0, store.view().bytes().history);
    while store.purge(4) {
        steps += 1;
        let left = store.view().bytes().history;
        // A revision that is looked at can drop itself and the one it replaced: 44 bytes each at most.
        assert!(left <= bytes && bytes - left <= 4 * 2 * 44, "{bytes} to {left} in one step");
        bytes = left;
        assert_eq!(ask(store.view(), &Query::all(0)), now);
        assert_eq!(ask(store.view(), &Query::all(320)), past);
    }
    assert!(steps >= 2 * 300 / 4, "{steps} steps: every revision is hashed and looked at");
    // All 25 keys that were put last are live; of the others, 6 are deleted after the compaction, and one at it.
    assert_eq!(store.view().bytes().history, 31 * 44 + 7 * 42);
}

/// Who waits for a compaction does not wait for those that others ask for meanwhile.
#[test]
fn a_compaction_is_purged_when_what_it_hid_is_gone() {
    let mut store = store(&(0..100u8).map(|n| put(b"k", &[n])).collect::<Vec<_>>());
    apply(&mut store, &[Op::Compact(50)]);
    assert!(!store.view().is_purged_to(50));
    let mut steps = 0;
    // Another one comes with each step: the purge is never through with all of them.
    while !store.view().is_purged_to(50) {
        steps += 1;
        apply(&mut store, &[put(b"k", b""), Op::Compact(50 + steps)]);
        assert!(store.purge(16));
        assert!(!store.view().is_purged_to(50 + steps) && !store.view().is_purged());
    }
    assert!((2..50).contains(&steps), "{steps} steps");
    // 51 puts from the compacted revision on, and one a step.
    assert!(store.view().history_len() <= u64::try_from(51 + steps).unwrap());
}

#[test]
fn the_last_ten_compactions_keep_their_hash() {
    for budget in [0, 5, usize::MAX] {
        let mut store = genesis();
        let mut hashes = Vec::new();
        for n in 2..14 {
            apply(&mut store, &[put(b"k", &[n])]);
            hashes.push(store.view().hash_kv(i64::from(n)).unwrap());
            apply(&mut store, &[Op::Compact(i64::from(n))]);
            store.purge(budget);
        }
        let gone = ReadError::Compacted { compact_revision: 13 };
        assert_eq!(store.view().hash_kv(3), Err(gone), "with budget {budget}");
        for hash in &hashes[2..] {
            assert_eq!(store.view().hash_kv(hash.revision), Ok(*hash), "with budget {budget}");
        }
        assert_ne!(store.view().hash_kv(0).unwrap().compact_revision, hashes[11].compact_revision);
    }
}

/// However often it is compacted, the purge gets on.
#[test]
fn compactions_do_not_starve_the_purge() {
    let mut store = genesis();
    let mut bytes_max = 0;
    for n in 0..2_000u32 {
        let ops = [put(b"k", &n.to_be_bytes()), put(&[(n % 7) as u8], b""), Op::Compact(i64::from(n) * 2 + 3)];
        apply(&mut store, &ops);
        store.purge(10);
        bytes_max = bytes_max.max(store.view().bytes().history);
    }
    assert!(bytes_max < 100 * 50, "at most 100 revisions at once, not all 4,000: {bytes_max} bytes");
}

/// A deleted key that is purged is nowhere in the way any more.
#[test]
fn a_purged_key_starts_anew() {
    let mut store = store(&[put(b"k", b"1"), put(b"k", b"2"), del(b"k"), put(b"other", b""), Op::Compact(5)]);
    assert!(!store.purge(usize::MAX));
    apply(&mut store, &[put(b"k", b"3")]);
    let view = store.view();
    let found = view.range(&RangeQuery::new(KeyRange::From(b"k"))).unwrap();
    let seen: Vec<_> = found.kvs.iter().copied().map(|kv: &Block| (kv.version(), kv.create_revision())).collect();
    assert_eq!(seen, [(1, 6), (1, 5)]);
}
