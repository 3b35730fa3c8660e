//! `kv-bench console`: a cluster on this machine, and a prompt to hurt it at.
//!
//! Members are the processes of `members`; what they log is printed as it comes. Every pair of them has a link that `cut`
//! cuts: peers dial addresses of this program, which knows by the kernel's word whose process dialed, so it works with any
//! server that takes etcd's flags.
//!
//! A quit, Ctrl-D, Ctrl-C and SIGTERM all end the members by SIGTERM first and leave no process and no temporary directory.

mod command;
mod logs;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use kv_server::proto::etcdserverpb::kv_client::KvClient;
use kv_server::proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::directory::Directory;
use crate::figures::table;
use crate::members::{Cluster, Shape, check_nodes, revision_of};
use crate::target::Target;
use command::{Command, HELP};

/// How long members may take to end by themselves.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How long a put or a get at the prompt may take, over all members.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const PROMPT: &str = "kv> ";

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The members' binary: kv-server, or anything that takes etcd's flags.
    #[arg(long, overrides_with = "server")]
    pub server: PathBuf,
    /// Members.
    #[arg(long, default_value_t = 3)]
    pub nodes: u32,
    /// An empty directory for their data and logs, which stays; a temporary one when left out.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Prints no logs. They are in the directory anyway.
    #[arg(long)]
    pub no_logs: bool,
}

/// Starts the cluster and does what is typed, until the end.
///
/// # Errors
/// Options that make no sense, a cluster that does not come up.
pub async fn run(options: &Options) -> Result<()> {
    check_nodes(options.nodes, 1)?;
    let program = Target::server(&options.server).await?;
    let directory = Directory::new(options.data_dir.as_deref(), "kv-cluster-")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut console = tokio::select! {
        console = Console::start(&program, &directory, options) => console?,
        // Dropped: whatever has started is killed.
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    println!("{} members of {} run; `help` lists the commands.", options.nodes, program.name);
    console.show_status().await;
    let mut lines = typed();
    loop {
        prompt();
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        let Some(line) = line else {
            println!();
            break;
        };
        match Command::parse(&line, console.cluster.members().len()) {
            Ok(Command::Quit) => break,
            Ok(command) => tokio::select! {
                () = console.obey(command) => {}
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            },
            Err(sentence) => println!("{sentence}"),
        }
    }
    console.cluster.terminate(ENDS_WITHIN).await;
    console.logs.shutdown().await;
    match options.data_dir {
        Some(_) => println!("stopped; their directory is {}", directory.path().display()),
        None => println!("stopped; nothing is left"),
    }
    Ok(())
}

struct Console {
    cluster: Cluster,
    logs: JoinSet<()>,
}

impl Console {
    async fn start(program: &Target, directory: &Directory, options: &Options) -> Result<Self> {
        let shape = Shape { nodes: options.nodes, links: true };
        let cluster = Cluster::start(program, directory.path(), shape).await?;
        let mut logs = JoinSet::new();
        if !options.no_logs {
            for (slot, member) in cluster.members().iter().enumerate() {
                logs.spawn(logs::follow(slot, member.log()));
            }
        }
        Ok(Self { cluster, logs })
    }

    /// Does what was typed and says how it went.
    async fn obey(&mut self, command: Command) {
        let cluster = &mut self.cluster;
        let done = match command {
            Command::Kill(slot) if !cluster.members()[slot].should_run() => Err(format!("{} is down", slot + 1)),
            Command::Kill(slot) => {
                cluster.kill(slot);
                Ok("done".into())
            }
            Command::Start(slot) if cluster.members_mut()[slot].ended().is_none() => Err(format!("{} runs", slot + 1)),
            Command::Start(slot) => said(cluster.restart(slot)),
            Command::Pause(slot) => said(cluster.pause(slot)),
            Command::Resume(slot) => said(cluster.resume(slot)),
            Command::Cut(one, other) => {
                cluster.links().change(|from, to, link| {
                    link.cut |= (from, to) == (one, other) || (from, to) == (other, one);
                });
                Ok("done".into())
            }
            Command::Heal => {
                cluster.links().heal();
                Ok("done".into())
            }
            Command::Status => return self.show_status().await,
            Command::Leader => match cluster.leader().await {
                Some(slot) => Ok((slot + 1).to_string()),
                None => Err("nobody says that it leads".into()),
            },
            Command::Put(key, value) => self.put(key, value).await,
            Command::Get(key) => self.get(key).await,
            Command::Help => Ok(HELP.into()),
            Command::Quit | Command::Nothing => return,
        };
        println!("{}", done.unwrap_or_else(|why: String| why));
    }

    async fn show_status(&mut self) {
        let statuses = self.cluster.statuses().await;
        let mut rows = Vec::new();
        for (slot, status) in statuses.into_iter().enumerate() {
            let member = &mut self.cluster.members_mut()[slot];
            let (ended, paused) = (member.ended().is_some(), member.is_paused());
            let state = match &status {
                Some(status) if status.leads() => "leads",
                Some(status) if status.learner => "learns",
                Some(_) => "follows",
                None if ended => "down",
                None if paused => "paused",
                None => "does not answer",
            };
            let mut row = vec![format!("{}", slot + 1), state.to_owned(), member.client_url()];
            row.extend(status.map_or_else(
                || vec![String::new(); 4],
                |status| {
                    let numbers = [status.term.to_string(), status.committed.to_string(), status.applied.to_string()];
                    numbers.into_iter().chain([status.revision.to_string()]).collect()
                },
            ));
            rows.push(row);
        }
        print!("{}", table(&["member", "state", "clients", "term", "committed", "applied", "revision"], &rows));
    }

    async fn put(&self, key: String, value: String) -> Result<String, String> {
        let request = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        let answer = self.ask(async |mut kv| kv.put(request.clone()).await).await?;
        let revision = revision_of(answer.header).map_err(|error| error.to_string())?;
        Ok(format!("done at revision {revision}"))
    }

    async fn get(&self, key: String) -> Result<String, String> {
        let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
        let answer = self.ask(async |mut kv| kv.range(request.clone()).await).await?;
        Ok(answer.kvs.first().map_or_else(
            || "it is not there".into(),
            |pair| format!("{} (revision {})", pair.value.escape_ascii(), pair.mod_revision),
        ))
    }

    /// The answer of the first member that gives one; else why the last did not. A write is not asked for again once it was sent.
    async fn ask<T>(
        &self,
        call: impl AsyncFn(KvClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, String> {
        let running = self.cluster.members().iter().filter(|member| member.runs());
        for member in running {
            let Ok(channel) = member.endpoint().connect().await else { continue };
            let answer = tokio::time::timeout(ANSWER_WITHIN, call(KvClient::new(channel))).await;
            let answer = answer.map_err(|_| format!("{} gave no answer in {ANSWER_WITHIN:?}", member.name()))?;
            return answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned());
        }
        Err("no member runs".into())
    }
}

fn said(done: Result<()>) -> Result<String, String> {
    done.map(|()| "done".into()).map_err(|error| format!("{error:#}"))
}

fn prompt() {
    print!("{PROMPT}");
    // Whoever closed our standard output sees no prompt.
    let _ = std::io::stdout().flush();
}

/// Lines of standard input, until its end.
fn typed() -> mpsc::Receiver<String> {
    let (lines, receiver) = mpsc::channel(1);
    // A thread of its own, which nobody waits for: a read of a terminal cannot be called off.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
