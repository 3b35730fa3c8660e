//! Who owns the blocks that the trees of some view show, and those of the writer do not any more.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::history::History;
use crate::{Block, Revision};

/// The time from one published state to a later one: it is over when a state is published and something was dropped since it began.
///
/// A view holds the era that was open when it was made. The era ends with the last of its views.
pub(super) struct Era {
    /// Rises by one from each to the next.
    number: u64,
    line: Arc<Line>,
}

/// The eras of one writer.
#[derive(Default)]
struct Line(Mutex<Held>);

/// The eras that are over and have not ended.
///
/// ```text
/// era            3            7            9            12 (open)
/// newest        100          160          160
/// owns        born <= 100  born <= 160  born <= 160
/// ```
///
/// * A block that was dropped is shown by views that are not older than the block, and of an era that is not later than the one in which it
///   was dropped. The latest such era that is held owns it, if there is any.
/// * So when an era ends, the one before it gets those of its blocks that it may show. Nobody shows the others.
/// * Between those two an era's blocks are with the thread that hands them on. The one that gets them cannot end meanwhile.
#[derive(Default)]
struct Held {
    over: BTreeMap<u64, Over>,
    /// What the writer left: its history. It goes with the last era.
    left: Option<History>,
}

/// An era that is over.
struct Over {
    /// No view of it, nor of an earlier era, shows anything later.
    newest: Revision,
    /// What it owns.
    dropped: Vec<Block>,
    /// Whether a view is left.
    is_held: bool,
    /// How many threads are about to give it blocks.
    givers: usize,
}

impl Default for Era {
    /// The first era of a new writer.
    fn default() -> Self {
        Self { number: 0, line: Arc::default() }
    }
}

impl Era {
    /// It is over, and the next begins. `dropped` is what the writer dropped meanwhile, and `newest` not below any revision that it ever
    /// had.
    pub(super) fn pass(self: &mut Arc<Self>, newest: Revision, dropped: Vec<Block>) {
        let next = Arc::new(Self { number: self.number + 1, line: Arc::clone(&self.line) });
        self.line.lock().end(self.number, newest, dropped);
        *self = next;
    }

    /// It is over, and there is no writer any more. `left` is all of its history: each block of it has no owner but this line from now on.
    pub(super) fn leave(&self, newest: Revision, dropped: Vec<Block>, left: History) {
        let mut held = self.line.lock();
        held.end(self.number, newest, dropped);
        held.left = Some(left);
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing that holds the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn end(&mut self, number: u64, newest: Revision, dropped: Vec<Block>) {
        let over = Over { newest, dropped, is_held: true, givers: 0 };
        assert!(self.over.insert(number, over).is_none(), "the writer ends an era once");
    }

    /// What an era owned that nobody holds or gives to: it has ended.
    fn take(&mut self, number: u64) -> Option<Vec<Block>> {
        let over = self.over.get(&number)?;
        let ended = !over.is_held && over.givers == 0;
        ended.then(|| self.over.remove(&number).expect("it is there").dropped)
    }

    /// The era before one that has ended, which is about to get blocks; and what it may show.
    fn before(&mut self, number: u64) -> Option<(u64, Revision)> {
        let (before, over) = self.over.range_mut(..number).next_back()?;
        over.givers += 1;
        Some((*before, over.newest))
    }

    /// Gives an era what it was to get.
    fn give(&mut self, number: u64, mut blocks: Vec<Block>) {
        let over = self.over.get_mut(&number).expect("who gets something does not end");
        over.givers -= 1;
        if over.dropped.len() < blocks.len() {
            mem::swap(&mut over.dropped, &mut blocks);
        }
        over.dropped.append(&mut blocks);
    }
}

impl Drop for Era {
    /// Hands on what the era before may show, and releases the rest. The lock is not held while it looks at blocks or releases them:
    /// there may be millions.
    fn drop(&mut self) {
        let mut held = self.line.lock();
        let mut number = self.number;
        // An era that is open has the writer: it leaves before it goes.
        if let Some(over) = held.over.get_mut(&number) {
            over.is_held = false;
        }
        while let Some(mut dropped) = held.take(number) {
            let before = held.before(number);
            drop(held);
            dropped.retain(|block| before.is_some_and(|(_, newest)| block.revision() <= newest));
            held = self.line.lock();
            let Some((before, _)) = before else { break };
            held.give(before, dropped);
            // Its last view may have gone meanwhile.
            number = before;
        }
        let left = if held.over.is_empty() { held.left.take() } else { None };
        drop(held);
        if let Some(left) = left {
            // SAFETY: the writer had taken over each block of its history, and has left them to this line alone. No era of it is held: no
            // view is left to look at them. `take_all` does not.
            #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
            left.take_all(|block| drop(unsafe { block.release() })); // docs/adr/0016-eras.md
        }
    }
}

impl fmt::Debug for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.line.lock();
        let dropped = held.over.get(&self.number).map(|over| over.dropped.len());
        f.debug_struct("Era").field("number", &self.number).field("dropped", &dropped).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_era_that_is_given_to_does_not_end_before() {
        let newest = Revision { main: 1, sub: 0 };
        let mut held = Held::default();
        held.end(1, newest, Vec::new());
        held.end(2, newest, Vec::new());
        held.over.get_mut(&2).expect("it is over").is_held = false;
        assert!(held.take(1).is_none() && held.take(2).is_some());
        assert_eq!(held.before(2), Some((1, newest)));
        held.over.get_mut(&1).expect("it is over").is_held = false;
        assert!(held.take(1).is_none(), "somebody is about to give to it");
        held.give(1, vec![Block::tombstone(newest, b"k", None)]);
        assert_eq!(held.take(1).map(|dropped| dropped.len()), Some(1));
    }
}
