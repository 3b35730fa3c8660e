//! The clients: what they ask, how a request becomes a command, and how an outcome becomes an answer.

use std::collections::BTreeMap;

use fastrand::Rng;
use kv_codec::command::{
    Batch, BatchBuilder, Body, CommandHeader, Compare, CompareResult, CompareTarget, DeleteRange, Op, Put, Range, Txn,
};
use kv_raft::Input;
use kv_store::{Applied, Block, KeyRange, OpOutcome, Outcome, RangeQuery, ReadError, Rejection, View};

use super::{Cluster, Event, Fault, Work};
use crate::history::{Answer, CallId, Guard, Pair, Request, Step, Told};

/// Keys that are put and deleted.
const KEYS: u64 = 12;
/// Keys that hold lists.
const LISTS: u64 = 3;
/// A list that is longer begins anew.
const LIST_BYTES_MAX: usize = 400;
/// The longest value.
const VALUE_BYTES_MAX: usize = 6_000;
/// The first key after all of ours.
const KEYS_END: &[u8] = b"l~";
/// Commands that one client sends at once, at most.
const BATCH_COMMANDS_MAX: usize = 4;

/// What clients know.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// Counts values: no two are equal.
    values: u64,
    /// The last mod revision and value that anyone was told of a key.
    seen: BTreeMap<Vec<u8>, (i64, Vec<u8>)>,
    /// The highest revision that anyone was told.
    revision: i64,
    /// The rest of a page, and its revision.
    page: Option<(Vec<u8>, i64)>,
}

impl Clients {
    fn value(&mut self) -> Vec<u8> {
        self.values += 1;
        format!("v{}", self.values).into_bytes()
    }

    fn put(&mut self, rng: &mut Rng, key: Vec<u8>) -> Step {
        let mut value = self.value();
        if rng.u8(0..16) == 0 {
            // Several sectors, so that its write can be torn.
            value.resize(rng.usize(512..VALUE_BYTES_MAX), b'.');
        }
        Step::Put(key, value)
    }

    /// What somebody wants to write.
    fn write(&mut self, rng: &mut Rng) -> Request {
        let key = key_of(rng);
        match rng.u8(0..20) {
            0..=8 => Request::Write(self.put(rng, key)),
            9..=10 => Request::Write(Step::Delete(key, vec![])),
            11 => Request::Write(Step::Delete(key, key_of(rng))),
            12 => {
                // Either list puts: what is checked is that exactly one of them does.
                let step = self.put(rng, key.clone());
                Request::Txn {
                    guards: vec![(key, Guard::VersionAbove(0))],
                    success: vec![step.clone()],
                    failure: vec![step],
                }
            }
            13..=15 => {
                let known = self.seen.get(&key).map_or(0, |(revision, _)| *revision);
                let failure = vec![Step::Range(key.clone(), vec![], 0)];
                Request::Txn {
                    guards: vec![(key.clone(), Guard::ModIs(known))],
                    success: vec![self.put(rng, key)],
                    failure,
                }
            }
            16..=17 => {
                let list = format!("l{}", rng.u64(0..LISTS)).into_bytes();
                let (known, mut value) = self.seen.get(&list).cloned().unwrap_or_default();
                if value.len() > LIST_BYTES_MAX {
                    value.clear();
                }
                value.extend_from_slice(b" ");
                value.extend_from_slice(&self.value());
                let failure = vec![Step::Range(list.clone(), vec![], 0)];
                Request::Txn {
                    guards: vec![(list.clone(), Guard::ModIs(known))],
                    success: vec![Step::Put(list, value)],
                    failure,
                }
            }
            18 => {
                // Two keys at once, with a look in between: at all of them now, or at one as it was. What is not there any more, or not
                // yet, refuses the whole, on every member or on none.
                let (one, other) = (key, format!("k{:02}", KEYS + rng.u64(0..2)).into_bytes());
                let look = if rng.bool() {
                    Step::Range(b"k".to_vec(), KEYS_END.to_vec(), 0)
                } else {
                    Step::Range(key_of(rng), vec![], (self.revision - rng.i64(-2..30)).max(1))
                };
                let steps = vec![self.put(rng, one.clone()), look, self.put(rng, other)];
                Request::Txn { guards: vec![(one, Guard::VersionAbove(1))], success: steps.clone(), failure: steps }
            }
            _ => Request::Compact(self.revision - rng.i64(0..30)),
        }
    }

