//! Metrics, under the names that etcd's dashboards and alerts read.

use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::peer::PeerMetrics;
use crate::service::{Core, in_use_bytes, taken_bytes};

/// The server's metrics. Counters rise where things happen; gauges are set when somebody looks.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) puts: IntCounter,
    pub(crate) ranges: IntCounter,
    pub(crate) deletes: IntCounter,
    pub(crate) txns: IntCounter,
    pub(crate) proposals_failed: IntCounter,
    /// gRPC calls begun, by type, service and method.
    pub(crate) grpc_started: IntCounterVec,
    /// gRPC calls ended, by code as well.
    pub(crate) grpc_handled: IntCounterVec,
    pub(crate) leases_granted: IntCounter,
    pub(crate) leases_revoked: IntCounter,
    pub(crate) leases_renewed: IntCounter,
    pub(crate) leases_expired: IntCounter,
    pub(crate) corruption_checks: IntCounter,
    pub(crate) corruptions: IntCounter,
    pub(crate) peers: PeerMetrics,
    gauges: Gauges,
}

#[derive(Debug)]
struct Gauges {
    has_leader: IntGauge,
    is_leader: IntGauge,
    is_learner: IntGauge,
    leader_changes: IntGauge,
    proposals_pending: IntGauge,
    proposals_committed: IntGauge,
    proposals_applied: IntGauge,
    quota_bytes: IntGauge,
    db_total_bytes: IntGauge,
    db_in_use_bytes: IntGauge,
    current_revision: IntGauge,
    compact_revision: IntGauge,
    keys: IntGauge,
    wal_syncs: IntGauge,
    wal_sync_micros: IntGauge,
    entries: IntGauge,
    commands: IntGauge,
    snapshots: IntGauge,
    answer_steps: IntGauge,
    answers_in_steps: IntGauge,
    watch_streams: IntGauge,
    watchers: IntGauge,
    slow_watchers: IntGauge,
    pending_events: IntGauge,
    events: IntGauge,
}

/// Metrics of one server, before it has a name for the version it reports.
pub(crate) struct Names<'a> {
    pub(crate) server_version: &'a str,
    pub(crate) cluster_version: &'a str,
    pub(crate) member_id: u64,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Panics
    /// When two have one name.
    pub(crate) fn new(names: &Names<'_>) -> Self {
        let registry = Registry::new();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect(UNIQUE);
        let labels = ["grpc_method", "grpc_service", "grpc_type"];
        let handled_labels = ["grpc_code", "grpc_method", "grpc_service", "grpc_type"];
        let metrics = Self {
            puts: counter(&registry, "etcd_mvcc_put_total", "Puts seen by this member."),
            ranges: counter(&registry, "etcd_mvcc_range_total", "Ranges seen by this member."),
            deletes: counter(&registry, "etcd_mvcc_delete_total", "Deletions seen by this member."),
            txns: counter(&registry, "etcd_mvcc_txn_total", "Transactions seen by this member."),
            proposals_failed: counter(&registry, "etcd_server_proposals_failed_total", "Proposals that failed."),
            grpc_started: counters(&registry, "grpc_server_started_total", "gRPC calls begun.", &labels),
            grpc_handled: counters(&registry, "grpc_server_handled_total", "gRPC calls ended.", &handled_labels),
            leases_granted: counter(&registry, "etcd_debugging_lease_granted_total", "Leases granted."),
            leases_revoked: counter(&registry, "etcd_debugging_lease_revoked_total", "Leases ended by their clients."),
            leases_renewed: counter(&registry, "etcd_debugging_lease_renewed_total", "Leases kept alive."),
            leases_expired: counter(&registry, "etcd_server_lease_expired_total", "Leases that expired."),
            corruption_checks: counter(&registry, "kv_corruption_checks_total", "Comparisons of all members' hashes."),
            corruptions: counter(&registry, "kv_corruptions_found_total", "Members that were found to differ."),
            peers: PeerMetrics::new(&registry),
            gauges: Gauges::new(&registry),
            registry,
        };
        metrics.constant("etcd_server_version", "server_version", names.server_version);
        // etcd names the cluster's version without its patch level.
        let minor = names.cluster_version.rsplit_once('.').map_or(names.cluster_version, |(minor, _)| minor);
        metrics.constant("etcd_cluster_version", "cluster_version", minor);
        metrics.constant("etcd_server_id", "server_id", &format!("{:x}", names.member_id));
        metrics
    }

    fn constant(&self, name: &str, label: &str, value: &str) {
        let gauge = IntGaugeVec::new(Opts::new(name, "Always 1; the label says it."), &[label]).expect(UNIQUE);
        gauge.with_label_values(&[value]).set(1);
        self.registry.register(Box::new(gauge)).expect(UNIQUE);
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn render(&self, core: &Core) -> Vec<u8> {
        self.gauges.set(core);
        let mut out = Vec::new();
        let families = self.registry.gather();
        TextEncoder::new().encode(&families, &mut out).expect("a Vec takes any bytes");
        out
    }
}

