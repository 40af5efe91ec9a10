//! Merges a section of the catalogue that was edited after it was sealed: only what tightens it is accepted.

use serde_json::{Map, Value};

use super::file::StoredKeyspace;
use super::{Catalogue, CatalogueError, FILE, Keyspace};

impl Catalogue {
    /// Restores keyspaces to their sealed state, tightened by their current state: a keyspace is locked if either is, and
    /// has the grants that both have.
    pub fn tighten_sealed(&mut self, was: &Map<String, Value>) -> Result<(), CatalogueError> {
        for (id, sealed) in was {
            let bad = |error: &dyn std::fmt::Display| {
                CatalogueError::Bad(format!("{FILE} is not valid: keyspace {id}: {error}"))
            };
            let number: u32 = id.parse().map_err(|error| bad(&error))?;
            let sealed: StoredKeyspace<'static> =
                serde_json::from_value(sealed.clone()).map_err(|error| bad(&error))?;
            let mut sealed = sealed.decode()?;
            if let Some(now) = self.keyspaces.remove(number) {
                sealed.locked |= now.locked;
                sealed.policy = sealed.policy.meet(&now.policy);
                sealed.history = now.history.clone();
            }
            self.keyspaces.insert(number, sealed);
        }
        Ok(())
    }

    /// Marks the ids below this one as used.
    pub fn skip_ids_below(&mut self, next_id: u32) {
        self.next_id = self.next_id.max(next_id);
    }
}

impl Keyspace {
    /// Returns `true` if this differs from `before` by withdrawn grants alone, which need no seal to be kept.
    pub fn only_withdraws(&self, before: &Keyspace) -> bool {
        let withdrawn = Keyspace {
            policy: before.policy.clone(),
            history: before.history.clone(),
            ..self.clone()
        };
        withdrawn == *before && before.policy.meet(&self.policy) == self.policy
    }
}

#[cfg(test)]
mod tests {
    use keyway_core::Instant;
    use serde_json::json;

    use super::super::ChangeAuthor;
    use super::*;
    use crate::time::Moment;

    fn by() -> ChangeAuthor {
        ChangeAuthor::server(Moment {
            unix_ms: 1_000_000_000_000,
            instant: Instant::from_micros(50_000_000),
        })
    }

    fn with_prod() -> Catalogue {
        let mut catalogue = Catalogue::default();
        let lines = "allow:uid:7=sign,mac\nallow:uid:8=sign\n";
        catalogue
            .make("prod", lines, "local", b"wrapped", &by())
            .unwrap();
        catalogue
    }

    fn changed(lines: &str) -> Catalogue {
        let mut catalogue = with_prod();
        catalogue.set_lines(1, lines, None, &by()).unwrap();
        catalogue
    }

    #[test]
    fn unsealed_changes_apply_only_where_they_tighten() {
        let sealed = serde_json::to_value(with_prod()).unwrap();
        let sealed = sealed["keyspaces"].as_object().unwrap();
        let mut now =
            changed("allow:uid:7=mac,get\nallow:uid:8=none\nallow:uid:9=all\nsoft_ttl_ms=9000\n");
        now.set_locked(1, true, &by()).unwrap();
        now.tighten_sealed(sealed).unwrap();
        let prod = now.keyspace(1).unwrap();
        assert!(prod.locked);
        assert_eq!(json!(prod.policy), json!({ "uid:7": "mac" }));
        assert_eq!(prod.settings().soft_ttl_ms, 600_000);

        // A lock that was removed without the key remains.
        let mut locked = with_prod();
        locked.set_locked(1, true, &by()).unwrap();
        let sealed = serde_json::to_value(locked).unwrap();
        let mut now = with_prod();
        now.tighten_sealed(sealed["keyspaces"].as_object().unwrap())
            .unwrap();
        assert!(now.keyspace(1).unwrap().locked);
        let missing = json!({ "7": 1 });
        assert!(now.tighten_sealed(missing.as_object().unwrap()).is_err());
    }

    #[test]
    fn only_a_withdrawal_needs_no_seal() {
        let before = with_prod();
        let before = before.keyspace(1).unwrap();
        for (lines, only_withdraws) in [
            ("allow:uid:7=sign\n", true),
            ("allow:uid:7=none\nallow:uid:8=none\n", true),
            ("allow:uid:7=sign,get\n", false),
            ("allow:uid:9=sign\n", false),
            ("allow:uid:7=none\nsoft_ttl_ms=9000\n", false),
        ] {
            let after = changed(lines);
            let after = after.keyspace(1).unwrap();
            assert_eq!(after.only_withdraws(before), only_withdraws, "{lines}");
        }
    }
}
