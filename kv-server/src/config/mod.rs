//! The configuration: flags, `ETCD_` variables, their defaults and what must hold between them.
//!
//! Everything here is a pure function of the arguments and the environment handed in. Flow:
//! [`Config::parse`] -> `args` (syntax, one value for each flag) -> `flags` (the table: what is built,
//! what is refused) -> `value` and `url` (types) -> `check` (rules between flags) -> [`Config`].
//! `help` prints the table, `command` reads the built-in client's arguments.

mod args;
mod check;
mod command;
mod flags;
mod help;
mod snapshot;
#[cfg(test)]
mod tests;
mod url;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use command::{Action, ClientCommand, Output};
pub use snapshot::SnapshotCommand;
pub use url::{Scheme, Url};

use crate::version::{REPORT_VERSION_ENV, ReportedVersion};
use args::{Asked, Settings};

/// How this server runs. Fields are named as the flags that set them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of this member.
    pub name: String,
    /// Directory of the log and the snapshots.
    pub data_dir: PathBuf,
    /// Where clients are listened for; each has a [`Url::socket_addr`]. At least one.
    pub listen_client_urls: Vec<Url>,
    /// Where clients are told to reach this member. At least one.
    pub advertise_client_urls: Vec<Url>,
    /// Where the other members are listened for; each has a [`Url::socket_addr`]. At least one.
    pub listen_peer_urls: Vec<Url>,
    /// Where the other members are told to reach this one. At least one.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// The members of the cluster by name, with their peer URLs, sorted.
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    /// Whether a change of the membership is refused that could leave the cluster unable to decide.
    pub strict_reconfig_check: bool,
    /// Most learners that the cluster may have; at least 1.
    pub max_learners: u64,
    /// Whether [`Config::initial_cluster`] is a cluster that runs, and waits for this member.
    pub initial_cluster_existing: bool,
    /// Keeps apart the ids of clusters that have the same URLs.
    pub initial_cluster_token: String,
    /// Log entries between snapshots when given explicitly; `None` takes them by bytes.
    pub snapshot_count: Option<u64>,
    /// Bytes the store may take before writes are refused; `None` for no limit.
    pub quota_backend_bytes: Option<u64>,
    /// Whether this member's NOSPACE alarm is called off once its store has room again.
    pub auto_disarm_nospace: bool,
    /// Which history is given up by itself.
    pub auto_compaction: AutoCompaction,
    /// Largest encoded request, in bytes.
    pub max_request_bytes: usize,
    /// Most operations in one transaction.
    pub max_txn_ops: usize,
    /// Most streams open on one client connection.
    pub max_concurrent_streams: u32,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// Time without a leader after which an election starts; at least 5 heartbeats.
    pub election_timeout: Duration,
    /// Whether this member compares what it holds with the others before it serves.
    pub initial_corrupt_check: bool,
    /// How often the leader compares what all members hold, if it does.
    pub corrupt_check_time: Option<Duration>,
    /// How often the leader compares what all members held at the last compactions, if it does.
    pub compact_hash_check_time: Option<Duration>,
    /// How often a quiet watcher is told how far it is, if it wants to be; at least 100 ms.
    pub watch_progress_notify_interval: Duration,
    /// Least level logged.
    pub log_level: LogLevel,
    /// Form of a log line.
    pub log_format: LogFormat,
    /// Whether this member goes on alone, all others being lost.
    pub force_new_cluster: bool,
    /// Whether the others replace this member and send it everything, if what it holds is damaged.
    pub resync_from_cluster: bool,
    /// Whether writes are answered before they are on disk.
    pub unsafe_no_fsync: bool,
    /// The version of etcd to answer as.
    pub report_version: ReportedVersion,
    /// Whether someone cared how this server logs: a log flag or any `ETCD_` variable was set.
    pub log_chosen: bool,
}

/// What the arguments ask the program to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Serve.
    Run {
        /// How.
        config: Box<Config>,
        /// What to log as warnings once there is a log.
        warnings: Vec<String>,
    },
    /// Print this to stdout and exit with 0.
    Help(String),
    /// Print this to stdout and exit with 0.
    Version(String),
    /// Act as a client of a running server.
    Client(ClientCommand),
    /// Look at a backup, or restore it.
    Snapshot(SnapshotCommand),
}

/// Which history a leader gives up by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// None.
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// All but so many revisions.
    Revision(i64),
}

/// Least level logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What a person running the server wants to see.
    Info,
    /// What may need attention.
    Warn,
    /// What failed.
    Error,
    /// What ends the server.
    Panic,
    /// What ends the server.
    Fatal,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// Columns separated by tabs.
    Console,
}

