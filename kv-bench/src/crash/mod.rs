//! `kv-bench crash`: a server is killed under load, again and again, and keeps what it acknowledged.
//!
//! # One round
//! 1. Start the server on the directory of the rounds before; now and then kill it at once and start it again, so that
//!    a recovery is cut short too. Wait until it answers.
//! 2. Read everything, and compare it with what was acknowledged ([`ledger`]); compare HashKV of revisions hashed
//!    before the kill.
//! 3. Let the writers write. At a random moment, SIGKILL; with `--power-loss`, the power of the file system first ([`power`]).
//!
//! At the end a SIGTERM, the exit code, one more start and one more comparison.
//!
//! # What it does not find
//! A SIGKILL leaves the page cache alone: whether a write was synced, and not just written, only `--power-loss` can tell, and the
//! simulated disk of `kv-sim`.

pub mod ledger;
mod load;
pub mod power;
mod report;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kv_server::proto::etcdserverpb::RangeRequest;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::Channel;

use ledger::{Ledger, State, Violation};
use load::{Shared, Writer, Written};
pub use report::Report;
use server::{Launch, Server};

use crate::directory::Directory;
use crate::target::{Given, free_port};

/// Writers per connection: enough connections that one broken stream is not everyone's.
const WRITERS_PER_CONNECTION: usize = 8;
/// Keys read with one request: a few pages, so that limits and continued ranges are used.
const PAGE_KEYS: i64 = 100;
/// A page of large values is larger than what tonic takes unasked.
const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// One start in this many is killed before it is ready.
const RECOVERY_KILLED_EVERY: u32 = 8;
/// The longest that such a start lives.
const RECOVERY_KILLED_WITHIN_US: u64 = 60_000;
/// The longest that a process lives on without power.
const NOTICES_WITHIN_US: u64 = 20_000;
/// Hashes compared after each restart: the youngest are of the round before.
const HASHES_COMPARED: usize = 3;
/// Rounds between two lines of progress.
const PROGRESS_EVERY: u32 = 10;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The server's binary: kv-server, or anything that takes etcd's flags.
    #[arg(long)]
    pub server: PathBuf,
    /// How many times it is killed under load.
    #[arg(long, default_value_t = 100)]
    pub rounds: u32,
    /// How many clients write at once.
    #[arg(long, default_value_t = 64)]
    pub writers: u32,
    /// Repeats the choices of an earlier run (not its timing). Random when left out.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Keys per writer.
    #[arg(long, default_value_t = 16)]
    pub keys: u32,
    /// The longest a round writes before the kill, in milliseconds.
    #[arg(long, default_value_t = 500)]
    pub load_ms_max: u64,
    /// An empty directory for the data and the server's log; a temporary one when left out.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Cuts the power each time, not just the process: the data are on a file system of their own, which loses what was not
    /// synced. Needs root and loop devices.
    #[arg(long)]
    pub power_loss: bool,
    /// Keeps the temporary directory. After a violation it is kept anyway.
    #[arg(long)]
    pub keep: bool,
}

/// Runs the rounds, and stops at the first that finds a violation: it is in the report, with the command that repeats
/// the run.
///
/// # Errors
/// When the run cannot be done: no binary, no directory, no port, options that make no sense.
pub async fn run(options: Options) -> Result<Report> {
    ensure!(options.rounds > 0 && options.writers > 0 && options.keys > 0, "rounds, writers and keys start at 1");
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("kv-bench crash: seed {seed}");
    let cure = "`cargo build --release --package kv-server` makes target/release/kv-server";
    let binary = Given { flag: "--server ", path: &options.server, cure }.binary()?;
    let directory = Directory::new(options.dir.as_deref(), "kv-crash-")?;
    let machine = options.power_loss.then(|| power::Machine::new(directory.path())).transpose()?;
    let launch = Launch {
        binary,
        data_dir: machine.as_ref().map_or(directory.path(), power::Machine::path).join("data"),
        log: directory.path().join("server.log"),
        peer_port: free_port()?,
    };
    let report = Report::new(&options, seed);
    let mut run = Run {
        options: &options,
        machine,
        launch,
        random: fastrand::Rng::with_seed(seed),
        ledger: Ledger::default(),
        report,
    };
    run.all_rounds().await?;
    let mut report = run.report;
    drop(run.machine);
    if let Some(kept) = directory.finish(options.keep || !report.violations.is_empty()) {
        report.directory = Some(kept);
    }
    Ok(report)
}

struct Run<'a> {
    options: &'a Options,
    /// Whose power is cut, if any.
    machine: Option<power::Machine>,
    launch: Launch,
    random: fastrand::Rng,
    ledger: Ledger,
    report: Report,
}

