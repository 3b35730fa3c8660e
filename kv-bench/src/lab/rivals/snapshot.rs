//! `snapshot`: ours, the store of `kv-server` as it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use kv_codec::command::{BatchBuilder, Body, CommandHeader, DeleteRange, Put};
use kv_store::{Applied, KeyRange, Members, Outcome, Store, ViewReader};

use crate::lab::engine::{Answer, Engine, Found, Meta, Prev, Write};

/// How often a writer looks whether it was served, and lets another thread run, before it sleeps.
const LOOKS: u32 = 3;

/// The store and its readers.
///
/// * There is one writer at a time, as in a server. Who finds one at work leaves its batch, and that one or the next applies all that wait
///   and publishes once: what the batch proposer is to a server, and the group of writers to RocksDB.
/// * Readers never wait for them.
pub(crate) struct Snapshot {
    writer: Mutex<Writer>,
    waiting: Mutex<Vec<Arc<Request>>>,
    reader: ViewReader,
    /// Whether every operation is published on its own, while one thread writes: what the ablation asks for.
    publish_each: bool,
}

struct Writer {
    store: Store,
    results: Vec<Applied>,
}

/// A batch that waits for a writer.
struct Request {
    batch: Vec<u8>,
    /// What became of it, once readers see it.
    done: Mutex<Option<Result<Vec<Answer>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshot {
    /// An empty store.
    #[must_use]
    pub(crate) fn new(publish_each: bool) -> Self {
        let store = Store::genesis(Members::default());
        let reader = store.reader();
        Self {
            writer: Mutex::new(Writer { store, results: Vec::new() }),
            waiting: Mutex::default(),
            reader,
            publish_each,
        }
    }

    fn apply(&self, batch: &[u8], answers: &mut Vec<Answer>) -> Result<()> {
        if let Ok(mut writer) = self.writer.try_lock() {
            let applied = writer.apply(batch, answers);
            self.publish(writer, true);
            return applied;
        }
        let request = Arc::new(Request { batch: batch.to_vec(), done: Mutex::default() });
        lock(&self.waiting).push(Arc::clone(&request));
        let done = || lock(&request.done).take();
        for _ in 0..LOOKS {
            if let Some(done) = done() {
                answers.append(&mut done?);
                return Ok(());
            }
            match self.writer.try_lock() {
                Ok(writer) => self.publish(writer, false),
                Err(_) => thread::yield_now(),
            }
        }
        let done = done().or_else(|| {
            self.publish(lock(&self.writer), false);
            done()
        });
        answers.append(&mut done.context("the writer that had this batch panicked")??);
        Ok(())
    }

    /// Applies all that waits, and publishes it with what the writer has applied of its own. A request that waited when the writer began
    /// is done when it lets go.
    fn publish(&self, mut writer: MutexGuard<'_, Writer>, has_own: bool) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        if waiting.is_empty() && !has_own {
            return;
        }
        let mut apply = |request: &Arc<Request>| {
            let mut answers = Vec::with_capacity(1);
            writer.apply(&request.batch, &mut answers).map(|()| answers)
        };
        let done: Vec<_> = waiting.iter().map(&mut apply).collect();
        let before = writer.store.publish();
        for (request, done) in waiting.iter().zip(done) {
            *lock(&request.done) = Some(done);
        }
        drop(writer);
        // No other writer waits for what it takes to let go of a view.
        drop(before);
    }
}

impl Writer {
    /// Applies a batch.
    fn apply(&mut self, batch: &[u8], answers: &mut Vec<Answer>) -> Result<()> {
        self.results.clear();
        let index = self.store.view().applied_index() + 1;
        self.store.apply(index, 1, batch, &mut self.results).context("applying a batch")?;
        for Applied { revision, outcome } in self.results.drain(..) {
            answers.push(match outcome {
                Outcome::Put { prev } => Answer { revision, existed: prev.is_some(), prev: prev.map(Prev::Block) },
                Outcome::Deleted { prev } => Answer { revision, existed: !prev.is_empty(), prev: None },
                other => bail!("the store answered a write with {other:?}"),
            });
        }
        Ok(())
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn writers_that_share_a_commit_have_their_own_answers_and_see_what_they_wrote() {
        const WRITERS: u8 = 8;
        const PUTS: u32 = 20_000;
        let engine = Snapshot::new(false);
        let client = |key: u8| {
            let (engine, mut revisions, mut found) = (&engine, Vec::new(), Found::default());
            for put in 0..PUTS {
                let mut answers = Vec::new();
                let write = Write::Put { key: &[key], value: &put.to_le_bytes(), prev_kv: true };
                engine.commit(&[write], &mut answers);
                let answer = answers.pop().unwrap();
                assert!(answers.is_empty(), "one write, one answer");
                let prev = answer.prev.map(|prev| prev.pair().value);
                assert_eq!(prev, put.checked_sub(1).map(|last| last.to_le_bytes().to_vec()));
                found.clear();
                engine.get(&[key], &mut found);
                assert_eq!(
                    (found.pairs()[0].meta.mod_revision, &found.pairs()[0].value[..]),
                    (answer.revision, &put.to_le_bytes()[..])
                );
                revisions.push(answer.revision);
            }
            revisions
        };
        let revisions: BTreeSet<i64> = thread::scope(|scope| {
            let client = &client;
            let clients: Vec<_> = (0..WRITERS).map(|key| scope.spawn(move || client(key))).collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        assert!(revisions.into_iter().eq(2..2 + i64::from(WRITERS) * i64::from(PUTS)), "each revision is one writer's");
    }
}
