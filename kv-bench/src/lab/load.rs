//! Clients: threads that read and write as fast as they are answered.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use super::Stop;
use super::clock::cpu_time;
use super::engine::{Answer, Engine, Found, Write};
use super::member::{Member, Setup};
use super::path::Path;

/// One operation in so many is timed: reading the clock twice costs as much as a fast get.
const TIMED_ONE_IN: u32 = 8;
/// Keys of one prefix.
const PREFIX_KEYS: usize = 1000;

/// Where each kind of operation is in [`Sample::kinds`].
pub(crate) const GET: usize = 0;
pub(crate) const PUT: usize = 1;
pub(crate) const PREFIX: usize = 2;
const DELETE: usize = 3;
/// What tables call them.
pub(crate) const KINDS: [&str; 4] = ["gets", "puts", "prefix reads", "deletes"];

/// The keys of a run, in key order, a thousand to a prefix.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Vec<u8>>);

impl Keys {
    /// So many keys.
    #[must_use]
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|number| format!("lab/{:04}/{number:08}", number / PREFIX_KEYS).into_bytes()).collect())
    }

    /// All of them.
    #[must_use]
    pub(crate) fn all(&self) -> &[Vec<u8>] {
        &self.0
    }

    fn one(&self, random: &mut fastrand::Rng) -> &[u8] {
        &self.0[random.usize(..self.0.len())]
    }

    /// The bounds of a whole prefix.
    fn prefix(&self, random: &mut fastrand::Rng) -> Range<Vec<u8>> {
        let number = random.usize(..self.0.len().div_ceil(PREFIX_KEYS));
        format!("lab/{number:04}/").into_bytes()..format!("lab/{number:04}0").into_bytes()
    }
}

/// A value of so many bytes, printable.
#[must_use]
pub(crate) fn value(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0);
    (0..bytes).map(|_| u8::try_from(random.alphanumeric()).unwrap_or(b'x')).collect()
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Gets in so many of 100 operations, puts in the others.
    Mixed(u32),
    /// Reads a whole prefix.
    Prefix,
    /// Deletes keys, which putters bring back.
    Delete,
    /// Of ten operations puts four, gets four, reads a prefix and deletes once: the harder mix, in the same proportions for every design.
    Blend,
}

impl Role {
    /// The kind of its next operation.
    fn next(self, random: &mut fastrand::Rng) -> usize {
        match self {
            Self::Mixed(gets) if random.u32(..100) < gets => GET,
            Self::Mixed(_) => PUT,
            Self::Prefix => PREFIX,
            Self::Delete => DELETE,
            Self::Blend => [PUT, PUT, PUT, PUT, GET, GET, GET, GET, PREFIX, DELETE][random.usize(..10)],
        }
    }
}

/// Where operations go.
pub(crate) enum Target {
    /// To the engine, through everything but raft and log.
    Alone(Path),
    /// Through raft and log.
    Raft(Member),
}

impl Target {
    /// An engine alone, or a member with it.
    ///
    /// # Errors
    /// When the member does not start.
    pub(crate) fn new(path: Path, raft: Option<Setup>, out: &FilePath) -> Result<Self> {
        Ok(match raft {
            None => Self::Alone(path),
            Some(setup) => Self::Raft(Member::start(path, setup, out)?),
        })
    }

    /// The engine.
    #[must_use]
    pub(crate) fn engine(&self) -> &dyn Engine {
        match self {
            Self::Alone(path) => path.engine.as_ref(),
            Self::Raft(member) => member.path().engine.as_ref(),
        }
    }

    fn write(&self, client: u8, write: &Write<'_>, found: &mut Found) -> Result<Answer> {
        match self {
            Self::Alone(path) => path.write(client, write, found),
            Self::Raft(member) => member.write(client, write, found),
        }
    }
}

/// What one round measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Operations per second.
    pub(crate) per_second: f64,
    /// Of them gets, puts, reads of a prefix, deletes.
    pub(crate) kinds: [f64; 4],
    /// Keys that reads brought, per second: a get brings one or none, a read of a prefix up to a thousand.
    pub(crate) keys: f64,
    /// CPU time of the whole process per operation.
    pub(crate) cpu_us: f64,
    /// p50, p99, p99.9 of each kind, in microseconds.
    pub(crate) kinds_us: [Option<[f64; 3]>; 4],
}

