//! Warm start: which keys are hot, and loading those that were hot in a previous run.

use super::Shard;
use crate::action::KeyspaceId;
use crate::entry::StateList;
use crate::hottest::Hottest;
use crate::keyspace::{Gate, Keyspace};
use crate::slots::At;
use crate::time::Instant;

/// Slots inspected by one step of a survey: 0.2 ms, if each of them misses the processor's caches and takes 0.1 µs.
pub const HOTTEST_SCAN_STEP: u32 = 2_048;

/// The result of [`Shard::handle_warm_key`] for a key that was hot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WarmAdmission {
    /// It is queued, and one of the next passes of the prefetcher loads it.
    Queued,
    /// Nothing to do: the key's state is already known, or the keyspace does not exist.
    Needless,
    /// Not accepted now: there is no live lease, this shard's share of `max_in_flight` is exhausted (with a share of 0 it
    /// always is), or all entries are in use.
    Later,
}

impl<V> Shard<V> {
    /// Loads a key that was hot in a previous run, provided that it costs other keys nothing. It needs a live lease and a
    /// free part of this shard's share of `max_in_flight`, waits for the next pass of the prefetcher, and is queued after
    /// all keys that are due. It never calls the KMS, and never evicts a key in memory; a load that fails is not retried.
    ///
    /// The caller keeps the keys for which the result was [`WarmAdmission::Later`] and calls again, in order; more often than
    /// once per [`SCAN_PERIOD_US`](crate::SCAN_PERIOD_US) does not help.
    /// [`Gauges::warming_keys`](crate::Gauges::warming_keys) is the number still pending.
    pub fn handle_warm_key(
        &mut self,
        now: Instant,
        keyspace: KeyspaceId,
        key_id: &[u8],
    ) -> WarmAdmission {
        let Some(keyspace_at) = self.keyspace_at(keyspace) else {
            return WarmAdmission::Needless;
        };
        if self.find(keyspace, key_id).is_some() {
            return WarmAdmission::Needless;
        }
        if !self.may_warm(now, keyspace_at) || self.entries.len() >= self.limits.entries_max {
            return WarmAdmission::Later;
        }
        let at = self
            .find_or_create(now, keyspace_at, key_id)
            .expect("there is room for an entry");
        self.move_to_list(at, StateList::Warm);
        WarmAdmission::Queued
    }

    /// Returns `true` if the next pass would reach one more key of a warm start.
    fn may_warm(&self, now: Instant, keyspace_at: At<Keyspace>) -> bool {
        let keyspace = &self.keyspaces[keyspace_at];
        let ahead_of_it = keyspace.due_keys()
            + keyspace.parked.len()
            + keyspace.invalid_to_reload
            + keyspace.warm.len();
        keyspace.gate == Gate::Open
            && keyspace.has_lease(now)
            && self.has_room_for_prefetch(keyspace_at)
            && keyspace.counters.prefetch_flights + (ahead_of_it as u64) < u64::from(keyspace.share)
    }

    /// Inspects the next [`HOTTEST_SCAN_STEP`] slots for hot keys, and adds them to `hottest`. Returns `true` if more slots
    /// remain, to inspect now or in a later turn.
    #[must_use]
    pub fn collect_hottest(&self, hottest: &mut Hottest) -> bool {
        let end = self.entries.high_water();
        let until = hottest.next_slot.saturating_add(HOTTEST_SCAN_STEP).min(end);
        for number in hottest.next_slot..until {
            if let Some((_, entry)) = self.entries.nth(number)
                && matches!(entry.home, StateList::Resident | StateList::Parked)
            {
                hottest.enter(entry.uses, entry.keyspace, &entry.key_id);
            }
        }
        hottest.next_slot = hottest.next_slot.max(until);
        hottest.next_slot < end
    }
}
