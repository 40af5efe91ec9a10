//! Warm start: which keys are hot, and loading those that were so in an earlier run.

use super::Shard;
use crate::action::KeyspaceId;
use crate::entry::Home;
use crate::hottest::Hottest;
use crate::keyspace::{Gate, Keyspace};
use crate::slots::At;
use crate::time::Instant;

/// Slots that one step of a survey looks at: 0.2 ms, if each of them misses the processor's caches and
/// takes 0.1 us.
pub const SURVEY_STEP: u32 = 2_048;

/// What becomes of a key that is said to have been hot: [`Shard::handle_hot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Warming {
    /// It is queued, and loaded by one of the next passes of the prefetcher.
    Queued,
    /// There is nothing to do: something is known of the key already, or there is no such keyspace.
    Needless,
    /// Not now, and nothing was taken down: there is no live lease, this shard's share of
    /// `max_in_flight` is used up (with a share of 0 it always is), or all entries are taken.
    Later,
}

impl<V> Shard<V> {
    /// A key was hot in an earlier run: loads it ahead of need if that costs nobody anything. It
    /// needs a live lease and a free part of this shard's share of `max_in_flight`, waits for the
    /// next pass of the prefetcher, and goes behind all that is due there. It never asks the KMS,
    /// and no key that is in memory makes room for it; a load that fails is not tried again.
    ///
    /// The caller keeps what was answered [`Warming::Later`] and comes again, in its order; once in
    /// [`SCAN_PERIOD_US`](crate::SCAN_PERIOD_US) is as often as it helps.
    /// [`Gauges::warming_keys`](crate::Gauges::warming_keys) tells what is still on its way.
    pub fn handle_hot(&mut self, now: Instant, keyspace: KeyspaceId, key_id: &[u8]) -> Warming {
        let Some(keyspace_at) = self.keyspace_at(keyspace) else {
            return Warming::Needless;
        };
        if self.find(keyspace, key_id).is_some() {
            return Warming::Needless;
        }
        if !self.may_warm(now, keyspace_at) || self.entries.len() >= self.limits.entries_max {
            return Warming::Later;
        }
        let at = self
            .find_or_create(now, keyspace_at, key_id)
            .expect("there is room for an entry");
        self.rehome(at, Home::Warm);
        Warming::Queued
    }

    /// Whether the next pass would come to one more key of a warm start.
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

    /// Looks at the next [`SURVEY_STEP`] slots for keys that are hot, and enters them into
    /// `hottest`. True: there are more to look at, now or in a later turn.
    #[must_use]
    pub fn survey(&self, hottest: &mut Hottest) -> bool {
        let end = self.entries.high_water();
        let until = hottest.next_slot.saturating_add(SURVEY_STEP).min(end);
        for number in hottest.next_slot..until {
            if let Some((_, entry)) = self.entries.nth(number)
                && matches!(entry.home, Home::Resident | Home::Parked)
            {
                hottest.enter(entry.uses, entry.keyspace, &entry.key_id);
            }
        }
        hottest.next_slot = hottest.next_slot.max(until);
        hottest.next_slot < end
    }
}
