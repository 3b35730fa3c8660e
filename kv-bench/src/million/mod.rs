//! `kv-bench million`: one large store, from its first put to a restart.
//!
//! # One server
//! 1. Store the keys in random order, each once: memory, bytes that reached the device.
//! 2. Kill it and start it again: what has to be read first. Ours goes on from its log alone here.
//! 3. Read pages of 500 keys with their exact count, and ranges of ten keys beside the same ranges of a small store.
//! 4. Stream everything (ours: etcd has no RangeStream before 3.7), list it in one answer, put every key anew, and compact: each while a
//!    small put is due every ten milliseconds, whether or not the last one was answered. The worst of them tells whether anything stalls.
//! 5. Ours once more with a snapshot after every entry: puts while it is written, and a restart from it.
//! 6. Ours with the snapshots it takes by itself, every key put anew again and again: bytes that reach the device in the long run.
//! 7. The store of ours alone, in this process: a reader beside a writer of the same map, and beside a writer of another, as a
//!    server writes and flat out.
//!
//! # What to read with care
//! * The device's counter has everybody's writes, and no figure where the report's directory is on no disk of its own (in memory, say).
//! * A page cache that still holds the files makes every restart faster than one after a cold start.

pub(crate) mod load;
mod readers;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::figures::{Figures, Report, Results, Row, percentile_ms};
use crate::process::{device_bytes_written, reset_peak, rss_bytes};
use crate::pulse::{Beat, Pulse};
use crate::race::{Race, in_turn};
use crate::target::{Kind, Running, Target};
use load::{Client, Contents};
use readers::Pace;

/// What its report is called.
const TOOL: &str = "million";
const KEYS_MAX: u32 = 20_000_000;
/// Keys of the small store that ranges are compared with.
const SMALL_KEYS: u32 = 1_000;
/// Pages and ranges that are read, each at a random place.
const READS: usize = 1_000;
const PAGE_KEYS: i64 = 500;
const RANGE_KEYS: usize = 10;
/// How often every key is put anew until files come and go as they do in the long run.
const ROUNDS: usize = 3;
/// How long nothing but the pulse goes on, for the machine's own worst.
const QUIET: Duration = Duration::from_secs(5);
/// Between two puts of the pulse.
const PULSE: Duration = Duration::from_millis(10);
/// Memory settles, and what is idle gets idle.
const SETTLE: Duration = Duration::from_secs(1);
const MIB: f64 = 1024.0 * 1024.0;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which servers run, and where the report goes.
    #[command(flatten)]
    pub race: Race,
    /// What the store holds.
    #[command(flatten)]
    pub contents: Contents,
}

/// Runs the scenario on every server, one after the other, and writes the report.
///
/// # Errors
/// Options that make no sense, a program that is not there or does not start, an operation that fails.
pub async fn run(options: &Options) -> Result<Report> {
    let Contents { keys, value } = options.contents;
    options.contents.check(SMALL_KEYS..=KEYS_MAX)?;
    let targets = options.race.prepare(TOOL).await?;
    let seed = fastrand::u64(..);
    eprintln!("kv-bench million: seed {seed}");
    let rounds = in_turn(&targets, 1, async |target| scenario(target, options, seed).await).await?;
    let about = format!("{keys} keys, values of {value} B, stored in random order.");
    Results { tool: TOOL, about, seed: Some(seed), targets: &targets, rounds: &rounds }.write(&options.race.out)
}

