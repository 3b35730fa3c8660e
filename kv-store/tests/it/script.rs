//! Random scripts: what clients ask, as values that print readably and shrink.

use std::fmt;

use kv_codec::command::{
    Alarm, AlarmKind, BatchBuilder, Body, CommandHeader, DeleteRange, Expired, LeaseCheckpoint, Publish, Put,
};
use kv_codec::member::Member;
use kv_store::{Applied, KeyRange, Members, RangeQuery, SortOrder, SortTarget, Store};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::txns::{Txn, read_txn, txn};

/// Neighbours of each other in several ways, with the lowest and the highest bytes among them.
pub(crate) const KEYS: [&[u8]; 10] = [b"a", b"a\0", b"aa", b"ab", b"b", b"b\xff", b"c", b"\0", b"\xff", b"\xff\xff"];
/// One key, every key from there, prefixes, and ends below or at the key.
pub(crate) const ENDS: [&[u8]; 9] = [b"", b"\0", b"a", b"a\0", b"b", b"c", b"\0\0", b"\xff", b"\xff\xff\xff"];
pub(crate) const VALUES: [&[u8]; 6] = [b"", b"x", b"y", b"\0", b"\xff\x80", b"a longer value"];

/// `cases` cases from a fresh seed, or from `PROPTEST_RNG_SEED`; a failing test prints which.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        let drawn = any::<u64>().new_tree(&mut TestRunner::default()).unwrap();
        config.rng_seed = RngSeed::Fixed(drawn.current());
    }
    eprintln!("repeat with PROPTEST_RNG_SEED={} cargo test -p kv-store --test it", config.rng_seed);
    config
}

/// A command, or an operation of a transaction.
#[derive(Clone)]
pub(crate) enum Op {
    /// Inside a transaction only.
    Get(Query),
    Txn(Txn),
    Compact(i64),
    /// A lease of that id, for some seconds.
    Grant(i64, i64),
    /// Ends a lease, as its client or as the leader of a term.
    Revoke(i64, Option<Expired>),
    /// What is left of a lease that was granted by an entry.
    Note(i64, u64, i64),
    Alarm(bool, AlarmKind),
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lease: i64,
        ignore_value: bool,
        ignore_lease: bool,
    },
    Delete {
        key: Vec<u8>,
        end: Vec<u8>,
    },
    Publish {
        id: u64,
        name: String,
    },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Get(query) => write!(f, "{query:?}"),
            Op::Txn(txn) => write!(f, "{txn:?}"),
            Op::Compact(revision) => write!(f, "compact {revision}"),
            Op::Grant(id, ttl) => write!(f, "grant {id} {ttl}"),
            Op::Revoke(id, expired) => write!(f, "revoke {id} {expired:?}"),
            Op::Note(id, granted, left) => write!(f, "note {left} of {id} of {granted}"),
            Op::Alarm(raise, kind) => write!(f, "alarm {raise} {kind:?}"),
            Op::Put { key, value, lease, ignore_value, ignore_lease } => {
                write!(f, "put \"{}\" \"{}\"", key.escape_ascii(), value.escape_ascii())?;
                if *lease != 0 {
                    write!(f, " lease={lease}")?;
                }
                f.write_str(if *ignore_value { " ignore_value" } else { "" })?;
                f.write_str(if *ignore_lease { " ignore_lease" } else { "" })
            }
            Op::Delete { key, end } => write!(f, "del \"{}\" \"{}\"", key.escape_ascii(), end.escape_ascii()),
            Op::Publish { id, name } => write!(f, "publish {id} {name:?}"),
        }
    }
}

impl Op {
    fn encode(&self) -> Vec<u8> {
        let body = match self {
            Op::Get(_) => panic!("a read is no command"),
            Op::Txn(txn) => Body::Txn(txn.command()),
            Op::Compact(revision) => Body::Compact { revision: *revision },
            Op::Grant(id, ttl) => Body::LeaseGrant { id: *id, ttl: *ttl },
            Op::Revoke(id, expired) => Body::LeaseRevoke { id: *id, expired: *expired },
            Op::Note(id, granted, left) => Body::LeaseCheckpoint {
                term: 1,
                checkpoints: vec![LeaseCheckpoint { id: *id, granted: *granted, remaining_ttl: *left }],
            },
            Op::Alarm(raise, kind) => Body::Alarm(Alarm { raise: *raise, member: 1, kind: *kind }),
            Op::Put { key, value, lease, ignore_value, ignore_lease } => Body::Put(Put {
                key,
                value,
                lease: *lease,
                prev_kv: true,
                ignore_value: *ignore_value,
                ignore_lease: *ignore_lease,
            }),
            Op::Delete { key, end } => Body::DeleteRange(DeleteRange { key, range_end: end, prev_kv: true }),
            Op::Publish { id, name } => {
                Body::Publish(Publish { id: *id, name: name.clone(), client_urls: vec![name.clone()] })
            }
        };
        body.encode(&CommandHeader::default())
    }
}

/// The bytes of an entry of `ops`; empty for none.
pub(crate) fn entry(ops: &[Op]) -> Vec<u8> {
    if ops.is_empty() {
        return Vec::new();
    }
    let mut batch = BatchBuilder::default();
    ops.iter().for_each(|op| batch.push(&op.encode()));
    batch.finish().to_vec()
}

/// Applies `ops` as the entry that comes next.
pub(crate) fn apply(store: &mut Store, ops: &[Op]) -> Vec<Applied> {
    let mut results = Vec::new();
    store.apply(store.view().applied_index() + 1, 1, &entry(ops), &mut results).unwrap();
    results
}