impl Run<'_> {
    async fn all_rounds(&mut self) -> Result<()> {
        for round in 1..=self.options.rounds {
            let Some((server, channel)) = self.restart().await? else {
                return Ok(());
            };
            self.load_and_kill(round, server, channel).await?;
            if !self.report.violations.is_empty() {
                return Ok(());
            }
            self.report.rounds = round;
            if round % PROGRESS_EVERY == 0 {
                println!("{}", self.report.progress());
            }
        }
        self.end_gracefully().await
    }

    /// Starts the server and compares what it has. Nothing when there is a violation, which is in the report then.
    async fn restart(&mut self) -> Result<Option<(Server, Channel)>> {
        if self.random.u32(..RECOVERY_KILLED_EVERY) == 0 {
            let lives = Duration::from_micros(self.random.u64(..RECOVERY_KILLED_WITHIN_US));
            let server = self.launch.start()?;
            tokio::time::sleep(lives).await;
            self.kill(server).await?;
            self.report.recoveries_killed += 1;
        }
        let (server, ready) = match self.launch.serve().await? {
            Ok(serving) => serving,
            Err(why) => {
                self.report.violations.push(Violation::Process { why });
                return Ok(None);
            }
        };
        self.report.restarts += 1;
        self.report.slowest_recovery = self.report.slowest_recovery.max(ready.took);

        let state = read_all(ready.channel.clone()).await?;
        self.report.violations.extend(self.ledger.check(&state));
        let known: Vec<i64> = self.ledger.hashed_revisions().rev().take(HASHES_COMPARED).collect();
        self.report.hashes_compared += known.len() as u64;
        // The current revision's too: the next restart compares it, however short the load.
        for revision in known.into_iter().chain([state.revision]) {
            match load::hash(ready.channel.clone(), revision).await {
                Ok(hash) => self.report.violations.extend(self.ledger.hash(revision, hash)),
                Err(status) => {
                    let why = format!("HashKV({revision}) was refused after the restart: {}", status.message());
                    self.report.violations.push(Violation::Process { why });
                }
            }
        }
        self.report.revision = state.revision;
        if !self.report.violations.is_empty() {
            return Ok(None);
        }
        self.report.unknown_applied += self.ledger.settle(&state);
        Ok(Some((server, ready.channel)))
    }

    /// Lets the writers write, kills the server at a random moment, and writes down what they saw.
    async fn load_and_kill(&mut self, round: u32, mut server: Server, channel: Channel) -> Result<()> {
        let mut channels = vec![channel];
        while channels.len() * WRITERS_PER_CONNECTION < self.options.writers as usize {
            channels.push(server.connect().await?);
        }
        let shared = Arc::new(Shared::default());
        let mut writers = Vec::new();
        for (id, channel) in (0..self.options.writers).zip(channels.iter().cycle()) {
            let random = self.random.fork();
            let writer = Writer { id, round, keys: self.options.keys, random };
            let (channel, shared) = (channel.clone(), Arc::clone(&shared));
            writers.push(tokio::spawn(async move { writer.run(channel, &shared).await }));
        }
        let hashes = {
            let (channel, shared) = (server.connect().await?, Arc::clone(&shared));
            tokio::spawn(async move { load::sample_hashes(channel, &shared).await })
        };

        // The moment of the kill, not a wait for anything.
        tokio::time::sleep(Duration::from_micros(self.random.u64(..=self.options.load_ms_max * 1_000))).await;
        if let Some(why) = server.ended()? {
            self.report.violations.push(Violation::Process { why });
        }
        shared.killed.store(true, Ordering::SeqCst);
        self.kill(server).await?;

        for writer in writers {
            self.note(writer.await.context("a writer panicked")?);
        }
        for (revision, hash) in hashes.await.context("the hash task panicked")? {
            self.report.violations.extend(self.ledger.hash(revision, hash));
            self.report.hashes_sampled += 1;
        }
        self.report.unknown += self.ledger.unknown() as u64;
        Ok(())
    }

    /// The end of the process, and of its machine where there is one. Between the two it may notice.
    async fn kill(&mut self, server: Server) -> Result<()> {
        let Some(machine) = &self.machine else {
            return server.kill().await;
        };
        machine.cut()?;
        tokio::time::sleep(Duration::from_micros(self.random.u64(..=NOTICES_WITHIN_US))).await;
        server.kill().await?;
        machine.revive().await?;
        self.report.power_losses += 1;
        Ok(())
    }

    fn note(&mut self, written: Written) {
        let unknown = |event: &&ledger::Event| event.answer == ledger::Answer::Unknown;
        self.report.acknowledged += (written.events.len() - written.events.iter().filter(unknown).count()) as u64;
        if let Some(error) = written.early_error {
            self.report.early_errors += 1;
            self.report.first_early_error.get_or_insert(error);
        }
        self.report.violations.extend(self.ledger.record(written.events));
    }

    /// SIGTERM, and one more comparison of what is there after it.
    async fn end_gracefully(&mut self) -> Result<()> {
        let Some((server, _)) = self.restart().await? else {
            return Ok(());
        };
        match server.terminate().await? {
            Ok(status) => self.report.exit = Some(status.to_string()),
            Err(why) => {
                self.report.violations.push(Violation::Process { why });
                return Ok(());
            }
        }
        let Some((server, _)) = self.restart().await? else {
            return Ok(());
        };
        if self.report.acknowledged == 0 {
            self.report.violations.push(Violation::Process { why: "not one write was acknowledged".into() });
        }
        server.kill().await
    }
}

/// Every key of ours, page by page. Nothing writes meanwhile, so the pages fit together.
async fn read_all(channel: Channel) -> Result<State> {
    let mut client = KvClient::new(channel).max_decoding_message_size(PAGE_BYTES_MAX);
    let mut state = State::default();
    let mut from = load::PREFIX.as_bytes().to_vec();
    loop {
        let request = RangeRequest {
            key: from.into(),
            range_end: load::PREFIX_END.into(),
            limit: PAGE_KEYS,
            ..RangeRequest::default()
        };
        let page = client.range(request).await.context("reading the state after a restart")?.into_inner();
        let (count, keys) = (page.count, page.kvs.len());
        state.revision = page.header.context("a range without a header")?.revision;
        let Some(last) = page.kvs.last() else {
            return Ok(state);
        };
        // The first key after `last`.
        from = [&last.key[..], &[0]].concat();
        for pair in page.kvs {
            state.keys.insert(pair.key.to_vec(), load::stored(pair));
        }
        if page.more != (count > keys as i64) {
            bail!("a page of {keys} keys of {count} says more = {}", page.more);
        }
        if !page.more {
            return Ok(state);
        }
    }
}
