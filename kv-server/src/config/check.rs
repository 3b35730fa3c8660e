//! What must hold between the flags.

use std::time::Duration;

use kv_codec::command::LEARNERS_DEFAULT;
use kv_codec::member::{NAME_BYTES_MAX, URL_BYTES_MAX, URLS_MAX};

use super::args::Settings;
use super::{Config, ConfigError, Scheme, Url, value};

/// Longest election timeout, as etcd's: more is taken for a mistake in the unit.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(50);

/// Heartbeats that must fit into an election timeout, so that a few lost ones elect nobody.
const HEARTBEATS_PER_ELECTION_MIN: u32 = 5;

/// Request size above which one request can hold up all others, in bytes.
const REQUEST_BYTES_ADVISED: usize = 10 << 20;

/// Quota above which recovery and snapshots take long, in bytes.
const QUOTA_BYTES_ADVISED: u64 = 8 << 30;

/// Refuses a configuration that cannot work.
pub(super) fn check(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    listeners("listen-client-urls", &config.listen_client_urls)?;
    listeners("listen-peer-urls", &config.listen_peer_urls)?;
    not_empty("advertise-client-urls", &config.advertise_client_urls)?;
    not_empty("initial-advertise-peer-urls", &config.initial_advertise_peer_urls)?;
    if settings.is_given("listen-client-urls") && !settings.is_given("advertise-client-urls") {
        return refuse("--advertise-client-urls is required when --listen-client-urls is set explicitly");
    }
    if config.max_learners < LEARNERS_DEFAULT {
        return refuse("--max-learners must be at least 1");
    }
    if let Some(gate) = value::gate_refused(settings.value("feature-gates")) {
        return refuse(format!("--feature-gates: {gate} cannot be switched in this version; leave it out"));
    }
    lengths(config)?;
    timeouts(config)?;
    cluster(config)?;
    resync(config)
}

/// What becomes part of the membership must fit it: it is read again at every start.
fn lengths(config: &Config) -> Result<(), ConfigError> {
    if config.name.len() as u64 > NAME_BYTES_MAX {
        return refuse(format!("--name is longer than {NAME_BYTES_MAX} bytes; give a shorter one"));
    }
    if config.initial_cluster.keys().any(|name| name.len() as u64 > NAME_BYTES_MAX) {
        return refuse(format!("--initial-cluster has a name longer than {NAME_BYTES_MAX} bytes; give a shorter one"));
    }
    let own = [
        ("advertise-client-urls", &config.advertise_client_urls),
        ("initial-advertise-peer-urls", &config.initial_advertise_peer_urls),
    ];
    let all = config.initial_cluster.values().map(|urls| ("initial-cluster", urls));
    for (flag, urls) in own.into_iter().chain(all) {
        if urls.len() as u64 > URLS_MAX {
            return refuse(format!("--{flag} has more than {URLS_MAX} URLs; give fewer"));
        }
        if urls.iter().any(|url| url.as_str().len() as u64 > URL_BYTES_MAX) {
            return refuse(format!("--{flag} has a URL of more than {URL_BYTES_MAX} bytes; give a shorter one"));
        }
    }
    Ok(())
}

fn listeners(flag: &str, urls: &[Url]) -> Result<(), ConfigError> {
    not_empty(flag, urls)?;
    for url in urls {
        match url.scheme() {
            Scheme::Http => {}
            Scheme::Https => {
                return refuse(format!("--{flag}={url}: TLS is not available in this version; use http://"));
            }
            Scheme::Unix => {
                return refuse(format!("--{flag}={url}: Unix sockets are not available in this version; use http://"));
            }
        }
        if url.socket_addr().is_none() {
            return refuse(format!("--{flag}: expected IP in URL for binding ({url})"));
        }
    }
    Ok(())
}

fn not_empty(flag: &str, urls: &[Url]) -> Result<(), ConfigError> {
    if urls.is_empty() {
        return refuse(format!("--{flag} needs at least one URL"));
    }
    Ok(())
}

fn timeouts(config: &Config) -> Result<(), ConfigError> {
    let (heartbeat, election) = (config.heartbeat_interval, config.election_timeout);
    if heartbeat.is_zero() {
        return refuse("--heartbeat-interval must be above 0");
    }
    if election < heartbeat * HEARTBEATS_PER_ELECTION_MIN {
        return refuse(format!(
            "--election-timeout[{election:?}] should be at least as 5 times as --heartbeat-interval[{heartbeat:?}]"
        ));
    }
    if election > ELECTION_TIMEOUT_MAX {
        return refuse(format!(
            "--election-timeout[{election:?}] is too long, and should be set less than {ELECTION_TIMEOUT_MAX:?}"
        ));
    }
    Ok(())
}

fn cluster(config: &Config) -> Result<(), ConfigError> {
    let members = &config.initial_cluster;
    let mut urls: Vec<&Url> = members.values().flatten().collect();
    urls.sort();
    if let Some(pair) = urls.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse(format!("--initial-cluster has the URL {} twice", pair[0]));
    }
    let Some(own) = members.get(&config.name) else {
        return refuse(format!(
            "--initial-cluster has no member {:?}; name this one in it, or set --name",
            config.name
        ));
    };
    let advertised = &config.initial_advertise_peer_urls;
    let same =
        own.len() == advertised.len() && own.iter().all(|url| advertised.iter().any(|other| url.reaches_same(other)));
    if !same {
        let join = |urls: &[Url]| urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",");
        return refuse(format!(
            "--initial-cluster gives {} the URLs {}, --initial-advertise-peer-urls gives it {}; they must be the same",
            config.name,
            join(own),
            join(advertised)
        ));
    }
    Ok(())
}

fn resync(config: &Config) -> Result<(), ConfigError> {
    if config.resync_from_cluster && config.force_new_cluster {
        return refuse(
            "--resync-from-cluster takes everything from the other members, --force-new-cluster goes on without them; give one",
        );
    }
    if config.resync_from_cluster && config.initial_cluster.len() < 2 {
        return refuse(
            "--resync-from-cluster needs the other members: name them all in --initial-cluster, as `etcdctl member list` shows them",
        );
    }
    Ok(())
}

/// What works, and may not be what was meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.max_request_bytes > REQUEST_BYTES_ADVISED {
        warnings.push(format!(
            "--max-request-bytes={} is above the advised {REQUEST_BYTES_ADVISED}: large requests hold up all others",
            config.max_request_bytes
        ));
    }
    if let Some(quota) = config.quota_backend_bytes.filter(|quota| *quota > QUOTA_BYTES_ADVISED) {
        warnings.push(format!(
            "--quota-backend-bytes={quota} is above the advised {QUOTA_BYTES_ADVISED}: restarts and snapshots take long"
        ));
    }
    if config.unsafe_no_fsync {
        warnings.push("--unsafe-no-fsync: a power loss loses acknowledged writes".to_owned());
    }
    warnings
}

fn refuse<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::refused(message))
}
