//! A block's pointer as it stands in the trees.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr;

use crate::Block;

/// A pointer to a block that counts nobody: to copy it copies a word, to drop it releases nothing.
///
/// * It is one of the copies of what [`Kept::new`] took over. [`Kept::release`] gives that back, once, from whichever copy.
/// * Nobody looks through a copy after the block that was given back is dropped. That is the business of [`super::Trees`], which lets no
///   copy out of this module.
pub(super) struct Kept(ManuallyDrop<Block>);

impl Kept {
    /// Takes over what `block` owns.
    pub(super) fn new(block: Block) -> Self {
        Self(ManuallyDrop::new(block))
    }

    /// A pointer to a block that `owner` goes on owning.
    pub(super) fn of(owner: &Block) -> Self {
        // SAFETY: `owner` is valid to read. The copy is never dropped, and a block is moved, not looked at, when it is read: it holds a
        // pointer without any claim to be the only one.
        #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
        Self(unsafe { ptr::read(ptr::from_ref(owner).cast()) }) // docs/adr/0016-eras.md
    }

    /// The block, owned.
    ///
    /// # Safety
    /// Once for all copies of what [`Kept::new`] took over; and no copy is looked through after the block is dropped, unless somebody else
    /// owns it as well.
    #[allow(unsafe_code, reason = "docs/adr/0016-eras.md")]
    pub(super) unsafe fn release(self) -> Block /* docs/adr/0016-eras.md */ {
        ManuallyDrop::into_inner(self.0)
    }
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        Self::of(self)
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
