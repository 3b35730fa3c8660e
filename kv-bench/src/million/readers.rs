//! Readers of the store alone, without a server: how much a writer slows them down that publishes to the map they read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kv_codec::command::{BatchBuilder, Body, CommandHeader, Put};
use kv_store::{Members, Store, ViewReader};

/// Turns of each of the two.
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(500);
/// Reads between two looks at the clock.
const READS: usize = 1_000;

/// A store, and what the next entry is.
struct Writer {
    store: Store,
    entry: u64,
    value: Vec<u8>,
}

impl Writer {
    fn filled(keys: u32, value_bytes: usize) -> Result<Self> {
        let mut writer = Self { store: Store::genesis(Members::default()), entry: 1, value: vec![7; value_bytes] };
        (0..keys).try_for_each(|number| writer.put(number))?;
        writer.store.publish();
        Ok(writer)
    }

    fn put(&mut self, number: u32) -> Result<()> {
        let (key, mut batch) = (key(number), BatchBuilder::default());
        let put = Put {
            key: key.as_bytes(),
            value: &self.value,
            lease: 0,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        batch.push(&Body::Put(put).encode(&CommandHeader::default()));
        self.entry += 1;
        self.store.apply(self.entry, 1, &batch.finish(), &mut Vec::new()).context("a put was not applied")
    }
}

fn key(number: u32) -> String {
    format!("reader/{number:08}")
}

/// Point reads a second while a writer publishes after every put to the map they read, by what they are while it does the same to
/// another map: a ratio, the median of turns.
pub(super) fn ratio(keys: u32, value_bytes: usize, seed: u64) -> Result<f64> {
    let (mut read, mut other) = (Writer::filled(keys, value_bytes)?, Writer::filled(keys, value_bytes)?);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ratios = Vec::new();
    for _ in 0..TURNS {
        let reader = read.store.reader();
        let beside_other = reads_beside(&reader, &mut other, keys, &mut random)?;
        let beside_same = reads_beside(&reader, &mut read, keys, &mut random)?;
        ratios.push(beside_same / beside_other);
    }
    ratios.sort_by(f64::total_cmp);
    Ok(ratios[TURNS / 2])
}

/// Reads a second of one reader while `writer` puts and publishes.
fn reads_beside(reader: &ViewReader, writer: &mut Writer, keys: u32, random: &mut fastrand::Rng) -> Result<f64> {
    let stop = AtomicBool::new(false);
    let (mut writes, mut reads) = (fastrand::Rng::with_seed(random.u64(..)), fastrand::Rng::with_seed(random.u64(..)));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                writer.put(writes.u32(..keys))?;
                writer.store.publish();
            }
            Ok(())
        });
        let (started, mut done) = (Instant::now(), 0);
        while started.elapsed() < TURN {
            for _ in 0..READS {
                let view = reader.load();
                std::hint::black_box(view.get(key(reads.u32(..keys)).as_bytes()));
            }
            done += READS;
        }
        let speed = done as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        writing.join().expect("the writer does not panic").map(|()| speed)
    })
}
