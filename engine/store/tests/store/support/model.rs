//! What a log must hold, told from the outside: what was tried and what was acknowledged.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use futures_lite::future::zip;
use keyway_store::{BlobLog, Compaction, Expect, Files, KeyState, Lookup, PutError};

use super::{Random, join_all};

#[derive(Default, Clone, Debug)]
struct Key {
    /// Blobs by version, acknowledged or not. A version may have been tried more than once.
    tried: BTreeMap<u32, Vec<Vec<u8>>>,
    /// The greatest version that was acknowledged or read; 0 if none.
    floor: u32,
    revoke_tried: bool,
    revoked: bool,
    /// Versions that were to be revoked alone, and those of which that was acknowledged or read.
    versions_tried: BTreeSet<u32>,
    versions_revoked: BTreeSet<u32>,
}

impl Key {
    /// Checks which of its versions are revoked alone.
    fn check_versions<F: Files>(&mut self, name: &str, log: &BlobLog<F>, key_id: &[u8]) {
        let revoked = log.revoked_versions(KEYSPACE, key_id, self.floor);
        let below = (0..self.floor).filter(|below| revoked >> below & 1 == 1);
        let found: BTreeSet<u32> = below.map(|below| self.floor - below).collect();
        assert!(
            found.is_superset(&self.versions_revoked),
            "{name}: {found:?} of {self:?}"
        );
        assert!(
            found.is_subset(&self.versions_tried),
            "{name}: {found:?} of {self:?}"
        );
        if log.stats().revocations_bytes == 0 {
            self.versions_revoked = found;
        }
    }
}

/// What was done to a log.
#[derive(Default, Clone, Debug)]
pub struct Model {
    keys: BTreeMap<Vec<u8>, Key>,
    serial: u32,
}

const KEYSPACE: u32 = 3;
const KEYS: usize = 12;

/// See [`Model::check`].
pub async fn check<F: Files>(model: &RefCell<Model>, log: &BlobLog<F>) {
    let mut checked = model.take();
    checked.check(log).await;
    model.replace(checked);
}

impl Model {
    /// Checks that the log holds what was acknowledged and nothing that was not tried, and takes
    /// what it holds as what it must hold from now on.
    async fn check<F: Files>(&mut self, log: &BlobLog<F>) {
        let mut expected = BTreeMap::new();
        for (key_id, key) in &mut self.keys {
            let name = String::from_utf8_lossy(key_id).into_owned();
            match log.get(KEYSPACE, key_id).await.expect(&name) {
                Lookup::Missing => {
                    assert_eq!((key.floor, key.revoked), (0, false), "{name} is missing");
                }
                Lookup::Revoked { version, .. } => {
                    assert!(key.revoke_tried, "{name} was never revoked");
                    assert!(version >= key.floor, "{name}: {version} < {}", key.floor);
                    // One that holds and is not written yet is undone by a restart.
                    if log.stats().revocations_bytes == 0 {
                        (key.revoked, key.floor) = (true, version);
                    }
                    expected.insert(key_id.clone(), (version, KeyState::Revoked));
                }
                Lookup::Blob(blob) => {
                    assert!(!key.revoked, "{name} was revoked");
                    assert!(
                        blob.version >= key.floor,
                        "{name}: {} < {}",
                        blob.version,
                        key.floor
                    );
                    let tried = &key.tried[&blob.version];
                    assert!(
                        tried.iter().any(|tried| tried == blob.bytes()),
                        "{name} is half"
                    );
                    key.floor = blob.version;
                    key.check_versions(&name, log, key_id);
                    expected.insert(key_id.clone(), (blob.version, KeyState::Live));
                }
            }
        }
        let mut listed = BTreeMap::new();
        let mut cursor = Vec::new();
        loop {
            let page = log
                .list(&cursor, 5, Some(KEYSPACE))
                .await
                .expect("the log lists");
            for row in page.rows {
                let twice = listed.insert(row.key_id, (row.version, row.state));
                assert_eq!(twice, None, "nothing moves while this lists");
            }
            cursor = page.cursor;
            if cursor.is_empty() {
                break;
            }
        }
        assert_eq!(listed, expected);
        assert_eq!(log.stats().live_records, expected.len());
    }
}

