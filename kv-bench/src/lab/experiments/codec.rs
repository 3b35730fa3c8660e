//! 5: what an operation and a snapshot cost to write down and to read back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kv_codec::command::{BatchBuilder, Body, CommandHeader, Compare, CompareResult, CompareTarget, Op, Put, Txn};
use kv_server::proto::{etcdserverpb as pb, mvccpb};
use kv_store::{Members, SnapshotLoader, Store, View};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::figures::number;
use crate::lab::Lab;
use crate::lab::clock::ns_per_call;
use crate::lab::engine::Write;
use crate::lab::load::{Keys, value};
use crate::lab::path::Operation;
use crate::lab::report::{Chart, Section, Table, spread};

const ROUND: Duration = Duration::from_millis(100);
const QUICK_ROUND: Duration = Duration::from_millis(2);
const TXN_OPERATIONS: usize = 10;
const SNAPSHOT_KEYS: usize = 10_000;
const SMALL_VALUE_BYTES: usize = 32;
const LARGE_VALUE_BYTES: usize = 1024;

/// The formats, and how the tables call them.
const FORMATS: [&str; 4] = ["JSON", "MessagePack, for gob", "protobuf", "ours"];
const PAYLOADS: [&str; 4] = ["small put", "1 KiB put", "10-op txn", "10,000-key snapshot"];

/// A transaction as the analysed project sends it.
#[derive(Serialize, Deserialize)]
struct Transaction<'a> {
    #[serde(borrow)]
    compares: Vec<Comparison<'a>>,
    #[serde(borrow)]
    success: Vec<Operation<'a>>,
    #[serde(borrow)]
    failure: Vec<Operation<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Comparison<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    target: Cow<'a, str>,
    #[serde(borrow)]
    result: Cow<'a, str>,
    version: i64,
}

/// A key of a snapshot, as a self-describing format writes it.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
}

type Encode<'a> = Box<dyn Fn() -> Vec<u8> + 'a>;
type Decode<'a> = Box<dyn Fn(&[u8]) -> Result<()> + 'a>;

