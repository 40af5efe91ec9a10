//! Which operations had which answers.

use keyway_protocol::{Opcode, Status};
use std::collections::BTreeMap;

/// How often each operation was answered with each status.
#[derive(Clone, Debug, Default)]
pub struct NodeCoverage {
    answers: BTreeMap<(Opcode, Status), u64>,
}

impl NodeCoverage {
    pub(super) fn reached(&mut self, opcode: Opcode, status: Status) {
        *self.answers.entry((opcode, status)).or_default() += 1;
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Self) {
        for (pair, count) in &other.answers {
            *self.answers.entry(*pair).or_default() += count;
        }
    }

    /// Pairs that were reached.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.answers.len()
    }

    /// Each operation, and its answers with how many there were.
    pub fn rows(&self) -> impl Iterator<Item = (Opcode, Status, u64)> {
        self.answers
            .iter()
            .map(|((opcode, status), count)| (*opcode, *status, *count))
    }
}
