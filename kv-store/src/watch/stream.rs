//! The watchers of one client, and what it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use thiserror::Error;

use super::event::Event;
use super::hub::{Taken, WatchHub};
use super::range_index::RangeIndex;
use crate::{Block, KeyRange, View};

/// Changes that are made into messages at once, the rest of their revision aside.
const ROUND_EVENTS_MAX: usize = 1024;
/// Bytes of them.
const ROUND_BYTES_MAX: u64 = 1 << 20;
/// Changes in the history that one round looks at: well under a millisecond.
const ROUND_READ_MAX: usize = 4096;

/// What a client wants to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchRequest<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// From which revision on; 0 for what comes next.
    pub start_revision: i64,
    /// The watcher's id in its stream; 0 for one that the stream chooses.
    pub id: i64,
    /// Whether it wants to know what was there before.
    pub prev_kv: bool,
    /// Whether it wants to hear of progress while nothing happens.
    pub progress_notify: bool,
    /// Whether it wants no puts.
    pub no_put: bool,
    /// Whether it wants no deletions.
    pub no_delete: bool,
    /// Whether the changes of one revision may come in several messages.
    pub fragment: bool,
}

impl<'a> WatchRequest<'a> {
    /// All changes of `range` from here on.
    #[must_use]
    pub fn new(range: KeyRange<'a>) -> Self {
        Self {
            range,
            start_revision: 0,
            id: 0,
            prev_kv: false,
            progress_notify: false,
            no_put: false,
            no_delete: false,
            fragment: false,
        }
    }
}

/// A watcher is not created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WatchRefusal {
    /// The range ends before it begins.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The stream has a watcher of that id.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    /// A revision that never was.
    #[error("mvcc: required revision has been compacted")]
    NegativeRevision,
}

/// What a client is told.
#[derive(Debug, Clone)]
pub enum WatchMessage {
    /// The watcher is there. Its changes follow.
    Created {
        /// The watcher.
        id: i64,
        /// The store's revision.
        revision: i64,
    },
    /// No watcher was made.
    Refused {
        /// Why.
        why: WatchRefusal,
        /// The store's revision.
        revision: i64,
    },
    /// The watcher is gone, as its client asked.
    Canceled {
        /// The watcher.
        id: i64,
        /// What the stream has got of its other watchers.
        revision: i64,
    },
    /// The watcher is gone: its next change was compacted.
    Compacted {
        /// The watcher.
        id: i64,
        /// The oldest revision that can be watched from.
        compact_revision: i64,
    },
    /// Changes.
    Events {
        /// The watcher.
        id: i64,
        /// The watcher has got everything up to here with this message.
        revision: i64,
        /// The changes, in order, of whole revisions.
        events: Vec<Arc<Event>>,
        /// Whether it wants to know what was there before.
        prev_kv: bool,
        /// Whether the message may be cut.
        fragment: bool,
    },
    /// Nothing was left out up to here.
    Progress {
        /// Of which watcher; `None` for all of the stream.
        id: Option<i64>,
        /// Up to where.
        revision: i64,
    },
}

/// What a stream does next.
#[derive(Debug)]
pub enum Next {
    /// It says this.
    Message(WatchMessage),
    /// It is on the way to its next message: ask again, soon and with the view of then.
    Busy,
    /// It has nothing to say until the hub has something for it.
    Idle,
}

/// Which of the changes a watcher gets next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Those from the inbox.
    Live,
    /// None: it waits for the next run through the history.
    Waiting,
    /// Those of the run through the history.
    Reading,
}

#[derive(Debug)]
struct Watcher {
    key: Box<[u8]>,
    range_end: Box<[u8]>,
    /// It gets nothing below this revision.
    next: i64,
    place: Place,
    prev_kv: bool,
    puts: bool,
    deletes: bool,
    fragment: bool,
    progress_notify: bool,
    /// Whether it got nothing since the last [`WatchStream::tick`].
    quiet: bool,
}

impl Watcher {
    fn range(&self) -> KeyRange<'_> {
        KeyRange::new(&self.key, &self.range_end)
    }

    fn wants(&self, block: &Block) -> bool {
        if block.is_tombstone() { self.deletes } else { self.puts }
    }
}