/// Puts, revocations and compactions, several at once, until the log takes no more or `rounds` are
/// over. Returns why it took no more.
pub async fn live<F: Files>(
    log: &BlobLog<F>,
    model: &RefCell<Model>,
    random: &mut Random,
    rounds: usize,
) -> Result<(), PutError> {
    for _ in 0..rounds {
        let mut puts = Vec::new();
        for _ in 0..=random.below(4) {
            let key_id = format!("key-{}", random.below(KEYS)).into_bytes();
            let blob_len = 1 + random.below(900);
            let what = match random.below(25) {
                0 => What::Revoke,
                1..4 => What::RevokeVersion(random.below(4) as u32),
                _ => What::Blob(blob_len),
            };
            puts.push(put(log, model, key_id, what));
        }
        let (results, compacted) = zip(join_all(puts), log.compact_step(1500)).await;
        if let Ok(Compaction::Damaged { segment, offset }) = compacted {
            panic!("damage in segment {segment} at {offset}");
        }
        for result in results {
            match result {
                Ok(())
                | Err(PutError::Revoked | PutError::Conflict { .. } | PutError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// What is done to a key.
enum What {
    Blob(usize),
    Revoke,
    /// The version so many below the newest.
    RevokeVersion(u32),
}

async fn put<F: Files>(
    log: &BlobLog<F>,
    model: &RefCell<Model>,
    key_id: Vec<u8>,
    what: What,
) -> Result<(), PutError> {
    let known = log.version_of(KEYSPACE, &key_id);
    if let What::RevokeVersion(below) = what {
        let newest = known.map_or(0, |known| known.version);
        let version = newest.saturating_sub(below);
        {
            let mut model = model.borrow_mut();
            let key = model.keys.entry(key_id.clone()).or_default();
            key.versions_tried.insert(version);
        }
        log.put_version_revoked(KEYSPACE, &key_id, version).await?;
        let mut model = model.borrow_mut();
        let key = model.keys.get_mut(&key_id).unwrap();
        key.versions_revoked.insert(version);
        return Ok(());
    }
    let What::Blob(blob_len) = what else {
        {
            let mut model = model.borrow_mut();
            model.keys.entry(key_id.clone()).or_default().revoke_tried = true;
        }
        let stored = log.put_revoked(KEYSPACE, &key_id).await?;
        let mut model = model.borrow_mut();
        let key = model.keys.get_mut(&key_id).unwrap();
        key.revoked = true;
        key.floor = key.floor.max(stored.version);
        return Ok(());
    };
    let (version, expect) = match known {
        None => (1, Expect::Absent),
        Some(known) => (known.version + 1, Expect::Version(known.version)),
    };
    let blob = {
        let mut model = model.borrow_mut();
        model.serial += 1;
        let blob: Vec<u8> = (0..blob_len as u32)
            .map(|at| (model.serial * 31 + at) as u8)
            .collect();
        let key = model.keys.entry(key_id.clone()).or_default();
        key.tried.entry(version).or_default().push(blob.clone());
        blob
    };
    let stored = log
        .put_blob(KEYSPACE, &key_id, version, blob.clone(), expect)
        .await;
    let mut model = model.borrow_mut();
    let key = model.keys.get_mut(&key_id).unwrap();
    if let Err(PutError::Failed(_)) = stored {
        // Refused means unchanged, after a restart too: it must never be seen.
        let tried = key.tried.get_mut(&version).unwrap();
        let at = tried.iter().rposition(|tried| *tried == blob).unwrap();
        tried.remove(at);
    }
    stored?;
    key.floor = key.floor.max(version);
    Ok(())
}
