//! The report: tables in Markdown, speeds as a chart, and every round in JSON.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::options::Workload;
use super::stats::{Sample, Summary};
use crate::figures::{Figure, nothing, number, ratio, spread, table};
use crate::lab::chart;

/// A server, as the report shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) name: String,
    /// A sentence about it.
    pub(super) about: String,
}

/// All rounds of all servers under all workloads.
#[derive(Debug, Clone)]
pub(super) struct Results {
    /// Ours first.
    pub(super) servers: Vec<Server>,
    pub(super) cpu_model: String,
    pub(super) cores: usize,
    pub(super) seed: u64,
    /// With each workload, for each server, its rounds.
    pub(super) runs: Vec<(Workload, Vec<Vec<Sample>>)>,
}

const FIGURES: [&str; 7] = [
    "workload",
    "server",
    "operations/s",
    "get p50 / p99 / p99.9, ms",
    "put p50 / p99 / p99.9, ms",
    "CPU/op, us",
    "peak RSS, MiB",
];
const RATIOS: [&str; 7] = ["workload", "against", "operations/s", "get p50", "put p50", "CPU/op", "peak RSS"];

impl Results {
    /// The tables, with what a reader must know to judge them.
    pub(super) fn markdown(&self) -> String {
        let mut text = table(&FIGURES, &self.figures());
        if self.servers.len() > 1 {
            let ours = &self.servers[0].name;
            let _ = write!(text, "\n{ours} as a multiple of:\n\n{}", table(&RATIOS, &self.ratios()));
        }
        text.push('\n');
        for (workload, _) in &self.runs {
            let _ = writeln!(text, "* {}: {}.", workload.name, workload.description());
        }
        for Server { name, about } in &self.servers {
            let _ = writeln!(text, "* {name}: {about}.");
        }
        let _ = writeln!(text, "* {}", self.conditions());
        text.push_str(&self.warnings());
        text
    }

    fn conditions(&self) -> String {
        let rounds = self.runs.first().and_then(|(_, servers)| Some(servers.first()?.len())).unwrap_or_default();
        let secs = self.runs.first().map_or(0, |(workload, _)| workload.secs);
        format!(
            "Medians of {rounds} round(s) of {secs} s, the servers in turn, each on a fresh directory; in brackets the \
             lowest and the highest round. One machine, {} core(s) of {}, shared by the server and the tonic client.",
            self.cores, self.cpu_model
        )
    }

    /// Rounds in which a server could not keep to the schedule.
    fn warnings(&self) -> String {
        let mut text = String::new();
        for (workload, server, summary) in self.summaries() {
            if summary.unsent > 0 {
                let _ = writeln!(
                    text,
                    "* {}, {}: too slow for the schedule: {} operation(s) were never started, and are in no latency.",
                    workload.name, server.name, summary.unsent
                );
            }
        }
        text
    }

    fn summaries(&self) -> impl Iterator<Item = (&Workload, &Server, Summary)> {
        self.runs.iter().flat_map(move |(workload, servers)| {
            let named = self.servers.iter().zip(servers);
            named.filter_map(move |(server, rounds)| Some((workload, server, Summary::of(rounds)?)))
        })
    }

    /// Operations a second, a bar for each server, under one another for each workload.
    ///
    /// # Errors
    /// What the drawing crate says.
    pub(super) fn svg(&self) -> Result<String> {
        let mut groups: Vec<(String, Vec<_>)> = Vec::new();
        for (workload, server, summary) in self.summaries() {
            let Figure { median, lowest, highest } = summary.operations_per_second;
            if groups.last().is_none_or(|(name, _)| *name != workload.name) {
                groups.push((workload.name.clone(), Vec::new()));
            }
            groups.last_mut().expect("one was pushed").1.push((server.name.clone(), median, lowest, highest));
        }
        let ours = self.servers.first().map_or("", |server| server.name.as_str());
        chart::groups(ours, "operations/s", &groups)
    }

    fn figures(&self) -> Vec<Vec<String>> {
        let row = |(workload, server, summary): (&Workload, &Server, Summary)| {
            vec![
                workload.name.clone(),
                server.name.clone(),
                spread(summary.operations_per_second),
                latencies(summary.get_us),
                latencies(summary.put_us),
                number(summary.cpu_us.median),
                number(summary.rss_mib.median),
            ]
        };
        self.summaries().map(row).collect()
    }

    fn ratios(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for (workload, servers) in &self.runs {
            let summaries: Vec<Option<Summary>> = servers.iter().map(|rounds| Summary::of(rounds)).collect();
            let Some(Some(ours)) = summaries.first() else { continue };
            for (server, rival) in self.servers.iter().zip(&summaries).skip(1) {
                let Some(rival) = rival else { continue };
                let p50 = |of: Option<[Figure; 3]>| of.map(|three| three[0]);
                rows.push(vec![
                    workload.name.clone(),
                    server.name.clone(),
                    ratio(Some(ours.operations_per_second), Some(rival.operations_per_second)),
                    ratio(p50(ours.get_us), p50(rival.get_us)),
                    ratio(p50(ours.put_us), p50(rival.put_us)),
                    ratio(Some(ours.cpu_us), Some(rival.cpu_us)),
                    ratio(Some(ours.rss_mib), Some(rival.rss_mib)),
                ]);
            }
        }
        rows
    }

