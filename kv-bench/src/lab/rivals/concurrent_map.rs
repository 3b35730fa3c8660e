//! `concurrent-map`: the analysis's scheme 3, a concurrent hash map off the shelf.

use std::sync::atomic::{AtomicI64, Ordering};

use dashmap::DashMap;

use super::entry::{Entry, sort_and_cut};
use crate::lab::engine::{Answer, Engine, Found, Write};

/// The crate dashmap, as it comes.
///
/// * A revision is drawn while the key is locked: of one key, revisions rise.
/// * A range may see a later write and miss an earlier one.
#[derive(Debug)]
pub(super) struct ConcurrentMap {
    map: DashMap<Box<[u8]>, Entry>,
    revision: AtomicI64,
}

impl ConcurrentMap {
    pub(super) fn new() -> Self {
        Self { map: DashMap::new(), revision: AtomicI64::new(1) }
    }

    fn next(&self) -> i64 {
        self.revision.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn put(&self, key: &[u8], value: &[u8], prev_kv: bool) -> Answer {
        let over = |entry: &mut Entry| {
            let revision = self.next();
            Answer { revision, existed: true, prev: entry.put(revision, key, value, prev_kv) }
        };
        if let Some(mut entry) = self.map.get_mut(key) {
            return over(&mut entry);
        }
        match self.map.entry(key.into()) {
            // Somebody was faster.
            dashmap::Entry::Occupied(mut entry) => over(entry.get_mut()),
            dashmap::Entry::Vacant(place) => {
                let revision = self.next();
                place.insert(Entry::new(revision, value));
                Answer { revision, existed: false, prev: None }
            }
        }
    }
}

impl Engine for ConcurrentMap {
    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> u64 {
        for write in writes {
            answers.push(match *write {
                Write::Put { key, value, prev_kv } => self.put(key, value, prev_kv),
                Write::Delete { key } => {
                    let mut revision = None;
                    // The condition runs while the key is locked.
                    self.map.remove_if(key, |_, _| {
                        revision = Some(self.next());
                        true
                    });
                    let existed = revision.is_some();
                    Answer { revision: revision.unwrap_or_else(|| self.revision()), existed, prev: None }
                }
            });
        }
        writes.len() as u64
    }

    fn get(&self, key: &[u8], found: &mut Found) {
        if let Some(entry) = self.map.get(key) {
            found.push(entry.meta, key, &entry.value);
        }
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, found: &mut Found) -> u64 {
        let mut visited = 0;
        let mut scanned = Vec::new();
        for pair in &self.map {
            visited += 1;
            if (from..to).contains(&&pair.key()[..]) {
                scanned.push((pair.key().clone(), pair.value().clone()));
            }
        }
        sort_and_cut(scanned.iter().map(|(key, entry)| (&key[..], entry)).collect(), limit, found);
        visited
    }

    fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }
}
