//! Segment files: their names, how one is prepared, and how its batches are read back.
//!
//! `log/%016x.log` is a segment in use, `log/%016x.tmp` one that is not in use: a spare, or what a crash left of one. A segment
//! gets its `.log` name only after all that it holds was synced, so that one with this name is never half made.

use bytes::Bytes;
use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::frame::{
    self, BATCH_ALIGN, BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, SegmentHeader, TAG_BYTES, Tag,
};

use crate::disk::{Disk, DiskFile};
use crate::log_store::LogError;

/// The directory of all segments.
pub(crate) const LOG_DIR: &str = "log";
/// How much is read, or filled, at a time.
const WINDOW_BYTES: usize = 256 << 10;

/// What a name in the log's directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Segment(u64),
    Spare(u64),
}

impl Name {
    /// Reads a name; `None` for any that we would not have made.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (number, kind) = name.split_once('.')?;
        let sequence = u64::from_str_radix(number, 16).ok()?;
        let found = match kind {
            "log" => Self::Segment(sequence),
            "tmp" => Self::Spare(sequence),
            _ => return None,
        };
        // The one spelling of it: from_str_radix takes signs, capitals and other lengths as well.
        (found.file_name() == name).then_some(found)
    }

    fn file_name(self) -> String {
        match self {
            Self::Segment(sequence) => format!("{sequence:016x}.log"),
            Self::Spare(number) => format!("{number:016x}.tmp"),
        }
    }

    pub(crate) fn path(self) -> String {
        format!("{LOG_DIR}/{}", self.file_name())
    }
}

/// A segment that should be prepared ahead of need. Made by [`FileLog::spare_wanted`](crate::FileLog::spare_wanted).
#[derive(Debug)]
pub struct SpareSpec {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// The file is there: a retired segment to be filled anew.
    pub(crate) reuse: bool,
}

/// A prepared segment, for [`FileLog::add_spare`](crate::FileLog::add_spare).
#[derive(Debug)]
pub struct Spare {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) tag: Tag,
}

impl SpareSpec {
    /// Makes the file, fills it with a fresh tag and syncs it. May run on any thread, beside the log.
    ///
    /// # Errors
    /// [`LogError::Full`] when there is no room, which harms nothing until the segment is needed; [`LogError::Io`].
    pub fn prepare<D: Disk>(self, disk: &D) -> Result<Spare, LogError> {
        let (spare, mut file) = self.fill(disk)?;
        match file.sync().map_err(LogError::io("sync", &spare.path)) {
            Ok(()) => Ok(spare),
            Err(error) => Err(give_up(disk, &spare.path, error.or_full(spare.bytes))),
        }
    }

    /// As [`SpareSpec::prepare`], without the sync.
    pub(crate) fn fill<D: Disk>(self, disk: &D) -> Result<(Spare, D::File), LogError> {
        let Self { path, bytes, reuse } = self;
        let tag = disk.random().map_err(LogError::io("make a tag for", &path))?;
        let opened = if reuse { disk.open(&path) } else { disk.create(&path) };
        let filled = opened
            .map_err(LogError::io("create", &path))
            .and_then(|file| fill(file, &path, bytes, &tag).map_err(|error| give_up(disk, &path, error)));
        match filled {
            Ok(file) => Ok((Spare { path, bytes, tag }, file)),
            Err(error) => Err(error.or_full(bytes)),
        }
    }
}

/// Frees the space of a spare that cannot be finished.
fn give_up<D: Disk>(disk: &D, path: &str, error: LogError) -> LogError {
    // The error that counts is the one at hand; the next start removes what is left.
    let _ = disk.remove(path);
    error
}

fn fill<F: DiskFile>(mut file: F, path: &str, bytes: u64, tag: &Tag) -> Result<F, LogError> {
    let block = tag.repeat(WINDOW_BYTES / TAG_BYTES);
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(bytes - at).map_or(block.len(), |left| left.min(block.len()));
        file.write_all_at(&block[..len], at).map_err(LogError::io("write", path))?;
        at += len as u64;
    }
    Ok(file)
}

/// A segment in use, as far as its name and header tell.
#[derive(Debug, Clone)]
pub(crate) struct SegmentInfo {
    pub(crate) path: String,
    pub(crate) header: SegmentHeader,
}

/// A batch, checked.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) header: BatchHeader,
    /// The records.
    pub(crate) payload: Bytes,
}

/// Why no batch follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The segment is full.
    Full,
    /// The place of the header holds the tag.
    Blank,
    /// There is a batch, but part of it still is the tag: it was never written as a whole.
    Torn(&'static str),
    /// There is something, written as a whole, that is no next batch.
    Broken(&'static str),
}

/// Reads a segment's batches in order and checks each.
#[derive(Debug)]
pub(crate) struct FrameReader<'f, F> {
    window: Window<'f, F>,
    tag: Tag,
    /// Where the next batch starts.
    pub(crate) offset: u64,
    /// The ordinal of the next batch.
    pub(crate) ordinal: u64,
    /// The chain before it.
    pub(crate) chain: u32,
}

impl<'f, F: DiskFile> FrameReader<'f, F> {
    pub(crate) fn new(file: &'f F, segment: &'f SegmentInfo) -> Self {
        let SegmentInfo { path, header } = segment;
        let window = Window { file, path, bytes: header.bytes, start: 0, buffer: Vec::new() };
        let (ordinal, chain) = (header.first_ordinal, header.chain);
        Self { window, tag: header.tag, offset: SEGMENT_HEADER_BYTES as u64, ordinal, chain }
    }

