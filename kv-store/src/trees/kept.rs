//! A block's pointer as it stands in the trees.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr;

use crate::Block;

/// A pointer to a block that counts nobody: to copy it copies a word, to drop it releases nothing.
///
/// * It is a copy of what [`Kept::new`] took over, and keeps forever unless somebody calls [`Kept::release`], or of what an owner has.
/// * Nobody looks through a copy after the block is dropped. That is the business of [`super::Trees`], which lets no copy out of this module.
pub(super) struct Kept(ManuallyDrop<Block>);

impl Kept {
    /// Takes over what `block` owns.
    pub(super) fn new(block: Block) -> Self {
        Self(ManuallyDrop::new(block))
    }

    /// A pointer to a block that `owner` owns.
    ///
    /// # Safety
    /// No copy of it is looked through after `owner` has dropped the block, unless somebody else owns it as well.
    #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
    pub(super) unsafe fn of(owner: &Block) -> Self /* docs/adr/0016-eras.md */ {
        // SAFETY: `owner` is valid to read. The copy is never dropped, and a block is moved, not looked at, when it is read: it holds a
        // pointer without any claim to be the only one.
        Self(unsafe { ptr::read(ptr::from_ref(owner).cast()) }) // docs/adr/0016-eras.md
    }

    /// The block, owned.
    ///
    /// # Safety
    /// At most as often, for all copies of a block's pointer, as [`Kept::new`] took the block over. And no copy is looked through after the
    /// block is dropped, unless somebody else owns it as well.
    #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
    pub(super) unsafe fn release(self) -> Block /* docs/adr/0016-eras.md */ {
        ManuallyDrop::into_inner(self.0)
    }
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        // SAFETY: it is a copy like this one, and whoever releases the block answers for all.
        #[allow(unsafe_code, clippy::let_and_return, reason = "docs/adr/0016-eras.md")]
        let kept = unsafe { Self::of(self) }; // docs/adr/0016-eras.md
        kept
    }
}

impl Deref for Kept {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.0
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
