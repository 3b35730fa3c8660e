//! The table of flags: every one etcd has, and what this version does with it.
//!
//! Parsing, environment variables, the help text and the refusal of what is not built are all read
//! off this one table, so that a flag moves from "refused" to "built" by changing its row.

use super::value::Kind;

/// One flag of etcd.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) group: Group,
    pub(super) kind: Kind,
    /// As etcd prints it; parsed like a given value.
    pub(super) default: &'static str,
    pub(super) state: State,
}

/// What this version does with a flag.
#[derive(Debug)]
pub(super) enum State {
    /// Obeyed; the text is its line of `--help`.
    Built(&'static str),
    /// Accepted at its default, which is what this version does, or at one of `harmless`, which ask
    /// for nothing else; refused with `why` otherwise, since to ignore it would be to lie.
    NotBuilt { harmless: &'static [&'static str], why: &'static str },
    /// Asks for nothing that could be done or missed here: a warning, and on.
    Ignored(&'static str),
}

/// The heading of `--help` that a flag is listed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Features,
    Unsafe,
    Removed,
}

impl Flag {
    /// What tells settings apart that are not the same one: its name, for a trial feature the `given` one.
    pub(super) fn key(&self, given: &str) -> String {
        if self.kind == Kind::Any && self.name == EXPERIMENTAL.name { given } else { self.name }.to_owned()
    }
}

impl Group {
    /// Those that `--help` shows, in its order.
    pub(super) const SHOWN: [(Group, &'static str); 8] = [
        (Group::Member, "Member"),
        (Group::Clustering, "Clustering"),
        (Group::Security, "Security"),
        (Group::Auth, "Auth"),
        (Group::Monitoring, "Profiling and Monitoring"),
        (Group::Logging, "Logging"),
        (Group::Features, "Features"),
        (Group::Unsafe, "Unsafe feature"),
    ];
}

/// Flags of etcd's trial features, renamed or dropped since; any name with this prefix is ignored.
pub(super) const EXPERIMENTAL_PREFIX: &str = "experimental-";

/// What an earlier etcd called a flag, and its name now.
const RENAMED: [(&str, &str); 3] = [
    ("experimental-max-learners", "max-learners"),
    ("experimental-corrupt-check-time", "corrupt-check-time"),
    ("experimental-compact-hash-check-time", "compact-hash-check-time"),
];

/// Looks a flag up by its name without dashes, or by an earlier one.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let name = RENAMED.iter().find(|(earlier, _)| *earlier == name).map_or(name, |(_, now)| *now);
    FLAGS
        .iter()
        .find(|flag| flag.name == name)
        .or_else(|| name.starts_with(EXPERIMENTAL_PREFIX).then_some(&EXPERIMENTAL))
}

const fn built(group: Group, name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, group, kind, default, state: State::Built(help) }
}

const fn later(group: Group, name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, group, kind, default, state: State::NotBuilt { harmless: &[], why } }
}

const fn later_except(
    group: Group,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    harmless: &'static [&'static str],
    why: &'static str,
) -> Flag {
    Flag { name, group, kind, default, state: State::NotBuilt { harmless, why } }
}

const fn ignored(group: Group, name: &'static str, kind: Kind, why: &'static str) -> Flag {
    Flag { name, group, kind, default: "", state: State::Ignored(why) }
}

const TLS: &str = "TLS is not available in this version; listen on http:// behind a TLS proxy, or on a private network";
const DISCOVERY: &str = "discovery is not available in this version; name the members with --initial-cluster";
const TRACING: &str = "tracing is not available in this version; leave it out and read /metrics";
const AUTH: &str = "authentication is not available in this version; leave it out";
const NO_BACKEND: &str = "there is no backend file here, the store is in memory";
const NO_TUNING: &str = "compaction needs no tuning here, and cannot be tuned in this version; leave it out";
const KEEPALIVE: &str = "keepalive cannot be tuned in this version; leave it out";
const REMOVED: &str = "etcd has removed it";
const EXTRA_LISTENER: &str =
    "every listener serves everything in this version; leave it out and use --listen-client-urls";

