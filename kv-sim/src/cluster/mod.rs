//! The simulated cluster: its machines, its clock, and the events that move it.

mod clients;
mod nemesis;
mod operator;
mod phases;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use fastrand::Rng;
use kv_raft::{Envelope, Input, Position};
use kv_store::{KvHash, View};

use crate::checker::{Checker, hash};
use crate::disk::SimDisk;
use crate::history::History;
use crate::network::Network;
use crate::plan::Plan;
use crate::report::{Broken, Report};
use clients::Clients;
use nemesis::Strike;
use process::Life;

const CLUSTER_ID: u64 = 0xc1;
/// A tick of a clock that goes right.
const TICK_US: u64 = 100_000;

/// How a seed is run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Print every step.
    pub trace: bool,
    /// Strike with these faults only, by their numbers; with all when `None`. The others are drawn all the same.
    pub only: Option<BTreeSet<u64>>,
    /// Knobs to turn after the plan was drawn.
    pub set: Vec<(String, u64)>,
}

#[derive(Debug)]
enum Event {
    Tick {
        member: u64,
        boot: u64,
    },
    Written {
        member: u64,
        boot: u64,
    },
    SnapshotDone {
        member: u64,
        boot: u64,
    },
    Deliver(Envelope),
    /// A process has ended, says its machine.
    Gone {
        to: u64,
        gone: u64,
    },
    DeliverSnapshot(Envelope, Arc<View>),
    Call,
    Restart(u64),
    Strike(Strike),
    Mend,
    Room(u64),
    Operate,
}

/// What may still come of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It runs, or will again.
    Well,
    /// Something at rest on its disk was changed: its next start may be refused.
    Damaged,
    /// Its disk is gone, or was refused: it never starts again under its id.
    Lost,
    /// It left the cluster.
    Removed,
}

/// A member's machine, which outlives its process.
struct Host {
    disk: SimDisk,
    boot: u64,
    life: Option<Life>,
    fate: Fate,
    /// Stands still until then.
    paused_until: u64,
    /// Its disk does.
    stalled_until: u64,
    /// Its process dies inside its next write; the power goes with it or not.
    doomed: Option<bool>,
    tick_us: u64,
}

/// Independent streams of randomness, so that leaving out one fault changes nothing else at its root.
struct Streams {
    nemesis: Rng,
    network: Rng,
    disks: Rng,
    clients: Rng,
    hosts: Rng,
}

/// The simulated cluster.
///
/// * Everything happens in [`Cluster::handle`], at the time of the event's key, in the order of the keys.
/// * All randomness comes from `streams`.
struct Cluster {
    plan: Plan,
    options: Options,
    streams: Streams,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    hosts: BTreeMap<u64, Host>,
    network: Network,
    checker: Checker,
    history: History,
    /// `HashKV` at the end, by revision, and whose it was first.
    hashes: BTreeMap<i64, (u64, KvHash)>,
    clients: Clients,
    operator: operator::Operator,
    report: Report,
    chaos: bool,
    calling: bool,
}

/// Why a member's work ended early.
enum Fault {
    /// The process died of its disk; recovery will look at it.
    Died,
    /// A guarantee is broken.
    Broken(String),
}

/// The disk failed under a process.
struct Died;

type Work<T = ()> = Result<T, Fault>;

impl From<Died> for Fault {
    fn from(_: Died) -> Self {
        Self::Died
    }
}

impl From<String> for Fault {
    fn from(broken: String) -> Self {
        Self::Broken(broken)
    }
}

/// Runs one seed.
///
/// # Errors
/// Which guarantee was broken, and when.
///
/// # Panics
/// When the core breaks a rule of its own, or `options` turn a knob that is not there.
pub fn simulate(seed: u64, options: &Options) -> Result<Report, Broken> {
    let plan = plan_of(seed, options);
    simulate_plan(seed, plan, options)
}

/// The plan that a seed stands for, knobs turned.
///
/// # Panics
/// When `options` turn a knob that is not there.
#[must_use]
pub fn plan_of(seed: u64, options: &Options) -> Plan {
    let mut plan = Plan::draw(&mut Rng::with_seed(seed));
    for (name, value) in &options.set {
        *plan.knob(name).unwrap_or_else(|| panic!("there is no knob {name}; there are {:?}", Plan::KNOBS)) = *value;
    }
    plan
}

/// Runs a plan under a seed.
///
/// # Errors
/// Which guarantee was broken, and when.
pub fn simulate_plan(seed: u64, plan: Plan, options: &Options) -> Result<Report, Broken> {
    if options.trace {
        println!("{plan}");
    }
    let stream = |salt: u64| Rng::with_seed(seed ^ salt << 48);
    let streams =
        Streams { nemesis: stream(1), network: stream(2), disks: stream(3), clients: stream(4), hosts: stream(5) };
    let mut cluster = Cluster {
        plan,
        options: options.clone(),
        streams,
        now: 0,
        events: BTreeMap::new(),
        scheduled: 0,
        hosts: BTreeMap::new(),
        network: Network::default(),
        checker: Checker::default(),
        history: History::default(),
        hashes: BTreeMap::new(),
        clients: Clients::default(),
        operator: operator::Operator::new(plan.members + plan.learner),
        report: Report::default(),
        chaos: true,
        calling: true,
    };
    match cluster.run() {
        Ok(()) => Ok(cluster.report),
        Err(why) => Err(Broken { at_us: cluster.now, why, faults: cluster.report.faults }),
    }
}