    /// What somebody wants to read.
    fn read(&mut self, rng: &mut Rng) -> Request {
        if let Some((key, revision)) = self.page.take() {
            return Request::Range { key, end: KEYS_END.to_vec(), limit: 4, revision };
        }
        match rng.u8(0..8) {
            0 => Request::Range { key: b"k".to_vec(), end: KEYS_END.to_vec(), limit: 4, revision: 0 },
            1 => Request::Range { key: b"k".to_vec(), end: KEYS_END.to_vec(), limit: 0, revision: 0 },
            2 => Request::Range { key: key_of(rng), end: vec![], limit: 0, revision: self.revision - rng.i64(-2..30) },
            3 => Request::Range {
                key: format!("l{}", rng.u64(0..LISTS)).into_bytes(),
                end: vec![],
                limit: 0,
                revision: 0,
            },
            _ => Request::Range { key: key_of(rng), end: vec![], limit: 0, revision: 0 },
        }
    }

    fn learn(&mut self, request: &Request, answer: &Answer) {
        self.revision = self.revision.max(answer.revision);
        self.learn_told(&answer.told);
        if let (Request::Range { end, limit: 1.., .. }, Told::Range(pairs, _, true)) = (request, &answer.told)
            && let Some(last) = pairs.last()
            && end == KEYS_END
        {
            let revision =
                if let Request::Range { revision: 1.., .. } = request { None } else { Some(answer.revision) };
            // The first key after the last one.
            self.page = revision.map(|revision| ([&last.key[..], b"\0"].concat(), revision));
        }
    }

    fn learn_told(&mut self, told: &Told) {
        match told {
            Told::Range(pairs, ..) => {
                for pair in pairs {
                    self.seen.insert(pair.key.clone(), (pair.mod_revision, pair.value.clone()));
                }
            }
            Told::Deleted(pairs) => {
                for pair in pairs {
                    self.seen.remove(&pair.key);
                }
            }
            Told::Txn(_, steps) => steps.iter().for_each(|(_, told)| self.learn_told(told)),
            _ => {}
        }
    }
}

fn key_of(rng: &mut Rng) -> Vec<u8> {
    format!("k{:02}", rng.u64(0..KEYS)).into_bytes()
}

/// The key whose calls are judged without revisions.
pub(super) fn judged_key(rng: &mut Rng) -> Vec<u8> {
    if rng.bool() { key_of(rng) } else { format!("l{}", rng.u64(0..LISTS)).into_bytes() }
}

impl Cluster {
    /// Some client asks some member.
    pub(super) fn call(&mut self) -> Result<(), String> {
        let rng = &mut self.streams.clients;
        let after = rng.u64(100..=self.plan.call_ms * 2_000);
        let (at, reads, count) = (rng.usize(..), rng.u8(0..10) < 3, rng.usize(0..2 * BATCH_COMMANDS_MAX));
        if self.calling {
            self.schedule(after, Event::Call);
        }
        let members: Vec<u64> = self.hosts.keys().copied().collect();
        let member = members[at % members.len()];
        let paused = self.hosts[&member].paused_until > self.now;
        if paused {
            return Ok(());
        }
        // Mostly one command, now and then a few that waited for each other.
        let count = count.saturating_sub(BATCH_COMMANDS_MAX - 1).max(1);
        self.with(member, None, |cluster| if reads { cluster.ask(member) } else { cluster.propose(member, count) })
    }

    /// Writes.
    fn propose(&mut self, member: u64, count: usize) -> Work {
        if self.life(member).is_full() {
            return Ok(());
        }
        let mut batch = BatchBuilder::default();
        for _ in 0..count {
            let request = self.clients.write(&mut self.streams.clients);
            let header = self.enroll(member, request.clone());
            batch.push(&body_of(&request).encode(&header));
        }
        self.step(member, Input::Propose(batch.finish()))
    }

