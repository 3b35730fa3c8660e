//! What lies around an engine, with a switch for each fault that the analysis finds in it.
//!
//! A command is encoded, proposed, committed, decoded and applied; its caller is then told. The engine alone goes the same way
//! without raft and log: every design pays for its codec and its numbers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use kv_codec::command::{Batch, BatchBuilder, Body, CommandHeader, CommandRef};
use serde::{Deserialize, Serialize};

use super::engine::{Answer, Engine, Found, Write};
use super::rivals::snapshot_body;

/// The faults, each on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switches {
    /// Commands travel as JSON, and not in our own encoding.
    pub(crate) json: bool,
    /// Sequence numbers come from a mutex and are formatted into a string, and not from an atomic.
    pub(crate) text_sequence: bool,
    /// A committed entry is applied operation by operation, and not as one batch.
    pub(crate) op_by_op: bool,
    /// The caller reads the store again for its answer, and is not handed it.
    pub(crate) read_back: bool,
}

impl Switches {
    /// All faults, as the analysed engine has them.
    pub(crate) const ANALYSED: Self = Self { json: true, text_sequence: true, op_by_op: true, read_back: true };
    /// None of them.
    pub(crate) const LEAN: Self = Self { json: false, text_sequence: false, op_by_op: false, read_back: false };
}

/// An operation as the analysed project sends it through raft. Text only, as there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation<'a> {
    /// `put` or `delete`.
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    /// The key.
    #[serde(borrow)]
    pub(crate) key: Cow<'a, str>,
    /// The value.
    #[serde(borrow)]
    pub(crate) value: Cow<'a, str>,
    /// The end of a range to delete.
    #[serde(borrow)]
    pub(crate) range_end: Cow<'a, str>,
    /// The lease.
    pub(crate) lease_id: i64,
    /// Whether what was there is wanted.
    pub(crate) prev_kv: bool,
    /// `seq-123`.
    #[serde(borrow)]
    pub(crate) seq_num: Cow<'a, str>,
}

impl<'a> Operation<'a> {
    /// A write as such an operation.
    #[must_use]
    pub(crate) fn of(write: &Write<'a>, seq_num: String) -> Self {
        let (kind, value, prev_kv) = match *write {
            Write::Put { value, prev_kv, .. } => ("put", value, prev_kv),
            Write::Delete { .. } => ("delete", &b""[..], false),
        };
        Self {
            kind: kind.into(),
            key: String::from_utf8_lossy(write.key()),
            value: String::from_utf8_lossy(value),
            range_end: "".into(),
            lease_id: 0,
            prev_kv,
            seq_num: seq_num.into(),
        }
    }

    /// The write that it stands for.
    ///
    /// # Errors
    /// An unknown type.
    pub(crate) fn write(&self) -> Result<Write<'_>> {
        let key = self.key.as_bytes();
        match &*self.kind {
            "put" => Ok(Write::Put { key, value: self.value.as_bytes(), prev_kv: self.prev_kv }),
            "delete" => Ok(Write::Delete { key }),
            other => bail!("an operation of type {other:?}"),
        }
    }
}

/// Draws sequence numbers.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    locked: Mutex<u64>,
    atomic: AtomicU64,
}

impl Sequence {
    /// The next number, as the analysed project draws it.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut last = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        format!("seq-{last}")
    }

    /// The next number from an atomic.
    #[must_use]
    pub(crate) fn number(&self) -> u64 {
        self.atomic.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// An engine and what lies around it.
pub(crate) struct Path {
    /// The engine.
    pub(crate) engine: Box<dyn Engine>,
    /// What is around it.
    pub(crate) switches: Switches,
    sequence: Sequence,
}

impl Path {
    /// An engine with these switches.
    #[must_use]
    pub(crate) fn new(engine: Box<dyn Engine>, switches: Switches) -> Self {
        Self { engine, switches, sequence: Sequence::default() }
    }

    /// A write as a command of `client` (below 256), and the number by which its answer finds back.
    ///
    /// # Errors
    /// When JSON cannot say it.
    pub(crate) fn encode(&self, client: u8, origin: u64, epoch: u64, write: &Write<'_>) -> Result<Vec<u8>> {
        let text = if self.switches.text_sequence { self.sequence.text() } else { String::new() };
        // Raft's own header tells commands apart in either codec.
        let seq = (self.sequence.number() << 8) | u64::from(client);
        let header = CommandHeader { origin, epoch, seq, ..CommandHeader::default() };
        if !self.switches.json {
            return Ok(snapshot_body(write).encode(&header));
        }
        let text = if self.switches.text_sequence { text } else { seq.to_string() };
        // Our header, and JSON where our body would be.
        let mut command = Body::Compact { revision: 0 }.encode(&header);
        let body_bytes = CommandRef::decode(&command).context("a command")?.body.len();
        command.truncate(command.len() - body_bytes);
        serde_json::to_writer(&mut command, &Operation::of(write, text)).context("an operation as JSON")?;
        Ok(command)
    }

    /// Applies a committed batch.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn apply(&self, batch: &[u8], answers: &mut Vec<Answer>) -> Result<u64> {
        if !self.switches.json
            && !self.switches.op_by_op
            && let Some(published) = self.engine.commit_batch(batch, answers)?
        {
            return Ok(published);
        }
        let mut bodies = Vec::new();
        for command in Batch::decode(batch).context("a batch")? {
            bodies.push(command.context("a command")?.body);
        }
        if self.switches.json {
            let operations: Vec<Operation<'_>> =
                bodies.iter().map(|body| serde_json::from_slice(body)).collect::<Result<_, _>>().context("JSON")?;
            let writes = operations.iter().map(Operation::write).collect::<Result<Vec<_>>>()?;
            return self.commit(&writes, answers);
        }
        let writes = bodies.into_iter().map(write_of).collect::<Result<Vec<_>>>()?;
        self.commit(&writes, answers)
    }

    fn commit(&self, writes: &[Write<'_>], answers: &mut Vec<Answer>) -> Result<u64> {
        let before = answers.len();
        let per_commit = if self.switches.op_by_op { 1 } else { writes.len().max(1) };
        let locks = writes.chunks(per_commit).map(|writes| self.engine.commit(writes, answers)).sum();
        ensure!(answers.len() - before == writes.len(), "an engine answers each write once");
        Ok(locks)
    }

    /// A write without raft and log: everything else that it costs.
    ///
    /// # Errors
    /// When a codec fails.
    pub(crate) fn write(&self, client: u8, write: &Write<'_>, found: &mut Found) -> Result<Answer> {
        let mut batch = BatchBuilder::default();
        batch.push(&self.encode(client, 0, 0, write)?);
        let mut answers = Vec::with_capacity(1);
        self.apply(&batch.finish(), &mut answers)?;
        self.answered(write, found);
        answers.pop().context("one write, one answer")
    }

    /// What a caller does once its write is applied.
    pub(crate) fn answered(&self, write: &Write<'_>, found: &mut Found) {
        if self.switches.read_back {
            found.clear();
            self.engine.get(write.key(), found);
            std::hint::black_box(self.engine.revision());
        }
    }
}

/// A command of ours as a write.
fn write_of(body: &[u8]) -> Result<Write<'_>> {
    Ok(match Body::decode(body).context("a command's body")? {
        Body::Put(put) => Write::Put { key: put.key, value: put.value, prev_kv: put.prev_kv },
        Body::DeleteRange(delete) => Write::Delete { key: delete.key },
        other => bail!("{other:?} is no write of the lab"),
    })
}
