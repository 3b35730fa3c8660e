//! A cluster of real processes: members that are started, killed, paused and replaced, each with a directory and addresses of its own,
//! and, where wanted, links between them that can be cut.
//!
//! It takes any program that takes etcd's flags. What hurts a cluster, and what is to be concluded, is the caller's business.

mod ask;
mod dialer;
mod links;
mod member;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tonic::transport::Endpoint;

pub(crate) use ask::{Status, revision_of};
pub(crate) use links::Links;
pub(crate) use member::Member;

use crate::process::Counters;
use crate::target::{PORT_TRIES, Target, free_port};

/// How many members a cluster of these tools may have: as many as anybody votes with.
pub(crate) const NODES_MAX: u32 = 9;
/// How long a new cluster may take until every member answers.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two questions whether a member is ready.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Its members.
    pub(crate) nodes: u32,
    /// Whether peers reach each other through links of ours; directly if not.
    pub(crate) links: bool,
}

/// A cluster that runs, or parts of it. Dropping it kills every process and waits for its end.
///
/// * Slots are counted from 0 and keep their number; who is in one changes when its member is replaced.
/// * A slot's processes reach each other through the one link between their slots.
#[derive(Debug)]
pub(crate) struct Cluster {
    program: Target,
    directory: PathBuf,
    members: Vec<Member>,
    links: Option<Links>,
    /// Members that were ever made: names are never used again.
    named: u32,
}

