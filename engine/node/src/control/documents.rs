//! Builds the documents of KEYSPACE_LIST, a page with as many keyspaces as fit into one response, and KEYSPACE_HISTORY.

use std::collections::BTreeMap;

use keyway_protocol::limits::PAYLOAD_LEN_MAX;
use serde_json::{Value, json};

use super::{Control, Reply};
use crate::catalogue::{Change, Keyspace};
use crate::policy::Principal;

/// Most bytes of rows in a page: a payload, less what surrounds the rows.
const ROWS_LEN_MAX: usize = PAYLOAD_LEN_MAX - 64;

impl Control {
    /// Returns the keyspaces with ids greater than `after` among `visible`, in ascending order, as many as fit. Keyspaces
    /// that the principal may no longer see are left out.
    pub(super) fn list(&self, who: Principal, after: u32, visible: &[u32]) -> Vec<u8> {
        let first = visible.partition_point(|id| *id <= after);
        let rows = visible[first..].iter().filter_map(|id| {
            let keyspace = self.in_force.written().keyspace(*id).ok()?;
            let is_visible = !self.rights(who, *id).is_empty();
            is_visible.then(|| self.row(*id, keyspace))
        });
        page(rows)
    }

    /// Returns the history of a keyspace, newest first, as JSON.
    pub(super) fn history(&self, id: u32) -> Reply {
        let keyspace = self.in_force.written().keyspace(id)?;
        let changes: Vec<&Change> = keyspace.history.iter().collect();
        let document = json!({ "changes": changes });
        Ok(document.to_string().into_bytes())
    }

    fn row(&self, id: u32, keyspace: &Keyspace) -> Value {
        let settings = keyspace.settings();
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value));
        let settings: BTreeMap<&str, String> = settings.collect();
        let in_force = &self.in_force;
        let guard = in_force.guard(id);
        // The policy in force, which may be stricter than the file.
        let policy = guard
            .as_ref()
            .map_or(&keyspace.policy, |guard| &guard.policy);
        let rows = keyspace.overrides().map(|(subject, temporary, then)| {
            let until_unix_ms = temporary.until_unix_ms;
            let end = json!({ "until_unix_ms": until_unix_ms, "then": then });
            (subject.to_string(), end)
        });
        let overrides: BTreeMap<String, Value> = rows.collect();
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
            "reseal": self.reseal_progress(id).map(|progress| progress.json()),
            "settings": settings,
            "allow": policy,
            "overrides": overrides,
        })
    }
}

/// Returns as many rows as fit, and whether there are more. At least one always fits, since the contents of a keyspace
/// are bounded.
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
    fn page_has_as_many_rows_as_fit_and_shows_whether_more_follow() {
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