struct Counts {
    kinds: [u64; 4],
    keys: u64,
    times: [Histogram<u64>; 4],
}

impl Counts {
    fn new() -> Self {
        let histogram = |_| Histogram::new(3).expect("up to five digits are allowed");
        Self { kinds: [0; 4], keys: 0, times: std::array::from_fn(histogram) }
    }
}

/// Runs a client per role for so long.
///
/// # Errors
/// When an operation fails, or somebody wants the run to end.
pub(crate) fn run(
    target: &Target,
    keys: &Keys,
    value: &[u8],
    roles: &[Role],
    length: Duration,
    stop: &Stop,
) -> Result<Sample> {
    let running = AtomicBool::new(true);
    let start = Barrier::new(roles.len() + 1);
    let (cpu, elapsed, counts) = std::thread::scope(|scope| {
        let client = |(number, role): (usize, &Role)| {
            let (running, start, role) = (&running, &start, *role);
            let number = u8::try_from(number).expect("at most 256 clients");
            scope.spawn(move || {
                start.wait();
                work(target, keys, value, role, number, running)
            })
        };
        let clients: Vec<_> = roles.iter().enumerate().map(client).collect();
        start.wait();
        let (cpu, began) = (cpu_time(), Instant::now());
        while began.elapsed() < length && !stop.is_set() {
            std::thread::sleep((length.saturating_sub(began.elapsed())).min(Duration::from_millis(50)));
        }
        running.store(false, Ordering::Release);
        let counts: Vec<_> =
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
        (cpu_time().saturating_sub(cpu), began.elapsed(), counts)
    });
    stop.check()?;
    let mut all = Counts::new();
    for counts in counts {
        let counts = counts.context("an operation failed")?;
        all.kinds.iter_mut().zip(counts.kinds).for_each(|(all, one)| *all += one);
        all.keys += counts.keys;
        all.times.iter_mut().zip(counts.times).for_each(|(all, one)| *all += one);
    }
    let (operations, seconds) = (all.kinds.iter().sum::<u64>() as f64, elapsed.as_secs_f64());
    Ok(Sample {
        per_second: operations / seconds,
        kinds: all.kinds.map(|operations| operations as f64 / seconds),
        keys: all.keys as f64 / seconds,
        cpu_us: cpu.as_secs_f64() * 1e6 / operations.max(1.0),
        kinds_us: all.times.each_ref().map(percentiles),
    })
}

fn percentiles(ns: &Histogram<u64>) -> Option<[f64; 3]> {
    (!ns.is_empty()).then(|| [50.0, 99.0, 99.9].map(|percent| ns.value_at_percentile(percent) as f64 / 1000.0))
}

/// One client, until `running` says otherwise.
fn work(target: &Target, keys: &Keys, value: &[u8], role: Role, number: u8, running: &AtomicBool) -> Result<Counts> {
    let mut random = fastrand::Rng::with_seed(u64::from(number));
    let (mut counts, mut found) = (Counts::new(), Found::default());
    while running.load(Ordering::Relaxed) {
        let timed = random.u32(..TIMED_ONE_IN) == 0;
        let began = timed.then(Instant::now);
        found.clear();
        let kind = role.next(&mut random);
        match kind {
            GET => target.engine().get(keys.one(&mut random), &mut found),
            PREFIX => {
                let Range { start, end } = keys.prefix(&mut random);
                target.engine().range(&start, &end, usize::MAX, &mut found);
            }
            PUT => {
                let put = Write::Put { key: keys.one(&mut random), value, prev_kv: false };
                target.write(number, &put, &mut found)?;
            }
            _ => {
                target.write(number, &Write::Delete { key: keys.one(&mut random) }, &mut found)?;
            }
        }
        counts.kinds[kind] += 1;
        if kind == GET || kind == PREFIX {
            counts.keys += found.len() as u64;
        }
        std::hint::black_box(&found);
        if let Some(began) = began {
            let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX >> 1);
            counts.times[kind].record(ns).expect("it grows to what it is given");
        }
    }
    Ok(counts)
}
