//! The command line, and what it asks for: workloads and rivals.

use anyhow::{Result, bail, ensure};

use crate::race::Race;

/// Clients at once: each is a task with one request in flight.
const CLIENTS_MAX: u32 = 10_000;
/// Below every usual limit of open files.
const CONNECTIONS_MAX: u32 = 500;
/// Keys stored before a run. They are written anew for each server and round.
const KEYS_MAX: u32 = 1_000_000;
/// All of them together, without their history: servers refuse writes beyond 2 GiB unless told otherwise.
const STORED_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// etcd refuses requests above 1.5 MiB.
const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// One round of one server.
const SECS_MAX: u32 = 600;
/// Rounds of each workload.
const ROUNDS_MAX: u32 = 100;
/// A pace that no client on this wire reaches.
const RATE_MAX: u32 = 10_000_000;

/// What to run. What is left out comes from the presets.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which servers run, and where the report goes.
    #[command(flatten)]
    pub race: Race,
    /// mixed, reads, writes, single, many, ranges or guarded; several with commas. Without it: mixed, reads, writes, single.
    #[arg(long, value_delimiter = ',')]
    pub preset: Vec<String>,
    /// Clients, each with one request in flight.
    #[arg(long)]
    pub clients: Option<u32>,
    /// Connections that the clients share.
    #[arg(long)]
    pub connections: Option<u32>,
    /// Gets in 100 operations; the others are puts.
    #[arg(long, value_name = "PCT")]
    pub get: Option<u32>,
    /// Keys, stored before the clock starts.
    #[arg(long)]
    pub keys: Option<u32>,
    /// Bytes of a value.
    #[arg(long, value_name = "BYTES")]
    pub value: Option<usize>,
    /// Operations a second, started on schedule whether or not earlier ones were answered. Without it, a client starts
    /// its next operation when the last one is answered.
    #[arg(long)]
    pub rate: Option<u32>,
    /// Seconds of each round, after a short warm-up.
    #[arg(long, default_value_t = SECS)]
    pub secs: u32,
    /// Rounds of each workload; the servers take turns.
    #[arg(long, default_value_t = ROUNDS)]
    pub rounds: u32,
    /// Loads each server with h2load as well, where it is installed: a client that costs little, for the upper end.
    #[arg(long)]
    pub h2load: bool,
}

/// What the clients do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The preset's name.
    pub name: String,
    /// Tasks, each with one request in flight.
    pub clients: u32,
    /// Connections that they share.
    pub connections: u32,
    /// Gets in 100 operations.
    pub get_percent: u32,
    /// Keys that a get asks for: 1, or that many in a row.
    pub range_keys: u32,
    /// Whether a put is a transaction: if the key is as it was last seen, put, else get.
    pub guarded: bool,
    /// Keys stored before the run.
    pub keys: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Operations a second, or as fast as answers come.
    pub rate: Option<u32>,
    /// Length of a round.
    pub secs: u32,
}

/// What a preset is called, and its load.
struct Preset {
    name: &'static str,
    clients: u32,
    connections: u32,
    get_percent: u32,
    range_keys: u32,
    value_bytes: usize,
    guarded: bool,
}

const fn preset(name: &'static str, clients: u32, connections: u32, get_percent: u32) -> Preset {
    Preset { name, clients, connections, get_percent, range_keys: 1, value_bytes: VALUE_BYTES, guarded: false }
}

const PRESETS: [Preset; 7] = [
    preset("mixed", 30, 30, 80),
    preset("reads", 256, 8, 100),
    preset("writes", 256, 8, 0),
    preset("single", 1, 1, 0),
    preset("many", 256, 8, 80),
    Preset { range_keys: 100, ..preset("ranges", 32, 8, 100) },
    // As Kubernetes writes its objects.
    Preset { value_bytes: 400, guarded: true, ..preset("guarded", 256, 8, 0) },
];
/// Those that run unasked.
const USUAL: [&str; 4] = ["mixed", "reads", "writes", "single"];
const SECS: u32 = 3;
const ROUNDS: u32 = 3;
const KEYS: u32 = 10_000;
const VALUE_BYTES: usize = 256;

impl Options {
    /// Nothing asked for but these servers.
    #[must_use]
    pub fn usual(race: Race) -> Self {
        Self {
            race,
            preset: Vec::new(),
            clients: None,
            connections: None,
            get: None,
            keys: None,
            value: None,
            rate: None,
            secs: SECS,
            rounds: ROUNDS,
            h2load: false,
        }
    }

    /// The workloads asked for, in order.
    ///
    /// # Errors
    /// An unknown preset, or a number that makes no sense, with a sentence.
    pub fn workloads(&self) -> Result<Vec<Workload>> {
        ensure!((1..=SECS_MAX).contains(&self.secs), "--secs is from 1 to {SECS_MAX}, not {}", self.secs);
        ensure!((1..=ROUNDS_MAX).contains(&self.rounds), "--rounds is from 1 to {ROUNDS_MAX}, not {}", self.rounds);
        let shaped = self.clients.is_some() || self.connections.is_some() || self.get.is_some() || self.rate.is_some();
        let names: Vec<&str> = match &self.preset[..] {
            [] if shaped => vec!["mixed"],
            [] => USUAL.to_vec(),
            given => given.iter().map(String::as_str).collect(),
        };
        let mut workloads: Vec<Workload> = Vec::new();
        for name in names {
            let workload = self.workload(name)?;
            ensure!(!workloads.contains(&workload), "preset {name} is given twice");
            workloads.push(workload);
        }
        Ok(workloads)
    }

