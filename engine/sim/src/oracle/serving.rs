//! Checks of served keys, the most important ones.

use super::{Checked, ExpectedGate, Oracle, ensure};
use crate::plan::Name;
use keyway_core::Grant;

const MS: u64 = 1_000;

/// A grant, as far as it is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) load: u64,
    pub(crate) version: u32,
    pub(crate) stale: bool,
    pub(crate) age_us: u64,
    pub(crate) expires_at: u64,
}

impl Seen {
    pub(crate) fn of(grant: &Grant<'_, super::SimKey>) -> Self {
        Self {
            load: grant.value.load,
            version: grant.version,
            stale: grant.stale,
            age_us: grant.age_us,
            expires_at: grant.expires_at.as_micros(),
        }
    }
}

impl Oracle {
    /// Checks a key that a shard lent.
    pub(crate) fn check_served(
        &mut self,
        now: u64,
        shard: u16,
        name: Name,
        deadline: Option<u64>,
        seen: Seen,
    ) -> Checked {
        ensure!(
            19,
            deadline.is_none_or(|deadline| now < deadline),
            "{name:?}: served at {now}, after its deadline {deadline:?}"
        );
        let Some(alive) = self.ledger.of(seen.load) else {
            ensure!(
                3,
                false,
                "{name:?}: served from load {}, which was dropped",
                seen.load
            );
            return Ok(());
        };
        let terms = self.terms(shard, name.keyspace);
        let settings = terms.settings.clone();
        ensure!(
            1,
            terms.gate == ExpectedGate::Open,
            "{name:?}: served while {:?}",
            terms.gate
        );
        let hard = terms.hard_of(&alive);
        ensure!(1, now < hard, "{name:?}: served at {now}, ended at {hard}");
        ensure!(
            2,
            seen.expires_at <= hard,
            "{name:?}: is to live until {}, its time ends at {hard}",
            seen.expires_at
        );
        ensure!(
            22,
            alive.name == name && alive.version == seen.version && alive.shard == shard,
            "{name:?}: served {seen:?}, which is {alive:?}"
        );
        ensure!(
            22,
            seen.age_us == now - alive.started_at,
            "{name:?}: said to be {} us old, is {}",
            seen.age_us,
            now - alive.started_at
        );
        let promised = self.promised(name);
        ensure!(11, !promised.revoked, "{name:?}: served after revocation");
        ensure!(
            9,
            seen.version >= promised.served_version,
            "{name:?}: version {} after version {}",
            seen.version,
            promised.served_version
        );
        ensure!(
            10,
            alive.started_step >= promised.refreshed_step,
            "{name:?}: served what a force-refresh replaced"
        );
        ensure!(
            9,
            seen.version >= promised.put_version,
            "{name:?}: version {} after version {} was acknowledged",
            seen.version,
            promised.put_version
        );
        promised.served_version = seen.version;
        let jitter_us = settings.soft_ttl_ms * MS / 100 * u64::from(settings.jitter_pct);
        let soft_us = settings.soft_ttl_ms * MS;
        ensure!(
            22,
            seen.stale || seen.age_us < soft_us,
            "{name:?}: served as fresh, {} us old, soft TTL {soft_us} us",
            seen.age_us
        );
        ensure!(
            22,
            !seen.stale || seen.age_us >= soft_us - jitter_us,
            "{name:?}: served as stale, {} us old, soft TTL {soft_us} us",
            seen.age_us
        );
        Ok(())
    }
}
