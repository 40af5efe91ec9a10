//! The table of versions that were revoked one by one.
//!
//! An entry is needed while the key's newest blob holds the version's secret. The log cannot read blobs; a function of its
//! owner tells which versions one holds. So the table has as many entries at most as the blobs of the log have versions,
//! and [`VERSIONS_MAX`] for each key. Only what was let in and is not written yet comes on top: that is bounded by
//! [`REVOCATIONS_BYTES_MAX`](crate::REVOCATIONS_BYTES_MAX).
//!
//! ```text
//!  written ──▶ entry ── a blob without the secret, a revocation or a deletion of the key is durable ──▶ dropped
//! ```

use std::collections::BTreeMap;

use crate::index::{Applied, Entry, KeyHash, KeyState};

/// Versions that a blob holds at most, which are without a gap: as many as a set of them has bits.
pub const VERSIONS_MAX: u32 = u128::BITS;

/// Which versions' secrets a blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest version; all up to the newest are there.
    pub oldest: u32,
    /// Those without their secret: bit `i` is the version `i` below the newest.
    pub without: u128,
}

/// Tells which versions' secrets a blob holds. `None`: that cannot be seen.
pub type VersionsOf = fn(&[u8]) -> Option<Versions>;

/// Versions that were revoked alone, by key.
pub(crate) struct RevokedVersions {
    entries: BTreeMap<(KeyHash, u32), Entry>,
    versions_of: VersionsOf,
}

impl RevokedVersions {
    pub fn new(versions_of: VersionsOf) -> Self {
        Self {
            entries: BTreeMap::new(),
            versions_of,
        }
    }

    /// The versions whose secrets a record holds, or may hold.
    pub fn held(&self, state: KeyState, newest: u32, blob: &[u8]) -> Versions {
        let oldest_possible = newest.saturating_sub(VERSIONS_MAX - 1).max(1);
        let told = match state {
            KeyState::Live => (self.versions_of)(blob),
            KeyState::Damaged | KeyState::Revoked | KeyState::Deleted => None,
        };
        match told {
            Some(told) => Versions {
                oldest: told.oldest.clamp(oldest_possible, newest.max(1)),
                // The newest one is always there.
                without: told.without & !1,
            },
            None => Versions {
                oldest: oldest_possible,
                without: 0,
            },
        }
    }

    pub fn find(&self, key: KeyHash, version: u32) -> Option<Entry> {
        self.entries.get(&(key, version)).copied()
    }

    /// The versions of a key, in ascending order.
    pub fn of(&self, key: KeyHash) -> impl Iterator<Item = u32> {
        let entries = self.entries.range((key, 0)..=(key, u32::MAX));
        entries.map(|((_, version), _)| *version)
    }

    /// Offers a record; of two, the one that the rule of the log prefers stands.
    pub fn apply(&mut self, key: KeyHash, entry: Entry) -> Applied {
        match self.find(key, entry.version) {
            Some(old) if !entry.supersedes(&old) => Applied::Superseded,
            old => {
                self.entries.insert((key, entry.version), entry);
                old.map_or(Applied::Inserted, Applied::Replaced)
            }
        }
    }

    /// Takes the entries of a key that its newest record makes unneeded.
    pub fn take_unneeded(&mut self, key: KeyHash, newest: Entry, without: u128) -> Vec<Entry> {
        let is_without = |version| match newest.version.checked_sub(version) {
            Some(below) => without.checked_shr(below).unwrap_or(0) & 1 == 1,
            None => false,
        };
        let unneeded = self
            .of(key)
            .filter(|version| !newest.may_hold(*version) || is_without(*version));
        let unneeded: Vec<u32> = unneeded.collect();
        let entries = unneeded.into_iter();
        entries
            .filter_map(|version| self.entries.remove(&(key, version)))
            .collect()
    }

    /// The keys that have an entry, each once.
    pub fn keys(&self) -> Vec<KeyHash> {
        let mut keys: Vec<KeyHash> = self.entries.keys().map(|(key, _)| *key).collect();
        keys.dedup();
        keys
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
