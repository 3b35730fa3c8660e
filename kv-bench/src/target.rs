//! The servers that are compared: what each is, and one run of it on a fresh directory.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kv_server::proto::etcdserverpb::RangeRequest;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::process::Counters;

/// How long an empty server may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two questions whether it is ready.
const POLL_EVERY: Duration = Duration::from_millis(10);
/// How long one question may take while it gets ready.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);
/// Below the ports that systems give to outgoing connections: a client that knocks there before its server is up can end up
/// connected to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Starts with other ports when someone took ours between asking and binding.
pub(crate) const PORT_TRIES: usize = 5;
/// When a line of etcd's releases began: a rival's age belongs beside its figures.
const ETCD_YEARS: [(&str, u16); 4] = [("3.3.", 2018), ("3.4.", 2019), ("3.5.", 2021), ("3.6.", 2025)];

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Kv,
    Etcd,
    /// A map behind tonic: [`crate::wire::control()`].
    Control,
}

/// A server that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    /// Its name in tables.
    pub(crate) name: String,
    /// A sentence about it for the report.
    pub(crate) about: String,
    binary: PathBuf,
}

/// A server that runs. Dropping it kills the process and waits for its end.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    endpoint: Endpoint,
    place: Place,
}

/// Where a server keeps its data, and listens.
#[derive(Debug, Clone)]
struct Place {
    home: PathBuf,
    client: u16,
    peer: u16,
}

impl Target {
    /// Asks the program what it is.
    ///
    /// # Errors
    /// When there is no such program, or it is something else.
    pub(crate) fn new(kind: Kind, path: &Path) -> Result<Self> {
        let binary = binary(path)?;
        let (name, about) = match kind {
            Kind::Control => {
                let about = "a map under a mutex behind tonic: no log, no revisions, no disk";
                ("control".to_owned(), about.to_owned())
            }
            Kind::Kv | Kind::Etcd => {
                let output = Command::new(&binary).arg("--version").stdin(Stdio::null()).output();
                let output = output.with_context(|| format!("starting {}", binary.display()))?;
                let text = String::from_utf8_lossy(&output.stdout);
                let named = if kind == Kind::Kv { kv_name(&text) } else { etcd_name(&text) };
                named.with_context(|| format!("{} --version does not answer as {kind:?} does", binary.display()))?
            }
        };
        Ok(Self { kind, name, about, binary })
    }

    /// Ours or etcd, whichever the program says that it is.
    ///
    /// # Errors
    /// When there is no such program, or it is neither.
    pub(crate) fn any(path: &Path) -> Result<Self> {
        let neither = || format!("{} --version answers neither as kv-server nor as etcd does", path.display());
        // A program that is not there is said to be that, not to be neither.
        binary(path)?;
        Self::new(Kind::Kv, path).or_else(|_| Self::new(Kind::Etcd, path)).with_context(neither)
    }

