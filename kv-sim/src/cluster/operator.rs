//! Who runs the cluster: replaces members whose disks are lost, and changes the membership and the leader for no good reason.
//!
//! A member whose disk was lost, wiped or replaced by an old one never comes back under its id: it forgot what it promised. It is
//! removed, and a new one joins as a learner and is promoted once it has caught up.

use std::collections::BTreeSet;

use kv_codec::command::{BatchBuilder, Body, LEARNERS_DEFAULT};
use kv_raft::{ConfChange, Input, Membership};

use super::{Cluster, Event, Fate, TICK_US, Work};
use crate::history::Request;

/// How often the operator looks.
const LOOK_EVERY_US: u64 = 3 * TICK_US;
/// The most voters there are.
const VOTERS_MAX: usize = 5;
/// A learner is promoted when it lacks no more than this.
const BEHIND_MAX: u64 = 20;

/// What the operator keeps in mind.
#[derive(Debug)]
pub(super) struct Operator {
    /// The last id that was ever used.
    last_id: u64,
    /// The last change that was asked for, until it is applied: then none that was asked for before can come any more.
    pending: Option<ConfChange>,
    /// Members that a start brought to light, before anyone was seen to apply their coming.
    met: BTreeSet<u64>,
    /// The last change that anyone applied.
    applied_index: u64,
}

impl Operator {
    pub(super) fn new(last_id: u64) -> Self {
        Self { last_id, pending: None, met: BTreeSet::new(), applied_index: 0 }
    }

    /// A change at `index` was applied; whether nobody did before.
    fn note_applied(&mut self, index: u64, change: ConfChange) -> bool {
        self.pending = self.pending.filter(|pending| *pending != change);
        let first = index > self.applied_index;
        self.applied_index = self.applied_index.max(index);
        first
    }
}

impl Cluster {
    pub(super) fn begin_operating(&mut self) {
        if self.plan.damage_ms > 0 || self.plan.churn_ms > 0 {
            self.schedule(LOOK_EVERY_US, Event::Operate);
        }
    }

    /// The membership as of the last entry that anyone applied and is still there to tell.
    pub(super) fn membership(&self) -> Membership {
        let members = self.newest_view().map(|view| view.members().clone());
        members.map_or_else(Membership::default, |members| Membership {
            voters: members.voters(),
            learners: members.learners(),
        })
    }

    /// Whether a change that was asked for may still come.
    pub(super) fn change_may_come(&self) -> bool {
        self.operator.pending.is_some()
    }

    fn is_lost(&self, id: u64) -> bool {
        self.hosts.get(&id).is_none_or(|host| matches!(host.fate, Fate::Lost))
    }

    /// Whether a member's disk is lost, or may be refused.
    pub(super) fn is_doubtful(&self, id: u64) -> bool {
        self.hosts.get(&id).is_none_or(|host| host.fate != Fate::Well)
    }

    /// How many are.
    pub(super) fn doubtful(&self, voters: &[u64]) -> usize {
        voters.iter().filter(|id| self.is_doubtful(**id)).count()
    }

    /// Looks at the cluster and does what is needed.
    pub(super) fn operate(&mut self) -> Result<(), String> {
        if self.calling {
            self.schedule(LOOK_EVERY_US, Event::Operate);
        }
        let Membership { voters, learners } = self.membership();
        let lost = voters.iter().chain(&learners).copied().find(|id| self.is_lost(*id));
        if let Some(lost) = lost {
            return self.change(ConfChange::Remove(lost));
        }
        if voters.len() < usize::try_from(self.plan.members).expect("a few") && self.plan.churn_ms == 0 {
            return match learners.first() {
                None => self.add_learner(),
                Some(learner) => self.promote(*learner),
            };
        }
        Ok(())
    }

    /// Changes something, because it can.
    pub(super) fn churn(&mut self) -> Result<(), String> {
        let Membership { voters, learners } = self.membership();
        if voters.is_empty() {
            return Ok(());
        }
        let rng = &mut self.streams.nemesis;
        let (kind, pick) = (rng.u8(0..10), rng.usize(..));
        match kind {
            0..=1 => self.transfer(voters[pick % voters.len()]),
            2 => self.campaign(voters[pick % voters.len()]),
            3..=4 if voters.len() > 1 => self.change(ConfChange::Remove(voters[pick % voters.len()])),
            5 if !learners.is_empty() => self.change(ConfChange::Remove(learners[0])),
            6 if voters.len() < VOTERS_MAX => {
                self.operator.last_id += 1;
                self.change(ConfChange::AddVoter(self.operator.last_id))
            }
            _ if learners.is_empty() && voters.len() < VOTERS_MAX => self.add_learner(),
            _ => learners.first().map_or(Ok(()), |learner| self.promote(*learner)),
        }
    }

