//! What every design must do, whatever it is made of: one suite for all.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::engine::{Answer, Engine, Found, Meta, Pair, Write};
use super::path::{Path, Switches};
use super::rivals::{RIVALS, Rival};

/// Runs `check` on a fresh engine of each design in this build.
fn each(check: impl Fn(&Rival, Box<dyn Engine>)) {
    for rival in &RIVALS {
        let dir = tempfile::tempdir().expect("a directory can be made");
        if let Some(engine) = (rival.build)(dir.path()).expect("an engine can be made") {
            check(rival, engine);
        }
    }
}

fn commit(engine: &dyn Engine, writes: &[Write<'_>]) -> Vec<Answer> {
    let mut answers = Vec::new();
    engine.commit(writes, &mut answers);
    answers
}

fn put<'a>(key: &'a str, value: &'a str) -> Write<'a> {
    Write::Put { key: key.as_bytes(), value: value.as_bytes(), prev_kv: true }
}

fn delete(key: &str) -> Write<'_> {
    Write::Delete { key: key.as_bytes() }
}

fn get(engine: &dyn Engine, key: &str) -> Option<Pair> {
    let mut found = Found::default();
    engine.get(key.as_bytes(), &mut found);
    found.pairs().pop()
}

fn pair(key: &str, value: &str, create_revision: i64, mod_revision: i64, version: i64) -> Pair {
    Pair { meta: Meta { create_revision, mod_revision, version }, key: key.into(), value: value.into() }
}

#[test]
fn a_put_has_revisions_a_version_and_what_was_there() {
    each(|rival, engine| {
        let name = rival.name;
        assert_eq!(engine.revision(), 1, "{name}");
        let answers = commit(engine.as_ref(), &[put("a", "1"), put("b", "2"), put("a", "3")]);
        let revisions: Vec<i64> = answers.iter().map(|answer| answer.revision).collect();
        assert_eq!(revisions, [2, 3, 4], "{name}");
        let prev: Vec<Option<Pair>> =
            answers.iter().map(|answer| answer.prev.as_ref().map(|prev| prev.pair())).collect();
        assert_eq!(prev, [None, None, Some(pair("a", "1", 2, 2, 1))], "{name}");
        assert_eq!(get(engine.as_ref(), "a"), Some(pair("a", "3", 2, 4, 2)), "{name}");
        assert_eq!(get(engine.as_ref(), "b"), Some(pair("b", "2", 3, 3, 1)), "{name}");
        assert_eq!((get(engine.as_ref(), "c"), engine.revision()), (None, 4), "{name}");
    });
}

#[test]
fn a_deletion_of_nothing_changes_nothing() {
    each(|rival, engine| {
        let name = rival.name;
        let writes = [put("a", "1"), delete("none"), delete("a"), delete("a"), put("a", "2")];
        let answers = commit(engine.as_ref(), &writes);
        let said: Vec<(i64, bool)> = answers.iter().map(|answer| (answer.revision, answer.existed)).collect();
        assert_eq!(said, [(2, false), (2, false), (3, true), (3, false), (4, false)], "{name}");
        // Born again.
        assert_eq!(get(engine.as_ref(), "a"), Some(pair("a", "2", 4, 4, 1)), "{name}");
    });
}

#[test]
fn a_range_is_ordered_bounded_and_limited() {
    each(|rival, engine| {
        let name = rival.name;
        let keys: Vec<String> = (0..600).map(|number| format!("k/{number:03}")).collect();
        let puts: Vec<Write<'_>> = keys.iter().rev().map(|key| put(key, "v")).collect();
        commit(engine.as_ref(), &puts);
        let range = |from: &str, to: &str, limit: usize| {
            let mut found = Found::default();
            let visited = engine.range(from.as_bytes(), to.as_bytes(), limit, &mut found);
            assert!(visited >= found.len() as u64, "{name}");
            let text = |pair: Pair| String::from_utf8(pair.key).expect("keys are text here");
            found.pairs().into_iter().map(text).collect::<Vec<String>>()
        };
        assert_eq!(range("k/100", "k/110", 5), keys[100..105], "{name}");
        assert_eq!(range("k/100", "k/110", 50), keys[100..110], "{name}");
        assert_eq!(range("k/", "k0", usize::MAX), keys, "{name}");
        assert_eq!(range("k/1005", "k/102", 9), keys[101..102], "{name}");
        assert!(range("x", "y", 9).is_empty() && range("k/100", "k/100", 9).is_empty(), "{name}");
    });
}

