//! What stands around the messages between members: the greeting of a connection, and frames. All integers are little-endian.
//!
//! ```text
//! greeting = magic (8 bytes) | version | stream | cluster id u64 | from u64 | to u64 | boot epoch u64 | crc u32
//! reply    = verdict | boot epoch u64 | crc u32
//! frame    = payload length u32 | crc u32 | payload: kind and body
//! ```
//! Each CRC32C covers what stands before it; a frame's covers its length and its payload. What the kinds of frames are is said by
//! who sends them.

use std::fmt;

use crate::DecodeError;
use crate::varint::Reader;

/// What members speak in this build.
pub const PEER_VERSION: u8 = 1;
/// The first bytes of a connection between members. No HTTP begins with the first of them.
pub const MAGIC: [u8; 8] = *b"\xf6kvpeer\n";
/// The length of a greeting, in every version.
pub const GREETING_BYTES: usize = 46;
/// The length of a reply to it.
pub const REPLY_BYTES: usize = 13;
/// What stands before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = 8;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Consensus' messages, one way.
    Messages,
    /// One snapshot.
    Snapshot,
    /// Questions, each with an answer.
    Questions,
}

impl Stream {
    const ALL: [Self; 3] = [Self::Messages, Self::Snapshot, Self::Questions];

    fn number(self) -> u8 {
        match self {
            Self::Messages => 1,
            Self::Snapshot => 2,
            Self::Questions => 3,
        }
    }
}

/// Who speaks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// What the connection is for.
    pub stream: Stream,
    /// The cluster of both.
    pub cluster_id: u64,
    /// The member that dialed.
    pub from: u64,
    /// The member it means to reach.
    pub to: u64,
    /// Which run of `from` this is; higher at each start.
    pub epoch: u64,
}

impl Greeting {
    /// The greeting's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut out = [0; GREETING_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        (out[8], out[9]) = (PEER_VERSION, self.stream.number());
        let numbers = [self.cluster_id, self.from, self.to, self.epoch];
        for (field, number) in out[10..42].chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        seal(&mut out);
        out
    }

    /// Reads a greeting.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for what is none, [`DecodeError::Version`] for another version's, [`DecodeError::Checksum`].
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Self, DecodeError> {
        if bytes[..8] != MAGIC {
            return Err(DecodeError::Invalid("greeting"));
        }
        if bytes[8] != PEER_VERSION {
            return Err(DecodeError::Version { what: "peer protocol", found: bytes[8] });
        }
        let mut reader = unsealed(bytes, "greeting")?;
        reader.take(9, "greeting")?;
        let stream = reader.u8("stream")?;
        let stream = Stream::ALL.into_iter().find(|known| known.number() == stream);
        Ok(Self {
            stream: stream.ok_or(DecodeError::Invalid("stream"))?,
            cluster_id: reader.fixed_u64("greeting")?,
            from: reader.fixed_u64("greeting")?,
            to: reader.fixed_u64("greeting")?,
            epoch: reader.fixed_u64("greeting")?,
        })
    }
}

/// Why a greeting is not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The other side speaks another version, or sent no greeting that can be read.
    Version,
    /// The other side belongs to another cluster.
    Cluster,
    /// The other side is another member.
    Member,
    /// A later run of the same member has been seen.
    Epoch,
    /// The member was removed from the cluster.
    Removed,
    /// Too many strangers are connected.
    Full,
}

impl Refusal {
    const ALL: [Self; 6] = [Self::Version, Self::Cluster, Self::Member, Self::Epoch, Self::Removed, Self::Full];

    fn number(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::Cluster => 2,
            Self::Member => 3,
            Self::Epoch => 4,
            Self::Removed => 5,
            Self::Full => 6,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "it speaks another version of the protocol between members; run the same version on all members",
            Self::Cluster => {
                "it belongs to another cluster; check that --initial-cluster and --initial-cluster-token are the same on all members"
            }
            Self::Member => "it is another member than the one that was meant; check the peer URLs of both",
            Self::Epoch => {
                "a later run of the same member has been seen; if its data directory was restored or copied, remove the member and \
                 add it again with an empty one"
            }
            Self::Removed => "the member has been permanently removed from the cluster",
            Self::Full => "too many members that it does not know are connected",
        })
    }
}

/// The answer to a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Whether the connection may be used.
    pub verdict: Result<(), Refusal>,
    /// Which run of the answering member this is.
    pub epoch: u64,
}