/// One format of one payload: its bytes, and what to time.
struct Coder<'a> {
    encode: Encode<'a>,
    decode: Decode<'a>,
}

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let how = format!(
        "The same operations in four formats: a put with {SMALL_VALUE_BYTES} bytes of value, one with {LARGE_VALUE_BYTES}, a \
         transaction of one comparison and {TXN_OPERATIONS} puts, a snapshot of {SNAPSHOT_KEYS} keys. MessagePack with names of \
         fields stands for gob, which Rust has not: both describe themselves. Protobuf is etcd's own messages. To read a \
         snapshot is to have an ordered map of it: ours builds the store's own, with counts and history."
    );
    let mut section = Section::new("5", "Codecs", how);
    let (small, large) = (value(SMALL_VALUE_BYTES), value(LARGE_VALUE_BYTES));
    let keys = Keys::new(SNAPSHOT_KEYS);
    let view = view(&keys, &small)?;
    let put = |value| Write::Put { key: keys.all()[77].as_slice(), value, prev_kv: false };
    let payloads = [
        put_coders(put(&small)),
        put_coders(put(&large)),
        txn_coders(&keys, &small),
        snapshot_coders(&keys, &small, &view),
    ];
    let bar = lab.bar("5", PAYLOADS.len() * FORMATS.len());
    let length = if lab.quick { QUICK_ROUND } else { ROUND };
    let head = ["payload", "format", "encode, ns", "decode, ns", "bytes", "of JSON's"];
    let mut table = Table::new("Per operation, or per snapshot", &head);
    for (payload, coders) in PAYLOADS.into_iter().zip(&payloads) {
        let mut json_bytes = 0.0;
        let mut rounds = vec![(Vec::new(), Vec::new()); FORMATS.len()];
        for format in lab.turns(coders.len()) {
            let Coder { encode, decode } = &coders[format];
            lab.stop.check()?;
            bar.set_message(FORMATS[format]);
            let bytes = encode();
            decode(&bytes)?;
            rounds[format].0.push(ns_per_call(length, || drop(black_box(encode()))));
            rounds[format].1.push(ns_per_call(length, || drop(black_box(decode(&bytes)))));
        }
        for (format, Coder { encode, .. }) in coders.iter().enumerate() {
            let (encode_ns, decode_ns) = &rounds[format];
            let bytes = encode().len() as f64;
            if format == 0 {
                json_bytes = bytes;
            }
            let name = format!("{payload}.{}", FORMATS[format]);
            let encoded = section.keep(&format!("{name}.encode_ns"), encode_ns).context("a round")?;
            let decoded = section.keep(&format!("{name}.decode_ns"), decode_ns).context("a round")?;
            section.figures.insert(format!("{name}.bytes"), bytes);
            let percent = format!("{:.0} %", 100.0 * bytes / json_bytes);
            let cells =
                [payload.into(), FORMATS[format].into(), spread(encoded), spread(decoded), number(bytes), percent];
            table.rows.push(cells.into());
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    for (what, part) in [("encode", "encode_ns"), ("decode", "decode_ns")] {
        let bars = FORMATS.iter().filter_map(|format| {
            let name = format!("small put.{format}.{part}");
            let rounds = section.rounds.get(&name)?;
            let (least, most) =
                (rounds.iter().copied().fold(f64::MAX, f64::min), rounds.iter().copied().fold(0.0, f64::max));
            Some(((*format).to_owned(), *section.figures.get(&name)?, least, most))
        });
        let title = format!("To {what} a small put (shorter is better)");
        let chart = Chart::Bars { title, unit: "ns".into(), bars: bars.collect() };
        section.charts.push(chart);
    }
    section.tables.push(table);
    Ok(section)
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn json_or_pack<'a, T, D>(of: impl Fn() -> T + Copy + 'a, check: D) -> [Coder<'a>; 2]
where
    T: Serialize + 'a,
    D: Fn(&[u8], bool) -> Result<()> + Copy + 'a,
{
    let json = move || serde_json::to_vec(&of()).unwrap_or_default();
    let pack = move || rmp_serde::to_vec_named(&of()).unwrap_or_default();
    [
        Coder { encode: Box::new(json), decode: Box::new(move |bytes| check(bytes, true)) },
        Coder { encode: Box::new(pack), decode: Box::new(move |bytes| check(bytes, false)) },
    ]
}

/// Reads either of the two.
fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8], json: bool) -> Result<T> {
    if json {
        serde_json::from_slice(bytes).context("JSON")
    } else {
        rmp_serde::from_slice(bytes).context("MessagePack")
    }
}

fn put_coders(put: Write<'_>) -> [Coder<'_>; 4] {
    let Write::Put { key, value, .. } = put else { unreachable!("a put was given") };
    let of = move || Operation::of(&put, "seq-123456".into());
    let check = move |bytes: &[u8], json: bool| {
        let operation: Operation<'_> = read(bytes, json)?;
        ensure!(operation.key.as_bytes() == key, "another key");
        Ok(())
    };
    let [json, pack] = json_or_pack(of, check);
    let message =
        pb::PutRequest { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value), ..Default::default() };
    let protobuf = Coder {
        encode: Box::new(move || message.encode_to_vec()),
        decode: Box::new(move |bytes| {
            ensure!(pb::PutRequest::decode(bytes).context("protobuf")?.key == key, "another key");
            Ok(())
        }),
    };
    let body =
        move || Body::Put(Put { key, value, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false });
    [json, pack, protobuf, ours(body)]
}

/// Ours: header and body.
fn ours<'a>(body: impl Fn() -> Body<'a> + 'a) -> Coder<'a> {
    let header = CommandHeader { origin: 1, epoch: 1, seq: 123_456, ..CommandHeader::default() };
    Coder {
        encode: Box::new(move || body().encode(&header)),
        decode: Box::new(|bytes| {
            let command = kv_codec::command::CommandRef::decode(bytes).context("ours")?;
            black_box(Body::decode(command.body).context("ours")?);
            Ok(())
        }),
    }
}

