//! What a shard knows of keyspaces beside the core: names, policies and request counts.

use std::collections::BTreeMap;

use keyway_core::Instant;
use keyway_protocol::Grants;

use crate::authorise::{CompiledPolicy, Owner, Principal};
use crate::control::messages::KeyspaceConfig;
use crate::metrics::latency::Latency;
use crate::metrics::snapshot::RequestCounts;
use crate::shard::hot::{Tally, places_among};

/// One keyspace.
#[derive(Default)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// The core's ticket of the last unlock.
    pub last_unlock: Option<u64>,
    /// When a write last asked the KMS for the DEK, which was not at hand.
    pub dek_asked_at: Option<Instant>,
    /// Who may do what.
    pub policy: CompiledPolicy,
    /// Counts the configurations that were taken: a right that was looked up under the present one need not be looked up
    /// again.
    pub revision: u64,
    /// Requests by operation and outcome.
    pub requests: RequestCounts,
    /// How long rehydrations took.
    pub rehydrate_latency: Latency,
    /// Highest number of waiters seen at a turn's end.
    pub waiters_max: u64,
    /// Which of its keys are hot.
    pub tally: Tally,
}

/// All keyspaces, by id.
#[derive(Default)]
pub struct Keyspaces(BTreeMap<u32, Known>);

impl Keyspaces {
    /// Takes a keyspace's new configuration; figures stay.
    pub fn take(&mut self, now: Instant, config: &KeyspaceConfig) {
        let known = self.0.entry(config.id).or_insert_with(|| Known {
            tally: Tally::new(now),
            ..Known::default()
        });
        known.name.clone_from(&config.name);
        known.policy = CompiledPolicy::new(&config.policy);
        known.revision += 1;
        let places = places_among(self.0.len());
        let all = self.0.values_mut();
        all.for_each(|known| known.tally.use_places(places));
    }

    /// The keyspace with that id.
    pub fn of(&self, id: u32) -> Option<&Known> {
        self.0.get(&id)
    }

    /// The keyspace with that id, to change.
    pub fn of_mut(&mut self, id: u32) -> Option<&mut Known> {
        self.0.get_mut(&id)
    }

    /// The revision of a keyspace's configuration.
    pub fn revision(&self, id: u32) -> Option<u64> {
        self.0.get(&id).map(|known| known.revision)
    }

    /// Keyspaces by rising id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Known)> {
        self.0.iter().map(|(id, known)| (*id, known))
    }

    /// What `principal` may do in a keyspace; nothing in one that does not exist.
    pub fn grants(&self, owner: &Owner, principal: Principal, id: u32) -> Grants {
        self.0
            .get(&id)
            .map_or(Grants::NONE, |known| known.policy.rights(owner, principal))
    }

    /// Ids of the keyspaces in which `principal` may do something.
    pub fn visible(&self, owner: &Owner, principal: Principal) -> Vec<u32> {
        let ids = self.0.keys().copied();
        ids.filter(|id| !self.grants(owner, principal, *id).is_empty())
            .collect()
    }

    /// Counts an answer.
    pub fn count(&mut self, id: u32, operation: usize, outcome: usize) {
        if let Some(known) = self.0.get_mut(&id) {
            known.requests.0[operation][outcome] += 1;
        }
    }
}
