//! What etcd checks of a transaction before it looks at any key.

use std::collections::BTreeSet;
use std::ops::RangeBounds;

use kv_store::{Bounds, KeyRange};

use super::kv::{check_put, range_query};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{RequestOp, TxnRequest};
use crate::status::ApiError;

/// Checks limits, keys and options, then that no key is written twice.
///
/// A transaction inside another may use what that one's longest list leaves of `ops_max`.
///
/// # Errors
/// The first thing wrong, as etcd finds it.
pub(super) fn check(txn: &TxnRequest, ops_max: usize) -> Result<(), ApiError> {
    check_shape(txn, ops_max, &mut (TREE_OPS_FACTOR * ops_max))?;
    // After the limits, so that what follows is small.
    touched(&txn.success)?;
    touched(&txn.failure)?;
    Ok(())
}

/// A whole tree of transactions has at most so many times the operations of one. etcd bounds each path down the tree only, which
/// lets a megabyte of nested reads run for hours inside every member.
pub(crate) const TREE_OPS_FACTOR: usize = 16;

fn check_shape(txn: &TxnRequest, ops_max: usize, tree_left: &mut usize) -> Result<(), ApiError> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let left = ops_max.checked_sub(ops).ok_or(ApiError::TooManyOps)?;
    let all = txn.compare.len() + txn.success.len() + txn.failure.len();
    *tree_left = tree_left.checked_sub(all).ok_or(ApiError::TooManyOps)?;
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(ApiError::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => drop(range_query(range)?),
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) if delete.key.is_empty() => return Err(ApiError::EmptyKey),
            Some(Request::RequestDeleteRange(_)) => {}
            Some(Request::RequestTxn(txn)) => check_shape(txn, left, tree_left)?,
            None => return Err(ApiError::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that a list of operations puts, and the ranges it deletes.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<Bounds<'a>>,
}

impl<'a> Touched<'a> {
    fn deletes(&self, key: &'a [u8]) -> bool {
        self.deletes.iter().any(|range| RangeBounds::<&[u8]>::contains(&(range.0.as_ref(), range.1.as_ref()), &key))
    }

    /// Adds a put; `other_case` may put the same key, for only one of the two happens.
    fn put(&mut self, key: &'a [u8], other_case: &BTreeSet<&[u8]>) -> Result<(), ApiError> {
        let twice = self.puts.contains(key) && !other_case.contains(key);
        if twice || self.deletes(key) {
            return Err(ApiError::DuplicateKey);
        }
        self.puts.insert(key);
        Ok(())
    }
}

/// What `ops` touch. No key is put twice, or put and deleted; deleting twice is fine.
fn touched(ops: &[RequestOp]) -> Result<Touched<'_>, ApiError> {
    let mut all = Touched::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            // An open end is an empty range to etcd here.
            let range = match delete.range_end.as_ref() {
                b"" => KeyRange::Single(&delete.key),
                end => KeyRange::Span(&delete.key, end),
            };
            all.deletes.extend(range.bounds());
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            let (then, otherwise) = (touched(&txn.success)?, touched(&txn.failure)?);
            for key in &then.puts {
                all.put(key, &BTreeSet::new())?;
            }
            for key in &otherwise.puts {
                all.put(key, &then.puts)?;
            }
            all.deletes.extend(then.deletes);
            all.deletes.extend(otherwise.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            all.put(&put.key, &BTreeSet::new())?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest};

    fn put(key: &'static str) -> RequestOp {
        let put = PutRequest { key: key.into(), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(key: &'static str, end: &'static str) -> RequestOp {
        let delete = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false };
        RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn txn(success: &[RequestOp], failure: &[RequestOp]) -> RequestOp {
        let txn = TxnRequest { compare: vec![], success: success.to_vec(), failure: failure.to_vec() };
        RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    fn of(success: &[RequestOp]) -> Result<(), ApiError> {
        check(&TxnRequest { success: success.to_vec(), ..TxnRequest::default() }, 4)
    }

    #[test]
    fn a_key_is_written_once() {
        let twice = Err(ApiError::DuplicateKey);
        assert_eq!(of(&[put("a"), put("b")]), Ok(()));
        assert_eq!(of(&[put("a"), put("a")]), twice);
        assert_eq!(of(&[put("b"), delete("a", "c")]), twice);
        assert_eq!(of(&[put("c"), delete("a", "c")]), Ok(()));
        assert_eq!(of(&[delete("a", ""), delete("a", "c")]), Ok(()));
        assert_eq!(of(&[put("a"), txn(&[put("a")], &[])]), twice);
        assert_eq!(of(&[txn(&[put("a")], &[put("a")])]), Ok(()), "only one of the two happens");
        assert_eq!(of(&[txn(&[put("a")], &[]), txn(&[], &[put("a")])]), twice);
        assert_eq!(of(&[delete("a", "c"), txn(&[], &[put("b")])]), twice);
        assert_eq!(of(&[put("b"), txn(&[delete("a", "c")], &[])]), twice);
    }

    #[test]
    fn a_nested_transaction_has_what_is_left() {
        let nested = |ops: usize| txn(&vec![delete("a", ""); ops], &[]);
        assert_eq!(of(&[nested(3)]), Ok(()));
        assert_eq!(of(&[nested(4)]), Err(ApiError::TooManyOps));
        assert_eq!(of(&[txn(&[nested(2)], &[])]), Ok(()));
        assert_eq!(of(&[txn(&[nested(3)], &[])]), Err(ApiError::TooManyOps));
    }

    /// Each path of this tree is within its budget; all of it together would take every member hours.
    #[test]
    fn a_tree_is_bounded_as_a_whole() {
        let leaf = txn(&vec![delete("a", ""); 42], &[]);
        let tree = txn(&vec![txn(&vec![leaf; 42], &[]); 42], &[]);
        let request = TxnRequest { success: vec![tree], ..TxnRequest::default() };
        assert_eq!(check(&request, 128), Err(ApiError::TooManyOps));
    }

    #[test]
    fn what_is_malformed_is_named() {
        assert_eq!(of(&[RequestOp::default()]), Err(ApiError::KeyNotFound));
        assert_eq!(of(&[put("")]), Err(ApiError::EmptyKey));
        let compare = TxnRequest { compare: vec![Compare::default()], ..TxnRequest::default() };
        assert_eq!(check(&compare, 4), Err(ApiError::EmptyKey));
        let range = RangeRequest { key: "a".into(), sort_order: 9, ..RangeRequest::default() };
        let range = RequestOp { request: Some(Request::RequestRange(range)) };
        assert_eq!(of(&[range]), Err(ApiError::InvalidSortOption));
    }
}
