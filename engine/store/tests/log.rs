//! A log that nothing goes wrong with: what each call promises.

mod support;

use futures_lite::future::{block_on, poll_once, zip};
use keyway_store::{
    BLOB_LEN_MAX, Blob, BlobLog, Compaction, Expect, KeyState, Known, LogOptions, Lookup,
    OpenError, PutError, ReadError, Row, StdFiles, Stored,
};
use support::faulty::FaultyFiles;
use support::{blob, join_all, open, small};

async fn fresh() -> (FaultyFiles, BlobLog<FaultyFiles>) {
    let disk = FaultyFiles::default();
    let (log, _) = open(disk.clone(), small("log")).await;
    (disk, log)
}

async fn create(log: &BlobLog<FaultyFiles>, key_id: &[u8], blob: &[u8]) -> Stored {
    log.put_blob(1, key_id, 1, blob.to_vec(), Expect::Absent)
        .await
        .unwrap()
}

#[test]
fn a_put_blob_is_read_back_on_real_files_and_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let (log, recovery) = open(StdFiles, small(dir.path())).await;
        assert_eq!(
            (recovery.records, recovery.segments, recovery.next_revision),
            (0, 1, 1)
        );
        for key in 0..100_u32 {
            let key_id = format!("key/{key}");
            let bytes = vec![key as u8; 200];
            let stored = log
                .put_blob(1, key_id.as_bytes(), 1, bytes, Expect::Absent)
                .await;
            assert_eq!(
                stored,
                Ok(Stored {
                    revision: u64::from(key) + 1,
                    version: 1
                })
            );
        }
        assert_eq!(blob(&log, 1, b"key/7").await, (1, vec![7; 200]));
        assert!(matches!(log.get(2, b"key/7").await, Ok(Lookup::Missing)));
        log.close().await.unwrap();
        let mut calls = Vec::new();
        let opened = BlobLog::open(StdFiles, small(dir.path()), |progress| calls.push(progress));
        let (log, recovery) = opened.await.unwrap();
        // The mark of the closing is a record, too.
        assert_eq!((recovery.records, recovery.live_records), (101, 100));
        assert_eq!((recovery.cut_bytes, recovery.damage_count), (0, 0));
        assert_eq!(recovery.next_revision, 102);
        let last = calls.last().unwrap();
        assert_eq!((last.bytes_done, last.records), (last.bytes_total, 101));
        for key in 0..100_u32 {
            let key_id = format!("key/{key}");
            assert_eq!(
                blob(&log, 1, key_id.as_bytes()).await,
                (1, vec![key as u8; 200])
            );
        }
    });
    let mode = |path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(dir.path().join("00000001.log")), 0o600);
}

#[test]
fn a_put_checks_what_it_expects() {
    block_on(async {
        let (_, log) = fresh().await;
        let put = |version, expect| log.put_blob(1, b"a", version, vec![version as u8], expect);
        assert_eq!(put(1, Expect::Version(1)).await, Err(PutError::NotFound));
        put(1, Expect::Absent).await.unwrap();
        assert_eq!(
            put(1, Expect::Absent).await,
            Err(PutError::Conflict { current: 1 })
        );
        put(2, Expect::Version(1)).await.unwrap();
        assert_eq!(
            put(2, Expect::Version(1)).await,
            Err(PutError::Conflict { current: 2 })
        );
        let behind = PutError::VersionBehind {
            current: 2,
            offered: 1,
        };
        assert_eq!(put(1, Expect::Version(2)).await, Err(behind));
        // Sealed again under another data key: the same version.
        let again = log
            .put_blob(1, b"a", 2, b"again".to_vec(), Expect::Version(2))
            .await
            .unwrap();
        assert_eq!(blob(&log, 1, b"a").await, (2, b"again".to_vec()));
        let known = Known {
            version: 2,
            revision: again.revision,
            state: KeyState::Live,
        };
        assert_eq!(log.version_of(1, b"a"), Some(known));
    });
}

