//! The blocks of a state in all their orders, and who owns them.
//!
//! A block is in a tree or two, and trees of later states go on using it: were each to count it, a put would count some hundred blocks that
//! have nothing to do with it, each in a cache line of its own. So trees count nobody. A block has one owner:
//!
//! 1. It comes in by the history, which holds every block that is there. From then on the *writer* owns it: the trees that go on
//!    changing, of which there is one in a store.
//! 2. It goes out of the history when a compaction's purge drops it. Views of states before that still show it, so that the last [`era`]
//!    that shows it, of those that are held, owns it.
//! 3. When no view is left that may show it, it is released.
//!
//! Whoever clones a [`Block`] owns it as well, and may keep it beyond all this.

mod era;
mod history;
mod kept;
mod list;
mod loading;
mod order;
mod sorted;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use self::loading::Loading;
pub(crate) use self::order::ByKey;
pub(crate) use self::sorted::Blocks;

use self::era::Era;
use self::history::History;
use self::kept::Kept;
use self::sorted::Sorted;
use crate::link::Link;
use crate::{Block, Revision};

/// The trees of one state.
///
/// * `live` has the latest revision of each key that lives, `dead` the deletion of each that does not; `history` has them, and all older
///   revisions, to which their links lead back.
/// * Of the revisions of a key the oldest is dropped first. So if one is there, all later ones are.
/// * With `dropped`, these are the writer's: they own every block of `history`, and may change.
/// * Without, they are a view's: each of their blocks is owned by the writer, or by an era, as long as `era` is held.
/// * Nothing but blocks that are borrowed from these trees, or owners in their own right, leaves this module. So no copy of a pointer
///   outlives the era that goes with it.
#[derive(Debug)]
pub(crate) struct Trees {
    live: Sorted<ByKey>,
    dead: Sorted<ByKey>,
    history: History,
    era: Arc<Era>,
    /// What was dropped since the era began.
    dropped: Option<Vec<Block>>,
}

/// Why trees may change.
const WRITER: &str = "only the writer's own trees change";
/// What would be lost without its link: all that a key was.
const LINKED: &str = "a block says which one it replaced";

impl Default for Trees {
    /// A writer's, with nothing in them.
    fn default() -> Self {
        Self {
            live: Sorted::default(),
            dead: Sorted::default(),
            history: History::default(),
            era: Arc::default(),
            dropped: Some(Vec::new()),
        }
    }
}

impl Clone for Trees {
    /// A view's.
    fn clone(&self) -> Self {
        Self {
            live: self.live.share(),
            dead: self.dead.share(),
            history: self.history.share(),
            era: Arc::clone(&self.era),
            dropped: None,
        }
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        if let Some(dropped) = self.dropped.take() {
            self.era.leave(self.history.newest(), dropped, self.history.share());
        }
    }
}

impl Trees {
    /// The same blocks, as a writer's trees. A view's are counted once, each, for their second owner.
    pub(crate) fn into_writers(mut self) -> Self {
        if self.dropped.is_none() {
            for block in self.changes_from(i64::MIN) {
                // The trees have its pointer already.
                std::mem::forget(block.clone());
            }
            self.era = Arc::default();
            self.dropped = Some(Vec::new());
        }
        self
    }

    /// A state is published: what is dropped from here on is still to be seen in it.
    pub(crate) fn publish(&mut self) {
        let dropped = self.dropped.as_mut().expect(WRITER);
        if !dropped.is_empty() {
            self.era.pass(self.history.newest(), std::mem::take(dropped));
        }
    }

    /// The latest revision of each key that lives.
    pub(crate) fn live(&self) -> &Sorted<ByKey> {
        &self.live
    }

    /// The deletion of each key that does not.
    pub(crate) fn dead(&self) -> &Sorted<ByKey> {
        &self.dead
    }

    /// How many revisions there are.
    pub(crate) fn history_len(&self) -> usize {
        self.history.len()
    }

    /// The changes from revision `first` on that are there, in order.
    pub(crate) fn changes_from(&self, first: i64) -> impl Iterator<Item = &Block> {
        self.changes(Revision { main: first, sub: 0 }, i64::MAX)
    }

    /// The changes from `first` on and up to all of revision `last` that are there, in order.
    pub(crate) fn changes(&self, first: Revision, last: i64) -> impl Iterator<Item = &Block> {
        self.history.range(first, Revision::last_of(last))
    }

