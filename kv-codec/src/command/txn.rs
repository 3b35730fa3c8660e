//! Transactions: conditions, and what is done when they hold and when they do not.

use super::{
    DeleteRange, FIELD_BYTES_MAX, KIND_DELETE_RANGE, KIND_PUT, KIND_TXN, Put, decode_delete, decode_put, encode_delete,
    encode_put, flag, flags, list,
};
use crate::DecodeError;
use crate::varint::{Reader, put_bytes, put_u64};

const KIND_RANGE: u8 = 5;

const FLAG_KEYS_ONLY: u8 = 1;
const FLAG_COUNT_ONLY: u8 = 2;

/// How deep transactions nest: each level spends at least one operation of `--max-txn-ops`.
pub const TXN_DEPTH_MAX: u32 = 128;

/// A read inside a transaction. The numbers are those of the etcd API; what a sort target means is the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range<'a> {
    /// The first key.
    pub key: &'a [u8],
    /// The end of the range, as in [`DeleteRange`].
    pub range_end: &'a [u8],
    /// How many at most; 0 or less for all.
    pub limit: i64,
    /// At which revision; 0 or less for the current one.
    pub revision: i64,
    /// 0 none, 1 ascending, 2 descending.
    pub sort_order: u8,
    /// 0 key, 1 version, 2 create revision, 3 mod revision, 4 value.
    pub sort_target: u8,
    /// Leave the values out of the answer.
    pub keys_only: bool,
    /// Count only.
    pub count_only: bool,
    /// Bounds of the mod revision, 0 for off: at least, at most.
    pub mod_revisions: (i64, i64),
    /// Bounds of the create revision, 0 for off: at least, at most.
    pub create_revisions: (i64, i64),
}

/// How a [`Compare`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareResult {
    /// Equal.
    Equal,
    /// What is there is greater.
    Greater,
    /// What is there is less.
    Less,
    /// Not equal.
    NotEqual,
}

/// With what a [`Compare`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareTarget<'a> {
    /// The version.
    Version(i64),
    /// The create revision.
    Create(i64),
    /// The mod revision.
    Mod(i64),
    /// The value.
    Value(&'a [u8]),
    /// The lease.
    Lease(i64),
}

