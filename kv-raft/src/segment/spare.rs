//! How a segment is prepared before it is used: a new file is filled with its tag, and one that was retired keeps what it holds and
//! gets the fingerprints of that.

use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::fingerprints::Fingerprints;
use kv_codec::record::frame::{PAGE_BYTES, SECTOR_BYTES, SEGMENT_HEADER_BYTES, TAG_BYTES, Tag};

use super::WINDOW_BYTES;
use crate::disk::{Disk, DiskFile};
use crate::log_store::LogError;

/// How much of a new segment is written between two syncs. The disk is the log's as well: a batch that is synced meanwhile may have to wait
/// for all that was written before.
const FILL_BYTES: u64 = 1 << 20;

/// A segment that should be prepared ahead of need. Made by [`FileLog::spare_wanted`](crate::FileLog::spare_wanted).
#[derive(Debug, Clone)]
pub struct SpareSpec {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) source: Source,
}

/// What a spare is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nothing: the file is to be made and filled.
    New,
    /// A file of this length whose content nobody can vouch for: it is to be filled.
    Leftover,
    /// A segment that this run wrote and retired. What is read from it is what the disk holds, since no write or sync failed.
    Retired,
}

/// A prepared segment, for [`FileLog::add_spare`](crate::FileLog::add_spare).
#[derive(Debug)]
pub struct Spare {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) tag: Tag,
    /// The checksum of the fingerprints in it, if it has some.
    pub(crate) fingerprints: Option<u32>,
}

impl SpareSpec {
    /// Makes the segment under a fresh tag and syncs it. May run on any thread, beside the log.
    ///
    /// # Errors
    /// [`LogError::Full`] when there is no room, which harms nothing until the segment is needed; [`LogError::Io`].
    pub fn prepare<D: Disk>(self, disk: &D) -> Result<Spare, LogError> {
        let (spare, mut file) = self.make(disk)?;
        match file.sync().map_err(LogError::io("sync", &spare.path)) {
            Ok(()) => Ok(spare),
            Err(error) => Err(give_up(disk, &spare.path, error.or_full(spare.bytes))),
        }
    }

    /// As [`SpareSpec::prepare`], without the sync.
    pub(crate) fn make<D: Disk>(self, disk: &D) -> Result<(Spare, D::File), LogError> {
        let Self { path, bytes, source } = self;
        let tag = disk.random().map_err(LogError::io("make a tag for", &path))?;
        let opened = if source == Source::New { disk.create(&path) } else { disk.open(&path) };
        let mut file = opened.map_err(|error| LogError::io("create", &path)(error).or_full(bytes))?;
        let made = match source {
            Source::New | Source::Leftover => fill(&mut file, &path, bytes, &tag).map(|()| None),
            Source::Retired => take_fingerprints(&mut file, &path, bytes, &tag).map(Some),
        };
        match made {
            Ok(fingerprints) => Ok((Spare { path, bytes, tag, fingerprints }, file)),
            Err(error) => Err(give_up(disk, &path, error.or_full(bytes))),
        }
    }

    /// How many bytes of batches it will hold.
    pub(crate) fn room(&self) -> u64 {
        room(self.bytes, self.source == Source::Retired)
    }

    /// How many bytes making it writes.
    pub(crate) fn bytes_to_write(&self) -> u64 {
        if self.source != Source::Retired {
            return self.bytes;
        }
        let header_bytes = SEGMENT_HEADER_BYTES as u64;
        (header_bytes + Fingerprints::bytes_in(self.bytes)).next_multiple_of(PAGE_BYTES as u64) - header_bytes
    }
}

impl Spare {
    /// How many bytes of batches it holds.
    pub(crate) fn room(&self) -> u64 {
        room(self.bytes, self.fingerprints.is_some())
    }
}

fn room(bytes: u64, has_fingerprints: bool) -> u64 {
    bytes - SEGMENT_HEADER_BYTES as u64 - if has_fingerprints { Fingerprints::bytes_in(bytes) } else { 0 }
}

/// Frees the space of a spare that cannot be finished.
fn give_up<D: Disk>(disk: &D, path: &str, error: LogError) -> LogError {
    // The error that counts is the one at hand; the next start removes what is left.
    let _ = disk.remove(path);
    error
}

fn fill<F: DiskFile>(file: &mut F, path: &str, bytes: u64, tag: &Tag) -> Result<(), LogError> {
    let block = tag.repeat(WINDOW_BYTES / TAG_BYTES);
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(bytes - at).map_or(block.len(), |left| left.min(block.len()));
        file.write_all_at(&block[..len], at).map_err(LogError::io("write", path))?;
        at += len as u64;
        if at.is_multiple_of(FILL_BYTES) {
            file.sync().map_err(LogError::io("sync", path))?;
        }
    }
    Ok(())
}

/// Writes the fingerprints of what the file holds into its front, and the tag behind them to the end of their page; their checksum.
fn take_fingerprints<F: DiskFile>(file: &mut F, path: &str, bytes: u64, tag: &Tag) -> Result<u32, LogError> {
    let mut fingerprints = Fingerprints::of_segment(bytes);
    let mut window = vec![0; WINDOW_BYTES];
    let mut at = SEGMENT_HEADER_BYTES as u64 + Fingerprints::bytes_in(bytes);
    while at < bytes && !is_planted(Bug::NoFingerprints) {
        let len = usize::try_from(bytes - at).map_or(window.len(), |left| left.min(window.len()));
        file.read_exact_at(&mut window[..len], at).map_err(LogError::io("read", path))?;
        window[..len].chunks_exact(SECTOR_BYTES).for_each(|sector| fingerprints.push(sector));
        at += len as u64;
    }
    let (mut table, checksum) = fingerprints.encode();
    if !is_planted(Bug::NoPageFill) {
        let end = SEGMENT_HEADER_BYTES + table.len();
        let left = end.next_multiple_of(PAGE_BYTES) - end;
        table.extend_from_slice(&tag.repeat(left / TAG_BYTES));
    }
    file.write_all_at(&table, SEGMENT_HEADER_BYTES as u64).map_err(LogError::io("write", path))?;
    Ok(checksum)
}
