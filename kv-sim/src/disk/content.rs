//! What a file and a directory are to a disk that forgets: two sides, and what is queued in between.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::SECTOR_BYTES;

/// Sectors of a page: what a file system writes back at once.
const PAGE_SECTORS: usize = 8;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) cached: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// The versions of each sector since the last sync, oldest first, each with the number of its write.
    pub(super) queue: BTreeMap<usize, Vec<(u64, Vec<u8>)>>,
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
        self.cached[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let from = sector * SECTOR_BYTES;
            let to = self.cached.len().min(from + SECTOR_BYTES);
            self.queue.entry(sector).or_default().push((self.writes, self.cached[from..to].to_vec()));
        }
        self.writes += 1;
    }

    pub(super) fn sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.queue) {
            let (_, last) = versions.last().expect("a queued sector has a version");
            self.put(sector, last);
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
            if let Some((_, kept)) = versions.iter().filter(|_| keep()).last() {
                self.put(sector, kept);
            }
        }
        self.cached.clone_from(&self.durable);
    }

    /// As [`Content::power_loss`] for a platter that takes whole pages: each page as one of its writes left it.
    pub(super) fn power_loss_by_pages(&mut self, rng: &mut Rng) {
        let queue = std::mem::take(&mut self.queue);
        let mut writes: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for (sector, versions) in &queue {
            writes.entry(sector / PAGE_SECTORS).or_default().extend(versions.iter().map(|(write, _)| *write));
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
            if let Some((_, kept)) = versions.iter().rev().find(|(write, _)| Some(*write) <= last) {
                self.put(sector, kept);
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
