//! Which links are cut, and what happens to a message.

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::plan::Plan;

/// The links between members.
#[derive(Debug, Default)]
pub struct Network {
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    /// No fault strikes any more.
    healed: bool,
}

impl Network {
    /// After how many microseconds each copy of a message arrives: none if it is lost, two if it is duplicated.
    pub fn copies(&self, plan: &Plan, rng: &mut Rng, from: u64, to: u64) -> Vec<u64> {
        let chance = |rng: &mut Rng, rate: u32| rng.u32(0..1_000) < rate;
        if self.healed {
            return vec![rng.u64(50..500)];
        }
        if self.cut.contains(&(from, to)) || chance(rng, plan.loss) {
            return Vec::new();
        }
        let copies = 1 + usize::from(chance(rng, plan.duplicate));
        (0..copies).map(|_| rng.u64(50..=50 + plan.delay_us_max)).collect()
    }

    /// Cuts members apart: some from the rest, in both directions or in one.
    pub fn partition(&mut self, rng: &mut Rng, members: u64) {
        let (both, side) = (rng.bool(), rng.u64(1..1 << members));
        let inside = |id: u64| side & (1 << (id - 1)) != 0;
        for from in 1..=members {
            for to in 1..=members {
                if inside(from) && !inside(to) || both && inside(to) && !inside(from) {
                    self.cut.insert((from, to));
                }
            }
        }
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// Mends all links for good: nothing is lost from here on.
    pub fn heal(&mut self) {
        self.mend();
        self.healed = true;
    }
}
