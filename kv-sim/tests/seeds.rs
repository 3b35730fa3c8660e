//! A fixed range of seeds, seeds that failed once, and proof that the simulator repeats itself.
//!
//! A seed means another run once the simulator draws differently. So each bug has its own test beside what was wrong as well; the
//! seeds here keep the neighbourhood covered in which it was found.

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
    [315, 714, 1105, 2007, 2584, 20_021_972, 20_052_827, 20_053_092].into_iter().for_each(holds);
}

/// A follower that was always behind was given snapshot after snapshot and kept them all: only one taken by itself removed older ones.
#[test]
fn received_snapshots_do_not_pile_up() {
    [291, 498, 541, 20_010_804, 20_017_858, 20_054_659].into_iter().for_each(holds);
}

/// The last voter left stood for election while its disk still wrote: raft-rs panics when one leads before its log is durable.
#[test]
fn the_last_voter_waits_for_its_disk() {
    holds(30_001_867);
}

/// A lone voter with a learner took itself for alone and served a read at once, from before what the learner had applied and shown.
#[test]
fn a_leader_with_a_learner_asks_before_it_serves_a_read() {
    [20_022_934, 20_040_972, 20_052_543, 20_059_234].into_iter().for_each(holds);
}

/// All members went down between a commit and its application: the start of one was the first to apply it, which the simulator did not
/// take note of and then called unheard of.
#[test]
fn a_start_may_be_the_first_to_apply() {
    [40_028_335, 40_037_640].into_iter().for_each(holds);
}

/// The same for a membership change that only removed: the checker went on with the voters of before.
#[test]
fn a_start_may_be_the_first_to_apply_a_removal() {
    [70_000_466, 90_024_433].into_iter().for_each(holds);
}

/// A leader took a forwarded batch and restarted, and the network brought the batch once more: it was given back as never taken.
#[test]
fn a_batch_that_an_earlier_run_took_is_not_given_back() {
    [2049, 2342].into_iter().for_each(holds);
}
