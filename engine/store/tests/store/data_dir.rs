//! The data directory and a start with another number of shards.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{blob, open};
use futures_lite::future::block_on;
use keyway_store::{
    BlobLog, DataDir, DirError, Expect, KeyState, Lookup, ReshardError, ReshardReport, StdFiles,
    reshard,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn opened(data: &DataDir, shard: u16) -> BlobLog<StdFiles> {
    let mut options = data.log_options(shard).unwrap();
    options.segment_bytes = 16 << 10;
    block_on(open(StdFiles, options)).0
}

/// Where a key belongs, for these tests.
fn owner(shards: u16) -> impl Fn(u32, &[u8]) -> usize {
    move |keyspace, key_id| {
        let sum: usize = key_id.iter().map(|byte| usize::from(*byte)).sum();
        (sum + keyspace as usize) % usize::from(shards)
    }
}

#[test]
fn a_new_directory_is_made_with_its_layout_for_its_owner_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("deep/data");
    let data = DataDir::open(&path, 3).unwrap();
    let manifest = *data.manifest();
    assert_eq!((manifest.shard_count, manifest.generation), (3, 1));
    assert_ne!(manifest.cluster_id, manifest.routing_seed);
    assert_eq!(mode(&path), 0o700);
    for shard in 0..3 {
        let dir = path.join(format!("blobs-000001/shard-{shard:03}"));
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(data.log_options(shard).unwrap().dir, dir);
    }
    for file in ["store.toml", "lock"] {
        assert_eq!(mode(&path.join(file)), 0o600);
    }
    let seed = |data: &DataDir| data.log_options(0).unwrap().index_seed;
    assert_ne!(seed(&data), seed(&data));
    drop(data);
    let data = DataDir::open(&path, 8).unwrap();
    assert_eq!(
        *data.manifest(),
        manifest,
        "the directory's own count stands"
    );
}

#[test]
fn a_directory_in_use_is_refused_with_the_process_that_has_it() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let data = DataDir::open(&path, 1).unwrap();
    let error = DataDir::open(&path, 1).unwrap_err();
    let DirError::InUse { pid, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*pid, std::process::id().to_string());
    assert!(error.to_string().contains("stop that one"), "{error}");
    drop(data);
    DataDir::open(&path, 1).unwrap();
}

