//! A shard's own figures, and the snapshot that it pushes once a second.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use keyway_core::{Gauges, Instant, KeyspaceId};
use keyway_keys::ENCRYPTIONS_MAX;

use super::Shard;
use super::wakeup::Wakeup;
use crate::metrics::exporter;
use crate::metrics::latency::Latency;
use crate::metrics::snapshot::{
    KeyspaceSnapshot, LockState, ShardSnapshot, Snapshot, WarmStartSnapshot,
};

/// Counters of one shard; plain cells, since only its own thread writes them.
#[derive(Default)]
pub struct Figures {
    pub connections_refused: Cell<u64>,
    pub accept_errors: Cell<u64>,
    pub control_requests: Cell<u64>,
    pub connections_looked_at_us: Cell<u64>,
    pub protocol_errors: Cell<u64>,
    pub forwards_out: Cell<u64>,
    pub forwards_in: Cell<u64>,
    pub forwards_refused: Cell<u64>,
    pub panics: Cell<u64>,
    pub turn: RefCell<Latency>,
    pub load_wait: RefCell<Latency>,
    /// Of the last look: [`crate::rehydrator::Rehydrator::most_encryptions`].
    pub most_encryptions: RefCell<BTreeMap<u32, u64>>,
    pub slow_lane_open: Cell<bool>,
    pub slow_work: Wakeup,
    /// Encryptions that wait for a block of encryptions to be reserved.
    pub unreserved: Cell<usize>,
    pub uses_work: Wakeup,
}

impl Shard {
    /// Hands the exporter a snapshot; a full inbox loses it.
    pub(super) fn push_snapshot(&self, now: Instant) {
        let snapshot = self.snapshot(now);
        exporter::offer(&self.exporter, Snapshot::Shard(Box::new(snapshot)));
    }

    fn snapshot(&self, now: Instant) -> ShardSnapshot {
        let store = self.rehydrator.log().stats();
        let arena = self.rehydrator.vault().arena().usage();
        ShardSnapshot {
            shard: self.index,
            serving: !self.is_stopping(),
            warm_start: self.warm_start(),
            recovered_bytes: store.disk_bytes,
            recovery_total_bytes: store.disk_bytes,
            keyspaces: self.keyspace_snapshots(now),
            connections: self.connections.borrow().len() as u64,
            connections_refused_total: self.figures.connections_refused.get(),
            unsent_answer_bytes: self.accounts.unsent_bytes() as u64,
            control_requests_total: self.figures.control_requests.get(),
            accept_errors_total: self.figures.accept_errors.get(),
            protocol_errors_total: self.figures.protocol_errors.get(),
            forwards_out_total: self.figures.forwards_out.get(),
            forwards_in_total: self.figures.forwards_in.get(),
            forwards_refused_total: self.figures.forwards_refused.get(),
            parked_requests: self.waiting.len() as u64,
            load_queue_depth: self.loads.borrow().len() as u64,
            slow_queue_depth: self.slow.borrow().len() as u64,
            turn: self.figures.turn.borrow().clone(),
            load_wait: self.figures.load_wait.borrow().clone(),
            panics_total: self.figures.panics.get(),
            arena_used_bytes: arena.used_bytes as u64,
            arena_capacity_bytes: arena.capacity_bytes as u64,
            store_keys: store.live_records as u64,
            store_disk_bytes: store.disk_bytes,
            store_dead_bytes: store.dead_bytes,
            store_index_bytes: store.index_bytes as u64,
            store_poisoned: store.poisoned,
        }
    }

    /// Looks at the use counts of AEAD keys, which grow slowly against their limit.
    pub(super) fn look_at_uses(&self) {
        let most = self.rehydrator.most_encryptions();
        self.figures.most_encryptions.replace(most);
    }

    fn aead_uses_ratio(&self, keyspace: u32) -> f64 {
        let most = self.figures.most_encryptions.borrow();
        let most = most.get(&keyspace).copied().unwrap_or(0);
        most as f64 / ENCRYPTIONS_MAX as f64
    }

    fn warm_start(&self) -> WarmStartSnapshot {
        let warm = self.warm.borrow();
        WarmStartSnapshot {
            settled: warm.is_settled(),
            keys_total: warm.keys_total(),
            keys_left: warm.keys_left(),
        }
    }

    fn keyspace_snapshots(&self, now: Instant) -> Vec<KeyspaceSnapshot> {
        let mut core = self.core.borrow_mut();
        let keyspaces = self.keyspaces.borrow();
        let mut snapshots = Vec::new();
        for (id, known) in keyspaces.iter() {
            let keyspace = KeyspaceId(id);
            let oldest_served_age_us = core.take_oldest_served_age(keyspace).unwrap_or(0);
            let (Some(counters), Some(gauges)) =
                (core.counters(keyspace), core.gauges(now, keyspace))
            else {
                continue;
            };
            snapshots.push(KeyspaceSnapshot {
                id,
                name: known.name.clone(),
                rehydrate_total: counters.rehydrate_total,
                rehydrate_fail_total: counters.rehydrate_fail_total,
                rehydrate_latency: known.rehydrate_latency.clone(),
                singleflight_waiters: counters.singleflight_waiters,
                singleflight_waiters_max: known.waiters_max,
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
                oldest_served_age_us,
                aead_uses_ratio: self.aead_uses_ratio(id),
                dek_lease_left_s: gauges.lease_left_us as f64 / 1e6,
                state: lock_state(&gauges),
                locked: gauges.locked,
                requests: known.requests.clone(),
            });
        }
        snapshots
    }
}

fn lock_state(gauges: &Gauges) -> LockState {
    match (gauges.lease_left_us > 0, gauges.unwrap_pending) {
        _ if gauges.locked => LockState::Locked,
        _ if gauges.denied => LockState::Denied,
        (true, false) => LockState::Live,
        (true, true) => LockState::Renewing,
        (false, true) => LockState::Asking,
        (false, false) => LockState::Idle,
    }
}
