//! Wiring: from a [`Config`] to a member that serves.

mod recovery;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kv_codec::command::{Body, Publish};
use kv_codec::member::Member;
use kv_raft::{
    Driver, DriverConfig, DriverEvent, Input, Leadership, LogIds, LogOptions, NodeConfig, RealDisk, RecoverError,
    TailLimits,
};
use kv_store::{Members, View};
use slog::{Logger, crit, info, warn};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::alone::AloneError;
use crate::bell;
use crate::config::{Config, Url};
use crate::corruption::{self, Inconsistent};
use crate::data_dir::{DataDir, DataDirError, Identity, Resync};
use crate::join::{self, JoinError};
use crate::listener::Listener;
use crate::logging;
use crate::machine;
use crate::metrics::{Metrics, Names};
use crate::peer::{self, Peers, PeersConfig};
use crate::resync::ResyncError;
use crate::service::{BACKUPS_MAX, Core, Leader, Limits};
use crate::status::ApiError;
use crate::steps::Steps;
use crate::waiters::{self, Completion, Waiters};
use crate::{gateway, grpc, http, ids, lessors, resync, upkeep, watches};
use recovery::{Recovered, locked, log_recovery, recover_or_resync};

/// etcd's 5 s, to which two election timeouts are added: how long a call waits for the log.
const REQUEST_TIMEOUT_BASE: Duration = Duration::from_secs(5);
/// How long to wait before the member is published anew: a cluster that refused, or lost its leader, needs a moment.
const PUBLISH_PAUSE: Duration = Duration::from_millis(200);

/// Why a server does not start. Each message says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {url}: {source}; stop what uses the address, or give {flag} another one")]
    Listen {
        /// As it was given.
        url: String,
        /// The flag that gave it.
        flag: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A URL whose address is not known.
    #[error("cannot listen on {url}: its host is no address; give {flag} an IP address or localhost")]
    NoAddress {
        /// As it was given.
        url: String,
        /// The flag that gave it.
        flag: &'static str,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What it holds cannot be recovered.
    #[error("cannot start from data directory {path}: {source}{cure}", cure = if *.others { cure(.source) } else { "" })]
    Recover {
        /// The directory.
        path: PathBuf,
        /// Whether other members may have it.
        others: bool,
        /// Why not.
        source: RecoverError,
    },
    /// The operating system gives no pipe.
    #[error("cannot open a pipe: {0}; let this process open more files")]
    Bell(std::io::Error),
    /// The operating system gives no random numbers.
    #[error("cannot draw a random number: {0}")]
    Random(getrandom::Error),
    /// The member could not publish itself to the cluster.
    #[error("cannot publish this member to its cluster: {0}")]
    Publish(ApiError),
    /// A member without a log may not begin, as far as its cluster says.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The others do not send a member what it has lost.
    #[error("cannot re-sync from the cluster what is damaged: {0}")]
    Resync(#[from] ResyncError),
    /// It holds something else than the other members.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
    /// It cannot go on alone.
    #[error("cannot force a new cluster from data directory {path}: {source}")]
    Alone {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: AloneError,
    },
    /// The member was removed from its cluster.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// Recovery ended without a result.
    #[error("recovery was interrupted")]
    Interrupted,
}

impl StartError {
    /// Whether what the member held is damaged or gone, and other members may have it.
    fn is_damage(&self) -> bool {
        match self {
            Self::Recover { source, .. } => source.is_damage(),
            // An empty one may be where a volume is not mounted.
            Self::DataDir(DataDirError::LogGone { path }) => !path.join("log").exists(),
            _ => false,
        }
    }
}

/// What can be done about it, beside what the error says itself.
fn cure(source: &RecoverError) -> &'static str {
    if source.is_damage() {
        "; in a cluster, start it with --resync-from-cluster to have the others send it everything"
    } else {
        ""
    }
}

/// A running member. Dropping it does not stop it cleanly: use [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    running: Running,
    stop: watch::Sender<()>,
    listeners: JoinSet<()>,
    client_addresses: Vec<SocketAddr>,
    logger: Logger,
}

/// A member that is part of its cluster, whether or not it serves clients.
#[derive(Debug)]
struct Running {
    core: Arc<Core>,
    disk: Arc<RealDisk>,
    /// The members, whenever they change.
    members: watch::Receiver<Members>,
    driver_thread: JoinHandle<()>,
    /// Whether the cluster has removed this member.
    left: watch::Receiver<bool>,
    stop_peers: watch::Sender<()>,
    peer_listeners: JoinSet<()>,
}

