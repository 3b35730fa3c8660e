//! Clients with a mixed workload: each waits for an answer before it asks again, at whichever member it is connected to.
//!
//! Every value is written once in a run, so that it tells who wrote it. Keys are of a *generation*, a few seconds long: those of one have
//! few enough calls that the search which believes no revision ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_sim::history::{Answer, Guard, Request, Step, Told};
use tonic::transport::Channel;

use super::calls::{Call, Outcome, ask};
use super::shared::Shared;

/// How long a generation of keys is used.
const GENERATION: Duration = Duration::from_secs(5);
/// Keys of a generation.
const KEYS: u32 = 12;
/// Lists of a generation.
const LISTS: u32 = 3;
/// Below it a client that is behind reads from the past.
const PAST_REVISIONS: i64 = 50;
/// Keys that a client remembers to have seen: older ones are of generations that are over.
const SEEN_MAX: usize = 256;

/// One client.
pub(super) struct Client {
    pub(super) id: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) random: fastrand::Rng,
    /// The time between two of its calls, on average.
    pub(super) pause: Duration,
    kv: Option<KvClient<Channel>>,
    /// When each key was last seen to have changed: what guards are about.
    seen: BTreeMap<Vec<u8>, i64>,
    calls: Vec<Call>,
}

impl Client {
    pub(super) fn new(id: u32, shared: Arc<Shared>, random: fastrand::Rng, pause: Duration) -> Self {
        Self { id, shared, random, pause, kv: None, seen: BTreeMap::new(), calls: Vec::new() }
    }

    /// Asks until the load ends.
    pub(super) async fn run(mut self) -> Vec<Call> {
        while !self.shared.stopped() {
            let pause_us = u64::try_from(self.pause.as_micros()).expect("less than a second");
            tokio::time::sleep(Duration::from_micros(self.random.u64(..=2 * pause_us))).await;
            match self.random.u32(..100) {
                0..22 => {
                    let request = Request::Write(Step::Put(self.key(), self.value(0)));
                    self.call(request, false).await;
                }
                22..36 => {
                    let key = self.key();
                    self.call(get(&key), false).await;
                }
                36..46 => {
                    let request = self.range(0);
                    self.call(request, false).await;
                }
                46..56 => {
                    let request = if self.random.bool() { get(&self.key()) } else { self.range(0) };
                    self.call(request, true).await;
                }
                56..61 => {
                    let past = self.shared.revision() - self.random.i64(0..PAST_REVISIONS);
                    let request = self.range(past.max(1));
                    self.call(request, false).await;
                }
                61..75 => {
                    let request = self.guarded();
                    self.call(request, false).await;
                }
                75..88 => self.append().await,
                88..96 => {
                    let request = Request::Write(Step::Delete(self.key(), Vec::new()));
                    self.call(request, false).await;
                }
                _ => {
                    let (from, end) = self.some_keys();
                    self.call(Request::Write(Step::Delete(from, end)), false).await;
                }
            }
        }
        self.calls
    }

    fn generation(&self) -> u64 {
        self.shared.now() / u64::try_from(GENERATION.as_nanos()).expect("a few seconds")
    }

    fn key(&mut self) -> Vec<u8> {
        format!("chaos/k/{:06}/{:02}", self.generation(), self.random.u32(..KEYS)).into_bytes()
    }

    /// A value that nobody else writes: it names its client and its call, and its place in the call.
    fn value(&self, place: u32) -> Vec<u8> {
        format!("{}.{}.{place}", self.id, self.calls.len()).into_bytes()
    }

    /// One to three neighbours.
    fn some_keys(&mut self) -> (Vec<u8>, Vec<u8>) {
        let generation = self.generation();
        let first = self.random.u32(..KEYS);
        let end = first + self.random.u32(1..=3);
        (
            format!("chaos/k/{generation:06}/{first:02}").into_bytes(),
            format!("chaos/k/{generation:06}/{end:02}").into_bytes(),
        )
    }

