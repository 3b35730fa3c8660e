//! The server's process: started on the same directory each time, on ports of its own, and ended with or without notice.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kv_server::proto::etcdserverpb::RangeRequest;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use crate::target::free_port;

/// How long a server may take to answer after its start, whatever it has to recover.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to end after SIGTERM.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two questions whether it is ready. Recovery times are exact to about this.
const POLL_EVERY: Duration = Duration::from_millis(5);
/// How long one question may take while it gets ready.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);
/// Starts with other ports when someone took ours between asking and binding.
const PORT_TRIES: usize = 5;
/// How much of the log's end goes into a report.
const LOG_LINES_SHOWN: usize = 8;
/// SIGTERM's number, the same on every Unix.
const SIGTERM: i32 = 15;

/// What stays the same over all starts.
#[derive(Debug)]
pub(super) struct Launch {
    /// The binary.
    pub(super) binary: PathBuf,
    /// Its data directory, made by the server itself.
    pub(super) data_dir: PathBuf,
    /// Where its stderr goes, start after start.
    pub(super) log: PathBuf,
    /// The member's id follows from this, so it stays.
    pub(super) peer_port: u16,
}

/// A started server. Killed on drop.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    log: PathBuf,
    endpoint: Endpoint,
    started: Instant,
}

/// A server that answers.
pub(super) struct Ready {
    /// A connection to it.
    pub(super) channel: Channel,
    /// From the start of the process to the first linearizable answer.
    pub(super) took: Duration,
}

/// Why there is no answer.
pub(super) enum NotReady {
    /// A port was taken: worth another try.
    PortTaken,
    /// It ended, or took too long; with the end of its log.
    Failed(String),
}

impl Launch {
    /// Starts the process; it is not ready yet.
    pub(super) fn start(&self) -> Result<Server> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening {}", self.log.display()))?;
        let client = format!("http://127.0.0.1:{}", free_port()?);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new(&self.binary)
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the log file")?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        let endpoint = Endpoint::from_shared(client).context("the server's address")?.tcp_nodelay(true);
        let endpoint = endpoint.connect_timeout(QUESTION_WITHIN);
        Ok(Server { child, log: self.log.clone(), endpoint, started: Instant::now() })
    }

    /// Starts the process and waits until it answers; a violation's text when it does not.
    pub(super) async fn serve(&self) -> Result<Result<(Server, Ready), String>> {
        for _ in 0..PORT_TRIES {
            let mut server = self.start()?;
            match server.ready().await? {
                Ok(ready) => return Ok(Ok((server, ready))),
                Err(NotReady::PortTaken) => {}
                Err(NotReady::Failed(why)) => return Ok(Err(why)),
            }
        }
        bail!("no free port in {PORT_TRIES} tries")
    }
}

impl Server {
    /// Waits for the first linearizable answer.
    async fn ready(&mut self) -> Result<Result<Ready, NotReady>> {
        loop {
            if let Ok(Some(channel)) = tokio::time::timeout(QUESTION_WITHIN, self.answering()).await {
                return Ok(Ok(Ready { channel, took: self.started.elapsed() }));
            }
            if let Some(status) = self.child.try_wait()? {
                let log = self.log_end();
                // Go's and Rust's words for it.
                let taken = log.contains("ddress already in use");
                let why = format!("it ended before it served: {status}{log}");
                return Ok(Err(if taken { NotReady::PortTaken } else { NotReady::Failed(why) }));
            }
            if self.started.elapsed() > READY_WITHIN {
                let why = format!("it did not serve within {READY_WITHIN:?}{}", self.log_end());
                return Ok(Err(NotReady::Failed(why)));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// A connection, when a linearizable read on it is answered.
    async fn answering(&self) -> Option<Channel> {
        let channel = self.endpoint.connect().await.ok()?;
        let request = RangeRequest { key: "ready".into(), ..RangeRequest::default() };
        KvClient::new(channel.clone()).range(request).await.ok()?;
        Some(channel)
    }

    /// One more connection.
    pub(super) async fn connect(&self) -> Result<Channel> {
        self.endpoint.connect().await.context("connecting to the server")
    }

    /// Why it ended, when it has ended by itself.
    pub(super) fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| format!("it ended by itself: {status}{}", self.log_end())))
    }

    /// SIGKILL, and waits until the process is gone.
    pub(super) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("killing the server")
    }

    /// SIGTERM; a violation's text when it does not end, or not as it should.
    pub(super) async fn terminate(mut self) -> Result<Result<ExitStatus, String>> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.context("the server ended before SIGTERM")?;
        kill_process(pid, Signal::TERM).context("sending SIGTERM")?;
        let Ok(status) = tokio::time::timeout(ENDS_WITHIN, self.child.wait()).await else {
            return Ok(Err(format!("it did not end within {ENDS_WITHIN:?} of SIGTERM{}", self.log_end())));
        };
        let status = status?;
        let right = ended_as_asked(status);
        Ok(if right { Ok(status) } else { Err(format!("after SIGTERM it ended with {status}{}", self.log_end())) })
    }

    /// The last lines of its log, for a report.
    fn log_end(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default();
        format!("; the end of {}:\n    {}", self.log.display(), end.join("\n    "))
    }
}

/// 0, or the signal raised again after the work was done, as etcd does it (a shell shows 143).
fn ended_as_asked(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.success() || status.signal() == Some(SIGTERM) || status.code() == Some(128 + SIGTERM)
}
