//! Ours: the log of `kv-server`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use kv_raft::{EntryKind, FileLog, LogEntry, LogIds, LogOptions, LogStore, RealDisk, Record, Recovered, SyncMode};

use super::{Check, Log, Opened};

const IDS: LogIds = LogIds { cluster_id: 1, member_id: 1 };

struct Ours {
    log: FileLog<RealDisk>,
    disk: Arc<RealDisk>,
}

fn open_at(dir: &Path, sync: SyncMode) -> Result<(Ours, Recovered)> {
    let disk = Arc::new(RealDisk::new(dir, sync));
    let (log, recovered) = FileLog::open(Arc::clone(&disk), LogOptions::new(IDS))?;
    Ok((Ours { log, disk }, recovered))
}

pub(super) fn create(dir: &Path, durable: bool) -> Result<Box<dyn Log>> {
    let sync = if durable { SyncMode::Fsync } else { SyncMode::UnsafeNone };
    Ok(Box::new(open_at(dir, sync)?.0))
}

impl Log for Ours {
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<()> {
        let record = |(index, payload): (u64, &Vec<u8>)| {
            Record::Entry(LogEntry {
                index,
                term: 1,
                kind: EntryKind::Normal,
                payload: Bytes::copy_from_slice(payload),
            })
        };
        let records: Vec<Record> = (first..).zip(entries).map(record).collect();
        self.log.append(&records).context("appending")
    }

    fn prepare(&mut self) -> Result<()> {
        if let Some(spec) = self.log.spare_wanted() {
            let spare = spec.prepare(self.disk.as_ref()).context("preparing a segment")?;
            self.log.add_spare(spare);
        }
        Ok(())
    }
}

pub(super) fn open(dir: &Path, check: Check<'_>) -> Result<Opened> {
    let (mut ours, recovered) = open_at(dir, SyncMode::Fsync)?;
    let mut opened = Opened { entries: 0, damaged: 0, cut: recovered.cut.map(|cut| cut.to_string()) };
    ours.log.replay(0, &mut |entry| {
        opened.entries += 1;
        opened.damaged += u64::from(!check(entry.index, &entry.payload));
        Ok(())
    })?;
    Ok(opened)
}
