//! From the changes of the store to the streams that watch them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::event::Event;
use super::range_index::RangeIndex;
use crate::{Block, KeyRange, View};

/// Changes that wait for one stream: what a client that is a little late has to catch up with, without a look at the history.
pub const INBOX_EVENTS_MAX: usize = 4096;
/// Bytes of them, so that a few large values do not hold much memory for a client that does not read.
pub const INBOX_BYTES_MAX: u64 = 8 << 20;

/// Hands every change to the streams that have a watcher for it.
///
/// * `position`: every revision up to it was handed out. It moves whole revisions at a time.
/// * An inbox holds all changes for its stream above the position at which it was last taken; or, when it ran over, those below
///   `missed` and none from there on. It never holds a part of a revision.
#[derive(Debug)]
pub struct WatchHub {
    position: i64,
    index: RangeIndex<u64>,
    streams: BTreeMap<u64, Inbox>,
    streams_ever: u64,
    events_ever: u64,
    inbox_events_max: usize,
    inbox_bytes_max: u64,
}

#[derive(Debug, Default)]
struct Inbox {
    events: VecDeque<Arc<Event>>,
    bytes: u64,
    missed: Option<i64>,
    wants_prev: bool,
    watchers: usize,
}

/// What a stream's inbox held.
#[derive(Debug)]
pub struct Taken {
    pub(crate) events: VecDeque<Arc<Event>>,
    pub(crate) position: i64,
    pub(crate) missed: Option<i64>,
}

impl Taken {
    /// Whether nothing happened.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.missed.is_none()
    }
}

/// What a hub has to do with, for whoever measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatchCounts {
    /// Streams.
    pub streams: usize,
    /// Watchers of all streams.
    pub watchers: usize,
    /// Watchers of streams whose inbox ran over and was not taken since.
    pub slow_watchers: usize,
    /// Changes in all inboxes.
    pub pending_events: usize,
    /// Changes that were put into an inbox, ever.
    pub events: u64,
}

impl WatchHub {
    /// A hub without streams, at the present of `view`.
    #[must_use]
    pub fn new(view: &View) -> Self {
        Self {
            position: view.revision(),
            index: RangeIndex::default(),
            streams: BTreeMap::new(),
            streams_ever: 0,
            events_ever: 0,
            inbox_events_max: INBOX_EVENTS_MAX,
            inbox_bytes_max: INBOX_BYTES_MAX,
        }
    }

    /// The same hub with inboxes of another size.
    #[must_use]
    pub fn with_inboxes(self, events_max: usize, bytes_max: u64) -> Self {
        Self { inbox_events_max: events_max, inbox_bytes_max: bytes_max, ..self }
    }

    /// The last revision that was handed out.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Hands out the changes up to `view`, a newer view each time. Adds to `woken` the streams that have something to take and had
    /// nothing before. Stops at the end of a revision once it has looked at `budget` changes, and says whether more is left.
    ///
    /// The history above the position must still be there: whoever purges it looks at [`WatchHub::position`] first. Where a view was
    /// replaced as a whole, streams are sent to what is left of the history.
    pub fn advance(&mut self, view: &View, budget: usize, woken: &mut Vec<u64>) -> bool {
        if self.position >= view.revision() {
            return false;
        }
        if self.streams.is_empty() {
            self.position = view.revision();
            return false;
        }
        if self.position + 1 < view.purged_through() {
            for (id, inbox) in &mut self.streams {
                inbox.miss(self.position + 1);
                woken.push(*id);
            }
            self.position = view.revision();
            return false;
        }
        let mut hits = Vec::new();
        for (seen, block) in view.trees.changes_from(self.position + 1).enumerate() {
            if seen >= budget && block.revision().sub == 0 {
                self.position = block.mod_revision() - 1;
                return true;
            }
            self.hand_out(view, block, &mut hits, woken);
        }
        self.position = view.revision();
        false
    }

