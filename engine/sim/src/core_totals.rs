//! The totals of histories of the shards' cores.

use crate::campaign::{Ran, Totals};
use keyway_sim::{Coverage, run_seed};

/// What is counted of them.
#[derive(Debug, Default)]
pub struct CoreTotals {
    /// Inputs to shards.
    pub inputs: u64,
    /// Operations executed with a key.
    pub served: u64,
    /// Loads started.
    pub loads: u64,
    /// Pairs of state and input reached.
    pub coverage: Coverage,
}

impl Totals for CoreTotals {
    fn run(seed: u64) -> Ran<Self> {
        let outcome = run_seed(seed);
        Ran {
            virtual_us: outcome.virtual_us,
            violation: outcome.violation,
            totals: Self {
                inputs: outcome.inputs,
                served: outcome.served,
                loads: outcome.loads,
                coverage: outcome.coverage,
            },
        }
    }

    fn add(&mut self, other: Self) {
        self.inputs += other.inputs;
        self.served += other.served;
        self.loads += other.loads;
        self.coverage.add(&other.coverage);
    }

    fn progress(&self) -> String {
        let (reached, pairs) = (self.coverage.reached_pairs(), Coverage::pairs());
        format!(", {reached} of {pairs} pairs reached")
    }
}
