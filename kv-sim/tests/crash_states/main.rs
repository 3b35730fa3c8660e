//! Crashes a log, and a snapshot file, at every operation of recorded runs, opens what is left in every way it could be left, and
//! compares with what was acknowledged; then damages them bit by bit.
//!
//! `cargo test` takes samples where there is too much to try; with `KV_EVERY_STATE` and `KV_EVERY_BIT` set (best with `--release`)
//! it tries all, as `cargo xtask campaign` does.

#![allow(clippy::unwrap_used, missing_docs)]

mod crashes;
mod damage;
mod first_version;
mod reused;
mod rules;
mod runs;
mod snapshot;

use std::sync::Arc;

use bytes::Bytes;
use kv_raft::{
    Disk, EntryKind, FileLog, HardState, LogEntry, LogError, LogIds, LogOptions, LogStore, Record, Recovered,
    SnapshotMark,
};
use kv_sim::disk::SimDisk;

const SEED: u64 = 0x6b76;

fn options() -> LogOptions {
    let ids = LogIds { cluster_id: 7, member_id: 8 };
    LogOptions { segment_bytes_first: 4096, segment_bytes_max: 8192, ..LogOptions::new(ids) }
}

fn open(disk: &SimDisk) -> Result<(FileLog<SimDisk>, Recovered), LogError> {
    FileLog::open(Arc::new(disk.clone()), options())
}

fn entry(index: u64, term: u64, bytes: usize) -> Record {
    // Distinct for each (index, term), and no run of one byte.
    let payload: Vec<u8> = (0..bytes as u64).map(|i| (i * 31 + index * 7 + term).to_le_bytes()[0]).collect();
    Record::Entry(LogEntry { index, term, kind: EntryKind::Normal, payload: payload.into() })
}

fn hard_state(term: u64, commit: u64) -> Record {
    Record::HardState(HardState { term, vote: 3, commit })
}

fn mark(index: u64, term: u64, installed: bool) -> Record {
    Record::Snapshot(SnapshotMark { index, term, installed })
}

/// What a log holds, told without any of its code.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Model {
    hard_state: HardState,
    snapshot: Option<SnapshotMark>,
    /// Above the snapshot.
    entries: Vec<(u64, u64, Bytes)>,
}

impl Model {
    fn base(&self) -> u64 {
        self.snapshot.map_or(0, |mark| mark.index)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.base(), |entry| entry.0)
    }

    fn append(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::HardState(state) => self.hard_state = *state,
                Record::Snapshot(mark) => {
                    self.snapshot = Some(*mark);
                    self.entries.retain(|entry| !mark.installed && entry.0 > mark.index);
                }
                Record::Entry(entry) => {
                    self.entries.retain(|old| old.0 < entry.index);
                    self.entries.push((entry.index, entry.term, entry.payload.clone()));
                }
            }
        }
    }
}

/// What the log says it holds, straight after it was opened.
fn observe(log: &mut FileLog<SimDisk>, recovered: &Recovered) -> Model {
    try_observe(log, recovered).unwrap()
}

fn try_observe(log: &mut FileLog<SimDisk>, recovered: &Recovered) -> Result<Model, LogError> {
    let Recovered { hard_state, snapshot, last_index, .. } = *recovered;
    let mut model = Model { hard_state, snapshot, entries: Vec::new() };
    log.replay(model.base(), &mut |entry| {
        model.entries.push((entry.index, entry.term, entry.payload));
        Ok(())
    })?;
    assert_eq!((model.last(), model.entries.len() as u64), (last_index, recovered.entries));
    Ok(model)
}

/// Whether all of something is to be tried, and not just samples.
fn wanted(variable: &str) -> bool {
    std::env::var_os(variable).is_some()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    names(disk, ".log")
}

fn names(disk: &SimDisk, kind: &str) -> Vec<String> {
    let names = disk.list("log").unwrap();
    names.into_iter().filter(|name| name.ends_with(kind)).map(|name| format!("log/{name}")).collect()
}