#[test]
fn an_empty_loose_directory_is_tightened_and_a_full_one_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    drop(DataDir::open(&path, 1).unwrap());
    assert_eq!(mode(&path), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    let error = DataDir::open(&path, 1).unwrap_err();
    assert!(
        matches!(error, DirError::LoosePermissions { mode: 0o750, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("chmod 700"), "{error}");
    assert_eq!(mode(&path), 0o750, "it is not ours to change");
}

#[test]
fn what_an_unfinished_start_left_is_removed_and_what_is_in_use_is_kept() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    // A first start that did not come to its manifest.
    fs::create_dir_all(path.join("blobs-000001/shard-000")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let data = DataDir::open(&path, 2).unwrap();
    block_on(opened(&data, 1).put_blob(1, b"a", 1, vec![1], Expect::Absent)).unwrap();
    drop(data);
    fs::create_dir_all(path.join("blobs-000002/shard-000")).unwrap();
    fs::write(path.join("store.toml.tmp"), "half").unwrap();
    fs::write(path.join("other"), "kept").unwrap();
    let data = DataDir::open(&path, 2).unwrap();
    assert!(!path.join("blobs-000002").exists() && !path.join("store.toml.tmp").exists());
    assert!(path.join("other").exists());
    assert_eq!(block_on(blob(&opened(&data, 1), 1, b"a")).0, 1);
    drop(data);
    // Logs without a manifest may hold keys.
    fs::remove_file(path.join("store.toml")).unwrap();
    let error = DataDir::open(&path, 2).unwrap_err();
    assert!(matches!(error, DirError::ManifestMissing { .. }), "{error}");
    assert!(path.join("blobs-000001/shard-001/00000001.log").exists());
}

/// A directory in which the logs of both shards have been made, and the server has stopped.
fn in_use(path: &Path) {
    let data = DataDir::open(path, 2).unwrap();
    for shard in 0..2 {
        block_on(opened(&data, shard).close()).unwrap();
    }
    data.mark_logs().unwrap();
}

/// An empty directory of a shard was taken for the log of a shard that had never had a key.
#[test]
fn a_log_that_is_gone_is_refused_until_the_operator_gives_it_up() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    in_use(&path);
    drop(DataDir::open(&path, 2).unwrap());
    let shard = path.join("blobs-000001/shard-001");
    fs::remove_file(shard.join("00000001.log")).unwrap();
    let error = DataDir::open(&path, 2).unwrap_err();
    assert!(matches!(error, DirError::LogMissing { .. }), "{error}");
    // As the message says.
    let given_up = shard.join("start-empty");
    assert!(
        error
            .to_string()
            .contains(&format!("touch {}", given_up.display()))
    );
    fs::write(&given_up, "").unwrap();
    let data = DataDir::open(&path, 2).unwrap();
    block_on(opened(&data, 1).close()).unwrap();
    drop(data);
    drop(DataDir::open(&path, 2).unwrap());
    assert!(!given_up.exists(), "the next loss is noticed again");
}

#[test]
fn a_shard_that_is_gone_can_be_given_up_as_the_message_says() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    in_use(&path);
    let shard = path.join("blobs-000001/shard-000");
    fs::remove_dir_all(&shard).unwrap();
    let error = DataDir::open(&path, 2).unwrap_err().to_string();
    let (_, remedy) = error.split_once("that shard's keys: ").unwrap();
    let done = std::process::Command::new("sh")
        .args(["-c", remedy])
        .status();
    assert!(done.unwrap().success(), "{remedy}");
    drop(DataDir::open(&path, 2).unwrap());
}

#[test]
fn marks_rise_and_last_over_restarts_and_moves() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let mut data = DataDir::open(&path, 2).unwrap();
    assert_eq!(data.mark("catalogue.revision"), 0);
    data.raise_marks(&[("catalogue.revision", 7)]).unwrap();
    data.raise_marks(&[("catalogue.revision", 6)]).unwrap();
    assert_eq!(data.mark("catalogue.revision"), 7);
    reshard(&mut data, 3, |_, _: &[u8]| 0, |_| ()).unwrap();
    drop(data);
    let data = DataDir::open(&path, 3).unwrap();
    assert_eq!(data.mark("catalogue.revision"), 7);
}

#[test]
fn a_missing_shard_and_a_wrong_manifest_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    drop(DataDir::open(&path, 2).unwrap());
    fs::remove_dir(path.join("blobs-000001/shard-001")).unwrap();
    let error = DataDir::open(&path, 2).unwrap_err();
    assert!(matches!(error, DirError::ShardMissing { .. }), "{error}");
    fs::write(path.join("store.toml"), "format = 9\n").unwrap();
    let error = DataDir::open(&path, 2).unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
    assert!(matches!(
        DataDir::open(&path, 0),
        Err(DirError::ShardCount(0))
    ));
}

#[test]
fn a_file_beside_the_logs_is_replaced_as_a_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let data = DataDir::open(&temporary.path().join("data"), 1).unwrap();
    for text in ["first", "second"] {
        data.write_file("keyspaces.toml", text.as_bytes()).unwrap();
        let path = data.path().join("keyspaces.toml");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(mode(&path), 0o600);
    }
}

/// Keys in every state, at their owners; what each must answer.
fn filled(data: &DataDir) -> BTreeMap<Vec<u8>, Option<(u32, Vec<u8>)>> {
    let shards = data.manifest().shard_count;
    let logs: Vec<_> = (0..shards).map(|shard| opened(data, shard)).collect();
    let mut keys = BTreeMap::new();
    for key in 0..300_u32 {
        let key_id = format!("key-{key}").into_bytes();
        let log = &logs[owner(shards)(7, &key_id)];
        let versions = 1 + key % 3;
        let bytes = |version: u32| vec![(key + version) as u8; 100];
        for version in 1..=versions {
            let expect = if version == 1 {
                Expect::Absent
            } else {
                Expect::Version(version - 1)
            };
            block_on(log.put_blob(7, &key_id, version, bytes(version), expect)).unwrap();
        }
        if key % 10 == 0 {
            block_on(log.put_revoked(7, &key_id)).unwrap();
            keys.insert(key_id, None);
        } else {
            keys.insert(key_id, Some((versions, bytes(versions))));
        }
    }
    for log in logs {
        block_on(log.close()).unwrap();
    }
    keys
}

