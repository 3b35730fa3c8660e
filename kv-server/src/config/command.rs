//! The arguments of the built-in client: `kv-server put|get|del`.
//!
//! Written as for etcdctl: flags anywhere, `--` before a key that begins with a dash.

use std::ffi::OsString;

use super::{ConfigError, value};

/// A call to make on a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCommand {
    /// `host:port` of the servers to try, in order.
    pub endpoints: Vec<String>,
    /// How to print the answer.
    pub output: Output,
    /// What to do.
    pub action: Action,
}

/// What the client does. Keys and values are any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Writes one key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value; `None` reads it from stdin.
        value: Option<Vec<u8>>,
    },
    /// Reads one key, or all that begin with it.
    Get {
        /// The key, or what the keys begin with.
        key: Vec<u8>,
        /// Whether all keys that begin with it are meant.
        prefix: bool,
        /// Most keys to read; 0 for all.
        limit: i64,
        /// Whether values are left out.
        keys_only: bool,
    },
    /// Deletes one key, or all that begin with it.
    Del {
        /// The key, or what the keys begin with.
        key: Vec<u8>,
        /// Whether all keys that begin with it are meant.
        prefix: bool,
    },
}

/// How the client prints an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// As etcdctl does by default: keys and values, each on a line of its own.
    Simple,
    /// One JSON object, keys and values in base64.
    Json,
}

/// The server tried unless `--endpoints` names others.
const ENDPOINT_DEFAULT: &str = "127.0.0.1:2379";

const USAGE: &str = "usage: kv-server put KEY [VALUE] | get KEY [--prefix] [--limit N] [--keys-only] | del KEY [--prefix], \
                     each with [--endpoints HOST:PORT] [-w simple|json]";

/// Reads a client's arguments; `None` when they are the server's.
pub(super) fn parse(args: &[OsString]) -> Result<Option<ClientCommand>, ConfigError> {
    let Some(verb) = args.first().and_then(|arg| arg.to_str()) else {
        return Ok(None);
    };
    if !["put", "get", "del"].contains(&verb) {
        return Ok(None);
    }
    let given = Given::read(&args[1..])?;
    let mut words = given.words.into_iter();
    let key = words.next().ok_or_else(|| usage(format!("{verb} needs a key")))?;
    let action = match verb {
        "put" => {
            Given::none_of(verb, given.prefix, "--prefix")?;
            let value = words.next().filter(|value| value != b"-");
            Action::Put { key, value }
        }
        "get" => Action::Get { key, prefix: given.prefix, limit: given.limit.unwrap_or(0), keys_only: given.keys_only },
        _ => Action::Del { key, prefix: given.prefix },
    };
    if verb != "get" {
        Given::none_of(verb, given.limit.is_some(), "--limit")?;
        Given::none_of(verb, given.keys_only, "--keys-only")?;
    }
    if words.next().is_some() {
        return Err(usage(format!("too many arguments for {verb}")));
    }
    Ok(Some(ClientCommand { endpoints: given.endpoints, output: given.output, action }))
}

fn usage(what: impl std::fmt::Display) -> ConfigError {
    ConfigError::usage(format!("{what}; {USAGE}"))
}

/// The flags and words of a client's command line.
struct Given {
    words: Vec<Vec<u8>>,
    endpoints: Vec<String>,
    output: Output,
    prefix: bool,
    limit: Option<i64>,
    keys_only: bool,
}

impl Given {
    fn read(args: &[OsString]) -> Result<Self, ConfigError> {
        let mut given = Self {
            words: Vec::new(),
            endpoints: vec![ENDPOINT_DEFAULT.to_owned()],
            output: Output::Simple,
            prefix: false,
            limit: None,
            keys_only: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let flag = arg.to_str().filter(|text| text.starts_with('-') && *text != "-");
            let Some(flag) = flag else {
                given.words.push(arg.clone().into_encoded_bytes());
                continue;
            };
            if flag == "--" {
                given.words.extend(args.map(|arg| arg.clone().into_encoded_bytes()));
                break;
            }
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            let switch =
                || value::boolean(inline.unwrap_or("true")).ok_or_else(|| usage(format!("{name} takes true or false")));
            let mut text = || {
                inline
                    .or_else(|| args.next().and_then(|arg| arg.to_str()))
                    .ok_or_else(|| usage(format!("{name} needs a value")))
            };
            match name.trim_start_matches('-') {
                "prefix" => given.prefix = switch()?,
                "keys-only" => given.keys_only = switch()?,
                "limit" => {
                    let limit = value::signed(text()?);
                    given.limit = Some(limit.ok_or_else(|| usage("--limit takes a whole number"))?);
                }
                "endpoints" => {
                    given.endpoints = text()?.split(',').map(endpoint).collect::<Result<_, ConfigError>>()?;
                }
                "w" | "write-out" => {
                    given.output = match text()? {
                        "simple" => Output::Simple,
                        "json" => Output::Json,
                        other => {
                            return Err(usage(format!("{name} takes simple or json, not {other}")));
                        }
                    }
                }
                _ => return Err(usage(format!("unknown flag {name}"))),
            }
        }
        Ok(given)
    }

    /// Refuses a flag that the command has no use for.
    fn none_of(verb: &str, given: bool, flag: &str) -> Result<(), ConfigError> {
        match given {
            true => Err(usage(format!("{verb} takes no {flag}"))),
            false => Ok(()),
        }
    }
}

/// `host:port`, also when written as a URL.
fn endpoint(text: &str) -> Result<String, ConfigError> {
    let text = text.trim();
    if text.starts_with("https://") {
        return Err(usage(format!("{text}: TLS is not available in this version")));
    }
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        _ => Err(usage(format!("{text:?} should be HOST:PORT"))),
    }
}
