//! The store, as naive as it can be: a list of every change, from which everything is answered.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kv_codec::command::{AlarmKind, CompareResult, Expired};
use kv_codec::member::Member;
use kv_store::{Block, ByteCounts, OpOutcome, Outcome, ReadError, Rejection, SortOrder, SortTarget, TxnOutcome, View};

use crate::script::{Op, Query};
use crate::txns::{Compare, Target, Txn};

/// What a block takes besides its key and its value.
const BLOCK_HEADER_BYTES: u64 = 40;

/// One change: a put, or (without a value) a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) main: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) lease: i64,
}

impl Change {
    fn bytes(&self) -> u64 {
        BLOCK_HEADER_BYTES + (self.key.len() + self.value.as_ref().map_or(0, Vec::len)) as u64
    }
}

/// A key-value pair as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kv {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) create: i64,
    pub(crate) modified: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl From<&Block> for Kv {
    fn from(block: &Block) -> Self {
        Self {
            key: block.key().to_vec(),
            value: block.value().to_vec(),
            create: block.create_revision(),
            modified: block.mod_revision(),
            version: block.version(),
            lease: block.lease(),
        }
    }
}

/// What a command did, in the model's terms.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Put(Option<Kv>),
    Deleted(Vec<Kv>),
    Txn(TxnAnswer),
    Compacted,
    Done,
    Alarms(Vec<(u64, AlarmKind)>),
    Members(Vec<Member>),
    Rejected(Rejection),
}

impl From<&Outcome> for Answer {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Put { prev } => Self::Put(prev.as_ref().map(Kv::from)),
            Outcome::Deleted { prev } => Self::Deleted(prev.iter().map(Kv::from).collect()),
            Outcome::Txn(outcome) => Self::Txn(outcome.into()),
            Outcome::Compacted => Self::Compacted,
            Outcome::LeaseGranted | Outcome::LeaseRevoked | Outcome::LeasesCheckpointed => Self::Done,
            Outcome::Alarms(alarms) => Self::Alarms(alarms.iter().collect()),
            Outcome::Members(members) => Self::Members(members.iter().cloned().collect()),
            Outcome::Rejected(rejection) => Self::Rejected(*rejection),
        }
    }
}

/// What a transaction did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TxnAnswer {
    succeeded: bool,
    responses: Vec<OpAnswer>,
}

/// What an operation of a transaction did, and the revision in its header.
#[derive(Debug, PartialEq, Eq)]
enum OpAnswer {
    Range((Vec<Kv>, u64, bool), i64),
    Put(Option<Kv>, i64),
    Deleted(Vec<Kv>, i64),
    Txn(TxnAnswer),
}

impl From<&TxnOutcome> for TxnAnswer {
    fn from(outcome: &TxnOutcome) -> Self {
        let responses = outcome.responses.iter().map(|response| match response {
            OpOutcome::Range { kvs, count, more, revision } => {
                OpAnswer::Range((kvs.iter().map(Kv::from).collect(), *count, *more), *revision)
            }
            OpOutcome::Put { prev, revision } => OpAnswer::Put(prev.as_ref().map(Kv::from), *revision),
            OpOutcome::Deleted { prev, revision } => OpAnswer::Deleted(prev.iter().map(Kv::from).collect(), *revision),
            OpOutcome::Txn(outcome) => OpAnswer::Txn(outcome.into()),
        });
        Self { succeeded: outcome.succeeded, responses: responses.collect() }
    }
}

/// What a range holds: pairs, count, more.
pub(crate) type Found = Result<(Vec<Kv>, u64, bool), ReadError>;

/// The answer of the store under test to `query`.
pub(crate) fn ask(view: &View, query: &Query) -> Found {
    let found = view.range(&query.as_range_query())?;
    Ok((found.kvs.into_iter().map(Kv::from).collect(), found.count, found.more))
}

/// Which operations of a transaction run.
struct Path {
    succeeded: bool,
    /// Of the transactions in the chosen list.
    inner: VecDeque<Path>,
}

