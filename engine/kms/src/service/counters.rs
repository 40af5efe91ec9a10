//! Calls, counted by operation and outcome.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Class, KmsError};

/// What was asked of the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Wrapping a new DEK.
    Wrap,
    /// Unwrapping a DEK.
    Unwrap,
    /// Unlocking the provider.
    Unlock,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Wrap, Self::Unwrap, Self::Unlock];

    /// In one lower-case word, for metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
            Self::Unlock => "unlock",
        }
    }
}

/// How a call ended. The last three were never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Ok,
    /// The KMS refused.
    Denied,
    /// The key is disabled at the KMS.
    Disabled,
    /// The KMS said that we are too fast.
    Throttled,
    /// The KMS was not there, or failed.
    Unavailable,
    /// It did not answer in time.
    TimedOut,
    /// The wrapped key is damaged.
    Corrupt,
    /// The set-up is wrong.
    Misconfigured,
    /// Not sent, or answered so: the provider is locked.
    Locked,
    /// Not sent: the breaker is open.
    BreakerOpen,
    /// Not sent: no room within the budget in time.
    OverBudget,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Denied,
        Self::Disabled,
        Self::Throttled,
        Self::Unavailable,
        Self::TimedOut,
        Self::Corrupt,
        Self::Misconfigured,
        Self::Locked,
        Self::BreakerOpen,
        Self::OverBudget,
    ];

    /// In one or two lower-case words, for metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::Disabled => "disabled",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Corrupt => "corrupt",
            Self::Misconfigured => "misconfigured",
            Self::Locked => "locked",
            Self::BreakerOpen => "breaker_open",
            Self::OverBudget => "over_budget",
        }
    }

    pub(super) fn of(error: &KmsError) -> Self {
        match error.class() {
            Class::Denied => Self::Denied,
            Class::Disabled => Self::Disabled,
            Class::Locked => Self::Locked,
            Class::Throttled { .. } => Self::Throttled,
            Class::Unavailable { .. } => Self::Unavailable,
            Class::Corrupt => Self::Corrupt,
            Class::Misconfigured => Self::Misconfigured,
        }
    }
}

const CELLS: usize = Operation::ALL.len() * Outcome::ALL.len();

const fn cell(operation: Operation, outcome: Outcome) -> usize {
    operation as usize * Outcome::ALL.len() + outcome as usize
}

const _: () = assert!(cell(Operation::Unlock, Outcome::OverBudget) == CELLS - 1);

/// The counts at one moment. They only ever grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters([u64; CELLS]);

impl Counters {
    /// Calls of `operation` that ended so.
    pub fn count(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.0[cell(operation, outcome)]
    }

    /// Every operation with every outcome and its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, Outcome, u64)> + '_ {
        Operation::ALL.into_iter().flat_map(move |operation| {
            Outcome::ALL
                .into_iter()
                .map(move |outcome| (operation, outcome, self.count(operation, outcome)))
        })
    }
}

/// Counts from any thread.
#[derive(Debug)]
pub(super) struct LiveCounters([AtomicU64; CELLS]);

impl LiveCounters {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    pub(super) fn add(&self, operation: Operation, outcome: Outcome) {
        self.0[cell(operation, outcome)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn take_snapshot(&self) -> Counters {
        Counters(std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_a_cell_of_its_own() {
        let live = LiveCounters::new();
        for operation in Operation::ALL {
            for outcome in Outcome::ALL {
                live.add(operation, outcome);
            }
        }
        let counters = live.take_snapshot();
        assert_eq!(counters.iter().count(), CELLS);
        assert!(counters.iter().all(|(_, _, count)| count == 1));
    }
}
