//! The table of revoked versions: an entry goes once no blob holds the version's secret, and never before, whatever fails
//! and whenever the power goes. Entries were never dropped: a key that was rotated, revoked and trimmed again and again
//! filled the memory, and no number said how far.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::{BTreeMap, BTreeSet};

use futures_lite::future::block_on;
use keyway_store::{
    BlobLog, Compaction, Expect, LogOptions, Lookup, PutError, Versions, move_keys,
};

use crate::support::faulty::{Fault, FaultyFiles};
use crate::support::{Random, small};

type Log = BlobLog<FaultyFiles>;

const KEYSPACE: u32 = 1;
const KEYS: usize = 3;

fn versions_of(blob: &[u8]) -> Option<Versions> {
    let (oldest, without) = (blob.get(..4)?, blob.get(4..20)?);
    Some(Versions {
        oldest: u32::from_le_bytes(oldest.try_into().ok()?),
        without: u128::from_le_bytes(without.try_into().ok()?),
    })
}

fn sealed(versions: Versions, len: usize) -> Vec<u8> {
    let mut blob = versions.oldest.to_le_bytes().to_vec();
    blob.extend(versions.without.to_le_bytes());
    blob.resize(20 + len, 7);
    blob
}

fn options(dir: &str) -> LogOptions {
    let mut options = small(dir);
    options.versions_of = versions_of;
    options
}

async fn open(disk: &FaultyFiles) -> Log {
    let opened = BlobLog::open(disk.clone(), options("log"), |_| {}).await;
    let (log, recovery) = opened.unwrap();
    assert_eq!(recovery.damage, []);
    log
}

/// A key's newest version and the versions that its blob holds; none if it has no blob.
async fn held(log: &Log, key_id: &[u8]) -> (u32, BTreeSet<u32>) {
    match log.get(KEYSPACE, key_id).await.unwrap() {
        Lookup::Blob(blob) => {
            let versions = versions_of(blob.bytes()).unwrap();
            let all = versions.oldest..=blob.version;
            let held = all.filter(|version| versions.without >> (blob.version - version) & 1 == 0);
            (blob.version, held.collect())
        }
        Lookup::Missing | Lookup::Revoked { .. } => (0, BTreeSet::new()),
    }
}

/// Of these, the versions that can be used.
async fn usable(log: &Log, key_id: &[u8]) -> BTreeSet<u32> {
    let (newest, held) = held(log, key_id).await;
    let revoked = log.revoked_versions(KEYSPACE, key_id, newest);
    let is_usable = |version: &u32| revoked >> (newest - version) & 1 == 0;
    held.into_iter().filter(is_usable).collect()
}

enum Rewrite {
    /// One version more.
    Rotate,
    /// Without the versions below this one.
    Trim(u32),
    /// Under the same versions.
    Reseal,
}

/// Writes a key as the server does: from the blob that there is, without what is revoked, except the newest version.
async fn rewrite(log: &Log, key_id: &[u8], how: Rewrite, len: usize) -> Result<(), PutError> {
    let known = log.version_of(KEYSPACE, key_id);
    let (version, mut versions, expect) = match log.get(KEYSPACE, key_id).await.unwrap() {
        Lookup::Blob(blob) => {
            let mut versions = versions_of(blob.bytes()).unwrap();
            let mut version = blob.version;
            match how {
                Rewrite::Rotate => {
                    version += 1;
                    versions.without <<= 1;
                }
                Rewrite::Trim(below) => versions.oldest = below.clamp(versions.oldest, version),
                Rewrite::Reseal => {}
            }
            let expect = Expect::Revision(blob.version, blob.revision);
            (version, versions, expect)
        }
        _ => {
            let version = known.map_or(1, |known| known.version + 1);
            let versions = Versions {
                oldest: version,
                without: 0,
            };
            (version, versions, Expect::Absent)
        }
    };
    let listed = version - versions.oldest + 1;
    versions.without |= log.revoked_versions(KEYSPACE, key_id, version) & !1;
    versions.without &= u128::MAX.checked_shr(128 - listed).unwrap_or(0);
    let put = log.put_blob(KEYSPACE, key_id, version, sealed(versions, len), expect);
    put.await.map(drop)
}

async fn rotated(log: &Log, key_id: &[u8], times: u32) {
    for _ in 0..times {
        rewrite(log, key_id, Rewrite::Rotate, 100).await.unwrap();
    }
}

async fn revoke(log: &Log, version: u32) {
    log.put_version_revoked(KEYSPACE, b"a", version)
        .await
        .unwrap();
}

fn entries(log: &Log) -> usize {
    log.revoked_versions_count()
}

