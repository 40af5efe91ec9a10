//! The simulator's own count of requests and their outcomes, compared with the shard's counters.

use super::{Checked, ensure};
use keyway_core::{Counters, Refusal, Refusals};

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) hits_fresh: u64,
    pub(crate) hits_stale: u64,
    pub(crate) ready: u64,
    pub(crate) refused: Refusals,
    pub(crate) abandoned: u64,
    pub(crate) waiting: u64,
    pub(crate) force: u64,
    pub(crate) refreshed: u64,
    pub(crate) force_refused: u64,
    pub(crate) force_abandoned: u64,
    pub(crate) force_waiting: u64,
    pub(crate) dek_requests: u64,
    pub(crate) dek_waiting: u64,
    pub(crate) unwraps: u64,
    /// Waits that certainly exhausted their budget.
    pub(crate) timeouts_min: u64,
}

impl Tally {
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        let of = &mut self.refused;
        let count = match refusal {
            Refusal::NotFound => &mut of.not_found,
            Refusal::Invalid => &mut of.invalid,
            Refusal::Revoked => &mut of.revoked,
            Refusal::Retry { .. } => &mut of.retry,
            Refusal::NeedsUnlock { .. } => &mut of.needs_unlock,
            Refusal::Unavailable { .. } => &mut of.unavailable,
            Refusal::Overloaded { .. } => &mut of.overloaded,
            Refusal::DeadlineExceeded => &mut of.deadline_exceeded,
            Refusal::NoKeyspace => return,
        };
        *count += 1;
    }

    /// Checks that every request is counted, under the right outcome.
    pub(crate) fn check(&mut self, counters: &Counters) -> Checked {
        for (what, counted, seen) in [
            ("requests", counters.requests_total, self.requests),
            ("fresh hits", counters.hits_fresh_total, self.hits_fresh),
            ("stale hits", counters.hits_stale_total, self.hits_stale),
            (
                "handed over after a wait",
                counters.ready_fresh_total + counters.ready_stale_total,
                self.ready,
            ),
            ("abandoned", counters.abandoned_total, self.abandoned),
            ("waiting", counters.singleflight_waiters, self.waiting),
            ("force-refreshes", counters.force_refresh_total, self.force),
            ("refreshed", counters.force_refreshed_total, self.refreshed),
            (
                "force refused",
                counters.force_refused_total,
                self.force_refused,
            ),
            (
                "force abandoned",
                counters.force_abandoned_total,
                self.force_abandoned,
            ),
            ("force waiting", counters.force_waiters, self.force_waiting),
            (
                "DEKs wanted",
                counters.dek_requests_total,
                self.dek_requests,
            ),
            ("waiting for a DEK", counters.dek_waiters, self.dek_waiting),
            ("unwraps", counters.unwraps_total, self.unwraps),
        ] {
            ensure!(
                20,
                counted == seen,
                "{what}: counted {counted}, and there were {seen}"
            );
        }
        ensure!(
            20,
            counters.refused == self.refused,
            "refusals: counted {:?}, and there were {:?}",
            counters.refused,
            self.refused
        );
        ensure!(20, counters.is_balanced(), "the counters do not add up");
        let timeouts = counters.singleflight_wait_timeout_total;
        ensure!(
            20,
            timeouts >= self.timeouts_min,
            "{timeouts} wait timeouts counted, and there were {} or more",
            self.timeouts_min
        );
        Ok(())
    }
}