/// Why the arguments cannot be obeyed: one line that names the flag and the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The command line cannot be read.
    #[error("{0}")]
    Usage(String),
    /// It can be read, and asks for what does not fit together or is not built.
    #[error("{0}")]
    Refused(String),
}

impl ConfigError {
    /// The exit code: 2 as Go programs for a command line that cannot be read, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            ConfigError::Usage(_) => 2,
            ConfigError::Refused(_) => 1,
        }
    }

    fn usage(message: impl Into<String>) -> Self {
        ConfigError::Usage(message.into())
    }

    fn refused(message: impl Into<String>) -> Self {
        ConfigError::Refused(message.into())
    }
}

/// etcd's least `--watch-progress-notify-interval`: what is shorter counts as this.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Store size at which writes are refused unless the quota is set: 2 GiB, as etcd.
const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;

impl Config {
    /// Reads the arguments after the program's name, and the environment.
    ///
    /// # Errors
    /// The first thing that cannot be obeyed. Nothing is tried or touched: that a directory or a port
    /// can be used shows later.
    pub fn parse<A, E, K, V>(args: A, env: E) -> Result<Parsed, ConfigError>
    where
        A: IntoIterator<Item: Into<OsString>>,
        E: IntoIterator<Item = (K, V)>,
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let env: Vec<(OsString, OsString)> = env.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        if args.first().is_some_and(|verb| verb == "snapshot") {
            return Ok(Parsed::Snapshot(snapshot::parse(&args[1..])?));
        }
        if let Some(command) = command::parse(&args)? {
            return Ok(Parsed::Client(command));
        }
        let mut settings = match args::read_args(args)? {
            Asked::Run(settings) => settings,
            Asked::Help => return Ok(Parsed::Help(help::text())),
            Asked::Version => return Ok(Parsed::Version(report_version(&env)?.version_text())),
        };
        args::read_env(&mut settings, &env)?;
        args::check_states(&mut settings)?;
        let config = Config::from_settings(&settings, report_version(&env)?)?;
        check::check(&config, &settings)?;
        let mut warnings = settings.warnings;
        warnings.extend(check::warnings(&config));
        Ok(Parsed::Run { config: Box::new(config), warnings })
    }

    /// The configuration of a bare start, for embedders and tests to change as they like.
    ///
    /// # Errors
    /// Never, as long as the defaults of the table fit together, which a test holds true.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::from_settings(&Settings::default(), ReportedVersion::default())
    }

    fn from_settings(settings: &Settings, report_version: ReportedVersion) -> Result<Self, ConfigError> {
        let reader = Reader { settings };
        let name = settings.value("name").to_owned();
        let data_dir = match settings.value("data-dir") {
            "" => format!("{name}.etcd"),
            dir => dir.to_owned(),
        };
        let initial_advertise_peer_urls = reader.urls("initial-advertise-peer-urls")?;
        let mut initial_cluster = reader.cluster("initial-cluster")?;
        if initial_cluster.is_empty() {
            initial_cluster.insert(name.clone(), initial_advertise_peer_urls.clone());
        }
        // 0 asks for the default, as with etcd.
        let snapshot_count = match settings.is_given("snapshot-count") {
            true => Some(reader.number("snapshot-count")?).filter(|count| *count > 0),
            false => None,
        };
        let quota_backend_bytes = match reader.signed("quota-backend-bytes")? {
            0 => Some(QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        };
        let log_chosen = settings.env_used || settings.is_given("log-level") || settings.is_given("log-format");
        Ok(Self {
            name,
            data_dir: data_dir.into(),
            listen_client_urls: reader.urls("listen-client-urls")?,
            advertise_client_urls: reader.urls("advertise-client-urls")?,
            listen_peer_urls: reader.urls("listen-peer-urls")?,
            initial_advertise_peer_urls,
            initial_cluster,
            initial_cluster_existing: settings.value("initial-cluster-state") == "existing",
            initial_cluster_token: settings.value("initial-cluster-token").to_owned(),
            strict_reconfig_check: value::boolean(settings.value("strict-reconfig-check")) == Some(true),
            max_learners: reader.number("max-learners")?,
            snapshot_count,
            quota_backend_bytes,
            auto_disarm_nospace: value::boolean(settings.value("auto-disarm-nospace")) == Some(true),
            auto_compaction: reader.auto_compaction()?,
            max_request_bytes: reader.number("max-request-bytes")?,
            max_txn_ops: reader.number("max-txn-ops")?,
            max_concurrent_streams: reader.number("max-concurrent-streams")?,
            heartbeat_interval: Duration::from_millis(reader.number("heartbeat-interval")?),
            election_timeout: Duration::from_millis(reader.number("election-timeout")?),
            initial_corrupt_check: reader.gate("InitialCorruptCheck", "experimental-initial-corrupt-check"),
            corrupt_check_time: Some(reader.duration("corrupt-check-time")?).filter(|every| !every.is_zero()),
            compact_hash_check_time: match reader.duration("compact-hash-check-time")? {
                _ if !reader.gate("CompactHashCheck", "experimental-compact-hash-check-enabled") => None,
                Duration::ZERO => return Err(ConfigError::refused("--compact-hash-check-time must be more than 0")),
                every => Some(every),
            },
            watch_progress_notify_interval: reader
                .duration("watch-progress-notify-interval")?
                .max(PROGRESS_INTERVAL_MIN),
            log_level: match settings.value("log-level") {
                "debug" => LogLevel::Debug,
                "warn" => LogLevel::Warn,
                "error" => LogLevel::Error,
                "panic" => LogLevel::Panic,
                "fatal" => LogLevel::Fatal,
                _ => LogLevel::Info,
            },
            log_format: match settings.value("log-format") {
                "console" => LogFormat::Console,
                _ => LogFormat::Json,
            },
            force_new_cluster: value::boolean(settings.value("force-new-cluster")) == Some(true),
            resync_from_cluster: value::boolean(settings.value("resync-from-cluster")) == Some(true),
            unsafe_no_fsync: value::boolean(settings.value("unsafe-no-fsync")) == Some(true),
            report_version,
            log_chosen,
        })
    }
}

