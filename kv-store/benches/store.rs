//! What puts, gets and ranges cost in a store of 100,000 keys: `cargo bench -p kv-store --bench store`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use kv_codec::command::{BatchBuilder, Body, CommandHeader, Put};
use kv_store::{KeyRange, Members, RangeQuery, Store};

const KEYS: u64 = 100_000;
const VALUE: [u8; 256] = [7; 256];

fn key(number: u64) -> String {
    // Spread over the keys, and the same in every run.
    format!("key/{:08}", number * 7_919 % KEYS)
}

fn puts(numbers: impl Iterator<Item = u64>) -> Bytes {
    let mut batch = BatchBuilder::default();
    for number in numbers {
        let key = key(number);
        let key = key.as_bytes();
        let put = Put { key, value: &VALUE, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
        batch.push(&Body::Put(put).encode(&CommandHeader::default()));
    }
    batch.finish()
}

/// Applies batches, one entry after the other.
struct Writer {
    store: Store,
    index: u64,
}

impl Writer {
    fn filled() -> Self {
        let mut writer = Self { store: Store::genesis(Members::default()), index: 1 };
        for first in (0..KEYS).step_by(1_000) {
            writer.apply(&puts(first..first + 1_000));
        }
        writer
    }

    fn apply(&mut self, batch: &[u8]) {
        self.index += 1;
        self.store.apply(self.index, 1, batch, &mut Vec::new()).expect("puts are applied");
        self.store.publish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let reader = Writer::filled().store.reader();
    let mut number = 0;
    criterion.bench_function("get", |bencher| {
        bencher.iter(|| {
            number += 1;
            let view = reader.load();
            black_box(view.get(key(number).as_bytes()).expect("every key is there").value().len())
        });
    });
    criterion.bench_function("range of 100 keys", |bencher| {
        bencher.iter(|| {
            number += 1;
            let first = key(number);
            let query = RangeQuery { limit: 100, ..RangeQuery::new(KeyRange::From(first.as_bytes())) };
            black_box(reader.load().range(&query).expect("the present can be read").kvs.len())
        });
    });
    for batch in [1, 64] {
        let mut writer = Writer::filled();
        let mut number = 0;
        criterion.bench_function(&format!("apply and publish a batch of {batch}"), |bencher| {
            let make = || {
                number += batch;
                puts(number..number + batch)
            };
            bencher.iter_batched(make, |batch| writer.apply(&batch), BatchSize::SmallInput);
        });
    }
    criterion.final_summary();
}
