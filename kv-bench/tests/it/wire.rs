//! `kv-bench wire` as its user sees it: a report, one line for bad input, nothing left behind.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::server_binary;

pub(crate) fn kv_bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv-bench"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn wire(server: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = kv_bench(&["wire"]);
    command.arg("--server").arg(server).arg("--out").arg(out).args(arguments);
    command
}

/// What is in a directory, by name.
pub(crate) fn listed(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Processes whose command line mentions `path`.
pub(crate) fn mentioning(path: &Path) -> Vec<String> {
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(path.to_str().unwrap())).collect()
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_short_run_reports_both_servers_and_leaves_only_the_report() {
    let out = tempfile::tempdir().unwrap();
    let arguments = ["--preset", "many", "--clients", "8", "--secs", "1", "--rounds", "1", "--keys", "200"];
    let output = wire(&server_binary(), out.path(), &arguments).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(listed(out.path()), ["wire.json", "wire.md", "wire.svg"], "{text}");
    assert_eq!(mentioning(out.path()), [""; 0], "{text}");

    let markdown = std::fs::read_to_string(out.path().join("wire.md")).unwrap();
    assert!(text.contains(&markdown), "the table is not on stdout: {text}");
    let row = |server: &str| {
        let found = markdown.lines().find(|line| line.starts_with("| many") && line.contains(server));
        found.unwrap_or_else(|| panic!("no row of {server} in\n{markdown}")).to_owned()
    };
    // Gets and puts both have latencies.
    for server in ["kv 0.1.0", "control"] {
        assert_eq!(row(server).matches(" / ").count(), 4, "{markdown}");
    }
    assert!(text.contains("To compare with etcd: "), "{text}");
}

#[test]
fn an_open_loop_keeps_to_its_rate() {
    let out = tempfile::tempdir().unwrap();
    let arguments = ["--rate", "200", "--clients", "4", "--secs", "1", "--rounds", "1", "--keys", "50"];
    let output = wire(&server_binary(), out.path(), &arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.path().join("wire.json")).unwrap()).unwrap();
    let sample = &json["runs"][0]["results"][0]["rounds"][0];
    // However slow the machine, never faster than asked; a closed loop does thousands.
    let speed = sample["operations_per_second"].as_f64().unwrap();
    assert!(speed > 0.0 && speed <= 201.0, "{speed}");
}

#[test]
fn bad_input_is_one_line_and_exit_code_1() {
    let out = tempfile::tempdir().unwrap();
    let sh = Path::new("/bin/sh");
    let check = |mut command: Command, says: &str| {
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.lines().count() == 1 && error.contains(says), "{says:?} is not the one line of:\n{error}");
    };
    check(wire(sh, out.path(), &["--clients", "0"]), "--clients is from 1");
    check(wire(sh, out.path(), &["--clients", "x"]), "'x'");
    check(wire(sh, out.path(), &["--sped", "1"]), "--sped");
    check(wire(sh, out.path(), &["--preset", "quick"]), "unknown preset");
    check(kv_bench(&["wire"]), "--server");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check(kv_bench(&["control", "--listen", &address]), "cannot listen on 127.0.0.1:");
    assert_eq!(listed(out.path()), [""; 0]);
}

/// Kills the tool when a test fails before it has ended.
pub(crate) struct Tool(pub(crate) Child);

impl Drop for Tool {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
