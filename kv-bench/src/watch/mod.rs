//! `kv-bench watch`: how late changes come to those who watch, and what that costs the server.
//!
//! # One round of one server
//! 1. **Own keys**: many watchers on some streams, each of a key of its own; puts of random keys on a schedule, then flat out.
//! 2. **One prefix**: as many streams as above, each with one watcher of all keys; the same.
//! 3. **The hard case**: few streams with one watcher of all keys each, puts of 4 KiB on a schedule, while one stream more is never read and
//!    clients list 5 MB all the time.
//!
//! A *delay* counts from when a put was due to when its change is decoded at the client, so that it has the put's own time in it, sync
//! included, and a stalled put counts for all that waited behind it. *Flat out* each of 64 writers puts anew when its change has come to all
//! its watchers: no backlog grows, and what is measured is the speed of delivery.
//!
//! # What to read with care
//! * The client decodes every change on the same cores. With many watchers of one prefix it costs more than either server.
//! * CPU is the server's alone, all of it: the puts' too, which with one watcher for each key is most of it.

mod writers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::{PutRequest, RangeRequest, WatchCreateRequest};
use tokio::task::JoinSet;

use crate::audience::{Audience, Shared};
use crate::figures::{Figures, Report, Results, Row, percentile_ms};
use crate::list::list;
use crate::process::rss_bytes;
use crate::race::{Race, in_turn};
use crate::target::{Running, Target};
use crate::watching::{Watching, of_key, of_range};
use writers::{WRITERS, Writers};

/// What its report is called.
const TOOL: &str = "watch";
const STREAMS_MAX: u32 = 2_000;
const WATCHERS_MAX: u32 = 1_000_000;
const RATE_MAX: u32 = 100_000;
const SECS_MAX: u32 = 600;
const ROUNDS_MAX: u32 = 100;
/// Streams that share a connection: below every server's limit of streams.
const STREAMS_PER_CONNECTION: u32 = 10;
/// Connections of the writers.
const WRITER_CONNECTIONS: u32 = 4;
const VALUE_BYTES: usize = 256;
/// In the hard case a stream that is never read is to fall behind within a second or two.
const HARD_VALUE_BYTES: usize = 4096;
const HARD_STREAMS: u32 = 10;
/// Clients that list all the time, and what: 5 MB.
const LISTERS: u32 = 2;
const LIST_KEYS: u32 = 5;
const LIST_VALUE_BYTES: usize = 1_000_000;
/// Memory settles.
const SETTLE: Duration = Duration::from_secs(1);
/// Load before the clock starts: connections and caches settle.
const WARM_UP: Duration = Duration::from_millis(300);

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which servers run, and where the report goes.
    #[command(flatten)]
    pub race: Race,
    /// Watchers of a key of their own.
    #[arg(long, default_value_t = 10_000)]
    pub watchers: u32,
    /// Streams that they share; and watchers of one prefix, on a stream each.
    #[arg(long, default_value_t = 100)]
    pub streams: u32,
    /// Puts a second where they are on schedule.
    #[arg(long, default_value_t = 1_000)]
    pub rate: u32,
    /// Seconds of each load.
    #[arg(long, default_value_t = 3)]
    pub secs: u32,
    /// Rounds; the servers take turns.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
}

