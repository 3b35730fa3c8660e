//! The write-ahead log on a [`Disk`]. `docs/formats.md` has its bytes, [`recovery`] says how it is read after a crash.
//!
//! # How a write becomes durable
//! A batch of records is one write into the current segment and one sync. Segments are prepared and synced before use, so that the
//! sync changes no metadata. A batch that does not fit goes into the next segment: header and batch are written and synced
//! while the file still has its spare name, then it is renamed and the directory is synced.
//!
//! # What is never overwritten
//! Bytes of a batch, synced or not, while the segment is in use. A statement of [`LogStore::mark_durable`] is a batch like any
//! other, without records.
//!
//! # What stands behind the last batch
//! The first write into a page goes on to its end with the segment's tag: a page holds batches and tag, or it was not written
//! since the segment was prepared. A statement waits for no sync, so that its page may be on the way to the disk while the next batch
//! is copied into it. What the disk gets then is torn anywhere, in the midst of a sector too, but of batches and tag alone. No
//! other page is written to before it was synced.
//!
//! # What becomes of a released segment
//! It is retired ([`retirement`]), and used again for a later one without being filled: preparing it takes fingerprints of what it
//! holds, by which that can be told from batches.

mod recovery;
mod retirement;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::frame::{
    self, BATCH_HEADER_BYTES, BatchHeader, LogState, PAGE_BYTES, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeader,
    TAG_BYTES, Tag,
};
use kv_codec::record::{self, HardState, LogEntry, Record, Records, SnapshotMark};

use crate::disk::{Disk, DiskFile};
use crate::log_store::history::{History, Place};
use crate::log_store::{LogError, LogStats, LogStore};
use crate::mem_log::{check_reach, check_sizes};
use crate::segment::spare::Source;
pub use crate::segment::spare::{Spare, SpareSpec};
use crate::segment::{End, Frame, FrameReader, LOG_DIR, Name, SegmentInfo};
use retirement::Pool;
pub use retirement::{Retired, Retirement};

/// A buffer that one large batch has grown beyond this is given back.
const BUFFER_BYTES_KEPT: usize = 8 << 20;
/// Segment lengths are multiples of this, so that files take what they say.
const SEGMENT_STEP_BYTES: u64 = PAGE_BYTES as u64;

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIds {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub member_id: u64,
}

impl fmt::Display for LogIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {:x} of cluster {:x}", self.member_id, self.cluster_id)
    }
}

/// How a log is laid out, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Written into each segment; another's log is refused.
    pub ids: LogIds,
    /// The length of the first segment of a run. Each following one is twice as long as the one before.
    pub segment_bytes_first: u64,
    /// Up to here. A batch that is longer gets a segment of its own.
    pub segment_bytes_max: u64,
}

impl LogOptions {
    /// Segments from 1 MiB, which an open makes at once, to 64 MiB, whose making is rare.
    #[must_use]
    pub const fn new(ids: LogIds) -> Self {
        Self { ids, segment_bytes_first: 1 << 20, segment_bytes_max: 64 << 20 }
    }
}

/// What [`FileLog::open`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The last snapshot mark.
    pub snapshot: Option<SnapshotMark>,
    /// The last hard state.
    pub hard_state: HardState,
    /// The last entry's index, or the snapshot's; 0 for an empty log.
    pub last_index: u64,
    /// How many times the log was opened, this time included. Durable: no two runs have the same.
    pub epoch: u64,
    /// A torn write that was cut.
    pub cut: Option<Cut>,
    /// Entries above the snapshot.
    pub entries: u64,
}

impl Recovered {
    pub(crate) fn new(state: &LogState, epoch: u64, cut: Option<Cut>) -> Self {
        let LogState { hard_state, snapshot, last_index } = *state;
        let entries = last_index - snapshot.map_or(0, |mark| mark.index);
        Self { snapshot, hard_state, last_index, epoch, cut, entries }
    }
}