async fn scenario(target: &Target, options: &Options, seed: u64) -> Result<Vec<Row>> {
    let Contents { keys, value } = options.contents;
    let mut figures = Figures::of(target);
    let small_directory = options.race.directory()?;
    let small_server = target.start(small_directory.path(), &[]).await?;
    let small = Client::connect(&small_server, SMALL_KEYS, value, seed).await?;
    small.put_all().await?;

    let directory = options.race.directory()?;
    let is_ours = target.kind == Kind::Kv;
    let flags = |entries: u64| if is_ours { vec![format!("--snapshot-count={entries}")] } else { Vec::new() };
    let (log_only, always) = (flags(u64::MAX >> 1), flags(1));
    let mut server = target.start(directory.path(), &log_only).await?;
    let mut client = Client::connect(&server, keys, value, seed).await?;
    let (took, device) = put_all(&client, directory.path()).await?;
    figures.add("puts, each key once", "/s", f64::from(keys) / took.as_secs_f64());
    figures.add("device bytes per acknowledged byte, log", "", device);
    tokio::time::sleep(SETTLE).await;
    let rss = rss_bytes(server.pid())? as f64;
    figures.add("resident memory", "MiB", rss / MIB);
    figures.add("resident memory per key", "B", rss / f64::from(keys));

    let took;
    (server, took) = target.restart(server, &log_only).await?;
    figures.add(if is_ours { "restart to first read, from the log" } else { RESTART }, "s", took.as_secs_f64());
    client = Client::connect(&server, keys, value, seed).await?;
    figures.add("page of 500 with exact count, p50", "ms", client.pages(PAGE_KEYS, READS).await?);
    let (range, small_range) = client.ranges_beside(&small, RANGE_KEYS, READS).await?;
    figures.add("range of 10 keys, p50", "ms", range);
    figures.add("the same, beside a store of 1,000 keys", "x", range / small_range);
    drop(small_server);

    figures.add("worst put, nothing else", "ms", pulse_while(&server, tokio::time::sleep(QUIET)).await?.0);
    tokio::time::sleep(SETTLE).await;
    if is_ours {
        // Before the list, which leaves the process with memory to spare.
        let before = rss_bytes(server.pid())?;
        reset_peak(server.pid())?;
        let started = Instant::now();
        let (worst, streamed) = pulse_while(&server, client.stream_all()).await?;
        streamed?;
        figures.add("stream of all keys", "s", started.elapsed().as_secs_f64());
        let extra = server.counters()?.rss_bytes_peak.saturating_sub(before);
        figures.add("memory it takes beside the store, streamed", "MiB", extra as f64 / MIB);
        figures.add("worst put during the stream", "ms", worst);
    }
    let before = rss_bytes(server.pid())?;
    reset_peak(server.pid())?;
    let started = Instant::now();
    let (worst, listed) = pulse_while(&server, client.list_all()).await?;
    figures.add("list of all keys", "s", started.elapsed().as_secs_f64());
    figures.add("its length", "MiB", listed? as f64 / MIB);
    let extra = server.counters()?.rss_bytes_peak.saturating_sub(before);
    figures.add("memory it takes beside the store", "MiB", extra as f64 / MIB);
    figures.add("worst put during the list", "ms", worst);
    client.put_all().await?;
    let (worst, compacted) = pulse_while(&server, client.compact()).await?;
    compacted?;
    figures.add("worst put during a compaction of all", "ms", worst);
    if is_ours {
        (server, _) = target.restart(server, &always).await?;
        client = Client::connect(&server, keys, value, seed).await?;
        let (worst, written) = pulse_while(&server, client.snapshot(&server)).await?;
        written?;
        figures.add("worst put while snapshots are written", "ms", worst);
        let took;
        (server, took) = target.restart(server, &log_only).await?;
        figures.add(RESTART, "s", took.as_secs_f64());
        (server, _) = target.restart(server, &[]).await?;
        client = Client::connect(&server, keys, value, seed).await?;
        let mut device = None;
        for _ in 0..ROUNDS {
            (_, device) = put_all(&client, directory.path()).await?;
            // Its revisions add up otherwise.
            client.compact().await?;
        }
        figures.add("device bytes per acknowledged byte, snapshots too", "", device);
    }
    drop(server);
    if is_ours {
        for (name, pace) in [(READERS_AS_SERVED, Pace::AS_SERVED), (READERS_FLAT_OUT, Pace::FLAT_OUT)] {
            // A thread and no task of the runtime: an interrupt does not wait for its end.
            let (tell, told) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || tell.send(readers::ratio(pace, keys, value, seed)));
            figures.add(name, "x", told.await.context("the readers panicked")??);
        }
    }
    Ok(figures.finish())
}

const RESTART: &str = "restart to first read";
const READERS_AS_SERVED: &str = "a reader's speed while the map it reads is written as by a server, to another one";
const READERS_FLAT_OUT: &str = "a reader's speed while the map it reads is written flat out, to another one";

/// Puts every key: how long it took, and how many bytes reached the device of `directory` for each that was acknowledged.
async fn put_all(client: &Client, directory: &Path) -> Result<(Duration, Option<f64>)> {
    // What earlier work left to be written is written, and not counted.
    rustix::fs::sync();
    let before = device_bytes_written(directory).ok();
    let started = Instant::now();
    client.put_all().await?;
    let took = started.elapsed();
    rustix::fs::sync();
    let written = before.and_then(|before| Some(device_bytes_written(directory).ok()?.saturating_sub(before)));
    let acknowledged = client.len() as f64 * client.pair_bytes() as f64;
    Ok((took, written.map(|bytes| bytes as f64 / acknowledged)))
}

/// The worst put in milliseconds while `work` went on, and what came of the work.
async fn pulse_while<T>(server: &Running, work: impl Future<Output = T>) -> Result<(f64, T)> {
    let pulse = Pulse::start(server, Beat::Puts, PULSE)?;
    let done = work.await;
    Ok((percentile_ms(&pulse.stop()?.puts, 100.0).context("not one put of the pulse was answered")?, done))
}
