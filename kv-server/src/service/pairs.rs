//! An answer that is a list of pairs, as bytes: a small one whole, a large one piece by piece while it is sent.
//!
//! A large one takes the memory of a few pieces, whatever its length. What it is made of never changes, so that the bytes are those that were
//! counted.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kv_store::{Block, KeyRange, View};
use prost::Message;
use tokio::sync::mpsc;

use super::encode::{Form, kv_len, put_kv};
use crate::steps::Steps;

/// Keys that are looked at in one step.
pub(super) const STEP_KEYS: usize = 512;
/// What is encoded in one step, a longer pair aside: a little less than fits into HTTP/2's first window, so that none is sent in two halves. An
/// answer whose pairs are no longer is encoded whole.
pub(super) const STEP_BYTES: usize = 60 * 1024;

/// An encoded message, whole or made on the way.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Bytes of the whole message.
    pub(crate) len: usize,
    /// Its first bytes, after as many free ones as were asked for.
    pub(crate) first: BytesMut,
    /// The others.
    pub(crate) rest: Option<mpsc::Receiver<Bytes>>,
}

impl Encoded {
    /// A message that is there already, after `room` free bytes.
    pub(super) fn of(message: &impl Message, room: usize) -> Self {
        let len = message.encoded_len();
        let mut first = BytesMut::with_capacity(room + len);
        first.put_bytes(0, room);
        message.encode(&mut first).expect(GROWS);
        Self { len, first, rest: None }
    }
}

/// A message of pairs: its fields before them, and after. They may be encoded apart, as a message is the bytes of its fields.
pub(super) struct Around<B, E> {
    pub(super) begin: B,
    pub(super) end: E,
    pub(super) form: Form,
    /// Bytes of the pairs.
    pub(super) bytes: usize,
    /// Bytes that are left free in front, for the message's framing.
    pub(super) room: usize,
}

const GROWS: &str = "the buffer grows";

impl<B: Message, E: Message> Around<B, E> {
    fn len(&self) -> usize {
        self.begin.encoded_len() + self.bytes + self.end.encoded_len()
    }

    /// A buffer that begins with the message, and has room for `bytes` more.
    fn begun(&self, bytes: usize) -> BytesMut {
        let mut first = BytesMut::with_capacity(self.room + self.begin.encoded_len() + bytes);
        first.put_bytes(0, self.room);
        self.begin.encode(&mut first).expect(GROWS);
        first
    }

    /// The message, encoded at once.
    pub(super) fn whole<'b>(&self, blocks: impl IntoIterator<Item = &'b Block>) -> Encoded {
        let len = self.len();
        let mut first = self.begun(self.bytes + self.end.encoded_len());
        for block in blocks {
            put_kv(&mut first, block, self.form);
        }
        self.end.encode(&mut first).expect(GROWS);
        debug_assert_eq!(first.len(), self.room + len, "as long as was counted");
        Encoded { len, first, rest: None }
    }

    /// The message, its pairs encoded while it is sent.
    pub(super) fn in_pieces(&self, pairs: Pairs, steps: &Arc<Steps>) -> Encoded {
        let mut end = BytesMut::with_capacity(self.end.encoded_len());
        self.end.encode(&mut end).expect(GROWS);
        let mut rest = Rest { pairs, form: self.form, end };
        Encoded { len: self.len(), first: self.begun(0), rest: Some(steps.pieces(move || rest.next_piece())) }
    }
}

/// The part of a message that is not encoded yet.
#[derive(Debug)]
struct Rest {
    pairs: Pairs,
    form: Form,
    /// The fields after the pairs.
    end: BytesMut,
}

impl Rest {
    /// The next bytes of the message, and whether more follow.
    fn next_piece(&mut self) -> (Bytes, bool) {
        // A pair that is longer than a step makes it grow.
        let mut piece = BytesMut::with_capacity(STEP_BYTES + self.end.len());
        let more = self.pairs.encode(&mut piece, self.form);
        if !more {
            piece.unsplit(std::mem::take(&mut self.end));
        }
        (piece.freeze(), more)
    }
}

/// Pairs that are still to come.
#[derive(Debug)]
pub(super) enum Pairs {
    /// The next `left` keys of a range, above `last`.
    Walk { view: Arc<View>, key: Bytes, range_end: Bytes, last: Option<Block>, left: u64 },
    /// These.
    List(std::vec::IntoIter<Block>),
}

impl Pairs {
    /// Appends the next pairs; whether there are more.
    fn encode(&mut self, out: &mut BytesMut, form: Form) -> bool {
        let mut step = Step::default();
        match self {
            Self::Walk { view, key, range_end, last, left } => {
                let range = KeyRange::new(key, range_end);
                let mut walk = view.walk(&range, view.revision(), last.as_ref().map(Block::key));
                let mut newest = None;
                while *left > 0 {
                    let block = walk.next().expect("as many keys as were counted");
                    if !step.takes(kv_len(block, form)) {
                        break;
                    }
                    put_kv(out, block, form);
                    newest = Some(block);
                    *left -= 1;
                }
                *last = newest.cloned();
                *left > 0
            }
            Self::List(blocks) => {
                while let Some(block) = blocks.as_slice().first() {
                    if !step.takes(kv_len(block, form)) {
                        return true;
                    }
                    put_kv(out, block, form);
                    blocks.next();
                }
                false
            }
        }
    }
}

/// What one step has done.
#[derive(Default)]
struct Step {
    keys: usize,
    bytes: usize,
}

impl Step {
    /// Whether it takes a pair of so many bytes as well: the first of any length.
    fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.keys == 0 || (self.keys < STEP_KEYS && self.bytes + bytes <= STEP_BYTES);
        self.keys += 1;
        self.bytes += bytes;
        fits
    }
}

/// Bytes of the pairs of `blocks`.
pub(super) fn pairs_len<'b>(blocks: impl IntoIterator<Item = &'b Block>, form: Form) -> usize {
    blocks.into_iter().map(|block| kv_len(block, form)).sum()
}
