//! Random scripts: the store and the model answer alike, after every entry and at every revision.

use std::collections::BTreeMap;

use kv_store::Rejection;
use proptest::prelude::*;

use crate::model::{Answer, Model, TxnAnswer, ask};
use crate::script::{Query, Step, apply, config, genesis, members, script};

/// Runs `script` on both sides and compares whatever can be seen.
fn check(script: &[Step]) -> Result<(), TestCaseError> {
    let (mut store, mut model) = (genesis(), Model::new(members()));
    let reader = store.reader();
    let mut published = 1;
    for Step { ops, purge, publish, query, read } in script {
        let results = apply(&mut store, ops);
        model.index += 1;
        prop_assert_eq!(results.len(), ops.len());
        for (op, result) in ops.iter().zip(&results) {
            let wanted = model.apply(op);
            prop_assert_eq!(Answer::from(&result.outcome), wanted, "{:?}", op);
            prop_assert_eq!(result.revision, model.revision, "{:?}", op);
        }
        let left = store.purge(*purge);
        let view = store.view();
        prop_assert_eq!(view.revision(), model.revision);
        prop_assert_eq!(view.live_keys(), model.live_keys());
        prop_assert_eq!(view.compact_revision(), model.compacted);
        prop_assert_eq!(view.bytes().live, model.bytes().live);
        prop_assert!(left || view.bytes() == model.bytes(), "{:?}, not {:?}", view.bytes(), model.bytes());
        prop_assert!(view.bytes().history >= model.bytes().history);
        prop_assert_eq!(view.members().iter().cloned().collect::<Vec<_>>(), model.members.clone());
        let leases = view.leases().iter().map(|(id, lease)| (id, (lease.ttl, lease.remaining_ttl, lease.granted)));
        prop_assert_eq!(leases.collect::<BTreeMap<_, _>>(), model.leases.clone());
        for id in -2..4 {
            let live = model.at(model.revision).into_values().filter(|kv| kv.lease == id && id != 0);
            let keys: Vec<_> = live.map(|kv| kv.key).collect();
            prop_assert!(view.leases().keys(id).eq(keys.iter().map(|key| &key[..])), "keys of lease {}", id);
        }
        prop_assert!(view.alarms().iter().eq(model.alarms.iter().copied()));
        prop_assert_eq!(ask(view, query), model.range(query), "{:?}", query);
        prop_assert_eq!(ask(view, &Query::all(0)), model.range(&Query::all(0)));
        let found = view.read_txn(&read.command()).map(|outcome| TxnAnswer::from(&outcome));
        prop_assert_eq!(found.map_err(Rejection::from), model.txn(read), "{:?}", read);
        if *publish {
            store.publish();
            published = model.revision;
        }
        prop_assert_eq!(reader.load().revision(), published, "readers see what was published, no more");
    }
    prop_assert_eq!(store.view().applied_index(), 1 + script.len() as u64);
    prop_assert!(!store.purge(usize::MAX));
    prop_assert_eq!(store.view().bytes(), model.bytes());
    for revision in 1..=model.revision + 1 {
        prop_assert_eq!(ask(store.view(), &Query::all(revision)), model.range(&Query::all(revision)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(2_000))]
    #[test]
    fn store_and_model_answer_alike(script in script()) {
        check(&script)?;
    }
}
