//! What other members dialed: who may speak, and what is done with what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use kv_codec::DecodeError;
use kv_codec::peer::{Greeting, Refusal, Reply, Stream};
use kv_raft::{Envelope, Input};
use kv_store::Members;
use slog::{debug, info, warn};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::check::check;
use super::questions::{Answer, Question};
use super::snapshot_in::Intake;
use super::wire::{Incoming, PeerError, greeted, kind, put, write};
use super::{FRAME_OVERHEAD_BYTES, SMALL_FRAME_BYTES_MAX, Shared};
use crate::service::Core;

/// Members that this one does not know and that may be connected: those that joined and that it has not heard of yet.
const STRANGERS_MAX: usize = 16;
/// Bytes of messages from one member that wait for the driver: a leader's appends in flight, while the disk is slow.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Reasons that are remembered as said; beyond, some are said again.
const REASONS_MAX: usize = 256;
/// Questions of one member that are being answered.
const QUESTIONS_MAX: usize = 1024;

/// Answers whoever dials this member.
///
/// * Of each member, no run but the latest that was seen is let in.
/// * Of each member there is one connection for each purpose: the newest.
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    core: Arc<Core>,
    intake: Intake,
    callers: Mutex<BTreeMap<u64, Caller>>,
    /// Who was not let in since it was last, and why, as it was said.
    said: Mutex<BTreeSet<(IpAddr, u64, String)>>,
}

/// A member that dialed.
#[derive(Debug, Default)]
struct Caller {
    epoch: u64,
    /// Dropped, the connection ends.
    open: BTreeMap<Stream, oneshot::Sender<()>>,
}

impl Acceptor {
    pub(super) fn new(shared: Arc<Shared>, core: Arc<Core>, intake: Intake) -> Self {
        Self { shared, core, intake, callers: Mutex::default(), said: Mutex::default() }
    }

    /// Serves a connection to its end.
    pub(crate) async fn serve<S>(&self, mut stream: S, remote: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let logger = &self.shared.logger;
        let (greeting, over) = match self.admit(&mut stream).await {
            Ok(admitted) => admitted,
            Err((from, error)) => return self.say_rejected(remote, from, &error),
        };
        let from = format!("{:x}", greeting.from);
        debug!(logger, "peer connected"; "remote-peer-id" => &from, "stream" => ?greeting.stream, "epoch" => greeting.epoch);
        let ended = tokio::select! {
            ended = self.listen(&greeting, stream) => ended,
            _ = over => Err(PeerError::Replaced),
        };
        match ended {
            Ok(()) | Err(PeerError::Stopped) => {}
            Err(error @ (PeerError::Decode(_) | PeerError::Nonsense(_))) => {
                self.shared.metrics.received_failures.with_label_values(&[from.as_str()]).inc();
                warn!(logger, "closed connection of peer"; "remote-peer-id" => from, "remote-addr" => %remote, "error" => %error);
            }
            Err(error) => info!(logger, "connection of peer ended"; "remote-peer-id" => from, "error" => %error),
        }
    }

    /// Says why somebody is not let in: once for each reason, who dials every second is no news.
    fn say_rejected(&self, remote: SocketAddr, from: u64, error: &PeerError) {
        let mut said = self.said();
        if said.len() >= REASONS_MAX {
            said.clear();
        }
        let is_new = said.insert((remote.ip(), from, error.to_string()));
        let from = format!("{from:x}");
        if is_new {
            warn!(self.shared.logger, "rejected connection on peer endpoint";
                "remote-addr" => %remote, "remote-peer-id" => from, "error" => %error);
        } else {
            debug!(self.shared.logger, "rejected connection on peer endpoint again";
                "remote-addr" => %remote, "remote-peer-id" => from, "error" => %error);
        }
    }

