//! Servers and clients for the tests.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use kv_server::Server;
use kv_server::config::{Config, Parsed};
use kv_server::proto::etcdserverpb::cluster_client::ClusterClient;
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kv_server::proto::etcdserverpb::{HashKvRequest, PutRequest, RangeRequest, RangeResponse, ResponseHeader};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tower::ServiceExt;

/// How long any condition may take to come true: far more than it takes, so that only what never comes is found late.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Ports that the system picks, so that any number of servers run beside each other.
const ADDRESSES: [&str; 3] = [
    "--listen-client-urls=http://127.0.0.1:0",
    "--advertise-client-urls=http://127.0.0.1:2379",
    "--listen-peer-urls=http://127.0.0.1:0",
];

/// Addresses that no other test has, and nobody had a moment ago. They lie below the range from which the system gives ports to
/// whoever asks for any: a member that starts again must find its own free.
pub(crate) fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 10_000;
    // Another run of the tests beside this one starts elsewhere.
    let start = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).unwrap();
    let draw = || {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        SocketAddr::from(([127, 0, 0, 1], FIRST + (start + nth) % COUNT))
    };
    let free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    std::array::from_fn(|_| (0..100).map(|_| draw()).find(free).expect("one of a hundred is free"))
}

/// The arguments of a server on `dir`. A flag in `extra` replaces the one of the same name.
fn arguments(dir: &Path, extra: &[&str]) -> Vec<String> {
    let name = |flag: &str| flag.split('=').next().map(str::to_owned);
    let replaced = |flag: &&str| !extra.iter().any(|other| name(other) == name(flag));
    let mut arguments = vec![format!("--data-dir={}", dir.display())];
    arguments.extend(ADDRESSES.iter().copied().filter(replaced).chain(extra.iter().copied()).map(str::to_owned));
    arguments
}

/// A server in this process, and a directory that goes with it.
pub(crate) struct Served {
    server: Server,
    pub(crate) address: SocketAddr,
    _dir: TempDir,
}

impl Served {
    pub(crate) async fn start(extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let no_env: [(&str, &str); 0] = [];
        let Parsed::Run { config, .. } = Config::parse(arguments(dir.path(), extra), no_env).unwrap() else {
            panic!("these arguments ask for a server");
        };
        let server = Server::start(*config, &slog::Logger::root(slog::Discard, slog::o!())).await.unwrap();
        Self { address: server.client_addresses()[0], server, _dir: dir }
    }

    pub(crate) async fn stop(self) {
        self.server.shutdown().await;
    }
}

