//! The load: writers that wait for each answer, and one that asks for hashes meanwhile.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kv_server::proto::etcdserverpb::{DeleteRangeRequest, HashKvRequest, PutRequest};
use kv_server::proto::mvccpb::KeyValue;
use tonic::Status;
use tonic::transport::Channel;

use super::ledger::{Answer, Event, Op, Stored};

/// A server that takes longer over one write is as good as dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Bytes that follow a value's header: none up to this many.
const VALUE_BYTES_MAX: usize = 512;
/// One value in this many is large, so that log segments fill up and are replaced.
const LARGE_VALUE_EVERY: u32 = 128;
/// How large.
const LARGE_VALUE_BYTES: usize = 32 * 1024;
/// One write in this many is a delete.
const DELETE_EVERY: u32 = 5;
/// Pause between two hashes: each walks the whole history, and the writers are what matters.
const HASH_EVERY: Duration = Duration::from_millis(40);

/// What the tasks of one round share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Set just before the kill: errors from then on are expected.
    pub(super) killed: AtomicBool,
    /// The highest revision that was acknowledged.
    pub(super) revision: AtomicI64,
}

/// One writer, for one round.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) id: u32,
    pub(super) round: u32,
    /// How many keys it has to itself.
    pub(super) keys: u32,
    pub(super) random: fastrand::Rng,
}

/// What a writer saw.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Its writes, in order; the last one is unknown when it was stopped by an error.
    pub(super) events: Vec<Event>,
    /// An error that came while the server should have been well.
    pub(super) early_error: Option<String>,
}

/// The part of the key space that the tool uses.
pub(super) const PREFIX: &str = "crash/";
/// The first key after it: `0` follows `/`.
pub(super) const PREFIX_END: &str = "crash0";

impl Writer {
    /// Writes until the first error, which the kill brings at the latest.
    pub(super) async fn run(mut self, channel: Channel, shared: &Shared) -> Written {
        let mut client = KvClient::new(channel);
        let mut written = Written::default();
        for counter in 0.. {
            let key = format!("{PREFIX}{:04}/{:03}", self.id, self.random.u32(..self.keys)).into_bytes();
            let op = if self.random.u32(..DELETE_EVERY) == 0 { Op::Delete } else { Op::Put(self.value(counter)) };
            let previous = self.random.bool();
            let answer = tokio::time::timeout(ANSWER_WITHIN, ask(&mut client, &key, &op, previous)).await;
            let error = match answer {
                Ok(Ok((revision, answer))) => {
                    shared.revision.fetch_max(revision, Ordering::Relaxed);
                    written.events.push(Event { key, op, answer });
                    continue;
                }
                Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
                Err(_) => format!("no answer within {ANSWER_WITHIN:?}"),
            };
            if !shared.killed.load(Ordering::SeqCst) {
                written.early_error = Some(error);
            }
            written.events.push(Event { key, op, answer: Answer::Unknown });
            break;
        }
        written
    }

    /// A value unlike any other: who wrote it, and some bytes of any kind.
    fn value(&mut self, counter: u64) -> Vec<u8> {
        let large = self.random.u32(..LARGE_VALUE_EVERY) == 0;
        let bytes = if large { LARGE_VALUE_BYTES } else { self.random.usize(..=VALUE_BYTES_MAX) };
        let mut value = format!("round {} writer {} write {counter} ", self.round, self.id).into_bytes();
        value.extend(std::iter::repeat_with(|| self.random.u8(..)).take(bytes));
        value
    }
}

/// One write and its answer, with the revision told.
async fn ask(client: &mut KvClient<Channel>, key: &[u8], op: &Op, previous: bool) -> Result<(i64, Answer), Status> {
    let key = key.to_vec().into();
    let (header, changed, previous) = match op {
        Op::Put(value) => {
            let request = PutRequest { key, value: value.clone().into(), prev_kv: previous, ..PutRequest::default() };
            let response = client.put(request).await?.into_inner();
            (response.header, 1, previous.then(|| response.prev_kv.map(stored)))
        }
        Op::Delete => {
            let request = DeleteRangeRequest { key, prev_kv: previous, ..DeleteRangeRequest::default() };
            let response = client.delete_range(request).await?.into_inner();
            let before = response.prev_kvs.into_iter().next().map(stored);
            (response.header, response.deleted, previous.then_some(before))
        }
    };
    let revision = header.ok_or_else(|| Status::internal("an answer without a header"))?.revision;
    Ok((revision, Answer::Acknowledged { revision, changed, previous }))
}

/// Asks for hashes of revisions just acknowledged, until the first error. Returns (revision, hash) pairs.
pub(super) async fn sample_hashes(channel: Channel, shared: &Shared) -> Vec<(i64, u32)> {
    let mut hashes = Vec::new();
    loop {
        tokio::time::sleep(HASH_EVERY).await;
        let revision = shared.revision.load(Ordering::Relaxed);
        // Revision 0 would mean "the current one", which moves.
        if revision == 0 {
            if shared.killed.load(Ordering::SeqCst) {
                return hashes;
            }
            continue;
        }
        match hash(channel.clone(), revision).await {
            Ok(hash) => hashes.push((revision, hash)),
            Err(_) => return hashes,
        }
    }
}

/// HashKV of `revision`.
pub(super) async fn hash(channel: Channel, revision: i64) -> Result<u32, Status> {
    let request = HashKvRequest { revision };
    let response = tokio::time::timeout(ANSWER_WITHIN, MaintenanceClient::new(channel).hash_kv(request)).await;
    let response = response.map_err(|_| Status::deadline_exceeded("no answer to HashKV"))?;
    Ok(response?.into_inner().hash)
}

/// A key-value pair as the ledger keeps it.
pub(super) fn stored(pair: KeyValue) -> Stored {
    Stored {
        value: pair.value.to_vec(),
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
    }
}
