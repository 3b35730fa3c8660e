//! Integers of variable length and byte strings, and the [`Reader`] that takes them apart.
//!
//! An unsigned integer is written seven bits at a time, least significant first, the high bit of a byte saying that another
//! follows (LEB128). Only the shortest form is accepted, so that equal values have equal bytes.
//!
//! ```
//! use kv_codec::varint::{put_u64, Reader};
//! let mut out = Vec::new();
//! put_u64(&mut out, 300);
//! assert_eq!(out, [0xac, 0x02]);
//! assert_eq!(Reader::new(&out).u64("example"), Ok(300));
//! ```

use crate::DecodeError;

/// The most bytes that a 64-bit integer takes.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value`.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits fit a byte") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("below 0x80"));
}

/// Appends the length of `bytes`, then `bytes`.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// How many bytes [`put_u64`] writes for `value`.
#[must_use]
pub const fn len_u64(value: u64) -> usize {
    // 1 | value: zero takes one byte as well.
    (64 - (1 | value).leading_zeros() as usize).div_ceil(7)
}

/// Takes values off the front of a slice. Every method names the value it was after, for the error.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(first)
    }

    /// A byte that must be 0 or 1.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Invalid`].
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid(what)),
        }
    }

    /// An integer of variable length, in its shortest form.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Invalid`] for a longer form or more than 64 bits.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (i, &byte) in self.rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds the 64th bit only.
            if i == VARINT_BYTES_MAX - 1 && byte > 1 {
                return Err(DecodeError::Invalid(what));
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                if byte == 0 && i > 0 {
                    return Err(DecodeError::Invalid(what));
                }
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(DecodeError::Truncated(what))
    }

    /// A signed integer that [`put_u64`] wrote as its two's complement.
    ///
    /// # Errors
    /// As [`Reader::u64`].
    pub fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        Ok(self.u64(what)?.cast_signed())
    }

    /// Exactly `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N, what)?;
        Ok(taken.try_into().expect("take returns N bytes"))
    }

    /// A 64-bit integer of fixed length, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn fixed_u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A 32-bit integer of fixed length, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn fixed_u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A byte string of at most `max` bytes, not copied.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] before anything else is looked at, [`DecodeError::Truncated`], [`DecodeError::Invalid`].
    pub fn bytes(&mut self, max: u64, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u64(what)?;
        if len > max {
            return Err(DecodeError::TooLong { what, len, max });
        }
        let len = usize::try_from(len).map_err(|_| DecodeError::Truncated(what))?;
        self.take(len, what)
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`].
    pub fn end(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(what)) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_shortest_form_is_accepted() {
        assert_eq!(Reader::new(&[0x80, 0x00]).u64("x"), Err(DecodeError::Invalid("x")));
        assert_eq!(Reader::new(&[0xff; 11]).u64("x"), Err(DecodeError::Invalid("x")));
        assert_eq!(Reader::new(&[0x80]).u64("x"), Err(DecodeError::Truncated("x")));
        assert_eq!(Reader::new(&[]).u64("x"), Err(DecodeError::Truncated("x")));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_used() {
        let mut out = Vec::new();
        put_u64(&mut out, u64::MAX);
        assert_eq!(Reader::new(&out).bytes(8, "key"), Err(DecodeError::TooLong { what: "key", len: u64::MAX, max: 8 }));
    }

    proptest! {
        #[test]
        fn round_trip(value: u64) {
            let mut out = Vec::new();
            put_u64(&mut out, value);
            prop_assert_eq!(out.len(), len_u64(value));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.u64("x"), Ok(value));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn any_bytes_return_and_what_decodes_encodes_back(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.u64("x") {
                let mut out = Vec::new();
                put_u64(&mut out, value);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - reader.rest().len()]);
            }
        }
    }
}
