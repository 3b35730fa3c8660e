//! The hub of all watches, who keeps it up to date, and one client's stream of them.
//!
//! The driver's thread only says that something was published, and only while somebody watches. One task goes over the new revisions
//! and wakes the streams that have something to take. Each stream does its own work in the task of its call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

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
    wakers: HashMap<u64, Arc<Notify>>,
}

impl Shared {
    fn wake(&self, woken: &[u64]) {
        for stream in woken {
            if let Some(waker) = self.wakers.get(stream) {
                waker.notify_one();
            }
        }
    }
}

impl Watches {
    /// Nobody watches yet.
    pub(crate) fn new(view: &View) -> Self {
        let hub = WatchHub::new(view);
        Self {
            position: AtomicI64::new(hub.position()),
            shared: Mutex::new(Shared { hub, wakers: HashMap::new() }),
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
        let mut shared = self.lock();
        let more = shared.hub.advance(&view, FEED_CHANGES, &mut woken);
        self.position.store(shared.hub.position(), Ordering::SeqCst);
        shared.wake(&woken);
        more
    }
}

/// Hands out what is published, until the server stops.
pub(crate) async fn feed(watches: Arc<Watches>, views: ViewReader, mut stop: watch::Receiver<()>) {
    loop {
        tokio::select! {
            () = watches.published.notified() => {}
            _ = stop.changed() => return,
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
    woken: Arc<Notify>,
}

impl WatchCall {
    pub(crate) fn open(watches: Arc<Watches>, views: ViewReader) -> Self {
        // Before the view is loaded: what is published from here on is handed out.
        watches.streams.fetch_add(1, Ordering::SeqCst);
        let woken = Arc::new(Notify::new());
        let stream = {
            let mut shared = watches.lock();
            let stream = WatchStream::attach(&mut shared.hub, &views.load());
            watches.position.store(shared.hub.position(), Ordering::SeqCst);
            shared.wakers.insert(stream.id(), Arc::clone(&woken));
            stream
        };
        Self { watches, views, stream, woken }
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

    /// Waits until there may be something to say after [`Next::Idle`].
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// The next message, waited for.
    pub(crate) async fn message(&mut self) -> WatchMessage {
        loop {
            match self.poll() {
                Next::Message(message) => return message,
                Next::Busy => tokio::task::yield_now().await,
                Next::Idle => self.woken().await,
            }
        }
    }
}

impl Drop for WatchCall {
    fn drop(&mut self) {
        // A lock for each step: others are served in between.
        while self.stream.detach(&mut self.watches.lock().hub, DETACH_WATCHERS) {}
        self.watches.lock().wakers.remove(&self.stream.id());
        self.watches.streams.fetch_sub(1, Ordering::SeqCst);
    }
}