/// The watchers of one client's stream.
///
/// * `position`: the live watchers have got, or have in `inbox` and `ready`, everything up to it, but for what `missed` says.
/// * A run reads the history from `head` on, for all watchers that were waiting when it began. Whoever comes later waits for the next
///   one. It ends above `position` and `subscribed`, where its watchers become live.
/// * `missed`: the changes from this revision to `position` are not in `inbox`. Once `inbox` is empty, the live watchers wait for a
///   run that begins there.
/// * The hub has a range of this stream's exactly while a watcher has it.
#[derive(Debug)]
pub struct WatchStream {
    id: u64,
    watchers: BTreeMap<i64, Watcher>,
    index: RangeIndex<i64>,
    /// The next id to try.
    next_id: i64,
    ready: VecDeque<WatchMessage>,
    inbox: VecDeque<Arc<Event>>,
    position: i64,
    missed: Option<i64>,
    /// The hub's position when the last watcher was made: of the changes up to there, `inbox` may lack those of its range.
    subscribed: i64,
    /// The watchers that wait for a run, and those of the run that is under way.
    waiting: BTreeSet<i64>,
    reading: BTreeSet<i64>,
    head: Option<i64>,
    /// The client asked how far the stream is, when the hub was here.
    asked: Option<i64>,
    /// Watchers that were quiet for an interval.
    due: BTreeSet<i64>,
    /// Watchers that ended by themselves, and whether each was the last of its range; the hub counts them until [`WatchStream::settle`].
    ended: Vec<(Watcher, bool)>,
}

/// Changes on their way into messages, by watcher.
#[derive(Debug, Default)]
struct Round {
    events: BTreeMap<i64, Vec<Arc<Event>>>,
    count: usize,
    bytes: u64,
}

impl Round {
    fn is_full(&self) -> bool {
        self.count >= ROUND_EVENTS_MAX || self.bytes >= ROUND_BYTES_MAX
    }

    fn add(&mut self, id: i64, event: Arc<Event>) {
        self.count += 1;
        self.bytes += event.block().bytes();
        self.events.entry(id).or_default().push(event);
    }
}

impl WatchStream {
    /// A stream without watchers. `view` is the latest one.
    #[must_use]
    pub fn attach(hub: &mut WatchHub, view: &View) -> Self {
        Self {
            id: hub.attach(view),
            watchers: BTreeMap::new(),
            index: RangeIndex::default(),
            next_id: 0,
            ready: VecDeque::new(),
            inbox: VecDeque::new(),
            position: hub.position(),
            missed: None,
            subscribed: 0,
            waiting: BTreeSet::new(),
            reading: BTreeSet::new(),
            head: None,
            asked: None,
            due: BTreeSet::new(),
            ended: Vec::new(),
        }
    }

    /// The stream's number in its hub.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Makes a watcher, or says why not. `view` is the latest one, at least as new as the hub.
    pub fn create(&mut self, hub: &mut WatchHub, view: &View, request: &WatchRequest<'_>) {
        let revision = view.revision();
        match self.add(hub, view, request) {
            Ok(id) => self.ready.push_back(WatchMessage::Created { id, revision }),
            Err(why) => self.ready.push_back(WatchMessage::Refused { why, revision }),
        }
    }

    fn add(&mut self, hub: &mut WatchHub, view: &View, request: &WatchRequest<'_>) -> Result<i64, WatchRefusal> {
        self.settle(hub);
        if request.range.bounds().is_none() {
            return Err(WatchRefusal::EmptyRange);
        }
        if request.start_revision < 0 {
            return Err(WatchRefusal::NegativeRevision);
        }
        if self.watchers.contains_key(&request.id) && request.id != 0 {
            return Err(WatchRefusal::DuplicateId);
        }
        let id = if request.id == 0 { self.unused_id() } else { request.id };
        let next = if request.start_revision == 0 { view.revision() + 1 } else { request.start_revision };
        // What the inbox holds of other ranges comes from before the hub knew of this one.
        self.subscribed = hub.position();
        let place = if next > self.subscribed { Place::Live } else { Place::Waiting };
        if place == Place::Waiting {
            self.waiting.insert(id);
        }
        let (key, range_end): (&[u8], &[u8]) = match request.range {
            KeyRange::Single(key) => (key, b""),
            KeyRange::Span(key, end) => (key, end),
            KeyRange::From(key) => (key, b"\0"),
        };
        if self.index.insert(&request.range, id) {
            hub.subscribe(self.id, &request.range);
        }
        hub.add_watcher(self.id, request.prev_kv);
        let watcher = Watcher {
            key: key.into(),
            range_end: range_end.into(),
            next,
            place,
            prev_kv: request.prev_kv,
            puts: !request.no_put,
            deletes: !request.no_delete,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            quiet: true,
        };
        self.watchers.insert(id, watcher);
        Ok(id)
    }

