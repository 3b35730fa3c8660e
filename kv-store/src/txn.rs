//! Transactions: conditions, and what is done when they hold and when they do not.
//!
//! In this order, which is etcd's:
//! 1. The conditions are evaluated, those of nested transactions too, on the state before the transaction. That settles the path:
//!    which operations run.
//! 2. The path is checked as a whole, puts first and then reads. One that cannot be done refuses the transaction, which then changes
//!    nothing.
//! 3. The operations of the path run in order. Each sees what the ones before it changed.

use std::cmp::Ordering;

use kv_codec::command::{Compare, CompareResult, CompareTarget, Op, Put, Range, Txn};

use kv_codec::planted::{Bug, is_planted};

use crate::changes::{Changes, check_existence, check_lease};
use crate::{Block, KeyRange, RangeQuery, ReadError, Rejection, SortOrder, SortTarget, View};

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether all conditions held.
    pub succeeded: bool,
    /// What the operations of the chosen list did, in their order.
    pub responses: Vec<OpOutcome>,
}

/// What one operation of a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpOutcome {
    /// A range was read.
    Range {
        /// The pairs, values included, in the order asked for.
        kvs: Vec<Block>,
        /// How many keys the range has at that revision, whatever limit and filters say.
        count: u64,
        /// Whether the limit left some out.
        more: bool,
        /// The latest revision that could be seen: the transaction's own after a change, the one before it until then.
        revision: i64,
    },
    /// A key was put.
    Put {
        /// The previous pair, if the key was live.
        prev: Option<Block>,
        /// The transaction's revision.
        revision: i64,
    },
    /// Keys were deleted.
    Deleted {
        /// The deleted pairs, in key order.
        prev: Vec<Block>,
        /// The transaction's revision, or the one before it while nothing was changed.
        revision: i64,
    },
    /// A transaction was run.
    Txn(TxnOutcome),
}

impl View {
    /// Runs a transaction that only reads.
    ///
    /// # Errors
    /// [`ReadError`] when a read of the chosen list names a revision that is gone or not yet there.
    ///
    /// # Panics
    /// When the chosen list holds a write, at any depth: transactions that may write belong into the log.
    pub fn read_txn(&self, txn: &Txn<'_>) -> Result<TxnOutcome, ReadError> {
        let path = path(self, txn);
        each_op(txn, &mut path.iter().copied(), &mut |op| match op {
            Op::Range(range) => check_range(self, range),
            _ => Ok(()),
        })?;
        Ok(run(txn, &mut path.into_iter(), &mut |op| match op {
            Op::Range(range) => read(self, range),
            Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) => unreachable!("a transaction that only reads holds a write"),
        }))
    }
}

/// Runs a transaction, or refuses it and changes nothing.
pub(crate) fn write_txn(view: &mut View, txn: &Txn<'_>) -> Result<TxnOutcome, Rejection> {
    let path = path(view, txn);
    each_op(txn, &mut path.iter().copied(), &mut |op| match op {
        Op::Put(put) => check_put(view, put),
        _ => Ok(()),
    })?;
    let readable = each_op(txn, &mut path.iter().copied(), &mut |op| match op {
        Op::Range(range) => check_range(view, range),
        _ => Ok(()),
    });
    if readable.is_err() && is_planted(Bug::RefusedTakesRevision) {
        view.revision += 1;
    }
    readable?;
    let before = is_planted(Bug::ReadsBeforeWrites).then(|| view.clone());
    let mut changes = Changes::of(view);
    Ok(run(txn, &mut path.into_iter(), &mut |op| match op {
        Op::Range(range) => read(before.as_ref().unwrap_or(changes.view()), range),
        Op::Put(put) => {
            let prev = changes.put(put);
            OpOutcome::Put { prev, revision: changes.view().revision() }
        }
        Op::DeleteRange(delete) => {
            let prev = changes.delete_range(delete);
            OpOutcome::Deleted { prev, revision: changes.view().revision() }
        }
        Op::Txn(_) => unreachable!("nested transactions are run by their operations"),
    }))
}

/// Whether the conditions hold: of `txn` first, then of each transaction in its chosen list, recursively. [`each_op`] and [`run`]
/// take the answers in the same order.
fn path(view: &View, txn: &Txn<'_>) -> Vec<bool> {
    let mut path = Vec::new();
    settle(view, txn, &mut path);
    path
}

