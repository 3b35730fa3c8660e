//! `global-lock` and `write-batch`: one hash map under one lock.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::entry::{Entry, apply, sort_and_cut};
use crate::lab::engine::{Answer, Engine, Found, Write};

#[derive(Debug)]
struct State {
    map: HashMap<Box<[u8]>, Entry>,
    revision: i64,
}

/// A hash map and its revision under one lock.
///
/// * The revision too is read under the lock, as analysed.
#[derive(Debug)]
pub(super) struct HashLock {
    state: RwLock<State>,
    /// Whether a commit locks once, and not once per operation.
    batched: bool,
}

impl HashLock {
    pub(super) fn new(batched: bool) -> Self {
        Self { state: RwLock::new(State { map: HashMap::new(), revision: 1 }), batched }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, write: &Write<'_>) -> Answer {
        let before = self.revision;
        let answer = apply(&mut self.map, write, || before + 1, || before);
        self.revision = answer.revision;
        answer
    }
}

impl Engine for HashLock {
    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> u64 {
        let mut locks = 0;
        let per_lock = if self.batched { writes.len().max(1) } else { 1 };
        for writes in writes.chunks(per_lock) {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            locks += 1;
            answers.extend(writes.iter().map(|write| state.apply(write)));
        }
        locks
    }

    fn get(&self, key: &[u8], found: &mut Found) {
        if let Some(entry) = self.read().map.get(key) {
            found.push(entry.meta, key, &entry.value);
        }
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, found: &mut Found) -> u64 {
        let state = self.read();
        let within = state.map.iter().map(|(key, entry)| (&key[..], entry)).filter(|(key, _)| (from..to).contains(key));
        sort_and_cut(within.collect(), limit, found);
        state.map.len() as u64
    }

    fn revision(&self) -> i64 {
        self.read().revision
    }
}
