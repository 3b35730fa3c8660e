//! Random transactions: as [`crate::script`], for what is nested.

use std::fmt;

use kv_codec::command::{self, CompareResult, CompareTarget};
use kv_store::{SortOrder, SortTarget};
use proptest::prelude::*;
use proptest::sample::select;

use crate::script::{ENDS, KEYS, Op, Query, VALUES, bytes, delete, query, random_put};

/// Conditions, and what is done when they hold and when not.
#[derive(Clone)]
pub(crate) struct Txn {
    pub(crate) compare: Vec<Compare>,
    pub(crate) success: Vec<Op>,
    pub(crate) failure: Vec<Op>,
}

/// A condition.
#[derive(Clone)]
pub(crate) struct Compare {
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
    pub(crate) result: CompareResult,
    pub(crate) target: Target,
}

/// With what is compared.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Version(i64),
    Create(i64),
    Mod(i64),
    Lease(i64),
    Value(Vec<u8>),
}

impl fmt::Debug for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "if {:?} then {:?} else {:?}", self.compare, self.success, self.failure)
    }
}

impl fmt::Debug for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, end) = (self.key.escape_ascii(), self.end.escape_ascii());
        write!(f, "\"{key}\" \"{end}\" {:?} {:?}", self.result, self.target)
    }
}

impl Txn {
    /// Whether a put stands anywhere in it.
    pub(crate) fn puts(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Put { .. } => true,
            Op::Txn(txn) => txn.puts(),
            _ => false,
        })
    }

    pub(crate) fn command(&self) -> command::Txn<'_> {
        command::Txn {
            compare: self.compare.iter().map(Compare::command).collect(),
            success: self.success.iter().map(op_command).collect(),
            failure: self.failure.iter().map(op_command).collect(),
        }
    }
}

impl Compare {
    fn command(&self) -> command::Compare<'_> {
        let target = match &self.target {
            Target::Version(number) => CompareTarget::Version(*number),
            Target::Create(number) => CompareTarget::Create(*number),
            Target::Mod(number) => CompareTarget::Mod(*number),
            Target::Lease(number) => CompareTarget::Lease(*number),
            Target::Value(value) => CompareTarget::Value(value),
        };
        command::Compare { key: &self.key, range_end: &self.end, result: self.result, target }
    }
}

fn op_command(op: &Op) -> command::Op<'_> {
    match op {
        Op::Get(query) => command::Op::Range(range(query)),
        Op::Put { key, value, lease, ignore_value, ignore_lease } => command::Op::Put(command::Put {
            key,
            value,
            lease: *lease,
            prev_kv: true,
            ignore_value: *ignore_value,
            ignore_lease: *ignore_lease,
        }),
        Op::Delete { key, end } => {
            command::Op::DeleteRange(command::DeleteRange { key, range_end: end, prev_kv: true })
        }
        Op::Txn(txn) => command::Op::Txn(txn.command()),
        _ => panic!("no operation of a transaction: {op:?}"),
    }
}

fn range(query: &Query) -> command::Range<'_> {
    let [min_mod, max_mod, min_create, max_create] = query.filters;
    command::Range {
        key: &query.key,
        range_end: &query.end,
        limit: query.limit,
        revision: query.revision,
        sort_order: match query.order {
            SortOrder::None => 0,
            SortOrder::Ascend => 1,
            SortOrder::Descend => 2,
        },
        sort_target: match query.target {
            SortTarget::Key => 0,
            SortTarget::Version => 1,
            SortTarget::Create => 2,
            SortTarget::Mod => 3,
            SortTarget::Value => 4,
        },
        keys_only: false,
        count_only: query.count_only,
        mod_revisions: (min_mod, max_mod),
        create_revisions: (min_create, max_create),
    }
}

fn compare() -> impl Strategy<Value = Compare> {
    let results = [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
    let number = || -1..12i64;
    let target = prop_oneof![
        number().prop_map(Target::Version),
        number().prop_map(Target::Create),
        number().prop_map(Target::Mod),
        (-1..2i64).prop_map(Target::Lease),
        bytes(&VALUES).prop_map(Target::Value),
    ];
    let end = prop_oneof![3 => Just(Vec::new()), 1 => bytes(&ENDS)];
    (bytes(&KEYS), end, select(results.to_vec()), target).prop_map(|(key, end, result, target)| Compare {
        key,
        end,
        result,
        target,
    })
}

/// A read, as a rule of the current revision: one of another refuses a transaction more often than not.
fn get() -> impl Strategy<Value = Op> {
    let revision = prop_oneof![12 => Just(0), 1 => -3..20i64];
    (query(), revision).prop_map(|(query, revision)| Op::Get(Query { revision, ..query }))
}

/// A transaction of `leaf`s, and of transactions of them.
fn txn_of(leaf: impl Strategy<Value = Op> + 'static) -> impl Strategy<Value = Txn> {
    let ops = prop::collection::vec(
        leaf.prop_recursive(3, 12, 3, |inner| nest(prop::collection::vec(inner, 0..4)).prop_map(Op::Txn)),
        0..5,
    );
    nest(ops)
}

fn nest(ops: impl Strategy<Value = Vec<Op>> + Clone) -> impl Strategy<Value = Txn> {
    (prop::collection::vec(compare(), 0..3), ops.clone(), ops).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

/// Any transaction, ones that clients may not ask for among them: a key may change more than once.
pub(crate) fn txn() -> impl Strategy<Value = Txn> {
    txn_of(prop_oneof![3 => get(), 6 => random_put(0.02), 2 => delete()])
}

/// A transaction without a write.
pub(crate) fn read_txn() -> impl Strategy<Value = Txn> {
    txn_of(get())
}
