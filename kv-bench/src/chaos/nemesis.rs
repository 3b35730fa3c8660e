//! What strikes the cluster: one fault after another, sometimes two at once, drawn from the seed; each is made good before the next.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tonic::transport::Endpoint;

use super::shared::Shared;
use crate::members::Cluster;

/// How long a fault lasts, and the calm before the next, in milliseconds.
const LASTS_MS: std::ops::Range<u64> = 300..5_000;
const CALM_MS: std::ops::Range<u64> = 500..3_000;
/// One fault in this many has company.
const TWO_EVERY: u32 = 4;
/// Of a link that is slow, the delay of each piece.
const DELAY_MS: std::ops::Range<u64> = 5..150;
/// Of a link that tears, pieces in a thousand.
const TORN_PER_MILLE: std::ops::Range<u32> = 5..80;
/// A link that flaps is cut for so long, and whole for as long.
const FLAP: Duration = Duration::from_millis(250);
/// How often a change of the membership is asked for, and the pause between: etcd refuses it until all members have
/// been connected for five seconds.
const CHANGE_TRIES: u32 = 30;
const CHANGE_PAUSE: Duration = Duration::from_secs(1);
/// After a change the new member is given so long to join before the next fault.
const JOINS_WITHIN: Duration = Duration::from_secs(60);

/// A kind of fault, as `--faults` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Kill,
    Pause,
    Cut,
    Slow,
    Tear,
    Replace,
}

/// All kinds, by name.
pub(super) const KINDS: [(&str, Kind); 6] = [
    ("kill", Kind::Kill),
    ("pause", Kind::Pause),
    ("cut", Kind::Cut),
    ("slow", Kind::Slow),
    ("tear", Kind::Tear),
    ("replace", Kind::Replace),
];

impl Kind {
    /// Whether a single member can suffer it.
    pub(super) fn needs_peers(self) -> bool {
        !matches!(self, Self::Kill | Self::Pause)
    }

    fn weight(self) -> u32 {
        match self {
            Self::Kill | Self::Cut => 6,
            Self::Pause => 4,
            Self::Slow | Self::Tear => 2,
            // It takes ten seconds and more.
            Self::Replace => 1,
        }
    }
}

/// A fault, by the slots that it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Kill(Vec<usize>),
    Pause(Vec<usize>),
    /// Nothing goes from the first slots to the second.
    Cut(Vec<(usize, usize)>),
    /// The same, cut and whole by turns.
    Flap(Vec<(usize, usize)>),
    Slow(Vec<(usize, usize)>, Duration),
    Tear(u32),
    Replace(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = |slots: &[usize]| {
            let numbers: Vec<String> = slots.iter().map(|slot| (slot + 1).to_string()).collect();
            numbers.join(", ")
        };
        let links = |links: &[(usize, usize)]| {
            let arrows: Vec<String> = links.iter().map(|(from, to)| format!("{}->{}", from + 1, to + 1)).collect();
            arrows.join(", ")
        };
        match self {
            Self::Kill(which) => write!(f, "kill -9 of {}", slots(which)),
            Self::Pause(which) => write!(f, "SIGSTOP of {}", slots(which)),
            Self::Cut(which) => write!(f, "cut {}", links(which)),
            Self::Flap(which) => write!(f, "cut and whole by turns: {}", links(which)),
            Self::Slow(which, delay) => write!(f, "slow by {delay:?}: {}", links(which)),
            Self::Tear(per_mille) => write!(f, "all links tear {per_mille} pieces in 1000"),
            Self::Replace(slot) => write!(f, "replace {}", slot + 1),
        }
    }
}

/// What struck, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Struck {
    /// By the kind's name.
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// When what began and ended: for people.
    pub(super) timeline: Vec<String>,
    /// What the cluster did not do that it should have.
    pub(super) violations: Vec<String>,
    /// The server does not change its membership: its own words.
    pub(super) cannot_replace: Option<String>,
}

/// The faults of a run.
pub(super) struct Nemesis {
    pub(super) cluster: Cluster,
    pub(super) shared: Arc<Shared>,
    pub(super) random: fastrand::Rng,
    pub(super) kinds: Vec<Kind>,
    pub(super) struck: Struck,
    /// Prints the timeline as it comes.
    pub(super) verbose: bool,
}

