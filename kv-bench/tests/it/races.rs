//! The tools that race servers, each as small as it can be: a report with figures, one line for bad input, nothing left behind.

use serde_json::Value;

use crate::server_binary;
use crate::wire::{kv_bench, listed, mentioning, text};

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
