//! A log that nothing goes wrong with: what each call promises.

use crate::support::faulty::FaultyFiles;
use crate::support::{blob, create, fresh, join_all, open, small};
use futures_lite::future::{block_on, poll_once, zip};
use keyway_store::{
    BLOB_LEN_MAX, BlobLog, Expect, KeyState, Known, LogOptions, Lookup, OpenError, PutError,
    ReadError, StdFiles, Stored,
};

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
        // The close marker is also a record.
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
        disk.fail_after(0, crate::support::faulty::Fault::Error);
        assert!(matches!(first.await, Err(PutError::Failed(_))));
        // The put that was in its way is gone.
        assert!(second.await.is_ok());
        assert_eq!(blob(&log, 1, b"a").await, (1, vec![2]));
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
fn a_leader_that_is_dropped_loses_its_batch_only_and_leaves_nobody_waiting() {
    block_on(async {
        let (_, log) = fresh().await;
        let mut leader = Box::pin(log.put_blob(1, b"a", 1, vec![1], Expect::Absent));
        let mut other = Box::pin(log.put_blob(1, b"b", 1, vec![1], Expect::Absent));
        assert!(poll_once(leader.as_mut()).await.is_none());
        assert!(poll_once(other.as_mut()).await.is_none());
        drop(leader);
        // Whether it was in that batch depends on how far the leader had come.
        match other.await {
            Err(PutError::Unknown(why)) => assert!(why.contains("dropped"), "{why}"),
            other => assert!(other.is_ok(), "{other:?}"),
        }
        create(&log, b"c", b"blob").await;
        assert_eq!(blob(&log, 1, b"c").await.0, 1);
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

/// A read compared the record with the key's name and with its length only, and then told the version
/// that the record itself had, which the key's opening took for the one that exists. So an older
/// record that replaced the latest, complete and of the same length (they are alike
/// from the ninth version on), was served while the log was open.
#[test]
fn an_older_record_put_back_is_never_served() {
    block_on(async {
        let (disk, log) = fresh().await;
        create(&log, b"a", b"one").await;
        let put = log.put_blob(1, b"a", 2, b"two".to_vec(), Expect::Version(1));
        put.await.unwrap();
        // The same place in a log of the same name: there it is version 1, with right checksums.
        let (other_disk, other) = fresh().await;
        create(&other, b"b", b"any").await;
        create(&other, b"a", b"one").await;
        let len = 48 + 1 + 3;
        let second = 64 + len..64 + 2 * len;
        let mut older = Vec::new();
        other_disk.edit("log/00000001.log".as_ref(), |bytes| {
            older = bytes[second.clone()].to_vec();
        });
        disk.edit("log/00000001.log".as_ref(), |bytes| {
            bytes[second].copy_from_slice(&older);
        });
        let read = log.get(1, b"a").await;
        assert!(
            matches!(read, Err(ReadError::Damaged { segment: 1, .. })),
            "{read:?}"
        );
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
