//! A fixed range of seeds, seeds that failed once, and proof that the simulator repeats itself.

#![allow(clippy::unwrap_used, missing_docs)]

use kv_sim::{Options, simulate};

fn holds(seed: u64) {
    if let Err(broken) = simulate(seed, &Options::default()) {
        panic!("seed {seed} {broken}\nrepeat with: cargo xtask sim --seed {seed} --trace");
    }
}

#[test]
fn fixed_seeds_hold() {
    (1..=60).for_each(holds);
}

#[test]
fn a_seed_repeats_step_by_step() {
    let run = |seed| simulate(seed, &Options::default());
    for seed in [3, 7] {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(3).unwrap().trace_hash, run(7).unwrap().trace_hash);
}

/// A leader removed itself and was gone before the other of two members had heard that this was committed, or had heard it and lost
/// the power before the log said so: it waited for a vote that would never come. A membership change is now durable as committed
/// before it is applied.
#[test]
fn a_removed_member_is_not_missed() {
    [315, 714, 1105, 2007, 2584].into_iter().for_each(holds);
}

/// A follower that was always behind was given snapshot after snapshot and kept them all: only one taken by itself removed older ones.
#[test]
fn received_snapshots_do_not_pile_up() {
    [291, 498, 541].into_iter().for_each(holds);
}