pub(crate) struct Model {
    pub(crate) changes: Vec<Change>,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) members: Vec<Member>,
    /// Seconds granted, seconds left, the entry.
    pub(crate) leases: BTreeMap<i64, (i64, i64, u64)>,
    /// The entry that is applied.
    pub(crate) index: u64,
    pub(crate) alarms: BTreeSet<(u64, AlarmKind)>,
}

impl Model {
    pub(crate) fn new(members: Vec<Member>) -> Self {
        Self {
            changes: Vec::new(),
            revision: 1,
            compacted: -1,
            members,
            leases: BTreeMap::new(),
            index: 1,
            alarms: BTreeSet::new(),
        }
    }

    /// The live pairs at `revision`: the changes up to there, one after another.
    pub(crate) fn at(&self, revision: i64) -> BTreeMap<&[u8], Kv> {
        let mut live = BTreeMap::<&[u8], Kv>::new();
        for Change { main, key, value, lease } in self.changes.iter().filter(|change| change.main <= revision) {
            let Some(value) = value.clone() else {
                live.remove(&key[..]);
                continue;
            };
            let (create, version) = live.get(&key[..]).map_or((*main, 1), |old| (old.create, old.version + 1));
            live.insert(key, Kv { key: key.clone(), value, create, modified: *main, version, lease: *lease });
        }
        live
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Answer {
        let main = self.revision + 1;
        if let Some(rejection) = self.forbidden(op) {
            return Answer::Rejected(rejection);
        }
        match op {
            Op::Grant(0, _) => Answer::Rejected(Rejection::LeaseNotFound),
            Op::Grant(id, _) if self.leases.contains_key(id) => Answer::Rejected(Rejection::LeaseExists),
            Op::Grant(id, ttl) => {
                self.leases.insert(*id, (*ttl, 0, self.index));
                Answer::Done
            }
            // Scripts are applied in term 1.
            Op::Revoke(_, Some(Expired { term: 2.., .. })) => Answer::Rejected(Rejection::OldTerm),
            Op::Revoke(id, expired) if !self.is_meant(*id, *expired) => Answer::Rejected(Rejection::LeaseNotFound),
            Op::Revoke(id, _) => {
                self.leases.remove(id);
                let attached = self.at(self.revision).into_values().filter(|kv| kv.lease == *id);
                for kv in attached.collect::<Vec<_>>() {
                    self.revision = main;
                    self.changes.push(Change { main, key: kv.key, value: None, lease: 0 });
                }
                Answer::Done
            }
            Op::Note(id, granted, left) => {
                if let Some((ttl, remaining, _)) = self.leases.get_mut(id).filter(|lease| lease.2 == *granted) {
                    *remaining = (*left).clamp(0, *ttl);
                }
                Answer::Done
            }
            Op::Alarm(raise, kind) => {
                if *raise {
                    self.alarms.insert((1, *kind));
                } else {
                    self.alarms.remove(&(1, *kind));
                }
                Answer::Alarms(self.alarms.iter().copied().collect())
            }
            Op::Get(_) => panic!("a read is no command"),
            Op::Put { lease, .. } if !self.has_lease(*lease) => Answer::Rejected(Rejection::LeaseNotFound),
            Op::Put { key, .. } => match self.check_put(op) {
                Ok(()) => Answer::Put(self.put(main, key, op)),
                Err(rejection) => Answer::Rejected(rejection),
            },
            Op::Delete { key, end } => Answer::Deleted(self.delete(main, key, end)),
            Op::Txn(txn) => match self.txn(txn) {
                Ok(answer) => Answer::Txn(answer),
                Err(rejection) => Answer::Rejected(rejection),
            },
            Op::Compact(revision) if *revision <= self.compacted => Answer::Rejected(Rejection::Compacted),
            Op::Compact(revision) if *revision > self.revision => Answer::Rejected(Rejection::FutureRevision),
            Op::Compact(revision) => {
                self.compacted = *revision;
                Answer::Compacted
            }
            Op::Publish { id, name } => {
                let Some(member) = self.members.iter_mut().find(|member| member.id == *id) else {
                    return Answer::Rejected(Rejection::MemberNotFound);
                };
                member.name.clone_from(name);
                member.client_urls = vec![name.clone()];
                Answer::Members(self.members.clone())
            }
        }
    }

    fn has_lease(&self, lease: i64) -> bool {
        lease == 0 || self.leases.contains_key(&lease)
    }

    fn is_meant(&self, id: i64, expired: Option<Expired>) -> bool {
        self.leases.get(&id).is_some_and(|lease| expired.is_none_or(|expired| expired.granted == lease.2))
    }

    /// What the alarms forbid.
    fn forbidden(&self, op: &Op) -> Option<Rejection> {
        let raised = |wanted| self.alarms.iter().any(|(_, kind)| *kind == wanted);
        let (changes, puts) = match op {
            Op::Put { .. } | Op::Grant(..) => (true, true),
            Op::Txn(txn) => (true, txn.puts()),
            Op::Delete { .. } | Op::Compact(_) | Op::Revoke(..) => (true, false),
            _ => (false, false),
        };
        if changes && raised(AlarmKind::Corrupt) {
            return Some(Rejection::Corrupt);
        }
        (puts && raised(AlarmKind::NoSpace)).then_some(Rejection::NoSpace)
    }

    /// Whether `put` finds the key that it keeps something of, and its lease.
    fn check_put(&self, put: &Op) -> Result<(), Rejection> {
        let Op::Put { key, lease, ignore_value, ignore_lease, .. } = put else { panic!("no put: {put:?}") };
        if (*ignore_value || *ignore_lease) && !self.at(self.revision).contains_key(&key[..]) {
            return Err(Rejection::KeyNotFound);
        }
        if self.has_lease(*lease) { Ok(()) } else { Err(Rejection::LeaseNotFound) }
    }

    fn put(&mut self, main: i64, key: &[u8], put: &Op) -> Option<Kv> {
        let Op::Put { value, ignore_value, lease, ignore_lease, .. } = put else { panic!("no put: {put:?}") };
        let prev = self.at(self.revision).remove(key);
        let kept = prev.as_ref().filter(|_| *ignore_value).map(|prev| prev.value.clone());
        let value = Some(kept.unwrap_or_else(|| value.clone()));
        let lease = prev.as_ref().filter(|_| *ignore_lease).map_or(*lease, |prev| prev.lease);
        self.revision = main;
        self.changes.push(Change { main, key: key.to_vec(), value, lease });
        prev
    }

    fn delete(&mut self, main: i64, key: &[u8], end: &[u8]) -> Vec<Kv> {
        let found = self.at(self.revision).into_values().filter(|kv| contains(key, end, &kv.key));
        let deleted: Vec<_> = found.collect();
        for kv in &deleted {
            self.revision = main;
            self.changes.push(Change { main, key: kv.key.clone(), value: None, lease: 0 });
        }
        deleted
    }

    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnAnswer, Rejection> {
        let mut path = self.path(txn);
        let ops = path.ops(txn);
        ops.iter().filter(|op| matches!(op, Op::Put { .. })).try_for_each(|op| self.check_put(op))?;
        for op in ops {
            match op {
                Op::Get(query) if query.revision > self.revision => return Err(Rejection::FutureRevision),
                Op::Get(query) if query.revision != 0 && query.revision < self.compacted => {
                    return Err(Rejection::Compacted);
                }
                _ => {}
            }
        }
        let main = self.revision + 1;
        Ok(self.run(main, txn, &mut path))
    }

    fn path(&self, txn: &Txn) -> Path {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let chosen = if succeeded { &txn.success } else { &txn.failure };
        let inner = chosen.iter().filter_map(|op| if let Op::Txn(txn) = op { Some(self.path(txn)) } else { None });
        Path { succeeded, inner: inner.collect() }
    }

    fn run(&mut self, main: i64, txn: &Txn, path: &mut Path) -> TxnAnswer {
        let chosen = if path.succeeded { &txn.success } else { &txn.failure };
        let responses = chosen.iter().map(|op| match op {
            Op::Get(query) => OpAnswer::Range(self.range(query).unwrap(), self.revision),
            Op::Put { key, .. } => OpAnswer::Put(self.put(main, key, op), main),
            Op::Delete { key, end } => OpAnswer::Deleted(self.delete(main, key, end), self.revision),
            Op::Txn(txn) => OpAnswer::Txn(self.run(main, txn, &mut path.inner.pop_front().unwrap())),
            _ => panic!("no operation of a transaction: {op:?}"),
        });
        TxnAnswer { responses: responses.collect(), succeeded: path.succeeded }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut kvs: Vec<_> = self.at(self.revision).into_values().collect();
        kvs.retain(|kv| contains(&compare.key, &compare.end, &kv.key));
        if kvs.is_empty() {
            if matches!(compare.target, Target::Value(_)) {
                return false;
            }
            let (key, value) = (Vec::new(), Vec::new());
            kvs.push(Kv { key, value, create: 0, modified: 0, version: 0, lease: 0 });
        }
        kvs.iter().all(|kv| {
            let order = match &compare.target {
                Target::Version(version) => kv.version.cmp(version),
                Target::Create(revision) => kv.create.cmp(revision),
                Target::Mod(revision) => kv.modified.cmp(revision),
                Target::Lease(lease) => kv.lease.cmp(lease),
                Target::Value(value) => kv.value.cmp(value),
            };
            match compare.result {
                CompareResult::Equal => order == Ordering::Equal,
                CompareResult::NotEqual => order != Ordering::Equal,
                CompareResult::Greater => order == Ordering::Greater,
                CompareResult::Less => order == Ordering::Less,
            }
        })
    }

    pub(crate) fn range(&self, query: &Query) -> Found {
        if query.revision > self.revision {
            return Err(ReadError::Future { revision: self.revision });
        }
        if query.revision > 0 && query.revision < self.compacted {
            return Err(ReadError::Compacted { compact_revision: self.compacted });
        }
        let revision = if query.revision > 0 { query.revision } else { self.revision };
        let mut kvs: Vec<_> = self.at(revision).into_values().collect();
        kvs.retain(|kv| contains(&query.key, &query.end, &kv.key));
        let count = kvs.len() as u64;
        if query.count_only {
            return Ok((Vec::new(), count, false));
        }
        let [min_mod, max_mod, min_create, max_create] = query.filters;
        kvs.retain(|kv| min_mod == 0 || kv.modified >= min_mod);
        kvs.retain(|kv| max_mod == 0 || kv.modified <= max_mod);
        kvs.retain(|kv| min_create == 0 || kv.create >= min_create);
        kvs.retain(|kv| max_create == 0 || kv.create <= max_create);
        kvs.sort_by(|a, b| {
            let ascending = match query.target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create.cmp(&b.create),
                SortTarget::Mod => a.modified.cmp(&b.modified),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if query.order == SortOrder::Descend { ascending.reverse() } else { ascending }
        });
        let limit = if query.limit > 0 { usize::try_from(query.limit).unwrap() } else { usize::MAX };
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        Ok((kvs, count, more))
    }

    pub(crate) fn live_keys(&self) -> u64 {
        self.at(self.revision).len() as u64
    }

    /// What the bytes are once all is purged.
    pub(crate) fn bytes(&self) -> ByteCounts {
        let live = self.at(self.revision).into_values();
        let kept = self.changes.iter().enumerate().filter(|(at, change)| self.is_kept(*at, change));
        ByteCounts {
            live: live.map(|kv| BLOCK_HEADER_BYTES + (kv.key.len() + kv.value.len()) as u64).sum(),
            history: kept.map(|(_, change)| change.bytes()).sum(),
        }
    }

    fn is_kept(&self, at: usize, change: &Change) -> bool {
        let mut later = self.changes[at + 1..].iter();
        let replaced = later.any(|later| later.key == change.key && later.main <= self.compacted);
        change.main > self.compacted || (!replaced && (change.value.is_some() || change.main == self.compacted))
    }
}

impl Path {
    /// All operations that run, transactions aside.
    fn ops<'t>(&self, txn: &'t Txn) -> Vec<&'t Op> {
        let mut inner = self.inner.iter();
        let chosen = if self.succeeded { &txn.success } else { &txn.failure };
        let ops = chosen.iter().flat_map(|op| match op {
            Op::Txn(txn) => inner.next().unwrap().ops(txn),
            op => vec![op],
        });
        ops.collect()
    }
}

pub(crate) fn contains(from: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        b"" => key == from,
        b"\0" => key >= from,
        end => from <= key && key < end,
    }
}
