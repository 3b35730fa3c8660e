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

/// What a writer does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Puts of an entry. A view is published after each entry.
    entry_puts: usize,
    /// From one entry to the next, at least.
    every: Duration,
}

impl Pace {
    /// One put after the other, each with a view of its own: some hundreds of thousands of views a second, the worst there is. Each has
    /// new nodes, which the reader fetches from the writer's core, and whose counts of references it changes.
    pub(super) const FLAT_OUT: Self = Self { entry_puts: 1, every: Duration::ZERO };
    /// As a server does: 60,000 puts a second, twenty to an entry.
    pub(super) const AS_SERVED: Self = Self { entry_puts: 20, every: Duration::from_micros(20 * 1_000_000 / 60_000) };
}

/// A store, and what the next entry is.
struct Writer {
    store: Store,
    entry: u64,
    value: Vec<u8>,
}

impl Writer {
    fn filled(keys: u32, value_bytes: usize) -> Result<Self> {
        let mut writer = Self { store: Store::genesis(Members::default()), entry: 1, value: vec![7; value_bytes] };
        (0..keys).try_for_each(|number| writer.entry([number]))?;
        writer.store.publish();
        Ok(writer)
    }

    /// Applies an entry of puts.
    fn entry(&mut self, numbers: impl IntoIterator<Item = u32>) -> Result<()> {
        let mut batch = BatchBuilder::default();
        for number in numbers {
            let key = key(number);
            let put = Put {
                key: key.as_bytes(),
                value: &self.value,
                lease: 0,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            };
            batch.push(&Body::Put(put).encode(&CommandHeader::default()));
        }
        self.entry += 1;
        self.store.apply(self.entry, 1, &batch.finish(), &mut Vec::new()).context("a put was not applied")
    }
}

fn key(number: u32) -> String {
    format!("reader/{number:08}")
}

/// Point reads a second while a writer puts to the map they read, by what they are while it does the same to another map: a ratio,
/// the median of turns. The writer has a core of its own in both and leaves it to nobody, so that only what the two share differs.
pub(super) fn ratio(pace: Pace, keys: u32, value_bytes: usize, seed: u64) -> Result<f64> {
    let (mut read, mut other) = (Writer::filled(keys, value_bytes)?, Writer::filled(keys, value_bytes)?);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ratios = Vec::new();
    for _ in 0..TURNS {
        let reader = read.store.reader();
        let beside_other = reads_beside(&reader, &mut other, pace, keys, &mut random)?;
        let beside_same = reads_beside(&reader, &mut read, pace, keys, &mut random)?;
        ratios.push(beside_same / beside_other);
    }
    ratios.sort_by(f64::total_cmp);
    Ok(ratios[TURNS / 2])
}

/// Reads a second of one reader while `writer` puts and publishes.
fn reads_beside(
    reader: &ViewReader,
    writer: &mut Writer,
    pace: Pace,
    keys: u32,
    random: &mut fastrand::Rng,
) -> Result<f64> {
    let stop = AtomicBool::new(false);
    let (mut writes, mut reads) = (fastrand::Rng::with_seed(random.u64(..)), fastrand::Rng::with_seed(random.u64(..)));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                writer.entry((0..pace.entry_puts).map(|_| writes.u32(..keys)))?;
                writer.store.publish();
                while begun.elapsed() < pace.every {
                    std::hint::spin_loop();
                }
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
