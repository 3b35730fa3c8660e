//! A server for the clients.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a server on an empty directory may take before it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two questions whether the server is ready.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A directory for the run, gone with it.
pub(super) struct Directory(pub(super) PathBuf);

/// A server of ours, killed on drop.
pub(super) struct Server {
    child: Child,
    log: PathBuf,
    pub(super) port: u16,
}

impl Directory {
    pub(super) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("kv-clients-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // It fails only when there is nothing left to remove.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Server {
    /// Starts one on `data`, with its log beside it, and waits until it answers.
    pub(super) fn start(binary: &Path, data: &Path, extra: &[&str]) -> Result<Self> {
        let (port, peer_port) = free_ports()?;
        let log = data.with_extension("log");
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let child = Command::new(binary)
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(extra)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut server = Self { child, log, port };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while !healthy(self.port) {
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended before it was ready: {status}\n{}", log());
            }
            if start.elapsed() > READY_WITHIN {
                bail!("the server was not ready within {READY_WITHIN:?}\n{}", log());
            }
            std::thread::sleep(POLL_EVERY);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when there is nothing left to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `/health` on the port answers 200.
fn healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Two ports that are free at this moment, below those that systems give to outgoing connections: a client that knocks
/// at a port of that range before its server is up can end up connected to itself.
fn free_ports() -> Result<(u16, u16)> {
    let first = std::process::id() % 12_000;
    let mut free = (0..200)
        .filter_map(|n| u16::try_from(20_000 + (first + n) % 12_000).ok())
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    let (client, peer) = (free.next(), free.next());
    Ok((client.context("no free port on 127.0.0.1")?, peer.context("only one free port on 127.0.0.1")?))
}
