//! The tools that run clusters, each as short as it can be: one member, for seconds.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::server_binary;
use crate::wire::{Tool, kv_bench, listed, mentioning, text};

fn console(directory: &Path) -> Command {
    let mut command = kv_bench(&["console", "--nodes", "1", "--no-logs", "--server"]);
    command.arg(server_binary()).arg("--data-dir").arg(directory).stdin(Stdio::piped());
    command
}

#[test]
fn a_prompt_obeys_and_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let mut tool = Tool(console(&path).spawn().unwrap());
    let mut prompt = tool.0.stdin.take().unwrap();
    prompt.write_all(b"put greeting hello there\nget greeting\nkill 1\nget greeting\nstart 1\nkll 1\nquit\n").unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(tool.0.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert!(tool.0.wait().unwrap().success(), "{said}");
    for line in ["done at revision 2", "hello there (revision 2)", "no member runs", "unknown command \"kll\""] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    assert_eq!(mentioning(&path), [""; 0], "{said}");
}

#[test]
fn a_prompt_that_is_interrupted_leaves_no_process_either() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let mut tool = Tool(console(&path).spawn().unwrap());
    let _prompt = tool.0.stdin.take().unwrap();
    let mut lines = BufReader::new(tool.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("`help` lists the commands")));
    kill_process(Pid::from_raw(i32::try_from(tool.0.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert!(lines.any(|line| line.unwrap().contains("stopped; ")));
    assert!(tool.0.wait().unwrap().success());
    assert_eq!(mentioning(&path), [""; 0]);
}

#[test]
fn a_short_chaos_is_survived() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = kv_bench(&["chaos", "--nodes", "1", "--secs", "3", "--rate", "200", "--server"]);
    let output = command.arg(server_binary()).arg("--dir").arg(directory.path()).output().unwrap();
    let text = text(&output);
    assert!(output.status.success() && text.contains("violations         0"), "{text}");
    assert!(!text.contains("everything: 0 changes"), "{text}");
    assert!(listed(directory.path()).contains(&"calls.txt".to_owned()), "{text}");
    assert_eq!(mentioning(directory.path()), [""; 0], "{text}");
}

#[test]
fn options_that_make_no_sense_are_one_line() {
    for (arguments, says) in [
        (&["console", "--nodes", "0"][..], "--nodes is from 1 to 9"),
        (&["console", "--nodes", "10"], "--nodes is from 1 to 9"),
        (&["console", "--server", "/no/such/kv"], "--server /no/such/kv is not there"),
        (&["console"], "neither as kv-server nor as etcd"),
        (&["chaos", "--minutes", "0"], "from 1 second to a day"),
        (&["chaos", "--minutes", "1", "--secs", "1"], "cannot be used with"),
        (&["chaos", "--clients", "0"], "--clients is from 1"),
        (&["chaos", "--rate", "0"], "--rate is from 1"),
        (&["chaos", "--faults", "fire"], "unknown fault \"fire\": there are kill, pause"),
        (&["chaos", "--nodes", "1", "--faults", "cut"], "1 member(s) are too few for cut"),
        (&["cluster", "--nodes", "2"], "--nodes is from 3 to 9"),
        (&["cluster", "--secs", "0"], "--secs is from 1"),
        (&["cluster", "--rounds", "0"], "--rounds is from 1"),
        (&["cluster", "--failover", "0"], "--failover is from 1"),
        (&["cluster", "--catch-up", "0"], "--catch-up is from 1"),
    ] {
        let mut command = kv_bench(&arguments[..1]);
        // The last one counts, where it is given twice.
        let output = command.args(["--server", "/bin/sh"]).args(&arguments[1..]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.lines().count() == 1 && error.contains(says), "{says:?} is not the one line of:\n{error}");
    }
}
