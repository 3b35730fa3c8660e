//! Transactions off the wire, one level of nesting at a time.
//!
//! The generated decoder gives up at 50 transactions inside each other, with an error about bytes; etcd takes as many as their
//! operations allow, and says of more that there are too many. So each level is decoded by itself here, what is inside it as bytes, and
//! the depth is counted. So are the operations, before any of them is decoded: an empty one takes two bytes on the wire and a hundred times
//! that as a message.

use bytes::Bytes;
use kv_codec::command::TXN_DEPTH_MAX;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message, Oneof};
use thiserror::Error;

use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::service::txn_check::TREE_OPS_FACTOR;

/// Why a transaction cannot be read.
#[derive(Debug, Error)]
pub(super) enum NestedError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("transactions nest deeper than {TXN_DEPTH_MAX}")]
    TooDeep,
    #[error("more operations than a transaction may have")]
    TooMany,
}

/// [`TxnRequest`] with its operations as bytes.
#[derive(Clone, PartialEq, Message)]
struct Level {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    success: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    failure: Vec<Bytes>,
}

/// [`RequestOp`] with the transaction inside it as bytes.
#[derive(Clone, PartialEq, Message)]
struct LevelOp {
    #[prost(oneof = "LevelRequest", tags = "1, 2, 3, 4")]
    request: Option<LevelRequest>,
}

#[derive(Clone, PartialEq, Oneof)]
enum LevelRequest {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
    #[prost(bytes = "bytes", tag = "4")]
    Txn(Bytes),
}

/// Decodes a transaction and all inside it. None of its lists may be longer than `ops_max`.
pub(super) fn decode_txn(message: Bytes, ops_max: usize) -> Result<TxnRequest, NestedError> {
    Decoder { ops_max, tree_left: TREE_OPS_FACTOR * ops_max }.level(message, TXN_DEPTH_MAX)
}

struct Decoder {
    /// Of one list.
    ops_max: usize,
    /// Of all lists together.
    tree_left: usize,
}

impl Decoder {
    fn level(&mut self, message: Bytes, depth: u32) -> Result<TxnRequest, NestedError> {
        let depth = depth.checked_sub(1).ok_or(NestedError::TooDeep)?;
        let lengths = lengths(&message)?;
        self.tree_left = self.tree_left.checked_sub(lengths.iter().sum()).ok_or(NestedError::TooMany)?;
        if lengths.iter().any(|length| *length > self.ops_max) {
            return Err(NestedError::TooMany);
        }
        let Level { compare, success, failure } = Level::decode(message)?;
        Ok(TxnRequest { compare, success: self.ops(success, depth)?, failure: self.ops(failure, depth)? })
    }

    fn ops(&mut self, ops: Vec<Bytes>, depth: u32) -> Result<Vec<RequestOp>, NestedError> {
        ops.into_iter().map(|bytes| self.op(bytes, depth)).collect()
    }

    fn op(&mut self, message: Bytes, depth: u32) -> Result<RequestOp, NestedError> {
        let request = match LevelOp::decode(message)?.request {
            None => None,
            Some(LevelRequest::Range(range)) => Some(Request::RequestRange(range)),
            Some(LevelRequest::Put(put)) => Some(Request::RequestPut(put)),
            Some(LevelRequest::DeleteRange(delete)) => Some(Request::RequestDeleteRange(delete)),
            Some(LevelRequest::Txn(txn)) => Some(Request::RequestTxn(self.level(txn, depth)?)),
        };
        Ok(RequestOp { request })
    }
}

/// How long the three lists of a transaction are.
fn lengths(mut message: &[u8]) -> Result<[usize; 3], DecodeError> {
    let mut lengths = [0; 3];
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message)?;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        match tag {
            1 => lengths[0] += 1,
            2 => lengths[1] += 1,
            3 => lengths[2] += 1,
            _ => {}
        }
    }
    Ok(lengths)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::compare::TargetUnion;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    #[test]
    fn a_transaction_is_read_as_the_generated_decoder_does() {
        let compare = Compare { key: "c".into(), target_union: Some(TargetUnion::Version(1)), ..Compare::default() };
        let inner = TxnRequest {
            compare: vec![compare.clone()],
            success: vec![op(Request::RequestRange(RangeRequest { key: "r".into(), limit: 7, ..Default::default() }))],
            failure: vec![RequestOp::default()],
        };
        let outer = TxnRequest {
            compare: vec![compare.clone(), compare],
            success: vec![
                op(Request::RequestTxn(inner)),
                op(Request::RequestPut(PutRequest { key: "p".into(), value: "v".into(), ..Default::default() })),
            ],
            failure: vec![op(Request::RequestDeleteRange(DeleteRangeRequest {
                key: "d".into(),
                ..Default::default()
            }))],
        };
        let bytes: Bytes = outer.encode_to_vec().into();
        assert_eq!(decode_txn(bytes.clone(), 128).unwrap(), outer);
        assert_eq!(decode_txn(bytes.clone(), 128).unwrap(), TxnRequest::decode(bytes).unwrap());
        assert!(matches!(decode_txn(Bytes::from_static(&[0x12, 9, 1]), 128), Err(NestedError::Decode(_))));
    }

    #[test]
    fn the_depth_is_counted_and_not_walked() {
        let nested = |depth: usize| {
            // A field key and a length before each level, written from the inside.
            let mut bytes = Vec::new();
            for _ in 1..depth {
                for key in [4_u8 << 3 | 2, 2 << 3 | 2] {
                    let mut around = vec![key];
                    prost::encoding::encode_varint(bytes.len() as u64, &mut around);
                    around.extend_from_slice(&bytes);
                    bytes = around;
                }
            }
            decode_txn(bytes.into(), 128)
        };
        assert!(nested(1).is_ok() && nested(TXN_DEPTH_MAX as usize).is_ok());
        for depth in [TXN_DEPTH_MAX as usize + 1, 10_000] {
            assert!(matches!(nested(depth), Err(NestedError::TooDeep)), "{depth}");
        }
    }

    /// A megabyte of empty operations would take a hundred as messages.
    #[test]
    fn operations_are_counted_before_they_are_decoded() {
        let list = |tag: u8, ops: usize| [tag << 3 | 2, 0].repeat(ops);
        for tag in 1..=3 {
            assert!(decode_txn(list(tag, 128).into(), 128).is_ok());
            assert!(matches!(decode_txn(list(tag, 129).into(), 128), Err(NestedError::TooMany)));
            assert!(matches!(
                decode_txn([list(tag, 129), vec![0x12]].concat().into(), 128),
                Err(NestedError::Decode(_))
            ));
        }
        let inner = TxnRequest { success: vec![RequestOp::default(); 128], ..TxnRequest::default() };
        let tree = |width| TxnRequest {
            success: vec![op(Request::RequestTxn(inner.clone())); width],
            ..TxnRequest::default()
        };
        assert!(decode_txn(tree(15).encode_to_vec().into(), 128).is_ok());
        assert!(
            matches!(decode_txn(tree(16).encode_to_vec().into(), 128), Err(NestedError::TooMany)),
            "16 * 129 operations"
        );
    }
}