const UNIQUE: &str = "names are distinct and valid";

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(name, help).expect(UNIQUE);
    registry.register(Box::new(counter.clone())).expect(UNIQUE);
    counter
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(Opts::new(name, help), labels).expect(UNIQUE);
    registry.register(Box::new(counters.clone())).expect(UNIQUE);
    counters
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let gauge = IntGauge::new(name, help).expect(UNIQUE);
    registry.register(Box::new(gauge.clone())).expect(UNIQUE);
    gauge
}

impl Gauges {
    fn new(registry: &Registry) -> Self {
        let gauge = |name, help| gauge(registry, name, help);
        Self {
            has_leader: gauge("etcd_server_has_leader", "Whether a leader exists: 1 or 0."),
            is_leader: gauge("etcd_server_is_leader", "Whether this member leads: 1 or 0."),
            is_learner: gauge("etcd_server_is_learner", "Whether this member is a learner: 1 or 0."),
            leader_changes: gauge("etcd_server_leader_changes_seen_total", "Leader changes seen."),
            proposals_pending: gauge("etcd_server_proposals_pending", "Proposals waiting for their result."),
            proposals_committed: gauge("etcd_server_proposals_committed_total", "The last committed log index."),
            proposals_applied: gauge("etcd_server_proposals_applied_total", "The last applied log index."),
            quota_bytes: gauge("etcd_server_quota_backend_bytes", "Bytes the store may take."),
            db_total_bytes: gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of all kept revisions."),
            db_in_use_bytes: gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of live keys."),
            current_revision: gauge("etcd_debugging_mvcc_current_revision", "The current revision."),
            compact_revision: gauge("etcd_debugging_mvcc_compact_revision", "The revision compacted last."),
            keys: gauge("etcd_debugging_mvcc_keys_total", "Live keys."),
            wal_syncs: gauge("kv_log_syncs_total", "Writes of the log, each synced."),
            wal_sync_micros: gauge("kv_log_sync_microseconds_total", "Microseconds spent in them."),
            entries: gauge("kv_log_entries_total", "Entries with commands that this member proposed."),
            commands: gauge("kv_log_commands_total", "Commands in them."),
            snapshots: gauge("kv_snapshots_total", "Snapshots written."),
            answer_steps: gauge("kv_answer_steps_total", "Steps in which large answers were made."),
            answers_in_steps: gauge("kv_answers_in_steps", "Large answers that are being made while they are sent."),
            watch_streams: gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watches."),
            watchers: gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
            slow_watchers: gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers of streams that fell behind."),
            pending_events: gauge("etcd_debugging_mvcc_pending_events_total", "Changes that wait for their streams."),
            events: gauge("etcd_debugging_mvcc_events_total", "Changes handed to streams."),
        }
    }

    fn set(&self, core: &Core) {
        let view = core.views.load_full();
        let raft = core.driver.status().numbers();
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.has_leader, u64::from(raft.leader != 0));
        set(&self.is_leader, u64::from(raft.leader == core.member_id));
        let me = view.members().get(core.member_id);
        set(&self.is_learner, u64::from(me.is_some_and(|member| member.is_learner)));
        set(&self.leader_changes, raft.leader_changes);
        set(&self.proposals_pending, core.waiters.pending_writes() as u64);
        set(&self.proposals_committed, raft.committed);
        set(&self.proposals_applied, raft.applied);
        set(&self.quota_bytes, core.limits.quota_bytes.unwrap_or(0));
        set(&self.db_total_bytes, taken_bytes(&view));
        set(&self.db_in_use_bytes, in_use_bytes(&view));
        self.current_revision.set(view.revision());
        self.compact_revision.set(view.compact_revision());
        set(&self.keys, view.live_keys());
        set(&self.wal_syncs, raft.fsyncs);
        set(&self.wal_sync_micros, raft.fsync_micros);
        set(&self.entries, raft.entries);
        set(&self.commands, raft.commands);
        set(&self.snapshots, raft.snapshots);
        set(&self.answer_steps, core.steps.made());
        set(&self.answers_in_steps, core.steps.answers() as u64);
        let watches = core.watches.counts();
        set(&self.watch_streams, watches.streams as u64);
        set(&self.watchers, watches.watchers as u64);
        set(&self.slow_watchers, watches.slow_watchers as u64);
        set(&self.pending_events, watches.pending_events as u64);
        set(&self.events, watches.events);
    }
}
