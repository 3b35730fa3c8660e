//! A fixed range of seeds, and proof that the simulator repeats itself.

#![allow(clippy::unwrap_used, missing_docs)]

use kv_sim::simulate;

#[test]
fn fixed_seeds_hold() {
    for seed in 1..=60 {
        if let Err(broken) = simulate(seed, false) {
            panic!("seed {seed}: {broken}\nrepeat with: cargo xtask sim --seed {seed} --trace");
        }
    }
}

#[test]
fn a_seed_repeats_step_by_step() {
    for seed in [3, 7] {
        assert_eq!(simulate(seed, false), simulate(seed, false));
    }
    assert_ne!(simulate(3, false).unwrap().trace_hash, simulate(7, false).unwrap().trace_hash);
}
