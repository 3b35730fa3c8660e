//! What watchers were told, held against each other: in order, each change once, revisions whole, nothing left out, progress that
//! overtakes nothing, and streams that go on where others broke off.

use std::collections::BTreeMap;

use super::watchers::{Change, Heard, Watched};

/// What one revision changed, and when somebody first heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision {
    pub(super) at: u64,
    pub(super) changes: Vec<Change>,
}

/// All revisions of a run, as one watcher of everything was told them.
pub(super) type Log = BTreeMap<i64, Revision>;

/// The first revision that a client of a new store can make.
const FIRST: i64 = 2;

/// What the watcher of everything was told, up to `last`.
///
/// # Errors
/// It was told something twice, out of order, in parts, or not at all.
pub(super) fn log(watched: &Watched, last: i64) -> Result<Log, String> {
    let mut log = Log::new();
    walk(watched, |at, revision, changes, _| {
        if !changes.is_empty() {
            log.insert(revision, Revision { at, changes: changes.to_vec() });
        }
        Ok(())
    })?;
    match (FIRST..=last).find(|revision| !log.contains_key(revision)) {
        Some(missing) => Err(format!("watcher {}: it was never told of revision {missing}", watched.name)),
        None => Ok(log),
    }
}

/// Holds what a watcher was told against the log, up to `last`.
///
/// # Errors
/// It was told something twice, out of order, in parts, something else, or not at all.
pub(super) fn compare(watched: &Watched, log: &Log, last: i64) -> Result<(), String> {
    let name = watched.name;
    let (from, end) = &watched.keys;
    let of_it = |revision: i64| -> Vec<&Change> {
        let changes = log.get(&revision).map_or(&[][..], |revision| &revision.changes);
        changes.iter().filter(|change| change.key >= *from && change.key < *end).collect()
    };
    let nothing_in = |revisions: std::ops::Range<i64>| match { revisions }.find(|revision| !of_it(*revision).is_empty())
    {
        Some(missed) => Err(format!("watcher {name}: it was not told of revision {missed}")),
        None => Ok(()),
    };
    let next = walk(watched, |_, revision, changes, next| {
        nothing_in(next..revision)?;
        let expected = of_it(revision);
        if changes.is_empty() || changes.iter().collect::<Vec<_>>() == expected {
            return Ok(());
        }
        Err(format!("watcher {name}: of revision {revision} it was told {changes:?}, others {expected:?}"))
    })?;
    nothing_in(next..last + 1)
}

/// Goes through what a watcher was told and hands each revision on: when, its number, its changes, and which revision was due. No changes
/// mean that there are none before that number. Returns the revision that is due at the end.
fn walk(
    watched: &Watched,
    mut told: impl FnMut(u64, i64, &[Change], i64) -> Result<(), String>,
) -> Result<i64, String> {
    let name = watched.name;
    let (mut next, mut progress) = (1, 0);
    for heard in &watched.heard {
        match heard {
            Heard::Opened(from) if *from == next => {}
            Heard::Opened(from) => return Err(format!("watcher {name} resumed at {from}, and {next} was due")),
            Heard::Compacted(revision) => next = next.max(*revision),
            Heard::Progress(revision) => {
                told_nothing(*revision, &mut told, next)?;
                next = next.max(revision + 1);
                progress = progress.max(*revision);
            }
            Heard::Changes(at, changes) => {
                for group in changes.chunk_by(|one, other| one.0 == other.0) {
                    let revision = group[0].0;
                    if revision <= progress {
                        return Err(format!("watcher {name}: progress up to {progress} overtook revision {revision}"));
                    }
                    if revision < next {
                        return Err(format!("watcher {name}: it was told of revision {revision}, and {next} was due"));
                    }
                    let changes: Vec<Change> = group.iter().map(|(_, change)| change.clone()).collect();
                    told(*at, revision, &changes, next)?;
                    next = revision + 1;
                }
            }
        }
    }
    Ok(next)
}

/// Progress up to `revision` says that there is nothing from `next` on.
fn told_nothing(
    revision: i64,
    told: &mut impl FnMut(u64, i64, &[Change], i64) -> Result<(), String>,
    next: i64,
) -> Result<(), String> {
    if revision < next { Ok(()) } else { told(0, revision + 1, &[], next) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn change(key: &str) -> Change {
        Change { key: key.into(), pair: None }
    }

    fn watched(name: &'static str, heard: Vec<Heard>) -> Watched {
        Watched { name, keys: (b"a".to_vec(), b"n".to_vec()), heard }
    }

    /// Revision 2 changes a and z, 3 changes z, 4 changes b.
    fn everything() -> Log {
        let revision = |keys: &[&str]| Revision { at: 1, changes: keys.iter().map(|key| change(key)).collect() };
        Log::from([(2, revision(&["a", "z"])), (3, revision(&["z"])), (4, revision(&["b"]))])
    }

    fn changes(told: &[(i64, &str)]) -> Heard {
        Heard::Changes(1, told.iter().map(|(revision, key)| (*revision, change(key))).collect())
    }

    #[test]
    fn what_is_right_is_right() {
        for heard in [
            vec![Heard::Opened(1), changes(&[(2, "a"), (4, "b")])],
            vec![Heard::Opened(1), changes(&[(2, "a")]), Heard::Progress(3), Heard::Opened(4), changes(&[(4, "b")])],
            vec![Heard::Opened(1), changes(&[(2, "a")]), Heard::Progress(1), changes(&[(4, "b")]), Heard::Progress(4)],
            vec![Heard::Opened(1), Heard::Compacted(3), Heard::Opened(3), changes(&[(4, "b")])],
        ] {
            compare(&watched("w", heard), &everything(), 4).unwrap();
        }
    }

    #[test]
    fn each_broken_promise_is_found() {
        for (heard, says) in [
            (vec![Heard::Opened(1), changes(&[(4, "b")])], "not told of revision 2"),
            (vec![Heard::Opened(1), changes(&[(2, "a")])], "not told of revision 4"),
            (vec![Heard::Opened(1), Heard::Progress(2), changes(&[(4, "b")])], "not told of revision 2"),
            (
                vec![Heard::Opened(1), changes(&[(2, "a")]), Heard::Progress(3), changes(&[(3, "c")])],
                "3 overtook revision 3",
            ),
            (vec![Heard::Opened(1), changes(&[(2, "a")]), changes(&[(2, "a")])], "revision 2, and 3 was due"),
            (vec![Heard::Opened(1), changes(&[(2, "a"), (4, "b")]), changes(&[(3, "c")])], "revision 3, and 5 was due"),
            (vec![Heard::Opened(1), Heard::Progress(4), changes(&[(4, "b")])], "not told of revision 2"),
            (vec![Heard::Opened(1), changes(&[(2, "b"), (4, "b")])], "of revision 2 it was told"),
            (vec![Heard::Opened(1), changes(&[(2, "a"), (3, "c"), (4, "b")])], "of revision 3 it was told"),
        ] {
            let error = compare(&watched("w", heard.clone()), &everything(), 4).unwrap_err();
            assert!(error.contains(says), "{heard:?}: {error}");
        }
        let whole = vec![Heard::Opened(1), changes(&[(2, "a"), (2, "z")]), changes(&[(4, "b")])];
        assert!(log(&watched("all", whole), 4).unwrap_err().contains("never told of revision 3"));
        let split = vec![Heard::Opened(1), changes(&[(2, "a")]), changes(&[(2, "z"), (3, "z"), (4, "b")])];
        assert!(log(&watched("all", split), 4).unwrap_err().contains("revision 2, and 3 was due"));
    }
}
