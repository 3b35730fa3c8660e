//! Watchers: what each is told, joined, is the history of its keys.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kv_store::{
    INBOX_EVENTS_MAX, KeyRange, Next, SnapshotLoader, Store, WatchCounts, WatchHub, WatchMessage, WatchRefusal,
    WatchRequest, WatchStream,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::model::{Change, Model, contains};
use crate::script::{ENDS, KEYS, Op, apply, bytes, config, genesis, members, op, put};

const STREAMS: usize = 3;
/// Few, so that inboxes run over.
const INBOX: usize = 5;

#[derive(Debug, Clone)]
struct Wanted {
    key: Vec<u8>,
    end: Vec<u8>,
    /// Before (or after) the present; `None` for a start of 0.
    start: Option<i64>,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
    notify: bool,
}

#[derive(Debug, Clone)]
enum Action {
    Apply(Vec<Op>),
    /// A store that is somebody else's later state, all that is compacted left out of it.
    Install(Vec<Op>),
    Purge(usize),
    Advance(usize),
    Create(usize, Wanted),
    /// Of a stream, the watcher: ended by its client, and begun again where it was.
    Resume(usize, Index),
    Cancel(usize, Index),
    Poll(usize, usize),
    Ask(usize),
    Tick(usize),
    /// A stream whose client is gone, and a new one.
    Replace(usize),
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let start = prop::option::weighted(0.6, -3..25i64);
    let seldom = || prop::bool::weighted(0.15);
    (bytes(&KEYS), bytes(&ENDS), start, any::<bool>(), seldom(), seldom(), any::<bool>()).prop_map(
        |(key, end, start, prev_kv, no_put, no_delete, notify)| Wanted {
            key,
            end,
            start,
            prev_kv,
            no_put,
            no_delete,
            notify,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let ops = || prop::collection::vec(op(), 1..=4);
    let stream = || 0..STREAMS;
    prop_oneof![
        8 => ops().prop_map(Action::Apply),
        1 => ops().prop_map(Action::Install),
        2 => select(&[1, 3, usize::MAX][..]).prop_map(Action::Purge),
        6 => select(&[1, 2, usize::MAX][..]).prop_map(Action::Advance),
        4 => (stream(), wanted()).prop_map(|(stream, wanted)| Action::Create(stream, wanted)),
        1 => (stream(), any::<Index>()).prop_map(|(stream, which)| Action::Resume(stream, which)),
        1 => (stream(), any::<Index>()).prop_map(|(stream, which)| Action::Cancel(stream, which)),
        6 => (stream(), 1..6usize).prop_map(|(stream, times)| Action::Poll(stream, times)),
        1 => stream().prop_map(Action::Ask),
        1 => stream().prop_map(Action::Tick),
        1 => stream().prop_map(Action::Replace),
    ]
}

/// What a client knows of one of its watchers.
#[derive(Debug)]
struct Told {
    wanted: Wanted,
    /// The first revision it is to get.
    start: i64,
    events: Vec<Change>,
    /// Everything up to here has come.
    reached: i64,
}

impl Told {
    fn wants(&self, change: &Change) -> bool {
        let kind = if change.value.is_some() { self.wanted.no_put } else { self.wanted.no_delete };
        contains(&self.wanted.key, &self.wanted.end, &change.key) && !kind
    }

    /// It has what the model has up to `revision`. Where a transaction changed a key twice, a compaction at its revision leaves the last
    /// change: the others may have come or not, so that these are left out.
    fn check(&self, model: &Model, revision: i64) -> Result<(), TestCaseError> {
        let is_sure = |change: &Change| {
            let same = |other: &&Change| other.main == change.main && other.key == change.key;
            change.main > model.compacted || model.changes.iter().filter(same).count() == 1
        };
        let of = |changes: &[Change]| {
            let sure = changes.iter().filter(|change| is_sure(change));
            let within = sure.filter(|change| (self.start..=revision).contains(&change.main) && self.wants(change));
            within.cloned().collect::<Vec<_>>()
        };
        prop_assert_eq!(of(&self.events), of(&model.changes), "up to {}: {:?}", revision, self.wanted);
        prop_assert!(self.events.iter().all(|change| model.changes.contains(change)));
        Ok(())
    }
}

/// A stream and what its client was told.
struct Client {
    stream: WatchStream,
    told: BTreeMap<i64, Told>,
    /// Not created yet, as far as the client knows.
    asked: VecDeque<Told>,
    canceled: BTreeSet<i64>,
    /// How far progress has to go that is asked for.
    progress: i64,
}

impl Client {
    fn attach(hub: &mut WatchHub, store: &Store) -> Self {
        Self {
            stream: WatchStream::attach(hub, store.view()),
            told: BTreeMap::new(),
            asked: VecDeque::new(),
            canceled: BTreeSet::new(),
            progress: 0,
        }
    }
}

struct Run {
    store: Store,
    model: Model,
    hub: WatchHub,
    clients: Vec<Client>,
}

impl Run {
    fn new() -> Self {
        let store = genesis();
        let mut hub = WatchHub::new(store.view()).with_inboxes(INBOX, 1_000);
        let clients = (0..STREAMS).map(|_| Client::attach(&mut hub, &store)).collect();
        Self { store, model: Model::new(members()), hub, clients }
    }

    fn apply(&mut self, ops: &[Op]) {
        apply(&mut self.store, ops);
        self.model.index += 1;
        for op in ops {
            self.model.apply(op);
        }
    }

    /// As the server does it: what the hub has not handed out yet is not purged.
    fn purge(&mut self, budget: usize) {
        if self.hub.position() >= self.store.view().compact_revision() {
            self.store.purge(budget);
        }
    }

    fn install(&mut self, ops: &[Op]) {
        self.apply(ops);
        let mut loader = SnapshotLoader::default();
        self.store.view().chunks().for_each(|chunk| loader.push(&chunk).unwrap());
        self.store.install(loader.finish().unwrap());
    }

    fn create(&mut self, client: usize, wanted: Wanted, start_revision: i64) {
        let Client { stream, asked, .. } = &mut self.clients[client];
        let view = self.store.view();
        let request = WatchRequest {
            start_revision,
            prev_kv: wanted.prev_kv,
            no_put: wanted.no_put,
            no_delete: wanted.no_delete,
            progress_notify: wanted.notify,
            ..WatchRequest::new(KeyRange::new(&wanted.key, &wanted.end))
        };
        let refused = start_revision < 0 || request.range.bounds().is_none();
        stream.create(&mut self.hub, view, &request);
        if !refused {
            let start = if start_revision == 0 { view.revision() + 1 } else { start_revision };
            asked.push_back(Told { wanted, start, events: Vec::new(), reached: start - 1 });
        }
    }

    /// Lets the stream speak, up to so many times; whether it had nothing more to say.
    fn poll(&mut self, client: usize, times: usize) -> Result<bool, TestCaseError> {
        let Client { stream, told, asked, canceled, progress } = &mut self.clients[client];
        for _ in 0..times {
            let said = match stream.next(|id| self.hub.take(id), self.store.view()) {
                Next::Message(said) => said,
                Next::Busy => continue,
                Next::Idle => return Ok(true),
            };
            match said {
                WatchMessage::Created { id, .. } => {
                    prop_assert!(told.insert(id, asked.pop_front().unwrap()).is_none(), "id {} is taken", id);
                }
                WatchMessage::Refused { why, .. } => {
                    prop_assert!(matches!(why, WatchRefusal::EmptyRange | WatchRefusal::NegativeRevision));
                }
                WatchMessage::Canceled { id, .. } => prop_assert!(!told.contains_key(&id)),
                WatchMessage::Compacted { id, compact_revision } => {
                    stream.settle(&mut self.hub);
                    // It may have been canceled while this was on its way.
                    let Some(gone) = told.remove(&id) else {
                        prop_assert!(canceled.contains(&id));
                        continue;
                    };
                    prop_assert!(gone.reached + 1 < compact_revision);
                    gone.check(&self.model, gone.reached)?;
                    prop_assert!(compact_revision <= self.model.compacted);
                }
                WatchMessage::Events { id, revision, events, prev_kv, .. } => {
                    let watcher = told.get_mut(&id).unwrap();
                    prop_assert!(!events.is_empty());
                    prop_assert_eq!(prev_kv, watcher.wanted.prev_kv);
                    for event in events {
                        let block = event.block();
                        let value = (!block.is_tombstone()).then(|| block.value().to_vec());
                        let (key, lease) = (block.key().to_vec(), block.lease());
                        let change = Change { main: block.mod_revision(), key, value, lease };
                        prop_assert!(change.main <= revision);
                        let before = self.model.at(change.main - 1);
                        let prev = event.prev().map(|prev| prev.value().to_vec());
                        if let Some(prev) = &prev {
                            prop_assert_eq!(Some(prev), before.get(&change.key[..]).map(|kv| &kv.value));
                        } else if prev_kv && before.contains_key(&change.key[..]) {
                            let made_anew = !block.is_tombstone() && block.create_revision() == change.main;
                            prop_assert!(
                                made_anew || change.main - 1 < self.model.compacted,
                                "no previous pair: {:?}",
                                change
                            );
                        }
                        watcher.events.push(change);
                    }
                    prop_assert!(revision > watcher.reached, "{} after {}", revision, watcher.reached);
                    watcher.reached = revision;
                    // Whole revisions, and nothing left out below the one that is promised.
                    watcher.check(&self.model, revision)?;
                }
                WatchMessage::Progress { id, revision } => {
                    prop_assert!(revision <= self.store.view().revision());
                    prop_assert!(id.is_some() || revision >= *progress, "progress to {}", revision);
                    for (_, watcher) in told.iter_mut().filter(|(of, _)| id.is_none_or(|id| id == **of)) {
                        prop_assert!(revision >= watcher.start - 1, "{:?} at {}", watcher, revision);
                        prop_assert!(id.is_none() || watcher.wanted.notify);
                        watcher.check(&self.model, revision)?;
                        watcher.reached = watcher.reached.max(revision);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Picks one of a stream's watchers that its client knows of.
    fn forget(&mut self, client: usize, which: Index) -> Option<Told> {
        let Client { stream, told, canceled, .. } = &mut self.clients[client];
        let ids: Vec<_> = told.keys().copied().collect();
        let id = *(!ids.is_empty()).then(|| which.get(&ids))?;
        stream.cancel(&mut self.hub, id);
        canceled.insert(id);
        told.remove(&id)
    }

    fn act(&mut self, action: &Action) -> Result<(), TestCaseError> {
        let present = self.store.view().revision();
        match action {
            Action::Apply(ops) => self.apply(ops),
            Action::Install(ops) => self.install(ops),
            Action::Purge(budget) => self.purge(*budget),
            Action::Advance(budget) => drop(self.hub.advance(self.store.view(), *budget, &mut Vec::new())),
            Action::Create(client, wanted) => {
                let start = wanted.start.map_or(0, |before| present - before);
                self.create(*client, wanted.clone(), start);
            }
            Action::Resume(client, which) => {
                if let Some(told) = self.forget(*client, *which) {
                    told.check(&self.model, told.reached)?;
                    self.create(*client, told.wanted, told.reached + 1);
                }
            }
            Action::Cancel(client, which) => {
                if let Some(told) = self.forget(*client, *which) {
                    told.check(&self.model, told.reached)?;
                }
                self.clients[*client].stream.cancel(&mut self.hub, 1_000);
            }
            Action::Poll(client, times) => drop(self.poll(*client, *times)?),
            Action::Ask(client) => {
                while self.hub.advance(self.store.view(), 2, &mut Vec::new()) {}
                let Client { stream, progress, .. } = &mut self.clients[*client];
                stream.ask_progress(&self.hub);
                *progress = present;
            }
            Action::Tick(client) => self.clients[*client].stream.tick(),
            Action::Replace(client) => {
                let new = Client::attach(&mut self.hub, &self.store);
                let mut gone = std::mem::replace(&mut self.clients[*client], new);
                while gone.stream.detach(&mut self.hub, 2) {}
            }
        }
        Ok(())
    }

    /// Everything is handed out and read; then every watcher that is left has got all of its history.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        let mut woken = Vec::new();
        while self.hub.advance(self.store.view(), 3, &mut woken) {}
        for client in 0..STREAMS {
            prop_assert!(self.poll(client, 10_000)?, "a stream never has done");
            prop_assert!(self.clients[client].asked.is_empty());
            for told in self.clients[client].told.values() {
                told.check(&self.model, self.model.revision)?;
            }
        }
        let watchers = self.clients.iter().map(|client| client.told.len()).sum();
        let counts = self.hub.counts();
        let expected = WatchCounts { streams: STREAMS, watchers, events: counts.events, ..WatchCounts::default() };
        prop_assert_eq!(counts, expected);
        for client in &mut self.clients {
            while client.stream.detach(&mut self.hub, 1) {}
        }
        let nothing = WatchCounts { events: counts.events, ..WatchCounts::default() };
        prop_assert_eq!(self.hub.counts(), nothing);
        Ok(())
    }
}

proptest! {
    #![proptest_config(config(3_000))]
    #[test]
    fn what_a_watcher_is_told_is_the_history(actions in prop::collection::vec(action(), 1..60)) {
        let mut run = Run::new();
        for action in &actions {
            run.act(action)?;
        }
        run.finish()?;
    }
}

/// All that a stream says now.
fn all(stream: &mut WatchStream, hub: &mut WatchHub, store: &Store) -> Vec<WatchMessage> {
    let mut said = Vec::new();
    loop {
        match stream.next(|id| hub.take(id), store.view()) {
            Next::Message(message) => said.push(message),
            Next::Busy => {}
            Next::Idle => return said,
        }
    }
}

fn watched(start_revision: i64) -> WatchRequest<'static> {
    WatchRequest { start_revision, ..WatchRequest::new(KeyRange::From(b"\0")) }
}

#[test]
fn a_stream_that_is_never_read_holds_a_full_inbox_and_no_more() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.create(&mut hub, store.view(), &watched(0));
    let count = INBOX_EVENTS_MAX * 3;
    for number in 0..count {
        apply(&mut store, &[put(b"k", number.to_string().as_bytes())]);
        hub.advance(store.view(), usize::MAX, &mut Vec::new());
    }
    // Nor does it by asking for more: what it has not read stays where its size is known.
    stream.create(&mut hub, store.view(), &watched(0));
    let counts = hub.counts();
    assert_eq!((counts.pending_events, counts.slow_watchers), (INBOX_EVENTS_MAX, 2));
    assert_eq!(counts.events, INBOX_EVENTS_MAX as u64, "what was not put into the inbox is not counted");
    // None is lost all the same.
    let values = all(&mut stream, &mut hub, &store).into_iter().flat_map(|message| match message {
        WatchMessage::Events { id: 0, events, .. } => events,
        WatchMessage::Events { .. } => panic!("nothing happened since"),
        _ => Vec::new(),
    });
    let values: Vec<_> = values.map(|event| event.block().value().to_vec()).collect();
    assert_eq!(values, (0..count).map(|number| number.to_string().into_bytes()).collect::<Vec<_>>());
    assert_eq!(hub.counts().slow_watchers, 0);
}

#[test]
fn a_watcher_that_ended_by_itself_says_no_change_once_it_is_canceled() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view()).with_inboxes(1, 1_000);
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.create(&mut hub, store.view(), &watched(0));
    stream.create(&mut hub, store.view(), &watched(0));
    assert_eq!(all(&mut stream, &mut hub, &store).len(), 2);
    // The inbox holds the first change; the two after it are compacted before the stream comes to look for them.
    for _ in 0..3 {
        apply(&mut store, &[put(b"k", b"v")]);
    }
    apply(&mut store, &[Op::Compact(4)]);
    hub.advance(store.view(), usize::MAX, &mut Vec::new());
    let Next::Message(WatchMessage::Events { id: 0, .. }) = stream.next(|id| hub.take(id), store.view()) else {
        panic!("the first watcher gets the change of the inbox");
    };
    // The change for the second one is made, and so is its end.
    stream.cancel(&mut hub, 1);
    let said = all(&mut stream, &mut hub, &store);
    assert!(
        matches!(said[..], [WatchMessage::Compacted { id: 0, .. }, WatchMessage::Compacted { id: 1, .. }]),
        "{said:?}"
    );
}

#[test]
fn one_change_is_one_event_however_many_get_it() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut streams: Vec<_> = (0..3).map(|_| WatchStream::attach(&mut hub, store.view())).collect();
    for stream in &mut streams {
        stream.create(&mut hub, store.view(), &watched(0));
        stream.create(&mut hub, store.view(), &WatchRequest::new(KeyRange::Single(b"k")));
    }
    apply(&mut store, &[put(b"k", b"v")]);
    let mut woken = Vec::new();
    hub.advance(store.view(), usize::MAX, &mut woken);
    assert_eq!(woken.len(), 3, "each stream once");
    let mut made = 0;
    for stream in &mut streams {
        for message in all(stream, &mut hub, &store) {
            if let WatchMessage::Events { events, .. } = message {
                events[0].encoded(|_| {
                    made += 1;
                    (b"bytes".as_slice().into(), 5)
                });
            }
        }
    }
    assert_eq!(made, 1);
}

/// etcd 18089, 19179: a deletion at the compacted revision was not seen by a watch from there.
#[test]
fn a_watch_from_the_compacted_revision_sees_the_deletion_there() {
    let mut store = genesis();
    apply(&mut store, &[put(b"k", b"v"), Op::Delete { key: b"k".to_vec(), end: Vec::new() }, put(b"l", b"v")]);
    apply(&mut store, &[Op::Compact(3)]);
    store.purge(usize::MAX);
    for start in [2, 3, 4] {
        let mut hub = WatchHub::new(store.view());
        let mut stream = WatchStream::attach(&mut hub, store.view());
        stream.create(&mut hub, store.view(), &watched(start));
        let said = all(&mut stream, &mut hub, &store);
        match (start, &said[1..]) {
            (2, [WatchMessage::Compacted { id: 0, compact_revision: 3 }]) => {}
            (3, [WatchMessage::Events { events, .. }]) => {
                assert!(events[0].block().is_tombstone() && events[0].block().key() == b"k", "{events:?}");
                assert_eq!(events.len(), 2);
            }
            (4, [WatchMessage::Events { events, .. }]) => assert_eq!(events.len(), 1),
            _ => panic!("from {start}: {said:?}"),
        }
    }
}

/// etcd 15220: progress overtook events that came another way. etcd 20221: a watch of the future heard of the past.
#[test]
fn progress_waits_for_the_events_and_for_the_future() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.ask_progress(&hub);
    assert!(all(&mut stream, &mut hub, &store).is_empty(), "nothing is watched");
    stream.create(&mut hub, store.view(), &watched(0));
    apply(&mut store, &[put(b"k", b"v")]);
    hub.advance(store.view(), usize::MAX, &mut Vec::new());
    stream.ask_progress(&hub);
    let said = all(&mut stream, &mut hub, &store);
    let [WatchMessage::Created { .. }, WatchMessage::Events { .. }, WatchMessage::Progress { id: None, revision: 2 }] =
        &said[..]
    else {
        panic!("{said:?}");
    };
    stream.create(&mut hub, store.view(), &watched(9));
    apply(&mut store, &[put(b"k", b"v")]);
    hub.advance(store.view(), usize::MAX, &mut Vec::new());
    stream.ask_progress(&hub);
    let said = all(&mut stream, &mut hub, &store);
    let [WatchMessage::Created { id: 1, .. }, WatchMessage::Events { id: 0, .. }] = &said[..] else {
        panic!("{said:?}");
    };
}