#[test]
fn an_entry_goes_once_the_version_is_trimmed_left_out_or_its_key_is_gone() {
    block_on(async {
        let disk = FaultyFiles::default();
        let log = open(&disk).await;
        rotated(&log, b"a", 6).await;
        for version in [1, 3, 6] {
            revoke(&log, version).await;
        }
        assert_eq!(entries(&log), 3);
        // Trimmed: version 1.
        rewrite(&log, b"a", Rewrite::Trim(2), 100).await.unwrap();
        // The same write has left out version 3. The newest one stays in each blob, and its entry with it.
        assert_eq!(entries(&log), 1);
        rewrite(&log, b"a", Rewrite::Reseal, 100).await.unwrap();
        assert_eq!(entries(&log), 1);
        assert_eq!(usable(&log, b"a").await, [2, 4, 5].into());
        rotated(&log, b"a", 1).await;
        assert_eq!(entries(&log), 0);
        assert_eq!(usable(&log, b"a").await, [2, 4, 5, 7].into());
        // Versions that are trimmed leave nothing, however often.
        for _ in 0..3 {
            revoke(&log, 1).await;
        }
        assert_eq!((entries(&log), log.stats().revocations_bytes), (0, 0));
        revoke(&log, 7).await;
        log.put_revoked(KEYSPACE, b"a").await.unwrap();
        assert_eq!(entries(&log), 0);
        log.put_deleted(KEYSPACE, b"a").await.unwrap();
        rotated(&log, b"a", 1).await;
        assert_eq!(usable(&log, b"a").await, [8].into());
        assert_eq!(entries(&open(&disk.copy()).await), 0);
    });
}

/// As after an import that restores a damaged key: the version keeps its number, and stays revoked.
#[test]
fn a_blob_of_the_same_version_keeps_its_entry_and_drops_the_older_ones() {
    block_on(async {
        let disk = FaultyFiles::default();
        let log = open(&disk).await;
        rotated(&log, b"a", 3).await;
        for version in [1, 2, 3] {
            revoke(&log, version).await;
        }
        let versions = Versions {
            oldest: 3,
            without: 0,
        };
        let put = log.put_blob(KEYSPACE, b"a", 3, sealed(versions, 100), Expect::Version(3));
        put.await.unwrap();
        assert_eq!(entries(&log), 1);
        assert_eq!(usable(&log, b"a").await, BTreeSet::new());
    });
}

/// Of a blob that says nothing of its versions, all that it may hold count.
#[test]
fn a_blob_that_cannot_be_read_keeps_the_entries() {
    block_on(async {
        let disk = FaultyFiles::default();
        let log = open(&disk).await;
        rotated(&log, b"a", 3).await;
        revoke(&log, 1).await;
        let put = log.put_blob(KEYSPACE, b"a", 4, vec![9; 10], Expect::Version(3));
        put.await.unwrap();
        assert_eq!(entries(&log), 1);
        let log = open(&disk).await;
        assert_eq!(entries(&log), 1);
        // Versions that are further back than a blob has versions leave none.
        let put = log.put_blob(KEYSPACE, b"a", 900, vec![9; 10], Expect::Version(4));
        put.await.unwrap();
        for version in 1..=900 {
            revoke(&log, version).await;
        }
        assert_eq!(entries(&log), 128);
    });
}

#[test]
fn a_put_that_fails_drops_nothing() {
    block_on(async {
        let disk = FaultyFiles::default();
        let log = open(&disk).await;
        rotated(&log, b"a", 3).await;
        revoke(&log, 1).await;
        for steps in 0..2 {
            disk.fail_after(steps, Fault::Error);
            let failed = rewrite(&log, b"a", Rewrite::Trim(3), 100).await;
            assert!(matches!(failed, Err(PutError::Failed(_))), "{failed:?}");
            assert_eq!(entries(&log), 1);
            assert_eq!(usable(&log, b"a").await, [2, 3].into());
        }
    });
}

#[test]
fn a_thousand_rounds_of_revoking_and_trimming_leave_the_table_empty() {
    block_on(async {
        let disk = FaultyFiles::default();
        let mut log = open(&disk).await;
        rotated(&log, b"a", 1).await;
        for round in 1..=1_000 {
            rotated(&log, b"a", 1).await;
            revoke(&log, round).await;
            assert_eq!(entries(&log), 1);
            let trim = rewrite(&log, b"a", Rewrite::Trim(round + 1), 100);
            trim.await.unwrap();
            assert_eq!(entries(&log), 0);
            log.compact_step(4_096).await.unwrap();
            if round % 100 == 0 {
                log.close().await.unwrap();
                log = open(&disk).await;
                assert_eq!(entries(&log), 0);
            }
        }
        while log.compact_step(4_096).await.unwrap() != Compaction::Idle {}
        let stats = log.stats();
        assert!(stats.disk_bytes < 20_000, "{stats:?}");
    });
}

/// Revoked versions by key: those of which that was acknowledged.
type Revoked = BTreeMap<Vec<u8>, BTreeSet<u32>>;