/// A server in a process of its own. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl Process {
    /// Starts the program on `dir` and waits until it serves.
    pub(crate) fn start(dir: &Path, extra: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv-server"));
        command.args(arguments(dir, extra));
        Self::start_command(command)
    }

    /// Starts the program through a shell that says `before` first.
    pub(crate) fn start_in_shell(before: &str, dir: &Path) -> Self {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_kv-server"));
        command.args(arguments(dir, &[]));
        Self::start_command(command)
    }

    fn start_command(command: Command) -> Self {
        let mut process = Self::spawn(command);
        process.serves();
        process
    }

    /// Starts the program on `dir`, and waits for nothing.
    pub(crate) fn begin(dir: &Path, extra: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv-server"));
        command.args(arguments(dir, extra));
        Self::spawn(command)
    }

    /// Waits until it serves clients.
    pub(crate) fn serves(&mut self) {
        self.peer = self.address("serving peer traffic");
        self.client = self.address("serving client traffic");
    }

    fn spawn(mut command: Command) -> Self {
        // What the user's shell has in ETCD_ variables is none of the test's business.
        let mut child =
            command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, lines, seen: Vec::new(), client: nowhere, peer: nowhere }
    }

    fn address(&mut self, message: &str) -> SocketAddr {
        let line = self.wait_for(message);
        line["address"].as_str().unwrap().parse().unwrap()
    }

    /// Waits for the log line with this message, or takes the one that came already.
    pub(crate) fn wait_for(&mut self, message: &str) -> Value {
        self.wait_for_line(message, |line| line["msg"] == message)
    }

    /// Waits for a log line, called `message` here, or takes the one that came already.
    pub(crate) fn wait_for_line(&mut self, message: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            let lines = self.seen.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.into_iter().find(&is_it) {
                return line;
            }
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("the server never said {message:?}, but:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// As a power cut would: no warning, no last words.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As `kill` without options does. How it ended, and all it said.
    pub(crate) fn terminate(self) -> (ExitStatus, Vec<String>) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.wait()
    }

    /// The most memory that it ever had, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Stops it in the middle of whatever it does, or has it go on.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        let signal = if is_frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end that is under way.
    pub(crate) fn wait(mut self) -> (ExitStatus, Vec<String>) {
        // Stderr ends when the process does.
        let until = Instant::now() + DEADLINE;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.seen.push(line);
        }
        let ended = self.child.try_wait().unwrap();
        let status = ended.or_else(|| poll("the process to end", || self.child.try_wait().unwrap()).into());
        (status.unwrap(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the program where it must not start. The one line that it said.
pub(crate) fn refused(dir: &Path, extra: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv-server"));
    command.args(arguments(dir, extra)).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).split(b'\n') {
        stderr.push_str(std::str::from_utf8(&line.unwrap()).unwrap());
        stderr.push('\n');
        if stderr.contains("ready to serve") {
            // It would go on for ever.
            child.kill().unwrap();
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line, and no more:\n{stderr}");
    assert!(stderr.starts_with("kv-server: "), "{stderr}");
    stderr
}

/// Asks until the answer is there.
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Clients on one connection.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) channel: Channel,
    pub(crate) kv: KvClient<Channel>,
    pub(crate) maintenance: MaintenanceClient<Channel>,
    pub(crate) cluster: ClusterClient<Channel>,
}

impl Clients {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(DEADLINE);
        let channel = endpoint.connect().await.unwrap();
        Self {
            kv: KvClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            channel,
        }
    }

    /// Puts, and tells the revision.
    pub(crate) async fn put(&mut self, key: &str, value: &str) -> i64 {
        let request = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        revision(self.kv.put(request).await.unwrap().into_inner().header)
    }

    pub(crate) async fn range(&mut self, request: RangeRequest) -> RangeResponse {
        self.kv.range(request).await.unwrap().into_inner()
    }

    /// The revision, and the hash of all that happened up to it.
    pub(crate) async fn hash_kv(&mut self, revision: i64) -> (i64, u32) {
        let answer = self.maintenance.hash_kv(HashKvRequest { revision }).await.unwrap().into_inner();
        (answer.hash_revision, answer.hash)
    }
}

pub(crate) fn revision(header: Option<ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

/// One key.
pub(crate) fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

/// All keys that begin with `prefix`, which ends in a letter.
pub(crate) fn prefix(prefix: &str) -> RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    RangeRequest { range_end: end.into(), ..get(prefix) }
}

/// The keys of an answer.
pub(crate) fn keys(answer: &RangeResponse) -> Vec<&str> {
    answer.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).unwrap()).collect()
}

/// Checks that a call was refused with this code and this text, to the letter.
#[track_caller]
pub(crate) fn check_refused<T: Debug>(answer: Result<Response<T>, Status>, code: Code, text: &str) {
    let status = answer.expect_err(text);
    assert_eq!((status.code(), status.message()), (code, text));
}

/// What an HTTP/1 server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Sends a request as written and reads until the server closes.
pub(crate) fn http(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    Answer { head: head.to_owned(), body: body.to_owned() }
}

/// A GET of our day.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Answer {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))
}

/// The value of a metric without labels.
pub(crate) fn metric(address: SocketAddr, name: &str) -> u64 {
    let body = http_get(address, "/metrics").body;
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in:\n{body}")).parse().unwrap()
}

/// One message as gRPC frames it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// Sends any bytes as the body of a gRPC call; the status that ends it.
pub(crate) async fn call(channel: &Channel, path: &str, body: Vec<u8>) -> Status {
    let request = ::http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    let request = request.body(Body::new(Full::new(body.into()))).unwrap();
    let answer = channel.clone().oneshot(request).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    assert_eq!(answer.status(), 200, "{path}");
    let (head, body) = answer.into_parts();
    let trailers = body.collect().await.unwrap_or_else(|error| panic!("{path}: {error:?}")).trailers().cloned();
    let status = Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(&trailers?));
    status.unwrap_or_else(|| panic!("{path}: no status"))
}
