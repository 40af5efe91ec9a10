//! A keyspace at a shard, beside the core's part of it: name, policy, revision, hot keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Index, IndexMut};

use keyway_core::Instant;

use crate::connection::Standing;
use crate::hot::{HotKeyCounter, places_among};
use crate::ids::{Epoch, Opening, Revision};
use crate::keyspace_change::KeyspaceChange;
use crate::policy::{CompiledPolicy, Owner, Principal};
use keyway_core::slots::{At, Table};

/// One keyspace.
#[derive(Default)]
pub(crate) struct Governed {
    pub(crate) id: u32,
    /// Where its answers are counted.
    pub(crate) number: usize,
    pub(crate) name: String,
    /// The newest change that was taken. A right that was looked up under it need not be looked up again.
    pub(crate) revision: Revision,
    /// Locks and unlocks that were carried out.
    pub(crate) epoch: Epoch,
    pub(crate) opening: Opening,
    /// What NEEDS_UNLOCK carries.
    pub(crate) ticket: u64,
    /// The core's name of the last time that the DEK was needed or an unlock came; 0 for none.
    pub(crate) episode: u64,
    /// How long after its revocation a key can be deleted, ms.
    pub(crate) delete_wait_ms: u64,
    pub(crate) policy: CompiledPolicy,
    /// Which of its keys are hot.
    pub(crate) tally: HotKeyCounter,
    /// Highest number of waiters so far.
    pub(crate) waiters_max: u64,
}

/// All keyspaces of the node. None is ever removed.
pub(crate) struct Keyspaces {
    pub(crate) owner: Owner,
    all: Table<Governed>,
    by_id: BTreeMap<u32, At<Governed>>,
    /// The same as `by_id`, for the request path.
    found: hashbrown::HashMap<u32, At<Governed>>,
    /// In which keyspaces a principal was granted something.
    granted: BTreeMap<Principal, BTreeSet<u32>>,
}

impl Index<At<Governed>> for Keyspaces {
    type Output = Governed;

    fn index(&self, at: At<Governed>) -> &Governed {
        &self.all[at]
    }
}

impl IndexMut<At<Governed>> for Keyspaces {
    fn index_mut(&mut self, at: At<Governed>) -> &mut Governed {
        &mut self.all[at]
    }
}

impl Keyspaces {
    pub(crate) fn new(owner: Owner) -> Self {
        Keyspaces {
            owner,
            all: Table::new(),
            by_id: BTreeMap::new(),
            found: hashbrown::HashMap::new(),
            granted: BTreeMap::new(),
        }
    }

    /// Applies the latest state of a keyspace; counts are kept. Returns `None` if a newer one was applied before.
    pub(crate) fn take(&mut self, now: Instant, change: &KeyspaceChange) -> Option<At<Governed>> {
        let at = match self.find(change.id) {
            Some(at) if change.revision < self[at].revision => return None,
            Some(at) => at,
            None => self.add(now, change),
        };
        let governed = &mut self.all[at];
        for principal in governed.policy.principals() {
            if let Some(ids) = self.granted.get_mut(&principal) {
                ids.remove(&change.id);
            }
        }
        governed.revision = change.revision;
        governed.name.clone_from(&change.name);
        governed.delete_wait_ms = change.guard.settings.delete_wait_ms;
        governed.policy = CompiledPolicy::new(&change.guard.policy);
        for principal in governed.policy.principals() {
            self.granted.entry(principal).or_default().insert(change.id);
        }
        self.granted.retain(|_, ids| !ids.is_empty());
        Some(at)
    }

    fn add(&mut self, now: Instant, change: &KeyspaceChange) -> At<Governed> {
        let at = self.all.push(Governed {
            id: change.id,
            number: self.all.len(),
            ticket: change.ticket,
            tally: HotKeyCounter::new(now),
            ..Governed::default()
        });
        self.by_id.insert(change.id, at);
        self.found.insert(change.id, at);
        let places = places_among(self.all.len());
        for at in self.all.places() {
            self.all[at].tally.set_capacity(places);
        }
        at
    }

    /// Returns the keyspace with that id.
    #[inline]
    pub(crate) fn find(&self, id: u32) -> Option<At<Governed>> {
        self.found.get(&id).copied()
    }

    /// Returns all keyspaces by rising id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (At<Governed>, &Governed)> {
        self.by_id.values().map(|at| (*at, &self[*at]))
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns the ids of the keyspaces in which `principal` may do something, rising.
    pub(crate) fn visible(&self, principal: Principal) -> Vec<u32> {
        if self.owner.is_superuser(principal) {
            return self.by_id.keys().copied().collect();
        }
        let ids = self.granted.get(&principal);
        ids.into_iter().flatten().copied().collect()
    }

    /// Returns what `principal` is at this node.
    pub(crate) fn standing(&self, principal: Principal) -> Standing {
        if self.owner.is_superuser(principal) {
            Standing::Master
        } else if self.granted.contains_key(&principal) {
            Standing::Granted
        } else {
            Standing::Rightless
        }
    }
}

impl Governed {
    /// Returns the ticket that NEEDS_UNLOCK carries; `episode` is the core's name of the time that the DEK is needed, if
    /// it has one.
    pub(crate) fn needs_unlock(&mut self, episode: u64) -> u64 {
        if episode != 0 {
            self.episode = episode;
        }
        self.ticket
    }
}