/// Runs the rounds and writes the report.
///
/// # Errors
/// Options that make no sense, a program that is not there or does not start, an operation that fails, a change that does not come.
pub async fn run(options: &Options) -> Result<Report> {
    let Options { watchers, streams, rate, secs, rounds, .. } = *options;
    ensure!((1..=STREAMS_MAX).contains(&streams), "--streams is from 1 to {STREAMS_MAX}, not {streams}");
    ensure!(
        (streams..=WATCHERS_MAX).contains(&watchers),
        "--watchers is from {streams} to {WATCHERS_MAX}, not {watchers}"
    );
    ensure!((1..=RATE_MAX).contains(&rate), "--rate is from 1 to {RATE_MAX} puts a second, not {rate}");
    ensure!((1..=SECS_MAX).contains(&secs), "--secs is from 1 to {SECS_MAX}, not {secs}");
    ensure!((1..=ROUNDS_MAX).contains(&rounds), "--rounds is from 1 to {ROUNDS_MAX}, not {rounds}");
    let targets = options.race.prepare(TOOL).await?;
    let results = in_turn(&targets, rounds, async |target| round(target, options).await).await?;
    let about = format!(
        "{watchers} watchers of a key each on {streams} streams, then {streams} watchers of one prefix on a stream each: {rate} puts of \
         {VALUE_BYTES} B a second for {secs} s, and {WRITERS} writers flat out for {secs} s. Hard: {HARD_STREAMS} watchers of one prefix, \
         {rate} puts of {HARD_VALUE_BYTES} B a second, a stream that is never read, {LISTERS} clients that list 5 MB all the time."
    );
    Results { tool: TOOL, about, seed: None, targets: &targets, rounds: &results }.write(&options.race.out)
}

/// The names of the figures of one load.
struct Names {
    p50: &'static str,
    p99: &'static str,
    speed: &'static str,
    cpu: &'static str,
}

const OWN: Names = Names {
    p50: "own keys, on schedule: delay p50",
    p99: "own keys, on schedule: delay p99",
    speed: "own keys, on schedule: changes",
    cpu: "own keys, on schedule: CPU per change",
};
const OWN_FLAT: Names = Names {
    p50: "own keys, flat out: delay p50",
    p99: "own keys, flat out: delay p99",
    speed: "own keys, flat out: changes",
    cpu: "own keys, flat out: CPU per change",
};
const PREFIX: Names = Names {
    p50: "one prefix, on schedule: delay p50",
    p99: "one prefix, on schedule: delay p99",
    speed: "one prefix, on schedule: changes",
    cpu: "one prefix, on schedule: CPU per change",
};
const PREFIX_FLAT: Names = Names {
    p50: "one prefix, flat out: delay p50",
    p99: "one prefix, flat out: delay p99",
    speed: "one prefix, flat out: changes",
    cpu: "one prefix, flat out: CPU per change",
};
const HARD: Names = Names {
    p50: "hard: delay p50",
    p99: "hard: delay p99",
    speed: "hard: changes",
    cpu: "hard: CPU per change, lists included",
};

/// One server under all loads.
async fn round(target: &Target, options: &Options) -> Result<Vec<Row>> {
    let mut figures = Figures::of(target);
    let directory = options.race.directory()?;
    let server = target.start(directory.path(), &[]).await?;
    let shared = Shared::new(WRITERS);
    let keys: Vec<Bytes> = (0..options.watchers).map(|number| format!("watch/{number:08}").into()).collect();
    let listeners = server.connect(options.streams.div_ceil(STREAMS_PER_CONNECTION)).await?;
    let writers = Writers {
        channels: server.connect(WRITER_CONNECTIONS).await?,
        shared: Arc::clone(&shared),
        keys: keys.clone().into(),
        value_bytes: VALUE_BYTES,
        watchers: 1,
    };
    let scene = Scene { server: &server, secs: options.secs };

    tokio::time::sleep(SETTLE).await;
    let before = rss_bytes(server.pid())?;
    let per_stream = keys.len().div_ceil(options.streams as usize);
    let own = keys.chunks(per_stream).map(|keys| keys.iter().cloned().map(of_key).collect()).collect();
    let mut audience = Audience::open(&listeners, own, &shared).await?;
    tokio::time::sleep(SETTLE).await;
    let grown = rss_bytes(server.pid())?.saturating_sub(before);
    figures.add("memory per watcher of its own key", "B", grown as f64 / f64::from(options.watchers));
    scene.measure(&mut figures, &OWN, &mut audience, &writers, Some(options.rate)).await?;
    scene.measure(&mut figures, &OWN_FLAT, &mut audience, &writers, None).await?;
    audience.close().await;

    let of_all = |streams: usize| -> Vec<Vec<WatchCreateRequest>> { vec![vec![of_prefix()]; streams] };
    let writers = Writers { watchers: options.streams, ..writers };
    let mut audience = Audience::open(&listeners, of_all(options.streams as usize), &shared).await?;
    scene.measure(&mut figures, &PREFIX, &mut audience, &writers, Some(options.rate)).await?;
    scene.measure(&mut figures, &PREFIX_FLAT, &mut audience, &writers, None).await?;
    audience.close().await;

    let writers = Writers { watchers: HARD_STREAMS, value_bytes: HARD_VALUE_BYTES, ..writers };
    let mut audience = Audience::open(&listeners, of_all(HARD_STREAMS as usize), &shared).await?;
    // On a connection of its own: what it does not read fills no window of the others.
    let never_read = Watching::open(&server.connect(1).await?[0], vec![of_prefix()]).await?;
    let listers = Listers::start(&server).await?;
    let worst = scene.measure(&mut figures, &HARD, &mut audience, &writers, Some(options.rate)).await?;
    figures.add("hard: worst delay", "ms", worst);
    figures.add("hard: lists of 5 MB", "/s", listers.stop().await?);
    drop((never_read, audience, server));
    directory.close().context("removing the server's directory")?;
    Ok(figures.finish())
}