    /// Notes a call of a client of `member` that becomes a command; its header.
    pub(super) fn enroll(&mut self, member: u64, request: Request) -> CommandHeader<'static> {
        let call = self.history.made(request);
        let life = self.life(member);
        life.seq += 1;
        let (epoch, seq) = (life.epoch, life.seq);
        life.calls.insert(seq, call);
        self.history.named(call, member, epoch, seq);
        CommandHeader { origin: member, epoch, seq, ..CommandHeader::default() }
    }

    /// Commands that were not taken.
    pub(super) fn refuse(&mut self, member: u64, batch: &[u8]) {
        for command in Batch::decode(batch).into_iter().flatten().flatten() {
            if let Some(call) = self.life(member).calls.remove(&command.header.seq) {
                self.history.refused(call);
            }
        }
    }

    /// A command of `member` was applied.
    pub(super) fn answer(&mut self, member: u64, seq: u64, applied: &Applied) -> Work {
        let index = self.life(member).machine.view().applied_index();
        let Some(call) = self.life(member).calls.remove(&seq) else {
            return Err(Fault::Broken(format!("member {member} answers command {seq}, which waits for nothing")));
        };
        let answer = answer_of(applied).map_err(|why| format!("member {member}, command {seq}: {why}"))?;
        self.checker.answered(index)?;
        self.report.counts.acked += 1;
        self.report.counts.compactions += u64::from(applied.outcome == Outcome::Compacted);
        self.clients.learn(&Request::Member, &answer);
        Ok(self.history.answered(call, answer)?)
    }

    /// Reads.
    fn ask(&mut self, member: u64) -> Work {
        let request = self.clients.read(&mut self.streams.clients);
        let may_be_old = self.streams.clients.u8(0..8) == 0;
        if may_be_old {
            let call = self.history.made_without_floor(request.clone());
            self.serve(member, call, &request);
            return Ok(());
        }
        let call = self.history.made(request.clone());
        if self.life(member).node.is_lone_leader() {
            self.report.counts.lone_reads += 1;
            self.report.counts.reads += 1;
            self.serve(member, call, &request);
            return Ok(());
        }
        let life = self.life(member);
        life.seq += 1;
        let id = life.seq;
        life.reads.insert(id, (call, None));
        self.step(member, Input::Read(id))
    }

    /// Serves the reads whose index is applied.
    pub(super) fn serve_reads(&mut self, member: u64) {
        let life = self.life(member);
        let applied = life.machine.view().applied_index();
        let ready = |read: &(CallId, Option<u64>)| read.1.is_some_and(|index| index <= applied);
        let served: Vec<(u64, CallId)> =
            life.reads.iter().filter(|(_, read)| ready(read)).map(|(id, read)| (*id, read.0)).collect();
        for (id, call) in served {
            self.life(member).reads.remove(&id);
            self.report.counts.reads += 1;
            let request = self.history.request(call).clone();
            self.serve(member, call, &request);
        }
    }

    /// Answers a read from what is published.
    fn serve(&mut self, member: u64, call: CallId, request: &Request) {
        let view = self.life(member).machine.reader().load_full();
        let answer = read(&view, request);
        self.clients.learn(request, &answer);
        self.history.served(call, view.applied_index(), answer);
    }
}

/// What a view says to a read.
pub(super) fn read(view: &View, request: &Request) -> Answer {
    let Request::Range { key, end, limit, revision } = request else { unreachable!("{request:?} is no read") };
    let limit = i64::try_from(*limit).expect("limits are small");
    let query = RangeQuery { limit, revision: *revision, ..RangeQuery::new(KeyRange::new(key, end)) };
    let told = match view.range(&query) {
        Ok(found) => Told::Range(found.kvs.iter().map(|block| pair_of(block)).collect(), found.count, found.more),
        Err(ReadError::Compacted { .. }) => Told::Compacted,
        Err(ReadError::Future { .. }) => Told::Future,
    };
    Answer { revision: view.revision(), told }
}