    fn workload(&self, name: &str) -> Result<Workload> {
        let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else {
            let known: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
            bail!("unknown preset {name:?}: there are {}", known.join(", "));
        };
        let clients = self.clients.unwrap_or(preset.clients);
        let workload = Workload {
            name: name.to_owned(),
            clients,
            // Fewer clients than the preset has need no idle connections.
            connections: self.connections.unwrap_or(preset.connections.min(clients)),
            get_percent: self.get.unwrap_or(preset.get_percent),
            range_keys: preset.range_keys,
            guarded: preset.guarded,
            keys: self.keys.unwrap_or(KEYS),
            value_bytes: self.value.unwrap_or(preset.value_bytes),
            rate: self.rate,
            secs: self.secs,
        };
        workload.check()?;
        Ok(workload)
    }
}

impl Workload {
    fn check(&self) -> Result<()> {
        let Self { clients, connections, get_percent, range_keys, keys, value_bytes, .. } = *self;
        ensure!((1..=CLIENTS_MAX).contains(&clients), "--clients is from 1 to {CLIENTS_MAX}, not {clients}");
        ensure!(
            (1..=CONNECTIONS_MAX).contains(&connections),
            "--connections is from 1 to {CONNECTIONS_MAX}, not {connections}"
        );
        ensure!(connections <= clients, "{connections} connections are more than {clients} client(s) can use");
        ensure!(get_percent <= 100, "--get is a percentage, from 0 to 100, not {get_percent}");
        ensure!(
            (range_keys..=KEYS_MAX).contains(&keys),
            "--keys is from {range_keys} to {KEYS_MAX} for {}, not {keys}",
            self.name
        );
        ensure!(
            (1..=VALUE_BYTES_MAX).contains(&value_bytes),
            "--value is from 1 to {VALUE_BYTES_MAX} bytes, not {value_bytes}"
        );
        let fitting = STORED_BYTES_MAX / value_bytes;
        ensure!(
            keys as usize <= fitting,
            "--keys is at most {fitting} with a --value of {value_bytes} bytes, not {keys}: more does not fit into a server"
        );
        if let Some(rate) = self.rate {
            ensure!((1..=RATE_MAX).contains(&rate), "--rate is from 1 to {RATE_MAX} operations a second, not {rate}");
        }
        Ok(())
    }

    /// One line for the report.
    #[must_use]
    pub fn description(&self) -> String {
        let Self { clients, connections, get_percent, range_keys, keys, value_bytes, .. } = self;
        let gets = match (get_percent, range_keys) {
            (0, _) if self.guarded => "puts if the key is as it was last seen, else gets".to_owned(),
            (0, _) => "puts".to_owned(),
            (100, 1) => "gets".to_owned(),
            (100, keys) => format!("ranges of {keys} keys"),
            (percent, 1) => format!("{percent} % gets, {} % puts", 100 - percent),
            (percent, keys) => format!("{percent} % ranges of {keys} keys, {} % puts", 100 - percent),
        };
        let pace = self.rate.map_or(String::new(), |rate| format!(", {rate} a second on schedule"));
        format!(
            "{gets}, {clients} client(s) on {connections} connection(s), {keys} keys, values of {value_bytes} B{pace}"
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::try_parse_from(["wire", "--server", "x"].into_iter().chain(line.split_whitespace())).unwrap().options
    }

    #[track_caller]
    fn refused(line: &str, says: &str) {
        let error = options(line).workloads().unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{line}: {error}");
    }

    fn names(line: &str) -> Vec<String> {
        options(line).workloads().unwrap().into_iter().map(|workload| workload.name).collect()
    }

    #[test]
    fn unasked_the_usual_four_run() {
        assert_eq!(names(""), USUAL);
        assert_eq!(names("--secs 1 --rounds 2 --keys 5"), USUAL);
        assert_eq!(names("--preset writes,ranges --preset many"), ["writes", "ranges", "many"]);
        assert_eq!(names("--clients 4"), ["mixed"], "a shape is one workload");
    }

    #[test]
    fn flags_win_over_the_preset() {
        let line = "--preset reads --clients 12 --connections 3 --get 7 --keys 9 --value 11 --rate 50 --secs 2";
        let expect = Workload {
            name: "reads".into(),
            clients: 12,
            connections: 3,
            get_percent: 7,
            range_keys: 1,
            guarded: false,
            keys: 9,
            value_bytes: 11,
            rate: Some(50),
            secs: 2,
        };
        assert_eq!(options(line).workloads().unwrap(), [expect]);
        let guarded = options("--preset guarded").workloads().unwrap();
        assert_eq!((guarded[0].value_bytes, guarded[0].guarded), (400, true));
        let two = options("--preset writes --clients 2").workloads().unwrap();
        assert_eq!((two[0].clients, two[0].connections), (2, 2), "no idle connections");
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        refused("--clients 0", "--clients is from 1");
        refused("--clients 10001", "--clients is from 1");
        refused("--connections 0", "--connections is from 1");
        refused("--clients 2 --connections 3", "3 connections are more than 2");
        refused("--get 101", "percentage");
        refused("--keys 0", "--keys is from 1");
        refused("--preset ranges --keys 99", "--keys is from 100");
        refused("--value 0", "--value is from 1");
        refused("--keys 5000 --value 1048576", "--keys is at most 1024 with a --value of 1048576");
        refused("--rate 0", "--rate is from 1");
        refused("--secs 0", "--secs is from 1");
        refused("--rounds 0", "--rounds is from 1");
        refused("--preset quick", "unknown preset \"quick\"");
        refused("--preset reads,reads", "given twice");
    }
}
