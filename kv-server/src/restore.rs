//! `kv-server snapshot status|restore`: what is in a backup, and a member that begins with it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use kv_raft::{RealDisk, RecoverOptions, SyncMode, TailLimits, recover};
use kv_store::Store;
use tokio::sync::watch;

use crate::backup::{self, Backup};
use crate::bell;
use crate::config::{Config, Output, SnapshotCommand};
use crate::data_dir::DataDir;
use crate::machine::Machine;
use crate::server::{initial_members, log_options};

/// Does it, and prints what came of it to stdout.
///
/// # Errors
/// The backup cannot be read, the directory is not empty, or the disk fails.
pub fn run(command: SnapshotCommand) -> anyhow::Result<()> {
    let said = match command {
        SnapshotCommand::Status { file, output } => status(&file, output)?,
        SnapshotCommand::Restore { file, config, check_hash, bump_revision, mark_compacted } => {
            let found = read(&file, check_hash)?;
            restore(found, &config, bump_revision, mark_compacted)?
        }
    };
    match io::stdout().lock().write_all(said.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Reads a backup, with a bar on a terminal.
fn read(path: &Path, check_hash: bool) -> anyhow::Result<Backup> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("cannot open {}", path.display()))?.len();
    let style = ProgressStyle::with_template("reading {bar:40} {bytes}/{total_bytes} {eta}").expect("a valid template");
    let bar = ProgressBar::new(bytes).with_style(style);
    let read = backup::read(bar.wrap_read(io::BufReader::with_capacity(1 << 20, file)), check_hash);
    bar.finish_and_clear();
    read.with_context(|| path.display().to_string())
}

/// Hash, revision, keys and bytes, as etcd's own tool prints them.
fn status(path: &Path, output: Output) -> anyhow::Result<String> {
    let Backup { view, bytes } = read(path, true)?;
    let (hash, revision, keys) = (view.state_hash(), view.revision(), view.history_len());
    Ok(match output {
        Output::Simple => format!("{hash:x}, {revision}, {keys}, {bytes}\n"),
        Output::Json => {
            let json = serde_json::json!({"hash": hash, "revision": revision, "totalKey": keys, "totalSize": bytes});
            format!("{json}\n")
        }
    })
}

/// Makes a data directory whose first snapshot is the backup.
fn restore(found: Backup, config: &Config, bump_revision: u64, mark_compacted: bool) -> anyhow::Result<String> {
    let (members, identity) = initial_members(config);
    let path: &PathBuf = &config.data_dir;
    if path.join("member").exists() {
        bail!("{} is a data directory already; give --data-dir a new one", path.display());
    }
    let view = found.view.restored(members, bump_revision, mark_compacted);
    let view = view.context("the revision cannot be raised so far")?;
    let (revision, keys) = (view.revision(), view.live_keys());
    let mut data_dir = DataDir::open(path, identity)?;
    let disk = Arc::new(RealDisk::new(data_dir.path(), SyncMode::Fsync));
    let options = RecoverOptions { log: log_options(data_dir.identity()), tail: TailLimits::default() };
    let (applied, _) = watch::channel(0);
    recover(&disk, &options, Machine::new(Store::from_view(view), bell::Sender::nowhere(), applied))?;
    data_dir.note_log()?;
    Ok(format!("restored {keys} keys at revision {revision} to {}\n", path.display()))
}
