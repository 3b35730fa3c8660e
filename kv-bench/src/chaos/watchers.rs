//! Those who watch, over one stream after another, and write down all that they are told.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kv_server::proto::etcdserverpb::watch_client::WatchClient;
use kv_server::proto::etcdserverpb::watch_request::RequestUnion;
use kv_server::proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use kv_server::proto::mvccpb::event::EventType;
use kv_sim::history::Pair;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::calls::pair;
use super::shared::Shared;

/// A stream that says nothing for so long is left, and another one opened: it is asked for its progress more often.
const SILENT_MAX: Duration = Duration::from_secs(4);
/// Between two requests for progress.
const ASKED_EVERY: Duration = Duration::from_millis(700);
/// One stream in this many is left on purpose, about so often as it says something.
const LEFT_EVERY: u32 = 2_000;

/// One change of one key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Vec<u8>,
    /// What it became; nothing when it was deleted.
    pub(super) pair: Option<Pair>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pair {
            Some(pair) => write!(f, "{pair:?}"),
            None => write!(f, "\"{}\" deleted", self.key.escape_ascii()),
        }
    }
}

/// What a watcher was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// A stream begins with this revision.
    Opened(i64),
    /// The changes in one answer, each with its revision; and when they came.
    Changes(u64, Vec<(i64, Change)>),
    /// There is nothing up to this revision that it was not told.
    Progress(i64),
    /// It was canceled, for what it wants is compacted up to this revision.
    Compacted(i64),
}

/// A watcher and all that it was told.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) name: &'static str,
    /// The keys that it watches, the end not included.
    pub(super) keys: (Vec<u8>, Vec<u8>),
    pub(super) heard: Vec<Heard>,
}

/// A watcher at work.
pub(super) struct Watcher {
    pub(super) name: &'static str,
    pub(super) keys: (Vec<u8>, Vec<u8>),
    pub(super) shared: Arc<Shared>,
    pub(super) random: fastrand::Rng,
    /// The last revision that it needs to be told no more.
    pub(super) reached: Arc<AtomicI64>,
    /// It leaves once it has reached this one.
    pub(super) until: Arc<AtomicI64>,
}

impl Watcher {
    /// Watches until it has reached `until`.
    pub(super) async fn run(mut self) -> Watched {
        let mut heard = Vec::new();
        while !self.done() {
            let Some(channel) = self.shared.connect(&mut self.random).await else { continue };
            let next = self.reached.load(Ordering::SeqCst) + 1;
            let (requests, receiver) = mpsc::channel(2);
            let create = WatchCreateRequest {
                key: self.keys.0.clone().into(),
                range_end: self.keys.1.clone().into(),
                start_revision: next,
                progress_notify: true,
                ..WatchCreateRequest::default()
            };
            let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            if requests.try_send(create).is_err() {
                continue;
            }
            let mut watches = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
            let opened = tokio::time::timeout(SILENT_MAX, watches.watch(ReceiverStream::new(receiver))).await;
            let Ok(Ok(answers)) = opened else { continue };
            heard.push(Heard::Opened(next));
            self.listen(answers.into_inner(), &requests, &mut heard).await;
        }
        Watched { name: self.name, keys: self.keys, heard }
    }

    fn done(&self) -> bool {
        self.reached.load(Ordering::SeqCst) >= self.until.load(Ordering::SeqCst)
    }

    /// Until the stream ends, or is left.
    async fn listen(
        &mut self,
        mut answers: Streaming<WatchResponse>,
        requests: &mpsc::Sender<WatchRequest>,
        heard: &mut Vec<Heard>,
    ) {
        let (mut asked, mut silent_since) = (tokio::time::Instant::now(), tokio::time::Instant::now());
        while !self.done() && silent_since.elapsed() < SILENT_MAX {
            let answer = match tokio::time::timeout_at(asked + ASKED_EVERY, answers.message()).await {
                Ok(Ok(Some(answer))) => answer,
                Ok(_) => return,
                Err(_) => {
                    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    drop(requests.try_send(WatchRequest { request_union: Some(progress) }));
                    asked = tokio::time::Instant::now();
                    continue;
                }
            };
            silent_since = tokio::time::Instant::now();
            if !self.take(answer, heard) || self.random.u32(..LEFT_EVERY) == 0 {
                return;
            }
        }
    }

    /// Writes down an answer. Whether the stream goes on.
    fn take(&self, answer: WatchResponse, heard: &mut Vec<Heard>) -> bool {
        if answer.canceled {
            if answer.compact_revision > 0 {
                heard.push(Heard::Compacted(answer.compact_revision));
                self.reached.fetch_max(answer.compact_revision - 1, Ordering::SeqCst);
            }
            return false;
        }
        let revision = answer.header.map_or(0, |header| header.revision);
        if answer.created {
            return true;
        }
        if answer.events.is_empty() {
            heard.push(Heard::Progress(revision));
            self.reached.fetch_max(revision, Ordering::SeqCst);
            return true;
        }
        let mut changes = Vec::new();
        for event in answer.events {
            let Some(kv) = event.kv else { continue };
            let deleted = event.r#type == i32::from(EventType::Delete);
            let (key, revision) = (kv.key.to_vec(), kv.mod_revision);
            changes.push((revision, Change { key, pair: (!deleted).then(|| pair(kv)) }));
        }
        let last = changes.last().map_or(0, |(revision, _)| *revision);
        heard.push(Heard::Changes(self.shared.now(), changes));
        self.reached.fetch_max(last, Ordering::SeqCst);
        true
    }
}
