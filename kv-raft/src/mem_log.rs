//! A log in memory: for members that need not survive, and for tests of what stands on a log.

use std::collections::VecDeque;

use kv_codec::record::frame::LogState;
use kv_codec::record::{ENTRY_BYTES_MAX, LogEntry, Record};

use crate::file_log::Recovered;
use crate::log_store::history::{History, Place};
use crate::log_store::{LogError, LogStats, LogStore};

/// The contract of [`LogStore`] without a disk: everything is gone with the value.
///
/// * `entries` are `history.first..=history.state.last_index`.
#[derive(Debug)]
pub struct MemLog {
    history: History,
    entries: VecDeque<LogEntry>,
    appends: u64,
}

impl Default for MemLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self { history: History::after(LogState::default()), entries: VecDeque::new(), appends: 0 }
    }

    /// What opening the log would find, had it been on a disk.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        Recovered::new(&self.history.state, 1, None)
    }
}

impl LogStore for MemLog {
    fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        check_sizes(records)?;
        self.appends += 1;
        for (nth, record) in records.iter().enumerate() {
            let voids_all =
                self.history.add(Place { ordinal: self.appends, nth }, record).unwrap_or_else(|why| panic!("{why}"));
            if voids_all {
                self.entries.clear();
            }
            if let Record::Entry(entry) = record {
                while self.entries.back().is_some_and(|last| last.index >= entry.index) {
                    self.entries.pop_back();
                }
                self.entries.push_back(entry.clone());
            }
        }
        // Nothing is replayed through a sieve here: what was replaced is gone.
        self.history.release(0, u64::MAX);
        Ok(())
    }

    fn mark_durable(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn release(&mut self, index: u64) -> Result<(), LogError> {
        assert!(self.history.state.snapshot.is_some_and(|mark| mark.index >= index), "no snapshot stands for {index}");
        while self.entries.front().is_some_and(|first| first.index <= index) {
            self.entries.pop_front();
        }
        self.history.release(index, u64::MAX);
        self.history.bytes_since_snapshot = 0;
        Ok(())
    }

    fn replay(&mut self, after: u64, each: &mut dyn FnMut(LogEntry) -> Result<(), LogError>) -> Result<(), LogError> {
        check_reach(&self.history, after)?;
        self.entries.iter().filter(|entry| entry.index > after).try_for_each(|entry| each(entry.clone()))
    }

    fn stats(&self) -> LogStats {
        LogStats { bytes_since_snapshot: self.history.bytes_since_snapshot, ..LogStats::default() }
    }
}

/// Refuses entries that no reader would take.
pub(crate) fn check_sizes(records: &[Record]) -> Result<(), LogError> {
    for record in records {
        if let Record::Entry(entry) = record {
            let bytes = entry.payload.len() as u64;
            if bytes > ENTRY_BYTES_MAX {
                return Err(LogError::TooLarge { what: "an entry", bytes, max: ENTRY_BYTES_MAX });
            }
        }
    }
    Ok(())
}

/// Refuses to hand over entries with a hole before them.
pub(crate) fn check_reach(history: &History, after: u64) -> Result<(), LogError> {
    if history.first > after.saturating_add(1) && history.state.last_index > after {
        return Err(LogError::Released { after, first: history.first });
    }
    Ok(())
}