    fn hand_out(&mut self, view: &View, block: &Block, hits: &mut Vec<u64>, woken: &mut Vec<u64>) {
        hits.clear();
        self.index.each_at(block.key(), &mut |stream| hits.push(stream));
        if hits.is_empty() {
            return;
        }
        // A stream may have several ranges around one key.
        hits.sort_unstable();
        hits.dedup();
        let mut wants_prev = false;
        hits.retain(|stream| {
            let inbox = &self.streams[stream];
            // One that has missed something reads on in the history.
            let is_kept = inbox.missed.is_none();
            wants_prev |= is_kept && inbox.wants_prev;
            is_kept
        });
        if hits.is_empty() {
            return;
        }
        let prev = if wants_prev { view.previous(block).cloned() } else { None };
        let event = Arc::new(Event::new(block.clone(), prev));
        for stream in hits.iter() {
            let inbox = self.streams.get_mut(stream).expect("the index holds streams that are there");
            if inbox.events.is_empty() {
                woken.push(*stream);
            }
            let is_in = inbox.push(Arc::clone(&event), self.inbox_events_max, self.inbox_bytes_max);
            self.events_ever += u64::from(is_in);
        }
    }

    /// Takes what a stream's inbox holds.
    ///
    /// # Panics
    /// When there is no such stream.
    pub fn take(&mut self, stream: u64) -> Taken {
        let inbox = self.streams.get_mut(&stream).expect("a stream takes from its own inbox");
        inbox.bytes = 0;
        Taken { events: std::mem::take(&mut inbox.events), position: self.position, missed: inbox.missed.take() }
    }

    /// What there is.
    #[must_use]
    pub fn counts(&self) -> WatchCounts {
        let mut counts =
            WatchCounts { streams: self.streams.len(), events: self.events_ever, ..WatchCounts::default() };
        for inbox in self.streams.values() {
            counts.watchers += inbox.watchers;
            counts.pending_events += inbox.events.len();
            counts.slow_watchers += if inbox.missed.is_some() { inbox.watchers } else { 0 };
        }
        counts
    }

    /// A new stream, at the present of `view` or before it.
    pub(super) fn attach(&mut self, view: &View) -> u64 {
        if self.streams.is_empty() {
            // Nobody was there for whom the hub would have been kept up to date.
            self.position = self.position.max(view.revision());
        }
        self.streams_ever += 1;
        self.streams.insert(self.streams_ever, Inbox::default());
        self.streams_ever
    }

    pub(super) fn detach(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    /// From here on the stream gets the changes of `range`.
    pub(super) fn subscribe(&mut self, stream: u64, range: &KeyRange<'_>) {
        self.index.insert(range, stream);
    }

    pub(super) fn unsubscribe(&mut self, stream: u64, range: &KeyRange<'_>) {
        self.index.remove(range, stream);
    }

    /// Counts a watcher of a stream, and notes whether any of them wants to know what was there before.
    pub(super) fn add_watcher(&mut self, stream: u64, wants_prev: bool) {
        if let Some(inbox) = self.streams.get_mut(&stream) {
            inbox.watchers += 1;
            inbox.wants_prev |= wants_prev;
        }
    }

    pub(super) fn remove_watcher(&mut self, stream: u64) {
        if let Some(inbox) = self.streams.get_mut(&stream) {
            inbox.watchers -= 1;
        }
    }
}

impl Inbox {
    /// Adds a change, or gives up its revision if there is no room. Whether it was added.
    fn push(&mut self, event: Arc<Event>, events_max: usize, bytes_max: u64) -> bool {
        let bytes = event.block().bytes();
        if self.events.len() >= events_max || self.bytes + bytes > bytes_max {
            self.miss(event.block().mod_revision());
            return false;
        }
        self.bytes += bytes;
        self.events.push_back(event);
        true
    }

    /// Gives up the changes from `revision` on: the stream finds them in the history.
    fn miss(&mut self, revision: i64) {
        if self.missed.is_some() {
            return;
        }
        while self.events.back().is_some_and(|event| event.block().mod_revision() >= revision) {
            self.events.pop_back();
        }
        self.missed = Some(revision);
    }
}