impl Server {
    /// Recovers the member, joins its cluster and serves.
    ///
    /// A disk that fails later aborts the process: what was acknowledged is on disk, and nothing else may be said.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config, logger: &Logger) -> Result<Self, StartError> {
        let started = Instant::now();
        let (genesis, identity) = join::beginning(&config).await?;
        let clients = bind_all(&config.listen_client_urls, "--listen-client-urls").await?;
        let peer_sockets = bind_all(&config.listen_peer_urls, "--listen-peer-urls").await?;
        let config = Arc::new(config);
        let (completions, inbox) = bell::channel().map_err(StartError::Bell)?;
        let (applied, applied_seen) = watch::channel(0);
        let recovered = recover_or_resync(&config, identity, genesis, (&completions, applied), logger).await?;
        log_recovery(logger, &recovered, started.elapsed());
        let data_dir = Arc::clone(&recovered.data_dir);

        let mut running = Running::begin(&config, recovered, (completions, inbox), applied_seen, logger)?;
        running.serve_peers(&config, peer_sockets, logger);
        // Whoever has left hears of nothing else any more: that it has left comes first.
        let begun = tokio::select! {
            biased;
            _ = running.left.wait_for(|left| *left) => Err(StartError::Removed),
            begun = begin(&running.core, &config, data_dir, logger) => begun,
        };
        if let Err(error) = begun {
            running.stop().await;
            return Err(error);
        }
        let (stop, stopped) = watch::channel(());
        begin_upkeep(&running.core, &config, logger, &stopped);
        let client_addresses = bound_addresses(&clients);
        let listeners = serve_clients(&running.core, &config, clients, logger, &stopped);
        Ok(Self { running, stop, listeners, client_addresses, logger: logger.clone() })
    }

    /// The addresses that clients are served on, as bound: a port of 0 is a real one here.
    #[must_use]
    pub fn client_addresses(&self) -> &[SocketAddr] {
        &self.client_addresses
    }

    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.running.core.views.load().revision()
    }

    /// Waits until the cluster has removed this member. It is of no more use then, and is to be shut down.
    pub async fn removed(&self) {
        if self.running.left.clone().wait_for(|left| *left).await.is_err() {
            // Whoever could say so has stopped.
            std::future::pending().await
        }
    }

    /// Hands over leadership, takes no more connections, lets open calls finish, and closes the log.
    pub async fn shutdown(mut self) {
        hand_over(&self.running.core, &self.logger).await;
        // Nobody listens if every listener has ended by itself.
        let _ = self.stop.send(());
        while self.listeners.join_next().await.is_some() {}
        // Open calls needed the other members until now.
        let core = self.running.stop().await;
        let last = core.views.load_full();
        info!(self.logger, "closed etcd server"; "revision" => last.revision());
        // Whoever waits for the end of the server need not wait for its memory.
        drop(core);
        machine::free(last);
    }
}

impl Running {
    /// Starts the driver, and all that it speaks to.
    fn begin(
        config: &Arc<Config>,
        recovered: Recovered,
        (completions, inbox): (bell::Sender<Completion>, bell::Receiver<Completion>),
        applied: watch::Receiver<u64>,
        logger: &Logger,
    ) -> Result<Self, StartError> {
        let Recovered { data_dir, disk, replica } = recovered;
        let inbox = inbox.listen().map_err(StartError::Bell)?;
        let (identity, epoch) = (locked(&data_dir).identity(), replica.epoch);
        let metrics = Metrics::new(&Names {
            server_version: config.report_version.server(),
            cluster_version: config.report_version.cluster(),
            member_id: identity.member_id,
        });
        let (views, members) = (replica.machine.store().reader(), replica.machine.members());
        let (watches, lessors) = (replica.machine.watches(), replica.machine.lessors());
        let (driver_config, limits) = (driver_config(config, identity, epoch)?, limits(config)?);
        let (leaves, left) = watch::channel(false);
        let peers = Arc::new(Peers::new(PeersConfig {
            identity,
            epoch,
            request_bytes_max: config.max_request_bytes,
            completions: completions.clone(),
            left: leaves.clone(),
            fatal: Box::new({
                let config = Arc::clone(config);
                move |error| abort(&config, error)
            }),
            metrics: metrics.peers.clone(),
            logger: logger.clone(),
        }));
        let (leads, leader) = watch::channel(Leader { id: 0, since: Instant::now() });
        let on_event = event_handler(EventHandler {
            completions,
            config: Arc::clone(config),
            data_dir,
            peers: Arc::clone(&peers),
            leads,
            leaves,
        });
        let (driver, driver_thread) = Driver::start(driver_config, replica, Arc::clone(&disk), logger, on_event);
        peers.attach(driver.clone());
        let waiters = Arc::new(Waiters::default());
        tokio::spawn(waiters::run(Arc::clone(&waiters), driver.clone(), inbox, left.clone()));
        let core = Arc::new(Core {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            epoch,
            version: config.report_version.clone(),
            limits,
            views,
            driver,
            waiters,
            watches,
            lessors,
            peers,
            applied,
            leader,
            steps: Arc::new(Steps::new()),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
            metrics,
        });
        let (stop_peers, peer_listeners) = (watch::channel(()).0, JoinSet::new());
        Ok(Self { core, disk, members, driver_thread, left, stop_peers, peer_listeners })
    }