    fn unused_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Ends a watcher: its client hears no more changes of it. One that is not there is not spoken of; one that ended by itself may have
    /// left changes that nobody took yet.
    pub fn cancel(&mut self, hub: &mut WatchHub, id: i64) {
        self.ready.retain(|message| !matches!(message, WatchMessage::Events { id: of, .. } if *of == id));
        if self.remove(hub, id) {
            self.ready.push_back(WatchMessage::Canceled { id, revision: self.position });
        }
    }

    fn remove(&mut self, hub: &mut WatchHub, id: i64) -> bool {
        self.settle(hub);
        let Some(watcher) = self.watchers.remove(&id) else { return false };
        self.waiting.remove(&id);
        self.reading.remove(&id);
        self.due.remove(&id);
        if self.index.remove(&watcher.range(), id) {
            hub.unsubscribe(self.id, &watcher.range());
        }
        hub.remove_watcher(self.id);
        true
    }

    /// Tells the hub of the watchers that ended by themselves: to be called after [`WatchMessage::Compacted`].
    pub fn settle(&mut self, hub: &mut WatchHub) {
        for (watcher, is_last) in self.ended.drain(..) {
            if is_last {
                hub.unsubscribe(self.id, &watcher.range());
            }
            hub.remove_watcher(self.id);
        }
    }

    /// Ends some watchers, at most `max`, or the stream itself once it has none; false when nothing is left.
    pub fn detach(&mut self, hub: &mut WatchHub, max: usize) -> bool {
        self.settle(hub);
        for _ in 0..max {
            let Some(id) = self.watchers.first_key_value().map(|(id, _)| *id) else {
                hub.detach(self.id);
                return false;
            };
            self.remove(hub, id);
        }
        true
    }

    /// The client asks how far the stream is. It hears so once all of its watchers have everything; not at all if it has none, or one
    /// that begins in the future. Bring the hub up to date first: the answer goes as far as the hub, or further.
    pub fn ask_progress(&mut self, hub: &WatchHub) {
        self.asked = (!self.watchers.is_empty()).then(|| hub.position());
    }

    /// An interval has passed: watchers that got nothing in it, and want to hear of progress, do.
    pub fn tick(&mut self) {
        for (id, watcher) in self.watchers.iter_mut().filter(|(_, watcher)| watcher.progress_notify) {
            if std::mem::replace(&mut watcher.quiet, true) {
                self.due.insert(*id);
            }
        }
    }

    /// What the stream does next. `take` takes its inbox from the hub; `view` is a recent view.
    pub fn next(&mut self, take: impl FnOnce(u64) -> Taken, view: &View) -> Next {
        // The hub wakes a stream whose inbox was empty: to be idle is to have looked into it just now.
        let mut looked = false;
        if self.ready.is_empty() {
            if self.inbox.is_empty() {
                let taken = take(self.id);
                // A stream that always has more to say tells in between how far it was before.
                let progress = if taken.is_empty() { None } else { self.progress() };
                self.absorb(taken);
                if let Some(message) = progress {
                    return Next::Message(message);
                }
                looked = true;
            }
            self.sort_inbox();
            if self.inbox.is_empty() {
                self.note_missed();
            }
            self.begin_run();
            self.read(view);
        }
        if let Some(message) = self.ready.pop_front() {
            return Next::Message(message);
        }
        if !looked || self.is_behind() || !self.inbox.is_empty() {
            return Next::Busy;
        }
        self.progress().map_or(Next::Idle, Next::Message)
    }

    /// Whether some of what happened up to `position` has to be looked for in the history.
    fn is_behind(&self) -> bool {
        self.head.is_some() || !self.waiting.is_empty() || self.missed.is_some()
    }

    /// Adds what the hub had to what is here.
    fn absorb(&mut self, taken: Taken) {
        self.position = taken.position;
        // What was missed before is still to be read, and all since with it.
        if self.missed.is_none() {
            self.inbox.extend(taken.events);
            self.missed = taken.missed;
        }
    }

    /// Makes messages of the first changes in the inbox.
    fn sort_inbox(&mut self) {
        let mut round = Round::default();
        let mut last = 0;
        while let Some(event) = self.inbox.front() {
            let revision = event.block().mod_revision();
            if revision != last && round.is_full() {
                break;
            }
            last = revision;
            let event = self.inbox.pop_front().expect("it was just looked at");
            let (watchers, block) = (&self.watchers, event.block());
            self.index.each_at(block.key(), &mut |id| {
                let watcher = &watchers[&id];
                if watcher.place == Place::Live && watcher.next <= revision && watcher.wants(block) {
                    round.add(id, Arc::clone(&event));
                }
            });
        }
        let end = self.missed.map_or(self.position, |missed| missed - 1);
        let reached = self.inbox.front().map_or(end, |event| event.block().mod_revision() - 1);
        self.say(round, reached);
    }