/// A write that the end of the machine had torn. Nobody was told that it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub path: String,
    /// Where in it.
    pub offset: u64,
    /// From there to the last byte that was written.
    pub bytes: u64,
    /// How it is known to be torn.
    pub why: &'static str,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, offset, bytes, why } = self;
        write!(f, "cut {bytes} bytes of a torn, never acknowledged write from {path} at offset {offset}: {why}")
    }
}

/// A point between two batches: the ordinal of the last one before it, and the chain up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tip {
    ordinal: u64,
    chain: u32,
}

/// A segment that is full, or was left at a restart.
#[derive(Debug)]
struct Older {
    info: SegmentInfo,
    /// The last ordinal of it that counts.
    last_ordinal: u64,
    /// The log's last entry where the segment ends; 0 when a later snapshot made all before it void.
    last_index: u64,
}

/// The segment that is written to.
#[derive(Debug)]
struct Current<F> {
    file: F,
    info: SegmentInfo,
    /// Where the next batch goes.
    end: u64,
}

/// The log in files.
///
/// * `synced` is the last batch whose write and sync both returned; `written` is the same, or one statement without records ahead.
/// * All of `older` is synced up to each one's `last_ordinal`, and ordinals and chain go on without a gap from one to the next.
/// * Every file of `pool` was written and synced by this run alone, and its `.tmp` name is durable.
/// * `marked` is the highest ordinal that the files themselves say is synced.
/// * After an error that leaves the disk's content unknown, `failed` stays set and nothing is written again.
pub struct FileLog<D: Disk> {
    disk: Arc<D>,
    options: LogOptions,
    epoch: u64,
    history: History,
    older: VecDeque<Older>,
    current: Current<D::File>,
    synced: Tip,
    written: Tip,
    marked: u64,
    /// A batch: its header, then the records. Reused.
    buffer: Vec<u8>,
    spare: Option<Spare>,
    pool: Pool,
    next_spare: u64,
    segments_reused: u64,
    fsyncs: u64,
    bytes_written: u64,
    failed: bool,
}

