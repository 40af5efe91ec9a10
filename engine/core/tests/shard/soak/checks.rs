//! Invariants: of what is served and refused, between steps, and after faults have stopped.

use super::world::{KEYSPACES, MAX_IN_FLIGHT, Name, World, short_settings};
use crate::rig::MS;
use keyway_core::{Counters, Instant, Lifecycle, Refusal, Settings, TICK_US};

/// Returns the counters that only grow.
fn totals(counters: &Counters) -> [u64; 19] {
    [
        counters.requests_total,
        counters.hits_total,
        counters.hits_fresh_total,
        counters.hits_stale_total,
        counters.misses_total,
        counters.ready_fresh_total,
        counters.ready_stale_total,
        counters.refused.sum(),
        counters.abandoned_total,
        counters.force_refresh_total,
        counters.force_refreshed_total,
        counters.force_refused_total,
        counters.rehydrate_total,
        counters.rehydrate_fail_total,
        counters.singleflight_wait_timeout_total,
        counters.prefetch_scan_total,
        counters.evicted_total,
        counters.expired_total,
        counters.unwraps_total,
    ]
}

impl World {
    pub(super) fn check_served(
        &mut self,
        name: Name,
        version: u32,
        age_us: u64,
        expires_at: Instant,
    ) {
        self.served += 1;
        let stored = self.store.keys[&name];
        let kms = &self.kms[&name.0];
        let loaded_at = self.now.minus_us(age_us);
        let hard_us = self.shard.settings(name.0).expect("known").hard_ttl_ms * MS;
        assert!(self.now < expires_at, "served at or after effective_hard");
        assert!(
            expires_at <= loaded_at.plus_us(hard_us),
            "lives longer than its hard TTL"
        );
        assert!(
            expires_at <= kms.lease_end_max,
            "lives longer than any lease"
        );
        assert!(!kms.locked, "served while locked");
        assert!(
            !stored.revoked,
            "served after the revocation was acknowledged"
        );
        assert_eq!(version, stored.version, "not what was stored last");
        let promised = self.promised.entry(name).or_default();
        assert!(version >= promised.version, "the version decreased");
        promised.version = version;
        assert!(
            loaded_at >= promised.refreshed_at,
            "served what a force-refresh replaced"
        );
    }

    pub(super) fn check_refusal(&self, name: &Name, refusal: Refusal) {
        let stored = self.store.keys.get(name).copied().unwrap_or_default();
        match refusal {
            Refusal::Retry { after_us }
            | Refusal::Unavailable { after_us }
            | Refusal::Overloaded { after_us } => assert!(after_us > 0),
            Refusal::NeedsUnlock { ticket } => {
                assert!(
                    self.shard.unlock_status(name.0, ticket).is_some(),
                    "a dead ticket"
                );
            }
            Refusal::NotFound => assert_eq!(stored.version, 0, "an acknowledged put is hidden"),
            Refusal::Revoked => assert!(stored.revoked),
            Refusal::Invalid | Refusal::DeadlineExceeded => {}
            Refusal::NoKeyspace => panic!("all keyspaces exist"),
        }
    }

    pub(super) fn check(&mut self) {
        self.shard.audit().expect("the audit passes");
        let mut resident = 0;
        for keyspace in KEYSPACES {
            let counters = self.shard.counters(keyspace).expect("known");
            assert!(counters.prefetch_flights <= u64::from(MAX_IN_FLIGHT));
            resident += counters.resident_keys;
            let before = self.counted.insert(keyspace, counters.clone());
            for (is, was) in totals(counters)
                .into_iter()
                .zip(before.iter().flat_map(totals))
            {
                assert!(
                    is >= was,
                    "a total decreased: {before:?}, then {counters:?}"
                );
            }
            let gauges = self.shard.gauges(self.now, keyspace).expect("known");
            let kms = self.kms.get_mut(&keyspace).expect("known");
            assert_eq!(gauges.locked, kms.locked);
            if gauges.lease_left_us > 0 || counters.resident_keys == 0 {
                kms.dead_since = None;
                continue;
            }
            // Without a lease the plaintext must be dropped within two ticks.
            let since = *kms.dead_since.get_or_insert(self.now);
            assert!(
                self.now < since.plus_us(2 * TICK_US),
                "plaintext outlives its lease"
            );
        }
        assert_eq!(self.alive.get() as u64, resident, "keys in memory");
        assert_eq!(self.shard.totals().waiters, self.waiting.len(), "waiters");
    }

    /// Stops the faults: every good key that is requested must become fresh.
    pub(super) fn recover(&mut self) {
        self.store.fails = false;
        let names: Vec<Name> = self.store.keys.keys().cloned().collect();
        for keyspace in KEYSPACES {
            let settings = Settings {
                soft_ttl_ms: 5_000,
                hard_ttl_ms: 10_000,
                ..short_settings()
            };
            self.shard
                .handle_keyspace(self.now, keyspace, settings)
                .expect("the settings are valid");
            self.kms.get_mut(&keyspace).expect("known").mood = 0;
            self.unlock_this(keyspace);
        }
        for name in names {
            let stored = self.store.keys[&name];
            if stored.revoked || stored.corrupt {
                continue;
            }
            // A backoff lasts at most 10 s, and so does the pause between two unwrap requests.
            for _ in 0..25_000 {
                if self.is_fresh(&name) {
                    break;
                }
                self.request_for(name.0, name.1.clone());
                self.pass(TICK_US);
            }
            assert!(
                self.is_fresh(&name) || stored.version == 0,
                "{name:?} does not recover"
            );
        }
        self.check();
    }

    fn is_fresh(&self, name: &Name) -> bool {
        let view = self.shard.view(self.now, name.0, &name.1).expect("known");
        view.lifecycle == Lifecycle::Fresh
            // Its blob may be cached as invalid: then it needs a put or an unlock.
            || view.lifecycle == Lifecycle::Invalid
    }
}
