//! `kv-bench cliffs`: small operations on a steady schedule while something large goes on beside them.
//!
//! # One server
//! 1. Store the keys in random order.
//! 2. For each row: a put or a get of one small key is due every two milliseconds, whether or not earlier ones were answered, while
//!    what the row names goes on. The figures are the longest that any put took, and any get, from when it was due.
//!
//! A quiet row tells what machine and disk do by themselves: what is below it is noise. A stall of the disk is in the puts alone, a stall of the
//! server in both.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kv_server::proto::etcdserverpb::SnapshotRequest;
use kv_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;

use crate::figures::{Figures, Report, Results, Row, percentile_ms};
use crate::million::load::{Client, Contents};
use crate::pulse::{Beat, Pulse};
use crate::race::{Race, in_turn};
use crate::target::{Kind, Running, Target};
use crate::watching::{Watching, of_range};

/// What its report is called.
const TOOL: &str = "cliffs";
/// Between two small operations.
const EVERY: Duration = Duration::from_millis(2);
/// How long what has no end of its own goes on.
const FOR: Duration = Duration::from_secs(5);
/// What is idle gets idle.
const SETTLE: Duration = Duration::from_secs(1);
/// Below that the rows have nothing large in them.
const KEYS_MIN: u32 = 1_000;
const KEYS_MAX: u32 = 5_000_000;
const LISTERS: u32 = 64;
/// Keys that each of them lists.
const LISTED_KEYS: u32 = 10_000;
/// Entries after which a server takes a snapshot, in that row.
const SNAPSHOT_ENTRIES: u64 = 1_000;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which servers run, and where the report goes.
    #[command(flatten)]
    pub race: Race,
    /// What the store holds.
    #[command(flatten)]
    pub contents: Contents,
    /// Rounds; the servers take turns.
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// Only the rows that have this in their names.
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub row: String,
}

/// Runs the rows on every server and writes the report.
///
/// # Errors
/// Options that make no sense, a program that is not there or does not start, an operation that fails.
pub async fn run(options: &Options) -> Result<Report> {
    let Options { rounds, contents: Contents { keys, value }, .. } = *options;
    options.contents.check(KEYS_MIN..=KEYS_MAX)?;
    ensure!((1..=20).contains(&rounds), "--rounds is from 1 to 20, not {rounds}");
    ensure!(ROWS.iter().any(|row| is_wanted(row, options)), "--row {:?} names none: {}", options.row, names());
    let targets = options.race.prepare(TOOL).await?;
    let seed = fastrand::u64(..);
    eprintln!("kv-bench cliffs: seed {seed}");
    let results = in_turn(&targets, rounds, async |target| rows(target, options, seed).await).await?;
    let per_second = 1000 / EVERY.as_millis();
    let about = format!(
        "The longest of the puts and of the gets, {per_second} a second in turn, while the row goes on; {keys} keys, values of {value} B."
    );
    Results { tool: TOOL, about, seed: Some(seed), targets: &targets, rounds: &results }.write(&options.race.out)
}

