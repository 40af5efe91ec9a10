//! Which keyspaces are wrapped under an older version of their KMS's key than the newest: they are lost to the KMS when it
//! stops decrypting with old versions, and a rewrap at the same KMS is what keeps them.

use super::catalogue::{Catalogue, Keyspace};
use super::kms::{Kms, KmsSet};
use crate::metrics::snapshot::KeyVersions;

/// Snapshots, one a second, from one count to the next: it reads every record.
const SNAPSHOTS_PER_COUNT: u32 = 60;

/// What was counted last, of each KMS in the order of its name.
#[derive(Debug, Default)]
pub(super) struct Counted {
    snapshots: u32,
    of_kms: Vec<(String, KeyVersions)>,
}

impl Counted {
    /// The versions at this KMS, at most a minute old. `None`: its key has none, or none was seen.
    pub(super) fn of(&self, kms: &str) -> Option<KeyVersions> {
        let found = self.of_kms.iter().find(|(name, _)| name == kms);
        found.map(|(_, versions)| *versions)
    }

    /// Counts again, if it is time. Returns whether it was.
    pub(super) fn count_if_due<K: Kms>(&mut self, catalogue: &Catalogue, kms: &KmsSet<K>) -> bool {
        let is_due = self.snapshots.is_multiple_of(SNAPSHOTS_PER_COUNT);
        self.snapshots = self.snapshots.wrapping_add(1);
        if !is_due {
            return false;
        }
        let mut of_kms = Vec::new();
        for (name, kms) in kms.iter() {
            let Some(newest) = kms.newest_key_version() else {
                continue;
            };
            let is_behind = |id: u32, keyspace: &Keyspace| {
                let mut deks = keyspace.deks();
                // A backup may bring them back into use, and a rewrap includes them.
                deks.extend(keyspace.retired_deks());
                deks.iter().any(|dek| {
                    let version = kms.key_version(id, dek.generation, &dek.record);
                    version.is_some_and(|version| version < newest)
                })
            };
            let keyspaces_behind = catalogue
                .iter()
                .filter(|(id, keyspace)| keyspace.kms == name && is_behind(*id, keyspace))
                .count();
            let versions = KeyVersions {
                newest,
                keyspaces_behind,
            };
            let before = self.of_kms.iter().find(|(other, _)| other == name);
            if keyspaces_behind > 0 && before.is_none_or(|(_, before)| *before != versions) {
                tracing::warn!(
                    kms = name,
                    newest_version = newest,
                    keyspaces = keyspaces_behind,
                    "keyspaces are wrapped under older versions of the KMS's key: run `keyway keyspace rewrap KEYSPACE \
                     --kms {name}` before the KMS stops decrypting with those (min_decryption_version)"
                );
            }
            of_kms.push((name.to_owned(), versions));
        }
        self.of_kms = of_kms;
        true
    }
}
