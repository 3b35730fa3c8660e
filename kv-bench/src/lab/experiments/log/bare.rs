//! What a disk can do: a write and an fdatasync into a file that was filled before. No log: it knows neither its end nor damage.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Check, Log, Opened};

const NAME: &str = "bare";
/// Bytes filled at once.
const FILL: usize = 1 << 20;
/// The length of an entry is written before it.
const LENGTH_BYTES: usize = 4;

struct Bare {
    file: File,
    end: u64,
    filled: u64,
    durable: bool,
    buffer: Vec<u8>,
}

pub(super) fn create(dir: &Path, durable: bool) -> Result<Box<dyn Log>> {
    let file = File::options().read(true).write(true).create_new(true).open(dir.join(NAME)).context("making a file")?;
    let mut bare = Bare { file, end: 0, filled: 0, durable, buffer: Vec::new() };
    bare.prepare()?;
    Ok(Box::new(bare))
}

impl Log for Bare {
    fn append(&mut self, _: u64, entries: &[Vec<u8>]) -> Result<()> {
        self.buffer.clear();
        for entry in entries {
            self.buffer.extend_from_slice(&u32::try_from(entry.len()).context("a long entry")?.to_le_bytes());
            self.buffer.extend_from_slice(entry);
        }
        self.file.write_all_at(&self.buffer, self.end).context("writing")?;
        self.end += self.buffer.len() as u64;
        if self.durable { self.file.sync_data().context("syncing") } else { Ok(()) }
    }

    /// Keeps a megabyte filled ahead.
    fn prepare(&mut self) -> Result<()> {
        while self.durable && self.filled < self.end + FILL as u64 {
            self.file.write_all_at(&[0; FILL], self.filled).context("filling")?;
            self.filled += FILL as u64;
            self.file.sync_all().context("syncing")?;
        }
        Ok(())
    }
}

pub(super) fn open(dir: &Path, check: Check<'_>) -> Result<Opened> {
    let bytes = std::fs::read(dir.join(NAME)).context("reading")?;
    let mut opened = Opened { entries: 0, damaged: 0, cut: None };
    let mut rest = &bytes[..];
    while let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > after.len() {
            break;
        }
        let (payload, left) = after.split_at(length);
        opened.entries += 1;
        opened.damaged += u64::from(!check(opened.entries, payload));
        rest = left;
    }
    Ok(opened)
}
