//! Who owns the blocks that the trees of some view show, and the trees of the next one do not.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::history::History;
use crate::Block;

/// The time from one published state to a later one: it is over when a state is published and something was retired since it began.
///
/// ```text
/// view of state 1    view of state 2      the writer
///        |                  |                 |
///      era 1 ------------> era 2 ----------> era 3 (open)
///        |                  |
///   retired on the way    retired on the way
///   from 1 to 2           from 2 to 3
/// ```
///
/// * A view holds the era that began with its state. An era that is over holds the next. So what a view shows is owned by the writer, or
///   by an era that the view holds.
/// * It is over at most once.
#[derive(Default)]
pub(super) struct Era(OnceLock<Over>);

/// What an era owns once it is over.
enum Over {
    /// The next one has begun. What was retired meanwhile is still to be seen in this one and those before it.
    Passed { retired: Vec<Block>, next: Arc<Era> },
    /// The writer is gone, and has left all that it owned: what it had retired, and every block of its history.
    Ended { retired: Vec<Block>, left: History },
}

impl Era {
    /// Ends it, and begins the next.
    pub(super) fn pass(self: &mut Arc<Self>, retired: Vec<Block>) {
        let next = Arc::<Self>::default();
        self.end(Over::Passed { retired, next: Arc::clone(&next) });
        *self = next;
    }

    /// Ends it, and leaves it all that the writer owns: each block of `left`, which the writer no longer does.
    pub(super) fn leave(&self, retired: Vec<Block>, left: History) {
        self.end(Over::Ended { retired, left });
    }

    fn end(&self, over: Over) {
        assert!(self.0.set(over).is_ok(), "the writer ends an era once");
    }

    /// Releases what it owns, and hands on the era that it held.
    fn release(&mut self) -> Option<Arc<Self>> {
        match self.0.take()? {
            Over::Passed { retired, next } => {
                drop(retired);
                Some(next)
            }
            Over::Ended { retired, left } => {
                drop(retired);
                // SAFETY: the writer had taken over each block of its history, and has left them to this era alone. Nobody holds this era
                // any more, hence nobody an earlier one: no view is left to look at them. `take_all` does not.
                #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
                left.take_all(|block| drop(unsafe { block.release() })); // docs/adr/0016-eras.md
                None
            }
        }
    }
}

impl fmt::Debug for Era {
    /// Without the eras after it: there may be a million of them, and what they own is not to be seen in this one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, retired) = match self.0.get() {
            None => ("open", 0),
            Some(Over::Passed { retired, .. }) => ("passed", retired.len()),
            Some(Over::Ended { retired, .. }) => ("ended", retired.len()),
        };
        f.debug_struct("Era").field("state", &state).field("retired", &retired).finish()
    }
}

impl Drop for Era {
    /// One era after the other: a view that was held for a million of them must not need a stack for as many.
    fn drop(&mut self) {
        let mut next = self.release();
        while let Some(mut era) = next.and_then(Arc::into_inner) {
            next = era.release();
        }
    }
}
