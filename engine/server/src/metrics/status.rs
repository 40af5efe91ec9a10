//! The same figures as /metrics, as JSON for people and scripts: the rows of the answer to STATUS, and the document
//! behind the live page.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use super::collector::Latest;
use super::kms_series;
use super::latency::{BOUNDS_US, Latency};
use super::snapshot::{
    KeyspaceSnapshot, KmsSnapshot, OPERATIONS, OUTCOMES, RequestCounts, ShardSnapshot,
};

/// Quantiles of a latency since the start, in milliseconds, and what those of a shorter time are
/// found from: two documents' buckets, subtracted.
#[derive(Serialize)]
struct Quantiles {
    count: u64,
    sum: f64,
    /// Observations up to each of `latency_bounds_ms`, and beyond; not cumulative. Empty without
    /// any.
    buckets: Vec<u64>,
    p50: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl From<&Latency> for Quantiles {
    fn from(latency: &Latency) -> Self {
        let count = latency.count();
        Quantiles {
            count,
            sum: latency.sum_ns as f64 / 1e6,
            buckets: match count {
                0 => Vec::new(),
                _ => latency.buckets.to_vec(),
            },
            p50: latency.quantile_ms(0.50),
            p95: latency.quantile_ms(0.95),
            p99: latency.quantile_ms(0.99),
            p999: latency.quantile_ms(0.999),
            max: latency.max_ms(),
        }
    }
}

/// The whole document.
pub fn document(latest: &Latest, shard_count: u16) -> serde_json::Value {
    let keyspaces = latest.keyspaces();
    let live = latest.live_keyspaces();
    let names: BTreeMap<u32, &str> = keyspaces
        .iter()
        .map(|keyspace| (keyspace.id, keyspace.name.as_str()))
        .collect();
    let kms_with_calls = |one: &KmsSnapshot| {
        let mut row = kms(one, &live);
        let calls = one.calls.iter().map(|calls| {
            json!({
                "keyspace": names.get(&calls.keyspace).copied().unwrap_or_default(),
                "operation": calls.operation,
                "outcome": calls.outcome,
                "count": calls.count,
            })
        });
        row["calls"] = calls.collect();
        row
    };
    let mut document = head(shard_count);
    document["kms"] = latest.kms().iter().map(kms_with_calls).collect();
    document["keyspaces"] = keyspaces
        .iter()
        .map(|one| keyspace(one, latest.kms_of(one.id)))
        .collect();
    document["shards"] = latest.shards().map(shard).collect();
    document
}

/// What stands before the rows.
pub fn head(shard_count: u16) -> serde_json::Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "unix_ms": crate::clock::unix_ms(),
        "shard_count": shard_count,
        "latency_bounds_ms": BOUNDS_US.map(|bound_us| bound_us as f64 / 1e3),
    })
}

/// A KMS without its calls; `live`: the keyspaces that have a lease.
pub fn kms(kms: &KmsSnapshot, live: &BTreeSet<u32>) -> serde_json::Value {
    json!({
        "name": kms.name,
        "provider": kms.provider,
        "state": kms.state,
        "calls_in_flight": kms.calls_in_flight,
        "unwraps_waiting": kms.unwraps,
        "rate_tokens": kms.rate_tokens,
        "retry_tokens": kms.retry_tokens,
        "breaker": kms.breaker,
        "trouble": kms.trouble.as_ref().map(|trouble| json!({
            "class": trouble.class,
            "cause": trouble.cause,
            "what": trouble.what,
            "remedy": trouble.remedy,
            "since_unix_ms": trouble.since_unix_ms,
            "over": trouble.is_over,
            "keyspaces": trouble.of_keyspaces.len(),
        })),
        "key_versions": kms.key_versions.map(|versions| json!({
            "newest": versions.newest,
            "keyspaces_behind": versions.keyspaces_behind,
        })),
        "calls_per_hour_forecast": kms_series::forecast_calls_per_hour(kms, live),
    })
}

