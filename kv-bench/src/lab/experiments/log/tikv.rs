//! raft-engine, with its defaults.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use raft::eraftpb::Entry;
use raft_engine::{Config, Engine, LogBatch, MessageExt};

use super::{Check, Log, Opened};

const REGION: u64 = 1;
/// Entries fetched at once.
const FETCH: u64 = 256;

struct Tikv {
    engine: Arc<Engine>,
    durable: bool,
}

/// Says where an entry's index is.
#[derive(Clone)]
struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

fn open_at(dir: &Path) -> Result<Engine> {
    let dir = dir.to_str().context("a directory whose name is no text")?.to_owned();
    Ok(Engine::open(Config { dir, ..Config::default() })?)
}

pub(super) fn create(dir: &Path, durable: bool) -> Result<Box<dyn Log>> {
    Ok(Box::new(Tikv { engine: Arc::new(open_at(dir)?), durable }))
}

impl Log for Tikv {
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<()> {
        let entry = |(index, payload): (u64, &Vec<u8>)| Entry {
            index,
            term: 1,
            data: payload.clone().into(),
            ..Entry::default()
        };
        let entries: Vec<Entry> = (first..).zip(entries).map(entry).collect();
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Entries>(REGION, &entries)?;
        self.engine.write(&mut batch, self.durable)?;
        Ok(())
    }
}

pub(super) fn open(dir: &Path, check: Check<'_>) -> Result<Opened> {
    let engine = open_at(dir)?;
    let mut opened = Opened { entries: 0, damaged: 0, cut: None };
    let (Some(first), Some(last)) = (engine.first_index(REGION), engine.last_index(REGION)) else { return Ok(opened) };
    let mut next = first;
    while next <= last {
        let mut entries = Vec::new();
        engine.fetch_entries_to::<Entries>(REGION, next, (next + FETCH).min(last + 1), None, &mut entries)?;
        for entry in &entries {
            opened.entries += 1;
            opened.damaged += u64::from(!check(entry.index, &entry.data));
        }
        next += FETCH;
    }
    Ok(opened)
}
