//! What etcdctl is asked to do, with the output that etcd gives.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::server::Server;
use crate::run::step;

/// How long a line that is due may take to come.
pub(super) const LINE_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at whether something has happened.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// As much of a command as is shown.
const LINE_CHARS_MAX: usize = 240;
/// A store so small that the first large value fills it.
const QUOTA: &str = "--quota-backend-bytes=65536";

/// Asks all of it.
pub(super) fn run(program: &Path, server: &Server, binary: &Path, directory: &Path, perf: bool) -> Result<()> {
    let etcdctl = Etcdctl::new(program, &[server.port]);
    keys(&etcdctl)?;
    watches(&etcdctl)?;
    leases(&etcdctl)?;
    locks_and_elections(&etcdctl)?;
    maintenance(&etcdctl)?;
    backup(&etcdctl, binary, directory)?;
    alarm(program, binary, directory)?;
    if perf {
        etcdctl.shows(&["check", "perf"], "PASS")?;
    }
    Ok(())
}

/// etcdctl, and whom it asks.
pub(super) struct Etcdctl {
    program: PathBuf,
    endpoints: String,
}

/// One that goes on until it is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Etcdctl {
    pub(super) fn new(program: &Path, ports: &[u16]) -> Self {
        let endpoints: Vec<_> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        Self { program: program.to_owned(), endpoints: endpoints.join(",") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let line = format!("$ {} --endpoints {} {}", self.program.display(), self.endpoints, arguments.join(" "));
        println!("{line:.LINE_CHARS_MAX$}");
        let mut command = Command::new(&self.program);
        command.args(["--endpoints", &self.endpoints]).args(arguments);
        command.env("ETCDCTL_API", "3").env_remove("ETCDCTL_ENDPOINTS").stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().context("starting etcdctl")
    }

    /// Its stdout; it must succeed.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}: {errors}", arguments.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As [`Etcdctl::ask`], again and again as long as it is refused with `part`.
    pub(super) fn ask_at_last(&self, arguments: &[&str], part: &str) -> Result<String> {
        let until = Instant::now() + LINE_WITHIN;
        loop {
            match self.ask(arguments) {
                Err(error) if error.to_string().contains(part) && Instant::now() < until => {
                    std::thread::sleep(LOOK_EVERY);
                }
                asked => return asked,
            }
        }
    }

    pub(super) fn expect(&self, arguments: &[&str], expected: &str) -> Result<()> {
        let answer = self.ask(arguments)?;
        ensure!(answer == expected, "{} answered {answer:?}, expected {expected:?}", arguments.join(" "));
        Ok(())
    }

    /// Its stdout, which must hold `part`.
    pub(super) fn shows(&self, arguments: &[&str], part: &str) -> Result<String> {
        let answer = self.ask(arguments)?;
        ensure!(answer.contains(part), "{} answered {answer:?}, which does not say {part:?}", arguments.join(" "));
        Ok(answer)
    }

    /// It must fail, and say `part`.
    pub(super) fn refused(&self, arguments: &[&str], part: &str) -> Result<()> {
        let output = self.output(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{} is not refused", arguments.join(" "));
        ensure!(errors.contains(part), "{} is refused with {errors:?}, not {part:?}", arguments.join(" "));
        Ok(())
    }

    fn start(&self, arguments: &[&str]) -> Result<Running> {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting etcdctl")?;
        let stdout = BufReader::new(child.stdout.take().context("its stdout is piped")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Running { child, lines })
    }
}

impl Running {
    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(LINE_WITHIN).context("no line came")
    }

    fn says(&self, expected: &[&str]) -> Result<()> {
        for expected in expected {
            let line = self.line()?;
            ensure!(line == *expected, "it said {line:?}, expected {expected:?}");
        }
        Ok(())
    }

    fn type_in(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("its stdin is piped")?;
        writeln!(stdin, "{line}").context("typing")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The commands that a first user types.
fn keys(etcdctl: &Etcdctl) -> Result<()> {
    etcdctl.expect(&["put", "a/1", "one"], "OK\n")?;
    etcdctl.expect(&["put", "a/2", "two"], "OK\n")?;
    etcdctl.expect(&["put", "--prev-kv", "a/2", "three"], "OK\na/2\ntwo\n")?;
    etcdctl.expect(&["get", "a/1"], "a/1\none\n")?;
    etcdctl.expect(&["get", "--prefix", "a/"], "a/1\none\na/2\nthree\n")?;
    etcdctl.expect(&["get", "--prefix", "--limit=1", "a/"], "a/1\none\n")?;
    etcdctl.expect(&["get", "--prefix", "--keys-only", "a/"], "a/1\n\na/2\n\n")?;
    etcdctl.expect(&["del", "a/1"], "1\n")?;
    etcdctl.expect(&["del", "--prefix", "a/"], "1\n")?;
    etcdctl.expect(&["get", "a/1"], "")
}

/// The store's revision.
fn revision(etcdctl: &Etcdctl) -> Result<u64> {
    let json = etcdctl.ask(&["get", "none", "--write-out=json"])?;
    let rest = json.split_once("\"revision\":").with_context(|| format!("no revision in {json}"))?.1;
    let digits = rest.split(|byte: char| !byte.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("no revision in {json}"))
}

fn watches(etcdctl: &Etcdctl) -> Result<()> {
    let from = (revision(etcdctl)? + 1).to_string();
    etcdctl.expect(&["put", "w/1", "a"], "OK\n")?;
    etcdctl.expect(&["put", "w/1", "b"], "OK\n")?;
    let past = etcdctl.start(&["watch", "--prefix", "w/", "--prev-kv", "--rev", &from])?;
    past.says(&["PUT", "w/1", "a", "PUT", "w/1", "a", "w/1", "b"])?;
    etcdctl.expect(&["del", "w/1"], "1\n")?;
    past.says(&["DELETE", "w/1", "b", "w/1", ""])?;
    let mut typed = etcdctl.start(&["watch", "-i"])?;
    // From the past: its first change says that it is there.
    typed.type_in(&format!("watch --rev {from} w/1"))?;
    typed.says(&["PUT", "w/1", "a", "PUT", "w/1", "b", "DELETE", "w/1", ""])?;
    typed.type_in("progress")?;
    let (line, now) = (typed.line()?, revision(etcdctl)?);
    ensure!(line == format!("progress notify: {now}"), "progress at {now}: {line:?}");
    Ok(())
}

fn leases(etcdctl: &Etcdctl) -> Result<()> {
    let granted = etcdctl.shows(&["lease", "grant", "100"], " granted with TTL(100s)")?;
    let id = granted.split(' ').nth(1).context("the lease's id")?;
    etcdctl.expect(&["put", "--lease", id, "l/1", "x"], "OK\n")?;
    etcdctl.shows(&["lease", "timetolive", "--keys", id], "attached keys([l/1])")?;
    etcdctl.shows(&["lease", "list"], id)?;
    etcdctl.expect(&["lease", "keep-alive", "--once", id], &format!("lease {id} keepalived with TTL(100)\n"))?;
    etcdctl.expect(&["lease", "revoke", id], &format!("lease {id} revoked\n"))?;
    etcdctl.expect(&["get", "l/1"], "")?;
    etcdctl.expect(&["lease", "timetolive", id], &format!("lease {id} already expired\n"))?;
    etcdctl.refused(&["lease", "revoke", id], "requested lease not found")?;
    etcdctl.refused(&["put", "--lease", id, "l/1", "x"], "requested lease not found")
}

fn locks_and_elections(etcdctl: &Etcdctl) -> Result<()> {
    etcdctl.expect(&["lock", "lock", "echo", "held"], "held\n")?;
    let first = etcdctl.start(&["lock", "lock"])?;
    let key = first.line()?;
    ensure!(key.starts_with("lock/"), "a lock is a key below its name: {key:?}");
    let second = etcdctl.start(&["lock", "lock"])?;
    // Once its key is there as well, it waits or has the lock.
    let until = Instant::now() + LINE_WITHIN;
    while etcdctl.ask(&["get", "--prefix", "--keys-only", "lock/"])?.matches("lock/").count() < 2 {
        ensure!(Instant::now() < until, "the second never asks for the lock");
        std::thread::sleep(LOOK_EVERY);
    }
    ensure!(second.lines.recv_timeout(LOOK_EVERY).is_err(), "two hold one lock");
    // Who goes without a word leaves its lease behind; the lock goes with the key.
    etcdctl.expect(&["del", &key], "1\n")?;
    drop(first);
    ensure!(second.line()?.starts_with("lock/"), "the next one gets the lock");
    let leader = etcdctl.start(&["elect", "election", "me"])?;
    let key = leader.line()?;
    leader.says(&["me"])?;
    let observer = etcdctl.start(&["elect", "--listen", "election"])?;
    observer.says(&[&key, "me"])
}

fn maintenance(etcdctl: &Etcdctl) -> Result<()> {
    // It says so on stdout or on stderr, by its version; its exit code is what counts.
    etcdctl.ask(&["endpoint", "health"])?;
    for question in [&["endpoint", "status"][..], &["endpoint", "hashkv"], &["member", "list"]] {
        etcdctl.shows(question, &etcdctl.endpoints)?;
    }
    etcdctl.expect(&["put", "m", "old"], "OK\n")?;
    let old = revision(etcdctl)?.to_string();
    etcdctl.expect(&["put", "m", "new"], "OK\n")?;
    etcdctl.expect(&["get", "m", "--rev", &old], "m\nold\n")?;
    let now = revision(etcdctl)?.to_string();
    etcdctl.expect(&["compaction", &now], &format!("compacted revision {now}\n"))?;
    etcdctl.refused(&["compaction", &now], "required revision has been compacted")?;
    etcdctl.refused(&["get", "m", "--rev", &old], "required revision has been compacted")?;
    etcdctl.shows(&["defrag"], "Finished defragmenting etcd member")?;
    etcdctl.expect(&["alarm", "list"], "")?;
    etcdctl.expect(&["alarm", "disarm"], "")
}

/// A backup by etcdctl, read by kv-server, and a server on what it was restored to.
fn backup(etcdctl: &Etcdctl, binary: &Path, directory: &Path) -> Result<()> {
    let (file, data) = (directory.join("backup"), directory.join("restored"));
    let (file, data) = (file.to_string_lossy(), data.to_string_lossy());
    etcdctl.expect(&["put", "backup", "kept"], "OK\n")?;
    etcdctl.shows(&["snapshot", "save", &file], "Snapshot saved at")?;
    step(Command::new(binary).args(["snapshot", "status", &file]))?;
    step(Command::new(binary).args(["snapshot", "restore", &file, "--data-dir", &data]))?;
    let server = Server::start(binary, Path::new(&*data), &[])?;
    Etcdctl::new(&etcdctl.program, &[server.port]).expect(&["get", "backup"], "backup\nkept\n")
}

/// A full store raises an alarm, which is called off once there is room.
fn alarm(program: &Path, binary: &Path, directory: &Path) -> Result<()> {
    let server = Server::start(binary, &directory.join("small"), &[QUOTA])?;
    let etcdctl = Etcdctl::new(program, &[server.port]);
    let large = "x".repeat(60_000);
    etcdctl.expect(&["put", "large", &large], "OK\n")?;
    etcdctl.refused(&["put", "large", &large], "database space exceeded")?;
    etcdctl.shows(&["alarm", "list"], "alarm:NOSPACE")?;
    etcdctl.expect(&["del", "large"], "1\n")?;
    let now = revision(&etcdctl)?.to_string();
    etcdctl.ask(&["compaction", "--physical", &now])?;
    etcdctl.shows(&["alarm", "disarm"], "alarm:NOSPACE")?;
    etcdctl.expect(&["alarm", "list"], "")?;
    etcdctl.expect(&["put", "small", "x"], "OK\n")
}
