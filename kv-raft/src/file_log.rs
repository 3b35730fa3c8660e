//! The write-ahead log on a [`Disk`]. `docs/formats.md` has its bytes, [`recovery`] says how it is read after a crash.
//!
//! # How a write becomes durable
//! A batch of records is one write into the current segment and one sync. Segments are filled and synced before use, so that the
//! sync changes no metadata. A batch that does not fit goes into the next segment: header and batch are written and synced
//! while the file still has its spare name, then it is renamed and the directory is synced.
//!
//! # What is never overwritten
//! Bytes of a batch, synced or not. A statement of [`LogStore::mark_durable`] is a batch like any other, without records.

mod recovery;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::frame::{
    self, BATCH_HEADER_BYTES, BatchHeader, LogState, SEGMENT_HEADER_BYTES, SegmentHeader, Tag,
};
use kv_codec::record::{self, HardState, LogEntry, Record, Records, SnapshotMark};

use crate::disk::{Disk, DiskFile};
use crate::log_store::history::{History, Place};
use crate::log_store::{LogError, LogStats, LogStore};
use crate::mem_log::{check_reach, check_sizes};
use crate::segment::{End, Frame, FrameReader, LOG_DIR, Name, SegmentInfo};
pub use crate::segment::{Spare, SpareSpec};

/// Before the first batch of a segment stands its header; before a batch's records stand the batch's.
const RECORDS_AT: usize = SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES;
/// A buffer that one large batch has grown beyond this is given back.
const BUFFER_BYTES_KEPT: usize = 8 << 20;
/// Segment lengths are multiples of this: a page, so that files take what they say.
const SEGMENT_STEP_BYTES: u64 = 4096;

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
    /// Room for a segment's header, then the batch. Reused.
    buffer: Vec<u8>,
    spare: Option<Spare>,
    /// A released segment that waits to be filled anew.
    retired: Option<SpareSpec>,
    next_spare: u64,
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
        Some(self.retired.take().unwrap_or_else(|| self.new_spare(self.next_bytes())))
    }

    /// Takes a prepared segment for later use.
    pub fn add_spare(&mut self, spare: Spare) {
        self.spare = Some(spare);
    }

    fn new_spare(&mut self, bytes: u64) -> SpareSpec {
        self.next_spare += 1;
        SpareSpec { path: Name::Spare(self.next_spare).path(), bytes, reuse: false }
    }

    fn next_bytes(&self) -> u64 {
        (2 * self.current.info.header.bytes).min(self.options.segment_bytes_max)
    }

    fn check_usable(&self) -> Result<(), LogError> {
        if self.failed { Err(LogError::Failed) } else { Ok(()) }
    }

    /// Puts the records into `buffer`, with room for both headers before and padding after. The payload's length.
    fn encode(&mut self, records: &[Record]) -> Result<u32, LogError> {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.buffer.resize(RECORDS_AT, 0);
        for record in records {
            record::encode(record, &mut self.buffer);
        }
        let payload = self.buffer.len() - RECORDS_AT;
        self.buffer.resize(RECORDS_AT + payload.next_multiple_of(BATCH_HEADER_BYTES), 0);
        let (bytes, max) = (payload as u64, u64::from(u32::MAX));
        u32::try_from(payload).map_err(|_| LogError::TooLarge { what: "a batch", bytes, max })
    }

    /// Writes the batch's header into `buffer`: it comes after `before`, in a segment with this tag.
    fn seal(&mut self, payload_bytes: u32, before: Tip, tag: &Tag) -> Tip {
        let ordinal = before.ordinal + 1;
        let chain = frame::chain(before.chain, ordinal, payload_bytes, &self.buffer[RECORDS_AT..]);
        let watermark = if is_planted(Bug::WatermarkTooHigh) { ordinal } else { self.synced.ordinal };
        let header = BatchHeader { payload_bytes, chain, ordinal, watermark };
        self.buffer[SEGMENT_HEADER_BYTES..RECORDS_AT].copy_from_slice(&header.encode(tag));
        Tip { ordinal, chain }
    }

    fn batch_bytes(&self) -> u64 {
        (self.buffer.len() - SEGMENT_HEADER_BYTES) as u64
    }

    /// Writes the sealed batch at the end of the current segment.
    fn write_here(&mut self, tip: Tip) -> Result<(), LogError> {
        let Current { file, info, end } = &mut self.current;
        let batch = &self.buffer[SEGMENT_HEADER_BYTES..];
        file.write_all_at(batch, *end).map_err(LogError::io("write", &info.path))?;
        *end += batch.len() as u64;
        self.bytes_written += batch.len() as u64;
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
        };
        self.buffer[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
        file.write_all_at(&self.buffer, 0).map_err(LogError::io("write", &spare.path))?;
        self.bytes_written += self.buffer.len() as u64;
        let info = bring_to_life(self.disk.as_ref(), &mut file, &spare.path, header)?;
        self.fsyncs += 2;
        let full = std::mem::replace(&mut self.current, Current { file, info, end: self.buffer.len() as u64 });
        self.older.push_back(Older { info: full.info, last_ordinal: before.ordinal, last_index: state.last_index });
        (self.synced, self.written, self.marked) = (tip, tip, tip.ordinal);
        Ok(())
    }

    /// A filled file that can take a segment's header and a batch: the spare one, or one made here and now.
    fn next_segment(&mut self) -> Result<(Spare, D::File), LogError> {
        let needed = SEGMENT_HEADER_BYTES as u64 + self.batch_bytes();
        if let Some(spare) = self.spare.take_if(|spare| spare.bytes >= needed) {
            let file = self.disk.open(&spare.path).map_err(LogError::io("open", &spare.path))?;
            return Ok((spare, file));
        }
        let spec = match self.retired.take_if(|retired| retired.bytes >= needed) {
            Some(retired) => retired,
            None => self.new_spare(self.next_bytes().max(needed.next_multiple_of(SEGMENT_STEP_BYTES))),
        };
        self.bytes_written += spec.bytes;
        spec.fill(self.disk.as_ref())
    }

    /// Takes the oldest segment out of use.
    fn retire(&mut self, old: &Older) -> Result<(), LogError> {
        let (path, bytes) = (&old.info.path, old.info.header.bytes);
        if self.spare.is_none() && self.retired.is_none() && bytes == self.next_bytes() {
            let spec = SpareSpec { reuse: true, ..self.new_spare(bytes) };
            self.disk.rename(path, &spec.path).map_err(LogError::io("rename", path))?;
            self.retired = Some(spec);
        } else {
            self.disk.remove(path).map_err(LogError::io("remove", path))?;
        }
        // One by one: without the sync in between, a power loss might bring an older one back without the next.
        if !is_planted(Bug::ReleaseWithoutSync) {
            self.disk.sync_dir(LOG_DIR).map_err(LogError::io("sync", LOG_DIR))?;
        }
        self.fsyncs += 1;
        Ok(())
    }

    fn try_release(&mut self, index: u64) -> Result<(), LogError> {
        let last = if is_planted(Bug::ReleaseTooMuch) { index + 1 } else { index };
        while self.older.front().is_some_and(|old| old.last_index <= last) {
            let old = self.older.pop_front().expect("there is a front");
            self.retire(&old)?;
            self.history.release(old.last_index, old.last_ordinal + 1);
        }
        self.history.bytes_since_snapshot = 0;
        Ok(())
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
        self.or_fail(|log| log.try_release(index))
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
        }
    }
}

/// Makes a filled and written file a segment: content, then name. The order is what keeps half-made ones out of the log.
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
