//! KEYSPACE_LIST: a page of as many keyspaces as fit into an answer.

use std::collections::HashMap;

use keyway_protocol::limits::PAYLOAD_LEN_MAX;
use serde_json::{Value, json};

use super::Control;
use super::catalogue::Keyspace;
use super::kms::Kms;
use crate::authorise::Principal;

/// A payload's room, less what stands around the rows.
const ROWS_LEN_MAX: usize = PAYLOAD_LEN_MAX - 64;

impl<K: Kms + 'static> Control<K> {
    /// The keyspaces with ids greater than `after` among `visible`, which rise, as far as they fit.
    pub(super) fn list(&self, after: u32, visible: &[u32], who: Principal) -> Vec<u8> {
        let catalogue = self.written();
        let first = visible.partition_point(|id| *id <= after);
        let rows = visible[first..].iter().filter_map(|id| {
            // The shard has named what was visible when the command came.
            if self.rights(who, *id).is_empty() {
                return None;
            }
            let keyspace = catalogue.keyspace(*id).ok()?;
            Some(self.row(*id, keyspace))
        });
        page(rows)
    }

    fn row(&self, id: u32, keyspace: &Keyspace) -> Value {
        let settings: HashMap<&str, String> = keyspace
            .settings()
            .map(|settings| settings.iter().collect())
            .unwrap_or_default();
        let in_force = self.in_force.borrow();
        let guard = in_force.guard(id);
        // What is in force, though the file may say more.
        let policy = guard
            .as_ref()
            .map_or(&keyspace.policy, |guard| &guard.policy);
        let allow: HashMap<&str, &str> = policy.iter().collect();
        let limited = keyspace.limited().map(|(name, limited, then)| {
            let until_unix_ms = limited.until_unix_ms;
            let end = json!({ "until_unix_ms": until_unix_ms, "then": then });
            (name, end)
        });
        let limited: HashMap<&str, Value> = limited.collect();
        json!({
            "id": id,
            "name": keyspace.name,
            "locked": in_force.is_locked(id),
            "unwritten": in_force.is_unwritten(id),
            "kms": keyspace.kms,
            "generation": keyspace.generation(),
            "retired_deks": keyspace.retired_since().map(|(count, oldest_unix_ms)| json!({
                "count": count,
                "oldest_unix_ms": oldest_unix_ms,
            })),
            "reseal": self.resealing.borrow().get(&id).map(|progress| progress.json()),
            "settings": settings,
            "allow": allow,
            "limited": limited,
        })
    }
}

/// As many rows as fit, and whether there are more. One always fits: what a keyspace can hold is bounded.
fn page(rows: impl Iterator<Item = Value>) -> Vec<u8> {
    let mut text = String::from("{\"keyspaces\":[");
    let mut more = false;
    for (at, row) in rows.enumerate() {
        let row = row.to_string();
        if at > 0 && text.len() + 1 + row.len() > ROWS_LEN_MAX {
            more = true;
            break;
        }
        if at > 0 {
            text.push(',');
        }
        text.push_str(&row);
    }
    text.push_str("],\"more\":");
    text.push_str(if more { "true}" } else { "false}" });
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_as_many_rows_as_fit_and_says_whether_there_are_more() {
        let row = |id: usize| json!({ "id": id, "text": "x".repeat(1_000) });
        for count in [0, 1, 10, 64, 65, 66, 1_000] {
            let text = page((0..count).map(row));
            assert!(text.len() <= PAYLOAD_LEN_MAX);
            let document: Value = serde_json::from_slice(&text).unwrap();
            let rows = document["keyspaces"].as_array().unwrap();
            assert_eq!(document["more"], rows.len() < count);
            assert!(
                rows.len() == count || rows.len() > 60,
                "{} of {count}",
                rows.len()
            );
        }
    }
}
