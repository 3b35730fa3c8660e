//! Figures: of one round, and of the rounds together.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::load::Outcome;
use crate::figures::Figure;
use crate::process::Counters;

/// What one round of one server measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) operations_per_second: f64,
    /// p50, p99, p99.9 in microseconds; nothing where there were no gets.
    pub(super) get_us: Option<[f64; 3]>,
    /// The same of the puts.
    pub(super) put_us: Option<[f64; 3]>,
    /// The server's CPU time per operation.
    pub(super) cpu_us: f64,
    /// The server's peak of resident memory.
    pub(super) rss_mib: f64,
    /// Bytes of the page cache made dirty for each byte of key and value that was acknowledged; nothing without puts.
    pub(super) dirtied_ratio: Option<f64>,
    /// Operations of the schedule that were never started.
    pub(super) unsent: u64,
}

/// The rounds of one server under one workload.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    pub(super) operations_per_second: Figure,
    pub(super) get_us: Option<[Figure; 3]>,
    pub(super) put_us: Option<[Figure; 3]>,
    pub(super) cpu_us: Figure,
    pub(super) rss_mib: Figure,
    pub(super) unsent: u64,
}

impl Sample {
    /// The figures of a round from what the clients saw and what the kernel counted `before` and `after` it.
    pub(super) fn new(outcome: &Outcome, put_bytes: usize, before: Counters, after: Counters) -> Self {
        let operations = outcome.operations() as f64;
        let cpu: Duration = after.cpu.saturating_sub(before.cpu);
        let acknowledged = outcome.latencies.puts.len() as f64 * put_bytes as f64;
        let written = after.dirtied_bytes.saturating_sub(before.dirtied_bytes) as f64;
        Self {
            operations_per_second: operations / outcome.elapsed.as_secs_f64(),
            get_us: percentiles(&outcome.latencies.gets),
            put_us: percentiles(&outcome.latencies.puts),
            cpu_us: cpu.as_secs_f64() * 1e6 / operations,
            rss_mib: after.rss_bytes_peak as f64 / (1024.0 * 1024.0),
            dirtied_ratio: (acknowledged > 0.0).then(|| written / acknowledged),
            unsent: outcome.unsent,
        }
    }

    /// The figures of a round of another program, which tells no latencies.
    pub(super) fn of_others(operations_per_second: f64, operations: u64, before: Counters, after: Counters) -> Self {
        Self {
            operations_per_second,
            get_us: None,
            put_us: None,
            cpu_us: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / operations as f64,
            rss_mib: after.rss_bytes_peak as f64 / (1024.0 * 1024.0),
            dirtied_ratio: None,
            unsent: 0,
        }
    }
}

impl Summary {
    /// The figures of all rounds; nothing of no rounds.
    pub(super) fn of(rounds: &[Sample]) -> Option<Self> {
        let three = |of: fn(&Sample) -> Option<[f64; 3]>| {
            let rounds: Vec<[f64; 3]> = rounds.iter().filter_map(of).collect();
            let figure = |index: usize| Figure::of(rounds.iter().map(|round| round[index]));
            Some([figure(0)?, figure(1)?, figure(2)?])
        };
        Some(Self {
            operations_per_second: Figure::of(rounds.iter().map(|round| round.operations_per_second))?,
            get_us: three(|round| round.get_us),
            put_us: three(|round| round.put_us),
            cpu_us: Figure::of(rounds.iter().map(|round| round.cpu_us))?,
            rss_mib: Figure::of(rounds.iter().map(|round| round.rss_mib))?,
            unsent: rounds.iter().map(|round| round.unsent).sum(),
        })
    }
}

/// p50, p99 and p99.9 in microseconds.
pub(super) fn percentiles(ns: &Histogram<u64>) -> Option<[f64; 3]> {
    (!ns.is_empty()).then(|| [50.0, 99.0, 99.9].map(|percent| ns.value_at_percentile(percent) as f64 / 1000.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::super::load::Latencies;
    use super::*;

    pub(in super::super) fn sample(operations_per_second: f64) -> Sample {
        Sample {
            operations_per_second,
            get_us: None,
            put_us: Some([260.0, 1_000.0, 25_000.0]),
            cpu_us: 10.0,
            rss_mib: 12.0,
            dirtied_ratio: Some(3.0),
            unsent: 0,
        }
    }

    #[test]
    fn a_round_is_its_difference() {
        let mut ns = Histogram::new(3).unwrap();
        for us in 1..=1000_u64 {
            ns.record(us * 1000).unwrap();
        }
        let latencies = Latencies { gets: Histogram::new(3).unwrap(), puts: ns };
        let outcome = Outcome { latencies, elapsed: Duration::from_secs(2), unsent: 4 };
        let before = Counters { cpu: Duration::from_millis(500), rss_bytes_peak: 1 << 20, dirtied_bytes: 7_000 };
        let after = Counters { cpu: Duration::from_millis(520), rss_bytes_peak: 3 << 20, dirtied_bytes: 307_000 };
        let sample = Sample::new(&outcome, 100, before, after);
        assert_eq!((sample.operations_per_second, sample.unsent), (500.0, 4));
        assert!((sample.cpu_us - 20.0).abs() < 1e-9, "{sample:?}");
        assert_eq!((sample.rss_mib, sample.dirtied_ratio), (3.0, Some(3.0)));
        assert_eq!(sample.get_us, None);
        let [p50, p99, p999] = sample.put_us.unwrap();
        // Three digits of each.
        assert!((499.0..=501.0).contains(&p50) && (989.0..=991.0).contains(&p99), "{p50} {p99}");
        assert!((997.0..=1001.0).contains(&p999), "{p999}");
    }

    #[test]
    fn rounds_are_summed_up() {
        let rounds = [sample(10.0), Sample { unsent: 3, ..sample(30.0) }, sample(20.0)];
        let summary = Summary::of(&rounds).unwrap();
        assert_eq!(summary.operations_per_second, Figure { median: 20.0, lowest: 10.0, highest: 30.0 });
        assert_eq!(summary.put_us.unwrap()[2].median, 25_000.0);
        assert_eq!((summary.get_us, summary.unsent), (None, 3));
        assert_eq!(Summary::of(&[]), None);
    }
}
