//! The log's contract: what [`FileLog`](crate::FileLog) and [`MemLog`](crate::MemLog) promise alike.

pub(crate) mod history;

use std::io::{self, ErrorKind};

use kv_codec::record::{LogEntry, Record};
use thiserror::Error;

use crate::file_log::LogIds;

/// A log of records.
///
/// * After [`LogStore::append`] returned, its records survive the end of the process and of the machine.
/// * Entries are without holes: each continues the last one, or replaces an earlier one and all after it.
/// * An error is final unless its documentation says otherwise: stop the process, and let the next start find out what the
///   disk holds. Nothing is retried.
pub trait LogStore: Send + 'static {
    /// Appends `records` as one batch: one write, one sync. Durable on return. Nothing happens for no records.
    ///
    /// # Errors
    /// Any [`LogError`]. After [`LogError::Full`] and [`LogError::TooLarge`] the log is as before and may be used.
    ///
    /// # Panics
    /// When an entry leaves a hole or replaces one that the last snapshot contains: the caller broke its own rules.
    fn append(&mut self, records: &[Record]) -> Result<(), LogError>;

    /// Writes down that everything appended is durable, so that damage to the last batch cannot be taken for a torn write.
    /// For idle moments and the shutdown; does nothing when it is said already.
    ///
    /// Costs one small write and no sync: the statement is true whether or not it arrives.
    ///
    /// # Errors
    /// Any [`LogError`].
    fn mark_durable(&mut self) -> Result<(), LogError>;

    /// Gives up what is not needed once a snapshot at `index` stands for the log up to there. Files go later: see
    /// [`FileLog::retirement`](crate::FileLog::retirement).
    ///
    /// # Errors
    /// Any [`LogError`].
    ///
    /// # Panics
    /// When no snapshot mark at `index` or above was appended before.
    fn release(&mut self, index: u64) -> Result<(), LogError>;

    /// Hands over the entries with an index above `after`, in order, those replaced later left out.
    ///
    /// # Errors
    /// [`LogError::Released`] when the log no longer reaches back to `after`; whatever `each` returns; any other [`LogError`].
    fn replay(&mut self, after: u64, each: &mut dyn FnMut(LogEntry) -> Result<(), LogError>) -> Result<(), LogError>;

    /// Sizes and counts, for metrics and for deciding when a snapshot is due.
    fn stats(&self) -> LogStats;
}

/// Sizes and counts of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Payload bytes of entries appended since the last snapshot mark or release.
    pub bytes_since_snapshot: u64,
    /// Segments in use, spare ones aside.
    pub segments: u64,
    /// Syncs of files and directories since the log was opened.
    pub fsyncs: u64,
    /// Bytes written since the log was opened, without what prepares spare segments beside it.
    pub bytes_written: u64,
    /// Bytes that the segments in use take on disk.
    pub disk_bytes: u64,
    /// Segments that were used again since the log was opened, in place of new ones.
    pub segments_reused: u64,
}

/// Why the log cannot do what it was asked.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk failed.
    #[error("cannot {op} {path}: {source}; check the disk (the kernel log says more), then start again")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file, under the data directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were written and may have been acknowledged are not what they were.
    #[error(
        "{path} is corrupt at offset {offset}: {why}; nothing was changed: restore this member from a snapshot, or, in a \
         cluster, remove it and add it again with an empty data directory"
    )]
    Corrupt {
        /// The file, under the data directory.
        path: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The log was written by a newer version.
    #[error(
        "{path} has format version {found}, which this version cannot read; start the version that wrote it, or a newer one"
    )]
    UnknownVersion {
        /// The file, under the data directory.
        path: String,
        /// Its version.
        found: u8,
    },
    /// The log is another member's.
    #[error("{path} belongs to {found}, this is {expected}; check the data directory and the initial cluster")]
    Foreign {
        /// The file, under the data directory.
        path: String,
        /// Whose it is.
        found: LogIds,
        /// Who asks.
        expected: LogIds,
    },
    /// The disk has no room for the next segment. The log is as before: try again when there is room.
    #[error("no space left on the disk for {path} ({bytes} bytes); free some, the log goes on by itself")]
    Full {
        /// The file, under the data directory.
        path: String,
        /// Its length.
        bytes: u64,
    },
    /// An entry or a batch is over the format's limit. The log is as before.
    #[error("{what} of {bytes} bytes is over the log's limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The log no longer reaches back so far. It is as before.
    #[error("entries after {after} are asked for, the log begins at {first}; a snapshot stands for what is before")]
    Released {
        /// What was asked for.
        after: u64,
        /// The first entry that the log has.
        first: u64,
    },
    /// An earlier write or sync failed; what the disk holds is unknown until the next start.
    #[error("the log has failed before and cannot go on; start again")]
    Failed,
    /// Who took the replayed entries could not go on.
    #[error("cannot replay the log: {0}")]
    Replay(String),
}

impl LogError {
    pub(crate) fn io(op: &'static str, path: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, path: path.to_owned(), source }
    }

    pub(crate) fn corrupt(path: &str, offset: u64, why: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, why: why.into() }
    }

    /// Turns a lack of space for a new segment into [`LogError::Full`].
    pub(crate) fn or_full(self, bytes: u64) -> Self {
        match self {
            Self::Io { path, source, .. }
                if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                Self::Full { path, bytes }
            }
            other => other,
        }
    }
}
