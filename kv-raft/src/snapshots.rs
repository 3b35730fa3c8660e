//! Snapshot files: `snap/%016x-%016x.snap`, by index and term. Their bytes are in [`kv_codec::chunk`].
//!
//! A file is written under the name `.tmp` (`.recv` if it comes from another member), synced, renamed, and its directory synced: one with its final name is whole. Which of
//! them counts is said by the log's snapshot mark, which is appended after that.

mod stream;

use std::io::{self, ErrorKind};

use bytes::Bytes;
use kv_codec::DecodeError;
pub use kv_codec::chunk::SnapshotHeader;
use kv_codec::chunk::{CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES, ChunkHeader, END_BYTES, HEADER_BYTES};
use kv_codec::planted::{Bug, is_planted};
pub use stream::StreamState;
use thiserror::Error;

use crate::disk::{Disk, DiskFile};

/// The directory of all snapshots.
const SNAP_DIR: &str = "snap";
/// The kinds of a finished snapshot's name, of one that this member is taking, and of one that comes from another.
const FINISHED: &str = "snap";
const TAKEN: &str = "tmp";
const RECEIVED: &str = "recv";
/// How much is written between two syncs: the log's own sync must not wait behind all of a snapshot.
const SYNC_BYTES: u64 = 8 << 20;

/// Why a snapshot file cannot be written or read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The disk failed.
    #[error("cannot {op} {path}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file, under the data directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written.
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
    /// The file was written by a newer version.
    #[error(
        "{path} has format version {found}, which this version cannot read; start the version that wrote it, or a newer one"
    )]
    UnknownVersion {
        /// The file, under the data directory.
        path: String,
        /// Its version.
        found: u8,
    },
    /// The file is of another cluster.
    #[error("{path} belongs to cluster {found:x}, this is cluster {expected:x}; check the data directory")]
    Foreign {
        /// The file, under the data directory.
        path: String,
        /// Whose it is.
        found: u64,
        /// Who asks.
        expected: u64,
    },
}

impl SnapshotError {
    /// Whether the disk has no room. The unfinished file can be removed with [`clean_tmp`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    }

    fn io(op: &'static str, path: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, path: path.to_owned(), source }
    }

    fn corrupt(path: &str, offset: u64, why: impl ToString) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, why: why.to_string() }
    }
}

fn path(index: u64, term: u64, kind: &str) -> String {
    format!("{SNAP_DIR}/{}", file_name(index, term, kind))
}

fn file_name(index: u64, term: u64, kind: &str) -> String {
    format!("{index:016x}-{term:016x}.{kind}")
}

/// Index, term and kind of a name that we would have made.
fn parse(name: &str) -> Option<(u64, u64, &str)> {
    let (numbers, kind) = name.split_once('.')?;
    let (index, term) = numbers.split_once('-')?;
    let (index, term) = (u64::from_str_radix(index, 16).ok()?, u64::from_str_radix(term, 16).ok()?);
    let known = [FINISHED, TAKEN, RECEIVED].contains(&kind) && file_name(index, term, kind) == name;
    known.then_some((index, term, kind))
}

/// Writes a snapshot file. Dropped before [`SnapshotWriter::finish`], it leaves a `.tmp` file for [`clean_tmp`].
pub struct SnapshotWriter<'d, D: Disk> {
    disk: &'d D,
    header: SnapshotHeader,
    stream: StreamState,
    file: D::File,
    tmp: String,
    buffer: Vec<u8>,
    offset: u64,
    unsynced: u64,
}

