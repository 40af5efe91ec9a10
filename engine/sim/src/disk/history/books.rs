//! What was tried and what was acknowledged, by key, and what a log may say of it.

use super::super::LogRecord;
use crate::oracle::{Checked, ensure};
use keyway_node::port::{KeyState, WriteError};
use keyway_store::Versions;
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Key = (u32, Vec<u8>);

/// A blob that was put.
#[derive(Clone, Debug)]
struct Attempt {
    key: Key,
    version: u32,
    /// It was answered that nothing has changed.
    was_refused: bool,
}

/// What is known of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The greatest version that was acknowledged or seen; 0: none.
    pub(super) floor: u32,
    /// The version as of which the key is revoked, in this process or, if that was acknowledged, permanently.
    revoked_in_force: Option<u32>,
    revoked_durably: Option<u32>,
    /// When the revocation in force was made, ms.
    pub(super) revoked_at: Option<u64>,
    /// A revocation was tried at some time.
    revoke_tried: bool,
    /// Versions that were revoked alone: tried, in force in this process, and acknowledged permanently.
    versions_tried: BTreeSet<u32>,
    versions_in_force: BTreeSet<u32>,
    versions_durably: BTreeSet<u32>,
    /// A deletion was tried at some time: how often.
    pub(super) deletions_tried: u64,
    /// Deletions that have not ended, or of which it is not known whether they were done.
    deletions_open: u64,
    /// A deletion was acknowledged, and no put since.
    is_deleted: bool,
    /// The count of uses that was acknowledged, and its version.
    uses: Option<(u32, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    attempts: Vec<Attempt>,
    keys: BTreeMap<Key, Told>,
}

/// Bytes before the filling of a blob: which attempt it is of, its oldest version, and those without their secret.
const HEAD_LEN: usize = NUMBER_LEN + 4 + 16;
const NUMBER_LEN: usize = 8;

/// Reads which versions a blob holds.
pub(super) fn versions_of(blob: &[u8]) -> Option<Versions> {
    let oldest = blob.get(NUMBER_LEN..NUMBER_LEN + 4)?;
    let without = blob.get(NUMBER_LEN + 4..HEAD_LEN)?;
    Some(Versions {
        oldest: u32::from_le_bytes(oldest.try_into().ok()?),
        without: u128::from_le_bytes(without.try_into().ok()?),
    })
}

/// Returns the versions whose secrets a blob holds.
pub(super) fn held(version: u32, bytes: &[u8]) -> BTreeSet<u32> {
    let Some(versions) = versions_of(bytes) else {
        return BTreeSet::new();
    };
    let all = versions.oldest..=version;
    all.filter(|it| versions.without >> (version - it) & 1 == 0)
        .collect()
}

impl Books {
    pub(super) fn told(&self, key: &Key) -> Told {
        self.keys.get(key).cloned().unwrap_or_default()
    }

    fn entry(&mut self, key: &Key) -> &mut Told {
        self.keys.entry(key.clone()).or_default()
    }

    /// Makes the blob of a put that is going to be tried. Returns its number and its bytes.
    pub(super) fn try_put(
        &mut self,
        key: &Key,
        version: u32,
        versions: Versions,
        len: usize,
    ) -> (u64, Vec<u8>) {
        let number = self.attempts.len() as u64;
        self.attempts.push(Attempt {
            key: key.clone(),
            version,
            was_refused: false,
        });
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend(versions.oldest.to_le_bytes());
        bytes.extend(versions.without.to_le_bytes());
        bytes.extend((HEAD_LEN..len).map(|at| (at as u64 * 31 + number) as u8));
        (number, bytes)
    }

    pub(super) fn end_put(&mut self, number: u64, result: &Result<u32, WriteError>) -> Checked {
        let attempt = &mut self.attempts[number as usize];
        match result {
            Ok(version) => {
                ensure!(
                    9,
                    *version == attempt.version,
                    "a put of version {} is acknowledged as {version}",
                    attempt.version
                );
                let (key, version) = (attempt.key.clone(), attempt.version);
                let told = self.entry(&key);
                told.floor = told.floor.max(version);
                told.is_deleted = false;
            }
            Err(WriteError::Unknown(_)) => {}
            Err(_) => attempt.was_refused = true,
        }
        Ok(())
    }

