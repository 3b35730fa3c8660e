//! Which links are cut or clogged, and what happens to a message.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use crate::plan::Plan;

/// The longest that a late message takes.
const LATE_US_MAX: u64 = 5_000_000;

/// The links between members.
#[derive(Debug, Default)]
pub struct Network {
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    /// From, to: nothing arrives before.
    clogged: BTreeMap<(u64, u64), u64>,
    /// No fault strikes any more.
    healed: bool,
}

impl Network {
    /// After how many microseconds each copy of a message arrives: none if it is lost, two if it is duplicated.
    pub fn copies(&self, plan: &Plan, rng: &mut Rng, now: u64, from: u64, to: u64) -> Vec<u64> {
        if self.healed {
            return vec![rng.u64(50..500)];
        }
        let chance = |rng: &mut Rng, rate: u64| rng.u64(0..1_000) < rate;
        if chance(rng, plan.loss) || self.cut.contains(&(from, to)) {
            return Vec::new();
        }
        let copies = 1 + usize::from(chance(rng, plan.duplicate));
        let held = self.clogged.get(&(from, to)).map_or(0, |until| until.saturating_sub(now));
        (0..copies)
            .map(|_| {
                let longest = if chance(rng, plan.late) { LATE_US_MAX } else { plan.delay_us_max };
                held + rng.u64(50..=50 + longest)
            })
            .collect()
    }

    /// Cuts members apart: some from the rest, in both directions or in one; or all but neighbours in a ring.
    pub fn partition(&mut self, rng: &mut Rng, members: &[u64]) {
        let (both, ring) = (rng.bool(), members.len() > 3 && rng.bool());
        let side: BTreeSet<u64> = members.iter().copied().filter(|_| rng.bool()).collect();
        let shift = rng.usize(0..members.len());
        for (i, &from) in members.iter().enumerate() {
            for (j, &to) in members.iter().enumerate() {
                let distance = (i + members.len() - j) % members.len();
                let far = distance > 1 && distance < members.len() - 1;
                let apart =
                    side.contains(&from) && !side.contains(&to) || both && side.contains(&to) && !side.contains(&from);
                // One more link of the ring is gone in some: a chain.
                let open = (i.min(j) == shift) && distance != 0;
                if if ring { far || both && open } else { apart } {
                    self.cut.insert((from, to));
                }
            }
        }
    }

    /// Holds back everything from one member to another until a moment.
    pub fn clog(&mut self, from: u64, to: u64, until: u64) {
        self.clogged.insert((from, to), until);
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// Mends all links for good: nothing is lost from here on.
    pub fn heal(&mut self) {
        self.mend();
        self.clogged.clear();
        self.healed = true;
    }
}