impl<D: Disk> fmt::Debug for FileLog<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("FileLog");
        out.field("current", &self.current.info.path).field("end", &self.current.end).field("synced", &self.synced);
        out.field("state", &self.history.state).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl<D: Disk> FileLog<D> {
    /// Opens the log under `log/`, made when absent, and begins a new segment. What was read is durable on return, even where it
    /// was not before.
    ///
    /// # Errors
    /// Any [`LogError`]. [`LogError::Corrupt`] when something that may have been acknowledged is missing or damaged; nothing was
    /// changed then.
    pub fn open(disk: Arc<D>, options: LogOptions) -> Result<(Self, Recovered), LogError> {
        recovery::open(disk, options)
    }

    /// What to prepare for the next segment: something once the current one is half full and no spare is held. Ask again only
    /// after the last answer was prepared and added, or given up.
    pub fn spare_wanted(&mut self) -> Option<SpareSpec> {
        let half_full = self.current.end >= self.current.info.header.bytes / 2;
        if self.spare.is_some() || !half_full {
            return None;
        }
        Some(self.pool.take(0).unwrap_or_else(|| self.new_spare(self.next_bytes())))
    }

    /// Takes a prepared segment for later use.
    pub fn add_spare(&mut self, spare: Spare) {
        self.spare = Some(spare);
    }

    fn new_spare(&mut self, bytes: u64) -> SpareSpec {
        self.next_spare += 1;
        SpareSpec { path: Name::Spare(self.next_spare).path(), bytes, source: Source::New }
    }

    fn next_bytes(&self) -> u64 {
        (2 * self.current.info.header.bytes).min(self.options.segment_bytes_max)
    }

    fn check_usable(&self) -> Result<(), LogError> {
        if self.failed { Err(LogError::Failed) } else { Ok(()) }
    }

    /// Puts the records into `buffer`, with room for the header before and padding after. The payload's length.
    fn encode(&mut self, records: &[Record]) -> Result<u32, LogError> {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.buffer.resize(BATCH_HEADER_BYTES, 0);
        for record in records {
            record::encode(record, &mut self.buffer);
        }
        let payload = self.buffer.len() - BATCH_HEADER_BYTES;
        self.buffer.resize(BATCH_HEADER_BYTES + payload.next_multiple_of(BATCH_HEADER_BYTES), 0);
        let (bytes, max) = (payload as u64, u64::from(u32::MAX));
        u32::try_from(payload).map_err(|_| LogError::TooLarge { what: "a batch", bytes, max })
    }

    /// Makes `buffer` the batch after `before`, in a segment with this tag.
    fn seal(&mut self, payload_bytes: u32, before: Tip, tag: &Tag) -> Tip {
        let (head, payload) = self.buffer.split_at_mut(BATCH_HEADER_BYTES);
        let ordinal = before.ordinal + 1;
        let chain = frame::chain(before.chain, ordinal, payload_bytes, payload);
        let watermark = if is_planted(Bug::WatermarkTooHigh) { ordinal } else { self.synced.ordinal };
        let header = BatchHeader { payload_bytes, chain, ordinal, watermark };
        head.copy_from_slice(&header.encode(tag));
        frame::mask(tag, payload);
        Tip { ordinal, chain }
    }

    fn batch_bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Writes the sealed batch at the end of the current segment.
    fn write_here(&mut self, tip: Tip) -> Result<(), LogError> {
        let Current { file, info, end } = &mut self.current;
        let written = write_batch(file, info, *end, &mut self.buffer)?;
        *end += self.buffer.len() as u64;
        self.bytes_written += written;
        self.written = tip;
        Ok(())
    }

    fn append_here(&mut self, payload_bytes: u32) -> Result<(), LogError> {
        let tag = self.current.info.header.tag;
        let tip = self.seal(payload_bytes, self.written, &tag);
        self.write_here(tip)?;
        if !is_planted(Bug::AnswerBeforeSync) {
            self.current.file.sync().map_err(LogError::io("sync", &self.current.info.path))?;
        }
        self.fsyncs += 1;
        self.synced = tip;
        Ok(())
    }

    /// Writes the batch as the first one of a new segment, whose records before it add up to `state`.
    fn append_there(&mut self, next: (Spare, D::File), payload_bytes: u32, state: LogState) -> Result<(), LogError> {
        let (spare, mut file) = next;
        // Whatever follows the last synced batch is a statement without records, and this segment says more.
        let before = self.synced;
        let tip = self.seal(payload_bytes, before, &spare.tag);
        let header = SegmentHeader {
            version: SEGMENT_VERSION,
            tag: spare.tag,
            sequence: self.current.info.header.sequence + 1,
            bytes: spare.bytes,
            cluster_id: self.options.ids.cluster_id,
            member_id: self.options.ids.member_id,
            epoch: self.epoch,
            first_ordinal: tip.ordinal,
            watermark: tip.ordinal,
            chain: before.chain,
            state,
            fingerprints: spare.fingerprints,
        };
        let begun = SegmentInfo { path: spare.path, header };
        file.write_all_at(&header.encode(), 0).map_err(LogError::io("write", &begun.path))?;
        let written = write_batch(&mut file, &begun, header.batches_at(), &mut self.buffer)?;
        self.bytes_written += SEGMENT_HEADER_BYTES as u64 + written;
        let info = bring_to_life(self.disk.as_ref(), &mut file, &begun.path, header)?;
        self.fsyncs += 2;
        self.segments_reused += u64::from(header.fingerprints.is_some());
        let end = header.batches_at() + self.batch_bytes();
        let full = std::mem::replace(&mut self.current, Current { file, info, end });
        self.older.push_back(Older { info: full.info, last_ordinal: before.ordinal, last_index: state.last_index });
        (self.synced, self.written, self.marked) = (tip, tip, tip.ordinal);
        Ok(())
    }

    /// A prepared file that can take a segment's header and a batch: the spare one, or one made here and now.
    fn next_segment(&mut self) -> Result<(Spare, D::File), LogError> {
        let needed = self.batch_bytes();
        if let Some(spare) = self.spare.take_if(|spare| spare.room() >= needed) {
            let file = self.disk.open(&spare.path).map_err(LogError::io("open", &spare.path))?;
            return Ok((spare, file));
        }
        let with_header = (SEGMENT_HEADER_BYTES as u64 + needed).next_multiple_of(SEGMENT_STEP_BYTES);
        let spec = match self.pool.take(needed) {
            Some(retired) => retired,
            None => self.new_spare(self.next_bytes().max(with_header)),
        };
        self.bytes_written += spec.bytes_to_write();
        let made = spec.make(self.disk.as_ref());
        if matches!(made, Err(LogError::Full { .. })) {
            // What is kept for batches that would fit into it is in the way of this one.
            self.give_up_retired();
        }
        made
    }

    fn try_release(&mut self, index: u64) {
        if is_planted(Bug::NeverReleases) {
            return;
        }
        let last = if is_planted(Bug::ReleaseTooMuch) { index + 1 } else { index };
        let count = self.older.iter().take_while(|old| old.last_index <= last).count();
        let released: Vec<_> = self.older.drain(..count).collect();
        for old in &released {
            self.history.release(old.last_index, old.last_ordinal + 1);
        }
        self.retire(released);
        self.history.bytes_since_snapshot = 0;
    }

    /// Runs what changes the disk; after an error, nothing does again.
    fn or_fail<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, LogError>) -> Result<T, LogError> {
        let done = work(self);
        self.failed |= !matches!(done, Ok(_) | Err(LogError::Full { .. }));
        done
    }
}

