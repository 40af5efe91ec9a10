//! Revocations and deletions: what ends a key, whatever the disk does.
//!
//! Revocations that were answered OVERLOADED used to hold until the next restart and were gone
//! then, and with a full disk none could be made at all.

use futures_lite::future::{block_on, poll_once};
use keyway_store::{
    BlobLog, Expect, KeyState, Lookup, PutError, REVOCATIONS_BYTES_MAX, REVOCATIONS_BYTES_RESERVED,
};

use crate::support::faulty::{Fault, FaultyFiles};
use crate::support::{Random, blob, create, fresh, open, small};

async fn put(log: &BlobLog<FaultyFiles>, key_id: &[u8], version: u32) -> Result<(), PutError> {
    let expect = match version {
        1 => Expect::Absent,
        version => Expect::Version(version - 1),
    };
    log.put_blob(1, key_id, version, vec![7; 300], expect)
        .await
        .map(|_| ())
}

async fn is_revoked(log: &BlobLog<FaultyFiles>, key_id: &[u8]) -> bool {
    matches!(log.get(1, key_id).await, Ok(Lookup::Revoked { .. }))
}

#[test]
fn a_revocation_holds_for_readers_before_it_is_durable() {
    block_on(async {
        let (_, log) = fresh().await;
        create(&log, b"a", b"blob").await;
        let revocation = log.revoke(1, b"a", 1_000, 0).unwrap();
        assert!(is_revoked(&log, b"a").await);
        assert_eq!(log.version_of(1, b"a").unwrap().state, KeyState::Revoked);
        let page = log.list(&[], 10, None).await.unwrap();
        assert_eq!(page.rows[0].state, KeyState::Revoked);
        assert_eq!(page.rows[0].blob, b"blob", "a crash may undo it");
        assert_eq!(put(&log, b"a", 2).await, Err(PutError::Revoked));
        log.persisted(revocation).await.unwrap();
        assert_eq!(log.revoked_at(1, b"a").await.unwrap(), Some(1_000));
        assert_eq!(log.list(&[], 10, None).await.unwrap().rows[0].blob, b"");
    });
}

/// It was answered with the revocation's outcome, "in force and not written", and nothing of the deletion is in force.
#[test]
fn a_deletion_that_waits_for_an_unwritten_revocation_has_changed_nothing() {
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"a", b"blob").await;
        disk.fail_after(1, Fault::Error);
        let mut revoked = Box::pin(log.put_revoked(1, b"a"));
        assert!(poll_once(revoked.as_mut()).await.is_none());
        let deleted = log.put_deleted(1, b"a");
        let (revoked, deleted) = futures_lite::future::zip(revoked, deleted).await;
        assert!(
            matches!(revoked, Err(PutError::NotPersisted(_))),
            "{revoked:?}"
        );
        assert!(matches!(deleted, Err(PutError::Failed(_))), "{deleted:?}");
        assert!(is_revoked(&log, b"a").await);
    });
}

#[test]
fn a_full_queue_does_not_stop_a_revocation() {
    block_on(async {
        let disk = FaultyFiles::default();
        let mut options = small("log");
        options.pending_bytes_max = 1;
        let (log, _) = open(disk, options).await;
        create(&log, b"a", b"blob").await;
        let mut stuck = Box::pin(put(&log, b"b", 1));
        assert!(poll_once(stuck.as_mut()).await.is_none());
        assert_eq!(put(&log, b"c", 1).await, Err(PutError::Overloaded));
        let mut revoked = Box::pin(log.put_revoked(1, b"a"));
        assert!(poll_once(revoked.as_mut()).await.is_none());
        assert!(is_revoked(&log, b"a").await);
        stuck.await.unwrap();
        revoked.await.unwrap();
    });
}

/// The refusal did not tell which limit was reached, and anyone's revocations could take all of the space.
#[test]
fn a_revocation_beyond_the_space_for_them_is_refused_by_that_name_and_changes_nothing() {
    block_on(async {
        let disk = FaultyFiles::default();
        let mut options = small("log");
        options.segment_bytes = 64 << 20;
        let (log, _) = open(disk.clone(), options).await;
        // The longest ids, so that few keys suffice.
        let name = |number: usize| format!("{number:0>128}").into_bytes();
        for number in 0..=REVOCATIONS_BYTES_MAX / 184 {
            create(&log, &name(number), b"blob").await;
        }
        disk.fail_after(0, Fault::Error);
        let mut waiting = Vec::new();
        for spare_bytes in [REVOCATIONS_BYTES_RESERVED, 0] {
            let refused = loop {
                match log.revoke(1, &name(waiting.len()), 1_000, spare_bytes) {
                    Ok(revocation) => waiting.push(revocation),
                    Err(error) => break error,
                }
            };
            let bytes = log.stats().revocations_bytes;
            assert_eq!(bytes / 184, (REVOCATIONS_BYTES_MAX - spare_bytes) / 184);
            assert_eq!(refused, PutError::RevocationsFull(bytes));
            let text = refused.to_string();
            assert!(
                text.contains("8388608") && text.contains("nothing was changed"),
                "{text}"
            );
            let next = name(waiting.len());
            assert!(!is_revoked(&log, &next).await);
            assert_eq!(log.version_of(1, &next).unwrap().state, KeyState::Live);
        }
        // What waits already can be revoked again, and all of it is written in the end.
        log.revoke(1, &name(0), 2_000, 0).unwrap();
        while log.retry_revocations().await.is_err() {}
        assert!(is_revoked(&log, &name(waiting.len() - 1)).await);
        log.revoke(1, &name(waiting.len()), 1_000, 0).unwrap();
    });
}