    /// Everything, for programs: each round and the conditions.
    pub(super) fn json(&self) -> Value {
        let servers: Vec<Value> =
            self.servers.iter().map(|server| json!({ "name": server.name, "about": server.about })).collect();
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|(workload, servers)| {
                let results: Vec<Value> = self
                    .servers
                    .iter()
                    .zip(servers)
                    .map(|(server, rounds)| {
                        let rounds: Vec<Value> = rounds.iter().map(sample_json).collect();
                        json!({ "server": server.name, "rounds": rounds })
                    })
                    .collect();
                json!({ "workload": workload_json(workload), "results": results })
            })
            .collect();
        json!({
            "cpu": self.cpu_model, "cores": self.cores, "seed": self.seed, "servers": servers, "runs": runs,
        })
    }
}

fn workload_json(workload: &Workload) -> Value {
    let Workload { name, clients, connections, get_percent, range_keys, guarded, keys, value_bytes, rate, secs } =
        workload;
    json!({
        "name": name, "clients": clients, "connections": connections, "get_percent": get_percent,
        "range_keys": range_keys, "guarded": guarded, "keys": keys, "value_bytes": value_bytes, "rate": rate, "secs": secs,
    })
}

fn sample_json(sample: &Sample) -> Value {
    let Sample { operations_per_second, get_us, put_us, cpu_us, rss_mib, dirtied_ratio, unsent } = sample;
    let latency = |us: &Option<[f64; 3]>| us.map(|[p50, p99, p999]| json!({ "p50": p50, "p99": p99, "p99.9": p999 }));
    json!({
        "operations_per_second": operations_per_second, "get_us": latency(get_us), "put_us": latency(put_us),
        "cpu_us_per_operation": cpu_us, "rss_mib_peak": rss_mib, "dirtied_bytes_per_byte": dirtied_ratio,
        "unsent": unsent,
    })
}

fn latencies(us: Option<[Figure; 3]>) -> String {
    let ms = |figure: Figure| number(figure.median / 1000.0);
    us.map_or_else(nothing, |[p50, p99, p999]| format!("{} / {} / {}", ms(p50), ms(p99), ms(p999)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::stats::tests::sample;
    use super::*;

    fn results() -> Results {
        let server = |name: &str| Server { name: name.into(), about: format!("it is {name}") };
        let workload = Workload {
            name: "single".into(),
            clients: 1,
            connections: 1,
            get_percent: 0,
            range_keys: 1,
            guarded: false,
            keys: 10,
            value_bytes: 256,
            rate: None,
            secs: 3,
        };
        let ours = vec![sample(12_345.0), sample(3_000.0), sample(20_000.0)];
        let rival = vec![Sample { cpu_us: 20.0, ..sample(6_172.5) }];
        Results {
            servers: vec![server("kv"), server("etcd")],
            cpu_model: "a CPU".into(),
            cores: 2,
            seed: 5,
            runs: vec![(workload, vec![ours, rival])],
        }
    }

    #[test]
    fn the_report_shows_medians_and_ratios() {
        let text = results().markdown();
        let has = |cells: &[&str]| {
            let row =
                |line: &str| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).eq(cells.iter().copied());
            assert!(text.lines().any(row), "{cells:?} is not in\n{text}");
        };
        has(&["single", "kv", "12,345 (3,000-20,000)", "-", "0.26 / 1.00 / 25.0", "10.0", "12.0"]);
        has(&["single", "etcd", "2.00 x", "-", "1.00 x", "0.50 x", "1.00 x"]);
        assert!(text.contains("* etcd: it is etcd.") && text.contains("2 core(s) of a CPU"), "{text}");
        assert!(!text.contains("too slow"), "{text}");
    }

    #[test]
    fn alone_there_is_nothing_to_compare() {
        let mut results = results();
        results.servers.truncate(1);
        results.runs[0].1.truncate(1);
        assert!(!results.markdown().contains("multiple"), "{}", results.markdown());
    }

    #[test]
    fn a_schedule_not_kept_is_said() {
        let mut results = results();
        results.runs[0].1[1][0].unsent = 17;
        assert!(results.markdown().contains("single, etcd: too slow for the schedule: 17 operation(s)"));
    }

    #[test]
    fn the_chart_has_a_bar_for_each_server() {
        let drawn = results().svg().unwrap();
        for part in [">single</text>", "kv\n", "etcd\n", "12.3k", "6,172"] {
            assert!(drawn.contains(part), "{part:?} is not in\n{drawn}");
        }
    }

    #[test]
    fn json_has_every_round() {
        let json = results().json();
        assert_eq!(json["runs"][0]["results"][0]["rounds"].as_array().unwrap().len(), 3);
        assert_eq!(json["runs"][0]["results"][1]["rounds"][0]["put_us"]["p99.9"], 25_000.0);
        assert_eq!(json["runs"][0]["results"][1]["rounds"][0]["get_us"], Value::Null);
        assert_eq!(json["runs"][0]["workload"]["rate"], Value::Null);
        assert_eq!((json["seed"].as_u64(), json["servers"][1]["name"].as_str()), (Some(5), Some("etcd")));
    }
}