/// Progress was spoken of only when a stream was idle, which one that is told of every change may never be.
#[test]
fn progress_comes_in_between_where_something_always_happens() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.create(&mut hub, store.view(), &watched(0));
    let quiet = WatchRequest { progress_notify: true, ..WatchRequest::new(KeyRange::Single(b"quiet")) };
    stream.create(&mut hub, store.view(), &quiet);
    stream.tick();
    stream.ask_progress(&hub);
    let mut told = Vec::new();
    for number in 0..9 {
        apply(&mut store, &[put(b"k", b"v")]);
        hub.advance(store.view(), usize::MAX, &mut Vec::new());
        if number == 5 {
            stream.ask_progress(&hub);
        }
        match stream.next(|id| hub.take(id), store.view()) {
            Next::Message(WatchMessage::Progress { id, revision }) => told.push(format!("{id:?} at {revision}")),
            Next::Message(WatchMessage::Events { revision, .. }) => told.push(format!("events to {revision}")),
            Next::Message(WatchMessage::Created { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        "Some(1) at 1",
        "events to 4",
        "None at 4",
        "events to 6",
        // Asked for at 7.
        "events to 8",
        "None at 8",
        "events to 9",
    ];
    assert_eq!(told, expected);
}

/// A stream may be behind the hub when a watcher is made: what that wants of the revisions in between is in no inbox.
#[test]
fn a_watcher_from_the_past_reads_on_to_where_the_hub_knew_of_it() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.create(&mut hub, store.view(), &WatchRequest::new(KeyRange::Single(b"a")));
    for key in [b"a", b"b"] {
        // More than one message takes.
        for _ in 0..2_000 {
            apply(&mut store, &[put(key, b"v")]);
        }
        hub.advance(store.view(), usize::MAX, &mut Vec::new());
        if key == b"a" {
            for _ in 0..2 {
                assert!(matches!(stream.next(|id| hub.take(id), store.view()), Next::Message(_)));
            }
        }
    }
    let from_the_past = WatchRequest { start_revision: 2, ..WatchRequest::new(KeyRange::Single(b"b")) };
    stream.create(&mut hub, store.view(), &from_the_past);
    let mut next = 2_002;
    for message in all(&mut stream, &mut hub, &store) {
        if let WatchMessage::Events { id: 1, events, .. } = message {
            for event in events {
                assert_eq!(event.block().mod_revision(), next, "each once, in order");
                next += 1;
            }
        }
    }
    assert_eq!(next, 4_002, "all of them");
}

#[test]
fn a_watcher_with_the_id_of_another_hears_nothing_that_was_due_to_that() {
    let store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.create(&mut hub, store.view(), &WatchRequest { id: 7, progress_notify: true, ..watched(0) });
    stream.tick();
    stream.cancel(&mut hub, 7);
    stream.create(&mut hub, store.view(), &WatchRequest { id: 7, ..watched(0) });
    let said = all(&mut stream, &mut hub, &store);
    let [WatchMessage::Created { .. }, WatchMessage::Canceled { .. }, WatchMessage::Created { .. }] = &said[..] else {
        panic!("{said:?}");
    };
}

/// etcd 17529: a stream that was not read lost what was compacted, and was told of what came after it.
#[test]
fn a_slow_stream_is_told_that_what_it_missed_is_compacted() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view()).with_inboxes(2, 1_000);
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.create(&mut hub, store.view(), &watched(0));
    for _ in 0..6 {
        apply(&mut store, &[put(b"k", b"v")]);
        hub.advance(store.view(), usize::MAX, &mut Vec::new());
    }
    apply(&mut store, &[Op::Compact(6)]);
    store.purge(usize::MAX);
    let said = all(&mut stream, &mut hub, &store);
    let [
        WatchMessage::Created { .. },
        WatchMessage::Events { revision: 3, events, .. },
        WatchMessage::Compacted { id: 0, compact_revision: 6 },
    ] = &said[..]
    else {
        panic!("{said:?}");
    };
    assert_eq!(events.len(), 2, "what was in the inbox is not lost");
}

