//! A server for the clients.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

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
        let ports = free_ports(2)?;
        let cluster = format!("--initial-cluster=default=http://127.0.0.1:{}", ports[1]);
        let mut server = Self::begin(binary, data, (ports[0], ports[1]), &[&[cluster.as_str()], extra].concat())?;
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Starts one on these ports, for clients and for members, and waits for nothing. A flag in `extra` wins.
    pub(super) fn begin(binary: &Path, data: &Path, (port, peer_port): (u16, u16), extra: &[&str]) -> Result<Self> {
        let log = data.with_extension("log");
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let child = Command::new(binary)
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(extra)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        Ok(Self { child, log, port })
    }

    /// Waits until it ends by itself, and without an error.
    pub(super) fn ends(&mut self) -> Result<()> {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None => ensure!(start.elapsed() < READY_WITHIN, "the server has not ended within {READY_WITHIN:?}"),
            }
            std::thread::sleep(POLL_EVERY);
        };
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
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

/// Ports that are free at this moment, below those that systems give to outgoing connections: a client that knocks
/// at a port of that range before its server is up can end up connected to itself.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let first = std::process::id() % 12_000;
    let free: Vec<u16> = (0..200)
        .filter_map(|n| u16::try_from(20_000 + (first + n) % 12_000).ok())
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .take(count)
        .collect();
    ensure!(free.len() == count, "fewer than {count} free ports on 127.0.0.1");
    Ok(free)
}