impl<'d, D: Disk> SnapshotWriter<'d, D> {
    /// Begins a file, in place of an unfinished one of the same index and term.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn create(disk: &'d D, header: SnapshotHeader) -> Result<Self, SnapshotError> {
        Self::begin(disk, header, TAKEN)
    }

    /// Begins a file for a snapshot that comes from another member. One that this member takes of the same entry meanwhile has a
    /// name of its own until it is finished.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn receive(disk: &'d D, header: SnapshotHeader) -> Result<Self, SnapshotError> {
        Self::begin(disk, header, RECEIVED)
    }

    fn begin(disk: &'d D, header: SnapshotHeader, unfinished: &str) -> Result<Self, SnapshotError> {
        disk.make_dir(SNAP_DIR).map_err(SnapshotError::io("create", SNAP_DIR))?;
        disk.sync_dir("").map_err(SnapshotError::io("sync the parent of", SNAP_DIR))?;
        let tmp = path(header.index, header.term, unfinished);
        if disk.exists(&tmp).map_err(SnapshotError::io("look for", &tmp))? {
            disk.remove(&tmp).map_err(SnapshotError::io("remove", &tmp))?;
        }
        let file = disk.create(&tmp).map_err(SnapshotError::io("create", &tmp))?;
        let (stream, buffer) = (StreamState::new(&header), header.encode().to_vec());
        let mut writer = Self { disk, header, stream, file, tmp, buffer, offset: 0, unsynced: 0 };
        writer.flush()?;
        Ok(writer)
    }

    /// Appends bytes, cut into chunks of at most 1 MiB. What a reader gets may be cut elsewhere.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the file cannot be finished after it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        for payload in bytes.chunks(CHUNK_BYTES_MAX) {
            let frame = self.stream.frame(payload);
            self.buffer.extend_from_slice(&frame);
            self.buffer.extend_from_slice(payload);
            self.flush()?;
            if self.unsynced >= SYNC_BYTES {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Ends the file and puts it in place, durable on return. Its length in bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn finish(mut self) -> Result<u64, SnapshotError> {
        let end = self.stream.end_frame();
        self.buffer.extend_from_slice(&end);
        self.flush()?;
        if !is_planted(Bug::SkipSnapshotSync) {
            self.sync()?;
        }
        let Self { disk, header, tmp, offset, .. } = self;
        let path = path(header.index, header.term, FINISHED);
        disk.rename(&tmp, &path).map_err(SnapshotError::io("rename", &tmp))?;
        if !is_planted(Bug::SkipSnapshotDirSync) {
            disk.sync_dir(SNAP_DIR).map_err(SnapshotError::io("sync", SNAP_DIR))?;
        }
        Ok(offset)
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        self.file.write_all_at(&self.buffer, self.offset).map_err(SnapshotError::io("write", &self.tmp))?;
        self.offset += self.buffer.len() as u64;
        self.unsynced += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SnapshotError> {
        self.file.sync().map_err(SnapshotError::io("sync", &self.tmp))?;
        self.unsynced = 0;
        Ok(())
    }
}

/// Reads a snapshot file and checks every byte of it.
pub struct SnapshotReader<F> {
    file: F,
    path: String,
    len: u64,
    stream: StreamState,
    offset: u64,
    ended: bool,
}

impl<F: DiskFile> SnapshotReader<F> {
    /// Opens the snapshot that `header` describes.
    ///
    /// # Errors
    /// [`SnapshotError`]; one of kind [`ErrorKind::NotFound`] when there is no such file.
    pub fn open<D: Disk<File = F>>(disk: &D, header: SnapshotHeader) -> Result<Self, SnapshotError> {
        let path = path(header.index, header.term, FINISHED);
        let file = disk.open(&path).map_err(SnapshotError::io("open", &path))?;
        let len = file.len().map_err(SnapshotError::io("open", &path))?;
        let mut reader = Self { file, path, len, stream: StreamState::new(&header), offset: 0, ended: false };
        let bytes = reader.take::<HEADER_BYTES>()?;
        let found = SnapshotHeader::decode(&bytes).map_err(|error| reader.bad_header(error))?;
        if found.cluster_id != header.cluster_id {
            let (path, found, expected) = (reader.path, found.cluster_id, header.cluster_id);
            return Err(SnapshotError::Foreign { path, found, expected });
        }
        if found != header {
            let why = format!("it is the snapshot of entry {} of term {} by its header", found.index, found.term);
            return Err(SnapshotError::corrupt(&reader.path, 0, why));
        }
        Ok(reader)
    }

    /// The next chunk, checked; `None` after the last one, when count, length and digest of all of them are checked as well.
    /// What was read before is worth nothing until then.
    ///
    /// # Errors
    /// [`SnapshotError::Corrupt`], [`SnapshotError::Io`].
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        if self.ended {
            return Ok(None);
        }
        let at = self.offset;
        let bytes = self.take::<CHUNK_HEADER_BYTES>()?;
        let head = ChunkHeader::decode(&bytes).map_err(|error| SnapshotError::corrupt(&self.path, at, error))?;
        if head.payload_bytes == 0 {
            self.end(head, at)?;
            return Ok(None);
        }
        let mut payload = vec![0; head.payload_bytes];
        self.fill(&mut payload)?;
        let checked = self.stream.check(head, &payload);
        checked.map_err(|error| SnapshotError::corrupt(&self.path, at, error))?;
        Ok(Some(payload.into()))
    }

    fn end(&mut self, head: ChunkHeader, at: u64) -> Result<(), SnapshotError> {
        let bytes = self.take::<END_BYTES>()?;
        let corrupt = |why: String| SnapshotError::corrupt(&self.path, at, why);
        self.stream.check_end(head, &bytes).map_err(|error| corrupt(error.to_string()))?;
        if self.offset != self.len {
            return Err(corrupt(format!("{} bytes follow its end", self.len - self.offset)));
        }
        self.ended = true;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        if self.len - self.offset < bytes.len() as u64 {
            return Err(SnapshotError::corrupt(&self.path, self.len, "it ends too early"));
        }
        self.file.read_exact_at(bytes, self.offset).map_err(SnapshotError::io("read", &self.path))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn bad_header(&self, error: DecodeError) -> SnapshotError {
        match error {
            DecodeError::Version { found, .. } => SnapshotError::UnknownVersion { path: self.path.clone(), found },
            other => SnapshotError::corrupt(&self.path, 0, other),
        }
    }
}

/// Index and term of every finished snapshot file, rising.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn list<D: Disk>(disk: &D) -> Result<Vec<(u64, u64)>, SnapshotError> {
    let finished = |name: &String| match parse(name) {
        Some((index, term, FINISHED)) => Some((index, term)),
        _ => None,
    };
    Ok(names(disk)?.iter().filter_map(finished).collect())
}