/// A server, and for how long it is loaded.
struct Scene<'a> {
    server: &'a Running,
    secs: u32,
}

impl Scene<'_> {
    /// Adds the figures of one load. The worst delay in milliseconds.
    async fn measure(
        &self,
        figures: &mut Figures<'_>,
        names: &Names,
        audience: &mut Audience,
        writers: &Writers,
        rate: Option<u32>,
    ) -> Result<Option<f64>> {
        let warmed = writers.run(WARM_UP, rate).await?;
        audience.take(warmed * u64::from(writers.watchers)).await?;
        let (before, started) = (self.server.counters()?, Instant::now());
        let puts = writers.run(Duration::from_secs(self.secs.into()), rate).await?;
        let delays = audience.take(puts * u64::from(writers.watchers)).await?;
        let (elapsed, after) = (started.elapsed(), self.server.counters()?);
        let changes = delays.len() as f64;
        figures.add(names.p50, "ms", percentile_ms(&delays, 50.0));
        figures.add(names.p99, "ms", percentile_ms(&delays, 99.0));
        figures.add(names.speed, "/s", changes / elapsed.as_secs_f64());
        figures.add(names.cpu, "us", after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / changes);
        Ok(percentile_ms(&delays, 100.0))
    }
}

fn of_prefix() -> WatchCreateRequest {
    of_range("watch/".into(), "watch0".into())
}

/// Clients that list 5 MB, again and again, each on a connection of its own.
struct Listers {
    lists: Arc<AtomicU64>,
    started: Instant,
    tasks: JoinSet<Result<()>>,
}

impl Listers {
    async fn start(server: &Running) -> Result<Self> {
        let channels = server.connect(LISTERS).await?;
        let mut kv = KvClient::new(channels[0].clone());
        for number in 0..LIST_KEYS {
            let (key, value) = (format!("list/{number}").into(), vec![7; LIST_VALUE_BYTES].into());
            kv.put(PutRequest { key, value, ..Default::default() }).await.context("storing what is listed")?;
        }
        let (lists, mut tasks) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        for channel in channels {
            let lists = Arc::clone(&lists);
            tasks.spawn(async move {
                loop {
                    let request = RangeRequest { key: "list/".into(), range_end: "list0".into(), ..Default::default() };
                    let bytes = list(&channel, request).await?;
                    ensure!(bytes > LIST_KEYS as usize * LIST_VALUE_BYTES, "a list of {bytes} bytes is too short");
                    lists.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Ok(Self { lists, started: Instant::now(), tasks })
    }

    /// Lists a second.
    async fn stop(mut self) -> Result<f64> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended.context("a lister panicked")??;
        }
        let speed = self.lists.load(Ordering::Relaxed) as f64 / self.started.elapsed().as_secs_f64();
        self.tasks.shutdown().await;
        Ok(speed)
    }
}
