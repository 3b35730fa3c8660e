//! `btree-lock`: the analysis's scheme 4A, an ordered map under one lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::entry::{Entry, apply};
use crate::lab::engine::{Answer, Engine, Found, Write};

/// An ordered map under one lock.
///
/// * `revision` is written under the lock, and read without it.
#[derive(Debug)]
pub(super) struct BTreeLock {
    map: RwLock<BTreeMap<Box<[u8]>, Entry>>,
    revision: AtomicI64,
}

impl BTreeLock {
    pub(super) fn new() -> Self {
        Self { map: RwLock::default(), revision: AtomicI64::new(1) }
    }
}

impl Engine for BTreeLock {
    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> u64 {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let mut revision = self.revision();
        for write in writes {
            let answer = apply(&mut *map, write, || revision + 1, || revision);
            revision = answer.revision;
            answers.push(answer);
        }
        self.revision.store(revision, Ordering::Release);
        1
    }

    fn get(&self, key: &[u8], found: &mut Found) {
        if let Some(entry) = self.map.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            found.push(entry.meta, key, &entry.value);
        }
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, found: &mut Found) -> u64 {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        for (key, entry) in map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).take(limit) {
            found.push(entry.meta, key, &entry.value);
        }
        found.len() as u64
    }

    fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }
}
