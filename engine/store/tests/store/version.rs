//! Revoking one version of a key: in force at once, whatever the disk does, and kept through everything that moves records.

use futures_lite::future::block_on;
use keyway_store::{Compaction, Expect, PutError};

use crate::support::faulty::{Fault, FaultyFiles};
use crate::support::{blob, create, fresh, open, small};

type Log = keyway_store::BlobLog<FaultyFiles>;

async fn rotate(log: &Log, key_id: &[u8], version: u32) {
    let put = log.put_blob(
        1,
        key_id,
        version,
        vec![7; 200],
        Expect::Version(version - 1),
    );
    put.await.unwrap();
}

/// The revoked versions of a key, in ascending order.
fn revoked(log: &Log, key_id: &[u8]) -> Vec<u32> {
    let newest = log.version_of(1, key_id).map_or(0, |known| known.version);
    let bits = log.revoked_versions(1, key_id, newest);
    let below = (0..newest.min(128)).rev();
    let below = below.filter(|below| bits >> below & 1 == 1);
    below.map(|below| newest - below).collect()
}

#[test]
fn a_revoked_version_is_final_and_leaves_the_others() {
    block_on(async {
        let (disk, log) = fresh().await;
        let revoke = |version| log.put_version_revoked(1, b"a", version);
        assert_eq!(revoke(1).await, Err(PutError::NotFound));
        create(&log, b"a", b"blob").await;
        for version in 2..=4 {
            rotate(&log, b"a", version).await;
        }
        for version in [0, 5] {
            assert_eq!(revoke(version).await, Err(PutError::NotFound));
        }
        let stored = revoke(2).await.unwrap();
        assert_eq!(stored.version, 4, "the newest version of the key");
        assert_eq!(revoke(2).await, Ok(stored), "twice is no error");
        // The newest one too, and it stays so after a rotation.
        revoke(4).await.unwrap();
        rotate(&log, b"a", 5).await;
        create(&log, b"b", b"blob").await;
        for again in [false, true] {
            let log = match again {
                true => open(disk.clone(), small("log")).await.0,
                false => log.clone(),
            };
            assert_eq!(revoked(&log, b"a"), [2, 4]);
            assert_eq!(revoked(&log, b"b"), []);
            assert_eq!(blob(&log, 1, b"a").await, (5, vec![7; 200]));
            assert_eq!(log.stats().live_records, 2);
        }
        log.put_revoked(1, b"a").await.unwrap();
        assert_eq!(revoke(1).await, Err(PutError::Revoked));
        log.put_deleted(1, b"a").await.unwrap();
        assert_eq!(revoke(1).await, Err(PutError::NotFound));
    });
}

/// A put that is not durable may fail, and the number of its version be that of another one.
#[test]
fn a_version_that_is_not_durable_is_not_revoked() {
    block_on(async {
        let (_, log) = fresh().await;
        create(&log, b"a", b"blob").await;
        let rotated = log.put_blob(1, b"a", 2, vec![7; 200], Expect::Version(1));
        let revoked = async { log.revoke_version(1, b"a", 2, 0, 0).map(drop) };
        let (rotated, revoked) = futures_lite::future::zip(rotated, revoked).await;
        rotated.unwrap();
        assert_eq!(revoked, Err(PutError::NotFound));
    });
}

/// It is written into the space that is reserved for revocations.
#[test]
fn a_version_is_revoked_on_a_full_disk() {
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"a", b"blob").await;
        rotate(&log, b"a", 2).await;
        disk.fail_after(0, Fault::Full);
        for key in 0.. {
            let key_id = format!("other-{key}");
            let put = log.put_blob(1, key_id.as_bytes(), 1, vec![7; 200], Expect::Absent);
            if put.await.is_err() {
                break;
            }
        }
        log.put_version_revoked(1, b"a", 1).await.unwrap();
        assert_eq!(revoked(&log, b"a"), [1]);
        let log = open(disk.copy(), small("log")).await.0;
        assert_eq!(revoked(&log, b"a"), [1]);
    });
}

#[test]
fn a_failed_write_of_it_is_told_and_it_is_tried_again() {
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"a", b"blob").await;
        rotate(&log, b"a", 2).await;
        disk.fail_after(0, Fault::Error);
        let failed = log.put_version_revoked(1, b"a", 1).await;
        assert!(
            matches!(failed, Err(PutError::NotPersisted(_))),
            "{failed:?}"
        );
        assert_eq!(revoked(&log, b"a"), [1], "it is in force");
        assert!(log.stats().revocations_bytes > 0);
        log.retry_revocations().await.unwrap();
        log.put_version_revoked(1, b"a", 1).await.unwrap();
        assert_eq!(log.stats().revocations_bytes, 0);
        let log = open(disk.copy(), small("log")).await.0;
        assert_eq!(revoked(&log, b"a"), [1]);
    });
}

#[test]
fn compactions_keep_revoked_versions() {
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"a", b"blob").await;
        for version in 2..=60 {
            rotate(&log, b"a", version).await;
            if version % 7 == 0 {
                log.put_version_revoked(1, b"a", version - 1).await.unwrap();
            }
        }
        let expected: Vec<u32> = (1..=60).filter(|version| (version + 1) % 7 == 0).collect();
        assert_eq!(revoked(&log, b"a"), expected);
        let first = log.stats().segments;
        while log.compact_step(1000).await.unwrap() != Compaction::Idle {}
        assert!(log.stats().segments < first, "nothing was compacted");
        assert_eq!(revoked(&log, b"a"), expected);
        let (log, recovery) = open(disk.copy(), small("log")).await;
        assert_eq!(recovery.damage_count, 0);
        assert_eq!(revoked(&log, b"a"), expected);
    });
}

/// The time of the revocation is not what matters.
#[test]
fn a_record_with_a_damaged_time_still_revokes() {
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"a", b"blob").await;
        rotate(&log, b"a", 2).await;
        log.put_version_revoked(1, b"a", 1).await.unwrap();
        log.close().await.unwrap();
        let path = disk.names().pop().unwrap();
        disk.edit(&path, |bytes| {
            // Behind it is the mark of the close, of 48 bytes.
            let at = bytes.len() - 48 - 1;
            bytes[at] ^= 1;
        });
        let (log, recovery) = open(disk, small("log")).await;
        assert_eq!(recovery.damage_count, 1);
        assert_eq!(revoked(&log, b"a"), [1]);
        assert_eq!(blob(&log, 1, b"a").await.0, 2);
    });
}