fn put_of<'a>(key: &'a [u8], value: &'a [u8]) -> Put<'a> {
    Put { key, value, lease: 0, prev_kv: true, ignore_value: false, ignore_lease: false }
}

fn op_of(step: &Step) -> Op<'_> {
    match step {
        Step::Put(key, value) => Op::Put(put_of(key, value)),
        Step::Delete(key, range_end) => Op::DeleteRange(DeleteRange { key, range_end, prev_kv: true }),
        Step::Range(key, range_end, revision) => Op::Range(Range {
            key,
            range_end,
            limit: 0,
            revision: *revision,
            sort_order: 0,
            sort_target: 0,
            keys_only: false,
            count_only: false,
            mod_revisions: (0, 0),
            create_revisions: (0, 0),
        }),
    }
}

fn body_of(request: &Request) -> Body<'_> {
    match request {
        Request::Write(Step::Put(key, value)) => Body::Put(put_of(key, value)),
        Request::Write(Step::Delete(key, range_end)) => {
            Body::DeleteRange(DeleteRange { key, range_end, prev_kv: true })
        }
        Request::Txn { guards, success, failure } => {
            let compare = guards.iter().map(|(key, guard)| {
                let (result, target) = match guard {
                    Guard::ModIs(revision) => (CompareResult::Equal, CompareTarget::Mod(*revision)),
                    Guard::VersionAbove(version) => (CompareResult::Greater, CompareTarget::Version(*version)),
                };
                Compare { key, range_end: b"", result, target }
            });
            Body::Txn(Txn {
                compare: compare.collect(),
                success: success.iter().map(op_of).collect(),
                failure: failure.iter().map(op_of).collect(),
            })
        }
        Request::Compact(revision) => Body::Compact { revision: *revision },
        Request::Write(Step::Range(..)) | Request::Range { .. } | Request::Member => {
            unreachable!("{request:?} is no write of a client")
        }
    }
}

fn pair_of(block: &Block) -> Pair {
    Pair {
        key: block.key().to_vec(),
        value: block.value().to_vec(),
        create_revision: block.create_revision(),
        mod_revision: block.mod_revision(),
        version: block.version(),
    }
}

fn pairs_of(blocks: &[Block]) -> Vec<Pair> {
    blocks.iter().map(pair_of).collect()
}

fn answer_of(applied: &Applied) -> Result<Answer, String> {
    let told = match &applied.outcome {
        Outcome::Put { prev } => Told::Put(prev.as_ref().map(pair_of)),
        Outcome::Deleted { prev } => Told::Deleted(pairs_of(prev)),
        Outcome::Txn(txn) => {
            let steps = txn.responses.iter().map(|response| match response {
                OpOutcome::Put { prev, revision } => Ok((*revision, Told::Put(prev.as_ref().map(pair_of)))),
                OpOutcome::Deleted { prev, revision } => Ok((*revision, Told::Deleted(pairs_of(prev)))),
                OpOutcome::Range { kvs, count, more, revision } => {
                    Ok((*revision, Told::Range(pairs_of(kvs), *count, *more)))
                }
                OpOutcome::Txn(_) => Err("no client nests transactions".to_owned()),
            });
            Told::Txn(txn.succeeded, steps.collect::<Result<_, _>>()?)
        }
        // Members are compared with what raft works with, not here.
        Outcome::Compacted | Outcome::Members(_) => Told::Done,
        Outcome::Rejected(Rejection::Compacted) => Told::Compacted,
        Outcome::Rejected(Rejection::FutureRevision) => Told::Future,
        Outcome::Rejected(
            Rejection::MemberNotFound
            | Rejection::MemberIdExists
            | Rejection::TooManyLearners
            | Rejection::NotLearner
            | Rejection::NotEnoughMembers,
        ) => Told::Done,
        Outcome::Rejected(other) => return Err(format!("it was refused: {other}")),
        #[allow(unreachable_patterns, reason = "outcomes that no client of ours asks for")]
        other => return Err(format!("an outcome that nobody asked for: {other:?}")),
    };
    Ok(Answer { revision: applied.revision, told })
}
