//! The power goes at every step of a move to another number of shards: until the move has returned
//! the old logs hold every key, from then on the new ones do, whatever of the unsynced is lost.
//!
//! Which of the two is in force is the manifest's to say, which is replaced in between as a whole:
//! `data_dir.rs` has that.

use std::collections::BTreeMap;

use crate::support::faulty::{Fault, FaultyFiles, Lie};
use crate::support::{Random, blob, open, small};
use futures_lite::future::block_on;
use keyway_store::{
    Expect, LogOptions, Lookup, ReshardError, ReshardProgress, ReshardReport, move_keys,
};

const KEYSPACE: u32 = 7;
const KEYS: u32 = 60;
const OLD_SHARDS: u16 = 2;
const NEW_SHARDS: u16 = 3;
/// Ways to lose what was not synced, at each cut.
const LOSSES: usize = 4;

/// What each key must answer: its version and blob, or that it is revoked.
type Keys = BTreeMap<Vec<u8>, Option<(u32, Vec<u8>)>>;

fn logs(generation: u32, shards: u16) -> Vec<LogOptions> {
    let log = |shard| {
        let mut options = small(format!("blobs-{generation}/shard-{shard}"));
        (options.generation, options.shard_index) = (generation, shard);
        options.shard_count = shards;
        options
    };
    (0..shards).map(log).collect()
}

fn owner(shards: u16) -> impl Fn(u32, &[u8]) -> usize {
    move |_, key_id| {
        key_id.iter().map(|byte| usize::from(*byte)).sum::<usize>() % usize::from(shards)
    }
}

fn has_revoked_version(key: u32) -> bool {
    key % 4 == 1
}

/// Logs of two shards with several segments, not closed: as a crash leaves them.
fn filled() -> (FaultyFiles, Keys) {
    let (disk, mut keys) = (FaultyFiles::default(), Keys::new());
    block_on(async {
        let mut old = Vec::new();
        for options in logs(1, OLD_SHARDS) {
            old.push(open(disk.clone(), options).await.0);
        }
        for key in 0..KEYS {
            let key_id = format!("key-{key}").into_bytes();
            let log = &old[owner(OLD_SHARDS)(KEYSPACE, &key_id)];
            let versions = 1 + key % 3;
            let blob = |version: u32| vec![(key + version) as u8; 150];
            for version in 1..=versions {
                let expect = match version {
                    1 => Expect::Absent,
                    _ => Expect::Version(version - 1),
                };
                log.put_blob(KEYSPACE, &key_id, version, blob(version), expect)
                    .await
                    .unwrap();
            }
            if has_revoked_version(key) {
                log.put_version_revoked(KEYSPACE, &key_id, 1).await.unwrap();
            }
            let is_revoked = key % 10 == 0;
            if is_revoked {
                log.put_revoked(KEYSPACE, &key_id).await.unwrap();
            }
            keys.insert(key_id, (!is_revoked).then(|| (versions, blob(versions))));
        }
    });
    (disk, keys)
}

fn check(disk: &FaultyFiles, logs: Vec<LogOptions>, keys: &Keys) {
    let owner = owner(logs.len() as u16);
    block_on(async {
        let (mut opened, mut records) = (Vec::new(), 0);
        for options in logs {
            let (log, recovery) = open(disk.clone(), options).await;
            assert_eq!(recovery.damage, [], "a crash is no damage");
            records += recovery.live_records;
            opened.push(log);
        }
        assert_eq!(records, keys.len());
        for (key_id, expected) in keys {
            let log = &opened[owner(KEYSPACE, key_id)];
            match expected {
                Some(expected) => {
                    assert_eq!(blob(log, KEYSPACE, key_id).await, *expected);
                    let number = String::from_utf8_lossy(key_id);
                    let number = number.trim_start_matches("key-").parse().unwrap();
                    let revoked = log.revoked_versions(KEYSPACE, key_id, expected.0);
                    let first = 1 << (expected.0 - 1);
                    let is = if has_revoked_version(number) {
                        first
                    } else {
                        0
                    };
                    assert_eq!(revoked, is);
                }
                None => {
                    let found = log.get(KEYSPACE, key_id).await.unwrap();
                    assert!(matches!(found, Lookup::Revoked { .. }));
                }
            }
        }
    });
}

fn move_all(disk: &FaultyFiles) -> Result<ReshardReport, ReshardError> {
    let (from, to) = (logs(1, OLD_SHARDS), logs(2, NEW_SHARDS));
    let route = owner(NEW_SHARDS);
    block_on(move_keys(disk, from, to, route, |_: ReshardProgress| {}))
}

#[test]
fn a_power_cut_at_any_step_of_a_move_leaves_the_old_logs_whole_and_one_after_it_the_new() {
    let (disk, keys) = filled();
    let whole = disk.copy();
    let before = whole.steps();
    assert_eq!(move_all(&whole).unwrap().records, u64::from(KEYS));
    let steps = whole.steps() - before;
    println!("{steps} steps, {LOSSES} losses at each");
    assert!(steps > 30, "{steps} steps");
    for step in 0..steps {
        for loss in 0..LOSSES {
            println!("step {step}, loss {loss}");
            let mut random = Random::new(step * LOSSES as u64 + loss as u64);
            let disk = disk.copy();
            disk.fail_after(step, Fault::PowerCut);
            assert!(move_all(&disk).is_err(), "it ended without its last steps");
            check(
                &disk.after_power_cut(&mut random),
                logs(1, OLD_SHARDS),
                &keys,
            );
        }
    }
    for loss in 0..20 {
        let disk = whole.after_power_cut(&mut Random::new(loss));
        check(&disk, logs(2, NEW_SHARDS), &keys);
        check(&disk, logs(1, OLD_SHARDS), &keys);
    }
}

/// Were the new logs not synced, or their names, the check above would say so. (The last write of
/// each is a mark: a disk that loses that one alone loses no key.)
#[test]
fn a_move_on_a_disk_that_lies_is_found_out() {
    for lie in [Lie::NothingSynced, Lie::NoNames] {
        let told = std::panic::catch_unwind(|| {
            let (disk, keys) = filled();
            disk.lie(lie);
            move_all(&disk).unwrap();
            for loss in 0..20 {
                let disk = disk.after_power_cut(&mut Random::new(loss));
                check(&disk, logs(2, NEW_SHARDS), &keys);
            }
        });
        assert!(told.is_err(), "{lie:?} was not noticed");
    }
}
