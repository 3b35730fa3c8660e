//! The arguments of `kv-server snapshot status|restore`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Config, ConfigError, Output, Parsed, value};

/// What to do with a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotCommand {
    /// Says what is in it.
    Status {
        /// The backup.
        file: PathBuf,
        /// How to print it.
        output: Output,
    },
    /// Makes it the state of a new member.
    Restore {
        /// The backup.
        file: PathBuf,
        /// The member: its directory, its name and its cluster.
        config: Box<Config>,
        /// Whether the hash at its end is looked at.
        check_hash: bool,
        /// How much the revision is raised.
        bump_revision: u64,
        /// Whether everything before the new revision counts as compacted.
        mark_compacted: bool,
    },
}

const USAGE: &str = "usage: kv-server snapshot status FILE [-w simple|json] | snapshot restore FILE [--skip-hash-check] \
                     [--bump-revision N --mark-compacted] [--data-dir DIR, --name and the --initial- flags of the new member]";

fn usage(what: impl std::fmt::Display) -> ConfigError {
    ConfigError::usage(format!("{what}; {USAGE}"))
}

/// Reads the arguments after `snapshot`.
pub(super) fn parse(args: &[OsString]) -> Result<SnapshotCommand, ConfigError> {
    match args.first().and_then(|verb| verb.to_str()) {
        Some("status") => status(&args[1..]),
        Some("restore") => restore(&args[1..]),
        _ => Err(usage("snapshot needs status or restore")),
    }
}

/// A flag with its inline value, without dashes; `None` for a word.
fn flag(arg: &OsString) -> Option<(&str, Option<&str>)> {
    let name = arg.to_str()?.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    Some(name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value))))
}

fn status(args: &[OsString]) -> Result<SnapshotCommand, ConfigError> {
    let (mut file, mut output) = (None, Output::Simple);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match flag(arg) {
            Some(("w" | "write-out", inline)) => {
                let given = inline.or_else(|| args.next().and_then(|arg| arg.to_str()));
                output = match given {
                    Some("simple") => Output::Simple,
                    Some("json") => Output::Json,
                    _ => return Err(usage("-w takes simple or json")),
                };
            }
            Some((name, _)) => return Err(usage(format!("unknown flag --{name}"))),
            None if file.is_none() => file = Some(PathBuf::from(arg)),
            None => return Err(usage("too many arguments for status")),
        }
    }
    Ok(SnapshotCommand::Status { file: file.ok_or_else(|| usage("status needs a file"))?, output })
}

fn restore(args: &[OsString]) -> Result<SnapshotCommand, ConfigError> {
    let (mut file, mut check_hash, mut bump_revision, mut mark_compacted) = (None, true, 0, false);
    // What is not said here is said to the server that is to run on the directory.
    let mut rest = Vec::new();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let switch = |inline: Option<&str>, name| {
            let given = value::boolean(inline.unwrap_or("true"));
            given.ok_or_else(|| usage(format!("--{name} takes true or false")))
        };
        match flag(arg) {
            Some(("skip-hash-check", inline)) => check_hash = !switch(inline, "skip-hash-check")?,
            Some(("mark-compacted", inline)) => mark_compacted = switch(inline, "mark-compacted")?,
            Some(("bump-revision", inline)) => {
                let given = inline.or_else(|| args.next().and_then(|arg| arg.to_str()));
                let number = given.and_then(value::unsigned);
                bump_revision = number.ok_or_else(|| usage("--bump-revision takes a whole number"))?;
            }
            Some((_, inline)) => {
                rest.push(arg.clone());
                let takes_next = inline.is_none() && args.peek().is_some_and(|next| flag(next).is_none());
                rest.extend(args.next_if(|_| takes_next).cloned());
            }
            None if file.is_none() => file = Some(PathBuf::from(arg)),
            None => return Err(usage("too many arguments for restore")),
        }
    }
    let file = file.ok_or_else(|| usage("restore needs a file"))?;
    if (bump_revision > 0) != mark_compacted {
        return Err(usage("--bump-revision and --mark-compacted are given together"));
    }
    let no_env: [(&str, &str); 0] = [];
    match Config::parse(rest, no_env)? {
        Parsed::Run { config, .. } => {
            Ok(SnapshotCommand::Restore { file, config, check_hash, bump_revision, mark_compacted })
        }
        _ => Err(usage("restore takes flags of the server")),
    }
}
