//! Readers: a loaded view never changes, and what is loaded is whole.

use std::sync::Arc;

use kv_store::{View, ViewReader};
use proptest::prelude::*;

use crate::model::{Found, ask};
use crate::script::{Op, Query, apply, config, genesis, put, script};

/// All that can be seen of a view: every key now and at each revision, hashes, counters, members.
fn seen(view: &View) -> (Vec<Found>, u32, u32, String) {
    let answers = (1..=view.revision()).map(|revision| ask(view, &Query::all(revision))).collect();
    let counters = (view.applied_index(), view.live_keys(), view.bytes(), view.members());
    (answers, view.state_hash(), view.hash_kv(0).unwrap().hash, format!("{counters:?}"))
}

proptest! {
    #![proptest_config(config(300))]
    #[test]
    fn a_loaded_view_never_changes(script in script()) {
        let mut store = genesis();
        let reader = store.reader();
        let mut kept = Vec::new();
        for step in &script {
            apply(&mut store, &step.ops);
            store.purge(step.purge);
            store.publish();
            let view = reader.load_full();
            let seen_now = seen(&view);
            kept.push((view, seen_now));
            // One from the middle goes before those around it.
            if kept.len() > 4 {
                let (view, seen_then) = kept.remove(2);
                prop_assert_eq!(seen(&view), seen_then);
            }
        }
        for (view, seen_then) in kept {
            prop_assert_eq!(seen(&view), seen_then);
        }
    }
}

/// How often the writer publishes while readers load.
const PUBLISHES: i64 = 10_000;
/// Keys that every entry puts: the values of all of them, and the revision, say which entry it was.
const KEYS: [&[u8]; 3] = [b"first", b"middle", b"zlast"];

fn assert_whole(view: &View, last: &mut i64) {
    let revision = view.revision();
    let found = ask(view, &Query::all(0)).unwrap().0;
    let wanted = revision.to_string();
    // Three puts an entry, the last at the view's revision.
    let revisions: Vec<_> = found.iter().map(|kv| kv.modified).collect();
    assert_eq!(revisions, [revision - 2, revision - 1, revision], "at revision {revision}");
    assert!(found.iter().all(|kv| kv.value == wanted.as_bytes()), "at revision {revision}: {found:?}");
    assert_eq!(view.applied_index(), 1 + u64::try_from(revision - 1).unwrap() / 3);
    assert!(revision >= *last, "revision {revision} after {last}");
    *last = revision;
}

/// Loads until the last publication is seen. Lets go of some of the views that it kept, now the older ones first and now the newer ones.
fn read_all(reader: &ViewReader, last_revision: i64) {
    let (mut last, mut kept) = (0, Vec::<Arc<View>>::new());
    while last < last_revision {
        assert_whole(&reader.load(), &mut last);
        let view = reader.load_full();
        assert_whole(&view, &mut last);
        if kept.last().is_none_or(|kept| kept.revision() < view.revision()) {
            kept.push(view);
        }
        if kept.len() == 100 {
            let half = if last % 2 == 0 { kept.split_off(50) } else { kept.drain(..50).collect() };
            for view in half {
                assert_whole(&view, &mut 0);
            }
        }
    }
    for view in kept {
        assert_whole(&view, &mut 0);
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // Real threads are what is tested.
fn loads_while_another_thread_publishes_and_purges_are_whole() {
    let mut store = genesis();
    let mut publish = |entry: i64| {
        let revision = 1 + 3 * entry;
        let mut ops = KEYS.map(|key| put(key, revision.to_string().as_bytes())).to_vec();
        if entry % 7 == 0 {
            ops.push(Op::Compact(revision - 30));
        }
        apply(&mut store, &ops);
        // Less than is to be done, and more.
        store.purge(usize::try_from(entry % 5).unwrap() * 10);
        store.publish();
        store.reader()
    };
    let reader = publish(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| read_all(&reader, 1 + 3 * PUBLISHES));
        }
        for entry in 2..=PUBLISHES {
            publish(entry);
        }
    });
    assert!(store.view().history_len() < 200, "{} revisions are left", store.view().history_len());
}
