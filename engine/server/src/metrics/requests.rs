//! Requests answered, by operation and outcome.

pub use keyway_node::shard::figures::{CountedOperation, CountedOutcome, RequestCounts};
use serde_json::{Value, json};

use super::declare::{Additive, Emit, Reading, Sample};

impl Additive for RequestCounts {
    fn add(&mut self, other: &Self) {
        for (operation, outcome, count) in other.iter() {
            RequestCounts::add(self, operation, outcome, count);
        }
    }
}

impl Reading for RequestCounts {
    const LABELS: &'static [&'static str] = &["operation", "outcome"];

    fn export(&self, emit: &mut Emit<'_>) {
        for (operation, outcome, count) in self.iter() {
            let labels = [operation.name(), outcome.name()];
            emit(&labels, Sample::Number(count as f64));
        }
    }

    fn document(&self) -> Value {
        let rows = self.iter().map(|(operation, outcome, count)| {
            json!({ "operation": operation.name(), "outcome": outcome.name(), "count": count })
        });
        rows.collect()
    }
}
