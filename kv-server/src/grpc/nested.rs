//! Transactions off the wire, one level of nesting at a time.
//!
//! The generated decoder gives up at 50 transactions inside each other, with an error about bytes; etcd takes as many as their
//! operations allow, and says of more that there are too many. So each level is decoded by itself here, what is inside it as bytes, and
//! the depth is counted.

use bytes::Bytes;
use kv_codec::command::TXN_DEPTH_MAX;
use prost::{DecodeError, Message, Oneof};
use thiserror::Error;

use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// Why a transaction cannot be read.
#[derive(Debug, Error)]
pub(super) enum NestedError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("transactions nest deeper than {TXN_DEPTH_MAX}")]
    TooDeep,
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

/// Decodes a transaction and all inside it.
pub(super) fn decode_txn(message: Bytes) -> Result<TxnRequest, NestedError> {
    level(message, TXN_DEPTH_MAX)
}

fn level(message: Bytes, depth: u32) -> Result<TxnRequest, NestedError> {
    let depth = depth.checked_sub(1).ok_or(NestedError::TooDeep)?;
    let Level { compare, success, failure } = Level::decode(message)?;
    let ops = |ops: Vec<Bytes>| ops.into_iter().map(|bytes| op(bytes, depth)).collect::<Result<_, _>>();
    Ok(TxnRequest { compare, success: ops(success)?, failure: ops(failure)? })
}

fn op(message: Bytes, depth: u32) -> Result<RequestOp, NestedError> {
    let request = match LevelOp::decode(message)?.request {
        None => None,
        Some(LevelRequest::Range(range)) => Some(Request::RequestRange(range)),
        Some(LevelRequest::Put(put)) => Some(Request::RequestPut(put)),
        Some(LevelRequest::DeleteRange(delete)) => Some(Request::RequestDeleteRange(delete)),
        Some(LevelRequest::Txn(txn)) => Some(Request::RequestTxn(level(txn, depth)?)),
    };
    Ok(RequestOp { request })
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
        assert_eq!(decode_txn(bytes.clone()).unwrap(), outer);
        assert_eq!(decode_txn(bytes.clone()).unwrap(), TxnRequest::decode(bytes).unwrap());
        assert!(matches!(decode_txn(Bytes::from_static(&[0x12, 9, 1])), Err(NestedError::Decode(_))));
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
            decode_txn(bytes.into())
        };
        assert!(nested(1).is_ok() && nested(TXN_DEPTH_MAX as usize).is_ok());
        for depth in [TXN_DEPTH_MAX as usize + 1, 10_000] {
            assert!(matches!(nested(depth), Err(NestedError::TooDeep)), "{depth}");
        }
    }
}
