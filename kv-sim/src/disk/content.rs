//! What a file and a directory are to a disk that forgets: two sides, and what is queued in between.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use kv_codec::record::frame::WORD_BYTES;

use super::SECTOR_BYTES;

/// Sectors of a page: what a file system writes back at once.
const PAGE_SECTORS: usize = 8;

/// A sector as a write left it.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// The number of the write.
    write: u64,
    bytes: Vec<u8>,
    /// What it was before, where the page may have been on its way to the platter while it was written.
    before: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) cached: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// The versions of each sector since the last sync, oldest first.
    pub(super) queue: BTreeMap<usize, Vec<Version>>,
    writes: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Dir {
    pub(super) cached: BTreeMap<String, Node>,
    pub(super) durable: BTreeMap<String, Node>,
    pub(super) queue: Vec<NameChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(usize),
    Dir,
}

#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Set(String, Node),
    Unset(String),
    /// As a whole or not at all.
    Move(String, String, Node),
}

impl Content {
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        let before: Vec<_> =
            sectors.clone().map(|sector| self.on_the_way(sector).then(|| self.sector(sector))).collect();
        self.cached[offset..end].copy_from_slice(bytes);
        for (sector, before) in sectors.zip(before) {
            let version = Version { write: self.writes, bytes: self.sector(sector), before };
            self.queue.entry(sector).or_default().push(version);
        }
        self.writes += 1;
    }

    fn sector(&self, sector: usize) -> Vec<u8> {
        let from = sector * SECTOR_BYTES;
        self.cached[from..self.cached.len().min(from + SECTOR_BYTES)].to_vec()
    }

    /// Whether a sector's page has something that was not synced: the kernel may be writing it out at any time.
    fn on_the_way(&self, sector: usize) -> bool {
        let first = sector / PAGE_SECTORS * PAGE_SECTORS;
        self.queue.range(first..first + PAGE_SECTORS).next().is_some()
    }

    pub(super) fn sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.queue) {
            let last = versions.last().expect("a queued sector has a version");
            self.put(sector, &last.bytes);
        }
    }

    fn put(&mut self, sector: usize, version: &[u8]) {
        let from = sector * SECTOR_BYTES;
        if self.durable.len() < from + version.len() {
            self.durable.resize(from + version.len(), 0);
        }
        self.durable[from..from + version.len()].copy_from_slice(version);
    }

    pub(super) fn power_loss(&mut self, keep: &mut impl FnMut() -> bool) {
        for (sector, versions) in std::mem::take(&mut self.queue) {
            if let Some(kept) = versions.iter().filter(|_| keep()).last() {
                self.put(sector, &kept.bytes);
            }
        }
        self.cached.clone_from(&self.durable);
    }

    /// As [`Content::power_loss`], where pages were on their way to the platter while something was copied into them.
    pub(super) fn power_loss_by_words(&mut self, rng: &mut Rng) {
        for (sector, versions) in std::mem::take(&mut self.queue) {
            let Some(mut kept) = versions.into_iter().filter(|_| rng.bool()).last() else { continue };
            if let Some(before) = kept.before.filter(|_| rng.bool()) {
                // The copy had come so far; or the platter had, before the copy overtook it.
                let at = before.len().min(rng.usize(0..=SECTOR_BYTES / WORD_BYTES) * WORD_BYTES);
                let of_before = if rng.bool() { 0..at } else { at..before.len() };
                kept.bytes[of_before.clone()].copy_from_slice(&before[of_before]);
            }
            self.put(sector, &kept.bytes);
        }
        self.cached.clone_from(&self.durable);
    }

    /// As [`Content::power_loss`] for a platter that takes whole pages: each page as one of its writes left it.
    pub(super) fn power_loss_by_pages(&mut self, rng: &mut Rng) {
        let queue = std::mem::take(&mut self.queue);
        let mut writes: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for (sector, versions) in &queue {
            writes.entry(sector / PAGE_SECTORS).or_default().extend(versions.iter().map(|version| version.write));
        }
        // How many of a page's writes arrived.
        let arrived: BTreeMap<usize, Option<u64>> = writes
            .into_iter()
            .map(|(page, writes)| {
                (page, rng.usize(0..=writes.len()).checked_sub(1).and_then(|n| writes.into_iter().nth(n)))
            })
            .collect();
        for (sector, versions) in queue {
            let last = arrived[&(sector / PAGE_SECTORS)];
            if let Some(kept) = versions.iter().rev().find(|version| Some(version.write) <= last) {
                self.put(sector, &kept.bytes);
            }
        }
        self.cached.clone_from(&self.durable);
    }

    /// How many questions a power loss asks about the content.
    pub(super) fn unsynced(&self) -> usize {
        self.queue.values().map(Vec::len).sum()
    }
}

impl Dir {
    pub(super) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.cached);
        self.queue.push(change);
    }

    pub(super) fn sync(&mut self) {
        self.queue.clear();
        self.durable.clone_from(&self.cached);
    }

    pub(super) fn power_loss(&mut self, keep: &mut impl FnMut() -> bool) {
        for change in self.queue.drain(..) {
            if keep() {
                change.apply(&mut self.durable);
            }
        }
        self.cached.clone_from(&self.durable);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Set(name, node) => drop(names.insert(name.clone(), *node)),
            Self::Unset(name) => drop(names.remove(name)),
            Self::Move(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}