    /// The program, to be given its flags, with no settings from the environment that were meant for another server.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command
    }

    /// Starts it with its data in `directory`, which must be empty, and waits for a linearizable answer. `extra` are flags beside its
    /// defaults.
    ///
    /// # Errors
    /// When it ends, or does not answer in time; with the end of its log.
    pub(crate) async fn start(&self, directory: &Path, extra: &[String]) -> Result<Running> {
        for attempt in 0..PORT_TRIES {
            // A directory for each start, as fresh as the ports.
            let home = directory.join(format!("start-{attempt}"));
            std::fs::create_dir(&home).with_context(|| format!("making {}", home.display()))?;
            let place = Place { home, client: free_port()?, peer: free_port()? };
            if let Some(running) = self.run(place, extra).await? {
                return Ok(running);
            }
        }
        bail!("{}: its ports were in use {PORT_TRIES} times in a row", self.name)
    }

    /// Kills it and starts it again where it was, perhaps with other flags. How long that took, from its start to its first
    /// linearizable answer.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub(crate) async fn restart(&self, running: Running, extra: &[String]) -> Result<(Running, Duration)> {
        let place = running.place.clone();
        drop(running);
        let started = Instant::now();
        let running = self.run(place, extra).await?.with_context(|| format!("{}: its port was taken", self.name))?;
        Ok((running, started.elapsed()))
    }

    /// Nothing when a port was in use.
    async fn run(&self, place: Place, extra: &[String]) -> Result<Option<Running>> {
        let log_path = place.home.join("log");
        let log = std::fs::File::create(&log_path).with_context(|| format!("making {}", log_path.display()))?;
        let mut command = self.command();
        command.args(self.arguments(&place)).args(extra);
        command.stdin(Stdio::null()).stdout(log.try_clone().context("sharing the log file")?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", self.binary.display()))?;
        let address = format!("http://127.0.0.1:{}", place.client);
        let endpoint = Endpoint::from_shared(address).context("the server's address")?;
        let endpoint = endpoint.tcp_nodelay(true).connect_timeout(QUESTION_WITHIN);
        let mut running = Running { child, endpoint, place };

        let started = Instant::now();
        loop {
            if tokio::time::timeout(QUESTION_WITHIN, running.answers()).await.unwrap_or(false) {
                return Ok(Some(running));
            }
            let ended = running.child.try_wait().context("asking after the server's process")?;
            if ended.is_none() && started.elapsed() < READY_WITHIN {
                tokio::time::sleep(POLL_EVERY).await;
                continue;
            }
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            // Go's and Rust's words for it.
            if log.contains("ddress already in use") {
                return Ok(None);
            }
            let end = log.lines().last().unwrap_or("nothing in its log");
            let what = ended.map_or_else(|| format!("no answer in {READY_WITHIN:?}"), |status| status.to_string());
            bail!("{} did not start: {what}: {end}", self.name)
        }
    }

    /// Each server's own defaults, but for addresses and the directory: nothing about syncing.
    fn arguments(&self, place: &Place) -> Vec<String> {
        let Place { home, client, peer } = place;
        if self.kind == Kind::Control {
            return vec!["control".into(), "--listen".into(), format!("127.0.0.1:{client}")];
        }
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let flags = [
            ("--data-dir", home.join("data").display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", format!("default={peer}")),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }
}

impl Running {
    /// Connections of its own, one by one.
    pub(crate) async fn connect(&self, connections: u32) -> Result<Vec<Channel>> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(self.endpoint.connect().await.context("connecting to the server")?);
        }
        Ok(channels)
    }

    /// What the kernel counted of it up to now.
    pub(crate) fn counters(&self) -> Result<Counters> {
        Counters::of(self.child.id())
    }

    /// Its address, for clients that are told one.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.place.client).into()
    }

    /// Where it is reached.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Its metrics, as text.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn metrics(&self) -> Result<String> {
        metrics(self.place.client).await
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn answers(&self) -> bool {
        let Ok(channel) = self.endpoint.connect().await else { return false };
        let request = RangeRequest { key: "ready".into(), ..RangeRequest::default() };
        KvClient::new(channel).range(request).await.is_ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself. Its directory is removed next: until the process is gone it could still add files.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn kv_name(version: &str) -> Option<(String, String)> {
    let version = line_after(version, "kv-server Version:")?;
    Some((format!("kv {version}"), "this server: fsync before each answer".into()))
}

fn etcd_name(version: &str) -> Option<(String, String)> {
    // Ours answers as etcd does, with one line more.
    if version.contains("kv-server") {
        return None;
    }
    let number = line_after(version, "etcd Version:")?;
    let year = ETCD_YEARS.iter().find(|(line, _)| number.starts_with(line));
    let line = year.map_or(String::new(), |(line, year)| format!("release line {line}x began in {year}, "));
    let go = line_after(version, "Go Version:").unwrap_or("an unknown Go");
    Some((format!("etcd {number}"), format!("{line}built with {go}, its own defaults")))
}

fn line_after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).filter(|rest| !rest.is_empty())
}

