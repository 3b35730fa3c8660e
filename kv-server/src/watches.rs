//! The hub of all watches, who keeps it up to date, and one client's stream of them.
//!
//! The driver's thread only says that something was published, and only while somebody watches. One task goes over the new revisions
//! and wakes the streams that have something to take. Each stream does its own work in the task of its call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use kv_store::{Next, View, ViewReader, WatchCounts, WatchHub, WatchMessage, WatchRequest, WatchStream};
use tokio::sync::{Notify, watch};

/// Changes that are handed out under one lock: a few hundred microseconds, if each has many watchers.
const FEED_CHANGES: usize = 256;
/// Watchers of a stream that has gone that are removed under one lock.
const DETACH_WATCHERS: usize = 256;

/// The hub, shared by its streams.
#[derive(Debug)]
pub(crate) struct Watches {
    shared: Mutex<Shared>,
    published: Notify,
    /// Streams. The driver's thread looks at these two, and takes no lock.
    streams: AtomicUsize,
    position: AtomicI64,
}

#[derive(Debug)]
struct Shared {
    hub: WatchHub,
    bells: HashMap<u64, Arc<Bell>>,
}

/// Wakes a stream. Rung while nobody waits, it is heard by whoever does next.
#[derive(Debug, Default)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Bell {
    fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        self.task.wake();
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.rung.load(Ordering::SeqCst) {
            self.task.register(context.waker());
        }
        // Once more: it may have rung before the task was registered.
        if self.rung.swap(false, Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Watches {
    /// Nobody watches yet.
    pub(crate) fn new(view: &View) -> Self {
        let hub = WatchHub::new(view);
        Self {
            position: AtomicI64::new(hub.position()),
            shared: Mutex::new(Shared { hub, bells: HashMap::new() }),
            published: Notify::new(),
            streams: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nothing panics while it holds the hub")
    }

    /// A view was published. To be called after it was.
    pub(crate) fn published(&self) {
        if self.streams.load(Ordering::SeqCst) > 0 {
            self.published.notify_one();
        }
    }

    /// Whether everything up to `revision` has been handed out, so that history below it may go.
    pub(crate) fn has_handed_out(&self, revision: i64) -> bool {
        self.streams.load(Ordering::SeqCst) == 0 || self.position.load(Ordering::SeqCst) >= revision
    }

    /// What there is.
    pub(crate) fn counts(&self) -> WatchCounts {
        self.lock().hub.counts()
    }

    /// Hands out some of what is new; whether more is.
    fn feed_some(&self, views: &ViewReader) -> bool {
        let view = views.load_full();
        let mut woken = Vec::new();
        let (more, bells) = {
            let mut shared = self.lock();
            let more = shared.hub.advance(&view, FEED_CHANGES, &mut woken);
            self.position.store(shared.hub.position(), Ordering::SeqCst);
            let bells: Vec<_> = woken.iter().filter_map(|stream| shared.bells.get(stream).cloned()).collect();
            (more, bells)
        };
        // Without the lock, which is the first that those who are woken want.
        bells.iter().for_each(|bell| bell.ring());
        more
    }

    /// Wakes every stream, so that it sees that the server stops.
    fn wake_all(&self) {
        self.lock().bells.values().for_each(|bell| bell.ring());
    }
}

/// Hands out what is published, until the server stops; then every stream is woken once more.
pub(crate) async fn feed(watches: Arc<Watches>, views: ViewReader, mut stop: watch::Receiver<()>) {
    loop {
        tokio::select! {
            () = watches.published.notified() => {}
            _ = stop.changed() => return watches.wake_all(),
        }
        while watches.feed_some(&views) {
            tokio::task::yield_now().await;
        }
    }
}

/// One client's watchers. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct WatchCall {
    watches: Arc<Watches>,
    views: ViewReader,
    stream: WatchStream,
    bell: Arc<Bell>,
}

impl WatchCall {
    pub(crate) fn open(watches: Arc<Watches>, views: ViewReader) -> Self {
        // Before the view is loaded: what is published from here on is handed out.
        watches.streams.fetch_add(1, Ordering::SeqCst);
        let bell = Arc::new(Bell::default());
        let stream = {
            let mut shared = watches.lock();
            let stream = WatchStream::attach(&mut shared.hub, &views.load());
            watches.position.store(shared.hub.position(), Ordering::SeqCst);
            shared.bells.insert(stream.id(), Arc::clone(&bell));
            stream
        };
        Self { watches, views, stream, bell }
    }

    /// Makes a watcher, or not: the stream says which.
    pub(crate) fn create(&mut self, request: &WatchRequest<'_>) {
        let mut shared = self.watches.lock();
        // Under the lock, so that it is no older than the hub.
        let view = self.views.load_full();
        self.stream.create(&mut shared.hub, &view, request);
    }

    /// Ends a watcher.
    pub(crate) fn cancel(&mut self, id: i64) {
        self.stream.cancel(&mut self.watches.lock().hub, id);
    }

    /// Asks for a word on how far the stream is.
    pub(crate) fn ask_progress(&mut self) {
        while self.watches.feed_some(&self.views) {}
        self.stream.ask_progress(&self.watches.lock().hub);
    }

    /// An interval of progress has passed.
    pub(crate) fn tick(&mut self) {
        self.stream.tick();
    }

    /// The next message, if there is one now.
    pub(crate) fn poll(&mut self) -> Next {
        let next = self.stream.next(|id| self.watches.lock().hub.take(id), &self.views.load_full());
        if let Next::Message(WatchMessage::Compacted { .. }) = next {
            self.stream.settle(&mut self.watches.lock().hub);
        }
        next
    }

    /// Ready when there may be something to say after [`Next::Idle`], or the server stops.
    pub(crate) fn poll_woken(&self, context: &mut Context<'_>) -> Poll<()> {
        self.bell.poll(context)
    }

    /// The next message, waited for.
    pub(crate) async fn message(&mut self) -> WatchMessage {
        loop {
            match self.poll() {
                Next::Message(message) => return message,
                Next::Busy => tokio::task::yield_now().await,
                Next::Idle => std::future::poll_fn(|context| self.poll_woken(context)).await,
            }
        }
    }
}

impl Drop for WatchCall {
    fn drop(&mut self) {
        // A lock for each step: others are served in between.
        while self.stream.detach(&mut self.watches.lock().hub, DETACH_WATCHERS) {}
        self.watches.lock().bells.remove(&self.stream.id());
        self.watches.streams.fetch_sub(1, Ordering::SeqCst);
    }
}