/// No version is usable whose revocation was acknowledged, and the table is as short as it is said to be.
async fn check(logs: &[Log], revoked: &Revoked, tried: &Revoked) {
    let mut secrets = 0;
    for (key_id, tried) in tried {
        let empty = BTreeSet::new();
        let revoked = revoked.get(key_id).unwrap_or(&empty);
        for log in logs {
            let (usable, held) = (usable(log, key_id).await, held(log, key_id).await.1);
            assert!(
                usable.is_disjoint(revoked),
                "{key_id:?}: {usable:?}, {revoked:?}"
            );
            let gone: Vec<_> = held.difference(&usable).collect();
            assert!(gone.iter().all(|version| tried.contains(version)));
            secrets += held.len();
        }
    }
    let entries: usize = logs.iter().map(entries).sum();
    assert!(entries <= secrets, "{entries} entries, {secrets} secrets");
}

/// A history of three keys, until a call fails or it is over. Returns how many segments a compaction has removed.
async fn live(log: &Log, seed: u64, revoked: &mut Revoked, tried: &mut Revoked) -> u32 {
    let (mut random, mut removed) = (Random::new(seed), 0);
    for _ in 0..60 {
        let key_id = format!("key-{}", random.below(KEYS)).into_bytes();
        let newest = log.version_of(KEYSPACE, &key_id);
        let newest = newest.map_or(0, |known| known.version);
        let done = match random.below(6) {
            0 | 1 if newest > 0 => {
                let version = newest.saturating_sub(random.below(4) as u32).max(1);
                tried.entry(key_id.clone()).or_default().insert(version);
                let put = log.put_version_revoked(KEYSPACE, &key_id, version).await;
                if put.is_ok() {
                    revoked.entry(key_id).or_default().insert(version);
                }
                put.map(drop)
            }
            2 => {
                let below = newest.saturating_sub(random.below(3) as u32).max(1);
                rewrite(log, &key_id, Rewrite::Trim(below), random.below(900)).await
            }
            3 => rewrite(log, &key_id, Rewrite::Reseal, random.below(900)).await,
            _ => {
                tried.entry(key_id.clone()).or_default();
                rewrite(log, &key_id, Rewrite::Rotate, random.below(900)).await
            }
        };
        let compacted = log.compact_step(1_500).await;
        if done.is_err() || compacted.is_err() {
            break;
        }
        removed += u32::from(matches!(compacted, Ok(Compaction::Removed { .. })));
    }
    removed
}

/// How the calls that change the disk fail.
const FAULTS: [Fault; 4] = [Fault::PowerCut, Fault::Error, Fault::Done, Fault::Full];

#[test]
fn whatever_fails_a_revoked_version_stays_so_also_after_a_restart_and_a_move() {
    let steps = |seed| {
        let disk = FaultyFiles::default();
        block_on(async {
            let log = open(&disk).await;
            let removed = live(&log, seed, &mut Revoked::new(), &mut Revoked::new()).await;
            assert!(removed > 0, "nothing is compacted");
        });
        disk.steps()
    };
    for (seed, fault) in (0..3).flat_map(|seed| FAULTS.map(|fault| (seed, fault))) {
        for step in 0..steps(seed) {
            println!("seed {seed}, {fault:?} at step {step}");
            let mut random = Random::new(seed * 1_000_003 + step);
            let (mut revoked, mut tried) = (Revoked::new(), Revoked::new());
            let disk = FaultyFiles::default();
            disk.fail_after(step, fault);
            block_on(async {
                let opened = BlobLog::open(disk.clone(), options("log"), |_| {}).await;
                let Ok((log, _)) = opened else { return };
                live(&log, seed, &mut revoked, &mut tried).await;
                if disk.fault_is_over() && fault != Fault::PowerCut {
                    check(&[log], &revoked, &tried).await;
                }
            });
            let disk = disk.after_power_cut(&mut random);
            block_on(async {
                let log = open(&disk).await;
                check(std::slice::from_ref(&log), &revoked, &tried).await;
                // One more life, with compactions of what the first one left.
                live(&log, seed + 1, &mut revoked, &mut tried).await;
                while log.compact_step(4_096).await.unwrap() != Compaction::Idle {}
            });
            let disk = disk.after_power_cut(&mut random);
            block_on(async {
                let log = open(&disk).await;
                check(&[log], &revoked, &tried).await;
                let moved = |shard| {
                    let mut options = options(&format!("moved-{shard}"));
                    (options.generation, options.shard_index) = (2, shard);
                    options.shard_count = 2;
                    options
                };
                let to = || (0..2).map(moved).collect::<Vec<_>>();
                let route = |_: u32, key_id: &[u8]| usize::from(key_id.last() == Some(&b'1'));
                let from = vec![options("log")];
                move_keys(&disk, from, to(), route, |_| {}).await.unwrap();
                let mut logs = Vec::new();
                for options in to() {
                    let opened = BlobLog::open(disk.clone(), options, |_| {}).await;
                    logs.push(opened.unwrap().0);
                }
                check(&logs, &revoked, &tried).await;
            });
        }
    }
}
