//! A cluster member, as it stands in the log and in snapshots.

use crate::DecodeError;
use crate::varint::{Reader, put_bytes, put_u64};

/// The longest member name, in bytes.
pub const NAME_BYTES_MAX: u64 = 1024;
/// The longest URL, in bytes.
pub const URL_BYTES_MAX: u64 = 4096;
/// The most URLs of one kind that a member has.
pub const URLS_MAX: u64 = 128;

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The member's id, never 0.
    pub id: u64,
    /// Its name; empty until it has started and published itself.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has published itself.
    pub client_urls: Vec<String>,
    /// Whether it takes the log without a vote.
    pub is_learner: bool,
}

impl Member {
    /// Appends the member's bytes: id (u64 LE), name, peer URLs, client URLs (each a count and strings), learner (0 or 1).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        put_bytes(out, self.name.as_bytes());
        put_strings(out, &self.peer_urls);
        put_strings(out, &self.client_urls);
        out.push(u8::from(self.is_learner));
    }

    /// Reads a member.
    ///
    /// # Errors
    /// Any [`DecodeError`]; an id of 0 and text that is not UTF-8 are [`DecodeError::Invalid`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = reader.fixed_u64("member id")?;
        if id == 0 {
            return Err(DecodeError::Invalid("member id"));
        }
        Ok(Self {
            id,
            name: string(reader, NAME_BYTES_MAX, "member name")?,
            peer_urls: strings(reader, URLS_MAX, "peer URLs")?,
            client_urls: strings(reader, URLS_MAX, "client URLs")?,
            is_learner: reader.bool("learner flag")?,
        })
    }
}

pub(crate) fn put_strings(out: &mut Vec<u8>, strings: &[String]) {
    put_u64(out, strings.len() as u64);
    for string in strings {
        put_bytes(out, string.as_bytes());
    }
}

pub(crate) fn string(reader: &mut Reader<'_>, max: u64, what: &'static str) -> Result<String, DecodeError> {
    let bytes = reader.bytes(max, what)?;
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid(what))?;
    Ok(text.to_owned())
}

pub(crate) fn strings(reader: &mut Reader<'_>, max: u64, what: &'static str) -> Result<Vec<String>, DecodeError> {
    let count = reader.u64(what)?;
    if count > max {
        return Err(DecodeError::TooLong { what, len: count, max });
    }
    (0..count).map(|_| string(reader, URL_BYTES_MAX, what)).collect()
}