fn txn_coders<'a>(keys: &'a Keys, value: &'a [u8]) -> [Coder<'a>; 4] {
    let keys = &keys.all()[..TXN_OPERATIONS];
    let of = move || Transaction {
        compares: vec![Comparison {
            key: text(&keys[0]),
            target: "version".into(),
            result: "equal".into(),
            version: 1,
        }],
        success: keys
            .iter()
            .map(|key| Operation::of(&Write::Put { key, value, prev_kv: false }, "seq-123456".into()))
            .collect(),
        failure: Vec::new(),
    };
    let check = |bytes: &[u8], json: bool| {
        let transaction: Transaction<'_> = read(bytes, json)?;
        ensure!(transaction.success.len() == TXN_OPERATIONS, "operations are missing");
        Ok(())
    };
    let [json, pack] = json_or_pack(of, check);
    let put = |key: &Vec<u8>| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.clone().into(),
            value: Bytes::copy_from_slice(value),
            ..Default::default()
        })),
    };
    let compare = pb::Compare {
        key: keys[0].clone().into(),
        target_union: Some(pb::compare::TargetUnion::Version(1)),
        ..Default::default()
    };
    let message =
        pb::TxnRequest { compare: vec![compare], success: keys.iter().map(put).collect(), failure: Vec::new() };
    let protobuf = Coder {
        encode: Box::new(move || message.encode_to_vec()),
        decode: Box::new(|bytes| {
            let found = pb::TxnRequest::decode(bytes).context("protobuf")?.success.len();
            ensure!(found == TXN_OPERATIONS, "operations are missing");
            Ok(())
        }),
    };
    let body = move || {
        let target = CompareTarget::Version(1);
        let compare = Compare { key: &keys[0], range_end: b"", result: CompareResult::Equal, target };
        let put = |key: &'a Vec<u8>| {
            Op::Put(Put { key, value, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false })
        };
        Body::Txn(Txn { compare: vec![compare], success: keys.iter().map(put).collect(), failure: Vec::new() })
    };
    [json, pack, protobuf, ours(body)]
}

/// A store that holds the keys.
fn view(keys: &Keys, value: &[u8]) -> Result<View> {
    let mut store = Store::genesis(Members::default());
    let mut batch = BatchBuilder::default();
    for key in keys.all() {
        let put = Put { key, value, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
        batch.push(&Body::Put(put).encode(&CommandHeader::default()));
    }
    store.apply(2, 1, &batch.finish(), &mut Vec::new()).context("filling a store")?;
    Ok(store.view().clone())
}

fn snapshot_coders<'a>(keys: &'a Keys, value: &'a [u8], view: &'a View) -> [Coder<'a>; 4] {
    let of = move || -> Vec<Stored<'a>> {
        let stored = |(key, revision): (&'a Vec<u8>, i64)| Stored {
            key: text(key),
            value: text(value),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: 0,
        };
        keys.all().iter().zip(2..).map(stored).collect()
    };
    let check = |bytes: &[u8], json: bool| {
        let all: Vec<Stored<'_>> = read(bytes, json)?;
        let map: BTreeMap<String, Stored<'_>> =
            all.into_iter().map(|stored| (stored.key.to_string(), stored)).collect();
        ensure!(map.len() == SNAPSHOT_KEYS, "keys are missing");
        Ok(())
    };
    let [json, pack] = json_or_pack(of, check);
    let protobuf = Coder {
        encode: Box::new(move || {
            let stored = |(key, revision): (&Vec<u8>, i64)| mvccpb::KeyValue {
                key: key.clone().into(),
                value: Bytes::copy_from_slice(value),
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                lease: 0,
            };
            let kvs = keys.all().iter().zip(2..).map(stored).collect();
            pb::RangeResponse { kvs, ..Default::default() }.encode_to_vec()
        }),
        decode: Box::new(|bytes| {
            let all = pb::RangeResponse::decode(bytes).context("protobuf")?.kvs;
            let map: BTreeMap<Bytes, mvccpb::KeyValue> =
                all.into_iter().map(|stored| (stored.key.clone(), stored)).collect();
            ensure!(map.len() == SNAPSHOT_KEYS, "keys are missing");
            Ok(())
        }),
    };
    let ours = Coder {
        encode: Box::new(move || view.chunks().collect::<Vec<_>>().concat()),
        decode: Box::new(|bytes| {
            let mut loader = SnapshotLoader::default();
            loader.push(bytes).context("ours")?;
            ensure!(loader.finish().context("ours")?.live_keys() == SNAPSHOT_KEYS as u64, "keys are missing");
            Ok(())
        }),
    };
    [json, pack, protobuf, ours]
}
