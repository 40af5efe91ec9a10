//! Which inputs met a keyspace in which states.

use std::collections::BTreeMap;

/// States of a keyspace.
pub(super) const STATES: [&str; 5] = ["making", "open", "locking", "locked", "opening"];

/// Inputs that a keyspace is affected by.
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

/// How often each input met each state, and each stage of what is done to DEKs, blobs and locks.
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

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.states {
            *self.states.entry(*key).or_default() += count;
        }
        for (key, count) in &other.stages {
            *self.stages.entry(*key).or_default() += count;
        }
    }

    /// Pairs of state and input that were reached, and how many there are.
    #[must_use]
    pub fn pairs(&self) -> (usize, usize) {
        let reached = self.pairs_where(|count| count > 0).len();
        (reached, STATES.len() * INPUTS.len())
    }

    /// Pairs of stage and input that were reached.
    #[must_use]
    pub fn stage_pairs(&self) -> usize {
        self.stages.len()
    }

    /// Pairs of state and input that were not reached.
    #[must_use]
    pub fn missing(&self) -> Vec<(&'static str, &'static str)> {
        self.pairs_where(|count| count == 0)
    }

    fn pairs_where(&self, wanted: impl Fn(u64) -> bool) -> Vec<(&'static str, &'static str)> {
        let all = STATES
            .iter()
            .flat_map(|state| INPUTS.iter().map(move |input| (*state, *input)));
        all.filter(|pair| wanted(self.states.get(pair).copied().unwrap_or(0)))
            .collect()
    }
}