async fn rows(target: &Target, options: &Options, seed: u64) -> Result<Vec<Row>> {
    let Contents { keys, value } = options.contents;
    let mut figures = Figures::of(target);
    let directory = options.race.directory()?;
    // One snapshot while the keys come, and none by chance in another row.
    let seldom = vec![format!("--snapshot-count={}", u64::MAX >> 1)];
    let mut server = target.start(directory.path(), &seldom).await?;
    let mut client = Client::connect(&server, keys, value, seed).await?;
    client.put_all().await?;

    let mut row = async |[puts, gets]: [&'static str; 2],
                         server: &Running,
                         work: &mut (dyn Future<Output = Result<()>> + Unpin)| {
        if !is_wanted(&[puts, gets], options) {
            return Ok(());
        }
        tokio::time::sleep(SETTLE).await;
        let pulse = Pulse::start(server, Beat::PutsAndGets, EVERY)?;
        let done = work.await;
        let times = pulse.stop()?;
        for (name, times) in [(puts, &times.puts), (gets, &times.gets)] {
            figures.add(name, "ms", percentile_ms(times, 100.0).context("not one small operation was answered")?);
        }
        done
    };
    row(QUIET, &server, &mut Box::pin(wait())).await?;
    row(LIST, &server, &mut Box::pin(async { client.list_all().await.map(drop) })).await?;
    row(LISTS, &server, &mut Box::pin(listers(&server, keys))).await?;
    row(UNREAD, &server, &mut Box::pin(never_reading(&server))).await?;
    row(BACKUP, &server, &mut Box::pin(backup(&server))).await?;
    client.put_all().await?;
    row(COMPACTION, &server, &mut Box::pin(client.compact())).await?;
    drop(client);
    (server, _) = target.restart(server, &[format!("--snapshot-count={SNAPSHOT_ENTRIES}")]).await?;
    client = Client::connect(&server, keys, value, seed).await?;
    if target.kind == Kind::Kv {
        row(SNAPSHOTS, &server, &mut Box::pin(client.snapshot(&server))).await?;
    } else {
        row(SNAPSHOTS, &server, &mut Box::pin(wait())).await?;
    }
    drop(server);
    Ok(figures.finish())
}

/// All rows, in their order.
const ROWS: [[&str; 2]; 7] = [QUIET, LIST, LISTS, UNREAD, BACKUP, COMPACTION, SNAPSHOTS];
/// What is said of each row: of its puts, of its gets.
const QUIET: [&str; 2] = ["nothing else: puts", "nothing else: gets"];
const LIST: [&str; 2] = ["a list of all keys: puts", "a list of all keys: gets"];
const LISTS: [&str; 2] = ["64 clients that list 10,000 keys: puts", "64 clients that list 10,000 keys: gets"];
const UNREAD: [&str; 2] = ["a client that never reads: puts", "a client that never reads: gets"];
const BACKUP: [&str; 2] = ["a backup: puts", "a backup: gets"];
const COMPACTION: [&str; 2] =
    ["a compaction of a revision for each key: puts", "a compaction of a revision for each key: gets"];
const SNAPSHOTS: [&str; 2] =
    ["snapshots, one after a thousand entries: puts", "snapshots, one after a thousand entries: gets"];

fn is_wanted(row: &[&str; 2], options: &Options) -> bool {
    row.iter().any(|name| name.contains(&options.row))
}

fn names() -> String {
    ROWS.map(|[puts, _]| puts.trim_end_matches(": puts")).join("; ")
}

async fn wait() -> Result<()> {
    tokio::time::sleep(FOR).await;
    Ok(())
}

async fn listers(server: &Running, keys: u32) -> Result<()> {
    let lists = Client::list_for_ever(server, LISTERS, LISTED_KEYS.min(keys));
    // They go on until the time is over.
    tokio::time::timeout(FOR, lists).await.unwrap_or(Ok(()))
}

/// A watcher of everything and a backup, neither of which is ever read.
async fn never_reading(server: &Running) -> Result<()> {
    let channels = server.connect(2).await?;
    let watching =
        Watching::open(&channels[0], vec![of_range(Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))]).await?;
    let backup = MaintenanceClient::new(channels[1].clone()).snapshot(SnapshotRequest::default()).await;
    let backup = backup.context("a backup failed")?;
    wait().await?;
    drop((watching, backup));
    Ok(())
}

/// Takes a backup, which is thrown away.
async fn backup(server: &Running) -> Result<()> {
    let channel = server.connect(1).await?.pop().context("one was asked for")?;
    let mut maintenance = MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut parts = maintenance.snapshot(SnapshotRequest::default()).await.context("a backup failed")?.into_inner();
    while parts.message().await.context("a backup broke off")?.is_some() {}
    Ok(())
}
