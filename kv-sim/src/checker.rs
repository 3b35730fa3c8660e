//! What must hold, whatever happens. Knows clients' calls and members' states, nothing of how they come about.

use std::collections::BTreeMap;

use kv_store::{KeyRange, RangeQuery, View};

/// A write that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acked {
    /// The key.
    pub key: Vec<u8>,
    /// The value; `None` for a deletion.
    pub value: Option<Vec<u8>>,
}

/// Collects what was seen, and says at once when it cannot be.
#[derive(Debug, Default)]
pub struct Checker {
    leaders: BTreeMap<u64, u64>,
    hashes: BTreeMap<u64, (u32, u64)>,
    acked: BTreeMap<i64, Acked>,
}

impl Checker {
    /// `member` leads in `term`.
    ///
    /// # Errors
    /// Another one does as well.
    pub fn leader(&mut self, term: u64, member: u64) -> Result<(), String> {
        match *self.leaders.entry(term).or_insert(member) {
            first if first == member => Ok(()),
            first => Err(format!("members {first} and {member} both lead in term {term}")),
        }
    }

    /// `member` has applied up to `index` and has this state.
    ///
    /// # Errors
    /// Another member had another state there.
    pub fn applied(&mut self, member: u64, index: u64, hash: u32) -> Result<(), String> {
        match *self.hashes.entry(index).or_insert((hash, member)) {
            (first, _) if first == hash => Ok(()),
            (_, other) => Err(format!("members {other} and {member} differ at index {index}")),
        }
    }

    /// A write was answered with this revision.
    ///
    /// # Errors
    /// Another write was.
    pub fn acked(&mut self, revision: i64, write: Acked) -> Result<(), String> {
        match self.acked.insert(revision, write.clone()) {
            None => Ok(()),
            Some(other) => Err(format!("{other:?} and {write:?} were both answered with revision {revision}")),
        }
    }

    /// The highest revision that was acknowledged so far: what a read that begins now must see.
    #[must_use]
    pub fn acked_revision(&self) -> i64 {
        self.acked.keys().next_back().copied().unwrap_or(1)
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub fn acked_count(&self) -> usize {
        self.acked.len()
    }

    /// Whether more than one term had a leader, and how many.
    #[must_use]
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// A linearizable read that began when `at_least` was acknowledged was served from a view of revision `seen`.
    ///
    /// # Errors
    /// It is stale.
    pub fn read(&self, member: u64, at_least: i64, seen: i64) -> Result<(), String> {
        if seen >= at_least {
            return Ok(());
        }
        Err(format!(
            "member {member} served a read at revision {seen}, though {at_least} was acknowledged before it began"
        ))
    }

    /// Every acknowledged write is in this member's state, at its revision, unless that was compacted.
    ///
    /// # Errors
    /// The first that is not.
    pub fn all_present(&self, member: u64, view: &View) -> Result<(), String> {
        for (&revision, write) in self.acked.range(view.compact_revision()..) {
            let query = RangeQuery { revision, ..RangeQuery::new(KeyRange::Single(&write.key)) };
            let found = view.range(&query).map_err(|error| format!("member {member}, revision {revision}: {error}"))?;
            let holds = match (&write.value, found.kvs.first()) {
                (Some(value), Some(kv)) => kv.mod_revision() == revision && kv.value() == value,
                (None, found) => found.is_none(),
                (Some(_), None) => false,
            };
            if !holds {
                return Err(format!("member {member} lost {write:?}, acknowledged at revision {revision}"));
            }
        }
        Ok(())
    }
}

/// No write took effect twice: values are unique, so each is put at one revision.
///
/// # Errors
/// The first value that was put twice.
pub fn each_once(member: u64, view: &View) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    for revision in view.compact_revision().max(2)..=view.revision() {
        let changed = RangeQuery {
            revision,
            min_mod_revision: revision,
            max_mod_revision: revision,
            ..RangeQuery::new(KeyRange::From(b"\0"))
        };
        let found = view.range(&changed).map_err(|error| format!("member {member}, revision {revision}: {error}"))?;
        for kv in found.kvs {
            if let Some(first) = seen.insert(kv.value().to_vec(), revision) {
                let value = kv.value().escape_ascii();
                return Err(format!("member {member} put {value} at revision {first} and again at {revision}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use kv_store::{Members, Store};

    fn write(value: &[u8]) -> Acked {
        Acked { key: b"k".to_vec(), value: Some(value.to_vec()) }
    }

    #[test]
    fn histories_that_must_fail() {
        let mut checker = Checker::default();
        checker.leader(2, 1).unwrap();
        checker.leader(2, 1).unwrap();
        checker.leader(2, 3).unwrap_err();
        checker.applied(1, 7, 0xaa).unwrap();
        checker.applied(2, 7, 0xaa).unwrap();
        checker.applied(3, 7, 0xab).unwrap_err();
        checker.acked(5, write(b"a")).unwrap();
        checker.acked(5, write(b"b")).unwrap_err();
        checker.read(1, checker.acked_revision(), 5).unwrap();
        checker.read(1, checker.acked_revision(), 4).unwrap_err();
    }

    #[test]
    fn a_write_that_took_effect_twice_is_found() {
        use kv_codec::command::{BatchBuilder, Body, CommandHeader, Put};
        let put = Put { key: b"k", value: b"v", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
        let mut batch = BatchBuilder::default();
        batch.push(&Body::Put(put).encode(&CommandHeader::default()));
        let batch = batch.finish();
        let mut store = Store::genesis(Members::default());
        store.apply(2, 1, &batch, &mut vec![]).unwrap();
        each_once(1, store.view()).unwrap();
        store.apply(3, 1, &batch, &mut vec![]).unwrap();
        each_once(1, store.view()).unwrap_err();
    }

    #[test]
    fn a_lost_write_is_found() {
        let mut checker = Checker::default();
        checker.acked(2, write(b"a")).unwrap();
        let empty = Store::genesis(Members::default());
        checker.all_present(1, empty.view()).unwrap_err();
    }
}