/// A plain put.
pub(crate) fn put(key: &[u8], value: &[u8]) -> Op {
    Op::Put { key: key.to_vec(), value: value.to_vec(), lease: 0, ignore_value: false, ignore_lease: false }
}

/// Two voters and a learner.
pub(crate) fn members() -> Vec<Member> {
    let member = |id: u64| Member {
        id,
        name: String::new(),
        peer_urls: vec![format!("http://host{id}:2380")],
        client_urls: vec![],
        is_learner: id == 3,
    };
    vec![member(1), member(2), member(3)]
}

/// The store that scripts start from.
pub(crate) fn genesis() -> Store {
    Store::genesis(Members::new(members(), [99]))
}

/// What to read.
#[derive(Clone)]
pub(crate) struct Query {
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
    pub(crate) limit: i64,
    pub(crate) revision: i64,
    pub(crate) order: SortOrder,
    pub(crate) target: SortTarget,
    pub(crate) count_only: bool,
    /// Least and greatest mod revision, then create revision.
    pub(crate) filters: [i64; 4],
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "get \"{}\" \"{}\" limit={} revision={} sort={:?},{:?} count_only={} mod,create={:?}",
            self.key.escape_ascii(),
            self.end.escape_ascii(),
            self.limit,
            self.revision,
            self.target,
            self.order,
            self.count_only,
            self.filters
        )
    }
}

impl Query {
    /// Every key at `revision`.
    pub(crate) fn all(revision: i64) -> Self {
        Self {
            key: vec![0],
            end: vec![0],
            limit: 0,
            revision,
            order: SortOrder::None,
            target: SortTarget::Key,
            count_only: false,
            filters: [0; 4],
        }
    }

    pub(crate) fn as_range_query(&self) -> RangeQuery<'_> {
        let [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision] = self.filters;
        RangeQuery {
            range: KeyRange::new(&self.key, &self.end),
            limit: self.limit,
            revision: self.revision,
            order: self.order,
            target: self.target,
            count_only: self.count_only,
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        }
    }
}

/// One entry of the log, how much is purged and whether the store publishes after it, and what is then read.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) ops: Vec<Op>,
    pub(crate) purge: usize,
    pub(crate) publish: bool,
    pub(crate) query: Query,
    pub(crate) read: Txn,
}

pub(crate) fn bytes(from: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    select(from).prop_map(<[u8]>::to_vec)
}

/// A put that asks for a lease (which may be there), for the old value or for the old lease with a probability of `odd` each.
pub(crate) fn random_put(odd: f64) -> impl Strategy<Value = Op> {
    let sometimes = move || prop::bool::weighted(odd);
    let lease = prop_oneof![3 => Just(0), 1 => -1..3i64];
    (bytes(&KEYS), bytes(&VALUES), lease, sometimes(), sometimes()).prop_map(
        |(key, value, lease, ignore_value, ignore_lease)| Op::Put {
            key,
            value,
            lease: if ignore_lease { 0 } else { lease },
            ignore_value,
            ignore_lease,
        },
    )
}

pub(crate) fn delete() -> impl Strategy<Value = Op> {
    (bytes(&KEYS), bytes(&ENDS)).prop_map(|(key, end)| Op::Delete { key, end })
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let publish =
        (1..=4u64, select(&["n", "", "name"][..])).prop_map(|(id, name)| Op::Publish { id, name: name.into() });
    let compact = (-2..30i64).prop_map(Op::Compact);
    let leases = || -1..3i64;
    let lease = prop_oneof![
        3 => (leases(), 1..90i64).prop_map(|(id, ttl)| Op::Grant(id, ttl)),
        2 => (leases(), prop::option::of((1..3u64, 2..6u64))).prop_map(|(id, expired)| {
            Op::Revoke(id, expired.map(|(term, granted)| Expired { term, granted }))
        }),
        1 => (leases(), 2..6u64, -1..100i64).prop_map(|(id, granted, left)| Op::Note(id, granted, left)),
    ];
    // Off more often than on, so that most scripts do something.
    let alarm = (prop::bool::weighted(0.2), select(&[AlarmKind::NoSpace, AlarmKind::Corrupt][..]))
        .prop_map(|(raise, kind)| Op::Alarm(raise, kind));
    prop_oneof![
        16 => random_put(0.1),
        6 => delete(),
        2 => publish,
        6 => txn().prop_map(Op::Txn),
        4 => compact,
        4 => lease,
        1 => alarm,
    ]
}

pub(crate) fn query() -> impl Strategy<Value = Query> {
    let order = select(&[SortOrder::None, SortOrder::Ascend, SortOrder::Descend][..]);
    let targets = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
    let filter = || prop_oneof![4 => Just(0), 1 => -1..20i64];
    let filters = [filter(), filter(), filter(), filter()];
    let revision = prop_oneof![1 => Just(0), 1 => -1..40i64];
    (
        bytes(&KEYS),
        bytes(&ENDS),
        -1..6i64,
        revision,
        order,
        select(targets.to_vec()),
        prop::bool::weighted(0.1),
        filters,
    )
        .prop_map(|(key, end, limit, revision, order, target, count_only, filters)| Query {
            key,
            end,
            limit,
            revision,
            order,
            target,
            count_only,
            filters,
        })
}

/// A whole run.
pub(crate) fn script() -> impl Strategy<Value = Vec<Step>> {
    let ops = prop::collection::vec(op(), 0..=5);
    let purge = prop_oneof![1 => Just(0), 2 => 1..8usize, 1 => Just(usize::MAX)];
    let step = (ops, purge, any::<bool>(), query(), read_txn()).prop_map(|(ops, purge, publish, query, read)| Step {
        ops,
        purge,
        publish,
        query,
        read,
    });
    prop::collection::vec(step, 1..12)
}
