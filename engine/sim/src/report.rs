//! The results of a campaign, as text and as JSON.

use crate::campaign::Campaign;
use keyway_sim::{
    Coverage, IMPOSSIBLE, INVARIANTS, Shrunk, Violation, impossible as why, shrink, trace_of,
};
use serde_json::json;

/// Prints the totals as text.
pub fn summary(campaign: &Campaign) {
    let virtual_s = campaign.virtual_us as f64 / 1e6;
    println!(
        "{} seeds in {:.1} s, {:.0} a second; {virtual_s:.0} s of virtual time, {:.0} x real time",
        campaign.seeds,
        campaign.wall_s,
        campaign.seeds as f64 / campaign.wall_s,
        virtual_s / campaign.wall_s,
    );
    println!(
        "{} inputs, {} operations with a key, {} loads",
        campaign.inputs, campaign.served, campaign.loads
    );
    let coverage = &campaign.coverage;
    println!(
        "{} of {} pairs of state and input reached, {} more are impossible, {} are missing",
        coverage.reached_pairs(),
        Coverage::pairs(),
        Coverage::pairs() - coverage.reached_pairs() - coverage.missing().len(),
        coverage.missing().len(),
    );
}

/// Prints the pairs that were not reached and are not listed as impossible. Returns `true` if there are none.
pub fn coverage(coverage: &Coverage) -> bool {
    for (state, input) in coverage.missing() {
        println!("not reached: {input:?} in state {state:?}");
    }
    for (state, input) in coverage.contradicted() {
        println!(
            "reached, and said to be impossible: {input:?} in state {state:?} ({})",
            why(state, input).unwrap_or_default()
        );
    }
    coverage.missing().is_empty() && coverage.contradicted().is_empty()
}

/// Prints a failing seed: the broken promise, the short history, and how to replay it.
pub fn failure(seed: u64, violation: &Violation, shrunk: Option<&Shrunk>) {
    let title = INVARIANTS[usize::from(violation.invariant)];
    if let Some(shrunk) = shrunk {
        println!(
            "\nthe history of seed {seed}, {} of its {} steps:\n",
            shrunk.steps, shrunk.steps_before
        );
        for line in &shrunk.trace {
            println!("{line}");
        }
        println!(
            "\nwhich breaks invariant {}: {}",
            shrunk.violation.invariant, shrunk.violation.what
        );
    }
    println!(
        "\nseed {seed} breaks invariant {} ({title}):\n  {}",
        violation.invariant, violation.what
    );
    println!("see it again: make sim-replay SEED={seed}");
    println!("once it is fixed, add the seed to engine/sim/regressions.txt");
}

/// Prints one history. Returns `true` if it breaks nothing.
pub fn replay(seed: u64, whole: bool) -> bool {
    if !whole && let Some(shrunk) = shrink(seed) {
        failure(seed, &shrunk.violation, Some(&shrunk));
        return false;
    }
    let (lines, violation) = trace_of(seed);
    for line in lines {
        println!("{line}");
    }
    match violation {
        Some(violation) => {
            failure(seed, &violation, None);
            false
        }
        None => {
            println!("seed {seed} breaks nothing");
            true
        }
    }
}

/// Returns the totals as JSON.
pub fn json(campaign: &Campaign, shrunk: Option<&Shrunk>) -> String {
    let violation = campaign.failed.as_ref().map(|(seed, violation)| {
        json!({
            "seed": seed,
            "invariant": violation.invariant,
            "title": INVARIANTS[usize::from(violation.invariant)],
            "what": violation.what,
            "steps": shrunk.map(|shrunk| shrunk.steps),
        })
    });
    let figures = json!({
        "seeds": campaign.seeds,
        "virtual_s": campaign.virtual_us as f64 / 1e6,
        "wall_s": campaign.wall_s,
        "inputs": campaign.inputs,
        "served": campaign.served,
        "loads": campaign.loads,
        "pairs_reached": campaign.coverage.reached_pairs(),
        "pairs_missing": campaign.coverage.missing().len(),
        "violation": violation,
    });
    format!("{figures:#}\n")
}

/// Prints the table of impossible pairs.
pub fn impossible() {
    for (states, inputs, reason) in IMPOSSIBLE {
        println!("{inputs:?}\n  in {states:?}:\n  {reason}");
    }
}