    /// How many of them a later revision of their key replaced.
    pub(crate) fn superseded_len(&self) -> usize {
        self.history.len() - self.live.len() - self.dead.len()
    }

    /// The revision of its key that `block` replaced, if it is there.
    pub(crate) fn before(&self, block: &Block) -> Option<&Block> {
        self.history.get(block.link()?.before)
    }

    /// The last revision of the key of `latest` at or below `revision`, if it is there.
    pub(crate) fn at_or_below<'a>(&'a self, latest: &'a Block, revision: Revision) -> Option<&'a Block> {
        self.way(latest, revision).last().filter(|block| block.revision() <= revision)
    }

    /// The blocks that are looked at on the way from `latest` to the last revision of its key at or below `revision`. If a later one is gone,
    /// that one is gone as well.
    fn way<'a>(&'a self, latest: &'a Block, revision: Revision) -> impl Iterator<Item = &'a Block> {
        std::iter::successors(Some(latest), move |block| {
            let link = block.link().filter(|_| block.revision() > revision)?;
            self.history.get(if link.jump >= revision { link.jump } else { link.before })
        })
    }

    /// The revisions of its key before `latest`, from the oldest on.
    pub(crate) fn superseded<'a>(&'a self, latest: &'a Block) -> impl Iterator<Item = &'a Block> {
        let mut blocks: Vec<_> = std::iter::successors(self.before(latest), |block| self.before(block)).collect();
        blocks.reverse();
        blocks.into_iter()
    }

    /// The link of a block that is to replace `block`.
    pub(crate) fn link_to(&self, block: &Block) -> Link {
        Link::to(block, |revision| self.history.get(revision))
    }

    /// The latest revision of `key`, its deletion included.
    pub(crate) fn latest(&self, key: &[u8]) -> Option<&Block> {
        self.live.get(key).or_else(|| self.dead.get(key))
    }

    /// Puts what `make` makes of the block that lives at `key`, and of a link to the one that was there last: one with a revision above all
    /// others.
    pub(crate) fn put(&mut self, key: &[u8], make: impl FnOnce(Option<&Block>, Option<Link>) -> Block) {
        assert!(self.dropped.is_some(), "{WRITER}");
        let Self { live, dead, history, .. } = self;
        let mut was_dead = false;
        live.put(key, |live| {
            let last = live.or_else(|| dead.get(key));
            was_dead = live.is_none() && last.is_some();
            let link = last.map(|last| Link::to(last, |revision| history.get(revision)));
            let block = make(live, link);
            assert_eq!(block.link(), link, "{LINKED}");
            own(history, block)
        });
        if was_dead {
            dead.remove(key);
        }
    }

    /// Deletes a key that lives.
    pub(crate) fn delete(&mut self, tombstone: Block) {
        assert!(self.dropped.is_some(), "{WRITER}");
        let live = self.live.remove(tombstone.key()).expect("only a key that lives is deleted");
        assert_eq!(tombstone.link().map(|link| link.before), Some(live.revision()), "{LINKED}");
        let tombstone = own(&mut self.history, tombstone);
        self.dead.insert(&tombstone);
    }

    /// Drops `block`, which does not live, and is the oldest of its key: it goes with the last view that shows it.
    pub(crate) fn drop_block(&mut self, block: &Block) {
        assert!(self.before(block).is_none(), "the oldest of a key goes first");
        let dropped = self.dropped.as_mut().expect(WRITER);
        let (key, revision) = (block.key(), block.revision());
        assert!(self.live.get(key).is_none_or(|live| live.revision() != revision), "what lives is not dropped");
        if self.dead.get(key).is_some_and(|dead| dead.revision() == revision) {
            self.dead.remove(key);
        }
        let owned = self.history.remove(revision).expect("the history has every block");
        // SAFETY: it was taken over when it came into the history, and has just left it. The writer has no other copy of it: the latest of its
        // key is in `live` or `dead` as well, any other in the history alone. The copies in views go before the eras that they hold, and one of
        // those owns it.
        #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
        dropped.push(unsafe { owned.release() }); // docs/adr/0016-eras.md
    }
}

/// Takes a block over, with the history. What is returned goes into the tree of what lives, or of what does not.
fn own(history: &mut History, block: Block) -> Kept {
    let block = Kept::new(block);
    history.push(&block);
    block
}
