//! Ranges of keys, as the etcd API writes them.

use std::ops::Bound;

/// Where a range starts and ends, as an ordered map takes it.
pub type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// A range of keys: `key` and `range_end` of a request, told apart.
///
/// | `range_end` | means |
/// | --- | --- |
/// | empty | the one key |
/// | `"\0"` | every key from `key` on; with key `"\0"`, every key |
/// | anything else | from `key` (included) to `range_end` (not) |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRange<'a> {
    /// One key.
    Single(&'a [u8]),
    /// From the first (included) to the second (not included).
    Span(&'a [u8], &'a [u8]),
    /// From a key on.
    From(&'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// The range that a request's `key` and `range_end` mean.
    #[must_use]
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            b"" => Self::Single(key),
            b"\0" => Self::From(key),
            end => Self::Span(key, end),
        }
    }

    /// The bounds, for an ordered map; `None` when the range is empty by its form.
    #[must_use]
    pub fn bounds(&self) -> Option<Bounds<'a>> {
        match *self {
            Self::Single(key) => Some((Bound::Included(key), Bound::Included(key))),
            Self::From(key) => Some((Bound::Included(key), Bound::Unbounded)),
            // A start above its end is a mistake to most ordered maps; to etcd it is an empty range.
            Self::Span(key, end) => (key < end).then_some((Bound::Included(key), Bound::Excluded(end))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(KeyRange::new(b"a", b""), KeyRange::Single(b"a"));
        assert_eq!(KeyRange::new(b"\0", b"\0"), KeyRange::From(b"\0"));
        assert_eq!(KeyRange::new(b"a", b"b"), KeyRange::Span(b"a", b"b"));
        assert_eq!(KeyRange::new(b"b", b"a").bounds(), None);
        assert_eq!(KeyRange::new(b"a", b"a").bounds(), None);
    }
}
