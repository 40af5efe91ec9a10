//! The blob log's recovery: of a damaged log every whole record before the damage is there, with
//! the very bytes that were put, and nothing shows that never was put.
//!
//! The input is a script: first the puts that make a log of small segments, then the changes to
//! its files. No record is checked against the log's own reading of its files: where each lies
//! follows from `docs/BLOBLOG.md`, and whether it is whole from comparing the files.

mod disk;
mod history;

use std::collections::BTreeMap;

use futures_lite::future::block_on;
use keyway_store::{
    BlobLog, Expect, KeyState, LogOptions, Lookup, OpenError, ReadError, SEGMENT_BYTES_MIN,
};

use crate::memory;
use crate::script::{self, Script};
use disk::MemoryFiles;
use history::{History, Put};

/// The most changes to the files.
const EDITS_MAX: usize = 8;

/// What an opening may allocate: four times what a scan reads at once (256 KiB), and the index.
const OPENING_BYTES_MAX: usize = (4 * 256 + 64) << 10;

const DIR: &str = "log";

const KEYSPACE: u32 = 1;

fn options() -> LogOptions {
    let mut options = LogOptions::new(DIR.into(), [5; 16], 1, 0, 1);
    options.segment_bytes = SEGMENT_BYTES_MIN;
    options
}

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let disk = MemoryFiles::default();
    let history = block_on(write(&mut script, disk.clone()));
    let before = disk.contents();
    history.check_places(&before);
    spoil(&mut script, &disk);
    let after = disk.contents();
    let damage = Damage::between(&before, &after);
    block_on(reopen(&disk, &history, &damage));
}

/// Fills a log as the script says.
async fn write(script: &mut Script<'_>, disk: MemoryFiles) -> History {
    let (log, _) = BlobLog::open(disk, options(), |_| {})
        .await
        .expect("an empty directory opens");
    let mut history = History::default();
    for _ in 0..script.below(history::STEPS_MAX + 1) {
        let batch = history.next_batch(script);
        let puts = batch.iter().map(|put| async {
            match &put.blob {
                Some(blob) => {
                    let expect = match put.version {
                        1 => Expect::Absent,
                        version => Expect::Version(version - 1),
                    };
                    log.put_blob(KEYSPACE, &put.key_id, put.version, blob.clone(), expect)
                        .await
                }
                None => log.put_revoked(KEYSPACE, &put.key_id).await,
            }
        });
        for outcome in history::all(puts.collect()).await {
            outcome.expect("a put that was expected to fit is taken");
        }
        history.puts.extend(batch);
    }
    history.closed = script.u8() & 1 == 1;
    if history.closed {
        log.close().await.expect("a log in memory closes");
    }
    history
}

/// Changes the log's files as the script says.
fn spoil(script: &mut Script<'_>, disk: &MemoryFiles) {
    let names: Vec<_> = disk.contents().into_keys().collect();
    for _ in 0..EDITS_MAX {
        if script.is_empty() {
            return;
        }
        // Counted from the end, where recovery has most to distinguish.
        let from_end = script.below(names.len());
        let other = script.below(names.len());
        let other = disk.copy_of(&names[other]);
        disk.change(&names[names.len() - 1 - from_end], |bytes| {
            script::edit(script, bytes, &other);
        });
    }
}

/// What was changed in the files.
struct Damage {
    /// File (from 0, in order) and offset of the first changed byte; past all files if none is.
    first: (usize, usize),
    /// A segment's header differs, so the file may look like another log's.
    in_header: bool,
}

impl Damage {
    fn between(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut damage = Self {
            first: (before.len(), 0),
            in_header: false,
        };
        for (file, (before, after)) in before.values().zip(after.values()).enumerate() {
            let same = before.iter().zip(after).take_while(|(b, a)| b == a).count();
            if same < before.len().max(after.len()) {
                damage.first = damage.first.min((file, same));
                damage.in_header |= same < history::HEADER_LEN;
            }
        }
        damage
    }
}

