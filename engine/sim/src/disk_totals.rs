//! The totals of histories of the blob logs.

use crate::campaign::{Ran, Totals};
use crate::replayable::Replayable;
use keyway_sim::Violation;
use keyway_sim::disk::history;
use serde_json::{Value, json};

/// What is counted of them.
#[derive(Debug, Default)]
pub struct DiskTotals {
    errands: u64,
    acknowledged: u64,
    crashes: u64,
    compacted: u64,
}

impl Totals for DiskTotals {
    fn run(seed: u64) -> Ran<Self> {
        let outcome = history::run_seed(seed);
        Ran {
            virtual_us: outcome.virtual_us,
            violation: outcome.violation,
            totals: Self {
                errands: outcome.errands,
                acknowledged: outcome.acknowledged,
                crashes: outcome.crashes,
                compacted: outcome.compacted,
            },
        }
    }

    fn add(&mut self, other: Self) {
        self.errands += other.errands;
        self.acknowledged += other.acknowledged;
        self.crashes += other.crashes;
        self.compacted += other.compacted;
    }
}

impl Replayable for DiskTotals {
    const COMMAND: &'static str = "disk";
    const NAME: &'static str = "histories of the blob logs";

    fn trace_of(seed: u64, whole: bool) -> (Vec<String>, Option<Violation>) {
        history::trace_of(seed, whole)
    }

    fn json(&self) -> Value {
        json!({
            "errands": self.errands,
            "acknowledged": self.acknowledged,
            "crashes": self.crashes,
            "compacted_segments": self.compacted,
        })
    }

    fn show(&self, _: u64) -> bool {
        println!(
            "{} errands, {} writes acknowledged, {} crashes, {} segments compacted",
            self.errands, self.acknowledged, self.crashes, self.compacted
        );
        true
    }
}
