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
