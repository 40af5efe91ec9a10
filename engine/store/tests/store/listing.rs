//! Listings: order, pages, cursors, and what a compaction does to them.

use futures_lite::future::block_on;
use keyway_store::{BlobLog, Compaction, Expect, KeyState, Row};

use crate::support::faulty::FaultyFiles;
use crate::support::{create, fresh};

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
        let mut random = crate::support::Random::new(1);
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