    /// Reads a greeting and replies to it. What ends the connection before its time comes with it; with an error, who it said it is, or
    /// 0.
    async fn admit<S>(&self, stream: &mut S) -> Result<(Greeting, oneshot::Receiver<()>), (u64, PeerError)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let read = greeted(stream).await.map_err(|error| (0, error))?;
        let from = read.as_ref().map_or(0, |greeting| greeting.from);
        let admitted = match read {
            Ok(greeting) => self.enter(greeting).map_err(PeerError::Refuse),
            Err(error) => Err(PeerError::Decode(error)),
        };
        let verdict = match &admitted {
            Ok(_) => Ok(()),
            Err(PeerError::Refuse(refusal)) => Err(*refusal),
            Err(_) => Err(Refusal::Version),
        };
        let replied = write(stream, &Reply { verdict, epoch: self.shared.epoch }.encode()).await;
        replied.and(admitted).map_err(|error| (from, error))
    }

    fn enter(&self, greeting: Greeting) -> Result<(Greeting, oneshot::Receiver<()>), Refusal> {
        let Greeting { stream, cluster_id, from, to, epoch } = greeting;
        if cluster_id != self.shared.cluster_id {
            return Err(Refusal::Cluster);
        }
        if to != self.shared.id || from == to || from == 0 {
            return Err(Refusal::Member);
        }
        let view = self.core.views.load_full();
        let members = view.members();
        if members.removed().any(|removed| removed == from) {
            return Err(Refusal::Removed);
        }
        let mut callers = self.lock();
        let strangers = callers.keys().filter(|id| members.get(**id).is_none()).count();
        if members.get(from).is_none() && !callers.contains_key(&from) && strangers >= STRANGERS_MAX {
            return Err(Refusal::Full);
        }
        let caller = callers.entry(from).or_default();
        if epoch < caller.epoch {
            return Err(Refusal::Epoch);
        }
        if epoch > caller.epoch {
            // What an earlier run still says is not heard any more.
            *caller = Caller { epoch, open: BTreeMap::new() };
        }
        self.said().retain(|(_, said_of, _)| *said_of != from);
        let (keep, over) = oneshot::channel();
        caller.open.insert(stream, keep);
        Ok((greeting, over))
    }

    /// Ends the connections of members that were removed: they dial again, and are told.
    pub(super) fn follow(&self, members: &Members) {
        let mut callers = self.lock();
        members.removed().for_each(|removed| drop(callers.remove(&removed)));
    }

    fn said(&self) -> MutexGuard<'_, BTreeSet<(IpAddr, u64, String)>> {
        self.said.lock().expect("nothing panics while it holds what was said")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Caller>> {
        self.callers.lock().expect("nothing panics while it holds the callers")
    }

    async fn listen<S>(&self, greeting: &Greeting, stream: S) -> Result<(), PeerError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (read, out) = tokio::io::split(stream);
        match greeting.stream {
            Stream::Messages => self.messages(greeting, Incoming::new(read, self.shared.frame_bytes_max), out).await,
            Stream::Snapshot => {
                let incoming = Incoming::new(read, self.shared.frame_bytes_max);
                self.intake.receive(&self.shared, greeting, incoming, out).await
            }
            Stream::Questions => self.questions(Incoming::new(read, SMALL_FRAME_BYTES_MAX), out).await,
        }
    }

    async fn messages<R, W>(&self, greeting: &Greeting, mut incoming: Incoming<R>, mut out: W) -> Result<(), PeerError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let _speaking = self.shared.speaks(greeting.from);
        let waiting = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
        let received = &self.shared.metrics.peer(greeting.from).received_bytes;
        loop {
            let frame = incoming.frame().await?;
            received.inc_by(frame.len() as u64);
            if frame[0] == kind::PING {
                let mut pong = Vec::new();
                put(&mut pong, kind::PONG, &frame[1..]);
                write(&mut out, &pong).await?;
                continue;
            }
            let message = message(greeting, &frame)?;
            check(&message.body, self.shared.frame_bytes_max - FRAME_OVERHEAD_BYTES)?;
            if message.body.snapshot().is_some() {
                return Err(PeerError::Nonsense("a snapshot among messages"));
            }
            // A driver that is behind holds up this connection, and nothing else.
            let bytes = u32::try_from(frame.len().min(WAITING_BYTES_MAX)).unwrap_or(u32::MAX);
            let permit = Arc::clone(&waiting).acquire_many_owned(bytes).await.map_err(|_| PeerError::Stopped)?;
            self.core.driver.input_held(Input::Message(message), permit).map_err(|_| PeerError::Stopped)?;
        }
    }

    async fn questions<R, W>(&self, mut incoming: Incoming<R>, mut out: W) -> Result<(), PeerError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let turns = Arc::new(Semaphore::new(QUESTIONS_MAX));
        let (answers, mut answered) = mpsc::channel::<(u64, Answer)>(QUESTIONS_MAX);
        let mut buffer = Vec::new();
        loop {
            tokio::select! {
                frame = incoming.frame() => {
                    let frame = frame?;
                    match frame[0] {
                        kind::PING => put(&mut buffer, kind::PONG, &[]),
                        kind::QUESTION => {
                            let (number, question) = Question::decode(&frame[1..])?;
                            // Too many at once are told that there is no answer; they ask again.
                            let Ok(turn) = Arc::clone(&turns).try_acquire_owned() else {
                                put(&mut buffer, kind::ANSWER, &Answer::Nothing.encode(number));
                                continue;
                            };
                            let (core, answers) = (Arc::clone(&self.core), answers.clone());
                            tokio::spawn(async move {
                                let answer = core.answer(question).await;
                                // Nobody listens any more once the connection has ended.
                                let _ = answers.send((number, answer)).await;
                                drop(turn);
                            });
                        }
                        _ => return Err(PeerError::Nonsense("a frame that is no question")),
                    }
                }
                Some((number, answer)) = answered.recv() => {
                    put(&mut buffer, kind::ANSWER, &answer.encode(number));
                    while let Ok((number, answer)) = answered.try_recv() {
                        put(&mut buffer, kind::ANSWER, &answer.encode(number));
                    }
                }
            }
            write(&mut out, &buffer).await?;
            buffer.clear();
        }
    }
}

/// Reads a frame that must be a message between these two.
pub(super) fn message(greeting: &Greeting, frame: &Bytes) -> Result<Envelope, PeerError> {
    if frame[0] != kind::MESSAGE {
        return Err(PeerError::Nonsense("a frame that is no message"));
    }
    let message = Envelope::decode(&frame.slice(1..)).map_err(|error: DecodeError| PeerError::Decode(error))?;
    if (message.from, message.to) != (greeting.from, greeting.to) {
        return Err(PeerError::Nonsense("a message of other members"));
    }
    Ok(message)
}