    /// A revocation was let in: it is in force.
    pub(super) fn revoke(&mut self, key: &Key, version: u32, unix_ms: u64) {
        let told = self.entry(key);
        told.revoke_tried = true;
        if told.revoked_in_force.is_none_or(|of| of < version) {
            told.revoked_in_force = Some(version);
            told.revoked_at = Some(unix_ms);
        }
    }

    pub(super) fn try_revoke_version(&mut self, key: &Key, version: u32) {
        self.entry(key).versions_tried.insert(version);
    }

    /// A revocation of one version was let in: it is in force.
    pub(super) fn revoke_version(&mut self, key: &Key, version: u32) {
        self.entry(key).versions_in_force.insert(version);
    }

    /// A revocation of one version is durable.
    pub(super) fn end_revoke_version(&mut self, key: &Key, version: u32) {
        self.entry(key).versions_durably.insert(version);
    }

    /// Checks the versions of a blob that can be used, now that it is opened.
    pub(super) fn check_versions(
        &self,
        key: &Key,
        version: u32,
        bytes: &[u8],
        revoked: u128,
    ) -> Checked {
        let (name, told) = (name_of(key), self.told(key));
        for it in held(version, bytes) {
            let is_revoked = revoked.checked_shr(version - it).unwrap_or(0) & 1 == 1;
            ensure!(
                11,
                is_revoked || !told.versions_in_force.contains(&it),
                "{name}: version {it} can be used, and was revoked"
            );
            ensure!(
                16,
                !is_revoked || told.versions_tried.contains(&it),
                "{name}: version {it} is revoked, and that was never asked for"
            );
        }
        Ok(())
    }

    /// A revocation is durable.
    pub(super) fn end_revoke(&mut self, key: &Key, version: u32) {
        let told = self.entry(key);
        told.revoked_durably = told.revoked_durably.max(Some(version));
        told.floor = told.floor.max(version);
    }

    pub(super) fn try_delete(&mut self, key: &Key) {
        let told = self.entry(key);
        told.deletions_tried += 1;
        told.deletions_open += 1;
    }

    pub(super) fn end_delete(&mut self, key: &Key, result: &Result<u32, WriteError>) {
        let told = self.entry(key);
        if !matches!(result, Err(WriteError::Unknown(_))) {
            told.deletions_open -= 1;
        }
        let Ok(version) = *result else { return };
        // A put may have been acknowledged since it was deleted.
        told.is_deleted = told.floor <= version;
        told.floor = told.floor.max(version);
    }

    pub(super) fn end_reserve(&mut self, key: &Key, uses: (u32, u64)) {
        self.entry(key).uses = Some(uses);
    }

    /// Checks a blob that was read; `before` is what was known when the read began.
    pub(super) fn check_blob(
        &mut self,
        key: &Key,
        before: &Told,
        version: u32,
        bytes: &[u8],
    ) -> Checked {
        let name = name_of(key);
        let number = bytes
            .first_chunk::<NUMBER_LEN>()
            .map(|head| u64::from_le_bytes(*head));
        let attempt = number.and_then(|number| self.attempts.get(number as usize));
        let Some((attempt, number)) = attempt.zip(number) else {
            return Err(violation(16, format!("{name}: a blob that was never put")));
        };
        let is_whole =
            (HEAD_LEN..bytes.len()).all(|at| bytes[at] == (at as u64 * 31 + number) as u8);
        ensure!(
            16,
            attempt.key == *key && attempt.version == version && is_whole,
            "{name}: attempt {number} is read as version {version}, and is {attempt:?}"
        );
        ensure!(
            38,
            !attempt.was_refused,
            "{name}: version {version} of attempt {number} was refused, and is there"
        );
        ensure!(
            37,
            version >= before.floor,
            "{name}: version {version} is read after {} was acknowledged",
            before.floor
        );
        let deletions = self.told(key).deletions_tried;
        if let Some(revoked) = before.revoked_in_force {
            ensure!(
                11,
                version > revoked && deletions > 0,
                "{name}: version {version} is read after {revoked} was revoked"
            );
        }
        let told = self.entry(key);
        told.floor = told.floor.max(version);
        told.is_deleted &= version <= before.floor;
        Ok(())
    }

