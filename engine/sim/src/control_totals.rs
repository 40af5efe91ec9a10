//! The totals of histories of the control state machine.

use crate::campaign::{Ran, Totals};
use crate::replayable::Replayable;
use keyway_sim::Violation;
use keyway_sim::control::{self, ControlCoverage};
use serde_json::{Value, json};

/// This many histories must reach every pair of state and input that is not listed as impossible.
const SEEDS_THAT_REACH_ALL: u64 = 20_000;

/// What is counted of them.
#[derive(Debug, Default)]
pub struct ControlTotals {
    inputs: u64,
    served: u64,
    calls: u64,
    coverage: ControlCoverage,
}

impl Totals for ControlTotals {
    fn run(seed: u64) -> Ran<Self> {
        let outcome = control::run_seed(seed);
        Ran {
            virtual_us: outcome.virtual_us,
            violation: outcome.violation,
            totals: Self {
                inputs: outcome.inputs,
                served: outcome.served,
                calls: outcome.calls,
                coverage: outcome.coverage,
            },
        }
    }

    fn add(&mut self, other: Self) {
        self.inputs += other.inputs;
        self.served += other.served;
        self.calls += other.calls;
        self.coverage.add(&other.coverage);
    }
}

impl Replayable for ControlTotals {
    const COMMAND: &'static str = "control";
    const NAME: &'static str = "histories of control";

    fn trace_of(seed: u64, whole: bool) -> (Vec<String>, Option<Violation>) {
        control::trace_of(seed, whole)
    }

    fn json(&self) -> Value {
        let (reached, pairs) = self.coverage.pairs();
        json!({
            "inputs": self.inputs,
            "served": self.served,
            "calls": self.calls,
            "pairs_reached": reached,
            "pairs": pairs,
            "pairs_missing": self.coverage.missing().len(),
        })
    }

    fn show(&self, seeds: u64) -> bool {
        println!(
            "{} inputs, {} uses and writes, {} calls to KMSes",
            self.inputs, self.served, self.calls
        );
        let (reached, pairs) = self.coverage.pairs();
        let missing = self.coverage.missing();
        println!(
            "{reached} of {pairs} pairs of state and input reached, {} more are impossible, {} are missing; {} of stage and \
             input reached",
            pairs - reached - missing.len(),
            missing.len(),
            self.coverage.stage_pairs()
        );
        for (state, input) in &missing {
            println!("not reached: {input} in state {state}");
        }
        let contradicted = self.coverage.contradicted();
        for (state, input, why) in &contradicted {
            println!("reached, and said to be impossible: {input} in state {state} ({why})");
        }
        contradicted.is_empty() && (missing.is_empty() || seeds < SEEDS_THAT_REACH_ALL)
    }
}