impl Reply {
    /// The reply's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut out = [0; REPLY_BYTES];
        out[0] = self.verdict.err().map_or(0, Refusal::number);
        out[1..9].copy_from_slice(&self.epoch.to_le_bytes());
        seal(&mut out);
        out
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`], [`DecodeError::Invalid`].
    pub fn decode(bytes: &[u8; REPLY_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = unsealed(bytes, "reply")?;
        let verdict = match reader.u8("verdict")? {
            0 => Ok(()),
            number => {
                let refusal = Refusal::ALL.into_iter().find(|known| known.number() == number);
                Err(refusal.ok_or(DecodeError::Invalid("verdict"))?)
            }
        };
        Ok(Self { verdict, epoch: reader.fixed_u64("reply")? })
    }
}

fn seal(out: &mut [u8]) {
    let (before, crc) = out.split_at_mut(out.len() - 4);
    crc.copy_from_slice(&crc32c::crc32c(before).to_le_bytes());
}

fn unsealed<'a>(bytes: &'a [u8], what: &'static str) -> Result<Reader<'a>, DecodeError> {
    let (before, crc) = bytes.split_at(bytes.len() - 4);
    if crc32c::crc32c(before).to_le_bytes() != crc {
        return Err(DecodeError::Checksum(what));
    }
    Ok(Reader::new(before))
}

/// Appends a frame whose payload `write` appends.
///
/// # Panics
/// When the payload is empty, or longer than a `u32` says.
pub fn put_frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    write(out);
    let (header, payload) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
    assert!(!payload.is_empty(), "a frame says something");
    let len = u32::try_from(payload.len()).expect("no payload comes near 4 GiB").to_le_bytes();
    header[..4].copy_from_slice(&len);
    header[4..].copy_from_slice(&frame_crc(len, payload).to_le_bytes());
}

fn frame_crc(len: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len), payload)
}

/// What stands before a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    len: [u8; 4],
    crc: u32,
}

impl FrameHeader {
    /// Reads length and checksum.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] for a payload above `max`, [`DecodeError::Invalid`] for an empty one.
    pub fn decode(bytes: [u8; FRAME_HEADER_BYTES], max: usize) -> Result<Self, DecodeError> {
        let [l0, l1, l2, l3, c0, c1, c2, c3] = bytes;
        let header = Self { len: [l0, l1, l2, l3], crc: u32::from_le_bytes([c0, c1, c2, c3]) };
        match header.payload_bytes() {
            0 => Err(DecodeError::Invalid("frame length")),
            len if len > max => {
                Err(DecodeError::TooLong { what: "frame between members", len: len as u64, max: max as u64 })
            }
            _ => Ok(header),
        }
    }

    /// The payload's length.
    #[must_use]
    pub fn payload_bytes(self) -> usize {
        usize::try_from(u32::from_le_bytes(self.len)).unwrap_or(usize::MAX)
    }

    /// Checks the payload.
    ///
    /// # Errors
    /// [`DecodeError::Checksum`].
    pub fn check(self, payload: &[u8]) -> Result<(), DecodeError> {
        let matches = payload.len() == self.payload_bytes() && self.crc == frame_crc(self.len, payload);
        matches.then_some(()).ok_or(DecodeError::Checksum("frame between members"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GREETING: Greeting =
        Greeting { stream: Stream::Questions, cluster_id: 0xc1, from: 0xf0, to: u64::MAX, epoch: 7 };

    #[test]
    fn a_greeting_comes_back_and_no_flipped_bit_does() {
        for stream in Stream::ALL {
            let greeting = Greeting { stream, ..GREETING };
            assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
        }
        for bit in 0..GREETING_BYTES * 8 {
            let mut bytes = GREETING.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Greeting::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_reply_comes_back_and_no_flipped_bit_does() {
        for verdict in [Ok(())].into_iter().chain(Refusal::ALL.map(Err)) {
            let reply = Reply { verdict, epoch: 3 };
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
            for bit in 0..REPLY_BYTES * 8 {
                let mut bytes = reply.encode();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(Reply::decode(&bytes).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_greeting_of_another_version_says_so_whatever_follows() {
        let mut bytes = [0xab; GREETING_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = 2;
        assert_eq!(Greeting::decode(&bytes), Err(DecodeError::Version { what: "peer protocol", found: 2 }));
    }

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let greeting = "f66b76706565720a0103c100000000000000f000000000000000ffffffffffffffff0700000000000000";
        assert!(hex(&GREETING.encode()).starts_with(greeting), "{}", hex(&GREETING.encode()));
        let mut frame = Vec::new();
        put_frame(&mut frame, |out| out.extend_from_slice(b"payload"));
        assert!(hex(&frame).starts_with("07000000"));
        assert!(hex(&frame).ends_with(&hex(b"payload")));
    }

    fn decode(bytes: &[u8], max: usize) -> Result<&[u8], DecodeError> {
        let (header, payload) = bytes.split_first_chunk().ok_or(DecodeError::Truncated("frame"))?;
        let header = FrameHeader::decode(*header, max)?;
        header.check(payload)?;
        Ok(payload)
    }

    #[test]
    fn a_frame_comes_back_and_no_flipped_bit_does() {
        let mut frame = Vec::new();
        put_frame(&mut frame, |out| out.extend_from_slice(b"payload"));
        assert_eq!(decode(&frame, 7), Ok(&b"payload"[..]));
        assert!(matches!(decode(&frame, 6), Err(DecodeError::TooLong { len: 7, max: 6, .. })));
        for bit in 0..frame.len() * 8 {
            let mut frame = frame.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&frame, 100).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_return(bytes in proptest::collection::vec(any::<u8>(), GREETING_BYTES)) {
            let greeting: [u8; GREETING_BYTES] = bytes.clone().try_into().unwrap();
            prop_assert!(Greeting::decode(&greeting).is_err());
            let _ = Reply::decode(greeting.first_chunk().unwrap());
            let _ = decode(&bytes, 1 << 20);
        }
    }
}
