//! A store as one would write it in an afternoon: every version of every key, for ever.

use std::collections::BTreeMap;

use super::{Answer, Guard, Pair, Request, Step, Told};

#[derive(Debug, Clone)]
struct Version {
    main: i64,
    /// `None` for a deletion.
    pair: Option<Pair>,
}

/// A multi-version store that knows nothing of ours.
#[derive(Debug, Clone)]
pub struct Model {
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
}

impl Default for Model {
    fn default() -> Self {
        Self { revision: 1, compacted: -1, keys: BTreeMap::new() }
    }
}

impl Model {
    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The oldest readable revision; -1 at first.
    #[must_use]
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The pairs from `key` to `end` at `revision`.
    #[must_use]
    pub fn pairs(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<Pair> {
        if end.is_empty() {
            return self.keys.get(key).and_then(|versions| at(versions, revision)).into_iter().collect();
        }
        let from = self.keys.range(key.to_vec()..);
        let wanted = from.take_while(|(name, _)| &name[..] < end);
        wanted.filter_map(|(_, versions)| at(versions, revision)).collect()
    }

    /// What a read is told.
    #[must_use]
    pub fn read(&self, request: &Request) -> Answer {
        let Request::Range { key, end, limit, revision } = request else {
            unreachable!("{request:?} is no read");
        };
        let told = self.refused(*revision).unwrap_or_else(|| {
            let mut pairs = self.pairs(key, end, self.or_now(*revision));
            let count = pairs.len();
            if *limit > 0 {
                pairs.truncate(*limit);
            }
            Told::Range(pairs.clone(), count as u64, pairs.len() < count)
        });
        Answer { revision: self.revision, told }
    }

    /// Why a revision cannot be read, if so.
    fn refused(&self, revision: i64) -> Option<Told> {
        if revision > self.revision {
            Some(Told::Future)
        } else if revision > 0 && revision < self.compacted {
            Some(Told::Compacted)
        } else {
            None
        }
    }

    fn or_now(&self, revision: i64) -> i64 {
        if revision > 0 { revision } else { self.revision }
    }

    /// Does a write and says what it is told.
    pub fn write(&mut self, request: &Request) -> Answer {
        let next = self.revision + 1;
        let told = match request {
            Request::Write(step) => self.step(step, next),
            Request::Txn { guards, success, failure } => {
                let holds = guards.iter().all(|(key, guard)| self.holds(key, guard));
                let steps = if holds { success } else { failure };
                // One that names a revision that is not there refuses the whole.
                let refused = steps.iter().find_map(|step| match step {
                    Step::Range(_, _, revision) => self.refused(*revision),
                    Step::Put(..) | Step::Delete(..) => None,
                });
                refused.unwrap_or_else(|| {
                    let told = steps.iter().map(|step| {
                        let told = self.step(step, next);
                        (self.revision, told)
                    });
                    Told::Txn(holds, told.collect())
                })
            }
            Request::Compact(revision) if *revision <= self.compacted => Told::Compacted,
            Request::Compact(revision) if *revision > self.revision => Told::Future,
            Request::Compact(revision) => {
                self.compacted = *revision;
                Told::Done
            }
            Request::Member => Told::Done,
            Request::Range { .. } => unreachable!("a read is no write"),
        };
        Answer { revision: self.revision, told }
    }

    fn holds(&self, key: &[u8], guard: &Guard) -> bool {
        let pair = self.keys.get(key).and_then(|versions| at(versions, self.revision));
        match guard {
            Guard::ModIs(revision) => pair.map_or(0, |pair| pair.mod_revision) == *revision,
            Guard::VersionAbove(version) => pair.map_or(0, |pair| pair.version) > *version,
        }
    }

    /// Does one change, as part of revision `main`.
    fn step(&mut self, step: &Step, main: i64) -> Told {
        match step {
            Step::Put(key, value) => {
                let versions = self.keys.entry(key.clone()).or_default();
                let before = at(versions, main);
                let create_revision = before.as_ref().map_or(main, |pair| pair.create_revision);
                let version = before.as_ref().map_or(0, |pair| pair.version) + 1;
                let pair =
                    Pair { key: key.clone(), value: value.clone(), create_revision, mod_revision: main, version };
                versions.push(Version { main, pair: Some(pair) });
                self.revision = main;
                Told::Put(before)
            }
            Step::Delete(key, end) => {
                let gone = self.pairs(key, end, main);
                for pair in &gone {
                    let versions = self.keys.get_mut(&pair.key).expect("it was just found");
                    versions.push(Version { main, pair: None });
                    self.revision = main;
                }
                Told::Deleted(gone)
            }
            Step::Range(key, end, revision) => {
                let pairs = self.pairs(key, end, self.or_now(*revision));
                let count = pairs.len() as u64;
                Told::Range(pairs, count, false)
            }
        }
    }
}

/// The pair at a revision.
fn at(versions: &[Version], revision: i64) -> Option<Pair> {
    versions[..versions.partition_point(|version| version.main <= revision)].last()?.pair.clone()
}
