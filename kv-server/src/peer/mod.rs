//! The other members: connections to each, connections from each, and what goes over them.
//!
//! Each member dials every other and sends on the connections that it dialed: one for consensus' messages, made at once and kept;
//! one for questions ([`questions`]), made when there is one; one for each snapshot. What they look like as bytes is in
//! [`kv_codec::peer`]; whoever is dialed checks cluster, members and run before anything else, and replies.
//!
//! ```text
//! driver -> Peers::send -> outbox (bounded) -> link: one write for all that waits -> network
//! driver -> Peers::deliver -> snapshot_out: chunk by chunk                        -> network
//! network -> listener -> Acceptor -> messages: validated, then the driver's queue (bounded for each member)
//!                                 -> snapshot_in: a file, then one message        -> questions: the service
//! ```
//!
//! The driver's thread never waits here: what finds no room, or no connection, is lost and reported to raft as such. Loss is fine;
//! a forwarded command that was not sent is given back to whoever waits for it.

mod accept;
mod check;
mod dial;
mod link;
mod metrics;
mod outbox;
mod questions;
mod snapshot_in;
mod snapshot_out;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use kv_codec::command::Batch;
use kv_raft::{Envelope, Handle, Input, PeerMessage, RealDisk, RejectReason};
use kv_store::{Members, View};
use slog::Logger;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub(crate) use accept::Acceptor;
use dial::Dialer;
use link::Link;
pub(crate) use metrics::PeerMetrics;
use outbox::Outbox;
pub(crate) use questions::{Answer, Question};
use questions::{Asked, Asker};
use snapshot_in::Intake;

use crate::bell;
use crate::config::Config;
use crate::data_dir::Identity;
use crate::join;
use crate::service::Core;
use crate::waiters::Completion;

/// Bytes of a frame that holds no entries.
const SMALL_FRAME_BYTES_MAX: usize = 4096;
/// Bytes of an append's entries, when it has several (see `kv_raft`).
const APPEND_BYTES: usize = 1 << 20;
/// What stands around the entries of a frame, and around the commands of an entry.
const FRAME_OVERHEAD_BYTES: usize = 1 << 20;
/// Frames up to this are taken in any case: members may have been started with other limits once.
const FRAME_BYTES_FLOOR: usize = 8 << 20;
/// How long a newcomer goes by what it was told of the members, before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Questions that wait for one member.
const QUESTIONS_WAITING_MAX: usize = 4096;

/// The longest frame that another member sends, when requests are bounded by this.
fn frame_bytes_max(request_bytes_max: usize) -> usize {
    let entry = request_bytes_max.max(APPEND_BYTES);
    // An entry is a batch, which is cut above APPEND_BYTES or is one command; an append is several, or one.
    (2 * entry).saturating_add(FRAME_OVERHEAD_BYTES).max(FRAME_BYTES_FLOOR)
}

/// What all connections share.
pub(crate) struct Shared {
    cluster_id: u64,
    id: u64,
    epoch: u64,
    frame_bytes_max: usize,
    driver: OnceLock<Handle>,
    completions: bell::Sender<Completion>,
    /// How many connections of each member speak to this one.
    speaking: Mutex<BTreeMap<u64, usize>>,
    /// Says that this member is no part of the cluster any more.
    left: watch::Sender<bool>,
    /// Ends the process.
    fatal: Box<dyn Fn(&str) + Send + Sync>,
    metrics: PeerMetrics,
    logger: Logger,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shared {
    /// Tells the driver. One that has not begun, or has stopped, need not know.
    fn input(&self, input: Input) {
        if let Some(driver) = self.driver.get() {
            let _ = driver.input(input);
        }
    }

    /// Messages that were not sent. Commands among them are in no log, and whoever waits for them is told.
    fn lost(&self, messages: impl IntoIterator<Item = Envelope>) {
        for message in messages {
            if let PeerMessage::Forward { batch, .. } = message.body {
                let commands = Batch::decode(&batch).into_iter().flatten();
                let numbers = commands.filter_map(|command| command.ok().map(|command| command.header.seq));
                self.completions.send(Completion::Rejected(numbers.collect(), RejectReason::NoLeader));
            }
        }
    }

    /// A connection of a member that speaks, as long as what is returned.
    fn speaks(&self, from: u64) -> Speaking<'_> {
        *lock(&self.speaking).entry(from).or_default() += 1;
        Speaking { shared: self, from }
    }