/// Reads typed values. They were checked when they were given, so that an error here is a default of
/// the table that does not fit its kind.
struct Reader<'a> {
    settings: &'a Settings,
}

impl Reader<'_> {
    fn number<N: TryFrom<u64>>(&self, name: &str) -> Result<N, ConfigError> {
        value::unsigned(self.settings.value(name))
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| ConfigError::refused(format!("--{name} is too large for this machine")))
    }

    fn signed(&self, name: &str) -> Result<i64, ConfigError> {
        value::signed(self.settings.value(name))
            .ok_or_else(|| ConfigError::refused(format!("--{name} is no whole number")))
    }

    fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        value::duration_nanos(self.settings.value(name))
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map(Duration::from_nanos)
            .ok_or_else(|| ConfigError::refused(format!("--{name} cannot be negative")))
    }

    /// Whether a feature is switched on, by its gate or by the flag that it had before there were gates.
    fn gate(&self, gate: &str, earlier: &str) -> bool {
        value::gate_on(self.settings.value("feature-gates"), gate)
            || value::boolean(self.settings.value(earlier)) == Some(true)
    }

    fn auto_compaction(&self) -> Result<AutoCompaction, ConfigError> {
        let text = self.settings.value("auto-compaction-retention");
        let number = value::unsigned(text);
        let is_by_revision = self.settings.value("auto-compaction-mode") == "revision";
        let retention = match (number, is_by_revision) {
            _ if text.is_empty() => Some(AutoCompaction::Off),
            (Some(0), _) => Some(AutoCompaction::Off),
            (Some(kept), true) => i64::try_from(kept).ok().map(AutoCompaction::Revision),
            (Some(hours), false) => hours.checked_mul(3_600).map(Duration::from_secs).map(AutoCompaction::Periodic),
            (None, true) => None,
            (None, false) => match value::duration_nanos(text).map(u64::try_from) {
                Some(Ok(0)) => Some(AutoCompaction::Off),
                Some(Ok(nanos)) => Some(AutoCompaction::Periodic(Duration::from_nanos(nanos))),
                _ => None,
            },
        };
        let takes = if is_by_revision { "a number of revisions" } else { "hours, or a duration such as 30m" };
        retention.ok_or_else(|| ConfigError::refused(format!("--auto-compaction-retention={text}: it takes {takes}")))
    }

    fn urls(&self, name: &str) -> Result<Vec<Url>, ConfigError> {
        value::urls(self.settings.value(name)).map_err(|why| ConfigError::refused(format!("--{name}: {why}")))
    }

    fn cluster(&self, name: &str) -> Result<BTreeMap<String, Vec<Url>>, ConfigError> {
        url::parse_cluster(self.settings.value(name)).map_err(|why| ConfigError::refused(format!("--{name}: {why}")))
    }
}

fn report_version(env: &[(OsString, OsString)]) -> Result<ReportedVersion, ConfigError> {
    let given = env.iter().find(|(key, value)| key == REPORT_VERSION_ENV && !value.is_empty());
    let Some((_, text)) = given else {
        return Ok(ReportedVersion::default());
    };
    text.to_str().and_then(ReportedVersion::parse).ok_or_else(|| {
        ConfigError::refused(format!("{REPORT_VERSION_ENV}={} is no version; it looks like 3.7.0", text.display()))
    })
}
