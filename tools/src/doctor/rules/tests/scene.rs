//! What the rules are tried on.

use keyway_client::{HotKeys, KeyspaceChange, KeyspaceInfo, Override};
use serde_json::{Value, json};

use crate::doctor::{Evidence, KeyspaceDetails};
use crate::vitals::ServerStatus;

/// A busy, healthy server, five seconds apart. Each case changes what it needs of `before`, `now`,
/// the settings, the hot keys (by requests; by waiters) and the history.
pub struct Scene {
    pub before: Value,
    pub now: Value,
    pub settings: Vec<(&'static str, &'static str)>,
    pub overrides: Option<(&'static str, Override)>,
    pub hot: Option<Value>,
    pub waited_for: Option<Value>,
    pub changes: Vec<KeyspaceChange>,
}

impl Scene {
    pub fn healthy() -> Self {
        let status = |unix_ms: u64, step: u64| {
            json!({
                "pid": 7, "unix_ms": unix_ms, "latency_bounds_ms": [0.1, 1.0, 2.0, 5.0, 25.0],
                "kms": [{
                    "trouble": null,
                    "name": "local", "provider": "local", "state": "unlocked",
                    "breaker": "closed", "rate_tokens": 10.0, "calls_per_hour_forecast": 2.0,
                    "calls": [{"keyspace": "prod", "outcome": "ok", "count": step}],
                }],
                "keyspaces": [{
                    "name": "prod", "state": "live", "dek_lease_left_s": 3_000.0 - 5.0 * step as f64,
                    "hits": 10_000 * step, "misses": 10 * step, "oldest_served_age_ms": 500_000,
                    "rehydrate_total": 100 * step,
                    "rehydrate_latency_ms":
                        {"count": 100 * step, "p95": 0.2, "buckets": [50 * step, 50 * step, 0, 0, 0, 0]},
                    "prefetch_scan_total": 1_000 * step, "prefetch_trigger_total": 90 * step,
                    "requests": [{"operation": "sign", "outcome": "ok", "count": 10_000 * step}],
                }],
                "shards": [shard(0, step), shard(1, step)],
            })
        };
        Self {
            before: status(1_795_652_400_000, 1),
            now: status(1_795_652_405_000, 2),
            settings: vec![
                ("soft_ttl_ms", "600000"),
                ("dek_lease_ms", "3600000"),
                ("max_in_flight", "64"),
                ("sign_wait_budget_us", "3000"),
                ("refresh_window_ms", "120000"),
                ("low_water_pct", "5"),
            ],
            overrides: None,
            hot: None,
            waited_for: None,
            changes: Vec::new(),
        }
    }

    /// Sets a member, as in `/keyspaces/0/state`, in both documents.
    pub fn both(mut self, path: &str, value: Value) -> Self {
        *member(&mut self.before, path) = value.clone();
        self.now(path, value)
    }

    /// Sets a member in the later document.
    pub fn now(mut self, path: &str, value: Value) -> Self {
        *member(&mut self.now, path) = value;
        self
    }

    pub fn setting(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.retain(|(old, _)| *old != name);
        self.settings.push((name, value));
        self
    }

    pub fn changed(
        mut self,
        what: &str,
        from: &str,
        to: &str,
        who: &str,
        minutes_ago: u64,
    ) -> Self {
        self.changes.push(KeyspaceChange {
            unix_ms: 1_795_652_405_000 - minutes_ago * 60_000,
            who: who.into(),
            what: what.into(),
            from: Some(from.into()),
            to: Some(to.into()),
            until_unix_ms: None,
        });
        self
    }

    pub fn case(self) -> Evidence {
        let read = |value| serde_json::from_value::<ServerStatus>(value).unwrap();
        let hot =
            |value: Option<Value>| value.map(|it| serde_json::from_value::<HotKeys>(it).unwrap());
        let settings = self.settings.into_iter();
        let overrides = self.overrides.into_iter();
        let info = KeyspaceInfo {
            id: 1,
            name: "prod".into(),
            unwritten: false,
            locked: None,
            kms: Some("local".into()),
            generation: Some(1),
            reseal: None,
            retired_deks: None,
            settings: settings
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            allow: Default::default(),
            overrides: overrides
                .map(|(name, temporary)| (name.into(), temporary))
                .collect(),
        };
        let listed = KeyspaceDetails {
            info: Some(info),
            hot: hot(self.hot),
            waited_for: hot(self.waited_for),
            changes: self.changes,
        };
        Evidence {
            samples: vec![read(self.before), read(self.now)],
            listed: [("prod".into(), listed)].into(),
        }
    }
}

pub fn shard(number: u16, step: u64) -> Value {
    json!({
        "shard": number, "serving": true, "warm_start_settled": true,
        "turn_ms": {"count": 5_000 * step, "sum": 500 * step,
                    "buckets": [5_000 * step, 0, 0, 0, 0, 0]},
        "arena_used_bytes": 500, "arena_capacity_bytes": 1_000,
    })
}

fn member<'a>(document: &'a mut Value, path: &str) -> &'a mut Value {
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match name.parse::<usize>() {
        Ok(at) if parent.is_array() => &mut parent[at],
        _ => &mut parent[name],
    }
}

pub fn hot_keys(requests: u64, waiters: u64) -> Value {
    let figure = |count: u64| json!({"count": count, "excess_max": 0});
    json!({
        "by": "requests", "window_ms": 60_000, "requests_counted_one_in": 1, "unlisted_max": 0,
        "totals": {"requests": requests + 10, "waiters": waiters + 2, "rehydrate_us": 9},
        "keys": [{"key": "alice", "shard": 1, "requests": figure(requests),
                  "waiters": figure(waiters), "rehydrate_us": figure(9)}],
    })
}

pub fn requests(rows: &[(&str, u64)]) -> Value {
    let rows = rows.iter();
    rows.map(|(outcome, count)| json!({"operation": "sign", "outcome": outcome, "count": count}))
        .collect()
}
