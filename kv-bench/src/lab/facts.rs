//! Where a run ran, and with what.

use std::process::Command;

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::options::Options;
use super::rivals::{ROCKSDB_NOT_BUILT, rocksdb_options};
use crate::process::cpu_model;

const LOCK: &str = include_str!("../../../Cargo.lock");
const MINUTE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
/// Packages whose versions a reader wants to know.
const PACKAGES: [&str; 7] = ["dashmap", "imbl", "raft", "raft-engine", "rocksdb", "rmp-serde", "prost"];

/// Machine, versions, commit and command.
pub(super) fn of_this_run(options: &Options) -> Result<Vec<(String, String)>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let versions: Vec<String> =
        PACKAGES.iter().filter_map(|package| Some(format!("{package} {}", version(package)?))).collect();
    let facts = [
        ("Machine", format!("{cores} core(s) of {}, {}", cpu_model(), memory()?)),
        ("System", format!("{} {}, {}", std::env::consts::OS, kernel.trim(), said_by("rustc", &["--version"]))),
        ("Versions", versions.join(", ")),
        ("Commit", commit()),
        ("Command", command(options)),
        ("Written", now()),
        ("RocksDB runs with", rocksdb_options().unwrap_or(ROCKSDB_NOT_BUILT).to_owned()),
        (
            "Build",
            if cfg!(debug_assertions) { "not optimised: no figure of this run means anything" } else { "release" }
                .to_owned(),
        ),
    ];
    Ok(facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// When and how an experiment ran: a report may hold several runs.
pub(super) fn provenance(options: &Options) -> String {
    format!("Measured {} at {} by `{}`.", now(), commit(), command(options))
}

fn now() -> String {
    OffsetDateTime::now_utc().format(MINUTE).unwrap_or_default()
}

fn command(options: &Options) -> String {
    let mut words = vec!["cargo xtask bench lab".to_owned()];
    let features = [("rocksdb", cfg!(feature = "rocksdb")), ("raft-engine", cfg!(feature = "raft-engine"))];
    let features: Vec<&str> = features.into_iter().filter_map(|(name, on)| on.then_some(name)).collect();
    if !features.is_empty() {
        words.push(format!("--features {}", features.join(",")));
    }
    words.extend(options.quick.then(|| "--quick".to_owned()));
    words.extend((!options.only.is_empty()).then(|| format!("--only {}", options.only.join(","))));
    words.extend(options.rounds.map(|rounds| format!("--rounds {rounds}")));
    words.extend(options.secs.map(|secs| format!("--secs {secs}")));
    words.join(" ")
}

fn commit() -> String {
    let commit = said_by("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = !said_by("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if changed { format!("{commit} with changes") } else { commit }
}

/// What a program prints; empty where there is no such program.
fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn memory() -> Result<String> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    Ok(kib.map_or_else(String::new, |kib: u64| format!("{} GiB of memory", kib >> 20)))
}

/// The locked version of a package.
fn version(package: &str) -> Option<&'static str> {
    let (_, rest) = LOCK.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_locked_ones() {
        let dashmap = version("dashmap").expect("it is a dependency");
        assert!(dashmap.split('.').count() == 3 && dashmap.starts_with(char::is_numeric), "{dashmap}");
        assert_eq!(version("no-such-package"), None);
    }

    #[test]
    fn the_command_can_be_repeated() {
        let only = vec!["1a".to_owned(), "4".to_owned()];
        let options = Options { quick: true, only, secs: Some(9), ..Options::default() };
        let command = command(&options);
        assert!(command.ends_with("--quick --only 1a,4 --secs 9"), "{command}");
    }
}
