//! Damaged and truncated files: what is distinguished, what is kept, and that nothing panics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::faulty::FaultyFiles;
use crate::support::{blob, open, small};
use futures_lite::future::block_on;
use keyway_store::{BlobLog, Compaction, Expect, KeyState, Lookup, OpenError, PutError, ReadError};
use proptest::prelude::*;

/// Where the newest record of a key lies: file, start, end; and what it holds.
type Place = (PathBuf, usize, usize, u32, Vec<u8>);

const RECORD_LEN: usize = 48 + 6 + 200;

/// A log of several segments that was not closed, each put a batch of its own, with the place of
/// every record in log order.
fn sample() -> (FaultyFiles, Vec<(Vec<u8>, Place)>) {
    let disk = FaultyFiles::default();
    let mut places = Vec::new();
    block_on(async {
        let (log, _) = open(disk.clone(), small("log")).await;
        let mut ends = BTreeMap::new();
        for at in 0..60_u32 {
            let key_id = format!("key-{:02}", at % 25).into_bytes();
            let version = at / 25 + 1;
            let bytes = vec![at as u8; 200];
            let expect = if version == 1 {
                Expect::Absent
            } else {
                Expect::Version(version - 1)
            };
            log.put_blob(1, &key_id, version, bytes.clone(), expect)
                .await
                .unwrap();
            let path = disk.names().pop().unwrap();
            let start = *ends.entry(path.clone()).or_insert(64_usize);
            ends.insert(path.clone(), start + RECORD_LEN);
            places.push((key_id, (path, start, start + RECORD_LEN, version, bytes)));
        }
        assert!(log.stats().segments > 3);
    });
    (disk, places)
}

fn flip(disk: &FaultyFiles, path: &Path, at: usize) {
    disk.edit(path, |bytes| bytes[at] ^= 0x10);
}

#[test]
fn damage_to_a_blob_in_an_old_segment_is_named_and_only_that_key_is_lost() {
    block_on(async {
        let (disk, places) = sample();
        // The newest record of key-20 is the one of its second round.
        let (key_id, (path, start, _, version, _)) = &places[45];
        flip(&disk, path, start + 100);
        let (log, recovery) = open(disk.clone(), small("log")).await;
        assert_eq!(recovery.damage_count, 1);
        let damage = &recovery.damage[0];
        assert_eq!(
            (damage.offset as usize, damage.len as usize),
            (*start, RECORD_LEN)
        );
        assert_eq!(damage.key, Some((1, key_id.clone(), *version)));
        assert_eq!(recovery.cut_bytes, 0);
        let read = log.get(1, key_id).await;
        assert!(
            matches!(read, Err(ReadError::Damaged { .. })),
            "never missing, never older"
        );
        assert!(read.unwrap_err().to_string().contains("restore"));
        let known = log.version_of(1, key_id).unwrap();
        assert_eq!((known.version, known.state), (*version, KeyState::Damaged));
        assert_eq!(log.stats().damaged_records, 1);
        for (other, (_, _, _, version, bytes)) in &places[35..60] {
            if other != key_id {
                assert_eq!(blob(&log, 1, other).await, (*version, bytes.clone()));
            }
        }
        let page = log.list(&[], 100, None).await.unwrap();
        let row = page.rows.iter().find(|row| row.key_id == *key_id).unwrap();
        assert_eq!((row.state, row.blob.len()), (KeyState::Damaged, 0));
        // A new version repairs it.
        let put = log
            .put_blob(1, key_id, version + 1, vec![1], Expect::Version(*version))
            .await;
        put.unwrap();
        assert_eq!(blob(&log, 1, key_id).await, (version + 1, vec![1]));
        let (log, _) = open(disk, small("log")).await;
        assert_eq!(blob(&log, 1, key_id).await, (version + 1, vec![1]));
        assert_eq!(log.stats().damaged_records, 0);
    });
}

#[test]
fn damage_to_a_head_is_stepped_over_and_the_next_record_found() {
    block_on(async {
        let (disk, places) = sample();
        let (key_id, (path, start, ..)) = &places[40];
        // The length itself: nothing of the head can be trusted.
        flip(&disk, path, start + 4);
        let (log, recovery) = open(disk, small("log")).await;
        assert_eq!(recovery.damage_count, 1);
        assert_eq!(
            (recovery.damage[0].offset as usize, &recovery.damage[0].key),
            (*start, &None)
        );
        assert_eq!(recovery.damage[0].len as usize, RECORD_LEN);
        // Its key cannot be determined, so the older version reappears: documented.
        assert_eq!(blob(&log, 1, key_id).await.0, 1);
        for (other, (_, _, _, version, bytes)) in &places[41..60] {
            assert_eq!(blob(&log, 1, other).await, (*version, bytes.clone()));
        }
    });
}

