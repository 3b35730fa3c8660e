//! `kv-bench leases`: leases that end all at once, and leases that are kept alive.
//!
//! # One round of one server
//! 1. Nothing but a pulse: a small put every two milliseconds, for the machine's own slowest.
//! 2. Grant the leases, put a key on each, and keep each alive once more, all at the same time: so they are due within the moment that takes.
//! 3. Watch the keys go while the pulse goes on.
//! 4. Grant as many that live for an hour, and keep them alive on a schedule.
//!
//! # What to read with care
//! * A lease is due when its seconds are over after the answer to the last keep-alive; servers look at their own clock, and may give a little more.
//! * The pulse during the end of the leases is as short as that: its p99 is about its worst.

mod client;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tonic::transport::Channel;

use crate::figures::{Figures, Report, Results, Row, percentile_ms};
use crate::pulse::{Beat, Pulse};
use crate::race::{Race, in_turn};
use crate::target::{Running, Target};
use crate::watching::{Watching, of_range};
use client::{grant, keep_alive};

/// What its report is called.
const TOOL: &str = "leases";
const LEASES_MAX: u32 = 100_000;
const RATE_MAX: u32 = 1_000_000;
const SECS_MAX: u32 = 600;
const ROUNDS_MAX: u32 = 100;
/// Connections, each with one stream of keep-alives.
const CONNECTIONS: u32 = 10;
/// Long enough to grant all of them and to put their keys.
const SHORT_SECONDS: u32 = 10;
const LONG_SECONDS: u32 = 3_600;
/// Between two puts of the pulse.
const PULSE: Duration = Duration::from_millis(2);
/// How long nothing but the pulse goes on.
const QUIET: Duration = Duration::from_secs(2);
/// The pulse goes on from so long before the leases are due.
const BEFORE_DUE: Duration = Duration::from_millis(100);

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which servers run, and where the report goes.
    #[command(flatten)]
    pub race: Race,
    /// Leases, each with a key.
    #[arg(long, default_value_t = 10_000)]
    pub leases: u32,
    /// Keep-alives a second.
    #[arg(long, default_value_t = 30_000)]
    pub rate: u32,
    /// Seconds of keep-alives.
    #[arg(long, default_value_t = 3)]
    pub secs: u32,
    /// Rounds; the servers take turns.
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
}

/// Runs the rounds and writes the report.
///
/// # Errors
/// Options that make no sense, a program that is not there or does not start, an operation that fails.
pub async fn run(options: &Options) -> Result<Report> {
    let Options { leases, rate, secs, rounds, .. } = *options;
    ensure!(
        (CONNECTIONS..=LEASES_MAX).contains(&leases),
        "--leases is from {CONNECTIONS} to {LEASES_MAX}, not {leases}"
    );
    ensure!(
        (CONNECTIONS..=RATE_MAX).contains(&rate),
        "--rate is from {CONNECTIONS} to {RATE_MAX} a second, not {rate}"
    );
    ensure!((1..=SECS_MAX).contains(&secs), "--secs is from 1 to {SECS_MAX}, not {secs}");
    ensure!((1..=ROUNDS_MAX).contains(&rounds), "--rounds is from 1 to {ROUNDS_MAX}, not {rounds}");
    let targets = options.race.prepare(TOOL).await?;
    let results = in_turn(&targets, rounds, async |target| round(target, options).await).await?;
    let about = format!(
        "{leases} leases with a key each, due at once; the pulse is a put every {PULSE:?}. Then {leases} leases of an hour, {rate} \
         keep-alives a second on {CONNECTIONS} streams for {secs} s."
    );
    Results { tool: TOOL, about, seed: None, targets: &targets, rounds: &results }.write(&options.race.out)
}

async fn round(target: &Target, options: &Options) -> Result<Vec<Row>> {
    let mut figures = Figures::of(target);
    let directory = options.race.directory()?;
    let server = target.start(directory.path(), &[]).await?;
    let channels = server.connect(CONNECTIONS).await?;

    let pulse = Pulse::start(&server, Beat::Puts, PULSE)?;
    tokio::time::sleep(QUIET).await;
    let quiet = pulse.stop()?.puts;
    figures.add("pulse, nothing else: p50", "ms", percentile_ms(&quiet, 50.0));
    figures.add("pulse, nothing else: p99", "ms", percentile_ms(&quiet, 99.0));
    all_end(&mut figures, &server, &channels, options.leases).await?;
    kept_alive(&mut figures, &server, &channels, options).await?;
    drop(server);
    directory.close().context("removing the server's directory")?;
    Ok(figures.finish())
}

/// All leases end at once.
async fn all_end(figures: &mut Figures<'_>, server: &Running, channels: &[Channel], leases: u32) -> Result<()> {
    let mut keys = Watching::open(&channels[0], vec![of_range("leased/".into(), "leased0".into())]).await?;
    grant(channels, 0..leases, SHORT_SECONDS, true).await?;
    let mut came = 0;
    while came < leases as usize {
        came += keys.next().await?.events.len();
    }
    keep_alive(channels, 0..leases, leases.div_ceil(CONNECTIONS), Instant::now(), Duration::ZERO).await?;
    let due = Instant::now() + Duration::from_secs(SHORT_SECONDS.into());

    tokio::time::sleep_until((due - BEFORE_DUE).into()).await;
    let pulse = Pulse::start(server, Beat::Puts, PULSE)?;
    let (before, mut gone) = (server.counters()?, 0);
    while gone < leases as usize {
        gone += keys.next().await?.events.len();
    }
    let last = Instant::now().saturating_duration_since(due);
    let (after, pulse) = (server.counters()?, pulse.stop()?.puts);
    figures.add("all due at once: until the last is gone", "s", last.as_secs_f64());
    figures.add("all due at once: pulse p50", "ms", percentile_ms(&pulse, 50.0));
    figures.add("all due at once: pulse p99", "ms", percentile_ms(&pulse, 99.0));
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    figures.add("all due at once: CPU per lease, pulse included", "us", cpu * 1e6 / f64::from(leases));
    Ok(())
}

/// As many leases are kept alive on a schedule.
async fn kept_alive(
    figures: &mut Figures<'_>,
    server: &Running,
    channels: &[Channel],
    options: &Options,
) -> Result<()> {
    let Options { leases, rate, secs, .. } = *options;
    let ids = leases..2 * leases;
    grant(channels, ids.clone(), LONG_SECONDS, false).await?;
    let every = Duration::from_secs(1) * CONNECTIONS / rate;
    let (before, started) = (server.counters()?, Instant::now());
    let times = keep_alive(channels, ids, rate / CONNECTIONS * secs, started, every).await?;
    let (after, elapsed) = (server.counters()?, started.elapsed().as_secs_f64());
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    figures.add("kept alive: answers", "/s", times.len() as f64 / elapsed);
    figures.add("kept alive: p50", "ms", percentile_ms(&times, 50.0));
    figures.add("kept alive: p99", "ms", percentile_ms(&times, 99.0));
    figures.add("kept alive: CPU", "cores", cpu / elapsed);
    Ok(())
}
