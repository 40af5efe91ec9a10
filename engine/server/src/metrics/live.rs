//! The document behind the live page: that of STATUS, and what the page needs besides to tell of the last minutes.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::collector::LatestSnapshots;
use super::snapshot::{KeyspaceSnapshot, SettingsSnapshot};
use super::status;

/// Returns the complete document. `silent_for` returns the time since a shard's last snapshot, if there was one.
pub fn document(
    latest: &LatestSnapshots,
    shard_count: u16,
    silent_for: impl Fn(u16) -> Option<Duration>,
) -> Value {
    let mut document = status::document(latest, shard_count);
    // In the order in which STATUS has them.
    for (row, keyspace) in rows(&mut document, "keyspaces").zip(latest.keyspaces()) {
        add_of_keyspace(row, &keyspace, latest);
    }
    for (row, shard) in rows(&mut document, "shards").zip(latest.shards()) {
        add_of_shard(row, silent_for(shard.shard));
    }
    document
}

fn rows<'a>(
    document: &'a mut Value,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let rows = document[list].as_array_mut();
    rows.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn add_of_keyspace(
    row: &mut Map<String, Value>,
    keyspace: &KeyspaceSnapshot,
    latest: &LatestSnapshots,
) {
    let settings = latest.settings_of(keyspace.id).map(settings);
    row.insert("in_force".to_owned(), settings.into());
    let hot = latest.hot_of(keyspace.id).map(|(at, hot)| {
        let age_ms = at.elapsed().as_millis() as u64;
        json!({ "by": hot.by.name(), "age_ms": age_ms, "of": hot.document })
    });
    row.insert("hot".to_owned(), hot.collect());
}

fn settings(of: &SettingsSnapshot) -> Value {
    let settings = of.settings.iter().map(|setting| {
        let until = setting.until.as_ref();
        json!({
            "name": setting.name,
            "value": setting.value,
            "until": until.map(|until| json!({ "unix_ms": until.unix_ms, "then": until.then })),
        })
    });
    json!({ "kms": of.kms, "generation": of.generation, "settings": settings.collect::<Vec<_>>() })
}

fn add_of_shard(row: &mut Map<String, Value>, silent_for: Option<Duration>) {
    let silent_ms = silent_for.map(|silent| silent.as_millis() as u64);
    row.insert("silent_ms".to_owned(), silent_ms.into());
}
