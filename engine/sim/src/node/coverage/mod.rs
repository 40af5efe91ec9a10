//! Which operations had which answers, of those that the table of the protocol permits.

mod permitted;
mod unreached;

use keyway_protocol::{Opcode, Status};
use std::collections::BTreeMap;

pub use permitted::{all_permitted, is_permitted};

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

    /// Returns how many pairs were reached, and how many the table permits.
    #[must_use]
    pub fn pairs(&self) -> (usize, usize) {
        (self.answers.len(), all_permitted().count())
    }

    /// Returns the pairs that the table permits, that were not reached, and that have no reason for it.
    #[must_use]
    pub fn missing(&self) -> Vec<(Opcode, Status)> {
        let unreached = all_permitted().filter(|pair| !self.answers.contains_key(pair));
        unreached
            .filter(|(opcode, status)| unreached::why(*opcode, *status).is_none())
            .filter(|(opcode, status)| !unreached::is_rare(*opcode, *status))
            .collect()
    }

    /// Returns the pairs that were reached although there is a reason why they are not.
    #[must_use]
    pub fn contradicted(&self) -> Vec<(Opcode, Status, &'static str)> {
        let reached = self.answers.keys();
        reached
            .filter_map(|(opcode, status)| {
                Some((*opcode, *status, unreached::why(*opcode, *status)?))
            })
            .collect()
    }

    /// Each operation, and its answers with how many there were.
    pub fn rows(&self) -> impl Iterator<Item = (Opcode, Status, u64)> {
        self.answers
            .iter()
            .map(|((opcode, status), count)| (*opcode, *status, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_missing_unless_it_was_reached_or_has_a_reason() {
        let mut coverage = NodeCoverage::default();
        assert!(coverage.missing().contains(&(Opcode::Lock, Status::Ok)));
        coverage.reached(Opcode::Lock, Status::Ok);
        assert!(!coverage.missing().contains(&(Opcode::Lock, Status::Ok)));
        assert_eq!(coverage.contradicted(), []);
        let (opcode, status) = all_permitted()
            .find(|(opcode, status)| unreached::why(*opcode, *status).is_some())
            .expect("some pairs have a reason");
        assert!(!coverage.missing().contains(&(opcode, status)));
        coverage.reached(opcode, status);
        assert_eq!(coverage.contradicted().len(), 1);
    }

    #[test]
    fn every_reason_is_about_pairs_that_the_table_permits_and_each_pair_has_one() {
        let mut listed = Vec::new();
        for (opcodes, statuses, _) in unreached::UNREACHED {
            for opcode in *opcodes {
                for status in *statuses {
                    assert!(is_permitted(*opcode, *status), "{opcode:?} {status:?}");
                    assert!(
                        !listed.contains(&(*opcode, *status)),
                        "{opcode:?} {status:?}"
                    );
                    listed.push((*opcode, *status));
                }
            }
        }
    }
}
