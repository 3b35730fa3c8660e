//! No engine: what an operation costs that nothing is done for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::lab::engine::{Answer, Engine, Found, Meta, Write};

/// Keys that every range finds: as many as a prefix of the lab has.
const RANGE_KEYS: usize = 1000;

/// Numbers its writes and forgets them; hands out the first value that it was given for every key.
#[derive(Debug)]
pub(super) struct NoEngine {
    value: OnceLock<Vec<u8>>,
    revision: AtomicI64,
}

impl NoEngine {
    pub(super) fn new() -> Self {
        Self { value: OnceLock::new(), revision: AtomicI64::new(1) }
    }

    fn value(&self) -> &[u8] {
        self.value.get().map_or(&[], Vec::as_slice)
    }
}

impl Engine for NoEngine {
    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> u64 {
        for write in writes {
            if let Write::Put { value, .. } = write {
                self.value.get_or_init(|| value.to_vec());
            }
            let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
            answers.push(Answer { revision, existed: true, prev: None });
        }
        0
    }

    fn get(&self, key: &[u8], found: &mut Found) {
        found.push(Meta::default(), key, self.value());
    }

    fn range(&self, from: &[u8], _: &[u8], limit: usize, found: &mut Found) -> u64 {
        (0..RANGE_KEYS.min(limit)).for_each(|_| found.push(Meta::default(), from, self.value()));
        found.len() as u64
    }

    fn revision(&self) -> i64 {
        self.revision.load(Ordering::Relaxed)
    }
}
