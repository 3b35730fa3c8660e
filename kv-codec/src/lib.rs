//! Binary formats of kv: bytes in, bytes out.
//!
//! # What it is
//! The one place that says how kv's own data look as bytes: variable-length integers ([`varint`]), commands and the batches of
//! them that make one raft entry ([`command`]), records of the log ([`record`]), chunks of a snapshot ([`chunk`]), frames between
//! members ([`peer`]), and the description of a cluster member ([`member`]). `docs/formats.md` shows each byte by byte.
//!
//! # What it is not
//! It does no I/O, reads no clock, knows no raft and no store, and does not speak protobuf: the etcd API is translated in `kv-server`.
//!
//! # How data flow
//! `kv-server` encodes a command per write ([`command::Body`]); the driver joins them to one [`command::BatchBuilder`]; raft carries
//! that entry; `kv-store` walks it with [`command::Batch`] and copies keys and values out once.
//!
//! # Invariants
//! * Decoding any bytes returns; it never panics, and it never allocates more than the input's own length.
//! * Encoding is canonical: equal values give equal bytes on every machine (little-endian, no padding that is not zero).
//! * Every format starts with a version byte or lives inside one that does; an unknown version is [`DecodeError::Version`].

pub mod chunk;
pub mod command;
pub mod member;
pub mod peer;
pub mod planted;
pub mod record;
pub mod varint;

use thiserror::Error;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ended inside a value.
    #[error("truncated {0}")]
    Truncated(&'static str),
    /// A value that no encoder of ours writes.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// A length above the limit that `what` has.
    #[error("{what} of {len} bytes is over the limit of {max}")]
    TooLong {
        /// What the length belongs to.
        what: &'static str,
        /// The length found.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A format version that this build does not know.
    #[error("unknown {what} version {found}")]
    Version {
        /// Which format.
        what: &'static str,
        /// The version byte found.
        found: u8,
    },
    /// A checksum that does not match its bytes.
    #[error("checksum mismatch in {0}")]
    Checksum(&'static str),
    /// Bytes after the end of a value that should have been the last one.
    #[error("trailing bytes after {0}")]
    Trailing(&'static str),
}
