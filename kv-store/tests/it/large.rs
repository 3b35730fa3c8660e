//! Stores of thousands of keys: counts without a walk, walks that are stopped and go on, and views that are held beside a purge.

use kv_store::{Block, KeyRange, RangeQuery, Store, View};
use proptest::prelude::*;
use proptest::sample::select;

use crate::script::{Op, apply, config, genesis, put};

/// Keys `k0000` to `k9999`; more than fit into one stretch of the counts.
fn key(number: u16) -> Vec<u8> {
    format!("k{:04}", number % 10_000).into_bytes()
}

/// Puts every second key, then deletes and puts at random. From the change `published` on there are counts to keep right.
fn store(changes: &[(bool, u16)], published: usize) -> Store {
    let mut store = genesis();
    for chunk in (0..5_000).collect::<Vec<u16>>().chunks(100) {
        let puts: Vec<_> = chunk.iter().map(|number| put(&key(2 * number), b"first")).collect();
        apply(&mut store, &puts);
    }
    for (nth, (deletes, number)) in changes.iter().enumerate() {
        if nth == published {
            store.publish();
        }
        let from = key(*number);
        // A deletion takes a hundred keys, so that keys die as often as they are born.
        let op =
            if *deletes { Op::Delete { key: from, end: key(number % 10_000 + 100) } } else { put(&from, b"again") };
        apply(&mut store, &[op]);
    }
    store
}

fn ends() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => any::<u16>().prop_map(key), 1 => select(vec![b"".to_vec(), b"\0".to_vec(), b"k".to_vec(), b"l".to_vec()])]
}

proptest! {
    #![proptest_config(config(20))]
    #[test]
    fn counts_and_pages_are_those_of_a_walk(
        changes in prop::collection::vec((prop::bool::weighted(0.02), any::<u16>()), 1_500..3_000),
        ranges in prop::collection::vec((ends(), ends(), 0.0..1.0_f64), 30),
        limit in 1..2_000_i64,
        published in 0..2_000_usize,
    ) {
        let store = store(&changes, published);
        let view = store.view();
        for (key, end, when) in &ranges {
            let range = KeyRange::new(if key.is_empty() { b"\0" } else { key }, end);
            #[allow(clippy::cast_possible_truncation)]
            let past = 1 + ((view.revision() - 1) as f64 * when) as i64;
            for revision in [view.revision(), past] {
                let walked: Vec<&Block> = view.walk(&range, revision, None).collect();
                prop_assert_eq!(view.count(&range, revision), walked.len() as u64, "{:?} at {}", range, revision);

                let query = RangeQuery { limit, revision, ..RangeQuery::new(range) };
                let page = view.range(&query).unwrap();
                let shown = walked.len().min(usize::try_from(limit).unwrap());
                prop_assert_eq!(page.count, walked.len() as u64);
                prop_assert_eq!(page.more, shown < walked.len());
                prop_assert_eq!(&page.kvs[..], &walked[..shown]);

                let last = page.kvs.last().map(|block| block.key());
                let rest: Vec<&Block> = view.walk(&range, revision, last).collect();
                prop_assert_eq!(&rest[..], &walked[shown..], "a walk goes on where it was stopped");
            }
        }
    }
}

/// All revisions that are there.
fn state(view: &View) -> (u32, u32) {
    (view.state_hash(), view.hash_kv(0).unwrap().hash)
}

proptest! {
    #![proptest_config(config(8))]
    #[test]
    fn views_that_are_held_never_change_while_a_large_store_is_purged(
        changes in prop::collection::vec((prop::bool::weighted(0.05), any::<u16>()), 500..1_500),
        holds in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut store = store(&[], 0);
        store.publish();
        let (reader, mut held) = (store.reader(), Vec::new());
        for (nth, chunk) in changes.chunks(changes.len().div_ceil(holds.len())).enumerate() {
            let ops: Vec<_> = chunk.iter().flat_map(|(deletes, number)| {
                let from = key(*number);
                let end = key(number % 10_000 + 100);
                let near = put(&key(number.wrapping_add(1)), b"near");
                [if *deletes { Op::Delete { key: from, end } } else { put(&from, b"again") }, near]
            }).collect();
            apply(&mut store, &ops);
            if nth % 3 == 0 {
                let revision = store.view().revision() - 10;
                apply(&mut store, &[Op::Compact(revision)]);
            }
            store.purge(300);
            store.publish();
            let view = reader.load_full();
            held.push((state(&view), view));
            if held.len() > 4 {
                let (was, view) = held.swap_remove(holds[nth].index(held.len()));
                prop_assert_eq!(state(&view), was);
            }
        }
        // The store goes before the last of its views.
        drop((store, reader));
        for (was, view) in held {
            prop_assert_eq!(state(&view), was);
        }
    }
}