#[test]
fn a_full_disk_takes_revocations_and_refuses_the_rest_unchanged() {
    // In many segments, and far into one.
    for (segment_bytes, blob_len) in [(4 << 10, 150), (4 << 20, 4_000)] {
        block_on(a_full_disk(segment_bytes, blob_len));
    }
}

async fn a_full_disk(segment_bytes: u32, blob_len: usize) {
    let options = || {
        let mut options = small("log");
        options.segment_bytes = segment_bytes;
        options
    };
    {
        let disk = FaultyFiles::default();
        let (log, _) = open(disk.clone(), options()).await;
        let names: Vec<_> = (0..100).map(|key| format!("key-{key}")).collect();
        for name in &names {
            create(&log, name.as_bytes(), &vec![1; blob_len]).await;
        }
        disk.fail_after(0, Fault::Full);
        let refused = loop {
            // Some room is reserved already.
            if let Err(error) = put(
                &log,
                b"key-0",
                log.version_of(1, b"key-0").unwrap().version + 1,
            )
            .await
            {
                break error;
            }
        };
        assert!(matches!(refused, PutError::Failed(_)), "{refused}");
        assert!(log.stats().poisoned);
        let version = log.version_of(1, b"key-0").unwrap().version;
        for name in &names[1..] {
            log.put_revoked(1, name.as_bytes()).await.unwrap();
        }
        assert!(matches!(
            put(&log, b"new", 1).await,
            Err(PutError::Failed(_))
        ));
        let restarted = disk.after_power_cut(&mut Random::new(1));
        let (again, recovery) = open(restarted, options()).await;
        assert_eq!(recovery.damage_count, 0);
        for name in &names[1..] {
            assert!(is_revoked(&again, name.as_bytes()).await, "{name}");
        }
        assert_eq!(blob(&again, 1, b"key-0").await.0, version);
        assert!(!again.contains(1, b"new"));
        // With room it takes writes again, without a restart.
        disk.make_room();
        log.retry_revocations().await.unwrap();
        assert!(!log.stats().poisoned);
        put(&log, b"new", 1).await.unwrap();
    }
}

#[test]
fn a_revocation_that_cannot_be_written_holds_and_is_tried_again() {
    for step in 0..2 {
        block_on(async {
            let (disk, log) = fresh().await;
            create(&log, b"a", b"blob").await;
            create(&log, b"b", b"blob").await;
            disk.fail_after(step, Fault::Error);
            let told = log.put_revoked(1, b"a").await.unwrap_err();
            assert!(matches!(told, PutError::NotPersisted(_)), "{told}");
            assert!(told.to_string().contains("in force"), "{told}");
            assert!(is_revoked(&log, b"a").await);
            assert!(log.stats().revocations_bytes > 0);
            let undone = disk.after_power_cut(&mut Random::new(3)).copy();
            let (again, recovery) = open(undone, small("log")).await;
            assert_eq!(recovery.damage_count, 0);
            assert!(again.contains(1, b"a"), "as was reported");
            // The next write of anything takes it along, or the retry.
            match step {
                0 => log.retry_revocations().await.unwrap(),
                _ => put(&log, b"c", 1).await.unwrap(),
            }
            assert_eq!(log.stats().revocations_bytes, 0);
            let (again, _) = open(disk.after_power_cut(&mut Random::new(3)), small("log")).await;
            assert!(is_revoked(&again, b"a").await);
            assert!(!is_revoked(&again, b"b").await);
        });
    }
}

