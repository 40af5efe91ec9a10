//! The short version of `make sim`: a few hundred histories, those that failed before, and a check that a seed determines
//! its history. `KEYWAY_SIM_SEEDS` and `KEYWAY_SIM_FROM` run others.

use keyway_sim::node::NEWEST_FROM;
use keyway_sim::{Coverage, IMPOSSIBLE, Input, KeyState, impossible, run_seed, trace_of};

const SEEDS_DEFAULT: u64 = 1_500;

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// Runs a history, and prints how to replay it if it breaks something.
fn must_hold(seed: u64) -> keyway_sim::RunResult {
    let outcome = run_seed(seed);
    if let Some(violation) = &outcome.violation {
        panic!(
            "seed {seed} breaks invariant {}: {}\nsee it again: make sim-replay SEED={seed}",
            violation.invariant, violation.what
        );
    }
    outcome
}

#[test]
fn the_invariants_hold_in_every_history() {
    let from = number("KEYWAY_SIM_FROM", 1_000_000);
    let mut coverage = Coverage::default();
    let mut served = 0;
    for seed in from..from + number("KEYWAY_SIM_SEEDS", SEEDS_DEFAULT) {
        let outcome = must_hold(seed);
        coverage.add(&outcome.coverage);
        served += outcome.served;
    }
    assert!(
        served > 10_000,
        "{served} operations: these histories show little"
    );
    assert_eq!(coverage.contradicted(), [], "said to be impossible");
}

/// Seeds that found a fault of the control state machine: a change that waited after a write that hung; a lock and an
/// unlock that cancelled each other out; a LOCK over a file that could contain an unlock; a command answered because of
/// another's write; a destroyed DEK that was distributed.
const CONTROL_FOUND: [u64; 9] = [26, 54, 58, 544, 558, 2957, 10529, 11621, 11703];

#[test]
fn control_keeps_its_promises_in_every_history() {
    let seeds = number("KEYWAY_SIM_SEEDS", SEEDS_DEFAULT);
    for seed in (0..seeds).chain(CONTROL_FOUND) {
        let outcome = keyway_sim::control::run_seed(seed);
        assert_eq!(
            outcome.violation, None,
            "keyway-sim control --replay {seed}"
        );
    }
}

/// Those that found a fault of the node: a rotation that never ended under a short lease; a deadline that counted from
/// later bytes of its connection; a floor that a shard did not confirm; a DEK that was retired while a revocation was in
/// force and not written.
const NODE_FOUND: [u64; 7] = [273, 518, 624, 882, 5867, 11158, 16553];

#[test]
fn the_whole_node_keeps_its_promises_in_every_history() {
    let seeds = number("KEYWAY_SIM_SEEDS", SEEDS_DEFAULT) / 5;
    let newest = (NEWEST_FROM..).take(seeds as usize);
    for seed in newest.chain(NODE_FOUND) {
        let outcome = keyway_sim::node::run_seed(seed);
        assert_eq!(outcome.violation, None, "keyway-sim node --replay {seed}");
    }
}

#[test]
fn seeds_that_failed_before_hold() {
    let text = include_str!("../regressions.txt");
    let seeds = text.lines().filter_map(|line| {
        let seed = line.split('#').next().unwrap_or_default().trim();
        (!seed.is_empty()).then(|| seed.parse().expect("one seed a line"))
    });
    for seed in seeds {
        must_hold(seed);
    }
}

#[test]
fn one_seed_gives_one_history_byte_for_byte() {
    for seed in [1, 7, 42] {
        let (first, second) = (trace_of(seed), trace_of(seed));
        assert_eq!(first, second);
        assert!(
            first.0.len() > 100,
            "seed {seed} has {} lines",
            first.0.len()
        );
    }
    assert_ne!(trace_of(1).0, trace_of(2).0);
}

#[test]
fn what_cannot_happen_is_listed_once_and_leaves_most_pairs_to_be_reached() {
    let listed: usize = IMPOSSIBLE
        .iter()
        .map(|(states, inputs, _)| states.len() * inputs.len())
        .sum();
    let pairs = KeyState::ALL.iter().flat_map(|state| {
        Input::ALL
            .iter()
            .map(move |input| impossible(*state, *input).is_some())
    });
    assert_eq!(
        pairs.filter(|is| *is).count(),
        listed,
        "a pair is listed twice"
    );
    assert!(listed * 3 < Coverage::pairs());
}
