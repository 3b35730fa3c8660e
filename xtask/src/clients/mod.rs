//! `cargo xtask clients`: real etcd clients against a server of ours.
//!
//! Clients are optional: a machine without them passes, and says in one line each which were not run. The server gets a
//! temporary data directory and a port of its own, and is killed when the run ends, however it ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::run::{Workspace, step};

/// How long a server on an empty directory may take before it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two questions whether the server is ready.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What Python's `etcd3` is asked to do; it raises on the first surprise.
const PYTHON_SCRIPT: &str = r#"
import sys, etcd3
client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]))
client.put("py/a", "1")
client.put("py/b", b"\x00\xff")
assert client.get("py/a")[0] == b"1"
assert [v for v, _ in client.get_prefix("py/")] == [b"1", b"\x00\xff"]
assert client.delete("py/a") is True
assert client.get("py/a")[0] is None
assert client.status().version
assert len(list(client.members)) == 1
"#;

/// Runs the clients that are installed, and says which ran.
pub(crate) fn run(workspace: &Workspace) -> Result<String> {
    let mut ran = Vec::new();
    let mut not_run = Vec::new();
    let etcdctl = works(Command::new("etcdctl").arg("version").env("ETCDCTL_API", "3"));
    let python = works(Command::new("python3").args(["-c", "import etcd3"]));
    for (name, installed) in [("etcdctl", etcdctl), ("python etcd3", python)] {
        if installed { ran.push(name) } else { not_run.push(format!("{name} not installed")) }
    }
    if !ran.is_empty() {
        step(&mut workspace.cargo(&["build", "--package", "kv-server", "--bin", "kv-server"]))?;
        let server = Server::start(&workspace.target_directory.join("debug").join("kv-server"))?;
        if etcdctl {
            run_etcdctl(server.port).context("etcdctl")?;
        }
        if python {
            step(Command::new("python3").args(["-c", PYTHON_SCRIPT, &server.port.to_string()]))
                .context("python etcd3")?;
        }
    }
    let mut note = format!("ran: {}", if ran.is_empty() { "none".into() } else { ran.join(", ") });
    for missing in &not_run {
        println!("*** not run: {missing}");
        note += &format!("; not run: {missing}");
    }
    Ok(note)
}

/// Whether the command starts and succeeds.
fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The commands that a first user types, with the output that etcd gives.
fn run_etcdctl(port: u16) -> Result<()> {
    let endpoint = format!("http://127.0.0.1:{port}");
    let ask = |arguments: &[&str]| -> Result<String> {
        println!("$ etcdctl --endpoints {endpoint} {}", arguments.join(" "));
        let output = Command::new("etcdctl")
            .args(["--endpoints", &endpoint])
            .args(arguments)
            .env("ETCDCTL_API", "3")
            .env_remove("ETCDCTL_ENDPOINTS")
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}: {errors}", arguments.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let expect = |arguments: &[&str], expected: &str| -> Result<()> {
        let answer = ask(arguments)?;
        ensure!(answer == expected, "{} answered {answer:?}, expected {expected:?}", arguments.join(" "));
        Ok(())
    };
    expect(&["put", "a/1", "one"], "OK\n")?;
    expect(&["put", "a/2", "two"], "OK\n")?;
    expect(&["put", "--prev-kv", "a/2", "three"], "OK\na/2\ntwo\n")?;
    expect(&["get", "a/1"], "a/1\none\n")?;
    expect(&["get", "--prefix", "a/"], "a/1\none\na/2\nthree\n")?;
    expect(&["get", "--prefix", "--limit=1", "a/"], "a/1\none\n")?;
    expect(&["get", "--prefix", "--keys-only", "a/"], "a/1\n\na/2\n\n")?;
    expect(&["del", "a/1"], "1\n")?;
    expect(&["del", "--prefix", "a/"], "1\n")?;
    expect(&["get", "a/1"], "")?;
    // It says so on stdout or on stderr, by its version; its exit code is what counts.
    ask(&["endpoint", "health"])?;
    for question in [&["endpoint", "status"][..], &["endpoint", "hashkv"], &["member", "list"]] {
        let answer = ask(question)?;
        ensure!(answer.contains(&port.to_string()), "{} does not name the server: {answer:?}", question.join(" "));
    }
    Ok(())
}

/// A server of ours, killed on drop; its directory goes with it.
struct Server {
    child: Child,
    directory: PathBuf,
    port: u16,
}

impl Server {
    fn start(binary: &Path) -> Result<Self> {
        let (port, peer_port) = free_ports()?;
        let directory = std::env::temp_dir().join(format!("kv-clients-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let child = Command::new(binary)
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("log"))?)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut server = Self { child, directory, port };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while !healthy(self.port) {
            let log = || std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
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
        // Both fail only when there is nothing left to end or to remove.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
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