    /// Listens to the other members, and dials them.
    fn serve_peers(&mut self, config: &Arc<Config>, sockets: Vec<TcpListener>, logger: &Logger) {
        let (core, stopped) = (&self.core, self.stop_peers.subscribe());
        let acceptor = Arc::new(core.peers.acceptor(Arc::clone(core), Arc::clone(&self.disk)));
        let addresses = bound_addresses(&sockets);
        for socket in sockets {
            let (routes, acceptor) = (http::peer_routes(core), Some(Arc::clone(&acceptor)));
            let max_concurrent_streams = config.max_concurrent_streams;
            let listener = Listener { socket, routes, max_concurrent_streams, acceptor };
            self.peer_listeners.spawn(listener.serve(stopped.clone(), logger.clone()));
        }
        for address in addresses {
            info!(logger, "serving peer traffic"; "address" => %address);
        }
        let (peers, config) = (Arc::clone(&core.peers), Arc::clone(config));
        tokio::spawn(peer::follow(peers, acceptor, config, self.members.clone(), stopped));
    }

    /// Lets go of the other members and closes the log; what is left.
    async fn stop(mut self) -> Arc<Core> {
        let _ = self.stop_peers.send(());
        while self.peer_listeners.join_next().await.is_some() {}
        self.core.driver.shutdown();
        let thread = self.driver_thread;
        // A driver that panicked has ended the process. The data directory is free after its end.
        drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
        self.core.peers.stop();
        self.core
    }
}

/// Begins what a member does by itself beside serving: it compacts, compares itself with the others, ends leases, feeds watches.
fn begin_upkeep(core: &Arc<Core>, config: &Config, logger: &Logger, stopped: &watch::Receiver<()>) {
    let (core, logger) = (|| Arc::clone(core), || logger.clone());
    let (compacts, disarms) = (config.auto_compaction, config.auto_disarm_nospace);
    tokio::spawn(upkeep::run(core(), compacts, disarms, logger(), stopped.clone()));
    if let Some(every) = config.corrupt_check_time {
        tokio::spawn(corruption::check_periodically(core(), every, logger(), stopped.clone()));
    }
    if let Some(every) = config.compact_hash_check_time {
        tokio::spawn(corruption::check_compactions(core(), every, logger(), stopped.clone()));
    }
    tokio::spawn(lessors::run(core(), stopped.clone()));
    tokio::spawn(watches::feed(Arc::clone(&core().watches), core().views.clone(), stopped.clone()));
}

fn serve_clients(
    core: &Arc<Core>,
    config: &Config,
    sockets: Vec<TcpListener>,
    logger: &Logger,
    stopped: &watch::Receiver<()>,
) -> JoinSet<()> {
    let addresses = bound_addresses(&sockets);
    let routes = grpc::routes(core, stopped).merge(gateway::routes(core, stopped)).merge(http::routes(core));
    let mut listeners = JoinSet::new();
    for socket in sockets {
        let (routes, max_concurrent_streams) = (routes.clone(), config.max_concurrent_streams);
        let listener = Listener { socket, routes, max_concurrent_streams, acceptor: None };
        listeners.spawn(listener.serve(stopped.clone(), logger.clone()));
    }
    info!(logger, "ready to serve client requests");
    for address in addresses {
        info!(logger, "serving client traffic"; "address" => %address);
    }
    listeners
}