impl Nemesis {
    /// Strikes until `length` is over, then makes all good.
    ///
    /// # Errors
    /// The tool itself failed. What the cluster fails to do is in [`Struck`].
    pub(super) async fn strike(&mut self, length: Duration) -> Result<()> {
        let end = tokio::time::Instant::now() + length;
        while tokio::time::Instant::now() < end && self.struck.violations.is_empty() {
            self.sleep(CALM_MS).await;
            let leader = self.cluster.leader().await;
            let fault = self.draw(leader);
            if let Fault::Replace(slot) = fault {
                self.replace(slot).await?;
            } else {
                self.begin(&fault)?;
                if self.random.u32(..TWO_EVERY) == 0 {
                    self.sleep(LASTS_MS).await;
                    let other = self.draw(leader);
                    // A membership changes while nothing else is wrong.
                    if !matches!(other, Fault::Replace(_)) {
                        self.begin(&other)?;
                    }
                }
                self.last(&fault).await;
            }
            self.heal()?;
        }
        Ok(())
    }

    async fn sleep(&mut self, within_ms: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(within_ms))).await;
    }

    fn note(&mut self, what: &str) {
        let line = format!("{:>9.3} s  {what}", self.shared.now() as f64 / 1e9);
        if self.verbose {
            println!("{line}");
        }
        self.struck.timeline.push(line);
    }

    fn count(&mut self, name: &'static str) {
        *self.struck.faults.entry(name).or_default() += 1;
    }

    /// The next fault. The leader is struck more often than chance would.
    fn draw(&mut self, leader: Option<usize>) -> Fault {
        let slots = self.cluster.members().len();
        let total: u32 = self.kinds.iter().map(|kind| kind.weight()).sum();
        let mut drawn = self.random.u32(..total);
        let mut kinds = self.kinds.iter();
        let kind = loop {
            let kind = *kinds.next().expect("the weights add up to the total");
            match drawn.checked_sub(kind.weight()) {
                Some(rest) => drawn = rest,
                None => break kind,
            }
        };
        let random = &mut self.random;
        let any = random.usize(..slots);
        let target = leader.filter(|_| random.bool()).unwrap_or(any);
        let others = (0..slots).filter(|slot| *slot != target);
        match kind {
            // The others as well, sometimes: a quorum is gone then, or all of them.
            Kind::Kill => Fault::Kill(match random.u32(..8) {
                0 => (0..slots).collect(),
                1 => (0..slots).filter(|slot| *slot == target || random.bool()).collect(),
                _ => vec![target],
            }),
            Kind::Pause => Fault::Pause(match random.u32(..8) {
                0 => (0..slots).filter(|slot| *slot == target || random.bool()).collect(),
                _ => vec![target],
            }),
            Kind::Cut => {
                let out = others.clone().map(|other| (target, other));
                let back = others.clone().map(|other| (other, target));
                let one = others.clone().nth(random.usize(..slots - 1)).expect("there are others");
                match random.u32(..7) {
                    0 | 1 => Fault::Cut(out.chain(back).collect()),
                    2 => Fault::Cut(out.collect()),
                    3 => Fault::Cut(back.collect()),
                    4 => Fault::Cut(vec![(target, one), (one, target)]),
                    5 => Fault::Cut(vec![(target, one)]),
                    _ => Fault::Flap(out.chain(back).collect()),
                }
            }
            Kind::Slow => {
                let delay = Duration::from_millis(random.u64(DELAY_MS));
                let links = if random.bool() {
                    (0..slots)
                        .flat_map(|from| (0..slots).map(move |to| (from, to)))
                        .filter(|(from, to)| from != to)
                        .collect()
                } else {
                    others.flat_map(|other| [(target, other), (other, target)]).collect()
                };
                Fault::Slow(links, delay)
            }
            Kind::Tear => Fault::Tear(random.u32(TORN_PER_MILLE)),
            Kind::Replace => Fault::Replace(target),
        }
    }

    fn begin(&mut self, fault: &Fault) -> Result<()> {
        self.note(&fault.to_string());
        self.count(match fault {
            Fault::Kill(_) => "kill",
            Fault::Pause(_) => "pause",
            Fault::Cut(_) | Fault::Flap(_) => "cut",
            Fault::Slow(..) => "slow",
            Fault::Tear(_) => "tear",
            Fault::Replace(_) => unreachable!("it is counted when it is done"),
        });
        match fault {
            Fault::Kill(slots) => {
                let down: Vec<String> = self.cluster.ended();
                self.struck.violations.extend(down);
                slots.iter().for_each(|slot| self.cluster.kill(*slot));
            }
            Fault::Pause(slots) => {
                for &slot in slots {
                    if self.cluster.members()[slot].runs() {
                        self.cluster.pause(slot)?;
                    }
                }
            }
            Fault::Cut(links) | Fault::Flap(links) => {
                self.cluster.links().change(|from, to, link| link.cut |= links.contains(&(from, to)));
            }
            Fault::Slow(links, delay) => self.cluster.links().change(|from, to, link| {
                if links.contains(&(from, to)) {
                    link.delay = *delay;
                }
            }),
            Fault::Tear(per_mille) => self.cluster.links().change(|_, _, link| link.torn_per_mille = *per_mille),
            Fault::Replace(_) => unreachable!("it has a way of its own"),
        }
        Ok(())
    }

    /// Lets it last.
    async fn last(&mut self, fault: &Fault) {
        let lasts = Duration::from_millis(self.random.u64(LASTS_MS));
        let Fault::Flap(links) = fault else {
            tokio::time::sleep(lasts).await;
            return;
        };
        let end = tokio::time::Instant::now() + lasts;
        let mut cut = true;
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(FLAP).await;
            cut = !cut;
            self.cluster.links().change(|from, to, link| {
                if links.contains(&(from, to)) {
                    link.cut = cut;
                }
            });
        }
    }

    /// Makes good whatever struck. A process that has ended by itself is a violation.
    pub(super) fn heal(&mut self) -> Result<()> {
        let ended = self.cluster.ended();
        self.struck.violations.extend(ended);
        self.cluster.links().heal();
        for slot in 0..self.cluster.members().len() {
            if self.cluster.members()[slot].is_paused() {
                self.cluster.resume(slot)?;
            }
            if !self.cluster.members()[slot].should_run() {
                self.cluster.restart(slot)?;
            }
        }
        self.note("healed");
        Ok(())
    }

    /// Another member in the place of one that is lost with its disk.
    async fn replace(&mut self, slot: usize) -> Result<()> {
        if self.struck.cannot_replace.is_some() {
            return Ok(());
        }
        if let Err(error) = self.cluster.wait_ready(JOINS_WITHIN).await {
            self.struck.violations.push(format!("the healed cluster does not answer: {error:#}"));
            return Ok(());
        }
        let Some(id) = self.cluster.statuses().await[slot].as_ref().map(|status| status.id) else { return Ok(()) };
        self.note(&Fault::Replace(slot).to_string());
        self.cluster.kill(slot);
        let removed = self.insist(slot, async |cluster, through| cluster.remove(id, through).await).await;
        if let Err(why) = removed {
            if why.contains("Unimplemented") || why.contains("not implemented") {
                self.note(&format!("no member can be replaced: {why}"));
                self.struck.cannot_replace = Some(why);
            } else {
                self.struck.violations.push(format!("member {} was not removed: {why}", slot + 1));
            }
            return Ok(());
        }
        self.note("removed");
        if let Err(why) = self.insist(slot, async |cluster, through| cluster.add(slot, through).await).await {
            self.struck.violations.push(format!("no member was added in the place of {}: {why}", slot + 1));
            return Ok(());
        }
        self.shared.members_are(self.cluster.endpoints());
        self.count("replace");
        self.note("added");
        if let Err(error) = self.cluster.wait_ready(JOINS_WITHIN).await {
            self.struck.violations.push(format!("the new member in the place of {} did not join: {error:#}", slot + 1));
        }
        Ok(())
    }

    /// Asks for a change of the membership, by one member after another, until it is done.
    async fn insist(
        &mut self,
        without: usize,
        change: impl AsyncFn(&mut Cluster, &Endpoint) -> Result<()>,
    ) -> Result<(), String> {
        let mut why = String::new();
        for attempt in 0..CHANGE_TRIES as usize {
            let endpoints = self.cluster.endpoints();
            let others: Vec<usize> = (0..endpoints.len()).filter(|slot| *slot != without).collect();
            let through = &endpoints[others[attempt % others.len()]];
            match change(&mut self.cluster, through).await {
                Ok(()) => return Ok(()),
                Err(error) => why = format!("{error:#}"),
            }
            if why.contains("Unimplemented") || why.contains("not implemented") {
                break;
            }
            tokio::time::sleep(CHANGE_PAUSE).await;
        }
        Err(why)
    }
}
