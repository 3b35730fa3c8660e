//! Segment files: their names, how one is prepared ([`spare`]), and how its batches are read back.
//!
//! `log/%016x.log` is a segment in use, `log/%016x.tmp` one that is not in use: a spare, one that was retired, or what a crash left
//! of either. A segment gets its `.log` name only after all that it holds was synced, so that one with this name is never half made.

pub(crate) mod spare;

use bytes::Bytes;
use kv_codec::planted::{Bug, is_planted};
use kv_codec::record::fingerprints::Fingerprints;
use kv_codec::record::frame::{
    self, BATCH_ALIGN, BATCH_HEADER_BYTES, BatchHeader, SECTOR_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, WORD_BYTES,
};

use crate::disk::DiskFile;
use crate::log_store::LogError;

/// The directory of all segments.
pub(crate) const LOG_DIR: &str = "log";
/// How much is read, or written, at a time.
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
    /// The place of the header was never written.
    Blank,
    /// There is a batch, but part of it was never written.
    Torn(&'static str),
    /// There is something, written as a whole, that is no next batch.
    Broken(&'static str),
}

/// Which of a sector's words, [`WORD_BYTES`] each, were never written, as bits from the first word on.
type BlankWords = u64;
const _: () = assert!(SECTOR_BYTES / WORD_BYTES == BlankWords::BITS as usize, "a bit for each word");
const ALL_BLANK: BlankWords = BlankWords::MAX;
/// The words of one header.
const HEADER_BLANK: BlankWords = (1 << (BATCH_HEADER_BYTES / WORD_BYTES)) - 1;

/// Reads a segment's batches in order and checks each.
#[derive(Debug)]
pub(crate) struct FrameReader<'f, F> {
    window: Window<'f, F>,
    header: &'f SegmentHeader,
    /// What the segment held before it was used again. Read when it is asked for.
    fingerprints: Option<Fingerprints>,
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
        Self { window, header, fingerprints: None, offset: header.batches_at(), ordinal, chain }
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
        let (body, end) = (self.offset + BATCH_HEADER_BYTES as u64, self.offset + header.batch_bytes());
        if end > self.window.bytes {
            return Ok(Err(End::Broken("a batch that runs over the segment's end")));
        }
        let mut payload = self.window.read(body, end - body)?.to_vec();
        self.header.unmask(&mut payload);
        let chain = frame::chain(self.chain, header.ordinal, header.payload_bytes, &payload);
        if chain != header.chain && !is_planted(Bug::NoBatchChecksum) {
            return Ok(Err(if self.any_blank(body, end)? {
                End::Torn("part of the last batch was never written")
            } else {
                End::Broken("a batch that fails its checksum")
            }));
        }
        payload.truncate(usize::try_from(header.payload_bytes).expect("the batch was read into memory"));
        self.offset = end;
        self.ordinal += 1;
        self.chain = header.chain;
        Ok(Ok(Frame { header, payload: payload.into() }))
    }

    fn read_header(&mut self) -> Result<Result<BatchHeader, End>, LogError> {
        let bytes = self.window.read(self.offset, BATCH_HEADER_BYTES as u64)?;
        let bytes: &[u8; BATCH_HEADER_BYTES] = bytes.try_into().expect("as many as asked for");
        let written = match BatchHeader::decode(bytes, &self.header.tag) {
            Ok(header) if header.ordinal == self.ordinal => return Ok(Ok(header)),
            // Old content may look like this by chance: it is asked for below.
            Ok(_) => End::Broken("a batch of another place"),
            Err(_) => End::Broken("a batch header that fails its checksum"),
        };
        let (sector, within) = (self.offset / SECTOR_BYTES as u64, self.offset % SECTOR_BYTES as u64);
        Ok(Err(match (self.blank_words(sector)? >> (within / WORD_BYTES as u64)) & HEADER_BLANK {
            HEADER_BLANK => End::Blank,
            0 => written,
            _ => End::Torn("part of the last batch's header was never written"),
        }))
    }

    /// What the segment holds from the next batch's place on, for deciding what an [`End`] means.
    pub(crate) fn examine_rest(&mut self) -> Result<Rest, LogError> {
        let mut rest = Rest { used_until: self.offset, later_watermark: None };
        // No more batches than this fit behind, so that a header found by chance is not taken for one.
        let ordinal_max = self.ordinal + (self.window.bytes - self.offset) / BATCH_ALIGN;
        let sector_bytes = SECTOR_BYTES as u64;
        for sector in self.offset / sector_bytes..self.window.bytes / sector_bytes {
            let blank = self.blank_words(sector)?;
            if blank == ALL_BLANK {
                continue;
            }
            let content = self.window.read(sector * sector_bytes, sector_bytes)?;
            for (place, at) in content.as_chunks::<BATCH_HEADER_BYTES>().0.iter().zip(0..) {
                let offset = sector * sector_bytes + at * BATCH_ALIGN;
                let blank = (blank >> (at * BATCH_ALIGN / WORD_BYTES as u64)) & HEADER_BLANK;
                if offset < self.offset || blank == HEADER_BLANK {
                    continue;
                }
                rest.used_until = offset + BATCH_ALIGN;
                if let Ok(header) = BatchHeader::decode(place, &self.header.tag)
                    && (self.ordinal..=ordinal_max).contains(&header.ordinal)
                {
                    rest.later_watermark = rest.later_watermark.max(Some(header.watermark));
                }
            }
        }
        Ok(rest)
    }

    /// Whether any word from `from` to `to` was never written.
    fn any_blank(&mut self, from: u64, to: u64) -> Result<bool, LogError> {
        let (sector_bytes, word_bytes) = (SECTOR_BYTES as u64, WORD_BYTES as u64);
        for sector in from / sector_bytes..to.div_ceil(sector_bytes) {
            let start = sector * sector_bytes;
            let first = from.saturating_sub(start) / word_bytes;
            let after = to.saturating_sub(start).min(sector_bytes) / word_bytes;
            let asked = (first..after).fold(0, |asked, word| asked | (1 << word));
            if self.blank_words(sector)? & asked != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The one judge of what was never written: words that hold the tag, and sectors that are as they were before the segment was
    /// used again.
    fn blank_words(&mut self, sector: u64) -> Result<BlankWords, LogError> {
        self.read_fingerprints()?;
        let content = self.window.read(sector * SECTOR_BYTES as u64, SECTOR_BYTES as u64)?;
        if self.fingerprints.as_ref().is_some_and(|old| old.is_old(sector, content) || is_planted(Bug::AllSectorsOld)) {
            return Ok(ALL_BLANK);
        }
        let tag = self.header.tag.as_chunks::<WORD_BYTES>().0.iter().cycle();
        let words = content.as_chunks::<WORD_BYTES>().0.iter().zip(tag).zip(0..);
        Ok(words.filter(|((word, tag), _)| word == tag).fold(0, |blank, (_, at)| blank | (1 << at)))
    }

    fn read_fingerprints(&mut self) -> Result<(), LogError> {
        if let (Some(checksum), None) = (self.header.fingerprints, &self.fingerprints) {
            let at = SEGMENT_HEADER_BYTES as u64;
            let table = self.window.read(at, self.header.batches_at() - at)?.to_vec();
            // Without them nobody can tell a torn write from damage, so nothing is cut.
            let read = Fingerprints::decode(table, checksum)
                .map_err(|error| LogError::corrupt(self.window.path, at, error.to_string()))?;
            self.fingerprints = Some(read);
        }
        Ok(())
    }
}

/// See [`FrameReader::examine_rest`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    /// From here to the end nothing was written.
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
