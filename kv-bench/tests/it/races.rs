//! The tools that race servers, each as small as it can be: a report with figures, one line for bad input, nothing left behind.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::server_binary;
use crate::wire::{Tool, kv_bench, listed, mentioning, text};

/// Every tool that compares servers.
const RACES: [&str; 7] = ["wire", "cliffs", "million", "watch", "leases", "kube", "cluster"];
/// A condition that is not met by then is not met at all.
const WITHIN: Duration = Duration::from_secs(60);

/// Runs a tool; its figures by name.
fn figures(tool: &str, arguments: &[&str]) -> Vec<(String, f64)> {
    let out = tempfile::tempdir().unwrap();
    let mut command = kv_bench(&[tool]);
    let output =
        command.arg("--server").arg(server_binary()).arg("--out").arg(out.path()).args(arguments).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(listed(out.path()), [format!("{tool}.json"), format!("{tool}.md")], "{text}");
    assert_eq!(mentioning(out.path()), [""; 0], "{text}");
    let json: Value = serde_json::from_slice(&std::fs::read(out.path().join(format!("{tool}.json"))).unwrap()).unwrap();
    let rows = json["servers"][0]["rounds"][0].as_array().unwrap().iter();
    rows.map(|row| (row["figure"].as_str().unwrap().to_owned(), row["value"].as_f64().unwrap_or(-1.0))).collect()
}

#[test]
fn watchers_hear_everything() {
    let small = ["--watchers", "20", "--streams", "4", "--rate", "50", "--secs", "1", "--rounds", "1"];
    let figures = figures("watch", &small);
    let positive = |end: &str| figures.iter().filter(|(name, value)| name.ends_with(end) && *value > 0.0).count();
    assert_eq!((positive("delay p99"), positive("changes")), (5, 5), "{figures:?}");
    assert!(positive("worst delay") == 1 && positive("lists of 5 MB") == 1, "{figures:?}");
}

#[test]
fn leases_end_and_are_kept() {
    let figures = figures("leases", &["--leases", "20", "--rate", "100", "--secs", "1"]);
    let of = |wanted: &str| figures.iter().find(|(name, _)| name == wanted).unwrap().1;
    assert!(of("all due at once: until the last is gone") >= 0.0);
    assert!(of("kept alive: answers") > 0.0);
}

#[test]
fn a_cluster_of_one_node_is_looked_at() {
    let figures = figures("kube", &["--nodes", "1", "--nodes-max", "1", "--secs", "1"]);
    // Whether a busy machine holds it is not this test's to say.
    assert_eq!(figures[0].0, "nodes held");
}

#[test]
fn numbers_that_make_no_sense_are_one_line() {
    for (tool, arguments, says) in [
        ("watch", ["--streams", "0"], "--streams is from 1"),
        ("watch", ["--watchers", "1"], "--watchers is from 100"),
        ("watch", ["--rate", "x"], "'x'"),
        ("leases", ["--leases", "1"], "--leases is from 10"),
        ("leases", ["--rounds", "0"], "--rounds is from 1"),
        ("kube", ["--nodes", "0"], "--nodes is from 1"),
        ("kube", ["--speed", "0"], "--speed is from 1"),
        ("million", ["--keys", "1"], "--keys is from"),
    ] {
        let output = kv_bench(&[tool, "--server", "/bin/sh"]).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.lines().count() == 1 && error.contains(says), "{says:?} is not the one line of:\n{error}");
    }
}

fn one_line(command: &mut Command, says: &str) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.lines().count() == 1 && error.contains(says), "{says:?} is not the one line of:\n{error}");
}

#[test]
fn what_is_no_server_and_no_place_for_a_report_is_one_line_before_any_work() {
    let (out, server) = (tempfile::tempdir().unwrap(), server_binary());
    let server = server.to_str().unwrap();
    let file = out.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for tool in RACES {
        for (flags, says) in [
            (["--server", "/no/such/kv"], "--server /no/such/kv is not there; `cargo build"),
            (["--server", "/bin/sh"], "answers to --version neither as kv-server nor as etcd does; `cargo build"),
            (["--rival", "consul=/bin/sh"], "unknown rival \"consul\"; give etcd=PATH"),
            (["--rival", "etcd=/no/such/etcd"], "--rival etcd=/no/such/etcd is not there; give"),
            (["--rival", "etcd=/"], "--rival etcd=/ is a directory; give"),
            (["--rival", "etcd=/etc/passwd"], "--rival etcd=/etc/passwd is no program that can be started; give"),
            (["--out", file], "/file: give a directory that can be written"),
            (["--out", "/proc"], "--out /proc: give a directory that can be written"),
        ] {
            // Of a flag given twice the later one counts.
            let first = ["--server", server, "--out", out.path().to_str().unwrap()];
            one_line(kv_bench(&[tool]).args(first).args(flags), says);
        }
    }
    one_line(kv_bench(&["first", "--server", server]).args(["--out", file]), "give a directory that can be written");
    one_line(&mut kv_bench(&["lab", "--out", file]), "give a directory that can be written");
    one_line(
        &mut kv_bench(&["budget", "--budget", file, "--rustc", "r", "--counted", "/no"]),
        "--counted /no is not there",
    );
    assert_eq!(listed(out.path()), ["file"]);
}

/// Starts a tool, sends it a signal once `met`, and sees that it ends as a shell expects, with nothing left.
fn ends_by(signal: Signal, code: i32, tool: &str, out: &Path, met: &mut dyn FnMut(&Path) -> bool) {
    let mut command = kv_bench(&[tool, "--server"]);
    command.arg(server_binary()).arg("--out").arg(out).stdout(Stdio::null()).stderr(Stdio::null());
    let mut tool = Tool(command.spawn().unwrap());
    let wait_for = |what: &str, met: &mut dyn FnMut() -> bool| {
        let start = Instant::now();
        while !met() {
            assert!(start.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for("the moment", &mut || met(out));
    kill_process(Pid::from_raw(i32::try_from(tool.0.id()).unwrap()).unwrap(), signal).unwrap();
    wait_for("the tool's end", &mut || tool.0.try_wait().unwrap().is_some());
    assert_eq!(tool.0.wait().unwrap().code(), Some(code));
    assert_eq!(mentioning(out), [""; 0]);
    assert_eq!(listed(out), [""; 0]);
}

#[test]
fn signals_leave_no_process_and_no_directory() {
    let serves = |out: &Path| mentioning(out).iter().any(|line| line.contains("--data-dir"));
    let made = |out: &Path| !listed(out).is_empty();
    for (nth, tool) in RACES.into_iter().chain(["first"]).enumerate() {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().canonicalize().unwrap();
        let (signal, code) = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)][nth % 3];
        // As a server begins, while it is started; and when it has run for a moment: while keys are stored, or under load.
        ends_by(signal, code, tool, &path, &mut |out| made(out));
        let mut since = None;
        ends_by(signal, code, tool, &path, &mut |out| {
            since = since.or_else(|| serves(out).then(Instant::now));
            since.is_some_and(|since: Instant| since.elapsed() > Duration::from_millis(700))
        });
    }
}
