//! What a shard knows of keyspaces beside the core: names, policies and request counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keyway_core::Instant;
use keyway_node::ids::{Epoch, Opening, Revision};
use keyway_node::keyspace_change::KeyspaceChange;

use crate::accounts::Standing;
use crate::authorise::{CompiledPolicy, Owner, Principal};
use crate::metrics::latency::Latency;
use crate::metrics::requests::{CountedOperation, CountedOutcome, RequestCounts};
use crate::shard::hot::{Tally, places_among};

/// One keyspace.
#[derive(Default)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Locks so far.
    pub epoch: Epoch,
    /// Unlocks so far.
    opening: Opening,
    /// The newest DEK that is written down.
    seal_floor: u32,
    /// What NEEDS_UNLOCK carries.
    pub ticket: u64,
    /// The core's name of the last time that the DEK was needed or an unlock came; 0 for none.
    pub episode: u64,
    /// How long after its revocation a key can be deleted, ms.
    pub delete_wait_ms: u64,
    /// Who may do what.
    pub policy: CompiledPolicy,
    /// The newest configuration that was taken. A right that was looked up under it need not be looked up again.
    pub revision: Revision,
    /// Requests by operation and outcome.
    pub requests: RequestCounts,
    /// How long rehydrations took.
    pub rehydrate_latency: Latency,
    /// Highest number of waiters seen at a turn's end.
    pub waiters_max: u64,
    /// Which of its keys are hot.
    pub tally: Tally,
}

/// What has changed of a keyspace.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// It was unlocked.
    pub opens: bool,
    /// It has a newer DEK.
    pub floor_rises: bool,
}

/// All keyspaces, by id.
#[derive(Default)]
pub struct Keyspaces {
    by_id: BTreeMap<u32, Known>,
    /// In which keyspaces a principal was granted something.
    granted: HashMap<Principal, BTreeSet<u32>>,
}

impl Keyspaces {
    /// Takes what has changed of a keyspace; figures stay. `None` if it has something newer.
    pub fn take(&mut self, now: Instant, config: &KeyspaceChange) -> Option<Taken> {
        let is_new = !self.by_id.contains_key(&config.id);
        let known = self.by_id.entry(config.id).or_insert_with(|| Known {
            tally: Tally::new(now),
            ticket: config.ticket,
            ..Known::default()
        });
        if config.revision < known.revision {
            return None;
        }
        let taken = Taken {
            opens: config.opening > known.opening,
            // At its first change a keyspace has no blob here.
            floor_rises: config.seal_floor > known.seal_floor && !is_new,
        };
        known.epoch = config.epoch;
        known.opening = config.opening;
        known.seal_floor = known.seal_floor.max(config.seal_floor);
        known.revision = config.revision;
        known.name.clone_from(&config.name);
        for principal in known.policy.principals() {
            if let Some(ids) = self.granted.get_mut(&principal) {
                ids.remove(&config.id);
            }
        }
        known.delete_wait_ms = config.guard.settings.delete_wait_ms;
        known.policy = CompiledPolicy::new(&config.guard.policy);
        for principal in known.policy.principals() {
            self.granted.entry(principal).or_default().insert(config.id);
        }
        self.granted.retain(|_, ids| !ids.is_empty());
        let places = places_among(self.by_id.len());
        let all = self.by_id.values_mut();
        all.for_each(|known| known.tally.use_places(places));
        Some(taken)
    }

    /// The keyspace with that id.
    pub fn of(&self, id: u32) -> Option<&Known> {
        self.by_id.get(&id)
    }

    /// The keyspace with that id, to change.
    pub fn of_mut(&mut self, id: u32) -> Option<&mut Known> {
        self.by_id.get_mut(&id)
    }

    /// The revision of a keyspace's configuration.
    pub fn revision(&self, id: u32) -> Option<Revision> {
        self.by_id.get(&id).map(|known| known.revision)
    }

    /// Keyspaces by rising id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Known)> {
        self.by_id.iter().map(|(id, known)| (*id, known))
    }

    /// Ids of the keyspaces in which `principal` may do something, rising.
    pub fn visible(&self, owner: &Owner, principal: Principal) -> Vec<u32> {
        if owner.may_everything(principal) {
            return self.by_id.keys().copied().collect();
        }
        let ids = self.granted.get(&principal);
        ids.into_iter().flatten().copied().collect()
    }

    /// What `principal` is at this node.
    pub fn standing(&self, owner: &Owner, principal: Principal) -> Standing {
        if owner.may_everything(principal) {
            Standing::Master
        } else if self.granted.contains_key(&principal) {
            Standing::Granted
        } else {
            Standing::Rightless
        }
    }

    /// Counts an answer.
    pub fn count(&mut self, id: u32, operation: CountedOperation, outcome: CountedOutcome) {
        if let Some(known) = self.by_id.get_mut(&id) {
            known.requests.count(operation, outcome);
        }
    }
}
