//! Figures: of one keyspace, and of the shard.

use crate::action::Refusal;

/// Figures of one keyspace at this shard. Those that end in `_total` only grow; the others are
/// gauges. Requests add up at all times:
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
    /// Requests that came in.
    pub requests_total: u64,
    /// Served from memory at once.
    pub hits_total: u64,
    /// Of these, younger than their soft TTL.
    pub hits_fresh_total: u64,
    /// Of these, stale.
    pub hits_stale_total: u64,
    /// Not served at once.
    pub misses_total: u64,
    /// Waited, then handed over with a key that had just been loaded.
    pub ready_fresh_total: u64,
    /// Waited, then handed over with the stale key.
    pub ready_stale_total: u64,
    /// Refused, at once or after a wait.
    pub refused: Refusals,
    /// Taken back while they waited.
    pub abandoned_total: u64,

    /// Force-refreshes that came in.
    pub force_refresh_total: u64,
    /// Done.
    pub force_refreshed_total: u64,
    /// Refused, at once or after a wait.
    pub force_refused_total: u64,
    /// Taken back while they waited.
    pub force_abandoned_total: u64,
    /// Force-refreshes that wait now.
    pub force_waiters: u64,

    /// Writes that needed the DEK.
    pub dek_requests_total: u64,
    /// Writes that wait for it now.
    pub dek_waiters: u64,

    /// Loads that came to an end, whichever.
    pub rehydrate_total: u64,
    /// Of these, failed: everything but a key, "no such key" and "revoked".
    pub rehydrate_fail_total: u64,
    /// Requests that wait now.
    pub singleflight_waiters: u64,
    /// Waits that used up their budget.
    pub singleflight_wait_timeout_total: u64,
    /// Passes of the prefetcher.
    pub prefetch_scan_total: u64,
    /// Refreshes that the prefetcher started.
    pub prefetch_trigger_total: u64,
    /// Keys that a pass found due and left for the next.
    pub prefetch_skipped_total: u64,
    /// Loads that the prefetcher started of keys that were hot in an earlier run.
    pub prefetch_warm_total: u64,
    /// Live keys that made room for others.
    pub evicted_total: u64,
    /// Live keys that reached the end of their time.
    pub expired_total: u64,
    /// Unwraps that were asked for.
    pub unwraps_total: u64,

    /// Keys whose plaintext is in memory.
    pub resident_keys: u64,
    /// Bytes of it.
    pub resident_key_bytes: u64,
    /// Loads that run or wait for a DEK.
    pub flights: u64,
    /// Of these, those that the prefetcher, an unlock or a warm start started.
    pub prefetch_flights: u64,
    /// Age of the oldest key that was served since [`crate::Shard::take_oldest_served_age`], µs.
    pub oldest_served_age_us: u64,
}

impl Counters {
    /// Whether every request is accounted for.
    #[must_use]
    pub fn add_up(&self) -> bool {
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
    /// All of them.
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

/// Figures of one keyspace that depend on the time at which they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// What is left of the DEK's lease, µs; 0: there is none.
    pub lease_left_us: u64,
    /// Newest DEK generation under the lease; 0: there is none.
    pub dek_generation: u32,
    /// Locked by command.
    pub locked: bool,
    /// Refused by the KMS.
    pub denied: bool,
    /// An unwrap is on its way.
    pub unwrap_pending: bool,
    /// Keys that wait for the prefetcher.
    pub due_keys: usize,
    /// Keys that are known INVALID.
    pub invalid_keys: usize,
    /// Keys that will be loaded again once the DEK is at hand.
    pub parked_keys: usize,
    /// Keys that were hot in an earlier run, and that are queued or being loaded.
    pub warming_keys: usize,
    /// This shard's part of `max_in_flight`.
    pub max_in_flight_share: u32,
}

/// Figures of the whole shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests and force-refreshes for keyspaces that do not exist.
    pub no_keyspace_total: u64,
    /// Results of loads that were over already.
    pub late_results_total: u64,
    /// Keyspaces.
    pub keyspaces: usize,
    /// Entries of every state.
    pub entries: usize,
    /// Sum of the live keys' bytes.
    pub key_bytes: usize,
    /// Keys remembered as missing.
    pub negatives: usize,
    /// Keys remembered as revoked.
    pub revoked: usize,
    /// Loads that run or wait for a DEK.
    pub flights: usize,
    /// Requests and force-refreshes that wait.
    pub waiters: usize,
    /// Timers that are armed.
    pub timers: usize,
    /// Keyspaces whose keys are being wiped or looked at again after a change.
    pub sweeping: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each outcome, and what they add up to.
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
    fn one_request_that_is_not_accounted_for_shows() {
        assert!(balanced().add_up());
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
            assert!(!counters.add_up(), "number {at} goes unseen");
        }
    }
}
