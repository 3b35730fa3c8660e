//! How the log is read after a crash.
//!
//! # What may be cut
//! At most one write was under way when the machine went down, after a statement without records perhaps, and what was under way
//! was never acknowledged. A part of it that did not arrive still holds what no batch contains: the segment's tag, in whole words,
//! or a sector of its old content, known by its fingerprint. That is blank, as [`FrameReader`] says.
//! So, where the chain of batches ends in the last segment:
//! * blank up to the end: nothing is missing;
//! * a batch with a blank part, or something behind a blank place: torn. It is cut, and said so;
//! * anything else was written as a whole and has changed since: corrupt, refused;
//! * whatever it looks like, when a watermark says that the place was synced: corrupt, refused.
//!
//! Segments before the last one were synced before the next one got its name, up to the ordinal with which that one begins.
//!
//! # What is written on every open
//! Bytes read back may live in the page cache alone, even after a failed sync. So what no watermark covers is copied into a fresh
//! segment, which is synced and named before anything is answered. It begins with the ordinal after the watermark: batches of
//! older segments from there on are void. A short last segment is copied whole and removed, so that restarts do not pile up
//! files. A crash on the way leaves the old segments, or the old and the new one, which say the same.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BufMut;
use kv_codec::DecodeError;
use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::frame::{
    self, BATCH_HEADER_BYTES, BatchHeader, LogState, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeader,
};

use super::retirement::Pool;
use super::{Current, Cut, FileLog, LogIds, LogOptions, Older, Recovered, SEGMENT_STEP_BYTES, Tip};
use super::{bring_to_life, each_record, read_up_to};
use crate::disk::{Disk, DiskFile};
use crate::log_store::LogError;
use crate::log_store::history::History;
use crate::segment::spare::{Source, SpareSpec};
use crate::segment::{End, FrameReader, LOG_DIR, Name, SegmentInfo};

/// A segment as found.
struct Found<F> {
    file: F,
    info: SegmentInfo,
}

/// Where the last segment ends.
struct LastEnd {
    /// The last batch that counts.
    ordinal: u64,
    /// Batches up to here are known to be synced.
    watermark: u64,
    /// Bytes of batches in it.
    bytes: u64,
    cut: Option<Cut>,
}

/// What the old segments add up to, and what of the last one goes into the fresh one.
struct Survey {
    history: History,
    /// The point before the first batch to copy.
    base: Tip,
    /// The state at `base`.
    base_state: LogState,
    /// Where in the last segment the first batch to copy is.
    base_offset: u64,
    /// Where the last batch to copy ends.
    end_offset: u64,
    /// The point after the last batch.
    tip: Tip,
    /// The log's last entry at each segment's end.
    last_indexes: Vec<u64>,
    /// The ordinal of the last record that made all entries before it void; 0 for none.
    void_ordinal: u64,
}

pub(super) fn open<D: Disk>(disk: Arc<D>, options: LogOptions) -> Result<(FileLog<D>, Recovered), LogError> {
    let options = checked(options);
    let at = disk.as_ref();
    at.make_dir(LOG_DIR).map_err(LogError::io("create", LOG_DIR))?;
    // Made now, or by a start that came no further.
    at.sync_dir("").map_err(LogError::io("sync the parent of", LOG_DIR))?;
    let (names, spares) = list(at)?;
    let segments = names.iter().map(|&name| read_segment(at, name, options.ids)).collect::<Result<Vec<_>, _>>()?;
    let end = segments.last().map(find_end).transpose()?;
    let survey = survey(&segments, end.as_ref(), &options)?;

    let number = spares.last().map_or(0, |(number, _)| *number) + 1;
    let copied = survey.end_offset - survey.base_offset;
    let needed = (SEGMENT_HEADER_BYTES as u64 + copied).next_multiple_of(SEGMENT_STEP_BYTES);
    let bytes = options.segment_bytes_first.max(needed);
    let spec = SpareSpec { path: Name::Spare(number).path(), bytes, source: Source::New };
    let (spare, mut file) = match spec.make(at) {
        // A full disk must not keep us from starting: a spare that is left over is as good.
        Err(full @ LogError::Full { .. }) => reusable(at, &spares, needed)?.ok_or(full)?.make(at)?,
        made => made?,
    };
    let newest = segments.last().map(|found| found.info.header);
    let header = SegmentHeader {
        version: SEGMENT_VERSION,
        tag: spare.tag,
        sequence: newest.map_or(0, |header| header.sequence) + 1,
        bytes: spare.bytes,
        cluster_id: options.ids.cluster_id,
        member_id: options.ids.member_id,
        epoch: newest.map_or(0, |header| header.epoch)
            + u64::from(newest.is_none() || !is_planted(Bug::EpochNotRaised)),
        first_ordinal: survey.base.ordinal + 1,
        watermark: survey.tip.ordinal,
        chain: survey.base.chain,
        state: survey.base_state,
        fingerprints: spare.fingerprints,
    };
    file.write_all_at(&header.encode(), 0).map_err(LogError::io("write", &spare.path))?;
    if let Some(last) = segments.last() {
        copy(last, &survey, &header, &mut file, &spare.path)?;
    }
    let info = bring_to_life(at, &mut file, &spare.path, header)?;
    for (_, path) in spares.iter().filter(|(_, path)| *path != spare.path) {
        at.remove(path).map_err(LogError::io("remove", path))?;
    }
    let older = keep_live(at, &segments, &survey, header.first_ordinal)?;

    let recovered = Recovered::new(&survey.history.state, header.epoch, end.and_then(|end| end.cut));
    let log = FileLog {
        disk,
        options,
        epoch: header.epoch,
        history: survey.history,
        older,
        current: Current { file, info, end: header.batches_at() + copied },
        synced: survey.tip,
        written: survey.tip,
        marked: survey.tip.ordinal,
        buffer: Vec::new(),
        spare: None,
        pool: Pool::default(),
        next_spare: number,
        segments_reused: 0,
        fsyncs: 3,
        bytes_written: spare.bytes + SEGMENT_HEADER_BYTES as u64 + copied,
        failed: false,
    };
    Ok((log, recovered))
}

