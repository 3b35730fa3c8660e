//! Reads the command line and the environment into one setting for each flag.
//!
//! The command line follows Go's `flag` package rather than the habits of Rust programs: one dash or
//! two, `--f=v` or `--f v`, booleans only as `--f` or `--f=v`, the last of repeated flags wins, and
//! the first argument that is no flag ends the flags. With that, the environment and the table of
//! [`flags`](super::flags), a general parser would be mostly worked around; this is all there is.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::ConfigError;
use super::flags::{self, FLAGS, Flag, State};
use super::value::{self, Kind};

/// Variables of the server begin with this; `ETCDCTL_` ones are etcdctl's and do not.
const ENV_PREFIX: &str = "ETCD_";

/// What was asked for on the command line.
pub(super) enum Asked {
    /// To run, with these flags set.
    Run(Settings),
    Help,
    Version,
}

/// The flags given, each with the value that counts.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// By [`Flag::key`].
    given: BTreeMap<String, Given>,
    /// What a person should know although it stops nothing.
    pub(super) warnings: Vec<String>,
    /// Whether any `ETCD_` variable is set.
    pub(super) env_used: bool,
}

#[derive(Debug)]
struct Given {
    flag: &'static Flag,
    /// As the person wrote it: `--name` or `ETCD_NAME`.
    written: String,
    value: String,
}

impl Settings {
    /// Whether a flag was given, if only at its default.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of a built flag: the given one, else the default of the table.
    pub(super) fn value(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(given) => &given.value,
            None => flags::find(name).map_or("", |flag| flag.default),
        }
    }
}

/// Reads the arguments after the program's name.
pub(super) fn read_args(args: Vec<OsString>) -> Result<Asked, ConfigError> {
    let mut settings = Settings::default();
    let mut version = false;
    let mut args = args
        .into_iter()
        .map(|arg| {
            arg.into_string().map_err(|arg| ConfigError::usage(format!("the argument {} is not UTF-8", arg.display())))
        })
        .peekable();
    let mut extra = None;
    while let Some(arg) = args.next().transpose()? {
        let Some(name) = arg.strip_prefix('-').filter(|name| !name.is_empty()) else {
            extra = Some(arg);
            break;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        if name.is_empty() {
            extra = args.next().transpose()?;
            break;
        }
        if name.starts_with(['-', '=']) {
            return Err(ConfigError::usage(format!("{arg} is no flag; a flag looks like --name=value")));
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        match name {
            "help" | "h" => return Ok(Asked::Help),
            "version" => {
                let value = value.as_deref().unwrap_or("true");
                version = value::boolean(value).ok_or_else(|| {
                    ConfigError::usage(format!("invalid value {value:?} for --version: it takes true or false"))
                })?;
                continue;
            }
            _ => {}
        }
        let flag = flags::find(name).ok_or_else(|| unknown(name))?;
        let value = match value {
            Some(value) => value,
            None if flag.kind.stands_alone() => "true".to_owned(),
            // Nobody knows whether this one took a value.
            None if flag.kind == Kind::Any => args
                .next_if(|next| next.as_ref().is_ok_and(|next| !next.starts_with('-')))
                .transpose()?
                .unwrap_or_default(),
            None => args
                .next()
                .transpose()?
                .ok_or_else(|| ConfigError::usage(format!("--{name} needs a value: --{name}=value")))?,
        };
        let written = format!("--{name}");
        flag.kind
            .check(&value)
            .map_err(|why| ConfigError::usage(format!("invalid value {value:?} for {written}: {why}")))?;
        settings.given.insert(flag.key(name), Given { flag, written, value });
    }
    if let Some(extra) = extra {
        return Err(ConfigError::refused(format!(
            "{extra:?} is not a valid flag; flags look like --name=value, commands are put, get and del"
        )));
    }
    Ok(if version { Asked::Version } else { Asked::Run(settings) })
}

/// Adds what the environment sets. A variable that is set but empty counts as not set.
pub(super) fn read_env(settings: &mut Settings, env: &[(OsString, OsString)]) -> Result<(), ConfigError> {
    for (key, value) in env {
        let Some(rest) = key.to_str().and_then(|key| key.strip_prefix(ENV_PREFIX)) else {
            continue;
        };
        if value.is_empty() {
            continue;
        }
        settings.env_used = true;
        let written = format!("{ENV_PREFIX}{rest}");
        let name = rest.to_ascii_lowercase().replace('_', "-");
        let canonical = rest.bytes().all(|byte| !byte.is_ascii_lowercase() && byte != b'-');
        let Some(flag) = flags::find(&name).filter(|_| canonical) else {
            settings.warnings.push(format!("unrecognized environment variable {written}"));
            continue;
        };
        let key = flag.key(&name);
        if let Some(given) = settings.given.get(&key).filter(|given| given.written.starts_with('-')) {
            return Err(ConfigError::refused(format!(
                "{} and the environment variable {written} are both set; unset one of them",
                given.written
            )));
        }
        let value =
            value.to_str().ok_or_else(|| ConfigError::refused(format!("the value of {written} is not UTF-8")))?;
        flag.kind
            .check(value)
            .map_err(|why| ConfigError::refused(format!("invalid value {value:?} for {written}: {why}")))?;
        settings.given.insert(key, Given { flag, written, value: value.to_owned() });
    }
    Ok(())
}

/// Refuses what is not built, and notes what has no effect.
pub(super) fn check_states(settings: &mut Settings) -> Result<(), ConfigError> {
    for Given { flag, written, value } in settings.given.values() {
        match flag.state {
            State::Built(_) => {}
            State::Ignored(why) => {
                settings.warnings.push(format!("{written} has no effect: {why}"));
            }
            State::NotBuilt { harmless, why } => {
                let mut fine = std::iter::once(&flag.default).chain(harmless);
                if !fine.any(|fine| flag.kind.same(value, fine)) {
                    return Err(ConfigError::refused(format!("{written}={value}: {why}")));
                }
            }
        }
    }
    Ok(())
}

/// The error for a flag nobody knows, with the nearest one that does something.
fn unknown(name: &str) -> ConfigError {
    let nearest = FLAGS
        .iter()
        .filter(|flag| !matches!(flag.state, State::Ignored(_)))
        .map(|flag| (edit_distance(name, flag.name), flag.name))
        .min()
        .filter(|(distance, _)| *distance <= 1 + name.len() / 4);
    let hint = match nearest {
        Some((_, nearest)) => format!("did you mean --{nearest}?"),
        None => "--help lists the flags".to_owned(),
    };
    ConfigError::usage(format!("unknown flag --{name}; {hint}"))
}

/// Insertions, deletions and replacements of bytes that make `b` of `a`.
fn edit_distance(a: &str, b: &str) -> usize {
    // row[j] is the distance of what was read of `a` to the first j bytes of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::edit_distance;

    #[test]
    fn distances() {
        for (a, b, distance) in
            [("", "", 0), ("", "abc", 3), ("name", "nmae", 2), ("data-dr", "data-dir", 1), ("x", "y", 1)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }
}
