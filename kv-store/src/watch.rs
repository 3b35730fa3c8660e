//! Watching: which changes of which keys go to whom, and in which order.
//!
//! ```text
//! view --WatchHub::advance--> one inbox per stream --WatchStream::next--> messages
//!  '----------------------- history, for who is behind ----^
//! ```
//!
//! The [`WatchHub`] goes over every new revision once, as the published views come in, and puts each change into the inbox of every
//! stream that has a watcher for its key. A [`WatchStream`] belongs to one client: it knows its watchers, takes its inbox, and turns
//! it into messages. A watcher that begins in the past, or whose stream's inbox ran over, reads the history of a view instead; it is
//! the same path from there on, so that a fast watcher and a slow one differ only in their position.
//!
//! Both are values. Whoever owns them says when: `kv-server` has the hub behind a lock that is held for short steps, and a stream in
//! the task of its call.
//!
//! # Invariants
//! * Each watcher gets the changes of its keys in the order of revisions, each once, all those of one revision in one message.
//! * None is left out: a watcher whose next revision is gone is told so, by [`WatchMessage::Compacted`], and ends.
//! * A stream whose client does not read holds at most [`INBOX_EVENTS_MAX`] changes, or [`INBOX_BYTES_MAX`] bytes of them, and
//!   holds nobody back.
//! * A revision R in a message to a watcher says that it has got everything up to R. In a [`WatchMessage::Progress`] without a
//!   watcher it says so of the whole stream.
//!
//! ```
//! use kv_store::{KeyRange, Members, Next, Store, WatchHub, WatchMessage, WatchRequest, WatchStream};
//! # use kv_codec::command::{BatchBuilder, Body, CommandHeader, Put};
//! # let mut store = Store::genesis(Members::default());
//! let mut hub = WatchHub::new(store.view());
//! let mut stream = WatchStream::attach(&mut hub, store.view());
//! stream.create(&mut hub, store.view(), &WatchRequest::new(KeyRange::Single(b"k")));
//! # let put = Body::Put(Put { key: b"k", value: b"v", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false });
//! # let mut batch = BatchBuilder::default();
//! # batch.push(&put.encode(&CommandHeader::default()));
//! # store.apply(2, 1, &batch.finish(), &mut Vec::new())?;
//! // ... a put of "k" is applied ...
//! hub.advance(store.view(), usize::MAX, &mut Vec::new());
//! let mut messages = Vec::new();
//! while let Next::Message(message) = stream.next(|id| hub.take(id), store.view()) {
//!     messages.push(message);
//! }
//! assert!(matches!(messages[0], WatchMessage::Created { id: 0, revision: 1 }));
//! assert!(matches!(&messages[1], WatchMessage::Events { id: 0, events, .. } if events[0].block().key() == b"k"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod event;
mod hub;
mod range_index;
mod stream;

pub use event::Event;
pub use hub::{INBOX_BYTES_MAX, INBOX_EVENTS_MAX, Taken, WatchCounts, WatchHub};
pub use stream::{Next, WatchMessage, WatchRefusal, WatchRequest, WatchStream};
