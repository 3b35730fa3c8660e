//! Key-value pairs on the wire, written from a block without a message in between.

use bytes::BufMut;
use kv_store::Block;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// How pairs stand in a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// The field that they are in.
    field: u32,
    /// Whether their values are left out.
    keys_only: bool,
}

impl Form {
    /// As those of a [`DeleteRangeResponse`](crate::proto::etcdserverpb::DeleteRangeResponse).
    pub(super) const PREV_KVS: Self = Self { field: 3, keys_only: false };

    /// As those of a [`RangeResponse`](crate::proto::etcdserverpb::RangeResponse).
    pub(super) fn kvs(keys_only: bool) -> Self {
        Self { field: 2, keys_only }
    }
}

/// The fields of [`KeyValue`](crate::proto::mvccpb::KeyValue).
const KEY: u32 = 1;
const CREATE_REVISION: u32 = 2;
const MOD_REVISION: u32 = 3;
const VERSION: u32 = 4;
const VALUE: u32 = 5;
const LEASE: u32 = 6;

/// The bytes that [`put_kv`] appends.
pub(super) fn kv_len(block: &Block, form: Form) -> usize {
    let len = pair_len(block, form);
    key_len(form.field) + encoded_len_varint(len as u64) + len
}

/// Appends the pair as one of a message's; how many bytes that took.
pub(super) fn put_kv(out: &mut impl BufMut, block: &Block, form: Form) -> usize {
    let len = pair_len(block, form);
    encode_key(form.field, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
    put_bytes(KEY, block.key(), out);
    put_int(CREATE_REVISION, block.create_revision(), out);
    put_int(MOD_REVISION, block.mod_revision(), out);
    put_int(VERSION, block.version(), out);
    put_bytes(VALUE, value(block, form), out);
    put_int(LEASE, block.lease(), out);
    key_len(form.field) + encoded_len_varint(len as u64) + len
}

fn pair_len(block: &Block, form: Form) -> usize {
    bytes_len(KEY, block.key())
        + int_len(CREATE_REVISION, block.create_revision())
        + int_len(MOD_REVISION, block.mod_revision())
        + int_len(VERSION, block.version())
        + bytes_len(VALUE, value(block, form))
        + int_len(LEASE, block.lease())
}

fn value(block: &Block, form: Form) -> &[u8] {
    if form.keys_only { b"" } else { block.value() }
}

/// As everywhere in proto3, what is empty or zero is left out.
fn bytes_len(field: u32, bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { key_len(field) + encoded_len_varint(bytes.len() as u64) + bytes.len() }
}

fn int_len(field: u32, value: i64) -> usize {
    if value == 0 { 0 } else { key_len(field) + encoded_len_varint(value.cast_unsigned()) }
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut impl BufMut) {
    if !bytes.is_empty() {
        encode_key(field, WireType::LengthDelimited, out);
        encode_varint(bytes.len() as u64, out);
        out.put_slice(bytes);
    }
}

fn put_int(field: u32, value: i64, out: &mut impl BufMut) {
    if value != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(value.cast_unsigned(), out);
    }
}

#[cfg(test)]
mod tests {
    use kv_codec::command::{BatchBuilder, Body, CommandHeader, Put};
    use kv_store::{Members, Store};
    use prost::Message;

    use super::*;
    use crate::proto::etcdserverpb::{DeleteRangeResponse, RangeResponse};
    use crate::service::key_value;

    /// The bytes are those of the generated messages.
    #[track_caller]
    fn check(block: &Block) {
        for keys_only in [false, true] {
            let mut kv = key_value(block);
            if keys_only {
                kv.value.clear();
            }
            let message = RangeResponse { kvs: vec![kv], ..RangeResponse::default() }.encode_to_vec();
            let mut encoded = Vec::new();
            let form = Form::kvs(keys_only);
            let appended = put_kv(&mut encoded, block, form);
            assert_eq!(encoded, message, "{block:?}");
            assert_eq!((appended, kv_len(block, form)), (message.len(), message.len()), "{block:?}");
        }
        let message = DeleteRangeResponse { prev_kvs: vec![key_value(block)], ..DeleteRangeResponse::default() };
        let mut encoded = Vec::new();
        put_kv(&mut encoded, block, Form::PREV_KVS);
        assert_eq!(encoded, message.encode_to_vec(), "{block:?}");
    }

    #[test]
    fn pairs_are_encoded_as_the_messages_are() {
        let mut store = Store::genesis(Members::default());
        let long = vec![0xff; 100_000];
        for (index, value) in [&b""[..], b"v", &[0; 127], &[1; 128], &long].into_iter().enumerate() {
            for round in 0..3 {
                let key = [b"key-", &long[..index * 50]].concat();
                let put = Put { key: &key, value, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
                let mut batch = BatchBuilder::default();
                batch.push(&Body::Put(put).encode(&CommandHeader::default()));
                let next = store.view().applied_index() + 1;
                store.apply(next, 1, &batch.finish(), &mut Vec::new()).expect("a put is applied");
                let block = store.view().get(&key).expect("it was put");
                assert_eq!(block.version(), round + 1);
                check(block);
            }
        }
    }
}