/// etcd 15271: a snapshot took watches back in time. etcd 9775, 20221: one of the future panicked, or heard of the past.
#[test]
fn an_installed_snapshot_takes_no_watch_back_or_ahead() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.create(&mut hub, store.view(), &watched(0));
    stream.create(&mut hub, store.view(), &watched(6));
    stream.create(&mut hub, store.view(), &watched(9));
    apply(&mut store, &[put(b"k", b"2"), put(b"k", b"3")]);
    hub.advance(store.view(), usize::MAX, &mut Vec::new());
    let said = all(&mut stream, &mut hub, &store);
    let [.., WatchMessage::Events { id: 0, revision: 3, .. }] = &said[..] else { panic!("{said:?}") };
    // The others went on to 7, without this member.
    apply(&mut store, &[put(b"k", b"4"), put(b"k", b"5"), put(b"k", b"6"), put(b"k", b"7"), Op::Compact(5)]);
    let mut loader = SnapshotLoader::default();
    store.view().chunks().for_each(|chunk| loader.push(&chunk).unwrap());
    store.install(loader.finish().unwrap());
    let mut told = Vec::new();
    for value in [b"8", b"9"] {
        hub.advance(store.view(), usize::MAX, &mut Vec::new());
        for message in all(&mut stream, &mut hub, &store) {
            match message {
                WatchMessage::Events { id, events, .. } => {
                    told.extend(events.iter().map(|event| (id, event.block().mod_revision())));
                }
                WatchMessage::Compacted { id, compact_revision } => told.push((id, -compact_revision)),
                other => panic!("{other:?}"),
            }
        }
        apply(&mut store, &[put(b"k", value)]);
    }
    hub.advance(store.view(), usize::MAX, &mut Vec::new());
    let last = all(&mut stream, &mut hub, &store);
    told.sort_unstable();
    assert_eq!(told, [(0, -5), (1, 6), (1, 7), (1, 8)]);
    let of = |message: &WatchMessage| match message {
        WatchMessage::Events { id, events, .. } => (*id, events[0].block().mod_revision(), events.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(last.iter().map(of).collect::<Vec<_>>(), [(1, 9, 1), (2, 9, 1)]);
}

/// etcd 3.0: ending a watch took the wrong one of those that begin at the same key.
#[test]
fn of_watches_that_begin_together_the_one_that_is_meant_ends() {
    let mut store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    for range in [KeyRange::Single(b"k"), KeyRange::Span(b"k", b"l"), KeyRange::Span(b"k", b"m"), KeyRange::From(b"k")]
    {
        stream.create(&mut hub, store.view(), &WatchRequest::new(range));
    }
    stream.cancel(&mut hub, 1);
    stream.cancel(&mut hub, 3);
    all(&mut stream, &mut hub, &store);
    apply(&mut store, &[put(b"k", b"v"), put(b"l", b"v"), put(b"n", b"v")]);
    hub.advance(store.view(), usize::MAX, &mut Vec::new());
    let said = all(&mut stream, &mut hub, &store);
    let of = |message: &WatchMessage| match message {
        WatchMessage::Events { id, events, .. } => (*id, events.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(said.iter().map(of).collect::<Vec<_>>(), [(0, 1), (2, 2)]);
    assert_eq!(hub.counts().watchers, 2);
}

/// etcd 14563: 0 is an id like others.
#[test]
fn ids_are_given_and_chosen() {
    let store = genesis();
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    let with_id = |id| WatchRequest { id, ..watched(0) };
    let mut said = Vec::new();
    for id in [1, 0, 0, 1, -5] {
        stream.create(&mut hub, store.view(), &with_id(id));
    }
    stream.cancel(&mut hub, 0);
    stream.cancel(&mut hub, 0);
    stream.create(&mut hub, store.view(), &with_id(0));
    for message in all(&mut stream, &mut hub, &store) {
        said.push(match message {
            WatchMessage::Created { id, .. } => format!("created {id}"),
            WatchMessage::Canceled { id, .. } => format!("canceled {id}"),
            WatchMessage::Refused { why, .. } => why.to_string(),
            other => panic!("{other:?}"),
        });
    }
    let duplicate = "mvcc: duplicate watch ID provided on the WatchStream";
    assert_eq!(said, ["created 1", "created 0", "created 2", duplicate, "created -5", "canceled 0", "created 3"]);
}

/// Jepsen, etcd 3.4.3: a watch from revision 0 begins with what comes next, and not with the first revision.
#[test]
fn a_watch_without_a_revision_begins_now() {
    let mut store = genesis();
    apply(&mut store, &[put(b"k", b"past")]);
    let mut hub = WatchHub::new(store.view());
    let mut stream = WatchStream::attach(&mut hub, store.view());
    stream.create(&mut hub, store.view(), &watched(0));
    assert!(matches!(&all(&mut stream, &mut hub, &store)[..], [WatchMessage::Created { revision: 2, .. }]));
    apply(&mut store, &[put(b"k", b"next")]);
    hub.advance(store.view(), usize::MAX, &mut Vec::new());
    let said = all(&mut stream, &mut hub, &store);
    let [WatchMessage::Events { events, .. }] = &said[..] else { panic!("{said:?}") };
    assert_eq!(events.iter().map(|event| event.block().mod_revision()).collect::<Vec<_>>(), [3]);
}
