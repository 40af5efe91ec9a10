//! The totals of histories of the whole node.

use crate::campaign::{Ran, Totals};
use crate::replayable::Replayable;
use keyway_sim::Violation;
use keyway_sim::node::{self, NodeCoverage};
use serde_json::{Value, json};

/// This many histories must reach every pair of operation and status that has no reason for not being reached.
const SEEDS_THAT_REACH_ALL: u64 = 100_000;

/// What is counted of them.
#[derive(Debug, Default)]
pub struct NodeTotals {
    turns: u64,
    answers: u64,
    served: u64,
    coverage: NodeCoverage,
}

impl Totals for NodeTotals {
    fn run(seed: u64) -> Ran<Self> {
        let outcome = node::run_seed(seed);
        Ran {
            virtual_us: outcome.virtual_us,
            violation: outcome.violation,
            totals: Self {
                turns: outcome.turns,
                answers: outcome.answers,
                served: outcome.served,
                coverage: outcome.coverage,
            },
        }
    }

    fn add(&mut self, other: Self) {
        self.turns += other.turns;
        self.answers += other.answers;
        self.served += other.served;
        self.coverage.add(&other.coverage);
    }
}

impl Replayable for NodeTotals {
    const COMMAND: &'static str = "node";
    const NAME: &'static str = "histories of the node";
    const FIRST: u64 = node::NEWEST_FROM;

    fn trace_of(seed: u64, whole: bool) -> (Vec<String>, Option<Violation>) {
        node::trace_of(seed, whole)
    }

    fn json(&self) -> Value {
        json!({
            "turns": self.turns,
            "answers": self.answers,
            "served": self.served,
            "pairs_reached": self.coverage.pairs().0,
            "pairs_missing": self.coverage.missing().len(),
        })
    }

    fn show(&self, seeds: u64) -> bool {
        println!(
            "{} turns, {} answers, {} uses of keys",
            self.turns, self.answers, self.served
        );
        let (reached, permitted) = self.coverage.pairs();
        let missing = self.coverage.missing();
        println!(
            "{reached} of {permitted} pairs of operation and status that the protocol permits were reached, {} more have a \
             reason, {} are missing:",
            permitted - reached - missing.len(),
            missing.len()
        );
        let mut last = None;
        for (opcode, status, count) in self.coverage.rows() {
            if last.replace(opcode) != Some(opcode) {
                print!("\n  {:16}", opcode.name());
            }
            print!(" {}:{count}", status.name());
        }
        println!();
        for (opcode, status) in &missing {
            println!("not reached: {} {}", opcode.name(), status.name());
        }
        let contradicted = self.coverage.contradicted();
        for (opcode, status, why) in &contradicted {
            println!(
                "reached, and said not to be: {} {} ({why})",
                opcode.name(),
                status.name()
            );
        }
        contradicted.is_empty() && (missing.is_empty() || seeds < SEEDS_THAT_REACH_ALL)
    }
}
