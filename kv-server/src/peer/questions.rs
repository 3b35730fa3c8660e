//! Questions that only another member can answer: what the leader's lessor knows, and what a member holds.
//!
//! ```text
//! question = number u64 | 1 keep a lease alive, 2 what is left of a lease, 3 hash up to a revision | lease or revision i64
//! answer   = number u64 | 0 no answer | 1 seconds i64 | 2 granted seconds i64, left seconds i64 | 3 no such lease, or revision
//!            | 4 hash i64, compact revision i64, revision i64 | 5 the lease is due, and cannot end
//! ```
//! All are asked again without harm, so that whoever gets no answer may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kv_codec::DecodeError;
use kv_codec::peer::Stream;
use kv_codec::varint::Reader;
use kv_store::KvHash;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::dial::{Dialer, Patience};
use super::wire::{Incoming, PING_INTERVAL, PeerError, SILENCE_MAX, kind, put, write};
use super::{SMALL_FRAME_BYTES_MAX, Shared};

/// What one member asks another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// To keep a lease alive.
    KeepAlive(i64),
    /// What is left of a lease.
    TimeToLive(i64),
    /// What it holds up to a revision.
    Hash(i64),
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Who was asked does not know: it does not lead, or has yet to reach the revision.
    Nothing,
    /// The lease has so many seconds again; 0 if it has ended.
    KeptAlive(i64),
    /// The lease's seconds as granted, and those that are left.
    TimeToLive(i64, i64),
    /// There is no such lease, or no such revision any more.
    Unknown,
    /// The hash of the history.
    Hash(KvHash),
    /// The lease is due, and the CORRUPT alarm keeps it from ending.
    CannotEnd,
}

impl Question {
    fn encode(self, number: u64) -> Vec<u8> {
        let (kind, of) = match self {
            Self::KeepAlive(lease) => (1, lease),
            Self::TimeToLive(lease) => (2, lease),
            Self::Hash(revision) => (3, revision),
        };
        [&number.to_le_bytes()[..], &[kind], &of.to_le_bytes()].concat()
    }

    /// Reads a question and its number.
    pub(super) fn decode(bytes: &[u8]) -> Result<(u64, Self), DecodeError> {
        let mut reader = Reader::new(bytes);
        let number = reader.fixed_u64("question")?;
        let kind = reader.u8("question")?;
        let of = reader.fixed_u64("question")?.cast_signed();
        reader.end("question")?;
        match kind {
            1 => Ok((number, Self::KeepAlive(of))),
            2 => Ok((number, Self::TimeToLive(of))),
            3 => Ok((number, Self::Hash(of))),
            _ => Err(DecodeError::Invalid("question")),
        }
    }
}

impl Answer {
    pub(super) fn encode(self, number: u64) -> Vec<u8> {
        let (kind, numbers): (u8, &[i64]) = match &self {
            Self::Nothing => (0, &[]),
            Self::KeptAlive(ttl) => (1, &[*ttl]),
            Self::TimeToLive(granted, left) => (2, &[*granted, *left]),
            Self::Unknown => (3, &[]),
            Self::Hash(KvHash { hash, compact_revision, revision }) => {
                (4, &[i64::from(*hash), *compact_revision, *revision])
            }
            Self::CannotEnd => (5, &[]),
        };
        let mut out = number.to_le_bytes().to_vec();
        out.push(kind);
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out
    }

    fn decode(bytes: &[u8]) -> Result<(u64, Self), DecodeError> {
        let mut reader = Reader::new(bytes);
        let number = reader.fixed_u64("answer")?;
        let kind = reader.u8("answer")?;
        let mut number_of = || reader.fixed_u64("answer").map(u64::cast_signed);
        let answer = match kind {
            0 => Self::Nothing,
            1 => Self::KeptAlive(number_of()?),
            2 => Self::TimeToLive(number_of()?, number_of()?),
            3 => Self::Unknown,
            4 => Self::Hash(KvHash {
                hash: u32::try_from(number_of()?).map_err(|_| DecodeError::Invalid("answer"))?,
                compact_revision: number_of()?,
                revision: number_of()?,
            }),
            5 => Self::CannotEnd,
            _ => return Err(DecodeError::Invalid("answer")),
        };
        reader.end("answer")?;
        Ok((number, answer))
    }
}

