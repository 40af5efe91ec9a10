//! Status documents of a server with one keyspace and two shards.

use serde_json::{Value, json};

/// Figures after so many seconds, where all is well.
pub fn healthy(seconds: u64) -> Value {
    let turns = |number: u64| {
        json!({
            "shard": number, "serving": true, "warm_start_settled": true, "connections": 3,
            "forwards_in_total": 10 * number * seconds, "parked_requests": number,
            "turn_ms": {"count": 1_000 * seconds, "sum": 100 * seconds, "p95": 0.1,
                        "buckets": [900 * seconds, 100 * seconds, 0, 0]},
            "arena_used_bytes": 524_288, "arena_capacity_bytes": 1_048_576,
        })
    };
    json!({
        "version": "0.1.0", "pid": 7, "unix_ms": 1_795_653_420_000_u64 + 1_000 * seconds,
        "shard_count": 2, "latency_bounds_ms": [0.1, 1.0, 2.0],
        "kms": [{
            "name": "local", "provider": "local", "state": "unlocked", "breaker": "closed",
            "calls_in_flight": 0, "rate_tokens": 10, "calls_per_hour_forecast": 2.0, "calls": [],
        }],
        "keyspaces": [
            {
                "name": "prod", "state": "live", "dek_lease_left_s": 3_000 - seconds,
                "resident_keys": 3, "hits": 990 * seconds, "misses": 10 * seconds,
                "flights": 1, "singleflight_waiters": 2, "rehydrate_total": 10 * seconds,
                "rehydrate_latency_ms": {"count": 10 * seconds, "p95": 0.2,
                                         "buckets": [0, 10 * seconds, 0, 0]},
                "prefetch_scan_total": 100 * seconds, "prefetch_trigger_total": 9 * seconds,
                "requests": [{"operation": "sign", "outcome": "ok", "count": 1_000 * seconds}],
            },
            {
                "name": "staging", "state": "idle", "requests": [],
                "rehydrate_latency_ms": {"count": 0, "buckets": []},
            },
        ],
        "shards": [turns(0), turns(1)],
    })
}

/// Prefetcher starved.
pub fn starved(seconds: u64) -> Value {
    let mut status = healthy(seconds);
    status["keyspaces"][0]["prefetch_skipped_total"] = json!(500 * seconds);
    status
}

pub fn sequence(status: impl Fn(u64) -> Value) -> Vec<String> {
    (1..=6).map(|seconds| status(seconds).to_string()).collect()
}