/// A keyspace; `kms` wraps its DEKs, if that is known.
pub fn keyspace(keyspace: &KeyspaceSnapshot, kms: Option<&str>) -> serde_json::Value {
    json!({
        "id": keyspace.id,
        "name": keyspace.name,
        "kms": kms,
        "state": keyspace.state.name(),
        "locked": keyspace.locked,
        "dek_lease_left_s": keyspace.dek_lease_left_s,
        "resident_keys": keyspace.resident_keys,
        "resident_key_bytes": keyspace.resident_key_bytes,
        "hits": keyspace.hits,
        "misses": keyspace.misses,
        "evicted_total": keyspace.evicted_total,
        "flights": keyspace.flights,
        "aead_uses_ratio": keyspace.aead_uses_ratio,
        "oldest_served_age_ms": keyspace.oldest_served_age_us / 1_000,
        "rehydrate_total": keyspace.rehydrate_total,
        "rehydrate_fail_total": keyspace.rehydrate_fail_total,
        "rehydrate_latency_ms": Quantiles::from(&keyspace.rehydrate_latency),
        "singleflight_waiters": keyspace.singleflight_waiters,
        "singleflight_waiters_max": keyspace.singleflight_waiters_max,
        "singleflight_wait_timeout_total": keyspace.singleflight_wait_timeout_total,
        "prefetch_scan_total": keyspace.prefetch_scan_total,
        "prefetch_trigger_total": keyspace.prefetch_trigger_total,
        "prefetch_warm_total": keyspace.prefetch_warm_total,
        "prefetch_skipped_total": keyspace.prefetch_skipped_total,
        "requests": requests(&keyspace.requests),
    })
}

fn requests(counts: &RequestCounts) -> Vec<serde_json::Value> {
    let mut rows = Vec::new();
    for (operation, outcomes) in OPERATIONS.iter().zip(counts.0) {
        for (outcome, count) in OUTCOMES
            .iter()
            .zip(outcomes)
            .filter(|(_, count)| *count > 0)
        {
            rows.push(json!({ "operation": operation, "outcome": outcome, "count": count }));
        }
    }
    rows
}

/// A shard.
pub fn shard(shard: &ShardSnapshot) -> serde_json::Value {
    json!({
        "shard": shard.shard,
        "serving": shard.serving,
        "warm_start_settled": shard.warm_start.settled,
        "warm_start_keys_left": shard.warm_start.keys_left,
        "connections": shard.connections,
        "forwards_in_total": shard.forwards_in_total,
        "forwards_out_total": shard.forwards_out_total,
        "forwards_refused_total": shard.forwards_refused_total,
        "protocol_errors_total": shard.protocol_errors_total,
        "parked_requests": shard.parked_requests,
        "load_queue_depth": shard.load_queue_depth,
        "load_wait_ms": Quantiles::from(&shard.load_wait),
        "slow_queue_depth": shard.slow_queue_depth,
        "panics_total": shard.panics_total,
        "turn_ms": Quantiles::from(&shard.turn),
        "arena_used_bytes": shard.arena_used_bytes,
        "arena_capacity_bytes": shard.arena_capacity_bytes,
        "store_keys": shard.store_keys,
        "store_disk_bytes": shard.store_disk_bytes,
        "store_dead_bytes": shard.store_dead_bytes,
        "store_index_bytes": shard.store_index_bytes,
        "store_poisoned": shard.store_poisoned,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_to_the_count_with_one_beyond_the_last_bound() {
        assert!(Quantiles::from(&Latency::default()).buckets.is_empty());
        let mut latency = Latency::default();
        for ns in [4_000, 2_000_000, 9_000_000_000] {
            latency.record_ns(ns);
        }
        let told = Quantiles::from(&latency);
        assert_eq!(told.buckets.len(), BOUNDS_US.len() + 1);
        assert_eq!(told.buckets.iter().sum::<u64>(), told.count);
        assert_eq!(told.buckets.last(), Some(&1));
        assert!((told.sum - 9_002.004).abs() < 1e-6);
    }
}
