//! The way back from a revision of a key to the ones before it.
//!
//! A block that replaced another says which, by its revision: the history, which finds a block by its revision, has it, unless a
//! compaction took it. To go back block by block would take as long as the key has revisions, so each says an older one as well:
//!
//! ```text
//! depth                 0 ..... 15 | 16 ..... 31 | 32 ..... 47 | 48 ...
//! all but markers jump  <------ to the last marker, 0, 16, 32, 48, ...
//! markers jump          0 <--------- 16 <--------- 32
//!                       0 <-------------------------------------- 48     as 32 to 16 is as far as 16 to 0
//! ```
//!
//! Markers jump as in E. W. Myers' random-access stack ("An applicative random-access stack", 1983): to the marker before, or, if the
//! jump of that one and the next are equally far, to where they lead. So whatever revision is looked for, it is found in a number of
//! steps that grows with the logarithm of the number of revisions. A new block takes no search, a marker three.

use crate::{Block, Revision};

/// One block in so many is a marker.
const MARKED_ONE_IN: u32 = if cfg!(test) { 2 } else { 16 };

/// From a block to earlier ones of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// The one that it replaced.
    pub(crate) before: Revision,
    /// That one, or an earlier one.
    pub(crate) jump: Revision,
    /// How many there were before it since the first. After the last number comes 0, a marker as well.
    depth: u32,
}

impl Link {
    /// Bytes of an encoded link.
    pub(crate) const BYTES: usize = 28;

    /// The link of a block that replaces `replaced`. `find` finds a block of its key, if it is there.
    pub(crate) fn to<'b>(replaced: &'b Block, find: impl Fn(Revision) -> Option<&'b Block>) -> Self {
        let (before, depth) = (replaced.revision(), depth(replaced).wrapping_add(1));
        let marker = match replaced.link() {
            Some(link) if !is_marker(link.depth) => link.jump,
            _ => before,
        };
        let jump = if is_marker(depth) { find(marker).and_then(|last| twice(last, find)) } else { None };
        Self { before, jump: jump.unwrap_or(marker), depth }
    }

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.before.main.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.jump.main.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.before.sub.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.jump.sub.to_le_bytes());
        bytes[24..].copy_from_slice(&self.depth.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let main = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let small = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let (before, jump) = (Revision { main: main(0), sub: small(16) }, Revision { main: main(8), sub: small(20) });
        Self { before, jump, depth: small(24) }
    }
}

fn is_marker(depth: u32) -> bool {
    depth.is_multiple_of(MARKED_ONE_IN)
}

fn depth(block: &Block) -> u32 {
    block.link().map_or(0, |link| link.depth)
}

/// Where the jump of `last`, a marker, leads on to, if it and that are equally far. `None` as well when one of them is gone: then nobody
/// looks for anything that is so far back.
fn twice<'b>(last: &'b Block, find: impl Fn(Revision) -> Option<&'b Block>) -> Option<Revision> {
    let second = find(last.link()?.jump)?;
    let third = find(second.link()?.jump)?;
    let jump = |from: &Block, to: &Block| depth(from).wrapping_sub(depth(to));
    (jump(last, second) == jump(second, third)).then(|| third.revision())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_comes_back() {
        let revision = |main, sub| Revision { main, sub };
        let link = Link { before: revision(i64::MAX - 1, 7), jump: revision(3, u32::MAX), depth: 0x0102_0304 };
        assert_eq!(Link::decode(&link.encode()), link);
    }
}