    /// Sends the live watchers to the history from the revision on that the inbox has not.
    fn note_missed(&mut self) {
        let Some(missed) = self.missed.take() else { return };
        for (id, watcher) in self.watchers.iter_mut().filter(|(_, watcher)| watcher.place == Place::Live) {
            watcher.next = watcher.next.max(missed);
            // One that begins in the future has missed nothing.
            if watcher.next <= self.position {
                watcher.place = Place::Waiting;
                self.waiting.insert(*id);
            }
        }
    }

    fn begin_run(&mut self) {
        if self.head.is_some() {
            return;
        }
        self.reading = std::mem::take(&mut self.waiting);
        for id in &self.reading {
            let watcher = self.watchers.get_mut(id).expect("a watcher that ends waits no more");
            watcher.place = Place::Reading;
            self.head = Some(self.head.map_or(watcher.next, |head| head.min(watcher.next)));
        }
    }

    /// Goes on with the run through the history, if there is one.
    fn read(&mut self, view: &View) {
        let Some(mut head) = self.head else { return };
        if head < view.compact_revision() {
            self.drop_compacted(view.compact_revision());
            head = view.compact_revision();
        }
        if self.reading.is_empty() {
            self.head = None;
            return;
        }
        let mut round = Round::default();
        let mut reached = view.revision();
        for (seen, block) in view.trees.changes_from(head).enumerate() {
            if (seen >= ROUND_READ_MAX || round.is_full()) && block.revision().sub == 0 {
                reached = block.mod_revision() - 1;
                break;
            }
            self.read_one(view, block, &mut round);
        }
        self.say(round, reached);
        head = head.max(reached + 1);
        self.head = Some(head);
        if head > self.position.max(self.subscribed) {
            self.head = None;
            for id in std::mem::take(&mut self.reading) {
                let watcher = self.watchers.get_mut(&id).expect("a watcher that ends reads no more");
                watcher.place = Place::Live;
                watcher.next = watcher.next.max(head);
            }
        }
    }

    fn read_one(&self, view: &View, block: &Block, round: &mut Round) {
        let mut ids = Vec::new();
        let mut wants_prev = false;
        self.index.each_at(block.key(), &mut |id| {
            let watcher = &self.watchers[&id];
            if watcher.place == Place::Reading && watcher.next <= block.mod_revision() && watcher.wants(block) {
                ids.push(id);
                wants_prev |= watcher.prev_kv;
            }
        });
        if ids.is_empty() {
            return;
        }
        let prev = if wants_prev { view.previous(block).cloned() } else { None };
        let event = Arc::new(Event::new(block.clone(), prev));
        ids.into_iter().for_each(|id| round.add(id, Arc::clone(&event)));
    }

    /// Ends the reading watchers whose next revision is gone.
    fn drop_compacted(&mut self, compact_revision: i64) {
        let gone = self.reading.iter().filter(|id| self.watchers[id].next < compact_revision);
        for id in gone.copied().collect::<Vec<_>>() {
            let watcher = self.watchers.remove(&id).expect("it was just found");
            self.reading.remove(&id);
            self.due.remove(&id);
            let is_last = self.index.remove(&watcher.range(), id);
            self.ended.push((watcher, is_last));
            self.ready.push_back(WatchMessage::Compacted { id, compact_revision });
        }
    }

    /// Makes the messages of a round, after which the watchers in it have everything up to `reached`.
    fn say(&mut self, round: Round, reached: i64) {
        for (id, events) in round.events {
            let watcher = self.watchers.get_mut(&id).expect("the index holds watchers that are there");
            watcher.quiet = false;
            let (prev_kv, fragment) = (watcher.prev_kv, watcher.fragment);
            self.ready.push_back(WatchMessage::Events { id, revision: reached, events, prev_kv, fragment });
        }
    }

    /// What there is to say when all up to `position` has been said.
    fn progress(&mut self) -> Option<WatchMessage> {
        if self.is_behind() {
            return None;
        }
        let revision = self.position;
        while let Some(id) = self.due.pop_first() {
            if self.watchers.get(&id).is_some_and(|watcher| watcher.next <= revision + 1) {
                return Some(WatchMessage::Progress { id: Some(id), revision });
            }
        }
        self.asked.take_if(|asked| *asked <= revision)?;
        let all_began = self.watchers.values().all(|watcher| watcher.next <= revision + 1);
        (!self.watchers.is_empty() && all_began).then_some(WatchMessage::Progress { id: None, revision })
    }
}
