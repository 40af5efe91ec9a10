//! Counters of one keyspace, and of the shard.

use crate::action::Refusal;

/// Counters of one keyspace at this shard. Those that end in `_total` only grow; the others are gauges. The following
/// sums hold at all times:
///
/// ```text
/// requests_total = hits_total + misses_total
/// hits_total     = hits_fresh_total + hits_stale_total          served from memory, at once
/// misses_total   = ready_fresh_total + ready_stale_total        served after a wait
///                + the sum of refused + abandoned_total + singleflight_waiters
/// force_refresh_total = force_refreshed_total + force_refused_total + force_abandoned_total
///                     + force_waiters
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests received.
    pub requests_total: u64,
    /// Requests served from memory immediately.
    pub hits_total: u64,
    /// Of these, younger than their soft TTL.
    pub hits_fresh_total: u64,
    /// Of these, past their soft TTL.
    pub hits_stale_total: u64,
    /// Requests not served immediately.
    pub misses_total: u64,
    /// Requests served after a wait with a key that had just been loaded.
    pub ready_fresh_total: u64,
    /// Requests served after a wait with the stale key.
    pub ready_stale_total: u64,
    /// Requests refused, immediately or after a wait.
    pub refused: Refusals,
    /// Requests withdrawn while they waited.
    pub abandoned_total: u64,

    /// Force-refreshes received.
    pub force_refresh_total: u64,
    /// Force-refreshes completed.
    pub force_refreshed_total: u64,
    /// Force-refreshes refused, immediately or after a wait.
    pub force_refused_total: u64,
    /// Force-refreshes withdrawn while they waited.
    pub force_abandoned_total: u64,
    /// Force-refreshes waiting now.
    pub force_waiters: u64,

    /// Writes that needed the DEK.
    pub dek_requests_total: u64,
    /// Writes waiting for it now.
    pub dek_waiters: u64,

    /// Loads that ended, with any result.
    pub rehydrate_total: u64,
    /// Of these, failed: every result except a key, "not found" and "revoked".
    pub rehydrate_fail_total: u64,
    /// Requests waiting now.
    pub singleflight_waiters: u64,
    /// Waits that exhausted their budget.
    pub singleflight_wait_timeout_total: u64,
    /// Passes of the prefetcher.
    pub prefetch_scan_total: u64,
    /// Refreshes that the prefetcher started.
    pub prefetch_trigger_total: u64,
    /// Keys that a pass found due and left for the next pass.
    pub prefetch_skipped_total: u64,
    /// Loads that the prefetcher started for keys that were hot in a previous run.
    pub prefetch_warm_total: u64,
    /// Live keys evicted to free space for others.
    pub evicted_total: u64,
    /// Live keys that expired.
    pub expired_total: u64,
    /// Unwraps requested.
    pub unwraps_total: u64,

    /// Keys whose plaintext is in memory.
    pub resident_keys: u64,
    /// Their size in bytes.
    pub resident_key_bytes: u64,
    /// Loads that are running or wait for a DEK.
    pub flights: u64,
    /// Of these, loads started by the prefetcher, an unlock or a warm start.
    pub prefetch_flights: u64,
    /// Highest age of a key served since [`crate::Shard::take_oldest_served_age`], in µs.
    pub oldest_served_age_us: u64,
}

impl Counters {
    /// Returns `true` if every request is accounted for.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.requests_total == self.hits_total + self.misses_total
            && self.hits_total == self.hits_fresh_total + self.hits_stale_total
            && self.misses_total
                == self.ready_fresh_total
                    + self.ready_stale_total
                    + self.refused.sum()
                    + self.abandoned_total
                    + self.singleflight_waiters
            && self.force_refresh_total
                == self.force_refreshed_total
                    + self.force_refused_total
                    + self.force_abandoned_total
                    + self.force_waiters
    }
}

/// Refusals by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// [`Refusal::NotFound`].
    pub not_found: u64,
    /// [`Refusal::Invalid`].
    pub invalid: u64,
    /// [`Refusal::Revoked`].
    pub revoked: u64,
    /// [`Refusal::Retry`].
    pub retry: u64,
    /// [`Refusal::NeedsUnlock`].
    pub needs_unlock: u64,
    /// [`Refusal::Unavailable`].
    pub unavailable: u64,
    /// [`Refusal::Overloaded`].
    pub overloaded: u64,
    /// [`Refusal::DeadlineExceeded`].
    pub deadline_exceeded: u64,
}