/// Lengths that hold whole sectors, a header and a batch, and do not shrink.
fn checked(options: LogOptions) -> LogOptions {
    let first = options.segment_bytes_first.max(1).next_multiple_of(SEGMENT_STEP_BYTES);
    let max = options.segment_bytes_max.max(first).next_multiple_of(SEGMENT_STEP_BYTES);
    LogOptions { segment_bytes_first: first, segment_bytes_max: max, ..options }
}

/// Spares by number, with their paths.
type Spares = Vec<(u64, String)>;

/// The segments and the spares. Other names are not ours and left alone.
fn list<D: Disk>(disk: &D) -> Result<(Vec<Name>, Spares), LogError> {
    let (mut segments, mut spares) = (Vec::new(), Spares::new());
    // Sorted names of one length are sorted numbers.
    for name in disk.list(LOG_DIR).map_err(LogError::io("list", LOG_DIR))? {
        match Name::parse(&name) {
            Some(name @ Name::Segment(_)) => segments.push(name),
            Some(name @ Name::Spare(number)) => spares.push((number, name.path())),
            None => {}
        }
    }
    Ok((segments, spares))
}

/// A left-over spare that can hold `bytes`.
fn reusable<D: Disk>(disk: &D, spares: &[(u64, String)], bytes: u64) -> Result<Option<SpareSpec>, LogError> {
    for (_, path) in spares {
        let len = disk.open(path).and_then(|file| file.len()).map_err(LogError::io("open", path))?;
        if len >= bytes && len % SEGMENT_STEP_BYTES == 0 {
            return Ok(Some(SpareSpec { path: path.clone(), bytes: len, source: Source::Leftover }));
        }
    }
    Ok(None)
}

fn read_segment<D: Disk>(disk: &D, name: Name, ids: LogIds) -> Result<Found<D::File>, LogError> {
    let path = name.path();
    let file = disk.open(&path).map_err(LogError::io("open", &path))?;
    let bytes = file.len().map_err(LogError::io("open", &path))?;
    let mut sector = [0; SEGMENT_HEADER_BYTES];
    if bytes < sector.len() as u64 {
        return Err(LogError::corrupt(&path, 0, format!("it has {bytes} bytes, less than its header")));
    }
    file.read_exact_at(&mut sector, 0).map_err(LogError::io("read", &path))?;
    let header = SegmentHeader::decode(&sector).map_err(|error| match error {
        DecodeError::Version { found, .. } => LogError::UnknownVersion { path: path.clone(), found },
        other => LogError::corrupt(&path, 0, other.to_string()),
    })?;
    let found = LogIds { cluster_id: header.cluster_id, member_id: header.member_id };
    if found != ids {
        return Err(LogError::Foreign { path, found, expected: ids });
    }
    if Name::Segment(header.sequence) != name {
        return Err(LogError::corrupt(&path, 0, format!("it is segment {:016x} by its header", header.sequence)));
    }
    if header.bytes != bytes {
        return Err(LogError::corrupt(&path, 0, format!("it has {bytes} bytes, not {}", header.bytes)));
    }
    Ok(Found { file, info: SegmentInfo { path, header } })
}