#[test]
fn damage_in_the_last_segment_that_a_later_batch_proves_durable_is_damage_not_a_tear() {
    block_on(async {
        let (disk, places) = sample();
        let (last_path, ..) = &places[59].1;
        let (key_id, (path, start, ..)) = &places[57];
        assert_eq!(path, last_path);
        flip(&disk, path, start + 100);
        let (log, recovery) = open(disk, small("log")).await;
        assert_eq!((recovery.cut_bytes, recovery.damage_count), (0, 1));
        assert!(log.get(1, key_id).await.is_err());
        assert_eq!(blob(&log, 1, &places[59].0).await.0, 3);
    });
}

#[test]
fn damage_in_the_last_batch_is_a_tear_unless_the_log_was_closed() {
    block_on(async {
        for closed in [false, true] {
            let (disk, places) = sample();
            if closed {
                let (log, _) = open(disk.clone(), small("log")).await;
                log.close().await.unwrap();
            }
            let (key_id, (path, start, ..)) = &places[59];
            flip(&disk, path, start + 100);
            let (log, recovery) = open(disk, small("log")).await;
            if closed {
                assert_eq!((recovery.cut_bytes, recovery.damage_count), (0, 1));
                assert!(log.get(1, key_id).await.is_err());
            } else {
                assert_eq!(
                    (recovery.cut_bytes as usize, recovery.damage_count),
                    (RECORD_LEN, 0)
                );
                assert_eq!(blob(&log, 1, key_id).await.0, 2);
            }
        }
    });
}

#[test]
fn a_cut_end_is_cut_to_the_last_whole_record_and_written_on_from_there() {
    block_on(async {
        let (disk, places) = sample();
        let (key_id, (path, start, end, ..)) = &places[59];
        for len in *start..*end {
            let disk = disk.copy();
            disk.edit(path, |bytes| bytes.truncate(len));
            let (log, recovery) = open(disk.clone(), small("log")).await;
            assert_eq!(
                (recovery.cut_bytes as usize, recovery.damage_count),
                (len - start, 0)
            );
            assert_eq!(blob(&log, 1, key_id).await.0, 2);
            log.put_blob(1, key_id, 3, vec![8; 9], Expect::Version(2))
                .await
                .unwrap();
            let (log, recovery) = open(disk, small("log")).await;
            assert_eq!((recovery.cut_bytes, recovery.damage_count), (0, 0));
            assert_eq!(blob(&log, 1, key_id).await, (3, vec![8; 9]));
        }
    });
}

#[test]
fn whole_records_behind_a_tear_are_counted() {
    block_on(async {
        let disk = FaultyFiles::default();
        let (log, _) = open(disk.clone(), small("log")).await;
        let names = [b"a", b"b", b"c", b"d"];
        // The first goes alone, the other three are one batch.
        let puts = names.map(|name| log.put_blob(1, name, 1, vec![0; 51], Expect::Absent));
        assert!(
            crate::support::join_all(puts.into())
                .await
                .iter()
                .all(Result::is_ok)
        );
        flip(&disk, "log/00000001.log".as_ref(), 64 + 100 + 60);
        let (log, recovery) = open(disk, small("log")).await;
        assert_eq!((recovery.cut_bytes, recovery.cut_records), (300, 2));
        assert!(log.contains(1, b"a") && !log.contains(1, b"c"));
    });
}

#[test]
fn a_half_made_segment_of_a_roll_over_is_made_again() {
    block_on(async {
        for len in 0..=64_usize {
            let (disk, places) = sample();
            let last = disk.names().pop().unwrap();
            let number: u32 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            let next = PathBuf::from(format!("log/{:08}.log", number + 1));
            keyway_store::Files::create(&disk, &next).await.unwrap();
            disk.edit(&next, |bytes| bytes.resize(len, 0));
            let (log, recovery) = open(disk.clone(), small("log")).await;
            assert_eq!((recovery.damage_count, recovery.cut_bytes), (0, 0));
            assert_eq!(disk.names().pop(), Some(last));
            assert_eq!(blob(&log, 1, &places[59].0).await.0, 3);
            for key in 0..30_u32 {
                let key_id = format!("new-{key}");
                log.put_blob(1, key_id.as_bytes(), 1, vec![1; 200], Expect::Absent)
                    .await
                    .unwrap();
            }
            assert!(disk.names().contains(&next));
            assert_eq!(open(disk, small("log")).await.1.damage_count, 0);
        }
    });
}