#[test]
fn a_key_with_a_damaged_record_can_be_revoked_and_restored() {
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"a", &[1; 300]).await;
        create(&log, b"b", &[1; 300]).await;
        put(&log, b"b", 2).await.unwrap();
        log.close().await.unwrap();
        let path = disk.names()[0].clone();
        disk.edit(&path, |bytes| {
            let at = bytes.windows(50).position(|run| run == [1; 50]).unwrap();
            bytes[at] = 0;
            let at = bytes.windows(50).rposition(|run| run == [7; 50]).unwrap();
            bytes[at] = 0;
        });
        let (log, recovery) = open(disk.clone(), small("log")).await;
        assert_eq!(recovery.damage_count, 2);
        log.put_revoked(1, b"a").await.unwrap();
        assert!(is_revoked(&log, b"a").await);
        // The version that was damaged is the one to be restored.
        assert_eq!(log.version_of(1, b"b").unwrap().state, KeyState::Damaged);
        let behind = log.put_blob(1, b"b", 1, vec![9], Expect::Version(2)).await;
        assert!(matches!(behind, Err(PutError::VersionBehind { .. })));
        log.put_blob(1, b"b", 2, vec![9], Expect::Version(2))
            .await
            .unwrap();
        assert_eq!(blob(&log, 1, b"b").await, (2, vec![9]));
        let (log, _) = open(disk, small("log")).await;
        assert_eq!(blob(&log, 1, b"b").await, (2, vec![9]));
        assert!(is_revoked(&log, b"a").await);
    });
}

#[test]
fn a_deleted_key_is_gone_and_its_versions_go_on_if_it_is_made_again() {
    block_on(async {
        let (disk, mut log) = fresh().await;
        assert_eq!(log.put_deleted(1, b"a").await, Err(PutError::NotFound));
        put(&log, b"a", 1).await.unwrap();
        put(&log, b"a", 2).await.unwrap();
        assert_eq!(log.put_deleted(1, b"a").await, Err(PutError::NotRevoked));
        log.put_revoked(1, b"a").await.unwrap();
        log.put_deleted(1, b"a").await.unwrap();
        for restart in [false, true] {
            if restart {
                log = open(disk.clone(), small("log")).await.0;
            }
            assert!(matches!(log.get(1, b"a").await, Ok(Lookup::Missing)));
            let known = log.version_of(1, b"a").unwrap();
            assert_eq!((known.version, known.state), (2, KeyState::Deleted));
            assert_eq!(log.list(&[], 10, None).await.unwrap().rows, []);
            assert_eq!(log.put_deleted(1, b"a").await, Err(PutError::NotFound));
            assert_eq!(log.put_revoked(1, b"a").await, Err(PutError::NotFound));
            let behind = log.put_blob(1, b"a", 2, vec![9], Expect::Absent).await;
            assert!(matches!(behind, Err(PutError::VersionBehind { .. })));
        }
        log.put_blob(1, b"a", 3, vec![9], Expect::Absent)
            .await
            .unwrap();
        for _ in 0..200 {
            let version = log.version_of(1, b"b").map_or(0, |known| known.version);
            put(&log, b"b", version + 1).await.unwrap();
            log.compact_step(4096).await.unwrap();
        }
        let (log, _) = open(disk, small("log")).await;
        assert_eq!(blob(&log, 1, b"a").await, (3, vec![9]));
    });
}

#[test]
fn a_put_under_an_older_revision_of_the_same_version_is_a_conflict() {
    block_on(async {
        let (_, log) = fresh().await;
        let first = create(&log, b"a", b"two versions").await;
        let expect = Expect::Revision(1, first.revision);
        let put = |blob: &[u8]| log.put_blob(1, b"a", 1, blob.to_vec(), expect);
        put(b"one of them revoked").await.unwrap();
        let late = put(b"two versions, resealed").await;
        assert_eq!(late, Err(PutError::Conflict { current: 1 }));
        assert_eq!(blob(&log, 1, b"a").await.1, b"one of them revoked");
    });
}

#[test]
fn use_counts_survive_rotations_restarts_and_compactions() {
    block_on(async {
        let (disk, log) = fresh().await;
        assert_eq!(log.uses(1, b"a").await.unwrap(), None);
        for version in 1..=60 {
            put(&log, b"a", version).await.unwrap();
        }
        log.put_uses(1, b"a", 60, 5_000).await.unwrap();
        log.put_uses(1, b"a", 60, 4_000).await.unwrap();
        log.put_uses(1, b"a", 59, 9_000).await.unwrap();
        assert_eq!(log.uses(1, b"a").await.unwrap(), Some((60, 4_000)));
        for version in 61..=200 {
            put(&log, b"a", version).await.unwrap();
            log.compact_step(8192).await.unwrap();
        }
        assert_eq!(log.stats().live_records, 1, "a count is no key");
        assert_eq!(log.list(&[], 10, None).await.unwrap().rows.len(), 1);
        let (log, _) = open(disk, small("log")).await;
        assert_eq!(log.uses(1, b"a").await.unwrap(), Some((60, 4_000)));
        assert_eq!(log.uses(2, b"a").await.unwrap(), None);
    });
}