#[test]
fn bad_records_are_refused_with_the_range() {
    block_on(async {
        let (_, log) = fresh().await;
        let long = [b'x'; 129];
        let cases: [(&[u8], u32, usize); 5] = [
            (b"", 1, 1),
            (&long, 1, 1),
            (b"a", 0, 1),
            (b"a", 1, 0),
            (b"a", 1, BLOB_LEN_MAX + 1),
        ];
        for (key_id, version, blob_len) in cases {
            let put = log
                .put_blob(1, key_id, version, vec![0; blob_len], Expect::Absent)
                .await;
            assert!(matches!(put, Err(PutError::BadRecord(_))), "{put:?}");
        }
        log.put_blob(1, &long[..128], 1, vec![7; BLOB_LEN_MAX], Expect::Absent)
            .await
            .unwrap();
        assert_eq!(blob(&log, 1, &long[..128]).await.1.len(), BLOB_LEN_MAX);
    });
}

#[test]
fn of_two_at_once_one_creates_and_one_rotates() {
    block_on(async {
        let (_, log) = fresh().await;
        let put =
            |value: &[u8], version, expect| log.put_blob(1, b"a", version, value.to_vec(), expect);
        let created = zip(put(b"x", 1, Expect::Absent), put(b"y", 1, Expect::Absent)).await;
        assert!(created.0.is_ok());
        assert_eq!(created.1, Err(PutError::Conflict { current: 1 }));
        let rotated = zip(
            put(b"z", 2, Expect::Version(1)),
            put(b"w", 2, Expect::Version(1)),
        )
        .await;
        assert!(rotated.0.is_ok());
        assert_eq!(rotated.1, Err(PutError::Conflict { current: 2 }));
        assert_eq!(blob(&log, 1, b"a").await, (2, b"z".to_vec()));
    });
}

#[test]
fn a_conflict_with_a_pending_put_is_not_told_before_that_is_durable() {
    block_on(async {
        let (disk, log) = fresh().await;
        let mut first = Box::pin(log.put_blob(1, b"a", 1, vec![1], Expect::Absent));
        let mut second = Box::pin(log.put_blob(1, b"a", 1, vec![2], Expect::Absent));
        assert!(poll_once(first.as_mut()).await.is_none());
        assert!(poll_once(second.as_mut()).await.is_none());
        disk.fail_after(0, support::faulty::Fault::Error);
        assert!(matches!(first.await, Err(PutError::Poisoned(_))));
        assert!(matches!(second.await, Err(PutError::Poisoned(_))));
    });
}

#[test]
fn a_revocation_is_final() {
    block_on(async {
        let (disk, log) = fresh().await;
        assert_eq!(log.put_revoked(1, b"a").await, Err(PutError::NotFound));
        create(&log, b"a", b"blob").await;
        let both = zip(
            log.put_revoked(1, b"a"),
            log.put_blob(1, b"a", 2, vec![2], Expect::Version(1)),
        );
        let (revoked, put) = both.await;
        let revoked = revoked.unwrap();
        assert_eq!(put, Err(PutError::Revoked));
        assert_eq!(
            log.put_revoked(1, b"a").await,
            Ok(revoked),
            "twice is no error"
        );
        for expect in [Expect::Absent, Expect::Version(1)] {
            let put = log.put_blob(1, b"a", 1, vec![2], expect).await;
            assert_eq!(put, Err(PutError::Revoked));
        }
        for again in [false, true] {
            let log = if again {
                open(disk.clone(), small("log")).await.0
            } else {
                log.clone()
            };
            let found = log.get(1, b"a").await.unwrap();
            assert!(
                matches!(found, Lookup::Revoked { version: 1, revision } if revision == revoked.revision)
            );
            assert_eq!(log.version_of(1, b"a").unwrap().state, KeyState::Revoked);
        }
    });
}

#[test]
fn puts_at_once_share_a_sync() {
    block_on(async {
        let disk = FaultyFiles::default();
        let mut options = small("log");
        options.segment_bytes = 1 << 20;
        let (log, _) = open(disk.clone(), options).await;
        let before = disk.syncs();
        let names: Vec<_> = (0..1000).map(|key| format!("key-{key}")).collect();
        let puts = names
            .iter()
            .map(|name| log.put_blob(1, name.as_bytes(), 1, vec![9; 100], Expect::Absent));
        let stored = join_all(puts.collect()).await;
        assert!(stored.iter().all(Result::is_ok));
        assert_eq!(
            disk.syncs() - before,
            2,
            "one for the first, one for all the others"
        );
        let stats = log.stats();
        assert_eq!((stats.commits, stats.committed_records), (2, 1000));
        assert_eq!(
            (stats.live_records, stats.pending_bytes, stats.dead_bytes),
            (1000, 0, 0)
        );
        for name in &names {
            blob(&log, 1, name.as_bytes()).await;
        }
    });
}

