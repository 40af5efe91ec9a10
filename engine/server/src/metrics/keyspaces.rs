//! The snapshots of keyspaces, combined over the shards.

use std::collections::{BTreeMap, BTreeSet};

use super::collector::LatestSnapshots;
use super::declare::Subject;
use super::snapshot::{KeyspaceSnapshot, LockState};

impl LatestSnapshots {
    /// Keyspaces summed over shards, by id.
    pub fn keyspaces(&self) -> Vec<KeyspaceSnapshot> {
        let mut merged: BTreeMap<u32, KeyspaceSnapshot> = BTreeMap::new();
        for keyspace in self.shards.values().flat_map(|shard| &shard.keyspaces) {
            merged
                .entry(keyspace.id)
                .and_modify(|all| all.combine(keyspace))
                .or_insert_with(|| keyspace.clone());
        }
        self.name_troubles(&mut merged);
        merged.into_values().collect()
    }

    /// The keyspaces with ids greater than `after`, as [`LatestSnapshots::keyspaces`], at most so many.
    pub fn keyspaces_after(&self, after: u32, count_max: usize) -> Vec<KeyspaceSnapshot> {
        let mut merged: BTreeMap<u32, KeyspaceSnapshot> = BTreeMap::new();
        for shard in self.shards.values() {
            let first = shard
                .keyspaces
                .partition_point(|keyspace| keyspace.id <= after);
            for keyspace in shard.keyspaces[first..].iter().take(count_max) {
                merged
                    .entry(keyspace.id)
                    .and_modify(|all| all.combine(keyspace))
                    .or_insert_with(|| keyspace.clone());
            }
        }
        self.name_troubles(&mut merged);
        merged.into_values().take(count_max).collect()
    }

    /// Corrects the state of keyspaces that have no lease because the KMS granted none, not because they are not in use.
    fn name_troubles(&self, merged: &mut BTreeMap<u32, KeyspaceSnapshot>) {
        for trouble in self.kms().iter().filter_map(|kms| kms.trouble.as_ref()) {
            for id in trouble.of_keyspaces.keys() {
                if let Some(keyspace) = merged.get_mut(id)
                    && keyspace.state == LockState::Idle
                {
                    keyspace.state = LockState::Acquiring;
                }
            }
        }
    }

    /// A keyspace's name, once a shard has told.
    pub fn name_of(&self, keyspace: u32) -> Option<&str> {
        self.shards.values().find_map(|shard| {
            let at = shard
                .keyspaces
                .binary_search_by_key(&keyspace, |known| known.id);
            Some(shard.keyspaces[at.ok()?].name.as_str())
        })
    }

    /// The keyspaces that have a lease on a shard.
    pub fn live_keyspaces(&self) -> BTreeSet<u32> {
        let keyspaces = self.shards.values().flat_map(|shard| &shard.keyspaces);
        keyspaces
            .filter(|keyspace| keyspace.dek_lease_left_s > 0.0)
            .map(|keyspace| keyspace.id)
            .collect()
    }

    /// Name of the KMS that wraps a keyspace's DEKs, once the control thread has told.
    pub fn kms_of(&self, keyspace: u32) -> Option<&str> {
        let mut kms = self.kms().iter();
        kms.find(|kms| kms.lease_calls_per_hour.contains_key(&keyspace))
            .map(|kms| kms.name.as_str())
    }
}
