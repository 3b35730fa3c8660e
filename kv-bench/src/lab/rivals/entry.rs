//! What the maps of the rivals hold, and how a change is made to one of them.

use crate::lab::engine::{Answer, Found, Meta, Pair, Prev, Write};

/// A value with its numbers.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) meta: Meta,
    pub(super) value: Box<[u8]>,
}

impl Entry {
    pub(super) fn new(revision: i64, value: &[u8]) -> Self {
        Self { meta: Meta::next(None, revision), value: value.into() }
    }

    /// Puts over it; the pair that it was, if wanted.
    pub(super) fn put(&mut self, revision: i64, key: &[u8], value: &[u8], prev_kv: bool) -> Option<Prev> {
        let pair = || Pair { meta: self.meta, key: key.to_vec(), value: self.value.to_vec() };
        let prev = prev_kv.then(|| Prev::Pair(pair()));
        self.meta = Meta::next(Some(self.meta), revision);
        self.value = value.into();
        prev
    }
}

/// A map as the rivals use it.
pub(super) trait Map {
    fn find_mut(&mut self, key: &[u8]) -> Option<&mut Entry>;
    fn add(&mut self, key: Box<[u8]>, entry: Entry);
    fn take(&mut self, key: &[u8]) -> Option<Entry>;
}

impl Map for std::collections::HashMap<Box<[u8]>, Entry> {
    fn find_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.get_mut(key)
    }

    fn add(&mut self, key: Box<[u8]>, entry: Entry) {
        self.insert(key, entry);
    }

    fn take(&mut self, key: &[u8]) -> Option<Entry> {
        self.remove(key)
    }
}

impl Map for std::collections::BTreeMap<Box<[u8]>, Entry> {
    fn find_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.get_mut(key)
    }

    fn add(&mut self, key: Box<[u8]>, entry: Entry) {
        self.insert(key, entry);
    }

    fn take(&mut self, key: &[u8]) -> Option<Entry> {
        self.remove(key)
    }
}

/// Makes one change. `next` draws the next revision, `now` is the last one: a deletion of nothing draws none.
pub(super) fn apply(
    map: &mut impl Map,
    write: &Write<'_>,
    next: impl FnOnce() -> i64,
    now: impl FnOnce() -> i64,
) -> Answer {
    match *write {
        Write::Put { key, value, prev_kv } => {
            let revision = next();
            match map.find_mut(key) {
                Some(entry) => Answer { revision, existed: true, prev: entry.put(revision, key, value, prev_kv) },
                None => {
                    map.add(key.into(), Entry::new(revision, value));
                    Answer { revision, existed: false, prev: None }
                }
            }
        }
        Write::Delete { key } => match map.take(key) {
            Some(_) => Answer { revision: next(), existed: true, prev: None },
            None => Answer { revision: now(), existed: false, prev: None },
        },
    }
}

/// Sorts what a scan found and keeps the first `limit`.
pub(super) fn sort_and_cut(mut scanned: Vec<(&[u8], &Entry)>, limit: usize, found: &mut Found) {
    scanned.sort_unstable_by_key(|(key, _)| *key);
    for (key, entry) in scanned.into_iter().take(limit) {
        found.push(entry.meta, key, &entry.value);
    }
}
