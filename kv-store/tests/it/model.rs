//! The store, as naive as it can be: a list of every change, from which everything is answered.

use std::collections::BTreeMap;

use kv_codec::member::Member;
use kv_store::{Block, ByteCounts, Outcome, ReadError, Rejection, SortOrder, SortTarget, View};

use crate::script::{Op, Query};

/// What a block takes besides its key and its value.
const BLOCK_HEADER_BYTES: u64 = 40;

/// One change: a put, or (without a value) a deletion.
#[derive(Debug)]
struct Change {
    main: i64,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
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
    Members(Vec<Member>),
    Rejected(Rejection),
}

impl From<&Outcome> for Answer {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Put { prev } => Self::Put(prev.as_ref().map(Kv::from)),
            Outcome::Deleted { prev } => Self::Deleted(prev.iter().map(Kv::from).collect()),
            Outcome::Members(members) => Self::Members(members.iter().cloned().collect()),
            Outcome::Rejected(rejection) => Self::Rejected(*rejection),
        }
    }
}

/// What a range holds: pairs, count, more.
pub(crate) type Found = Result<(Vec<Kv>, u64, bool), ReadError>;

/// The answer of the store under test to `query`.
pub(crate) fn ask(view: &View, query: &Query) -> Found {
    let found = view.range(&query.as_range_query())?;
    Ok((found.kvs.into_iter().map(Kv::from).collect(), found.count, found.more))
}

pub(crate) struct Model {
    changes: Vec<Change>,
    pub(crate) revision: i64,
    pub(crate) members: Vec<Member>,
}

impl Model {
    pub(crate) fn new(members: Vec<Member>) -> Self {
        Self { changes: Vec::new(), revision: 1, members }
    }

    /// The live pairs at `revision`: the changes up to there, one after another.
    fn at(&self, revision: i64) -> BTreeMap<&[u8], Kv> {
        let mut live = BTreeMap::<&[u8], Kv>::new();
        for Change { main, key, value } in self.changes.iter().filter(|change| change.main <= revision) {
            let Some(value) = value.clone() else {
                live.remove(&key[..]);
                continue;
            };
            let (create, version) = live.get(&key[..]).map_or((*main, 1), |old| (old.create, old.version + 1));
            live.insert(key, Kv { key: key.clone(), value, create, modified: *main, version, lease: 0 });
        }
        live
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Put { key, value, lease, ignore_value, ignore_lease } => {
                let prev = self.at(self.revision).remove(&key[..]);
                if *lease != 0 {
                    return Answer::Rejected(Rejection::LeaseNotFound);
                }
                if (*ignore_value || *ignore_lease) && prev.is_none() {
                    return Answer::Rejected(Rejection::KeyNotFound);
                }
                let kept = prev.as_ref().filter(|_| *ignore_value).map(|prev| prev.value.clone());
                let value = Some(kept.unwrap_or_else(|| value.clone()));
                self.revision += 1;
                self.changes.push(Change { main: self.revision, key: key.clone(), value });
                Answer::Put(prev)
            }
            Op::Delete { key, end } => {
                let found = self.at(self.revision).into_values().filter(|kv| contains(key, end, &kv.key));
                let deleted: Vec<_> = found.collect();
                self.revision += i64::from(!deleted.is_empty());
                let main = self.revision;
                self.changes.extend(deleted.iter().map(|kv| Change { main, key: kv.key.clone(), value: None }));
                Answer::Deleted(deleted)
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

    pub(crate) fn range(&self, query: &Query) -> Found {
        if query.revision > self.revision {
            return Err(ReadError::Future { revision: self.revision });
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

    pub(crate) fn bytes(&self) -> ByteCounts {
        let live = self.at(self.revision).into_values();
        ByteCounts {
            live: live.map(|kv| BLOCK_HEADER_BYTES + (kv.key.len() + kv.value.len()) as u64).sum(),
            history: self.changes.iter().map(Change::bytes).sum(),
        }
    }
}

fn contains(from: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        b"" => key == from,
        b"\0" => key >= from,
        end => from <= key && key < end,
    }
}