    /// Nobody listens any more where a member was connected until now: its process has ended, unless it still speaks.
    fn refused_to_connect(&self, to: u64) {
        if !lock(&self.speaking).contains_key(&to) {
            self.input(Input::Gone(to));
        }
    }

    /// Another member says that this one was removed.
    fn removed(&self) {
        self.left.send_replace(true);
    }

    /// The labels of a metric of both members.
    fn labels(&self, to: u64) -> [String; 2] {
        [format!("{:x}", self.id), format!("{to:x}")]
    }
}

/// See [`Shared::speaks`].
struct Speaking<'a> {
    shared: &'a Shared,
    from: u64,
}

impl Drop for Speaking<'_> {
    fn drop(&mut self) {
        let mut speaking = lock(&self.shared.speaking);
        let count = speaking.get_mut(&self.from).expect("it was counted");
        *count -= 1;
        if *count == 0 {
            speaking.remove(&self.from);
        }
    }
}

fn lock(speaking: &Mutex<BTreeMap<u64, usize>>) -> MutexGuard<'_, BTreeMap<u64, usize>> {
    speaking.lock().expect("nothing panics while it holds the counts")
}

/// What the connections are begun with.
pub(crate) struct PeersConfig {
    pub(crate) identity: Identity,
    pub(crate) epoch: u64,
    pub(crate) request_bytes_max: usize,
    pub(crate) completions: bell::Sender<Completion>,
    pub(crate) left: watch::Sender<bool>,
    pub(crate) fatal: Box<dyn Fn(&str) + Send + Sync>,
    pub(crate) metrics: PeerMetrics,
    pub(crate) logger: Logger,
}

/// The other members, as this one reaches them.
///
/// * There is a link to every member but this one, and to nobody else.
#[derive(Debug)]
pub(crate) struct Peers {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    reached: Mutex<BTreeMap<u64, Reached>>,
}

/// How one member is reached. Dropped, it is not any more.
#[derive(Debug)]
struct Reached {
    dialer: Dialer,
    outbox: Arc<Outbox>,
    asks: mpsc::Sender<Asked>,
    since: Arc<Mutex<Option<Instant>>>,
    _tasks: JoinSet<()>,
}

impl Peers {
    /// To be called within a runtime.
    pub(crate) fn new(config: PeersConfig) -> Self {
        let PeersConfig { identity, epoch, request_bytes_max, completions, left, fatal, metrics, logger } = config;
        let shared = Shared {
            cluster_id: identity.cluster_id,
            id: identity.member_id,
            epoch,
            frame_bytes_max: frame_bytes_max(request_bytes_max),
            driver: OnceLock::new(),
            completions,
            speaking: Mutex::default(),
            left,
            fatal,
            metrics,
            logger,
        };
        Self { shared: Arc::new(shared), runtime: tokio::runtime::Handle::current(), reached: Mutex::default() }
    }

    /// Who hears of what was lost. What happens before is told nobody.
    pub(crate) fn attach(&self, driver: Handle) {
        // There is one driver, attached once.
        drop(self.shared.driver.set(driver));
    }

    /// Answers members that dial.
    pub(crate) fn acceptor(&self, core: Arc<Core>, disk: Arc<RealDisk>) -> Acceptor {
        let intake = Intake::new(disk, core.applied.clone());
        Acceptor::new(Arc::clone(&self.shared), core, intake)
    }