const LOG_LEVELS: &[&str] = &["debug", "info", "warn", "error", "panic", "fatal"];

/// What [`find`] answers for any trial feature.
static EXPERIMENTAL: Flag = ignored(Group::Removed, "experimental-*", Kind::Any, REMOVED);

use Group::{Auth, Clustering, Features, Logging, Member, Monitoring, Removed, Security, Unsafe};
use Kind::{Bool, Choice, Cluster, Duration, Signed, Text, Unsigned, Urls};

const U32: Kind = Unsigned { max: u32::MAX as u64 };
const U64: Kind = Unsigned { max: u64::MAX };

/// Every flag, in the order of `--help`.
pub(super) static FLAGS: &[Flag] = &[
    built(Member, "name", Text, "default", "Human-readable name of this member."),
    built(Member, "data-dir", Text, "", "Directory of this member's log and snapshots; empty for <name>.etcd."),
    built(
        Member,
        "snapshot-count",
        U64,
        "10000",
        "Log entries after which a snapshot is taken; when not given, it is taken by bytes instead.",
    ),
    built(Member, "heartbeat-interval", U32, "100", "Time between heartbeats, in milliseconds."),
    built(
        Member,
        "election-timeout",
        U32,
        "1000",
        "Time without a leader after which an election starts, in milliseconds.",
    ),
    built(Member, "listen-peer-urls", Urls, "http://localhost:2380", "URLs to listen on for the other members."),
    built(Member, "listen-client-urls", Urls, "http://localhost:2379", "URLs to listen on for clients."),
    built(
        Member,
        "quota-backend-bytes",
        Signed,
        "0",
        "Bytes the store may take before writes are refused; 0 for 2 GiB, negative for no limit.",
    ),
    built(
        Member,
        "auto-disarm-nospace",
        Bool,
        "false",
        "Call off the NOSPACE alarm of this member once its store has room again. Not a flag of etcd.",
    ),
    built(Member, "max-txn-ops", U32, "128", "Most operations in one transaction."),
    built(
        Member,
        "max-request-bytes",
        Unsigned { max: MAX_REQUEST_BYTES_CEILING },
        "1572864",
        "Largest request accepted, in bytes.",
    ),
    built(Member, "max-concurrent-streams", U32, "4294967295", "Most streams a client connection may have open."),
    later(
        Member,
        "wal-dir",
        Text,
        "",
        "a log directory of its own is not available in this version; leave it out, the log lies in --data-dir",
    ),
    later(Member, "max-wals", U64, "5", "the number of log files cannot be set in this version; leave it out"),
    later(
        Member,
        "snapshot-catchup-entries",
        U64,
        "5000",
        "the entries kept for slow followers cannot be set in this version; leave it out",
    ),
    later(
        Member,
        "initial-election-tick-advance",
        Bool,
        "true",
        "it cannot be switched off in this version; leave it out",
    ),
    later(Member, "listen-client-http-urls", Urls, "", EXTRA_LISTENER),
    later(Member, "grpc-keepalive-min-time", Duration, "5s", KEEPALIVE),
    later(Member, "grpc-keepalive-interval", Duration, "2h", KEEPALIVE),
    later(Member, "grpc-keepalive-timeout", Duration, "20s", KEEPALIVE),
    later(Member, "socket-reuse-port", Bool, "false", "sharing a port is not available in this version; leave it out"),
    // Listeners always bind with SO_REUSEADDR, so that a restart finds its port free.
    later_except(Member, "socket-reuse-address", Bool, "false", &["true"], ""),
    later(
        Member,
        "raft-read-timeout",
        Duration,
        "5s",
        "timeouts between members cannot be set in this version; leave it out",
    ),
    later(
        Member,
        "raft-write-timeout",
        Duration,
        "5s",
        "timeouts between members cannot be set in this version; leave it out",
    ),
    later(
        Member,
        "memory-mlock",
        Bool,
        "false",
        "locking memory is not available in this version; leave it out and give the machine no swap",
    ),
    later(
        Member,
        "config-file",
        Text,
        "",
        "configuration files are not available in this version; give the settings as flags or ETCD_ variables",
    ),
    ignored(Member, "backend-batch-interval", Duration, NO_BACKEND),
    ignored(Member, "backend-batch-limit", Signed, NO_BACKEND),
    ignored(Member, "backend-bbolt-freelist-type", Text, NO_BACKEND),
    built(
        Clustering,
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        "Peer URLs of this member, as the others reach them.",
    ),
    built(
        Clustering,
        "initial-cluster",
        Cluster,
        "",
        "Members of a new cluster, as name=URL pairs; empty for this member alone.",
    ),
    built(
        Clustering,
        "initial-cluster-state",
        Choice(&["new", "existing"]),
        "new",
        "Whether the cluster is 'new', or 'existing' and has added this member.",
    ),
    built(
        Clustering,
        "initial-cluster-token",
        Text,
        "etcd-cluster",
        "Token that keeps clusters with the same URLs apart.",
    ),
    built(
        Clustering,
        "resync-from-cluster",
        Bool,
        "false",
        "If this member's log or snapshot is damaged, have the others replace it and send everything. Not a flag of etcd.",
    ),
    built(
        Clustering,
        "advertise-client-urls",
        Urls,
        "http://localhost:2379",
        "Client URLs of this member, as clients reach them.",
    ),
    built(
        Clustering,
        "strict-reconfig-check",
        Bool,
        "true",
        "Refuse a change of the membership that could leave the cluster unable to decide.",
    ),
    later(Clustering, "pre-vote", Bool, "true", "it cannot be switched off; leave it out"),
    built(Clustering, "max-learners", U64, "1", "Most learners that the cluster may have; the same on all members."),
    built(
        Clustering,
        "auto-compaction-retention",
        Text,
        "0",
        "History that is kept: a duration, hours when without unit, or a number of revisions; 0 for all of it.",
    ),
    built(
        Clustering,
        "auto-compaction-mode",
        Choice(&["periodic", "revision"]),
        "periodic",
        "Whether --auto-compaction-retention is a time (periodic) or a number of revisions (revision).",
    ),
    later(Clustering, "discovery-token", Text, "", DISCOVERY),
    later(Clustering, "discovery-endpoints", Text, "", DISCOVERY),
    later(Clustering, "discovery-insecure-transport", Bool, "true", DISCOVERY),
    later(Clustering, "discovery-insecure-skip-tls-verify", Bool, "false", DISCOVERY),
    later(Clustering, "discovery-cacert", Text, "", DISCOVERY),
    later(Clustering, "discovery-cert", Text, "", DISCOVERY),
    later(Clustering, "discovery-key", Text, "", DISCOVERY),
    later(Clustering, "discovery-user", Text, "", DISCOVERY),
    later(Clustering, "discovery-password", Text, "", DISCOVERY),
    later(Clustering, "discovery-dial-timeout", Duration, "2s", DISCOVERY),
    later(Clustering, "discovery-request-timeout", Duration, "5s", DISCOVERY),
    later(Clustering, "discovery-keepalive-time", Duration, "2s", DISCOVERY),
    later(Clustering, "discovery-keepalive-timeout", Duration, "6s", DISCOVERY),
    later(Clustering, "discovery-srv", Text, "", DISCOVERY),
    later(Clustering, "discovery-srv-name", Text, "", DISCOVERY),
    later(Clustering, "discovery", Text, "", DISCOVERY),
    // Only say how a discovery is done that is itself refused.
    later_except(Clustering, "discovery-fallback", Choice(&["exit", "proxy"]), "exit", &["proxy"], ""),
    later(Clustering, "discovery-proxy", Text, "", DISCOVERY),
    later(Security, "cert-file", Text, "", TLS),
    later(Security, "key-file", Text, "", TLS),
    later(Security, "client-cert-auth", Bool, "false", TLS),
    later(Security, "client-cert-file", Text, "", TLS),
    later(Security, "client-key-file", Text, "", TLS),
    later(Security, "client-crl-file", Text, "", TLS),
    later(Security, "client-cert-allowed-hostname", Text, "", TLS),
    later(Security, "trusted-ca-file", Text, "", TLS),
    later(Security, "auto-tls", Bool, "false", TLS),
    later(Security, "peer-cert-file", Text, "", TLS),
    later(Security, "peer-key-file", Text, "", TLS),
    later(Security, "peer-client-cert-auth", Bool, "false", TLS),
    later(Security, "peer-trusted-ca-file", Text, "", TLS),
    later(Security, "peer-cert-allowed-cn", Text, "", TLS),
    later(Security, "peer-cert-allowed-hostname", Text, "", TLS),
    later(Security, "peer-auto-tls", Bool, "false", TLS),
    later(Security, "peer-client-cert-file", Text, "", TLS),
    later(Security, "peer-client-key-file", Text, "", TLS),
    later(Security, "peer-crl-file", Text, "", TLS),
    later(Security, "peer-skip-client-san-verification", Bool, "false", TLS),
    later(Security, "self-signed-cert-validity", U32, "1", TLS),
    later(Security, "cipher-suites", Text, "", TLS),
    later(Security, "tls-min-version", Text, "TLS1.2", TLS),
    later(Security, "tls-max-version", Text, "", TLS),
    later_except(
        Security,
        "cors",
        Text,
        "*",
        &[""],
        "restricting origins is not available in this version; leave it out",
    ),
    later_except(
        Security,
        "host-whitelist",
        Text,
        "*",
        &[""],
        "restricting host names is not available in this version; leave it out",
    ),
    later(Auth, "auth-token", Text, "simple", AUTH),
    later(Auth, "bcrypt-cost", U32, "10", AUTH),
    later(Auth, "auth-token-ttl", U32, "300", AUTH),
    later(
        Monitoring,
        "enable-pprof",
        Bool,
        "false",
        "profiling over HTTP is not available in this version; leave it out and use perf",
    ),
    later(
        Monitoring,
        "metrics",
        Choice(&["basic", "extensive"]),
        "basic",
        "extensive metrics are not available in this version; leave it out",
    ),
    later(Monitoring, "listen-metrics-urls", Urls, "", EXTRA_LISTENER),
    later(Monitoring, "enable-distributed-tracing", Bool, "false", TRACING),
    later(Monitoring, "distributed-tracing-address", Text, "localhost:4317", TRACING),
    later(Monitoring, "distributed-tracing-service-name", Text, "etcd", TRACING),
    later(Monitoring, "distributed-tracing-instance-id", Text, "", TRACING),
    later(Monitoring, "distributed-tracing-sampling-rate", U32, "0", TRACING),
    built(
        Logging,
        "log-level",
        Choice(LOG_LEVELS),
        "info",
        "Least level logged: debug, info, warn, error, panic or fatal.",
    ),
    built(Logging, "log-format", Choice(&["json", "console"]), "json", "Form of a log line: json or console."),
    later(Logging, "logger", Choice(&["zap"]), "zap", ""),
    later_except(
        Logging,
        "log-outputs",
        Text,
        "default",
        &["stderr"],
        "logs go to stderr in this version; leave it out and redirect stderr",
    ),
    later(
        Logging,
        "enable-log-rotation",
        Bool,
        "false",
        "logs go to stderr in this version; leave it out and let what collects them rotate",
    ),
    // Says how a rotation is done that is itself refused.
    ignored(Logging, "log-rotation-config-json", Text, "it only matters with --enable-log-rotation"),
    built(
        Features,
        "feature-gates",
        Kind::Gates,
        "",
        "Features to switch on: InitialCorruptCheck=true, CompactHashCheck=true, or both with a comma.",
    ),
    built(
        Features,
        "experimental-initial-corrupt-check",
        Bool,
        "false",
        "Compare what this member holds with the others before it serves; also the gate InitialCorruptCheck.",
    ),
    built(
        Features,
        "experimental-compact-hash-check-enabled",
        Bool,
        "false",
        "Compare what all members held at a compaction; also the gate CompactHashCheck.",
    ),
    later(
        Features,
        "enable-grpc-gateway",
        Bool,
        "true",
        "the JSON gateway cannot be switched off in this version; leave the flag out",
    ),
    built(
        Features,
        "corrupt-check-time",
        Duration,
        "0s",
        "How often the leader compares what all members hold; 0 for never.",
    ),
    built(
        Features,
        "compact-hash-check-time",
        Duration,
        "1m",
        "How often the leader compares what all members held at a compaction, with the gate CompactHashCheck.",
    ),
    later(Features, "compaction-batch-limit", U64, "1000", NO_TUNING),
    later(Features, "compaction-sleep-interval", Duration, "10ms", NO_TUNING),
    built(
        Features,
        "watch-progress-notify-interval",
        Duration,
        "10m",
        "How often a watcher to which nothing happens is told how far it is.",
    ),
    later(
        Features,
        "warning-apply-duration",
        Duration,
        "100ms",
        "warnings about slow requests cannot be set in this version; leave it out",
    ),
    later(
        Features,
        "warning-unary-request-duration",
        Duration,
        "300ms",
        "warnings about slow requests cannot be set in this version; leave it out",
    ),
    later(
        Features,
        "downgrade-check-time",
        Duration,
        "5s",
        "downgrades are not available in this version; leave it out",
    ),
    ignored(Features, "bootstrap-defrag-threshold-megabytes", U64, NO_BACKEND),
    built(
        Unsafe,
        "force-new-cluster",
        Bool,
        "false",
        "Go on alone with what this member's log holds, as a cluster of its own; for when the others are lost.",
    ),
    built(
        Unsafe,
        "unsafe-no-fsync",
        Bool,
        "false",
        "Answer writes before they are on disk; a power loss loses acknowledged writes.",
    ),
    // A proxy that silently became a member would be a surprise, so that it is refused.
    later(Removed, "proxy", Text, "off", "a proxy is not available; run etcd's own in front of this server"),
    ignored(Removed, "enable-v2", Bool, REMOVED),
    ignored(Removed, "v2-deprecation", Text, REMOVED),
    ignored(Removed, "max-snapshots", U64, REMOVED),
    ignored(Removed, "proxy-failure-wait", U64, REMOVED),
    ignored(Removed, "proxy-refresh-interval", U64, REMOVED),
    ignored(Removed, "proxy-dial-timeout", U64, REMOVED),
    ignored(Removed, "proxy-write-timeout", U64, REMOVED),
    ignored(Removed, "proxy-read-timeout", U64, REMOVED),
    ignored(Removed, "cluster-active-size", Kind::Any, REMOVED),
    ignored(Removed, "cluster-remove-delay", Kind::Any, REMOVED),
    ignored(Removed, "cluster-sync-interval", Kind::Any, REMOVED),
    ignored(Removed, "config", Kind::Any, REMOVED),
    ignored(Removed, "force", Kind::Any, REMOVED),
    ignored(Removed, "max-result-buffer", Kind::Any, REMOVED),
    ignored(Removed, "max-retry-attempts", Kind::Any, REMOVED),
    ignored(Removed, "peer-heartbeat-interval", Kind::Any, REMOVED),
    ignored(Removed, "peer-election-timeout", Kind::Any, REMOVED),
    ignored(Removed, "retry-interval", Kind::Any, REMOVED),
    ignored(Removed, "snapshot", Kind::Any, REMOVED),
    ignored(Removed, "v", Kind::Any, REMOVED),
    ignored(Removed, "vv", Kind::Any, REMOVED),
];

/// Largest `--max-request-bytes`: a request is one entry of the log, which takes so much.
const MAX_REQUEST_BYTES_CEILING: u64 = kv_raft::COMMAND_BYTES_MAX as u64;