impl Cluster {
    fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.handle(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + after, self.scheduled), event);
    }

    fn note(&mut self, text: fmt::Arguments<'_>) {
        let line = format!("{:>10} {text}", self.now);
        self.report.trace_hash = self.report.trace_hash.rotate_left(5) ^ hash(line.as_bytes());
        if self.options.trace {
            println!("{line}");
        }
    }

    /// Until when what `event` needs stands still.
    fn held_until(&self, event: &Event) -> u64 {
        let host = |member: &u64| self.hosts.get(member);
        match event {
            Event::Tick { member, .. } | Event::SnapshotDone { member, .. } => {
                host(member).map_or(0, |host| host.paused_until)
            }
            Event::Written { member, .. } => host(member).map_or(0, |host| host.paused_until.max(host.stalled_until)),
            Event::Deliver(envelope) | Event::DeliverSnapshot(envelope, _) => {
                host(&envelope.to).map_or(0, |host| host.paused_until)
            }
            Event::Gone { to, .. } => host(to).map_or(0, |host| host.paused_until),
            _ => 0,
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        let held = self.held_until(&event);
        if held > self.now {
            self.schedule(held - self.now, event);
            return Ok(());
        }
        match event {
            Event::Tick { member, boot } => self.with(member, Some(boot), |cluster| cluster.tick(member, boot)),
            Event::Written { member, boot } => self.with(member, Some(boot), |cluster| cluster.written(member)),
            Event::SnapshotDone { member, boot } => {
                self.with(member, Some(boot), |cluster| cluster.snapshot_done(member))
            }
            Event::Deliver(envelope) => {
                self.with(envelope.to, None, |cluster| cluster.step(envelope.to, Input::Message(envelope)))
            }
            Event::Gone { to, gone } => match self.host(gone).life {
                None => self.with(to, None, |cluster| cluster.step(to, Input::Gone(gone))),
                Some(_) => Ok(()),
            },
            Event::DeliverSnapshot(message, image) => self.deliver_snapshot(message, &image),
            Event::Call => self.call(),
            Event::Restart(member) => self.start(member),
            Event::Strike(strike) => self.strike(strike),
            Event::Mend => {
                self.network.mend();
                Ok(())
            }
            Event::Room(member) => {
                if let Some(host) = self.hosts.get(&member) {
                    host.disk.set_space(None);
                }
                Ok(())
            }
            Event::Operate => self.operate(),
        }
    }

    fn deliver_snapshot(&mut self, message: Envelope, image: &View) -> Result<(), String> {
        let (from, to) = (message.from, message.to);
        let ok = self.hosts.get(&to).is_some_and(|host| host.life.is_some());
        self.with(to, None, |cluster| cluster.receive_snapshot(to, message, image))?;
        self.with(from, None, |cluster| cluster.step(from, Input::SnapshotSent { to, ok }))
    }

    /// Runs something in a member's process, if there is one, of this boot. A disk that fails ends the process.
    fn with(&mut self, member: u64, boot: Option<u64>, work: impl FnOnce(&mut Self) -> Work) -> Result<(), String> {
        match self.hosts.get(&member) {
            Some(host) if host.life.is_some() && boot.is_none_or(|boot| boot == host.boot) => {}
            _ => return Ok(()),
        }
        match work(self) {
            Ok(()) => {
                if self.life(member).removed {
                    self.maybe_retire(member);
                }
                Ok(())
            }
            Err(Fault::Broken(broken)) => Err(broken),
            Err(Fault::Died) => {
                let power = self.streams.disks.bool();
                let doomed = self.host(member).doomed;
                self.report.counts.mid_write += u64::from(doomed.is_some());
                self.report.counts.disk_errors += u64::from(doomed.is_none());
                self.kill(member, doomed.unwrap_or(power));
                Ok(())
            }
        }
    }

    fn host(&mut self, member: u64) -> &mut Host {
        self.hosts.get_mut(&member).expect("the caller knows the member")
    }

    fn life(&mut self, member: u64) -> &mut Life {
        self.host(member).life.as_mut().expect("the caller has looked")
    }

    /// The members that run, with their processes.
    fn lives(&self) -> impl Iterator<Item = (u64, &Life)> {
        self.hosts.iter().filter_map(|(id, host)| Some((*id, host.life.as_ref()?)))
    }

    /// The view that is furthest, of those that run.
    fn newest_view(&self) -> Option<&View> {
        self.lives().map(|(_, life)| life.machine.view()).max_by_key(|view| view.applied_index())
    }

    fn position(&self, member: u64) -> Option<Position> {
        let view = self.hosts.get(&member)?.life.as_ref()?.machine.view();
        Some(Position { index: view.applied_index(), term: view.applied_term() })
    }
}
