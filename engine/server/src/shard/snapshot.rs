//! The snapshot that a shard pushes once a second: the shard's own measurements, and those of its driver.

use std::collections::{BTreeMap, HashMap};

use keyway_core::Gauges;
use keyway_keys::ENCRYPTIONS_MAX;
use keyway_node::shard::figures::{KeyspaceFigures, Observation, WarmStartFigures};

use super::Driver;
use crate::metrics::exporter;
use crate::metrics::latency::Latency;
use crate::metrics::snapshot::{
    KeyspaceSnapshot, LockState, ShardSnapshot, Snapshot, WarmStartSnapshot,
};

/// What a driver measures itself.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) turn: Latency,
    pub(super) load_wait: Latency,
    /// By keyspace.
    pub(super) rehydrate: HashMap<u32, Latency>,
    /// Of the last look: [`keyway_keys::UseLedger::most_encryptions`].
    pub(super) most_encryptions: BTreeMap<u32, u64>,
    pub(super) accept_errors_total: u64,
}

impl Measured {
    /// Enters what the shard has observed.
    pub(super) fn enter(&mut self, observation: Observation) {
        match observation {
            Observation::LoadWait { us } => self.load_wait.record_ns(us * 1_000),
            Observation::Rehydrated { keyspace, us } => {
                let latency = self.rehydrate.entry(keyspace).or_default();
                latency.record_ns(us * 1_000);
            }
        }
    }

    fn aead_uses_ratio(&self, keyspace: u32) -> f64 {
        let most = self.most_encryptions.get(&keyspace).copied();
        most.unwrap_or(0) as f64 / ENCRYPTIONS_MAX as f64
    }
}

impl Driver {
    /// Hands the exporter a snapshot; a full inbox loses it.
    pub(super) fn publish(&self) {
        let snapshot = self.snapshot();
        exporter::offer(&self.exporter, Snapshot::Shard(Box::new(snapshot)));
    }

    fn snapshot(&self) -> ShardSnapshot {
        let store = self.log.stats();
        let revoked_versions = self.log.revoked_versions_count();
        let mut shard = self.shard.borrow_mut();
        let figures = shard.figures();
        let arena = shard.port().vault.arena().usage();
        let measured = self.measured.borrow();
        let totals = figures.totals;
        ShardSnapshot {
            shard: self.index,
            serving: !self.stop.is_stopping.get(),
            warm_start: warm_start(figures.warm_start),
            recovered_bytes: store.disk_bytes,
            recovery_total_bytes: store.disk_bytes,
            keyspaces: figures
                .keyspaces
                .into_iter()
                .map(|keyspace| keyspace_snapshot(keyspace, &measured))
                .collect(),
            connections: figures.connections,
            connections_refused_total: totals.connections_refused_total,
            unsent_answer_bytes: figures.unsent_answer_bytes,
            control_requests_total: totals.control_requests_total,
            accept_errors_total: measured.accept_errors_total,
            protocol_errors_total: totals.protocol_errors_total,
            forwards_out_total: totals.forwards_out_total,
            forwards_in_total: totals.forwards_in_total,
            forwards_refused_total: totals.forwards_refused_total,
            parked_requests: figures.waiting.jobs,
            load_queue_depth: figures.waiting.loads,
            slow_queue_depth: figures.waiting.slow,
            turn: measured.turn.clone(),
            load_wait: measured.load_wait.clone(),
            panics_total: totals.panics_total,
            arena_used_bytes: arena.used_bytes as u64,
            arena_capacity_bytes: arena.capacity_bytes as u64,
            store_keys: store.live_records as u64,
            store_disk_bytes: store.disk_bytes,
            store_dead_bytes: store.dead_bytes,
            store_index_bytes: store.index_bytes as u64,
            store_revoked_versions: revoked_versions as u64,
            store_poisoned: store.poisoned,
        }
    }
}

fn warm_start(figures: WarmStartFigures) -> WarmStartSnapshot {
    WarmStartSnapshot {
        settled: figures.settled,
        keys_total: figures.keys_total,
        keys_left: figures.keys_left,
    }
}

fn keyspace_snapshot(figures: KeyspaceFigures, measured: &Measured) -> KeyspaceSnapshot {
    let (counters, gauges) = (figures.counters, figures.gauges);
    let rehydrate_latency = measured.rehydrate.get(&figures.id);
    KeyspaceSnapshot {
        id: figures.id,
        name: figures.name,
        rehydrate_total: counters.rehydrate_total,
        rehydrate_fail_total: counters.rehydrate_fail_total,
        rehydrate_latency: rehydrate_latency.cloned().unwrap_or_default(),
        singleflight_waiters: counters.singleflight_waiters,
        singleflight_waiters_max: figures.waiters_max,
        singleflight_wait_timeout_total: counters.singleflight_wait_timeout_total,
        prefetch_scan_total: counters.prefetch_scan_total,
        prefetch_trigger_total: counters.prefetch_trigger_total,
        prefetch_warm_total: counters.prefetch_warm_total,
        prefetch_skipped_total: counters.prefetch_skipped_total,
        hits: counters.hits_total,
        misses: counters.misses_total,
        evicted_total: counters.evicted_total,
        resident_keys: counters.resident_keys,
        resident_key_bytes: counters.resident_key_bytes,
        flights: counters.flights,
        oldest_served_age_us: figures.oldest_served_age_us,
        aead_uses_ratio: measured.aead_uses_ratio(figures.id),
        dek_lease_left_s: gauges.lease_left_us as f64 / 1e6,
        state: lock_state(&gauges),
        locked: gauges.locked,
        requests: figures.requests,
    }
}

fn lock_state(gauges: &Gauges) -> LockState {
    match (gauges.lease_left_us > 0, gauges.unwrap_pending) {
        _ if gauges.locked => LockState::Locked,
        _ if gauges.denied && gauges.kms_locked => LockState::Acquiring,
        _ if gauges.denied => LockState::Denied,
        (true, false) => LockState::Live,
        (true, true) => LockState::Renewing,
        (false, true) => LockState::Acquiring,
        (false, false) => LockState::Idle,
    }
}
