//! Calls, counted by keyspace, operation and outcome.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::{Class, KmsError};

/// The operations of a KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsOperation {
    /// Wrapping a new DEK.
    Wrap,
    /// Unwrapping a DEK.
    Unwrap,
    /// Generating a DEK at the KMS.
    Generate,
    /// Creating the provider's own key.
    Initialise,
    /// Unlocking the provider.
    Unlock,
    /// Logging in to the KMS.
    Login,
    /// Renewing the login.
    Renew,
}

impl KmsOperation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Wrap,
        Self::Unwrap,
        Self::Generate,
        Self::Initialise,
        Self::Unlock,
        Self::Login,
        Self::Renew,
    ];

    /// Returns the operation as one lower-case word, for metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
            Self::Generate => "generate",
            Self::Initialise => "initialise",
            Self::Unlock => "unlock",
            Self::Login => "login",
            Self::Renew => "renew",
        }
    }
}

/// How a call ended. The last three were never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsOutcome {
    /// It succeeded.
    Ok,
    /// The KMS refused.
    Denied,
    /// The key is disabled at the KMS.
    Disabled,
    /// The KMS rejects the login.
    Credential,
    /// The KMS limits the rate.
    Throttled,
    /// The KMS was unreachable, or failed.
    Unavailable,
    /// It did not answer in time.
    TimedOut,
    /// The wrapped key is corrupt.
    Corrupt,
    /// The configuration is invalid.
    Misconfigured,
    /// Not sent, or the answer: the provider is locked.
    Locked,
    /// Not sent: the breaker is open.
    BreakerOpen,
    /// Not sent: the budget was exhausted until the time limit.
    OverBudget,
}

impl KmsOutcome {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Denied,
        Self::Disabled,
        Self::Credential,
        Self::Throttled,
        Self::Unavailable,
        Self::TimedOut,
        Self::Corrupt,
        Self::Misconfigured,
        Self::Locked,
        Self::BreakerOpen,
        Self::OverBudget,
    ];

    /// Returns the outcome as one or two lower-case words, for metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::Disabled => "disabled",
            Self::Credential => "credential",
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

    pub(crate) fn of(error: &KmsError) -> Self {
        match error.class() {
            Class::Denied => Self::Denied,
            Class::Disabled => Self::Disabled,
            Class::Credential => Self::Credential,
            Class::Locked => Self::Locked,
            Class::Throttled { .. } => Self::Throttled,
            Class::Unavailable { .. } => Self::Unavailable,
            Class::Corrupt => Self::Corrupt,
            Class::Misconfigured => Self::Misconfigured,
        }
    }
}

const CELLS: usize = KmsOperation::ALL.len() * KmsOutcome::ALL.len();

const fn cell(operation: KmsOperation, outcome: KmsOutcome) -> usize {
    operation as usize * KmsOutcome::ALL.len() + outcome as usize
}

const _: () = assert!(cell(KmsOperation::Renew, KmsOutcome::OverBudget) == CELLS - 1);

/// The counts at one moment. They only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters([u64; CELLS]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; CELLS])
    }
}

impl Counters {
    /// Returns the calls of `operation` with that outcome.
    pub fn count(&self, operation: KmsOperation, outcome: KmsOutcome) -> u64 {
        self.0[cell(operation, outcome)]
    }

    /// Iterates over every operation with every outcome and its count, including zeros.
    pub fn iter(&self) -> impl Iterator<Item = (KmsOperation, KmsOutcome, u64)> + '_ {
        KmsOperation::ALL.into_iter().flat_map(move |operation| {
            KmsOutcome::ALL
                .into_iter()
                .map(move |outcome| (operation, outcome, self.count(operation, outcome)))
        })
    }

    /// Counts one call.
    pub(crate) fn add(&mut self, operation: KmsOperation, outcome: KmsOutcome) {
        self.0[cell(operation, outcome)] += 1;
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }
}

/// The counts of every keyspace, from any thread. Calls for no keyspace are under id 0, which no keyspace has.
#[derive(Debug, Default)]
pub(super) struct LiveCounters(Mutex<BTreeMap<u32, Counters>>);

impl LiveCounters {
    pub(super) fn add(&self, keyspace: u32, operation: KmsOperation, outcome: KmsOutcome) {
        // Held for one addition; a KMS call costs a thousand times as much.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.entry(keyspace).or_default().0[cell(operation, outcome)] += 1;
    }

    pub(super) fn by_keyspace(&self) -> BTreeMap<u32, Counters> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn sum(&self) -> Counters {
        let mut sum = Counters::default();
        for counters in self.by_keyspace().values() {
            sum.add_all(counters);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_a_cell_of_its_own_in_every_keyspace() {
        let live = LiveCounters::default();
        for keyspace in [0, 7] {
            for operation in KmsOperation::ALL {
                for outcome in KmsOutcome::ALL {
                    live.add(keyspace, operation, outcome);
                }
            }
        }
        for counters in live.by_keyspace().values() {
            assert_eq!(counters.iter().count(), CELLS);
            assert!(counters.iter().all(|(_, _, count)| count == 1));
        }
        assert!(live.sum().iter().all(|(_, _, count)| count == 2));
    }
}
