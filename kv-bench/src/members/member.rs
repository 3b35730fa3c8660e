//! One member: where it lives, and its process while it has one.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Endpoint;

use crate::target::Target;

/// How long a connection to it may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How much of the log's end goes into a message.
const LOG_LINES_SHOWN: usize = 8;

/// A member of a cluster.
///
/// * Its name, directory and ports stay, however often its process ends and is started.
/// * A process that has ended by itself is noticed by [`Self::ended`] alone.
#[derive(Debug)]
pub(crate) struct Member {
    name: String,
    home: PathBuf,
    client: u16,
    /// Where it listens for its peers.
    peer: u16,
    /// Where its peers dial.
    dialed: u16,
    process: Option<Process>,
}

/// Dropping it kills it and waits for its end.
#[derive(Debug)]
struct Process {
    child: Child,
    paused: bool,
}

impl Member {
    pub(super) fn new(name: String, directory: &Path, client: u16, peer: u16, dialed: u16) -> Self {
        let home = directory.join(&name);
        Self { name, home, client, peer, dialed, process: None }
    }

    /// Its name, which no other member of this cluster ever had.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its clients reach it.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let endpoint = Endpoint::from_shared(self.client_url()).expect("it was made of a port");
        endpoint.tcp_nodelay(true).connect_timeout(CONNECT_WITHIN)
    }

    /// The same as a URL.
    pub(crate) fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// The URL that its peers know it by.
    pub(crate) fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.dialed)
    }

    pub(super) fn initial_entry(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }

    /// Where its log goes, start after start.
    pub(crate) fn log(&self) -> PathBuf {
        self.home.with_extension("log")
    }

    /// Starts its process; it is not ready yet. `state` is of `--initial-cluster-state`.
    pub(super) fn start(&mut self, program: &Target, initial_cluster: &str, state: &str) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.log());
        let log = log.with_context(|| format!("opening {}", self.log().display()))?;
        let mut command = program.command();
        command
            .args(["--name", &self.name, "--data-dir"])
            .arg(&self.home)
            .args(["--listen-client-urls", &self.client_url(), "--advertise-client-urls", &self.client_url()])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", self.peer)])
            .args(["--initial-advertise-peer-urls", &self.peer_url()])
            .args(["--initial-cluster", initial_cluster, "--initial-cluster-state", state])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the log file")?)
            .stderr(log);
        // A group of its own: what a terminal sends to the tool on Ctrl-C is for the tool.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("starting {}", self.name))?;
        self.process = Some(Process { child, paused: false });
        Ok(())
    }

    /// Whether it was never started.
    pub(super) fn is_new(&self) -> bool {
        !self.home.exists() && self.process.is_none()
    }

    /// Its process, while it was not ended by us.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// Whether it has a process that is not paused.
    pub(crate) fn runs(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.paused)
    }

    /// Whether nobody has ended its process.
    pub(crate) fn should_run(&self) -> bool {
        self.process.is_some()
    }

    /// Whether its process is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.paused)
    }

    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?.paused = true;
        Ok(())
    }

    pub(super) fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)?.paused = false;
        Ok(())
    }

    /// SIGTERM, to one that is paused as well. It may have ended already.
    pub(super) fn terminate(&mut self) {
        drop(self.signal(Signal::CONT));
        drop(self.signal(Signal::TERM));
    }

    fn signal(&mut self, signal: Signal) -> Result<&mut Process> {
        let process = self.process.as_mut().with_context(|| format!("{} is down", self.name))?;
        let pid = i32::try_from(process.child.id()).ok().and_then(Pid::from_raw).context("a process has a number")?;
        kill_process(pid, signal).with_context(|| format!("a signal to {}", self.name))?;
        Ok(process)
    }

    /// Why it has no process any more, if so: killed, or ended by itself, with the end of its log.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let Some(process) = &mut self.process else {
            return Some("it is down".into());
        };
        match process.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(format!("it ended by itself: {status}{}", self.log_end())),
            Err(error) => Some(format!("nobody knows: {error}")),
        }
    }

    /// Whether its log says that a port of its own was in use, in Go's or in Rust's words.
    pub(super) fn found_port_taken(&self) -> bool {
        std::fs::read_to_string(self.log()).is_ok_and(|log| log.contains("ddress already in use"))
    }

    /// The last lines of its log, for a message.
    pub(crate) fn log_end(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default();
        format!("; the end of {}:\n    {}", self.log().display(), end.join("\n    "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself. Its directory may be removed next: until it is gone it could still add files.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