impl<D: Disk> LogStore for FileLog<D> {
    fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        self.check_usable()?;
        if records.is_empty() {
            return Ok(());
        }
        check_sizes(records)?;
        let payload_bytes = self.encode(records)?;
        let fits = self.current.end + self.batch_bytes() <= self.current.info.header.bytes;
        let next = if fits { None } else { Some(self.or_fail(Self::next_segment)?) };
        let state = self.history.state;
        let ordinal = if fits { self.written } else { self.synced }.ordinal + 1;
        let mut voids_all = false;
        for (nth, record) in records.iter().enumerate() {
            let added = self.history.add(Place { ordinal, nth }, record);
            voids_all |= added.unwrap_or_else(|why| panic!("{why}"));
        }
        self.or_fail(|log| match next {
            None => log.append_here(payload_bytes),
            Some(next) => log.append_there(next, payload_bytes, state),
        })?;
        if voids_all {
            self.older.iter_mut().for_each(|old| old.last_index = 0);
        }
        Ok(())
    }

    fn mark_durable(&mut self) -> Result<(), LogError> {
        self.check_usable()?;
        // Where there is no room, the next segment's header will say it.
        let fits = self.current.end + BATCH_HEADER_BYTES as u64 <= self.current.info.header.bytes;
        if self.marked >= self.synced.ordinal || !fits {
            return Ok(());
        }
        self.encode(&[])?;
        let tag = self.current.info.header.tag;
        let tip = self.seal(0, self.written, &tag);
        self.or_fail(|log| log.write_here(tip))?;
        self.marked = self.synced.ordinal;
        Ok(())
    }

    fn release(&mut self, index: u64) -> Result<(), LogError> {
        self.check_usable()?;
        assert!(self.history.state.snapshot.is_some_and(|mark| mark.index >= index), "no snapshot stands for {index}");
        self.try_release(index);
        Ok(())
    }

    fn replay(&mut self, after: u64, each: &mut dyn FnMut(LogEntry) -> Result<(), LogError>) -> Result<(), LogError> {
        self.check_usable()?;
        check_reach(&self.history, after)?;
        let mut sieve = self.history.sieve();
        let mut hand_over = |frame: Frame, offset: u64, path: &str| {
            each_record(frame, path, offset, |place, record| match record {
                Record::Entry(entry) if sieve.is_live(place, entry.index) && entry.index > after => each(entry),
                _ => Ok(()),
            })
        };
        // Where a segment ends at or before `after`, none of its entries above that lived on.
        for old in self.older.iter().filter(|old| old.last_index > after) {
            let file = self.disk.open(&old.info.path).map_err(LogError::io("open", &old.info.path))?;
            let mut reader = FrameReader::new(&file, &old.info);
            read_up_to(&mut reader, old.last_ordinal, &old.info.path, &mut hand_over)?;
        }
        let Current { file, info, .. } = &self.current;
        read_up_to(&mut FrameReader::new(file, info), self.written.ordinal, &info.path, &mut hand_over)
    }

    fn stats(&self) -> LogStats {
        let lengths = self.older.iter().map(|old| old.info.header.bytes);
        LogStats {
            bytes_since_snapshot: self.history.bytes_since_snapshot,
            segments: self.older.len() as u64 + 1,
            fsyncs: self.fsyncs,
            bytes_written: self.bytes_written,
            disk_bytes: lengths.sum::<u64>() + self.current.info.header.bytes,
            segments_reused: self.segments_reused,
        }
    }
}