/// Leaves leadership to another voter, if there is one, and if it takes it soon: otherwise writes would wait for an election.
async fn hand_over(core: &Core, logger: &Logger) {
    let own = core.member_id;
    let voters = core.views.load().members().voters().len();
    if core.driver.status().numbers().leader != own || voters < 2 || core.driver.input(Input::HandOver).is_err() {
        return;
    }
    let mut leader = core.leader.clone();
    let another = async { leader.wait_for(|leader| leader.id != 0 && leader.id != own).await.map(|leader| leader.id) };
    let Ok(Ok(another)) = tokio::time::timeout(core.limits.election_timeout, another).await else {
        warn!(logger, "stopping while leading: no other member took over");
        return;
    };
    info!(logger, "handed over leadership"; "to" => format!("{another:x}"));
    // The others may not have heard of it yet: what they still send here is given back, as long as somebody is here to do so.
    tokio::time::sleep(core.limits.heartbeat_interval).await;
}

async fn bind_all(urls: &[Url], flag: &'static str) -> Result<Vec<TcpListener>, StartError> {
    let mut sockets = Vec::new();
    for url in urls {
        let address = url.socket_addr();
        let address = address.ok_or_else(|| StartError::NoAddress { url: url.as_str().to_owned(), flag })?;
        // Tokio sets SO_REUSEADDR: a port is free again the moment its server is gone.
        let bound = TcpListener::bind(address).await;
        sockets.push(bound.map_err(|source| StartError::Listen { url: url.as_str().to_owned(), flag, source })?);
    }
    Ok(sockets)
}

/// Where the sockets listen: the real port where 0 was asked for.
fn bound_addresses(sockets: &[TcpListener]) -> Vec<SocketAddr> {
    sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
}

fn limits(config: &Config) -> Result<Limits, StartError> {
    Ok(Limits {
        request_bytes_max: config.max_request_bytes,
        txn_ops_max: config.max_txn_ops,
        learners_max: config.max_learners,
        strict_reconfig_check: config.strict_reconfig_check,
        quota_bytes: config.quota_backend_bytes,
        request_timeout: request_timeout(config),
        election_timeout: config.election_timeout,
        heartbeat_interval: config.heartbeat_interval,
        lease_ttl_min: lease_ttl_min(config.election_timeout),
        watch_progress_interval: jittered(config.watch_progress_notify_interval)?,
    })
}