impl Cluster {
    /// Starts all members on new directories in `directory`, and waits until each answers a linearizable read.
    ///
    /// # Errors
    /// When one ends, or does not answer in time; with the end of its log.
    pub(crate) async fn start(program: &Target, directory: &Path, shape: Shape) -> Result<Self> {
        for attempt in 1..=PORT_TRIES {
            let directory = directory.join(format!("cluster-{attempt}"));
            std::fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
            let mut cluster = Self::new(program, &directory, shape)?;
            let initial = cluster.initial_cluster();
            for member in &mut cluster.members {
                member.start(program, &initial, "new")?;
            }
            cluster.tell_links();
            match cluster.wait_ready(READY_WITHIN).await {
                Ok(()) => return Ok(cluster),
                // Somebody took a port between our asking and its binding.
                Err(_) if cluster.members.iter().any(Member::found_port_taken) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("{}: its ports were in use {PORT_TRIES} times in a row", program.name)
    }

    fn new(program: &Target, directory: &Path, shape: Shape) -> Result<Self> {
        let slots = shape.nodes as usize;
        let links = shape.links.then(|| Links::new(slots));
        let mut cluster =
            Self { program: program.clone(), directory: directory.to_owned(), members: Vec::new(), links, named: 0 };
        for slot in 0..slots {
            let member = cluster.make_member(slot)?;
            cluster.members.push(member);
        }
        Ok(cluster)
    }

    /// A member of a new name, with ports of its own, for `slot`.
    fn make_member(&mut self, slot: usize) -> Result<Member> {
        self.named += 1;
        let (client, peer) = (free_port()?, free_port()?);
        let dialed = match &mut self.links {
            Some(links) => links.listen(slot, peer)?,
            None => peer,
        };
        Ok(Member::new(format!("m{}", self.named), &self.directory, client, peer, dialed))
    }

    fn initial_cluster(&self) -> String {
        let entries: Vec<String> = self.members.iter().map(Member::initial_entry).collect();
        entries.join(",")
    }

    /// The links follow the processes.
    fn tell_links(&self) {
        if let Some(links) = &self.links {
            links.processes(self.members.iter().map(Member::pid).collect());
        }
    }

    /// The member in each slot.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The same, to ask after their processes.
    pub(crate) fn members_mut(&mut self) -> &mut [Member] {
        &mut self.members
    }

    /// What peers reach each other through.
    ///
    /// # Panics
    /// The cluster was made without.
    pub(crate) fn links(&self) -> &Links {
        self.links.as_ref().expect("the caller made it with links")
    }

    /// Where the clients' port of each slot's member is.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// Starts the member in `slot`, which is down, where it was.
    ///
    /// # Errors
    /// The program cannot be started at all.
    pub(crate) fn restart(&mut self, slot: usize) -> Result<()> {
        let initial = self.initial_cluster();
        self.members[slot].start(&self.program, &initial, "new")?;
        self.tell_links();
        Ok(())
    }

    /// SIGKILL, and waits for the end of the process.
    pub(crate) fn kill(&mut self, slot: usize) {
        self.members[slot].kill();
        self.tell_links();
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// There is no process.
    pub(crate) fn pause(&mut self, slot: usize) -> Result<()> {
        self.members[slot].pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// There is no process.
    pub(crate) fn resume(&mut self, slot: usize) -> Result<()> {
        self.members[slot].resume()
    }

    /// SIGTERM to all that run; whoever has not ended `within` is killed.
    pub(crate) async fn terminate(&mut self, within: Duration) {
        for member in &mut self.members {
            member.terminate();
        }
        let deadline = Instant::now() + within;
        while Instant::now() < deadline && self.members.iter_mut().any(|member| member.ended().is_none()) {
            tokio::time::sleep(POLL_EVERY).await;
        }
        (0..self.members.len()).for_each(|slot| self.kill(slot));
    }

    /// Removes the member `id` from the cluster, by the word of the member at `through`. It is done as well when it is no member any more.
    ///
    /// # Errors
    /// The member that was asked refused it or did not answer.
    pub(crate) async fn remove(&mut self, id: u64, through: &Endpoint) -> Result<()> {
        ask::remove_member(through, id).await
    }

    /// Puts another member, with nothing on its disk, into `slot`, whose member is down and removed.
    ///
    /// # Errors
    /// The member that was asked refused it or did not answer. Asking again goes on where this one ended.
    pub(crate) async fn add(&mut self, slot: usize, through: &Endpoint) -> Result<()> {
        if !self.members[slot].is_new() {
            self.members[slot] = self.make_member(slot)?;
        }
        ask::add_member(through, &self.members[slot].peer_url()).await?;
        let initial = self.initial_cluster();
        self.members[slot].start(&self.program, &initial, "existing")?;
        self.tell_links();
        Ok(())
    }

    /// What each member says of itself, by slot; nothing of one that does not answer.
    pub(crate) async fn statuses(&self) -> Vec<Option<Status>> {
        let mut asked = Vec::new();
        for member in &self.members {
            let (running, endpoint) = (member.runs(), member.endpoint());
            asked.push(tokio::spawn(async move { if running { ask::status(&endpoint).await.ok() } else { None } }));
        }
        let mut statuses = Vec::new();
        for answer in asked {
            statuses.push(answer.await.expect("asking does not panic"));
        }
        statuses
    }

    /// The slot of the leader: who says so itself, in the highest term.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let statuses = self.statuses().await;
        let led = statuses.iter().enumerate().filter_map(|(slot, status)| Some((slot, status.as_ref()?)));
        led.filter(|(_, status)| status.leads()).max_by_key(|(_, status)| status.term).map(|(slot, _)| slot)
    }

    /// Waits until a member leads and says so.
    ///
    /// # Errors
    /// None does `within`.
    pub(crate) async fn wait_leader(&self, within: Duration) -> Result<usize> {
        let started = Instant::now();
        loop {
            if let Some(slot) = self.leader().await {
                return Ok(slot);
            }
            ensure!(started.elapsed() < within, "no member led within {within:?}");
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits until every member answers a linearizable read.
    ///
    /// # Errors
    /// One ended, or did not answer `within`; with the end of its log.
    pub(crate) async fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let started = Instant::now();
        for member in &mut self.members {
            while !ask::answers(&member.endpoint()).await {
                if let Some(why) = member.ended() {
                    bail!("{} of {} ended: {why}", member.name(), self.program.name);
                }
                if started.elapsed() > within {
                    bail!(
                        "{} of {} did not answer within {within:?}{}",
                        member.name(),
                        self.program.name,
                        member.log_end()
                    );
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        Ok(())
    }

    /// Why members that should run do not: each has ended by itself.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        let ended = self.members.iter_mut().filter(|member| member.should_run());
        ended.filter_map(|member| member.ended().map(|why| format!("{}: {why}", member.name()))).collect()
    }

    /// What the kernel counted of all members that run, together.
    ///
    /// # Errors
    /// One is gone.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let pids = self.members.iter().filter_map(Member::pid);
        pids.map(|pid| Counters::of(pid).map(|counters| counters.cpu)).sum()
    }
}

/// The number of members as asked for on a command line.
///
/// # Errors
/// One sentence when there are too few or too many.
pub(crate) fn check_nodes(nodes: u32, least: u32) -> Result<()> {
    ensure!((least..=NODES_MAX).contains(&nodes), "--nodes is from {least} to {NODES_MAX}, not {nodes}");
    Ok(())
}
