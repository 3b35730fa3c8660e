//! What it costs to write and read commands: `cargo bench -p kv-codec --bench codec`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use kv_codec::command::{Batch, BatchBuilder, Body, CommandHeader, Put};

const VALUE: [u8; 256] = [7; 256];
const BATCH: usize = 64;

fn put(key: &[u8]) -> Vec<u8> {
    let put = Put { key, value: &VALUE, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
    Body::Put(put).encode(&CommandHeader { origin: 1, epoch: 1, seq: 1, auth_revision: 0, user: b"" })
}

fn batch() -> Bytes {
    let mut builder = BatchBuilder::default();
    (0..BATCH).for_each(|number| builder.push(&put(format!("key/{number:08}").as_bytes())));
    builder.finish()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("command");
    group.bench_function("encode a put of 256 B", |bencher| bencher.iter(|| put(black_box(b"key/00000042"))));
    let batch = batch();
    group.throughput(Throughput::Bytes(batch.len() as u64));
    group.bench_function("decode 64 puts", |bencher| {
        bencher.iter(|| {
            for command in Batch::decode(black_box(&batch)).expect("it was just encoded") {
                black_box(Body::decode(command.expect("a whole one").body).expect("a put"));
            }
        });
    });
    group.finish();
    criterion.final_summary();
}
