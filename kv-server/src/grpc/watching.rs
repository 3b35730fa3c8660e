//! A stream of watches: requests in, answers out, over whatever carries both.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::stream;
use kv_store::{Next, WatchRequest};
use tokio::sync::watch::Receiver;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::{Stream, StreamExt};

use super::MESSAGE_OVERHEAD_BYTES;
use super::streamed::Streamed;
use super::watch_frame::{WatchFrame, frames};
use crate::proto::etcdserverpb as pb;
use crate::service::Core;
use crate::service::watch::{WatchAsked, asked};
use crate::status::ApiError;
use crate::watches::WatchCall;

/// Answers after which a stream that always has one looks for what its client wants.
const ANSWERS_BETWEEN_REQUESTS: u32 = 64;
/// New watchers that are made before the first of them is told anything: those that begin in the past read the history together.
const CREATED_AT_ONCE: u32 = 64;

/// The answers to `requests`, until the client has gone or the server stops; an error is the last. The stream is worked on only while
/// somebody takes answers.
pub(crate) fn watch_frames<S, E>(
    core: &Arc<Core>,
    stop: &Receiver<()>,
    requests: S,
) -> impl Stream<Item = Result<WatchFrame, ApiError>> + Send + use<S, E>
where
    S: Stream<Item = Result<pb::WatchRequest, E>> + Unpin + Send,
    E: Send,
{
    let mut interval = tokio::time::interval(core.limits.watch_progress_interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick of an interval comes at once.
    interval.reset();
    let watching = Watching {
        core: Arc::clone(core),
        call: WatchCall::open(core.watches.clone(), core.views.clone()),
        requests: Some(requests),
        frames: VecDeque::new(),
        interval,
        stop: stop.clone(),
        answers: 0,
        streamed: Streamed::begin(core, "etcdserverpb.Watch", "Watch", "bidi_stream"),
    };
    stream::unfold(Some(watching), async |watching| {
        let mut watching = watching?;
        match watching.next().await {
            Ok(frame) => Some((Ok(frame), Some(watching))),
            Err(error) => {
                watching.streamed.end(error.code());
                Some((Err(error), None))
            }
        }
    })
}

/// A stream of watches under way.
struct Watching<S> {
    core: Arc<Core>,
    call: WatchCall,
    /// `None` once the client has said all it had to say.
    requests: Option<S>,
    /// The rest of an answer that was cut.
    frames: VecDeque<WatchFrame>,
    interval: Interval,
    stop: Receiver<()>,
    answers: u32,
    streamed: Streamed,
}

impl<S: Stream<Item = Result<pb::WatchRequest, E>> + Unpin, E> Watching<S> {
    /// The next answer; the error that ends the stream.
    async fn next(&mut self) -> Result<WatchFrame, ApiError> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(frame);
            }
            self.answers = self.answers.wrapping_add(1);
            if self.answers.is_multiple_of(ANSWERS_BETWEEN_REQUESTS) {
                self.look().await?;
            }
            match self.call.poll() {
                Next::Message(message) => {
                    let core = &self.core;
                    let bytes_max = core.limits.request_bytes_max.saturating_add(MESSAGE_OVERHEAD_BYTES);
                    self.frames = frames(message, bytes_max, |revision| core.header(revision)).into();
                }
                Next::Busy => {
                    self.look().await?;
                    tokio::task::yield_now().await;
                }
                Next::Idle => self.wait().await?,
            }
        }
    }

    /// Does what waits to be done: a stream may always have something to say.
    async fn look(&mut self) -> Result<(), ApiError> {
        tokio::select! {
            biased;
            _ = self.interval.tick() => {
                self.call.tick();
                Ok(())
            }
            request = next_request(&mut self.requests) => self.take(request).await,
            () = std::future::ready(()) => Ok(()),
        }
    }

    /// Waits until there is something to do, and does it. No future is made for any of it: with many streams they add up.
    async fn wait(&mut self) -> Result<(), ApiError> {
        let request = std::future::poll_fn(|context| {
            if self.stop.has_changed().unwrap_or(true) {
                return Poll::Ready(Err(ApiError::Stopped));
            }
            // Rung when the server stops as well.
            if self.call.poll_woken(context).is_ready() {
                return Poll::Ready(Ok(None));
            }
            if let Some(requests) = &mut self.requests
                && let Poll::Ready(request) = Pin::new(requests).poll_next(context)
            {
                return Poll::Ready(Ok(Some(request)));
            }
            if self.interval.poll_tick(context).is_ready() {
                self.call.tick();
                return Poll::Ready(Ok(None));
            }
            Poll::Pending
        });
        match request.await? {
            Some(request) => self.take(request).await,
            None => Ok(()),
        }
    }

    /// Does what the client wants, and if that is a watcher, what it has asked for besides.
    async fn take(&mut self, mut request: Option<Result<pb::WatchRequest, E>>) -> Result<(), ApiError> {
        let mut created = 0;
        while self.take_one(request)? && created < CREATED_AT_ONCE {
            created += 1;
            request = tokio::select! {
                biased;
                request = next_request(&mut self.requests) => request,
                () = std::future::ready(()) => return Ok(()),
            };
        }
        Ok(())
    }

    /// Does what the client wants; whether that was a watcher. A client that has gone ends the stream; one that has said all it had to
    /// say does not.
    fn take_one(&mut self, request: Option<Result<pb::WatchRequest, E>>) -> Result<bool, ApiError> {
        match request {
            Some(Ok(request)) => {
                match asked(&request) {
                    Some(WatchAsked::Create(create)) => {
                        self.call.create(&WatchRequest::from(create));
                        return Ok(true);
                    }
                    Some(WatchAsked::Cancel(id)) => self.call.cancel(id),
                    Some(WatchAsked::Progress) => self.call.ask_progress(),
                    None => {}
                }
                Ok(false)
            }
            None => {
                self.requests = None;
                Ok(false)
            }
            Some(Err(_)) => Err(ApiError::WatchCanceled),
        }
    }
}

/// The next request; never, once there is none any more.
async fn next_request<S: Stream + Unpin>(requests: &mut Option<S>) -> Option<S::Item> {
    match requests {
        Some(requests) => requests.next().await,
        None => std::future::pending().await,
    }
}