/// One and a half election timeouts, in whole seconds: a lease outlives the choice of a new leader.
fn lease_ttl_min(election_timeout: Duration) -> i64 {
    i64::try_from((election_timeout * 3 / 2).as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

/// Up to a tenth longer, so that the members of a cluster do not all speak at once.
fn jittered(interval: Duration) -> Result<Duration, StartError> {
    let drawn = getrandom::u32().map_err(StartError::Random)? % 100;
    Ok(interval + interval / 1000 * drawn)
}

/// The members that a new cluster starts with, and the ids they give it.
pub(crate) fn initial_members(config: &Config) -> (Vec<Member>, Identity) {
    let mut own = 0;
    let members = config.initial_cluster.iter().map(|(name, urls)| {
        let peer_urls: Vec<String> = urls.iter().map(|url| url.as_str().to_owned()).collect();
        let id = ids::member_id(&peer_urls, &config.initial_cluster_token);
        if *name == config.name {
            own = id;
        }
        Member { id, name: name.clone(), peer_urls, client_urls: Vec::new(), is_learner: false }
    });
    let members: Vec<_> = members.collect();
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    (members, Identity { cluster_id: ids::cluster_id(&ids), member_id: own })
}

/// How long a call waits for the log.
pub(crate) fn request_timeout(config: &Config) -> Duration {
    REQUEST_TIMEOUT_BASE + 2 * config.election_timeout
}

/// How the log of a member is laid out.
pub(crate) fn log_options(Identity { cluster_id, member_id }: Identity) -> LogOptions {
    LogOptions::new(LogIds { cluster_id, member_id })
}

fn driver_config(config: &Config, identity: Identity, epoch: u64) -> Result<DriverConfig, StartError> {
    let ticks = config.election_timeout.as_millis() / config.heartbeat_interval.as_millis().max(1);
    Ok(DriverConfig {
        node: NodeConfig {
            id: identity.member_id,
            epoch,
            seed: getrandom::u64().map_err(StartError::Random)?,
            election_ticks: usize::try_from(ticks).unwrap_or(usize::MAX),
            heartbeat_ticks: 1,
            tail: TailLimits::default(),
        },
        cluster_id: identity.cluster_id,
        tick: config.heartbeat_interval,
        snapshot_entries: config.snapshot_count,
        snapshot_bytes_min: DriverConfig::SNAPSHOT_BYTES_MIN,
        batch_bytes_max: DriverConfig::BATCH_BYTES_MAX,
    })
}

/// Whom the driver's events go to. It keeps the data directory locked as long as the driver lives.
struct EventHandler {
    completions: bell::Sender<Completion>,
    config: Arc<Config>,
    data_dir: Arc<Mutex<DataDir>>,
    peers: Arc<Peers>,
    leads: watch::Sender<Leader>,
    leaves: watch::Sender<bool>,
}

/// Carries what the driver says to the calls that wait, and to the other members. Runs on the driver's thread.
fn event_handler(to: EventHandler) -> Box<dyn FnMut(DriverEvent<View>) + Send> {
    let mut led = 0;
    Box::new(move |event| {
        let EventHandler { completions, config, data_dir: _locked, peers, leads, leaves } = &to;
        let completion = match event {
            DriverEvent::Messages(messages) => return peers.send(messages),
            DriverEvent::Snapshot(message, view) => return peers.deliver(message, view),
            DriverEvent::Rejected(numbers, reason) => Completion::Rejected(numbers, reason),
            DriverEvent::ReadsReady(reads) => Completion::ReadsReady(reads),
            DriverEvent::ReadsDropped(reads) => Completion::ReadsDropped(reads),
            DriverEvent::Leadership(Leadership { leader, .. }) => {
                if std::mem::replace(&mut led, leader) != leader {
                    leads.send_replace(Leader { id: leader, since: Instant::now() });
                }
                return;
            }
            DriverEvent::Overtaken(number) => Completion::Overtaken(number),
            DriverEvent::Removed => {
                leaves.send_replace(true);
                return;
            }
            DriverEvent::Fatal(error) => abort(config, &error.to_string()),
        };
        completions.send(completion);
    })
}

/// Ends the process at once, with the reason on stderr. After a failed write or sync nobody knows what the disk holds: only
/// recovery, which reads it, does.
fn abort(config: &Config, error: &str) -> ! {
    let (logger, guard) = logging::root(config.log_level, config.log_format);
    crit!(logger, "cannot go on; restart this server once the cause is gone, what it acknowledged is on disk";
        "error" => error, "data-dir" => config.data_dir.display().to_string());
    // Writes the line out.
    drop((logger, guard));
    std::process::abort();
}

/// What is done before clients are served.
async fn begin(
    core: &Arc<Core>,
    config: &Config,
    data_dir: Arc<Mutex<DataDir>>,
    logger: &Logger,
) -> Result<(), StartError> {
    publish(core, config, logger).await?;
    let resync = locked(&data_dir).resync();
    match resync {
        Some(Resync::CatchingUp) => {
            resync::have_a_vote(core, logger).await.map_err(StartError::Publish)?;
            locked(&data_dir).end_resync()?;
        }
        // The cluster, which knows this member, has nobody who is to replace it.
        Some(Resync::Asked { new, .. }) if core.views.load().members().get(new).is_none() => {
            locked(&data_dir).take_back_resync()?;
        }
        _ => {}
    }
    drop(data_dir);
    if config.initial_corrupt_check {
        corruption::check_initially(core, logger).await?;
    }
    Ok(())
}

/// Waits for a leader, however long that takes, and tells the cluster this member's name and client URLs.
async fn publish(core: &Core, config: &Config, logger: &Logger) -> Result<(), StartError> {
    let client_urls: Vec<String> = config.advertise_client_urls.iter().map(|url| url.as_str().to_owned()).collect();
    loop {
        let error = match publish_once(core, &config.name, &client_urls).await {
            Ok(()) => return Ok(()),
            Err(error @ (ApiError::Stopped | ApiError::RequestTooLarge | ApiError::MemberNotFound)) => {
                return Err(StartError::Publish(error));
            }
            Err(error) => error,
        };
        let raft = core.driver.status().numbers();
        let waits_for = if raft.leader == 0 { "a leader" } else { "an answer of the leader" };
        warn!(logger, "failed to publish local member to cluster through raft; trying on";
            "error" => %error, "waits-for" => waits_for, "term" => raft.term);
        tokio::time::sleep(PUBLISH_PAUSE).await;
    }
}

async fn publish_once(core: &Core, name: &str, client_urls: &[String]) -> Result<(), ApiError> {
    core.read_barrier().await?;
    let view = core.views.load_full();
    let known = view.members().get(core.member_id);
    if known.is_some_and(|member| member.name == name && member.client_urls == client_urls) {
        return Ok(());
    }
    let publish = Publish { id: core.member_id, name: name.to_owned(), client_urls: client_urls.to_vec() };
    core.replicate(&Body::Publish(publish)).await?;
    Ok(())
}
