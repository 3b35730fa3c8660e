//! What becomes of released segments: some are kept for later ones, the others removed.
//!
//! That is slow work (each step ends with a sync of the directory), so the log only says what is to be done; [`Retirement::run`] does
//! it, on any thread, and the log hears of it afterwards. Steps go from the oldest segment on, one by one: at any moment the
//! segments that are left have no hole, whatever a power loss brings back.

use std::collections::VecDeque;

use kv_codec::planted::{Bug, is_planted};

use super::{FileLog, Older};
use crate::disk::Disk;
use crate::log_store::LogError;
use crate::segment::LOG_DIR;
use crate::segment::spare::{Source, SpareSpec};

/// How many retired segments are kept at most: 4 GiB of the longest ones, the log between two snapshots of a store of that size.
const RETIRED_MAX: usize = 64;

/// One file's way out of use.
#[derive(Debug, Clone)]
enum Step {
    /// A segment gets the name of a spare.
    Keep(String, SpareSpec),
    /// A segment goes.
    Remove(String),
    /// A spare goes. Should a power loss bring it back, the next start removes it.
    RemoveSpare(String),
}

/// Segments to take out of use. Made by [`FileLog::retirement`].
#[derive(Debug)]
pub struct Retirement {
    steps: Vec<Step>,
}

/// Segments that are out of use, for [`FileLog::add_retired`].
#[derive(Debug)]
pub struct Retired {
    steps: usize,
    kept: Vec<SpareSpec>,
}

impl Retirement {
    /// Renames and removes. May run on any thread, beside the log; durable on return.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log must not be used any more, as after any error of its own.
    pub fn run<D: Disk>(self, disk: &D) -> Result<Retired, LogError> {
        let mut retired = Retired { steps: self.steps.len(), kept: Vec::new() };
        for step in self.steps {
            match step {
                Step::RemoveSpare(path) => {
                    disk.remove(&path).map_err(LogError::io("remove", &path))?;
                    continue;
                }
                Step::Remove(path) => disk.remove(&path).map_err(LogError::io("remove", &path))?,
                Step::Keep(path, spec) => {
                    disk.rename(&path, &spec.path).map_err(LogError::io("rename", &path))?;
                    retired.kept.push(spec);
                }
            }
            // One by one: without the sync in between, a power loss might bring an older one back without the next. And a segment
            // that is kept must have lost its name before its content goes.
            if !is_planted(Bug::ReleaseWithoutSync) {
                disk.sync_dir(LOG_DIR).map_err(LogError::io("sync", LOG_DIR))?;
            }
        }
        Ok(retired)
    }
}

/// Retired segments and those on their way there.
///
/// * Every retired one is as long as segments get.
/// * No more are kept than the last release gave up, and one: about what will be needed until the next.
#[derive(Debug, Default)]
pub(super) struct Pool {
    retired: Vec<SpareSpec>,
    /// What was released and is not retired yet, in order.
    steps: VecDeque<Step>,
}

impl Pool {
    /// One that can hold a batch of so many bytes. The last one retired comes first: the page cache may still have it.
    pub(super) fn take(&mut self, batch_bytes: u64) -> Option<SpareSpec> {
        self.retired.pop_if(|spec| spec.room() >= batch_bytes)
    }

    /// Removes so many of the oldest ones.
    fn give_up(&mut self, count: usize) {
        let given_up = self.retired.drain(..count.min(self.retired.len()));
        self.steps.extend(given_up.map(|spec| Step::RemoveSpare(spec.path)));
    }
}

impl<D: Disk> FileLog<D> {
    /// What to take out of use after a release; `None` for nothing. Ask again only after the last answer was run and added, or was
    /// never begun: the order of the steps counts.
    #[must_use]
    pub fn retirement(&self) -> Option<Retirement> {
        let steps: Vec<_> = self.pool.steps.iter().cloned().collect();
        (!steps.is_empty()).then_some(Retirement { steps })
    }

    /// Takes what [`FileLog::retirement`] asked for, done: its segments may be used again.
    pub fn add_retired(&mut self, retired: Retired) {
        self.pool.steps.drain(..retired.steps);
        self.pool.retired.extend(retired.kept);
    }

    /// Gives the room of retired segments back, for when something else needs it more.
    pub fn give_up_retired(&mut self) {
        self.pool.give_up(usize::MAX);
    }

    /// Decides which of these segments to keep, oldest first.
    pub(super) fn retire(&mut self, released: Vec<Older>) {
        let kept_max = released.len().clamp(1, RETIRED_MAX);
        let on_the_way = self.pool.steps.iter().filter(|step| matches!(step, Step::Keep(..))).count();
        let surplus = self.pool.retired.len().saturating_sub(kept_max);
        let mut room = kept_max.saturating_sub(self.pool.retired.len() + on_the_way);
        for old in released {
            let (path, bytes) = (old.info.path, old.info.header.bytes);
            // An earlier run's may be in the page cache as it never was on the disk: after a failed sync, no later one helps.
            let of_this_run = old.info.header.epoch == self.epoch;
            if room > 0 && of_this_run && bytes == self.options.segment_bytes_max {
                room -= 1;
                let spec = SpareSpec { source: Source::Retired, ..self.new_spare(bytes) };
                self.pool.steps.push_back(Step::Keep(path, spec));
            } else {
                self.pool.steps.push_back(Step::Remove(path));
            }
        }
        self.pool.give_up(surplus);
    }
}