#[test]
fn a_put_is_not_seen_before_it_is_durable() {
    block_on(async {
        let (disk, log) = fresh().await;
        let before = disk.syncs();
        let mut put = Box::pin(log.put_blob(1, b"a", 1, vec![1], Expect::Absent));
        while poll_once(put.as_mut()).await.is_none() {
            assert_eq!(disk.syncs(), before);
            assert!(!log.contains(1, b"a"));
        }
        assert_eq!(disk.syncs(), before + 1);
        assert!(log.contains(1, b"a"));
    });
}

#[test]
fn a_leader_that_is_dropped_poisons_the_log_and_leaves_nobody_waiting() {
    block_on(async {
        let (_, log) = fresh().await;
        let mut leader = Box::pin(log.put_blob(1, b"a", 1, vec![1], Expect::Absent));
        let mut other = Box::pin(log.put_blob(1, b"b", 1, vec![1], Expect::Absent));
        assert!(poll_once(leader.as_mut()).await.is_none());
        assert!(poll_once(other.as_mut()).await.is_none());
        drop(leader);
        let Err(PutError::Poisoned(why)) = other.await else {
            panic!("not poisoned")
        };
        assert!(why.contains("dropped"), "{why}");
    });
}

#[test]
fn a_follower_that_is_dropped_harms_nobody() {
    block_on(async {
        let (_, log) = fresh().await;
        let mut leader = Box::pin(log.put_blob(1, b"a", 1, vec![1], Expect::Absent));
        let mut other = Box::pin(log.put_blob(1, b"b", 1, vec![1], Expect::Absent));
        assert!(poll_once(leader.as_mut()).await.is_none());
        assert!(poll_once(other.as_mut()).await.is_none());
        drop(other);
        leader.await.unwrap();
        create(&log, b"c", b"blob").await;
        assert!(log.contains(1, b"a") && log.contains(1, b"c"));
    });
}

#[test]
fn too_many_pending_bytes_are_refused_and_accepted_later() {
    block_on(async {
        let disk = FaultyFiles::default();
        let mut options = small("log");
        options.pending_bytes_max = 1000;
        let (log, _) = open(disk, options).await;
        let names = [b"a", b"b", b"c"];
        let puts = names.map(|name| log.put_blob(1, name, 1, vec![0; 400], Expect::Absent));
        let results = join_all(puts.into()).await;
        assert!(results[0].is_ok() && results[1].is_ok());
        assert_eq!(results[2], Err(PutError::Overloaded));
        create(&log, b"c", b"blob").await;
        log.put_blob(1, b"d", 1, vec![0; 2000], Expect::Absent)
            .await
            .expect("alone it goes");
    });
}

#[test]
fn a_closed_log_is_read_and_not_written() {
    block_on(async {
        let (_, log) = fresh().await;
        let put = log.put_blob(1, b"a", 1, vec![1], Expect::Absent);
        let (put, closed) = zip(put, log.close()).await;
        assert!(put.is_ok() && closed.is_ok());
        let late = log.put_blob(1, b"b", 1, vec![1], Expect::Absent).await;
        assert_eq!(late, Err(PutError::Closed));
        assert_eq!(log.close().await, Ok(()));
        assert_eq!(blob(&log, 1, b"a").await.0, 1);
    });
}

async fn list_all(log: &BlobLog<FaultyFiles>, limit: usize, keyspace: Option<u32>) -> Vec<Row> {
    let (mut rows, mut cursor) = (Vec::new(), Vec::new());
    loop {
        let page = log.list(&cursor, limit, keyspace).await.unwrap();
        assert!(page.rows.len() <= limit);
        rows.extend(page.rows);
        cursor = page.cursor;
        if cursor.is_empty() {
            return rows;
        }
    }
}