fn check(data: &DataDir, keys: &BTreeMap<Vec<u8>, Option<(u32, Vec<u8>)>>) {
    let shards = data.manifest().shard_count;
    let logs: Vec<_> = (0..shards).map(|shard| opened(data, shard)).collect();
    for (key_id, expected) in keys {
        let log = &logs[owner(shards)(7, key_id)];
        match expected {
            Some(expected) => assert_eq!(block_on(blob(log, 7, key_id)), *expected),
            None => {
                let found = block_on(log.get(7, key_id)).unwrap();
                assert!(matches!(found, Lookup::Revoked { .. }));
            }
        }
    }
    let live: usize = logs.iter().map(|log| log.stats().live_records).sum();
    assert_eq!(live, keys.len());
}

fn reshard_to(data: &mut DataDir, shards: u16) -> Result<ReshardReport, ReshardError> {
    let mut last = None;
    let result = reshard(data, shards, owner(shards), |progress| {
        last = Some(progress)
    });
    if let Ok(report) = &result {
        let last = last.unwrap();
        assert_eq!(last.records_done, report.records);
        assert_eq!(last.shards_done, last.shards_total);
    }
    result
}

#[test]
fn every_key_moves_to_its_owner_whatever_the_counts() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let mut data = DataDir::open(&path, 1).unwrap();
    let keys = filled(&data);
    let first = *data.manifest();
    for (generation, shards) in (2..).zip([2, 4, 3, 1]) {
        let report = reshard_to(&mut data, shards).unwrap();
        assert_eq!((report.records, report.damaged_records), (300, 0));
        assert_eq!(report.kept, None);
        assert_eq!(
            (data.manifest().shard_count, data.manifest().generation),
            (shards, generation)
        );
        assert_eq!(data.manifest().cluster_id, first.cluster_id);
        assert_eq!(data.manifest().routing_seed, first.routing_seed);
        check(&data, &keys);
        let generations = fs::read_dir(&path).unwrap().filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .starts_with("blobs-")
        });
        assert_eq!(generations.count(), 1);
        drop(data);
        data = DataDir::open(&path, 9).unwrap();
        assert_eq!(data.manifest().shard_count, shards);
        check(&data, &keys);
    }
}

#[test]
fn revisions_go_on_from_the_greatest_after_a_move() {
    let temporary = tempfile::tempdir().unwrap();
    let mut data = DataDir::open(&temporary.path().join("data"), 2).unwrap();
    filled(&data);
    reshard_to(&mut data, 1).unwrap();
    let log = opened(&data, 0);
    let page = block_on(log.list(&[], 1000, None)).unwrap();
    let greatest = page.rows.iter().map(|row| row.revision).max().unwrap();
    let stored = block_on(log.put_blob(7, b"new", 1, vec![1], Expect::Absent)).unwrap();
    assert!(stored.revision > greatest);
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A crash is seen from its directory: a reshard has made some of the new generation and not
/// switched, or has switched and not removed the old one.
#[test]
fn a_crash_during_a_reshard_leaves_the_old_or_the_new_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let mut data = DataDir::open(&path, 2).unwrap();
    let keys = filled(&data);
    let old = temporary.path().join("old");
    copy_dir(&path, &old);
    reshard_to(&mut data, 3).unwrap();
    drop(data);

    // Before the switch: the new generation is there, perhaps in part, the manifest is the old.
    for part in 0..3 {
        let crashed = temporary.path().join(format!("before-{part}"));
        copy_dir(&old, &crashed);
        copy_dir(&path.join("blobs-000002"), &crashed.join("blobs-000002"));
        if part > 0 {
            fs::remove_dir_all(crashed.join("blobs-000002/shard-002")).unwrap();
        }
        if part > 1 {
            fs::write(crashed.join("store.toml.tmp"), "format").unwrap();
            fs::write(crashed.join("blobs-000002/shard-000/00000001.log"), "KEYW").unwrap();
        }
        let mut data = DataDir::open(&crashed, 3).unwrap();
        assert_eq!(data.manifest().shard_count, 2);
        check(&data, &keys);
        assert!(!crashed.join("blobs-000002").exists());
        reshard_to(&mut data, 3).unwrap();
        check(&data, &keys);
    }

    // After the switch: the old generation is still there, perhaps in part.
    for part in 0..2 {
        let crashed = temporary.path().join(format!("after-{part}"));
        copy_dir(&path, &crashed);
        copy_dir(&old.join("blobs-000001"), &crashed.join("blobs-000001"));
        if part > 0 {
            fs::remove_dir_all(crashed.join("blobs-000001/shard-000")).unwrap();
        }
        let data = DataDir::open(&crashed, 3).unwrap();
        assert_eq!(data.manifest().shard_count, 3);
        check(&data, &keys);
        assert!(!crashed.join("blobs-000001").exists());
    }
}

