//! The servers that are compared: what each is, and one run of it on a fresh directory.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
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
/// How long a program may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);
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
    /// What `--server` names: ours or etcd, whichever the program says that it is.
    ///
    /// # Errors
    /// When there is no such program, or it is neither.
    pub(crate) async fn server(path: &Path) -> Result<Self> {
        let cure = "`cargo build --release --package kv-server` makes target/release/kv-server";
        let given = Given { flag: "--server ", path, cure };
        let (binary, version) = given.version().await?;
        let kv = kv_name(&version).map(|named| (Kind::Kv, named));
        let named = kv.or_else(|| Some((Kind::Etcd, etcd_name(&version)?)));
        let (kind, (name, about)) =
            named.with_context(|| given.complaint("answers to --version neither as kv-server nor as etcd does"))?;
        Ok(Self { kind, name, about, binary })
    }

    /// What `--rival` names, as `etcd=PATH`.
    ///
    /// # Errors
    /// When that is of another kind, when there is no such program, or it is something else.
    pub(crate) async fn rival(rival: &str) -> Result<Self> {
        let (kind, path) = rival.split_once('=').unwrap_or((rival, ""));
        ensure!(kind == "etcd", "--rival {rival}: unknown rival {kind:?}; give etcd=PATH");
        ensure!(!path.is_empty(), "--rival {rival} needs a path; give etcd=PATH");
        let given = Given { flag: "--rival etcd=", path: Path::new(path), cure: "give the path of etcd's binary" };
        let (binary, version) = given.version().await?;
        let named = etcd_name(&version);
        let (name, about) = named.with_context(|| given.complaint("answers to --version not as etcd does"))?;
        Ok(Self { kind: Kind::Etcd, name, about, binary })
    }

    /// The control, which is a tool of this program.
    pub(crate) fn control(kv_bench: &Path) -> Self {
        let about = "a map under a mutex behind tonic: no log, no revisions, no disk";
        Self { kind: Kind::Control, name: "control".into(), about: about.into(), binary: kv_bench.to_owned() }
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
        // A group of its own: what a terminal sends to the tool on Ctrl-C is for the tool, which ends it.
        command.process_group(0);
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

/// A program that the user named.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    /// The flag that named it, with what stands between it and the path.
    pub(crate) flag: &'a str,
    pub(crate) path: &'a Path,
    /// What to do when it is not the right one.
    pub(crate) cure: &'a str,
}

impl Given<'_> {
    /// Its full path, so that a later change of directory does not matter.
    ///
    /// # Errors
    /// When it is no program.
    pub(crate) fn binary(self) -> Result<PathBuf> {
        let full = self.path.canonicalize().with_context(|| self.complaint("is not there"))?;
        ensure!(!full.is_dir(), self.complaint("is a directory"));
        let is_program = full.is_file() && rustix::fs::access(&full, rustix::fs::Access::EXEC_OK).is_ok();
        ensure!(is_program, self.complaint("is no program that can be started"));
        Ok(full)
    }

    /// Its full path, and what it says to `--version`.
    async fn version(self) -> Result<(PathBuf, String)> {
        let binary = self.binary()?;
        let mut command = tokio::process::Command::new(&binary);
        command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(VERSION_WITHIN, command.output()).await;
        let output = output.with_context(|| self.complaint("does not answer to --version"))?;
        let output = output.with_context(|| self.complaint("cannot be started"))?;
        Ok((binary, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// One line: the flag, what is wrong, and the cure.
    fn complaint(self, what: &str) -> String {
        let Self { flag, path, cure } = self;
        format!("{flag}{} {what}; {cure}", path.display())
    }
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
            before.iter().all(|other| other.binary != *binary),
            "{} is given twice; leave one --rival out",
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
    #[tokio::test]
    async fn what_is_no_server_is_one_line_with_flag_and_cure() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            path.display().to_string()
        };
        let (text, script) = (file("text", "etcd", 0o644), file("script", "#!/bin/sh\necho sh 5.1\n", 0o755));
        let ours = file("ours", &format!("#!/bin/sh\necho '{KV}'\n"), 0o755);
        let foreign = file("foreign", "\u{7f}ELF of another machine", 0o755);
        let rivals = [
            ("consul=/bin/sh".to_owned(), "unknown rival \"consul\"; give etcd=PATH"),
            ("etcd".to_owned(), "--rival etcd needs a path; give etcd=PATH"),
            ("etcd=/no/such/etcd".to_owned(), "--rival etcd=/no/such/etcd is not there; give the path"),
            ("etcd=/".to_owned(), "--rival etcd=/ is a directory; give"),
            ("etcd=/dev/null".to_owned(), "is no program that can be started; give"),
            (format!("etcd={text}"), "is no program that can be started; give"),
            (format!("etcd={foreign}"), "cannot be started; give"),
            (format!("etcd={script}"), "answers to --version not as etcd does; give"),
            (format!("etcd={ours}"), "answers to --version not as etcd does; give"),
        ];
        for (rival, says) in rivals {
            let error = format!("{:#}", Target::rival(&rival).await.unwrap_err());
            assert!(error.starts_with("--rival ") && error.contains(says) && !error.contains('\n'), "{error}");
        }
        let servers = [
            ("/no/such/kv", "--server /no/such/kv is not there; `cargo build"),
            (&*script, "answers to --version neither as kv-server nor as etcd does; `cargo build"),
        ];
        for (server, says) in servers {
            let error = format!("{:#}", Target::server(Path::new(server)).await.unwrap_err());
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
        assert_eq!(Target::server(Path::new(&ours)).await.unwrap().kind, Kind::Kv);
    }
}
