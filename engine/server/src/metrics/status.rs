//! The same values as /metrics, as JSON: the rows of the answer to STATUS, and the document of the live page.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::collector::LatestSnapshots;
use super::declare::Subject;
use super::kms_series;
use super::latency::BOUNDS_US;
use super::snapshot::{KeyspaceSnapshot, KmsSnapshot, ShardSnapshot};

/// The whole document.
pub fn document(latest: &LatestSnapshots, shard_count: u16) -> Value {
    let keyspaces = latest.keyspaces();
    let live = latest.live_keyspaces();
    let names: BTreeMap<u32, &str> = keyspaces
        .iter()
        .map(|keyspace| (keyspace.id, keyspace.name.as_str()))
        .collect();
    let kms_with_calls = |one: &KmsSnapshot| {
        let mut row = kms_series::row(one, &live);
        let calls = one.calls.iter().map(|calls| {
            json!({
                "keyspace": names.get(&calls.keyspace).copied().unwrap_or_default(),
                "operation": calls.operation,
                "outcome": calls.outcome,
                "count": calls.count,
            })
        });
        row.insert("calls".to_owned(), calls.collect());
        Value::Object(row)
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
pub fn head(shard_count: u16) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "unix_ms": crate::clock::unix_ms(),
        "shard_count": shard_count,
        "latency_bounds_ms": BOUNDS_US.map(|bound_us| bound_us as f64 / 1e3),
    })
}

/// Returns a keyspace's row; `kms` wraps its DEKs, if that is known.
pub fn keyspace(keyspace: &KeyspaceSnapshot, kms: Option<&str>) -> Value {
    let mut row = Map::new();
    row.insert("id".to_owned(), keyspace.id.into());
    row.insert("name".to_owned(), keyspace.name.as_str().into());
    row.insert("kms".to_owned(), kms.into());
    keyspace.describe(&mut row);
    row.into()
}

/// Returns a shard's row.
pub fn shard(shard: &ShardSnapshot) -> Value {
    let mut row = Map::new();
    row.insert("shard".to_owned(), shard.shard.into());
    row.insert("serving".to_owned(), shard.serving.into());
    let warm = shard.warm_start;
    row.insert("warm_start_settled".to_owned(), warm.settled.into());
    row.insert("warm_start_keys_left".to_owned(), warm.keys_left.into());
    shard.describe(&mut row);
    row.into()
}