/// A condition of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare<'a> {
    /// The first key.
    pub key: &'a [u8],
    /// The end of the range, as in [`DeleteRange`]; every key in it is compared.
    pub range_end: &'a [u8],
    /// How.
    pub result: CompareResult,
    /// With what.
    pub target: CompareTarget<'a>,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op<'a> {
    /// Reads.
    Range(Range<'a>),
    /// Writes a key.
    Put(Put<'a>),
    /// Deletes a range.
    DeleteRange(DeleteRange<'a>),
    /// A transaction inside this one.
    Txn(Txn<'a>),
}

/// A transaction: one list of operations or the other, by whether all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn<'a> {
    /// The conditions.
    pub compare: Vec<Compare<'a>>,
    /// What is done when all hold.
    pub success: Vec<Op<'a>>,
    /// What is done when one does not.
    pub failure: Vec<Op<'a>>,
}

fn encode_range(out: &mut Vec<u8>, range: &Range<'_>) {
    out.push(KIND_RANGE);
    out.push(flag(range.keys_only, FLAG_KEYS_ONLY) | flag(range.count_only, FLAG_COUNT_ONLY));
    out.push(range.sort_order);
    out.push(range.sort_target);
    let (mods, creates) = (range.mod_revisions, range.create_revisions);
    for number in [range.limit, range.revision, mods.0, mods.1, creates.0, creates.1] {
        put_u64(out, number.cast_unsigned());
    }
    put_bytes(out, range.key);
    put_bytes(out, range.range_end);
}

fn decode_range<'a>(reader: &mut Reader<'a>) -> Result<Range<'a>, DecodeError> {
    let flags = flags(reader, FLAG_KEYS_ONLY | FLAG_COUNT_ONLY)?;
    let (sort_order, sort_target) = (reader.u8("sort order")?, reader.u8("sort target")?);
    if sort_order > 2 || sort_target > 4 {
        return Err(DecodeError::Invalid("sort option"));
    }
    Ok(Range {
        sort_order,
        sort_target,
        keys_only: flags & FLAG_KEYS_ONLY != 0,
        count_only: flags & FLAG_COUNT_ONLY != 0,
        limit: reader.i64("limit")?,
        revision: reader.i64("revision")?,
        mod_revisions: (reader.i64("mod revision")?, reader.i64("mod revision")?),
        create_revisions: (reader.i64("create revision")?, reader.i64("create revision")?),
        key: reader.bytes(FIELD_BYTES_MAX, "key")?,
        range_end: reader.bytes(FIELD_BYTES_MAX, "range end")?,
    })
}

pub(super) fn encode_txn(out: &mut Vec<u8>, txn: &Txn<'_>) {
    put_u64(out, txn.compare.len() as u64);
    for compare in &txn.compare {
        encode_compare(out, compare);
    }
    for ops in [&txn.success, &txn.failure] {
        put_u64(out, ops.len() as u64);
        for op in ops {
            match op {
                Op::Range(range) => encode_range(out, range),
                Op::Put(put) => encode_put(out, put),
                Op::DeleteRange(delete) => encode_delete(out, delete),
                Op::Txn(txn) => {
                    out.push(KIND_TXN);
                    encode_txn(out, txn);
                }
            }
        }
    }
}

pub(super) fn decode_txn<'a>(reader: &mut Reader<'a>, depth: u32) -> Result<Txn<'a>, DecodeError> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::Invalid("depth of a transaction"))?;
    let compare = list(reader, decode_compare)?;
    let op = |reader: &mut Reader<'a>| match reader.u8("operation kind")? {
        KIND_RANGE => Ok(Op::Range(decode_range(reader)?)),
        KIND_PUT => Ok(Op::Put(decode_put(reader)?)),
        KIND_DELETE_RANGE => Ok(Op::DeleteRange(decode_delete(reader)?)),
        KIND_TXN => Ok(Op::Txn(decode_txn(reader, depth)?)),
        _ => Err(DecodeError::Invalid("operation kind")),
    };
    Ok(Txn { compare, success: list(reader, op)?, failure: list(reader, op)? })
}

fn encode_compare(out: &mut Vec<u8>, compare: &Compare<'_>) {
    out.push(match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
    });
    let (target, number) = match compare.target {
        CompareTarget::Version(number) => (0, number),
        CompareTarget::Create(number) => (1, number),
        CompareTarget::Mod(number) => (2, number),
        CompareTarget::Value(_) => (3, 0),
        CompareTarget::Lease(number) => (4, number),
    };
    out.push(target);
    match compare.target {
        CompareTarget::Value(value) => put_bytes(out, value),
        _ => put_u64(out, number.cast_unsigned()),
    }
    put_bytes(out, compare.key);
    put_bytes(out, compare.range_end);
}

fn decode_compare<'a>(reader: &mut Reader<'a>) -> Result<Compare<'a>, DecodeError> {
    let result = match reader.u8("compare result")? {
        0 => CompareResult::Equal,
        1 => CompareResult::Greater,
        2 => CompareResult::Less,
        3 => CompareResult::NotEqual,
        _ => return Err(DecodeError::Invalid("compare result")),
    };
    let target = match reader.u8("compare target")? {
        0 => CompareTarget::Version(reader.i64("version")?),
        1 => CompareTarget::Create(reader.i64("create revision")?),
        2 => CompareTarget::Mod(reader.i64("mod revision")?),
        3 => CompareTarget::Value(reader.bytes(FIELD_BYTES_MAX, "value")?),
        4 => CompareTarget::Lease(reader.i64("lease")?),
        _ => return Err(DecodeError::Invalid("compare target")),
    };
    let key = reader.bytes(FIELD_BYTES_MAX, "key")?;
    Ok(Compare { key, range_end: reader.bytes(FIELD_BYTES_MAX, "range end")?, result, target })
}
