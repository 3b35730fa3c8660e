//! `cargo xtask clients`: real etcd clients against a server of ours.
//!
//! Clients are optional: a machine without them passes, and says in one line each which were not run. The server gets a
//! temporary data directory and a port of its own, and is killed when the run ends, however it ends. `etcdctl` is the one in `PATH`.

mod etcdctl;
mod server;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::{Workspace, step};
use server::{Directory, Server};

/// A client in another language, how to tell whether it is there, and what it is asked to do. The script finds the server's port in `KV_PORT`,
/// and fails at the first surprise.
struct Script {
    name: &'static str,
    program: &'static str,
    /// Before the text of a program.
    flag: &'static str,
    import: &'static str,
    text: &'static str,
}

const SCRIPTS: [Script; 3] = [
    Script {
        name: "python etcd3",
        program: "python3",
        flag: "-c",
        import: "import etcd3",
        text: include_str!("etcd3.py"),
    },
    Script {
        name: "python etcd3gw",
        program: "python3",
        flag: "-c",
        import: "import etcd3gw",
        text: include_str!("etcd3gw.py"),
    },
    Script {
        name: "node etcd3",
        program: "node",
        flag: "-e",
        import: "require('etcd3')",
        text: include_str!("etcd3.js"),
    },
];

/// Runs the clients that are installed, and says which ran. `perf` has etcdctl check the server's speed as well, which takes a minute.
pub(crate) fn run(workspace: &Workspace, perf: bool) -> Result<String> {
    let etcdctl = works(Command::new("etcdctl").arg("version").env("ETCDCTL_API", "3"));
    let installed = |script: &&Script| works(Command::new(script.program).args([script.flag, script.import]));
    let (scripts, missing): (Vec<&Script>, Vec<&Script>) = SCRIPTS.iter().partition(installed);
    let named = |is: bool, scripts: &[&Script]| -> Vec<&str> {
        is.then_some("etcdctl").into_iter().chain(scripts.iter().map(|script| script.name)).collect()
    };
    let (ran, not_run) = (named(etcdctl, &scripts), named(!etcdctl, &missing));
    if !ran.is_empty() {
        step(&mut workspace.build_like_tests(&["--bin", "kv-server"]))?;
        let binary = workspace.target_directory.join("debug").join("kv-server");
        let directory = Directory::new()?;
        let server = Server::start(&binary, &directory.0.join("data"), &[])?;
        for script in &scripts {
            let mut command = Command::new(script.program);
            command.args([script.flag, script.text]).env("KV_PORT", server.port.to_string());
            println!("$ {} {} ...", script.program, script.flag);
            let status = command.status().with_context(|| script.name)?;
            ensure!(status.success(), "{}: {status}", script.name);
        }
        if etcdctl {
            etcdctl::run(&server, &binary, &directory.0, perf).context("etcdctl")?;
        }
    }
    let mut note = format!("ran: {}", if ran.is_empty() { "none".into() } else { ran.join(", ") });
    for missing in &not_run {
        println!("*** not run: {missing} not installed");
        note += &format!("; not run: {missing} not installed");
    }
    Ok(note)
}

/// Whether the command starts and succeeds.
fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
