//! The counted server as a process of its own, alone or under a tool that counts more.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use tonic::transport::{Channel, Endpoint};

use crate::process;

/// What the server runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    Nothing,
    /// valgrind, which counts instructions.
    Callgrind,
    /// strace, which writes down every system call.
    Strace,
}

impl Under {
    pub(super) const ALL: [Self; 3] = [Self::Nothing, Self::Callgrind, Self::Strace];

    /// The tool's program.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Callgrind => "valgrind",
            Self::Strace => "strace",
        }
    }

    /// Whether the tool is installed.
    pub(super) fn installed(self) -> bool {
        let version = Command::new(self.program()).arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|output| output.status.success())
    }
}

/// A running server. Dropping it ends its input, by which it ends, and waits for that.
pub(super) struct Counted {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// The server's own process, not the tool's.
    pub(super) pid: u32,
    /// Where the tool writes.
    traces: PathBuf,
    endpoint: Endpoint,
}

impl Counted {
    /// Starts it with its data in `data`; what a tool writes goes to `traces`.
    pub(super) fn start(binary: &Path, under: Under, data: &Path, traces: &Path, port: u16) -> Result<Self> {
        let mut command = match under {
            Under::Nothing => Command::new(binary),
            Under::Callgrind => {
                let mut valgrind = Command::new("valgrind");
                let out = format!("--callgrind-out-file={}", traces.join("callgrind").display());
                valgrind.args(["--quiet", "--tool=callgrind", "--dump-before=*counted*mark*", &out]).arg(binary);
                valgrind
            }
            Under::Strace => {
                let mut strace = Command::new("strace");
                // Every thread, on one file, with enough of a write to see what it is.
                strace.args(["--follow-forks", "--quiet=all", "--string-limit=8", "--signal=none"]);
                strace.arg("--output").arg(traces.join("strace")).arg(binary);
                strace
            }
        };
        let (client, peer) = (format!("http://127.0.0.1:{port}"), "http://127.0.0.1:0");
        command.arg("--data-dir").arg(data).args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", peer]);
        // Ticks belong to no operation.
        command.args(["--heartbeat-interval", "5000", "--election-timeout", "50000"]);
        let log = std::fs::File::create(traces.join("log")).context("making a file for the server's log")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // A group of its own: what a terminal sends to the tool on Ctrl-C is for the tool, which ends it.
        command.process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("its output was asked for")?);
        let endpoint = Endpoint::from_shared(client).context("the server's address")?.tcp_nodelay(true);
        let mut counted =
            Self { child, input, output: BufReader::new(output), pid: 0, traces: traces.to_owned(), endpoint };
        counted.pid = counted.answer("ready")?.try_into().context("a process's id")?;
        Ok(counted)
    }

    pub(super) async fn connect(&self) -> Result<Channel> {
        self.endpoint.connect().await.context("connecting to the counted server")
    }

    /// Lets the tool begin anew, and the allocations up to now.
    pub(super) fn mark(&mut self) -> Result<u64> {
        let input = self.input.as_mut().context("its input is open until it is dropped")?;
        input.write_all(b"mark\n").context("the counted server has ended")?;
        self.answer("mark")
    }

    /// The number on the next line, which begins with `word`.
    fn answer(&mut self, word: &str) -> Result<u64> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("reading from the counted server")?;
        let Some(number) = line.trim().strip_prefix(word) else {
            let log = std::fs::read_to_string(self.traces.join("log")).unwrap_or_default();
            bail!("the counted server ended: {}", log.lines().last().unwrap_or("nothing in its log"));
        };
        number.trim().parse().with_context(|| format!("the counted server said {line:?}"))
    }

    /// How often its threads were waited for: each wake of a thread was preceded by one.
    pub(super) fn wakes(&self) -> Result<u64> {
        process::threads(self.pid)?.iter().map(|thread| thread.voluntary_switches()).sum()
    }

    /// The id of the driver's thread.
    pub(super) fn driver_thread(&self) -> Result<u32> {
        let threads = process::threads(self.pid)?;
        let driver = threads.iter().find(|thread| thread.name == "kv-raft");
        Ok(driver.context("no thread is called kv-raft")?.id)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}