impl Refusals {
    /// Returns the sum of all reasons.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.not_found
            + self.invalid
            + self.revoked
            + self.retry
            + self.needs_unlock
            + self.unavailable
            + self.overloaded
            + self.deadline_exceeded
    }

    pub(crate) fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::NotFound => self.not_found += 1,
            Refusal::Invalid => self.invalid += 1,
            Refusal::Revoked => self.revoked += 1,
            Refusal::Retry { .. } => self.retry += 1,
            Refusal::NeedsUnlock { .. } => self.needs_unlock += 1,
            Refusal::Unavailable { .. } => self.unavailable += 1,
            Refusal::Overloaded { .. } => self.overloaded += 1,
            Refusal::DeadlineExceeded => self.deadline_exceeded += 1,
            Refusal::NoKeyspace => unreachable!("counted by the shard: it has no keyspace"),
        }
    }
}

/// Values of one keyspace that depend on the time at which they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Remaining time of the DEK's lease in µs; 0 if there is no lease.
    pub lease_left_us: u64,
    /// Latest DEK generation under the lease; 0 if there is no lease.
    pub dek_generation: u32,
    /// Locked by command.
    pub locked: bool,
    /// Refused by the KMS, or the KMS is locked.
    pub denied: bool,
    /// The KMS is locked, by its last answer.
    pub kms_locked: bool,
    /// An unwrap is in flight.
    pub unwrap_pending: bool,
    /// Keys waiting for the prefetcher.
    pub due_keys: usize,
    /// Keys known to be INVALID.
    pub invalid_keys: usize,
    /// Keys that will be reloaded once the DEK is available.
    pub parked_keys: usize,
    /// Keys that were hot in a previous run and are queued or being loaded.
    pub warming_keys: usize,
    /// This shard's share of `max_in_flight`.
    pub max_in_flight_share: u32,
}

/// Values of the whole shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests and force-refreshes for keyspaces that do not exist.
    pub no_keyspace_total: u64,
    /// Results of loads that had already ended.
    pub late_results_total: u64,
    /// Keyspaces.
    pub keyspaces: usize,
    /// Entries in any state.
    pub entries: usize,
    /// Total size of the live keys in bytes.
    pub key_bytes: usize,
    /// Keys cached as missing.
    pub negatives: usize,
    /// Keys cached as revoked.
    pub revoked: usize,
    /// Loads that are running or wait for a DEK.
    pub flights: usize,
    /// Requests and force-refreshes waiting now.
    pub waiters: usize,
    /// Timers that are armed.
    pub timers: usize,
    /// Keyspaces whose keys are being wiped or checked after a change.
    pub sweeping: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns counters with one request of each outcome, which balance.
    fn balanced() -> Counters {
        Counters {
            requests_total: 7,
            hits_total: 2,
            hits_fresh_total: 1,
            hits_stale_total: 1,
            misses_total: 5,
            ready_fresh_total: 1,
            ready_stale_total: 1,
            refused: Refusals {
                retry: 1,
                ..Refusals::default()
            },
            abandoned_total: 1,
            singleflight_waiters: 1,
            force_refresh_total: 4,
            force_refreshed_total: 1,
            force_refused_total: 1,
            force_abandoned_total: 1,
            force_waiters: 1,
            ..Counters::default()
        }
    }

    #[test]
    fn one_unaccounted_request_is_detected() {
        assert!(balanced().is_balanced());
        let missed: [fn(&mut Counters); 12] = [
            |c| c.requests_total += 1,
            |c| c.hits_fresh_total += 1,
            |c| c.hits_stale_total += 1,
            |c| c.ready_fresh_total += 1,
            |c| c.ready_stale_total += 1,
            |c| c.refused.revoked += 1,
            |c| c.abandoned_total += 1,
            |c| c.singleflight_waiters += 1,
            |c| c.force_refresh_total += 1,
            |c| c.force_refreshed_total += 1,
            |c| c.force_refused_total += 1,
            |c| c.force_waiters += 1,
        ];
        for (at, miss) in missed.iter().enumerate() {
            let mut counters = balanced();
            miss(&mut counters);
            assert!(!counters.is_balanced(), "number {at} is not noticed");
        }
    }
}
