//! Compactions: what they free, what they keep, and who may be in the way.

use futures_lite::future::{block_on, poll_once, zip};
use keyway_store::{Blob, BlobLog, Compaction, Expect, Lookup};

use crate::support::faulty::FaultyFiles;
use crate::support::{blob, create, fresh, open, small};

/// Steps until nothing is to be done; the segments removed.
async fn compact(log: &BlobLog<FaultyFiles>) -> usize {
    let mut removed = 0;
    loop {
        match log.compact_step(1000).await.unwrap() {
            Compaction::Idle => return removed,
            Compaction::Progress { scanned_bytes, .. } => assert!(scanned_bytes < 1000 + 600),
            Compaction::Removed { .. } => removed += 1,
            Compaction::Damaged { segment, offset } => panic!("damage at {segment}:{offset}"),
        }
    }
}

#[test]
fn a_compaction_frees_the_dead_and_keeps_the_live_through_the_next_start() {
    block_on(async {
        let (disk, log) = fresh().await;
        assert_eq!(log.compact_step(1000).await.unwrap(), Compaction::Idle);
        for version in 1..=20_u32 {
            for key in 0..10_u32 {
                let key_id = format!("key-{key}");
                let expect = if version == 1 {
                    Expect::Absent
                } else {
                    Expect::Version(version - 1)
                };
                let bytes = vec![(version + key) as u8; 300];
                log.put_blob(1, key_id.as_bytes(), version, bytes, expect)
                    .await
                    .unwrap();
            }
        }
        create(&log, b"revoked", b"blob").await;
        log.put_revoked(1, b"revoked").await.unwrap();
        let before = log.stats();
        assert!(before.segments > 10);
        let removed = compact(&log).await;
        let after = log.stats();
        assert_eq!(after.segments, before.segments - removed);
        assert_eq!(disk.names().len(), after.segments);
        assert!(after.dead_bytes < after.live_bytes + 4096, "{after:?}");
        assert_eq!(
            (after.live_records, after.live_bytes),
            (before.live_records, before.live_bytes)
        );
        assert_eq!(
            after.disk_bytes,
            after.live_bytes + after.dead_bytes + 64 * after.segments as u64
        );
        for again in [false, true] {
            let log = if again {
                open(disk.clone(), small("log")).await.0
            } else {
                log.clone()
            };
            for key in 0..10_u32 {
                let found = blob(&log, 1, format!("key-{key}").as_bytes()).await;
                assert_eq!(found, (20, vec![(20 + key) as u8; 300]));
            }
            assert!(matches!(
                log.get(1, b"revoked").await,
                Ok(Lookup::Revoked { .. })
            ));
            assert_eq!(log.stats().live_records, 11);
        }
    });
}

#[test]
fn a_copy_never_undoes_a_put_that_comes_between() {
    block_on(async {
        let (_, log) = fresh().await;
        for key in 0..40_u32 {
            create(&log, format!("key-{key}").as_bytes(), &[1; 300]).await;
        }
        for key in 0..30_u32 {
            let key_id = format!("key-{key}");
            log.put_blob(1, key_id.as_bytes(), 2, vec![2; 300], Expect::Version(1))
                .await
                .unwrap();
        }
        // Every key of the tail is rotated while the steps copy.
        for key in 0..40_u32 {
            let key_id = format!("key-{key}");
            let version = log.version_of(1, key_id.as_bytes()).unwrap().version;
            let put = log.put_blob(
                1,
                key_id.as_bytes(),
                version + 1,
                vec![version as u8 + 1; 300],
                Expect::Version(version),
            );
            let (step, put) = zip(log.compact_step(2000), put).await;
            step.unwrap();
            put.unwrap();
            let found = blob(&log, 1, key_id.as_bytes()).await;
            assert_eq!(found, (version + 1, vec![version as u8 + 1; 300]));
        }
        compact(&log).await;
        for key in 0..40_u32 {
            let version = if key < 30 { 3 } else { 2 };
            let found = blob(&log, 1, format!("key-{key}").as_bytes()).await;
            assert_eq!(found, (version, vec![version as u8; 300]));
        }
    });
}

#[test]
fn a_read_whose_segment_goes_meanwhile_looks_again() {
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"stays", &[7; 300]).await;
        for version in 1..=30_u32 {
            let expect = if version == 1 {
                Expect::Absent
            } else {
                Expect::Version(version - 1)
            };
            log.put_blob(1, b"turns", version, vec![1; 300], expect)
                .await
                .unwrap();
        }
        disk.forget_removed();
        let mut reading = Box::pin(log.get(1, b"stays"));
        assert!(
            poll_once(reading.as_mut()).await.is_none(),
            "the old place is being read"
        );
        assert!(compact(&log).await > 0);
        assert_eq!(
            disk.names()
                .iter()
                .filter(|name| name.ends_with("00000001.log"))
                .count(),
            0
        );
        let Ok(Lookup::Blob(found)) = reading.await else {
            panic!("not found")
        };
        assert_eq!(Blob::bytes(&found), [7; 300]);
    });
}