/// Writes a sealed batch and, where it comes into a page first, the tag from its end to the end of that page. How much that is.
fn write_batch<F: DiskFile>(
    file: &mut F,
    segment: &SegmentInfo,
    at: u64,
    batch: &mut Vec<u8>,
) -> Result<u64, LogError> {
    let (len, SegmentInfo { path, header }) = (batch.len(), segment);
    let end = at + len as u64;
    // The page that it begins in was filled before: by another batch, or when the segment was prepared.
    let filled = at.next_multiple_of(PAGE_BYTES as u64);
    let comes_first = end > filled && !is_planted(Bug::NoPageFill);
    let fill_end = if comes_first { end.next_multiple_of(PAGE_BYTES as u64) } else { end };
    let left = usize::try_from(fill_end - end).expect("less than a page");
    (0..left / TAG_BYTES).for_each(|_| batch.extend_from_slice(&header.tag));
    let written = file.write_all_at(batch, at).map_err(LogError::io("write", path));
    batch.truncate(len);
    written.map(|()| (len + left) as u64)
}

/// Makes a prepared and written file a segment: content, then name. The order is what keeps half-made ones out of the log.
fn bring_to_life<D: Disk>(
    disk: &D,
    file: &mut D::File,
    spare_path: &str,
    header: SegmentHeader,
) -> Result<SegmentInfo, LogError> {
    let path = Name::Segment(header.sequence).path();
    file.sync().map_err(LogError::io("sync", spare_path))?;
    disk.rename(spare_path, &path).map_err(LogError::io("rename", spare_path))?;
    if !is_planted(Bug::SkipLogDirSync) {
        disk.sync_dir(LOG_DIR).map_err(LogError::io("sync", LOG_DIR))?;
    }
    Ok(SegmentInfo { path, header })
}

/// Reads batches up to `last_ordinal`, all of which are known to have been synced.
fn read_up_to<F: DiskFile>(
    reader: &mut FrameReader<'_, F>,
    last_ordinal: u64,
    path: &str,
    each: &mut dyn FnMut(Frame, u64, &str) -> Result<(), LogError>,
) -> Result<(), LogError> {
    while reader.ordinal <= last_ordinal {
        let offset = reader.offset;
        let frame = reader.next()?.map_err(|end| {
            let why = match end {
                End::Full => "the segment ends",
                End::Blank => "there is nothing",
                End::Torn(why) | End::Broken(why) => why,
            };
            let ordinal = reader.ordinal;
            let why = format!("{why} where batch {ordinal} belongs, and later ones up to {last_ordinal} were synced");
            LogError::corrupt(path, offset, why)
        })?;
        each(frame, offset, path)?;
    }
    Ok(())
}

/// Takes a batch apart.
fn each_record(
    frame: Frame,
    path: &str,
    offset: u64,
    mut each: impl FnMut(Place, Record) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let ordinal = frame.header.ordinal;
    for (nth, record) in Records::new(frame.payload).enumerate() {
        let record = record.map_err(|error| {
            LogError::corrupt(path, offset, format!("record {nth} of batch {ordinal} is unreadable: {error}"))
        })?;
        each(Place { ordinal, nth }, record)?;
    }
    Ok(())
}