#[test]
fn a_listing_pages_through_what_is_live_in_log_order() {
    block_on(async {
        let (_, log) = fresh().await;
        assert_eq!(list_all(&log, 10, None).await, []);
        for key in 0..60_u32 {
            let key_id = format!("key-{key:02}");
            let put = log.put_blob(
                1 + key % 2,
                key_id.as_bytes(),
                1,
                vec![key as u8; 99],
                Expect::Absent,
            );
            put.await.unwrap();
        }
        log.put_blob(1, b"key-00", 2, b"new".to_vec(), Expect::Version(1))
            .await
            .unwrap();
        log.put_revoked(2, b"key-01").await.unwrap();
        for limit in [1, 7, 1000] {
            let rows = list_all(&log, limit, None).await;
            assert_eq!(rows.len(), 60);
            assert!(rows.windows(2).all(|two| two[0].revision < two[1].revision));
            let [.., new, revoked] = &rows[..] else {
                panic!("two rows at least")
            };
            assert_eq!((new.version, new.blob.as_slice()), (2, &b"new"[..]));
            assert_eq!((revoked.state, revoked.blob.len()), (KeyState::Revoked, 0));
            let odd = list_all(&log, limit, Some(2)).await;
            assert_eq!(odd.len(), 30);
            assert!(odd.iter().all(|row| row.keyspace == 2));
        }
        assert_eq!(list_all(&log, 10, Some(9)).await, []);
    });
}

#[test]
fn any_bytes_are_good_as_a_cursor() {
    block_on(async {
        let (_, log) = fresh().await;
        for key in 0..40_u32 {
            create(&log, format!("key-{key}").as_bytes(), &[3; 200]).await;
        }
        let mut random = support::Random::new(1);
        for _ in 0..2000 {
            let mut cursor: Vec<u8> = (0..random.below(12)).map(|_| random.next() as u8).collect();
            if cursor.len() == 9 {
                cursor[0] = 1;
                cursor[2..5].fill(0);
                cursor[7..].fill(0);
            }
            let page = log.list(&cursor, 3, None).await.unwrap();
            assert!(page.rows.iter().all(|row| row.blob == [3; 200]));
        }
    });
}

#[test]
fn a_listing_during_compactions_shows_every_key() {
    block_on(async {
        let (_, log) = fresh().await;
        let names: Vec<_> = (0..100).map(|key| format!("key-{key:03}")).collect();
        for name in &names {
            create(&log, name.as_bytes(), &[1; 150]).await;
        }
        // All but every fifth are written again, so that the old segments are mostly dead.
        for (at, name) in names.iter().enumerate() {
            if at % 5 != 0 {
                log.put_blob(1, name.as_bytes(), 2, vec![2; 150], Expect::Version(1))
                    .await
                    .unwrap();
            }
        }
        let (mut seen, mut cursor) = (Vec::new(), Vec::new());
        let mut removed = 0;
        loop {
            let page = log.list(&cursor, 4, None).await.unwrap();
            seen.extend(page.rows.into_iter().map(|row| row.key_id));
            if let Compaction::Removed { .. } = log.compact_step(4096).await.unwrap() {
                removed += 1;
            }
            cursor = page.cursor;
            if cursor.is_empty() {
                break;
            }
        }
        assert!(removed > 2);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), names.len());
    });
}

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

#[test]
fn another_keys_record_is_never_served() {
    // With the same seed of zeros the hashes differ, so the record is exchanged below the log.
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"a", b"one").await;
        create(&log, b"b", b"two").await;
        disk.edit("log/00000001.log".as_ref(), |bytes| {
            let len = 48 + 1 + 3;
            let (first, second) = bytes[64..].split_at_mut(len);
            first.swap_with_slice(&mut second[..len]);
        });
        for key_id in [b"a", b"b"] {
            let read = log.get(1, key_id).await;
            assert!(
                matches!(read, Err(ReadError::Damaged { segment: 1, .. })),
                "{read:?}"
            );
        }
    });
}

#[test]
fn options_out_of_range_are_refused() {
    let refused = |change: fn(&mut LogOptions)| {
        let mut options = small("log");
        change(&mut options);
        let opened = block_on(BlobLog::open(FaultyFiles::default(), options, |_| {}));
        assert!(matches!(opened.map(|_| ()), Err(OpenError::Options(_))));
    };
    refused(|options| options.shard_index = 1);
    refused(|options| options.segment_bytes = 100);
    refused(|options| options.segment_bytes = u32::MAX);
    refused(|options| options.compact_dead_pct = 0);
    refused(|options| options.compact_dead_pct = 101);
}
