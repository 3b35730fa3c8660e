//! `snapshot`: ours, the store of `kv-server` as it is.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use kv_codec::command::{BatchBuilder, Body, CommandHeader, DeleteRange, Put};
use kv_store::{Applied, KeyRange, Members, Outcome, Store, View, ViewReader};

use crate::lab::engine::{Answer, Engine, Found, Meta, Prev, Write};

/// The store and its readers.
///
/// * Writers take turns, as the one thread that applies does in a server; readers never wait for them.
pub(crate) struct Snapshot {
    writer: Mutex<Writer>,
    reader: ViewReader,
    /// Whether every operation is published on its own: what the ablation asks for.
    publish_each: bool,
}

struct Writer {
    store: Store,
    results: Vec<Applied>,
}

impl Snapshot {
    /// An empty store.
    #[must_use]
    pub(crate) fn new(publish_each: bool) -> Self {
        let store = Store::genesis(Members::default());
        Self { reader: store.reader(), writer: Mutex::new(Writer { store, results: Vec::new() }), publish_each }
    }

    fn apply(&self, batch: &[u8], answers: &mut Vec<Answer>) -> Result<()> {
        let before = self.writer.lock().unwrap_or_else(PoisonError::into_inner).commit(batch, answers)?;
        drop(before);
        Ok(())
    }
}

impl Writer {
    /// Applies a batch and publishes. Returns the view before it, for the caller to let go of without the lock.
    fn commit(&mut self, batch: &[u8], answers: &mut Vec<Answer>) -> Result<Arc<View>> {
        self.results.clear();
        let index = self.store.view().applied_index() + 1;
        self.store.apply(index, 1, batch, &mut self.results).context("applying a batch")?;
        let before = self.store.publish();
        for Applied { revision, outcome } in self.results.drain(..) {
            answers.push(match outcome {
                Outcome::Put { prev } => Answer { revision, existed: prev.is_some(), prev: prev.map(Prev::Block) },
                Outcome::Deleted { prev } => Answer { revision, existed: !prev.is_empty(), prev: None },
                other => bail!("the store answered a write with {other:?}"),
            });
        }
        Ok(before)
    }
}

/// A write as a command's body.
pub(crate) fn body<'a>(write: &Write<'a>) -> Body<'a> {
    match *write {
        Write::Put { key, value, prev_kv } => {
            Body::Put(Put { key, value, lease: 0, prev_kv, ignore_value: false, ignore_lease: false })
        }
        Write::Delete { key } => Body::DeleteRange(DeleteRange { key, range_end: b"", prev_kv: false }),
    }
}

impl Engine for Snapshot {
    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> u64 {
        let mut published = 0;
        let per_publish = if self.publish_each { 1 } else { writes.len().max(1) };
        for writes in writes.chunks(per_publish) {
            let mut batch = BatchBuilder::default();
            for write in writes {
                batch.push(&body(write).encode(&CommandHeader::default()));
            }
            self.apply(&batch.finish(), answers).expect("the batch was encoded right above");
            published += 1;
        }
        published
    }

    fn get(&self, key: &[u8], found: &mut Found) {
        if let Some(block) = self.reader.load().get(key) {
            found.push(Meta::of(block), block.key(), block.value());
        }
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize, found: &mut Found) -> u64 {
        let view = self.reader.load();
        for block in view.walk(&KeyRange::Span(from, to), view.revision(), None).take(limit) {
            found.push(Meta::of(block), block.key(), block.value());
        }
        found.len() as u64
    }

    fn revision(&self) -> i64 {
        self.reader.load().revision()
    }

    fn commit_batch(&self, batch: &[u8], answers: &mut Vec<Answer>) -> Result<Option<u64>> {
        if self.publish_each {
            return Ok(None);
        }
        self.apply(batch, answers).map(|()| Some(1))
    }
}