/// Removes finished snapshots but for those of these indexes and terms.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn prune<D: Disk>(disk: &D, keep: &[(u64, u64)]) -> Result<(), SnapshotError> {
    remove_where(disk, |index, term, kind| kind == FINISHED && !keep.contains(&(index, term)))
}

/// Removes finished snapshots below `index`. One above may have been received and wait for its mark in the log.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn prune_below<D: Disk>(disk: &D, below: u64) -> Result<(), SnapshotError> {
    remove_where(disk, |index, _, kind| kind == FINISHED && index < below)
}

/// Removes what an unfinished writer of this snapshot left, of one that was taken here.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn discard<D: Disk>(disk: &D, header: &SnapshotHeader) -> Result<(), SnapshotError> {
    remove_where(disk, |index, term, kind| kind == TAKEN && (index, term) == (header.index, header.term))
}

/// Removes what came of snapshots from other members. Not while one comes.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn discard_received<D: Disk>(disk: &D) -> Result<(), SnapshotError> {
    remove_where(disk, |_, _, kind| kind == RECEIVED)
}

/// Removes what unfinished writers left. Not while one is at work.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn clean_tmp<D: Disk>(disk: &D) -> Result<(), SnapshotError> {
    remove_where(disk, |_, _, kind| kind != FINISHED)
}

/// A file that a power loss brings back is removed the next time: no sync is needed.
fn remove_where<D: Disk>(disk: &D, unwanted: impl Fn(u64, u64, &str) -> bool) -> Result<(), SnapshotError> {
    for name in names(disk)? {
        if parse(&name).is_some_and(|(index, term, kind)| unwanted(index, term, kind)) {
            let path = format!("{SNAP_DIR}/{name}");
            disk.remove(&path).map_err(SnapshotError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn names<D: Disk>(disk: &D) -> Result<Vec<String>, SnapshotError> {
    if !disk.exists(SNAP_DIR).map_err(SnapshotError::io("look for", SNAP_DIR))? {
        return Ok(Vec::new());
    }
    disk.list(SNAP_DIR).map_err(SnapshotError::io("list", SNAP_DIR))
}