    /// Dials members that are new or have moved, and lets go of those that are gone.
    pub(crate) fn follow(&self, members: &Members) {
        let mut reached = self.lock();
        reached.retain(|id, reached| members.get(*id).is_some_and(|member| member.peer_urls == reached.dialer.urls));
        for member in members.iter().filter(|member| member.id != self.shared.id) {
            reached.entry(member.id).or_insert_with(|| self.reach(member.id, member.peer_urls.clone()));
        }
        self.shared.metrics.known.set(i64::try_from(reached.len()).unwrap_or(i64::MAX));
    }

    fn reach(&self, to: u64, urls: Vec<String>) -> Reached {
        let Shared { cluster_id, id: from, epoch, .. } = *self.shared;
        let dialer = Dialer { cluster_id, from, epoch, to, urls };
        let (outbox, since) = <(Arc<Outbox>, Arc<Mutex<Option<Instant>>>)>::default();
        let (asks, asked) = mpsc::channel(QUESTIONS_WAITING_MAX);
        let mut tasks = JoinSet::new();
        let shared = || Arc::clone(&self.shared);
        let link =
            Link { shared: shared(), dialer: dialer.clone(), outbox: Arc::clone(&outbox), since: Arc::clone(&since) };
        tasks.spawn_on(link.run(), &self.runtime);
        tasks.spawn_on(Asker { shared: shared(), dialer: dialer.clone(), asked }.run(), &self.runtime);
        Reached { dialer, outbox, asks, since, _tasks: tasks }
    }

    /// Sends messages; whatever cannot be sent at once is lost. Called on the driver's thread.
    pub(crate) fn send(&self, messages: Vec<Envelope>) {
        let mut lost = VecDeque::new();
        {
            let reached = self.lock();
            for message in messages {
                match reached.get(&message.to) {
                    Some(reached) => lost.extend(reached.outbox.put(message).err()),
                    None => lost.push_back(message),
                }
            }
        }
        let mut told = 0;
        for message in &lost {
            self.shared.metrics.peer(message.to).sent_failures.inc();
            if message.to != told {
                told = message.to;
                self.shared.input(Input::Unreachable(told));
            }
        }
        self.shared.lost(lost);
    }

    /// Delivers a snapshot, and reports how that went. Called on the driver's thread.
    pub(crate) fn deliver(&self, message: Envelope, view: View) {
        let to = message.to;
        let dialer = self.lock().get(&to).map(|reached| reached.dialer.clone());
        match dialer {
            Some(dialer) => {
                drop(self.runtime.spawn(snapshot_out::deliver(Arc::clone(&self.shared), dialer, message, view)));
            }
            None => self.shared.input(Input::SnapshotSent { to, ok: false }),
        }
    }

    /// Asks a member; `None` when it cannot be asked, or gives no answer. Asking again does no harm.
    pub(crate) async fn ask(&self, to: u64, question: Question) -> Option<Answer> {
        let asks = self.lock().get(&to)?.asks.clone();
        let (sender, answer) = oneshot::channel();
        asks.try_send((question, sender)).ok()?;
        answer.await.ok()
    }

    /// Since when a member has been connected without a break.
    pub(crate) fn connected_since(&self, id: u64) -> Option<Instant> {
        let since = Arc::clone(&self.lock().get(&id)?.since);
        *since.lock().expect("nothing panics while it holds the time")
    }

    /// Lets go of every member.
    pub(crate) fn stop(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Reached>> {
        self.reached.lock().expect("nothing panics while it holds the members")
    }
}

/// Follows the membership, until the server stops. A newcomer, which has none, asks for it: it has to answer before it is sent any.
pub(crate) async fn follow(
    peers: Arc<Peers>,
    acceptor: Arc<Acceptor>,
    config: Arc<Config>,
    mut members: watch::Receiver<Members>,
    mut stop: watch::Receiver<()>,
) {
    loop {
        let mut now = members.borrow_and_update().clone();
        let is_newcomer = now.iter().len() == 0;
        if is_newcomer {
            now = join::contacts(&config).await;
        }
        peers.follow(&now);
        acceptor.follow(&now);
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(ASK_AGAIN_AFTER), if is_newcomer => {}
            _ = stop.changed() => return,
        }
    }
}