fn settle(view: &View, txn: &Txn<'_>, path: &mut Vec<bool>) {
    let succeeded = txn.compare.iter().all(|compare| holds(view, compare));
    path.push(succeeded);
    for op in chosen(txn, succeeded) {
        if let Op::Txn(txn) = op {
            settle(view, txn, path);
        }
    }
}

fn chosen<'t, 'a>(txn: &'t Txn<'a>, succeeded: bool) -> &'t [Op<'a>] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn next(path: &mut impl Iterator<Item = bool>) -> bool {
    path.next().expect("the path has an answer for every transaction on it")
}

/// Calls `visit` for each operation on the path that is not a transaction, in order, until it fails.
fn each_op<'a, E>(
    txn: &Txn<'a>,
    path: &mut impl Iterator<Item = bool>,
    visit: &mut impl FnMut(&Op<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let succeeded = next(path);
    chosen(txn, succeeded).iter().try_for_each(|op| match op {
        Op::Txn(txn) => each_op(txn, path, visit),
        op => visit(op),
    })
}

/// Does each operation on the path that is not a transaction by `run_op`, in order.
fn run<'a>(
    txn: &Txn<'a>,
    path: &mut impl Iterator<Item = bool>,
    run_op: &mut impl FnMut(&Op<'a>) -> OpOutcome,
) -> TxnOutcome {
    let succeeded = next(path);
    let responses = chosen(txn, succeeded).iter().map(|op| match op {
        Op::Txn(txn) => OpOutcome::Txn(run(txn, path, run_op)),
        op => run_op(op),
    });
    TxnOutcome { succeeded, responses: responses.collect() }
}

/// Whether every key of the range compares as asked. With no key there, all numbers count as 0, and no value compares.
fn holds(view: &View, compare: &Compare<'_>) -> bool {
    let range = KeyRange::new(compare.key, compare.range_end);
    let mut found = view.walk(&range, view.revision(), None).peekable();
    if found.peek().is_none() {
        if is_planted(Bug::GuardIgnored) {
            return true;
        }
        return match compare.target {
            CompareTarget::Value(_) => false,
            CompareTarget::Version(wanted)
            | CompareTarget::Create(wanted)
            | CompareTarget::Mod(wanted)
            | CompareTarget::Lease(wanted) => is_asked(compare.result, 0.cmp(&wanted)),
        };
    }
    found.all(|block| is_asked(compare.result, order(block, compare.target)))
}

/// How what `block` has stands to what is compared with it.
fn order(block: &Block, target: CompareTarget<'_>) -> Ordering {
    match target {
        CompareTarget::Version(version) => block.version().cmp(&version),
        CompareTarget::Create(revision) => block.create_revision().cmp(&revision),
        CompareTarget::Mod(revision) => block.mod_revision().cmp(&revision),
        CompareTarget::Value(value) => block.value().cmp(value),
        CompareTarget::Lease(lease) => block.lease().cmp(&lease),
    }
}

fn is_asked(result: CompareResult, order: Ordering) -> bool {
    match result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}

fn check_put(view: &View, put: &Put<'_>) -> Result<(), Rejection> {
    check_existence(view, put)?;
    check_lease(view, put)
}

/// Stricter than a read that stands alone: to etcd, a negative revision below the compacted one (-1 at first) is compacted.
fn check_range(view: &View, range: &Range<'_>) -> Result<(), ReadError> {
    if range.revision == 0 {
        Ok(())
    } else if range.revision > view.revision {
        Err(ReadError::Future { revision: view.revision })
    } else if range.revision < view.oldest() {
        Err(ReadError::Compacted { compact_revision: view.compact_revision })
    } else {
        Ok(())
    }
}

fn read(view: &View, range: &Range<'_>) -> OpOutcome {
    let ranged = view.range(&query(range)).expect("the revisions of the path were checked");
    let kvs = ranged.kvs.into_iter().cloned().collect();
    OpOutcome::Range { kvs, count: ranged.count, more: ranged.more, revision: view.revision() }
}

/// Sort options that the API does not have count as none: the decoder lets none through.
fn query<'a>(range: &Range<'a>) -> RangeQuery<'a> {
    RangeQuery {
        range: KeyRange::new(range.key, range.range_end),
        limit: range.limit,
        revision: range.revision,
        order: match range.sort_order {
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            _ => SortOrder::None,
        },
        target: match range.sort_target {
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            _ => SortTarget::Key,
        },
        count_only: range.count_only,
        min_mod_revision: range.mod_revisions.0,
        max_mod_revision: range.mod_revisions.1,
        min_create_revision: range.create_revisions.0,
        max_create_revision: range.create_revisions.1,
    }
}