/// Finds where the last segment's batches end, and decides between a clean end, a cut and a refusal.
fn find_end<F: DiskFile>(last: &Found<F>) -> Result<LastEnd, LogError> {
    let path = &last.info.path;
    let mut reader = FrameReader::new(&last.file, &last.info);
    let mut watermark = last.info.header.watermark;
    let mut ordinal = watermark;
    let end = loop {
        match reader.next()? {
            Ok(frame) => {
                watermark = watermark.max(frame.header.watermark);
                // A statement at the very end has served; it need not be kept.
                if !frame.payload.is_empty() {
                    ordinal = ordinal.max(frame.header.ordinal);
                }
            }
            Err(end) => break end,
        }
    };
    if is_planted(Bug::IgnoreWatermark) {
        ordinal = reader.ordinal - 1;
        watermark = ordinal;
    }
    ordinal = ordinal.max(watermark);
    let (missing, offset) = (reader.ordinal, reader.offset);
    let refuse = |why: &str| Err(LogError::corrupt(path, offset, why));
    if missing <= watermark {
        return refuse(&format!("batch {missing} is missing or damaged, and batch {watermark} was synced"));
    }
    let torn = match end {
        End::Full => None,
        End::Blank => Some("there is nothing where the next batch begins, but something behind"),
        End::Torn(why) if is_planted(Bug::TornTailNotCut) => return refuse(why),
        End::Torn(why) => Some(why),
        End::Broken(why) if is_planted(Bug::CutAtBadChecksum) => Some(why),
        End::Broken(why) => return refuse(&format!("{why}, though all of it was written")),
    };
    let mut cut = None;
    if let Some(why) = torn {
        let rest = reader.examine_rest()?;
        let ignored = is_planted(Bug::IgnoreWatermark) || is_planted(Bug::CutAtBadChecksum);
        if rest.later_watermark >= Some(missing) && !ignored {
            return refuse(&format!(
                "batch {missing} is missing or damaged, and was synced before a later one was written"
            ));
        }
        if rest.used_until > offset {
            cut = Some(Cut { path: path.clone(), offset, bytes: rest.used_until - offset, why });
        }
    }
    Ok(LastEnd { ordinal, watermark, bytes: offset - last.info.header.batches_at(), cut })
}

/// Reads all that counts, checks that segments follow each other, and adds it up.
fn survey<F: DiskFile>(segments: &[Found<F>], end: Option<&LastEnd>, options: &LogOptions) -> Result<Survey, LogError> {
    let origin = segments.first().map(|found| found.info.header);
    let mut tip = Tip {
        ordinal: origin.map_or(0, |header| header.first_ordinal - 1),
        chain: origin.map_or(0, |header| header.chain),
    };
    let state = origin.map_or(LogState::default(), |header| header.state);
    let mut survey = Survey {
        history: History::after(state),
        base: tip,
        base_state: state,
        base_offset: 0,
        end_offset: 0,
        tip,
        last_indexes: Vec::new(),
        void_ordinal: 0,
    };
    for (i, Found { file, info }) in segments.iter().enumerate() {
        let header = &info.header;
        if (tip.ordinal + 1, tip.chain) != (header.first_ordinal, header.chain) {
            return Err(LogError::corrupt(&info.path, 0, "it does not continue the segment before it"));
        }
        if survey.history.state != header.state {
            return Err(LogError::corrupt(&info.path, 0, "its header contradicts the segments before it"));
        }
        let next = segments.get(i + 1).map(|next| next.info.header.first_ordinal);
        if next.is_some_and(|next| next < header.first_ordinal) {
            return Err(LogError::corrupt(&info.path, 0, "it begins after the next segment does"));
        }
        let (last_ordinal, copy_from) = match (next, end) {
            (Some(next), _) => (next - 1, None),
            (None, Some(end)) => (end.ordinal, Some(copy_from(header, end, options))),
            (None, None) => unreachable!("the last segment's end was looked for"),
        };
        let mut reader = FrameReader::new(file, info);
        (survey.base, survey.base_state, survey.base_offset) = (tip, header.state, reader.offset);
        let Survey { history, base, base_state, base_offset, void_ordinal, .. } = &mut survey;
        let mut chain = tip.chain;
        read_up_to(&mut reader, last_ordinal, &info.path, &mut |frame, offset, path| {
            let BatchHeader { ordinal, chain: chain_after, .. } = frame.header;
            if copy_from == Some(ordinal) {
                (*base, *base_state, *base_offset) = (Tip { ordinal: ordinal - 1, chain }, history.state, offset);
            }
            chain = chain_after;
            each_record(frame, path, offset, |place, record| {
                let voids_all = history.add(place, &record).map_err(|why| LogError::corrupt(path, offset, why))?;
                if voids_all {
                    *void_ordinal = ordinal;
                }
                Ok(())
            })
        })?;
        tip = Tip { ordinal: last_ordinal, chain: reader.chain };
        survey.end_offset = reader.offset;
        if copy_from == Some(last_ordinal + 1) {
            (survey.base, survey.base_state, survey.base_offset) = (tip, survey.history.state, reader.offset);
        }
        survey.last_indexes.push(survey.history.state.last_index);
    }
    survey.tip = tip;
    check_front(segments, &survey)?;
    Ok(survey)
}

