//! The blob logs that serve, over a virtual disk: the short version of `keyway-sim disk`.

use keyway_sim::disk::history::{hash_of, run_lying, run_seed, trace_of};
use keyway_store::virtual_files::Lie;

const SEEDS: u64 = 600;

#[test]
fn logs_keep_their_promises_in_every_history() {
    let (mut acknowledged, mut crashes, mut compacted) = (0, 0, 0);
    for seed in 0..SEEDS {
        let outcome = run_seed(seed);
        assert_eq!(outcome.violation, None, "keyway-sim disk --replay {seed}");
        acknowledged += outcome.acknowledged;
        crashes += outcome.crashes;
        compacted += outcome.compacted;
    }
    assert!(
        acknowledged > 20 * SEEDS && crashes > 2 * SEEDS && compacted > SEEDS,
        "{acknowledged} acknowledged writes, {crashes} crashes, {compacted} segments: these histories show little"
    );
}

#[test]
fn a_history_is_what_its_seed_says() {
    for seed in 0..50 {
        assert_eq!(hash_of(seed), hash_of(seed), "seed {seed}");
        assert_eq!(trace_of(seed, true), trace_of(seed, true), "seed {seed}");
    }
    assert_ne!(hash_of(1), hash_of(2));
}

/// A log that omits a sync behaves like one on a disk that reports a sync without having done it.
#[test]
fn a_disk_that_lies_is_noticed() {
    for lie in [Lie::NothingSynced, Lie::AllButTheLastWrite, Lie::NoNames] {
        let noticed = (0..200).find(|seed| run_lying(*seed, lie).violation.is_some());
        let seed = noticed.unwrap_or_else(|| panic!("{lie:?} was not noticed in 200 histories"));
        println!("{lie:?} is noticed by seed {seed}");
    }
}