#[test]
fn a_reshard_that_fails_leaves_the_directory_as_it_was() {
    let temporary = tempfile::tempdir().unwrap();
    let mut data = DataDir::open(&temporary.path().join("data"), 2).unwrap();
    let keys = filled(&data);
    let wrong = reshard(&mut data, 3, |_, _| 3, |_| {});
    assert!(matches!(
        wrong,
        Err(ReshardError::Route {
            shard: 3,
            shard_count: 3
        })
    ));
    assert_eq!(
        (data.manifest().shard_count, data.manifest().generation),
        (2, 1)
    );
    check(&data, &keys);
    reshard_to(&mut data, 3).unwrap();
    check(&data, &keys);
}

#[test]
fn a_damaged_key_stays_damaged_across_reshards_and_the_old_logs_are_kept() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let mut data = DataDir::open(&path, 1).unwrap();
    let keys = filled(&data);
    let damaged = b"key-299".to_vec();
    let (_, newest) = keys[&damaged].clone().unwrap();
    let record_end = [damaged.clone(), newest].concat();
    let found = fs::read_dir(path.join("blobs-000001/shard-000")).unwrap();
    let found = found.map(|entry| entry.unwrap().path()).find_map(|file| {
        let bytes = fs::read(&file).unwrap();
        let mut runs = bytes.windows(record_end.len());
        let start = runs.position(|run| run == record_end)?;
        Some((file, bytes, start + record_end.len() - 1))
    });
    let (file, mut bytes, at) = found.unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();

    let report = reshard_to(&mut data, 3).unwrap();
    assert_eq!((report.records, report.damaged_records), (300, 1));
    assert_eq!(report.damage.len(), 1);
    let kept = report.kept.unwrap();
    assert_eq!(kept, path.join("blobs-000001"));
    let text = fs::read_to_string(kept.join("damaged.txt")).unwrap();
    assert!(
        text.contains(&String::from_utf8(damaged.clone()).unwrap()),
        "{text}"
    );
    drop(data);
    let mut data = DataDir::open(&path, 3).unwrap();
    assert!(kept.exists());
    for shards in [3, 2] {
        if shards == 2 {
            // Known as damaged already: nothing new to keep.
            let report = reshard_to(&mut data, shards).unwrap();
            assert_eq!((report.damaged_records, report.kept), (1, None));
        }
        for (key_id, expected) in &keys {
            let log = opened(&data, owner(shards)(7, key_id) as u16);
            if *key_id == damaged {
                assert_eq!(log.version_of(7, key_id).unwrap().state, KeyState::Damaged);
                assert!(block_on(log.get(7, key_id)).is_err());
            } else if let Some(expected) = expected {
                assert_eq!(block_on(blob(&log, 7, key_id)), *expected);
            }
        }
    }
}