/// A segment that was truncated, followed by a partially written one that recovery removes, was taken
/// for a good place to append to. Its last record still claimed the bytes that it had lost, or its
/// first records stood where the header belongs; so the next opening took what had been put and
/// acknowledged since for the rest of the damage, and cut it off. Found by fuzzing.
#[test]
fn nothing_is_appended_to_a_damaged_segment_that_a_half_made_one_had_sealed() {
    block_on(async {
        let (disk, places) = sample();
        let last = disk.names().pop().unwrap();
        let (_, _, end, ..) = places[59].1;
        for len in [0, 1, 63, 64 + 20, end - 30, end - 1] {
            let disk = disk.copy();
            disk.edit(&last, |bytes| bytes.truncate(len));
            let number: u32 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            let next = PathBuf::from(format!("log/{:08}.log", number + 1));
            keyway_store::Files::create(&disk, &next).await.unwrap();
            let (log, first) = open(disk.clone(), small("log")).await;
            assert_eq!((first.cut_bytes, first.damage_count), (0, 1), "{len}");
            log.put_blob(1, b"after", 1, vec![9; 300], Expect::Absent)
                .await
                .unwrap();
            let (log, second) = open(disk, small("log")).await;
            assert_eq!((second.cut_bytes, second.damage_count), (0, 1), "{len}");
            assert_eq!(blob(&log, 1, b"after").await, (1, vec![9; 300]));
        }
    });
}

#[test]
fn a_damaged_header_is_reported_and_its_records_are_read() {
    block_on(async {
        for segment in [1, 2, 100] {
            let (disk, places) = sample();
            let names = disk.names();
            let path = &names[(segment - 1).min(names.len() - 1)];
            flip(&disk, path, 30);
            let (log, recovery) = open(disk.clone(), small("log")).await;
            assert_eq!(recovery.damage_count, 1);
            assert_eq!((recovery.damage[0].offset, recovery.damage[0].len), (0, 64));
            for (key_id, (_, _, _, version, bytes)) in &places[35..] {
                assert_eq!(blob(&log, 1, key_id).await, (*version, bytes.clone()));
            }
        }
    });
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (disk, _) = sample();
    let mut other = small("log");
    other.cluster_id = [6; 16];
    let opened = block_on(BlobLog::open(disk, other, |_| {}));
    let Err(OpenError::Foreign { path, why }) = opened.map(|_| ()) else {
        panic!("opened")
    };
    assert_eq!(path, "log/00000001.log");
    assert!(
        why.contains("cluster id") && why.contains("put the file back"),
        "{why}"
    );
}

#[test]
fn a_revoked_key_stays_revoked_when_an_older_segment_is_damaged_or_comes_back() {
    block_on(async {
        let (disk, _) = sample();
        let (log, _) = open(disk.clone(), small("log")).await;
        let old = disk.copy();
        log.put_revoked(1, b"key-03").await.unwrap();
        for key in 0..25_u32 {
            let key_id = format!("key-{key:02}");
            let version = log.version_of(1, key_id.as_bytes()).unwrap().version;
            for at in 0..4 {
                let (version, expect) = (version + at + 1, Expect::Version(version + at));
                let put = log.put_blob(1, key_id.as_bytes(), version, vec![at as u8; 200], expect);
                assert!(matches!(put.await, Ok(_) | Err(PutError::Revoked)));
            }
        }
        while log.compact_step(1 << 20).await.unwrap() != Compaction::Idle {}
        // The removal of the first segment is undone, as a lost directory sync would.
        let first = PathBuf::from("log/00000001.log");
        assert!(!disk.names().contains(&first));
        keyway_store::Files::create(&disk, &first).await.unwrap();
        let mut bytes = Vec::new();
        old.edit(&first, |old| bytes.clone_from(old));
        disk.edit(&first, |back| *back = bytes);
        let (log, recovery) = open(disk, small("log")).await;
        assert_eq!(recovery.damage_count, 0);
        assert!(matches!(
            log.get(1, b"key-03").await,
            Ok(Lookup::Revoked { .. })
        ));
        assert_eq!(blob(&log, 1, b"key-04").await, (7, vec![3; 200]));
    });
}