/// The programs of `--rival etcd=PATH` flags, in order.
///
/// # Errors
/// A rival of an unknown kind, or one that is no file.
pub(crate) fn rivals(flags: &[String]) -> Result<Vec<PathBuf>> {
    flags.iter().map(|rival| rival_path(rival)).collect()
}

fn rival_path(rival: &str) -> Result<PathBuf> {
    let (kind, path) = rival.split_once('=').unwrap_or((rival, ""));
    ensure!(kind == "etcd", "unknown rival {kind:?}: give etcd=PATH");
    ensure!(!path.is_empty(), "--rival etcd needs a path: etcd=PATH");
    binary(Path::new(path))
}

/// The full path of a program, so that a later change of directory does not matter.
///
/// # Errors
/// When there is no such file.
pub(crate) fn binary(path: &Path) -> Result<PathBuf> {
    let full = path.canonicalize().with_context(|| format!("no program at {}", path.display()))?;
    ensure!(full.is_file(), "{} is no program", path.display());
    Ok(full)
}

/// The metrics of the server on a port, as text.
pub(crate) async fn metrics(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("connecting")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.context("asking for the metrics")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.context("reading the metrics")?;
    Ok(answer)
}

/// A port that is free at this moment.
pub(crate) fn free_port() -> Result<u16> {
    // From the system's randomness: two runs with one seed may run side by side.
    let mut random = fastrand::Rng::new();
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = (0..100).map(|_| random.u16(PORTS)).find(free);
    port.context("100 ports tried on 127.0.0.1, all of them in use")
}

/// Two programs of one version need names that differ.
pub(crate) fn tell_apart(targets: &mut [Target]) -> Result<()> {
    for index in 1..targets.len() {
        let (before, rest) = targets.split_at_mut(index);
        let Target { name, binary, .. } = &mut rest[0];
        ensure!(
            before.iter().all(|other| other.binary != *binary || other.kind == Kind::Control),
            "{} is given twice",
            binary.display()
        );
        let same = before.iter().filter(|other| other.name == *name || other.name.starts_with(&format!("{name} #")));
        let same = same.count();
        if same > 0 {
            *name = format!("{name} #{}", same + 1);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ETCD: &str = "etcd Version: 3.5.1\nGit SHA: e8732fb5f\nGo Version: go1.16.3\nGo OS/Arch: linux/amd64\n";
    const KV: &str = "etcd Version: 3.7.0\nGit SHA: x\nGo Version: none (Rust)\nkv-server Version: 0.1.0\n";

    #[test]
    fn programs_are_known_by_their_version() {
        let (name, about) = etcd_name(ETCD).unwrap();
        assert_eq!(name, "etcd 3.5.1");
        assert!(about.contains("began in 2021") && about.contains("go1.16.3"), "{about}");
        assert_eq!(kv_name(KV).unwrap().0, "kv 0.1.0");
        assert_eq!(etcd_name(KV), None, "ours is no rival of itself under another name");
        assert_eq!(kv_name(ETCD), None);
        assert_eq!(etcd_name("sh 5.1"), None);
        assert!(!etcd_name("etcd Version: 9.9.9\n").unwrap().1.contains("began"), "an age unknown is not made up");
    }

    #[test]
    fn equal_names_are_told_apart() {
        let target = |name: &str, binary: &str| Target {
            kind: Kind::Etcd,
            name: name.into(),
            about: String::new(),
            binary: binary.into(),
        };
        let mut targets = [target("a", "1"), target("b", "2"), target("a", "3"), target("a", "4")];
        tell_apart(&mut targets).unwrap();
        assert_eq!(targets.map(|target| target.name), ["a", "b", "a #2", "a #3"]);
        let error = tell_apart(&mut [target("a", "1"), target("a", "1")]).unwrap_err();
        assert!(error.to_string().contains("given twice"), "{error}");
    }
}