/// The first ordinal to copy into the fresh segment: all of a short segment, else what may not be synced.
fn copy_from(header: &SegmentHeader, end: &LastEnd, options: &LogOptions) -> u64 {
    if is_planted(Bug::NoTailRewrite) {
        return end.ordinal + 1;
    }
    let short = end.bytes <= options.segment_bytes_first / 2;
    if short { header.first_ordinal } else { end.watermark + 1 }
}

/// The oldest segment must reach back to the snapshot, if no later snapshot made all before it void.
fn check_front<F>(segments: &[Found<F>], survey: &Survey) -> Result<(), LogError> {
    let Some(oldest) = segments.first() else {
        return Ok(());
    };
    let before = oldest.info.header.state.last_index;
    let snapshot = survey.history.state.snapshot.map_or(0, |mark| mark.index);
    if survey.void_ordinal == 0 && before > snapshot {
        let why =
            format!("it begins after entry {before}, the snapshot ends at {snapshot}: older segments are missing");
        return Err(LogError::corrupt(&oldest.info.path, 0, why));
    }
    Ok(())
}

/// Copies batches from `survey.base` on into the fresh segment. Only what depends on the tag changes:
/// the headers' checksums, and the masks.
fn copy<F: DiskFile>(
    last: &Found<F>,
    survey: &Survey,
    header: &SegmentHeader,
    file: &mut F,
    path: &str,
) -> Result<(), LogError> {
    let mut reader = FrameReader::new(&last.file, &last.info);
    (reader.offset, reader.ordinal, reader.chain) = (survey.base_offset, survey.base.ordinal + 1, survey.base.chain);
    let mut at = header.batches_at();
    let mut batch = Vec::new();
    read_up_to(&mut reader, survey.tip.ordinal, &last.info.path, &mut |frame, _, _| {
        batch.clear();
        batch.extend_from_slice(&frame.header.encode(&header.tag));
        batch.extend_from_slice(&frame.payload);
        let padding = frame.header.batch_bytes() - (BATCH_HEADER_BYTES + frame.payload.len()) as u64;
        batch.put_bytes(0, usize::try_from(padding).expect("less than BATCH_ALIGN"));
        frame::mask(&header.tag, &mut batch[BATCH_HEADER_BYTES..]);
        file.write_all_at(&batch, at).map_err(LogError::io("write", path))?;
        at += batch.len() as u64;
        Ok(())
    })
}

/// Removes segments that hold nothing that counts, now that the fresh one begins with `first_ordinal`. The others.
fn keep_live<D: Disk>(
    disk: &D,
    segments: &[Found<D::File>],
    survey: &Survey,
    first_ordinal: u64,
) -> Result<VecDeque<Older>, LogError> {
    let mut older = VecDeque::new();
    for (i, Found { info, .. }) in segments.iter().enumerate() {
        let next = segments.get(i + 1).map_or(first_ordinal, |next| next.info.header.first_ordinal);
        if next == info.header.first_ordinal {
            // Should a power loss bring it back, it is as empty again: no sync is needed.
            disk.remove(&info.path).map_err(LogError::io("remove", &info.path))?;
            continue;
        }
        let last_ordinal = next - 1;
        let last_index = match segments.get(i + 1) {
            _ if last_ordinal < survey.void_ordinal => 0,
            Some(_) => survey.last_indexes[i],
            None => survey.base_state.last_index,
        };
        older.push_back(Older { info: info.clone(), last_ordinal, last_index });
    }
    Ok(older)
}
