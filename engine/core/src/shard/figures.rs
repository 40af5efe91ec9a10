//! Counters and values for the caller.

use super::Shard;
use crate::action::{KeyId, KeyspaceId};
use crate::counters::{Counters, Gauges, Totals};
use crate::entry::USED;
use crate::keyspace::Gate;
use crate::settings::Settings;
use crate::time::Instant;

impl<V> Shard<V> {
    /// Returns the keyspaces, by id.
    pub fn keyspace_ids(&self) -> impl Iterator<Item = KeyspaceId> + '_ {
        self.keyspaces_by_id.keys().copied()
    }

    /// Returns the settings in effect.
    #[must_use]
    pub fn settings(&self, keyspace: KeyspaceId) -> Option<&Settings> {
        Some(&self.keyspaces[self.keyspace_at(keyspace)?].settings)
    }

    /// Returns the counters of a keyspace.
    #[must_use]
    pub fn counters(&self, keyspace: KeyspaceId) -> Option<&Counters> {
        Some(&self.keyspaces[self.keyspace_at(keyspace)?].counters)
    }

    /// Returns the highest age of a key served since the last call, in µs; 0 if none was served.
    pub fn take_oldest_served_age(&mut self, keyspace: KeyspaceId) -> Option<u64> {
        let at = self.keyspace_at(keyspace)?;
        let oldest = &mut self.keyspaces[at].counters.oldest_served_age_us;
        Some(core::mem::take(oldest))
    }

    /// Returns the current values of a keyspace.
    #[must_use]
    pub fn gauges(&self, now: Instant, keyspace: KeyspaceId) -> Option<Gauges> {
        let keyspace = &self.keyspaces[self.keyspace_at(keyspace)?];
        Some(Gauges {
            lease_left_us: keyspace.terms.lease_end().saturating_since(now),
            dek_generation: keyspace.lease.generation(),
            locked: keyspace.gate == Gate::Locked,
            denied: keyspace.gate == Gate::Denied,
            kms_locked: keyspace.lease.is_kms_locked(),
            unwrap_pending: keyspace.lease.is_asking(),
            due_keys: keyspace.due_keys(),
            invalid_keys: keyspace.invalid.len(),
            parked_keys: keyspace.parked.len(),
            warming_keys: keyspace.warm.len() + keyspace.warm_flights,
            max_in_flight_share: keyspace.share,
        })
    }

    /// Returns the values of the whole shard.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            keyspaces: self.keyspaces.len(),
            entries: self.entries.len(),
            key_bytes: self.key_bytes,
            negatives: self.negatives.len(),
            revoked: self.revoked.len(),
            flights: self.group.flying(),
            waiters: self.group.waiters.len(),
            timers: self.leases.len() + self.waits.len() + self.ages.len(),
            sweeping: self.sweeping.len(),
            ..self.totals
        }
    }

    /// Iterates over the keys of a keyspace whose plaintext is in memory, and whether each was used since its last load,
    /// oldest load first. Visits all of them as it is drained.
    pub fn resident_keys(&self, keyspace: KeyspaceId) -> impl Iterator<Item = (&KeyId, bool)> {
        let at = self.keyspace_at(keyspace).into_iter();
        at.flat_map(|at| self.keyspaces[at].resident.iter(&self.entries))
            .map(|at| {
                let entry = &self.entries[at];
                (&entry.key_id, entry.touched & USED != 0)
            })
    }
}