    pub(super) fn check_missing(&self, key: &Key, before: &Told) -> Checked {
        let name = name_of(key);
        let deletions = self.told(key).deletions_tried;
        ensure!(
            16,
            before.floor == 0 || deletions > 0,
            "{name}: version {} was acknowledged, and the key is missing",
            before.floor
        );
        Ok(())
    }

    pub(super) fn check_revoked(&self, key: &Key) -> Checked {
        ensure!(
            16,
            self.told(key).revoke_tried,
            "{}: it is read as revoked, and was never revoked",
            name_of(key)
        );
        Ok(())
    }

    /// The process has ended: what was in force by it alone is undone.
    pub(super) fn end_process(&mut self) {
        for told in self.keys.values_mut() {
            // Whether it was done will be seen at the start.
            told.deletions_open = 0;
            told.versions_in_force = told.versions_durably.clone();
            if told.revoked_in_force != told.revoked_durably {
                told.revoked_in_force = told.revoked_durably;
                told.revoked_at = None;
            }
        }
    }

    /// Checks all that the logs hold, and takes it as what they have to hold from now on.
    pub(super) fn check_all(&mut self, records: Vec<LogRecord>, are_durable: bool) -> Checked {
        let mut found = BTreeMap::new();
        for record in records {
            let key = (record.keyspace, record.key_id.clone());
            let name = name_of(&key);
            let twice = found.insert(key, record).is_some();
            ensure!(39, !twice, "{name} is listed twice");
        }
        let keys: Vec<Key> = self.keys.keys().chain(found.keys()).cloned().collect();
        for key in keys {
            let before = self.told(&key);
            match found.get(&key) {
                None => {
                    self.check_missing(&key, &before)?;
                    self.entry(&key).is_deleted = true;
                }
                Some(record) => match record.state {
                    KeyState::Live => {
                        let (version, bytes) = (record.version, record.bytes.clone());
                        self.check_blob(&key, &before, version, &bytes)?;
                        self.check_versions(&key, version, &bytes, record.revoked)?;
                    }
                    KeyState::Revoked => {
                        self.check_revoked(&key)?;
                        let version = record.version;
                        ensure!(
                            9,
                            version >= before.floor,
                            "{}: revoked at version {version}, and {} was acknowledged",
                            name_of(&key),
                            before.floor
                        );
                        if are_durable {
                            self.end_revoke(&key, version);
                            let told = self.entry(&key);
                            told.revoked_in_force = told.revoked_in_force.max(Some(version));
                        }
                    }
                    KeyState::Damaged | KeyState::Deleted => {
                        let (name, state) = (name_of(&key), record.state);
                        return Err(violation(16, format!("{name} is {state:?}")));
                    }
                },
            }
        }
        Ok(())
    }

    pub(super) fn check_uses(&self, uses_of: impl Fn(&Key) -> Option<(u32, u64)>) -> Checked {
        for (key, told) in &self.keys {
            let Some((version, count)) = told.uses else {
                continue;
            };
            let holds = uses_of(key).is_some_and(|(of, now)| (of, now) >= (version, count));
            ensure!(
                16,
                holds,
                "{}: {count} uses of version {version} were written down, and {:?} are there",
                name_of(key),
                uses_of(key)
            );
        }
        Ok(())
    }

    /// Keys that are there, as far as anybody knows: a listing has to show them.
    pub(super) fn there(&self, keyspace: u32) -> impl Iterator<Item = (&Key, &Told)> {
        let here = self.keys.iter().filter(move |(key, _)| key.0 == keyspace);
        here.filter(|(_, told)| told.floor > 0 && !told.is_deleted && told.deletions_open == 0)
    }
}

pub(super) fn name_of(key: &Key) -> String {
    format!("key {}/{}", key.0, String::from_utf8_lossy(&key.1))
}

pub(super) fn violation(invariant: u8, what: String) -> crate::oracle::Violation {
    crate::oracle::Violation { invariant, what }
}
