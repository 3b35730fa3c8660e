//! Revisions.

/// The place of one change in the store's history.
///
/// `main` counts the commands that changed something; `sub` counts the changes of one command, from 0. The order of
/// revisions is the order of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision {
    /// The revision that clients see.
    pub main: i64,
    /// The change within it.
    pub sub: u32,
}

impl Revision {
    /// The last that `main` can have.
    pub(crate) fn last_of(main: i64) -> Self {
        Self { main, sub: u32::MAX }
    }

    /// The first place after this one.
    pub(crate) fn after(self) -> Self {
        match self.sub.checked_add(1) {
            Some(sub) => Self { main: self.main, sub },
            None => Self { main: self.main + 1, sub: 0 },
        }
    }
}