    /// The next batch, or why there is none; after the latter, stay where the trouble is.
    pub(crate) fn next(&mut self) -> Result<Result<Frame, End>, LogError> {
        if self.offset + BATCH_HEADER_BYTES as u64 > self.window.bytes {
            return Ok(Err(End::Full));
        }
        let header = match self.read_header()? {
            Ok(header) => header,
            Err(end) => return Ok(Err(end)),
        };
        if header.ordinal != self.ordinal {
            return Ok(Err(End::Broken("a batch of another place")));
        }
        if self.offset + header.batch_bytes() > self.window.bytes {
            return Ok(Err(End::Broken("a batch that runs over the segment's end")));
        }
        let body_bytes = header.batch_bytes() - BATCH_HEADER_BYTES as u64;
        let body = self.window.read(self.offset + BATCH_HEADER_BYTES as u64, body_bytes)?;
        let chain = frame::chain(self.chain, header.ordinal, header.payload_bytes, body);
        if chain != header.chain && !is_planted(Bug::NoBatchChecksum) {
            return Ok(Err(if holds_tag(body, &self.tag) {
                End::Torn("part of the last batch was never written")
            } else {
                End::Broken("a batch that fails its checksum")
            }));
        }
        let payload_bytes = usize::try_from(header.payload_bytes).expect("the batch was read into memory");
        let payload = Bytes::copy_from_slice(&body[..payload_bytes]);
        self.offset += header.batch_bytes();
        self.ordinal += 1;
        self.chain = header.chain;
        Ok(Ok(Frame { header, payload }))
    }

    fn read_header(&mut self) -> Result<Result<BatchHeader, End>, LogError> {
        let bytes = self.window.read(self.offset, BATCH_HEADER_BYTES as u64)?;
        let bytes: &[u8; BATCH_HEADER_BYTES] = bytes.try_into().expect("as many as asked for");
        Ok(BatchHeader::decode(bytes, &self.tag).map_err(|_| {
            let (first, second) = bytes.split_at(TAG_BYTES);
            match (first == self.tag, second == self.tag) {
                (true, true) => End::Blank,
                (false, false) => End::Broken("a batch header that fails its checksum"),
                _ => End::Torn("part of the last batch's header was never written"),
            }
        }))
    }

    /// What the segment holds from the next batch's place on, for deciding what an [`End`] means.
    pub(crate) fn examine_rest(&mut self) -> Result<Rest, LogError> {
        let mut rest = Rest { used_until: self.offset, later_watermark: None };
        // No more batches than this fit behind, so that a header found by chance is not taken for one.
        let ordinal_max = self.ordinal + (self.window.bytes - self.offset) / BATCH_ALIGN;
        let mut at = self.offset;
        while at + BATCH_ALIGN <= self.window.bytes {
            let unit: &[u8; BATCH_HEADER_BYTES] =
                self.window.read(at, BATCH_ALIGN)?.try_into().expect("as many as asked for");
            at += BATCH_ALIGN;
            if unit.chunks_exact(TAG_BYTES).all(|part| part == self.tag) {
                continue;
            }
            rest.used_until = at;
            if let Ok(header) = BatchHeader::decode(unit, &self.tag)
                && (self.ordinal..=ordinal_max).contains(&header.ordinal)
            {
                rest.later_watermark = rest.later_watermark.max(Some(header.watermark));
            }
        }
        Ok(rest)
    }
}

fn holds_tag(body: &[u8], tag: &Tag) -> bool {
    body.chunks_exact(TAG_BYTES).any(|unit| unit == tag)
}

/// See [`FrameReader::examine_rest`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    /// From here to the end there is the tag alone.
    pub(crate) used_until: u64,
    /// The highest watermark of any batch header there.
    pub(crate) later_watermark: Option<u64>,
}

/// A part of a file in memory.
#[derive(Debug)]
struct Window<'f, F> {
    file: &'f F,
    path: &'f str,
    /// The file's length.
    bytes: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl<F: DiskFile> Window<'_, F> {
    /// `len` bytes from `offset` on, which the caller knows to be in the file.
    fn read(&mut self, offset: u64, len: u64) -> Result<&[u8], LogError> {
        let within = offset >= self.start && offset + len <= self.start + self.buffer.len() as u64;
        if !within {
            let ahead = (self.bytes - offset).min(len.max(WINDOW_BYTES as u64));
            let ahead = usize::try_from(ahead).map_err(|_| LogError::TooLarge {
                what: "a batch",
                bytes: ahead,
                max: usize::MAX as u64,
            })?;
            self.buffer.resize(ahead, 0);
            self.start = offset;
            self.file.read_exact_at(&mut self.buffer, offset).map_err(LogError::io("read", self.path))?;
        }
        let from = usize::try_from(offset - self.start).expect("within the buffer");
        let len = usize::try_from(len).expect("within the buffer");
        Ok(&self.buffer[from..from + len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        assert_eq!(Name::parse("00000000000000ff.log"), Some(Name::Segment(255)));
        assert_eq!(Name::parse("0000000000000001.tmp"), Some(Name::Spare(1)));
        for junk in ["lost+found", "00000000000000FF.log", "+00000000000000f.log", "1.log", "0000000000000001.log.bak"]
        {
            assert_eq!(Name::parse(junk), None, "{junk}");
        }
        assert_eq!(Name::Segment(255).path(), "log/00000000000000ff.log");
    }
}
