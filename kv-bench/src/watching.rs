//! A stream of watchers, from its client's side.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kv_server::proto::etcdserverpb::watch_client::WatchClient;
use kv_server::proto::etcdserverpb::watch_request::RequestUnion;
use kv_server::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Watchers that were made. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Watching {
    /// The stream ends with its requests.
    _requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watching {
    /// Makes the watchers, all on one stream, and waits until each is there.
    pub(crate) async fn open(channel: &Channel, creates: Vec<WatchCreateRequest>) -> Result<Self> {
        let wanted = creates.len();
        // Asked before there is an answer: etcd sends none, not even the headers, until it has something to say.
        let (requests, receiver) = mpsc::channel(wanted.max(1));
        for create in creates {
            let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            requests.try_send(request).context("more watchers than there is room for")?;
        }
        let mut watches = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let answers = watches.watch(ReceiverStream::new(receiver)).await.context("opening a watch")?.into_inner();
        let mut watching = Self { _requests: requests, answers };
        let mut created = 0;
        while created < wanted {
            let answer = watching.next().await?;
            created += usize::from(answer.created);
        }
        Ok(watching)
    }

    /// The next answer; a watcher that ends, or a stream, is an error.
    pub(crate) async fn next(&mut self) -> Result<WatchResponse> {
        let answer = self.answers.message().await.context("a watch broke off")?.context("a watch ended")?;
        ensure!(!answer.canceled, "a watcher was canceled: {}", answer.cancel_reason);
        Ok(answer)
    }
}

/// A watcher of one key.
pub(crate) fn of_key(key: Bytes) -> WatchCreateRequest {
    WatchCreateRequest { key, ..Default::default() }
}

/// A watcher of all keys from `first` up to the one before `end`.
pub(crate) fn of_range(first: Bytes, end: Bytes) -> WatchCreateRequest {
    WatchCreateRequest { key: first, range_end: end, ..Default::default() }
}
