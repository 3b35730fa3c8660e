//! `cargo xtask clients`: real etcd clients against a server of ours.
//!
//! Clients are optional: a machine without them passes, and says in one line each which were not run. The server gets a
//! temporary data directory and a port of its own, and is killed when the run ends, however it ends. `etcdctl` is the one in `PATH`, and is asked of
//! three members as well.

mod cluster;
mod etcdctl;
mod server;

use std::path::PathBuf;
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

/// What is run.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Has etcdctl check the server's speed as well, which takes a minute.
    #[arg(long)]
    perf: bool,
    /// An etcdctl to run in place of the one in PATH; may be given several times.
    #[arg(long)]
    etcdctl: Vec<PathBuf>,
}

/// Runs the clients that are installed, and says which ran.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<String> {
    let given = if options.etcdctl.is_empty() { &[PathBuf::from("etcdctl")][..] } else { &options.etcdctl };
    let starts = |program: &&PathBuf| works(Command::new(program).arg("version").env("ETCDCTL_API", "3"));
    let (etcdctls, no_etcdctls): (Vec<&PathBuf>, Vec<_>) = given.iter().partition(starts);
    let installed = |script: &&Script| works(Command::new(script.program).args([script.flag, script.import]));
    let (scripts, missing): (Vec<&Script>, Vec<&Script>) = SCRIPTS.iter().partition(installed);
    let named = |programs: &[&PathBuf], scripts: &[&Script]| -> Vec<String> {
        let programs = programs.iter().map(|program| program.display().to_string());
        programs.chain(scripts.iter().map(|script| script.name.to_owned())).collect()
    };
    let (ran, not_run) = (named(&etcdctls, &scripts), named(&no_etcdctls, &missing));
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
        drop(server);
        for (nth, program) in etcdctls.iter().enumerate() {
            let directory = directory.0.join(format!("etcdctl-{nth}"));
            std::fs::create_dir(&directory)?;
            let server = Server::start(&binary, &directory.join("data"), &[])?;
            let asked = etcdctl::run(program, &server, &binary, &directory, options.perf);
            asked
                .and_then(|()| cluster::run(program, &binary, &directory))
                .with_context(|| program.display().to_string())?;
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