    fn range(&mut self, revision: i64) -> Request {
        let generation = self.generation();
        let (key, end) =
            (format!("chaos/k/{generation:06}/").into_bytes(), format!("chaos/k/{generation:06}0").into_bytes());
        let limit = if self.random.u32(..3) == 0 { self.random.usize(1..6) } else { 0 };
        Request::Range { key, end, limit, revision }
    }

    /// A change under the condition that a key is as this client last saw it, or one that is made either way.
    fn guarded(&mut self) -> Request {
        let (key, other) = (self.key(), self.key());
        let put = Step::Put(key.clone(), self.value(0));
        let read = Step::Range(key.clone(), Vec::new(), 0);
        if self.random.u32(..4) == 0 {
            // Both lists do the same to the key: with an outcome that nobody knows, it is known what that would be.
            let guards = vec![(key, Guard::VersionAbove(self.random.i64(0..4)))];
            return Request::Txn { guards, success: vec![put.clone(), read], failure: vec![put] };
        }
        let guards = vec![(key.clone(), Guard::ModIs(self.seen.get(&key).copied().unwrap_or(0)))];
        let mut success = vec![put, read.clone()];
        if other != key {
            let value = self.value(1);
            let more = if self.random.bool() { Step::Put(other, value) } else { Step::Delete(other, Vec::new()) };
            success.push(more);
        }
        Request::Txn { guards, success, failure: vec![read] }
    }

    /// Reads a list and puts it back with one element more, unless somebody else did meanwhile.
    async fn append(&mut self) {
        let list = format!("chaos/l/{:06}/{}", self.generation(), self.random.u32(..LISTS)).into_bytes();
        let Some(Answer { told: Told::Range(pairs, ..), .. }) = self.call(get(&list), false).await else { return };
        let pair = pairs.into_iter().next();
        let seen = pair.as_ref().map_or(0, |pair| pair.mod_revision);
        let mut value = pair.map_or_else(Vec::new, |pair| [pair.value, b" ".to_vec()].concat());
        value.extend(self.value(0));
        let request = Request::Txn {
            guards: vec![(list.clone(), Guard::ModIs(seen))],
            success: vec![Step::Put(list.clone(), value)],
            failure: vec![Step::Range(list, Vec::new(), 0)],
        };
        self.call(request, false).await;
    }

    /// Makes a call and notes it. What it was answered, if it was.
    async fn call(&mut self, request: Request, serializable: bool) -> Option<Answer> {
        let mut kv = match self.kv.take() {
            Some(kv) => kv,
            None => KvClient::new(self.shared.connect(&mut self.random).await?),
        };
        let made = self.shared.now();
        let outcome = ask(&mut kv, &request, 0, serializable).await;
        let ended = self.shared.now();
        // Whoever gives no answer is left.
        if !matches!(outcome, Outcome::Unknown(_)) {
            self.kv = Some(kv);
        }
        let answer = match &outcome {
            Outcome::Answered(answer) => Some(answer.clone()),
            _ => None,
        };
        if let Some(answer) = &answer {
            self.shared.saw(answer.revision);
            self.remember(&request, answer);
        }
        self.calls.push(Call { client: self.id, request, lease: 0, serializable, made, ended, outcome });
        answer
    }

    fn remember(&mut self, request: &Request, answer: &Answer) {
        match (request, &answer.told) {
            (Request::Write(Step::Put(key, _)), _) => {
                self.seen.insert(key.clone(), answer.revision);
            }
            (_, Told::Range(pairs, ..)) => {
                self.seen.extend(pairs.iter().map(|pair| (pair.key.clone(), pair.mod_revision)));
            }
            _ => {}
        }
        while self.seen.len() > SEEN_MAX {
            self.seen.pop_first();
        }
    }
}

fn get(key: &[u8]) -> Request {
    Request::Range { key: key.to_vec(), end: Vec::new(), limit: 0, revision: 0 }
}
