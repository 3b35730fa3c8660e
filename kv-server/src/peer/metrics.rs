//! Metrics of the network between members, under etcd's names.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// Counters of all members, by their ids.
#[derive(Debug, Clone)]
pub(crate) struct PeerMetrics {
    sent_bytes: IntCounterVec,
    received_bytes: IntCounterVec,
    sent_failures: IntCounterVec,
    pub(super) received_failures: IntCounterVec,
    round_trip: HistogramVec,
    pub(super) active: IntGaugeVec,
    pub(super) known: IntGauge,
}

/// Those of one member.
#[derive(Debug)]
pub(super) struct OfPeer {
    pub(super) sent_bytes: IntCounter,
    pub(super) received_bytes: IntCounter,
    pub(super) sent_failures: IntCounter,
    pub(super) round_trip: Histogram,
}

impl PeerMetrics {
    /// Registers them.
    ///
    /// # Panics
    /// When a name is taken.
    pub(crate) fn new(registry: &Registry) -> Self {
        const UNIQUE: &str = "names are distinct and valid";
        let counter = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label]).expect(UNIQUE);
            registry.register(Box::new(counter.clone())).expect(UNIQUE);
            counter
        };
        // etcd's buckets: from 0.1 ms, doubling, to 3.3 s.
        let buckets = exponential_buckets(0.0001, 2.0, 16).expect(UNIQUE);
        let round_trip = HistogramOpts::new("etcd_network_peer_round_trip_time_seconds", "Round-trip times of pings.");
        let round_trip = HistogramVec::new(round_trip.buckets(buckets), &["To"]).expect(UNIQUE);
        registry.register(Box::new(round_trip.clone())).expect(UNIQUE);
        let active = Opts::new("etcd_network_active_peers", "Whether a member is connected: 1 or 0.");
        let active = IntGaugeVec::new(active, &["Local", "Remote"]).expect(UNIQUE);
        registry.register(Box::new(active.clone())).expect(UNIQUE);
        let known = IntGauge::new("etcd_network_known_peers", "Other members.").expect(UNIQUE);
        registry.register(Box::new(known.clone())).expect(UNIQUE);
        Self {
            sent_bytes: counter("etcd_network_peer_sent_bytes_total", "Bytes sent to members.", "To"),
            received_bytes: counter("etcd_network_peer_received_bytes_total", "Bytes received from members.", "From"),
            sent_failures: counter("etcd_network_peer_sent_failures_total", "Messages that were not sent.", "To"),
            received_failures: counter(
                "etcd_network_peer_received_failures_total",
                "Connections closed for what a member said.",
                "From",
            ),
            round_trip,
            active,
            known,
        }
    }

    /// The metrics of one member.
    pub(super) fn peer(&self, id: u64) -> OfPeer {
        let label = format!("{id:x}");
        let label = &[label.as_str()];
        OfPeer {
            sent_bytes: self.sent_bytes.with_label_values(label),
            received_bytes: self.received_bytes.with_label_values(label),
            sent_failures: self.sent_failures.with_label_values(label),
            round_trip: self.round_trip.with_label_values(label),
        }
    }
}