    fn add_learner(&mut self) -> Result<(), String> {
        self.operator.last_id += 1;
        self.change(ConfChange::AddLearner(self.operator.last_id))
    }

    fn promote(&mut self, learner: u64) -> Result<(), String> {
        let newest = self.checker.committed_index();
        let caught_up = self.position(learner).is_some_and(|at| at.index + BEHIND_MAX >= newest);
        if caught_up { self.change(ConfChange::AddVoter(learner)) } else { Ok(()) }
    }

    /// Somebody who thinks that it leads.
    fn leader(&self) -> Option<u64> {
        self.lives().filter(|(_, life)| life.node.is_leader()).map(|(id, _)| id).last()
    }

    fn transfer(&mut self, to: u64) -> Result<(), String> {
        let Some(leader) = self.leader() else { return Ok(()) };
        self.report.counts.transfers += 1;
        self.note(format_args!("m{leader} is asked to hand over to m{to}"));
        self.with(leader, None, |cluster| cluster.step(leader, Input::Transfer(to)))
    }

    fn campaign(&mut self, member: u64) -> Result<(), String> {
        self.with(member, None, |cluster| cluster.step(member, Input::Campaign))
    }

    /// Asks the leader for a change of the membership.
    fn change(&mut self, change: ConfChange) -> Result<(), String> {
        let Some(leader) = self.leader() else { return Ok(()) };
        if self.hosts[&leader].paused_until > self.now {
            return Ok(());
        }
        self.note(format_args!("m{leader} is asked for {change:?}"));
        self.with(leader, None, |cluster| cluster.propose_change(leader, change))
    }

    fn propose_change(&mut self, leader: u64, change: ConfChange) -> Work {
        if self.life(leader).is_full() {
            return Ok(());
        }
        let add = |member| Body::MemberAdd { member, learners_max: LEARNERS_DEFAULT };
        let is_member = self.life(leader).machine.view().members().get(id_of(change)).is_some();
        let body = match change {
            ConfChange::AddVoter(id) if is_member => Body::MemberPromote(id),
            ConfChange::AddVoter(id) => add(self.member_record(id, false)),
            ConfChange::AddLearner(id) => add(self.member_record(id, true)),
            ConfChange::Remove(id) => Body::MemberRemove(id),
        };
        let header = self.enroll(leader, Request::Member);
        let mut batch = BatchBuilder::default();
        batch.push(&body.encode(&header));
        self.operator.pending = Some(change);
        self.step(leader, Input::ProposeConfChange(change, batch.finish()))
    }

    /// A member that starts may be the first to apply a change, too: one that was committed in its last moments.
    pub(super) fn meet_members(&mut self, member: u64) {
        let view = self.life(member).machine.view();
        let (index, members) = (view.applied_index(), view.members().clone());
        self.checker.voters(index, members.voters());
        let new: Vec<u64> = members.iter().map(|member| member.id).filter(|id| !self.hosts.contains_key(id)).collect();
        // At the foundation they are put up one after the other.
        let founders = self.plan.members + self.plan.learner;
        for id in new.into_iter().filter(|id| *id > founders) {
            self.operator.met.insert(id);
            self.put_up(id);
        }
    }

    /// Puts up a machine for a new member, and starts it.
    fn put_up(&mut self, id: u64) {
        self.add_host(id);
        let after = self.streams.hosts.u64(1_000..TICK_US);
        self.schedule(after, Event::Restart(id));
    }

    /// A change was applied, here for the first time or not.
    pub(super) fn changed(&mut self, member: u64, index: u64, change: ConfChange) -> Result<(), String> {
        let first = self.operator.note_applied(index, change);
        if !first {
            return Ok(());
        }
        self.note(format_args!("m{member} is the first to apply {change:?}"));
        self.report.counts.conf_changes += 1;
        let id = id_of(change);
        match change {
            ConfChange::AddVoter(_) | ConfChange::AddLearner(_) if self.operator.met.remove(&id) => {}
            ConfChange::AddVoter(id) if self.hosts.contains_key(&id) => self.report.counts.promotions += 1,
            ConfChange::AddVoter(_) | ConfChange::AddLearner(_) => {
                if self.hosts.contains_key(&id) {
                    return Err(format!("member {id} joins a second time"));
                }
                self.put_up(id);
            }
            ConfChange::Remove(_) => {}
        }
        Ok(())
    }
}

fn id_of(change: ConfChange) -> u64 {
    match change {
        ConfChange::AddVoter(id) | ConfChange::AddLearner(id) | ConfChange::Remove(id) => id,
    }
}