/// A question on its way, and where its answer goes; dropped, there is none.
pub(super) type Asked = (Question, oneshot::Sender<Answer>);

/// Asks one member, over a connection that is made when there is something to ask.
pub(super) struct Asker {
    pub(super) shared: Arc<Shared>,
    pub(super) dialer: Dialer,
    pub(super) asked: mpsc::Receiver<Asked>,
}

impl Asker {
    /// Asks, until it is aborted or nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut patience = Patience::new(&self.shared.logger, self.dialer.to);
        while let Some(first) = self.asked.recv().await {
            match self.dialer.dial(Stream::Questions).await {
                Ok(stream) => {
                    patience.reached();
                    if let Err(error) = self.ask(stream, first).await {
                        patience.wait(&error).await;
                    }
                }
                Err(error) => {
                    // Who waits is told at once, and asks again when it likes.
                    drop(first);
                    while self.asked.try_recv().is_ok() {}
                    patience.wait(&error).await;
                }
            }
        }
    }

    async fn ask(&mut self, stream: TcpStream, first: Asked) -> Result<(), PeerError> {
        let (read, mut out) = stream.into_split();
        let mut incoming = Incoming::new(read, SMALL_FRAME_BYTES_MAX);
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut waiting = BTreeMap::new();
        let (mut last, mut next) = (0_u64, Some(first));
        let mut buffer = Vec::new();
        loop {
            while let Some((question, answer)) = next.take().or_else(|| self.asked.try_recv().ok()) {
                last += 1;
                put(&mut buffer, kind::QUESTION, &question.encode(last));
                waiting.insert(last, answer);
            }
            write(&mut out, &buffer).await?;
            buffer.clear();
            tokio::select! {
                asked = self.asked.recv() => match asked {
                    Some(asked) => next = Some(asked),
                    None => return Ok(()),
                },
                _ = pings.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(PeerError::Silent);
                    }
                    // Whoever gave up has no use for an answer.
                    waiting.retain(|_, answer: &mut oneshot::Sender<Answer>| !answer.is_closed());
                    put(&mut buffer, kind::PING, &[]);
                }
                frame = incoming.frame() => {
                    let frame = frame?;
                    heard = Instant::now();
                    answered(&mut waiting, &frame)?;
                }
            }
        }
    }
}

fn answered(waiting: &mut BTreeMap<u64, oneshot::Sender<Answer>>, frame: &Bytes) -> Result<(), PeerError> {
    match frame[0] {
        kind::PONG => Ok(()),
        kind::ANSWER => {
            let (number, answer) = Answer::decode(&frame[1..])?;
            if let Some(waits) = waiting.remove(&number) {
                // It may have given up just now.
                let _ = waits.send(answer);
            }
            Ok(())
        }
        _ => Err(PeerError::Nonsense("a frame that is no answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_come_back() {
        for question in [Question::KeepAlive(7), Question::TimeToLive(i64::MIN), Question::Hash(8)] {
            assert_eq!(Question::decode(&question.encode(9)), Ok((9, question)));
        }
        let hash = Answer::Hash(KvHash { hash: u32::MAX, compact_revision: -1, revision: 8 });
        let (kept, left) = (Answer::KeptAlive(-1), Answer::TimeToLive(60, 59));
        for answer in [Answer::Nothing, kept, left, Answer::Unknown, hash, Answer::CannotEnd] {
            let bytes = answer.encode(u64::MAX);
            assert_eq!(Answer::decode(&bytes), Ok((u64::MAX, answer)));
            for end in 0..bytes.len() {
                assert!(Answer::decode(&bytes[..end]).is_err(), "{answer:?} cut at {end}");
            }
            assert!(Answer::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert!(Question::decode(&[0; 16]).is_err());
        assert!(Question::decode(&[4; 17]).is_err());
    }
}
