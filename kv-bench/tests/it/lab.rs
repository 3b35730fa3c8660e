//! `kv-bench lab` as its user sees it: a page, one line for bad input, nothing left behind.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wire::{Tool, kv_bench, listed, text};

/// A condition that is not met by then is not met at all.
const WITHIN: Duration = Duration::from_secs(60);

fn lab(out: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = kv_bench(&["lab"]);
    command.arg("--out").arg(out).args(arguments);
    command
}

/// Every experiment once, as short as it can be.
#[test]
fn a_quick_run_has_every_experiment_and_leaves_only_the_report() {
    let out = tempfile::tempdir().unwrap();
    let output = lab(out.path(), &["--quick"]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(listed(out.path()), ["lab.html", "lab.json", "lab.md"], "{text}");

    let read = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("lab.json")).unwrap();
    let ids: Vec<&str> = json["sections"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["1a", "1b", "1c", "1d", "1e", "1f", "1g", "1h", "2", "3", "4", "5", "6", "7", "8"]);
    let (html, markdown) = (read("lab.html"), read("lab.md"));
    for design in
        ["global-lock", "write-batch", "sharded-map", "concurrent-map", "btree-lock", "sharded-btree", "snapshot"]
    {
        assert!(json["sections"][0]["figures"][design].as_f64().unwrap() > 0.0, "{design}");
        assert!(html.contains(design) && markdown.contains(design), "{design}");
    }
    assert!(html.contains("<svg") && !markdown.contains("Not in this report"), "{markdown}");

    // One experiment again: the others stay.
    let output = lab(out.path(), &["--quick", "--only", "6"]).output().unwrap();
    assert!(output.status.success(), "{}", self::text(&output));
    let again: serde_json::Value = serde_json::from_str(&read("lab.json")).unwrap();
    assert_eq!(again["sections"][0], json["sections"][0]);
    assert_ne!(again["sections"][12]["rounds"], json["sections"][12]["rounds"]);
}

#[test]
fn bad_input_is_one_line_and_exit_code_1() {
    let out = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], says: &str| {
        let output = lab(out.path(), arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.lines().count() == 1 && error.contains(says), "{says:?} is not the one line of:\n{error}");
    };
    check(&["--only", "9"], "unknown experiment \"9\"");
    check(&["--rounds", "0"], "--rounds is from 1");
    check(&["--secs", "x"], "'x'");
    assert_eq!(listed(out.path()), [""; 0]);
    std::fs::write(out.path().join("lab.json"), "{}").unwrap();
    check(&["--only", "6"], "is no report of this version: remove it");
}

#[test]
fn an_interrupt_leaves_no_directory() {
    let out = tempfile::tempdir().unwrap();
    let command = &mut lab(out.path(), &["--only", "1b", "--secs", "60"]);
    let mut tool = Tool(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let wait_for = |what: &str, met: &mut dyn FnMut() -> bool| {
        let start = Instant::now();
        while !met() {
            assert!(start.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for("an engine's files", &mut || listed(out.path()).iter().any(|name| name.starts_with("lab-")));
    kill_process(Pid::from_raw(i32::try_from(tool.0.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    wait_for("the tool's end", &mut || tool.0.try_wait().unwrap().is_some());
    assert_eq!(tool.0.wait().unwrap().code(), Some(130));
    assert_eq!(listed(out.path()), [""; 0]);
}
