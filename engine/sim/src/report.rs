//! The results of a campaign, as text and as JSON.

use crate::campaign::Campaign;
use crate::core_totals::CoreTotals;
use keyway_sim::{
    Coverage, IMPOSSIBLE, INVARIANTS, Shrunk, Violation, impossible as why, shrink, trace_of,
};
use serde_json::json;
use std::path::Path;

/// Prints the totals as text.
pub fn summary(campaign: &Campaign<CoreTotals>) {
    campaign.summary("seeds");
    let totals = &campaign.totals;
    println!(
        "{} inputs, {} operations with a key, {} loads",
        totals.inputs, totals.served, totals.loads
    );
    let coverage = &totals.coverage;
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

/// Prints what a seed breaks.
pub fn broken(seed: u64, violation: &Violation) {
    let title = INVARIANTS[usize::from(violation.invariant)];
    println!(
        "\nseed {seed} breaks invariant {} ({title}):\n  {}",
        violation.invariant, violation.what
    );
}

/// Prints a failing seed: the broken promise, the short history, and how to replay it.
pub fn failure(seed: u64, violation: &Violation, shrunk: Option<&Shrunk>) {
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
    broken(seed, violation);
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
pub fn json(campaign: &Campaign<CoreTotals>, shrunk: Option<&Shrunk>) -> String {
    let totals = &campaign.totals;
    let figures = json!({
        "inputs": totals.inputs,
        "served": totals.served,
        "loads": totals.loads,
        "pairs_reached": totals.coverage.reached_pairs(),
        "pairs_missing": totals.coverage.missing().len(),
    });
    campaign.json(figures, shrunk.map(|shrunk| shrunk.steps))
}

/// Writes a file, if one is wanted. Returns `false` if that fails, and prints why.
pub fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> bool {
    let Some(path) = path else {
        return true;
    };
    let written = std::fs::write(path, text());
    if let Err(error) = &written {
        eprintln!("keyway-sim: cannot write {}: {error}", path.display());
    }
    written.is_ok()
}

/// Prints the table of impossible pairs.
pub fn impossible() {
    for (states, inputs, reason) in IMPOSSIBLE {
        println!("{inputs:?}\n  in {states:?}:\n  {reason}");
    }
}