#[test]
fn a_damaged_segment_is_not_compacted_away() {
    block_on(async {
        for found_at_open in [true, false] {
            let (disk, places) = sample();
            let (mut log, _) = open(disk.clone(), small("log")).await;
            for key in 0..24_u32 {
                let key_id = format!("key-{key:02}");
                let version = log.version_of(1, key_id.as_bytes()).unwrap().version;
                let expect = Expect::Version(version);
                log.put_blob(1, key_id.as_bytes(), version + 1, vec![1; 200], expect)
                    .await
                    .unwrap();
            }
            // key-24 alone is live in its segment, and damaged.
            let (key_id, (path, start, ..)) = &places[49];
            assert_eq!(key_id, b"key-24");
            let name = path.file_stem().unwrap().to_str().unwrap();
            let segment: u32 = name.parse().unwrap();
            flip(&disk, path, start + 100);
            if found_at_open {
                log = open(disk.clone(), small("log")).await.0;
            }
            let mut met = 0;
            loop {
                match log.compact_step(1 << 20).await.unwrap() {
                    Compaction::Idle => break,
                    Compaction::Damaged {
                        segment: damaged, ..
                    } => {
                        assert_eq!(damaged, segment);
                        met += 1;
                    }
                    Compaction::Progress { .. } | Compaction::Removed { .. } => {}
                }
            }
            assert_eq!(met, u32::from(!found_at_open));
            assert!(disk.names().contains(path));
            assert!(matches!(
                log.get(1, b"key-24").await,
                Err(ReadError::Damaged { .. })
            ));
            assert_eq!(log.stats().damaged_records, 1);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bit flips and a cut anywhere: the log opens, every key whose records all lie before the
    /// damage is as it was, and no read gives anything but a version that was put.
    #[test]
    fn any_damage_leaves_what_lies_before_it(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..8), 0..4),
        cut in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
    ) {
        let (disk, places) = sample();
        let names = disk.names();
        let mut first_damage = (names.len(), 0);
        for (file, at, bit) in flips {
            let file = file.index(names.len());
            disk.edit(&names[file], |bytes| {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
                first_damage = first_damage.min((file, at));
            });
        }
        if let Some((file, len)) = cut {
            let file = file.index(names.len());
            disk.edit(&names[file], |bytes| {
                let len = len.index(bytes.len());
                bytes.truncate(len);
                first_damage = first_damage.min((file, len));
            });
        }
        block_on(async {
            let (log, recovery) = open(disk.clone(), small("log")).await;
            let mut newest = BTreeMap::new();
            for (key_id, place) in &places {
                newest.insert(key_id.clone(), place.clone());
            }
            for (key_id, (path, _, end, version, bytes)) in newest {
                let file = names.iter().position(|name| *name == path).unwrap();
                let whole = (file, end) <= first_damage;
                match log.get(1, &key_id).await {
                    Ok(Lookup::Blob(found)) => {
                        let put = places.iter().find(|(id, place)| *id == key_id && place.3 == found.version);
                        let (_, (.., put)) = put.expect("a version that was put");
                        assert_eq!(found.bytes(), put);
                        assert!(!whole || (found.version, found.bytes()) == (version, &bytes[..]));
                    }
                    Ok(Lookup::Missing) | Err(ReadError::Damaged { .. }) => assert!(!whole),
                    other => panic!("{other:?}"),
                }
            }
            // What the opening repaired stays repaired, and the log accepts writes.
            let put = log.put_blob(1, b"after", 1, vec![1; 300], Expect::Absent).await;
            put.unwrap();
            let (log, again) = open(disk, small("log")).await;
            assert_eq!((again.cut_bytes, again.damage_count), (0, recovery.damage_count));
            assert_eq!(blob(&log, 1, b"after").await, (1, vec![1; 300]));
        });
    }

    /// Files of any bytes at all.
    #[test]
    fn any_bytes_open_or_are_refused(
        files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..4),
        real_header in any::<bool>(),
    ) {
        let disk = FaultyFiles::default();
        block_on(async {
            let (log, _) = open(disk.clone(), small("log")).await;
            let mut header = Vec::new();
            disk.edit("log/00000001.log".as_ref(), |bytes| header.clone_from(bytes));
            drop(log);
            for (number, bytes) in (1..).zip(files) {
                let path = PathBuf::from(format!("log/{number:08}.log"));
                if number > 1 {
                    keyway_store::Files::create(&disk, &path).await.unwrap();
                }
                let front = if real_header && number == 1 { &header[..] } else { &[] };
                disk.edit(&path, |file| *file = [front, &bytes].concat());
            }
            if let Ok((log, _)) = BlobLog::open(disk, small("log"), |_| {}).await {
                log.put_blob(1, b"a", 1, vec![1], Expect::Absent).await.unwrap();
                blob(&log, 1, b"a").await;
            }
        });
    }
}