async fn reopen(disk: &MemoryFiles, history: &History, damage: &Damage) {
    let spoilt = disk.contents();
    let (opened, allocated) =
        memory::peak_bytes(|| block_on(BlobLog::open(disk.clone(), options(), |_| {})));
    assert!(
        allocated <= OPENING_BYTES_MAX,
        "an opening allocated {allocated} bytes, and {OPENING_BYTES_MAX} is the most"
    );
    let (log, recovery) = match opened {
        Ok(opened) => opened,
        Err(OpenError::Foreign { .. }) => {
            assert!(damage.in_header, "the log's own segment is refused");
            assert_eq!(disk.contents(), spoilt, "a refused log was changed");
            return;
        }
        Err(error) => panic!("damage is no error: {error}"),
    };
    let is_damaged = damage.first.0 < spoilt.len();
    if !is_damaged {
        assert_eq!((recovery.cut_bytes, recovery.damage_count), (0, 0));
        assert_eq!(recovery.records, history.record_count());
    }
    for (key_id, puts) in history.by_key() {
        check_key(&log, &key_id, &puts, damage.first).await;
    }
    check_listing(&log, history).await;

    // What the opening repaired stays repaired, and the log accepts writes.
    let blob = vec![7; 300];
    let put = log.put_blob(KEYSPACE, b"after", 1, blob.clone(), Expect::Absent);
    put.await.expect("a log that was repaired takes a put");
    drop(log);
    let (log, again) = BlobLog::open(disk.clone(), options(), |_| {})
        .await
        .expect("a log that was repaired opens");
    assert_eq!(
        (again.cut_bytes, again.damage_count),
        (0, recovery.damage_count),
        "the second opening finds other damage"
    );
    match log.get(KEYSPACE, b"after").await {
        Ok(Lookup::Blob(found)) => assert_eq!(found.bytes(), blob),
        other => panic!("what was put after the repair is {other:?}"),
    }
    for (key_id, puts) in history.by_key() {
        check_key(&log, &key_id, &puts, damage.first).await;
    }
}

/// Compares what the log says of a key with all that was ever put of it, oldest first.
async fn check_key(
    log: &BlobLog<MemoryFiles>,
    key_id: &[u8],
    puts: &[&Put],
    first_damage: (usize, usize),
) {
    let whole = |put: &Put| (put.file, put.end) <= first_damage;
    let newest_whole = puts.iter().rposition(|put| whole(put));
    let all_whole = puts.last().is_none_or(|put| whole(put));
    let found = log.get(KEYSPACE, key_id).await;
    let name = String::from_utf8_lossy(key_id);
    let position = match &found {
        Ok(Lookup::Blob(found)) => {
            let position = puts.iter().rposition(|put| {
                put.version == found.version && put.blob.as_deref() == Some(found.bytes())
            });
            Some(position.unwrap_or_else(|| panic!("{name} has bytes that never were put")))
        }
        Ok(Lookup::Revoked { .. }) => {
            let position = puts.iter().rposition(|put| put.blob.is_none());
            Some(position.unwrap_or_else(|| panic!("{name} never was revoked")))
        }
        Ok(Lookup::Missing) => {
            assert_eq!(newest_whole, None, "{name} is lost");
            None
        }
        Err(ReadError::Damaged { .. }) => {
            assert!(!all_whole, "{name} is called damaged and is not");
            None
        }
        Err(error) => panic!("{name} cannot be read: {error}"),
    };
    if let Some(position) = position {
        assert!(
            Some(position) >= newest_whole,
            "{name} is an older one than the newest whole record's"
        );
    }
    let known = log.version_of(KEYSPACE, key_id);
    match &found {
        Ok(Lookup::Missing) => assert!(known.is_none()),
        Ok(Lookup::Blob(blob)) => {
            let known = known.expect("what is read is known");
            assert_eq!((known.version, known.state), (blob.version, KeyState::Live));
        }
        _ => assert!(known.is_some()),
    }
}

/// Every key that is listed was put, and every key that is there is listed.
async fn check_listing(log: &BlobLog<MemoryFiles>, history: &History) {
    let by_key = history.by_key();
    let mut listed = BTreeMap::new();
    let mut cursor = Vec::new();
    loop {
        let page = log
            .list(&cursor, 3, None)
            .await
            .expect("memory can be read");
        for row in page.rows {
            assert_eq!(row.keyspace, KEYSPACE);
            let puts = by_key.get(&row.key_id).expect("only keys that were put");
            if row.state == KeyState::Live {
                let put =
                    |put: &&Put| put.version == row.version && put.blob.as_ref() == Some(&row.blob);
                assert!(puts.iter().any(put), "bytes are listed that never were put");
            }
            listed.insert(row.key_id, ());
        }
        if page.cursor.is_empty() {
            break;
        }
        cursor = page.cursor;
    }
    for key_id in by_key.keys() {
        let is_there = log.contains(KEYSPACE, key_id);
        assert!(
            !is_there || listed.contains_key(key_id),
            "a key is not listed"
        );
    }
}
