//! When this member stands for election, and to whom it leaves leadership.
//!
//! All of this is about time, and none about safety: a vote is won by raft's rules however early somebody stands. What raft calls a
//! leader's lease, within which nobody listens to candidates, only keeps the peace; no read relies on it.

use std::cmp::Reverse;

use kv_codec::planted::{Bug, is_planted};
use raft::StateRole;

use super::{Node, NodeConfig, mix};

/// Ticks by which members stand for election one after another, when all of them miss the leader at once: enough for the first to win.
const TURN_TICKS: usize = 2;
/// Ticks until the first of them tries again, at least: a vote takes two writes of a disk.
const AGAIN_TICKS: usize = 3;

/// The leader's process has ended: this member stands for election in its turn, long before the election timeout.
///
/// It is over once another leader is known, or that one is heard again; or after two election timeouts, when there are too few to
/// elect one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hurry {
    /// The leader that is gone.
    leader: u64,
    /// How many voters stand before this one.
    turn: usize,
    /// The last tick of it.
    until: u64,
}

impl Node {
    /// The process of `peer` has ended. If it led, its followers need no election timeout to find that out.
    pub(super) fn on_gone(&mut self, peer: u64) {
        let NodeConfig { id, election_ticks, .. } = self.config;
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Follower || raft.leader_id != peer {
            return;
        }
        // Each term has another order, the same for everybody.
        let place = |id: u64| mix(id ^ mix(raft.term));
        let voters = raft.prs().conf().to_conf_state().voters;
        let turn = voters.iter().filter(|voter| **voter != peer && place(**voter) < place(id)).count();
        // From here on this member listens to others that stand.
        raft.election_elapsed = raft.election_elapsed.max(election_ticks);
        self.hurry = Some(Hurry { leader: peer, turn, until: self.ticks + 2 * election_ticks as u64 });
    }

    /// Raft draws a random election timeout at each change of role; this one repeats from the seed.
    pub(super) fn set_election_timeout(&mut self) {
        let NodeConfig { id, seed, election_ticks, .. } = self.config;
        let raft = &mut self.raw.raft;
        if let Some(Hurry { leader, turn, until }) = self.hurry {
            let is_led = raft.leader_id != 0 && (raft.leader_id != leader || raft.election_elapsed < election_ticks);
            if !is_led && self.ticks <= until {
                if raft.leader_id == 0 {
                    // It stood, or voted: the next try comes as many ticks later, and its turn.
                    let again = (election_ticks + 1).saturating_sub(AGAIN_TICKS);
                    raft.election_elapsed = raft.election_elapsed.max(again);
                }
                let ticks = election_ticks + 1 + TURN_TICKS * turn;
                // Raft takes none longer than this.
                return raft.set_randomized_election_timeout(ticks.min(2 * election_ticks - 1));
            }
            self.hurry = None;
        }
        let spread = mix(seed ^ mix(id ^ mix(raft.term))) % election_ticks as u64;
        let ticks = election_ticks + usize::try_from(spread).expect("below election_ticks");
        raft.set_randomized_election_timeout(ticks);
    }

    /// Leaves leadership to the voter that needs least for it; false when there is none.
    pub(super) fn hand_over_leadership(&mut self) -> bool {
        let heir = self.is_leader().then(|| self.heir()).flatten();
        if let Some(heir) = heir {
            self.raw.transfer_leader(heir);
        }
        heir.is_some()
    }

    /// The voter that was heard of late and has most of the log, this one aside.
    fn heir(&self) -> Option<u64> {
        let members = self.raw.raft.prs();
        let voters = members.conf().to_conf_state().voters;
        let others = voters.into_iter().filter(|id| *id != self.config.id);
        let ranked = others.filter_map(|id| members.get(id).map(|of| (of.recent_active, of.matched, Reverse(id))));
        ranked.max().map(|(.., Reverse(id))| id)
    }

    /// Whether this leader, which is to be removed, shall hand over first: once in each term. Whoever asked for the removal asks
    /// again, and asks the next leader, if there is one by then.
    pub(super) fn hands_over_before_removal(&mut self) -> bool {
        if is_planted(Bug::RemovedLeads) {
            return false;
        }
        let term = self.raw.raft.term;
        if self.raw.raft.lead_transferee.is_some() {
            return true;
        }
        std::mem::replace(&mut self.handed_over, term) != term && self.hand_over_leadership()
    }
}