#[test]
fn every_switch_gives_the_same_answers() {
    let all = [
        Switches::LEAN,
        Switches::ANALYSED,
        Switches { json: true, ..Switches::LEAN },
        Switches { op_by_op: true, ..Switches::LEAN },
        Switches { read_back: true, ..Switches::LEAN },
    ];
    for switches in all {
        each(|rival, engine| {
            let path = Path::new(engine, switches);
            let mut found = Found::default();
            let mut answer = |write: &Write<'_>| path.write(3, write, &mut found).expect("a codec reads what it wrote");
            assert_eq!(answer(&put("a", "1")).revision, 2, "{} {switches:?}", rival.name);
            let second = answer(&put("a", "\"2\" \\ \u{e4}"));
            let prev = second.prev.map(|prev| prev.pair());
            assert_eq!((second.revision, prev), (3, Some(pair("a", "1", 2, 2, 1))), "{} {switches:?}", rival.name);
            assert_eq!(get(path.engine.as_ref(), "a"), Some(pair("a", "\"2\" \\ \u{e4}", 2, 3, 2)));
            assert!(answer(&delete("a")).existed, "{} {switches:?}", rival.name);
        });
    }
}

/// Of one key, whoever wrote last is found, with a version that counts every put.
#[test]
fn concurrent_writers_lose_nothing() {
    const THREADS: i64 = 4;
    const PUTS: i64 = 200;
    each(|rival, engine| {
        let engine = engine.as_ref();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..PUTS).for_each(|_| drop(commit(engine, &[put("hot", "v")]))));
            }
        });
        let last = get(engine, "hot").expect("it was put");
        assert_eq!((last.meta.version, engine.revision()), (THREADS * PUTS, 1 + THREADS * PUTS), "{}", rival.name);
        assert_eq!(last.meta.mod_revision, 1 + THREADS * PUTS, "{}", rival.name);
    });
}

/// Every revision is given to one write, none is left out, and an answered write is there.
#[test]
fn concurrent_writers_share_out_the_revisions() {
    const THREADS: usize = 8;
    const COMMITS: usize = 300;
    each(|rival, engine| {
        let engine = engine.as_ref();
        let name = rival.name;
        let one = |thread: usize| {
            let mut revisions = Vec::new();
            for number in 0..COMMITS {
                let (a, b) = (format!("{thread}/{number}"), format!("{thread}/{number}/second"));
                // Of one write and of two, so that answers of different length are told apart.
                let writes = [put(&a, &a), put(&b, &b)];
                let writes = &writes[..1 + number % 2];
                let answers = commit(engine, writes);
                assert_eq!(answers.len(), writes.len(), "{name}");
                for (write, answer) in writes.iter().zip(&answers) {
                    let mut found = Found::default();
                    engine.get(write.key(), &mut found);
                    let pair = found.pairs().pop().unwrap_or_default();
                    assert_eq!((&*pair.key, &*pair.value), (write.key(), write.key()), "{name}: answered, not there");
                    assert_eq!(pair.meta.mod_revision, answer.revision, "{name}: somebody else's answer");
                }
                revisions.extend(answers.iter().map(|answer| answer.revision));
            }
            assert!(revisions.is_sorted(), "{name}: of one thread, revisions rise");
            revisions
        };
        let mut revisions: Vec<i64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || one(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a writer does not panic")).collect()
        });
        revisions.sort_unstable();
        let last = i64::try_from(THREADS * COMMITS * 3 / 2).expect("a few thousand") + 1;
        assert_eq!(revisions, (2..=last).collect::<Vec<i64>>(), "{name}");
        assert_eq!(engine.revision(), last, "{name}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Random commits, each design beside a map.
    #[test]
    fn designs_agree_with_a_map(
        commits in prop::collection::vec(prop::collection::vec((0..12_u8, prop::option::of(0..3_u8)), 1..6), 1..12),
    ) {
        let mut model: BTreeMap<String, Pair> = BTreeMap::new();
        let mut revision = 1;
        let text: Vec<Vec<(String, Option<String>)>> = commits
            .iter()
            .map(|commit| commit.iter().map(|(key, value)| (format!("k{key:02}"), value.map(|value| value.to_string()))).collect())
            .collect();
        for (key, value) in text.iter().flatten() {
            match value {
                Some(value) => {
                    revision += 1;
                    let meta = Meta::next(model.get(key).map(|pair| pair.meta), revision);
                    model.insert(key.clone(), Pair { meta, key: key.clone().into(), value: value.clone().into() });
                }
                None => revision += i64::from(model.remove(key).is_some()),
            }
        }
        each(|rival, engine| {
            for one in &text {
                let writes: Vec<Write<'_>> = one
                    .iter()
                    .map(|(key, value)| value.as_ref().map_or(delete(key), |value| put(key, value)))
                    .collect();
                commit(engine.as_ref(), &writes);
            }
            let mut found = Found::default();
            engine.range(b"k", b"l", usize::MAX, &mut found);
            assert_eq!(found.pairs(), model.values().cloned().collect::<Vec<Pair>>(), "{}", rival.name);
            assert_eq!(engine.revision(), revision, "{}", rival.name);
        });
    }
}
