//! Which inputs occurred in which states of a keyspace.

use super::impossible;
use std::collections::BTreeMap;

/// States of a keyspace.
pub(super) const STATES: [&str; 5] = ["making", "open", "locking", "locked", "opening"];

/// Inputs that affect a keyspace.
pub(super) const INPUTS: [&str; 24] = [
    "LOCK",
    "LOCK_ALL",
    "KMS_LOCK",
    "UNLOCK",
    "KMS_UNLOCK",
    "SET",
    "ROTATE",
    "REWRAP",
    "DESTROY_DEKS",
    "UNLOCK_STATUS",
    "unwrap",
    "acted",
    "wiped",
    "confirmed",
    "page",
    "page failed",
    "progress",
    "unwrapped",
    "made",
    "moved",
    "KMS failed",
    "written",
    "not written",
    "tick",
];

/// How often each input occurred in each state, and in each stage of work on DEKs, blobs and locks.
#[derive(Clone, Debug, Default)]
pub struct ControlCoverage {
    states: BTreeMap<(&'static str, &'static str), u64>,
    stages: BTreeMap<(&'static str, &'static str), u64>,
}

impl ControlCoverage {
    pub(super) fn reached(&mut self, of: [&'static str; 4], input: &'static str) {
        let [state, stages @ ..] = of;
        *self.states.entry((state, input)).or_default() += 1;
        for stage in stages {
            if !matches!(stage, "steady" | "idle") {
                *self.stages.entry((stage, input)).or_default() += 1;
            }
        }
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.states {
            *self.states.entry(*key).or_default() += count;
        }
        for (key, count) in &other.stages {
            *self.stages.entry(*key).or_default() += count;
        }
    }

    /// Returns the number of pairs of state and input that were reached, and of all pairs.
    #[must_use]
    pub fn pairs(&self) -> (usize, usize) {
        let reached = self.pairs_where(|count| count > 0).len();
        (reached, STATES.len() * INPUTS.len())
    }

    /// Returns the number of pairs of stage and input that were reached.
    #[must_use]
    pub fn stage_pairs(&self) -> usize {
        self.stages.len()
    }

    /// Returns the pairs of state and input that were not reached, and are not listed as impossible.
    #[must_use]
    pub fn missing(&self) -> Vec<(&'static str, &'static str)> {
        let mut pairs = self.pairs_where(|count| count == 0);
        pairs.retain(|(state, input)| impossible::why(state, input).is_none());
        pairs
    }

    /// Returns the pairs that were reached although they are listed as impossible, with the reason.
    #[must_use]
    pub fn contradicted(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let reached = self.pairs_where(|count| count > 0).into_iter();
        let contradicted = reached.filter_map(|(state, input)| {
            let why = impossible::why(state, input)?;
            Some((state, input, why))
        });
        contradicted.collect()
    }

    fn pairs_where(&self, wanted: impl Fn(u64) -> bool) -> Vec<(&'static str, &'static str)> {
        let all = STATES
            .iter()
            .flat_map(|state| INPUTS.iter().map(move |input| (*state, *input)));
        all.filter(|pair| wanted(self.states.get(pair).copied().unwrap_or(0)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: [&str; 3] = ["steady", "steady", "idle"];

    fn reached(pairs: &[(&'static str, &'static str)]) -> ControlCoverage {
        let mut coverage = ControlCoverage::default();
        for (state, input) in pairs {
            let [changing, resealing, unlock] = STEADY;
            coverage.reached([state, changing, resealing, unlock], input);
        }
        coverage
    }

    #[test]
    fn a_reason_for_a_pair_that_was_reached_is_a_contradiction() {
        let coverage = reached(&[("open", "LOCK"), ("making", "unwrap")]);
        let contradicted = coverage.contradicted();
        assert_eq!(contradicted.len(), 1);
        assert_eq!(contradicted[0].0, "making");
        assert_eq!(contradicted[0].1, "unwrap");
    }

    #[test]
    fn a_pair_is_missing_unless_it_was_reached_or_has_a_reason() {
        let missing = reached(&[("open", "LOCK")]).missing();
        assert!(!missing.contains(&("open", "LOCK")));
        assert!(!missing.contains(&("making", "unwrap")));
        assert!(missing.contains(&("open", "UNLOCK")));
        let mut all = ControlCoverage::default();
        for state in STATES {
            for input in INPUTS {
                all.add(&reached(&[(state, input)]));
            }
        }
        assert_eq!(all.missing(), []);
    }

    #[test]
    fn every_reason_is_about_states_and_inputs_that_there_are() {
        let named = impossible::IMPOSSIBLE.iter();
        for (states, inputs, _) in named {
            assert!(states.iter().all(|state| STATES.contains(state)));
            assert!(inputs.iter().all(|input| INPUTS.contains(input)));
        }
    }
}
