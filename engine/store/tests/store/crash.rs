//! Power loss, or a failing call, at every step of a history: every acknowledged write is there
//! afterwards, no partial one is visible, nothing that was read regresses, and a crash is never taken
//! for damage.

use std::cell::RefCell;

use crate::support::faulty::{Fault, FaultyFiles, Lie};
use crate::support::model::{Model, check, live};
use crate::support::{Random, open, small};
use futures_lite::future::block_on;
use keyway_store::{BlobLog, Compaction, OpenError, PutError};

const ROUNDS: usize = 40;

/// Opens a log on a disk that may lose power meanwhile.
async fn try_open(disk: &FaultyFiles) -> Result<BlobLog<FaultyFiles>, OpenError> {
    let (log, recovery) = BlobLog::open(disk.clone(), small("log"), |_| {}).await?;
    assert_eq!(recovery.damage, [], "a crash is no damage");
    Ok(log)
}

/// Steps that the history takes when nothing fails.
fn steps_of(seed: u64) -> u64 {
    let disk = FaultyFiles::default();
    let model = RefCell::default();
    block_on(async {
        let log = try_open(&disk).await.unwrap();
        live(&log, &model, &mut Random::new(seed), ROUNDS)
            .await
            .unwrap();
        log.close().await.unwrap();
        assert!(log.stats().segments > 2 && disk.names().len() == log.stats().segments);
        check(&model, &log).await;
    });
    disk.steps()
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_acknowledged() {
    for seed in 0..6 {
        for cut in 0..steps_of(seed) {
            println!("seed {seed}, cut {cut}");
            cut_and_live_on(seed, cut, FaultyFiles::default());
        }
    }
}

/// Three lives on one disk: the first ends at the cut, two more somewhere, perhaps while still
/// opening.
fn cut_and_live_on(seed: u64, cut: u64, mut disk: FaultyFiles) {
    let mut random = Random::new(seed * 1_000_003 + cut);
    let model = RefCell::<Model>::default();
    for life in 0..3 {
        let after = if life == 0 { cut } else { random.next() % 60 };
        disk.fail_after(after, Fault::PowerCut);
        block_on(async {
            let Ok(log) = try_open(&disk).await else {
                return;
            };
            if life > 0 {
                check(&model, &log).await;
            }
            let mut script = Random::new(seed + life);
            if live(&log, &model, &mut script, ROUNDS).await.is_ok() {
                let _ = log.close().await;
            }
        });
        disk = disk.after_power_cut(&mut random);
    }
    block_on(async {
        let log = try_open(&disk).await.unwrap();
        check(&model, &log).await;
    });
}

/// The history's cuts again, on disks that say "done" and have not done it. Where such a disk
/// goes unnoticed, a log that omits the call would also.
#[test]
fn a_disk_that_lies_is_found_out() {
    for lie in [Lie::NothingSynced, Lie::AllButTheLastWrite, Lie::NoNames] {
        let found = (0..steps_of(0)).find(|cut| {
            let told = std::panic::catch_unwind(|| {
                let disk = FaultyFiles::default();
                disk.lie(lie);
                cut_and_live_on(0, *cut, disk);
            });
            told.is_err()
        });
        let cut = found.unwrap_or_else(|| panic!("{lie:?} was not noticed at any cut"));
        println!("{lie:?} was noticed at cut {cut}");
    }
}

/// A recovery writes, too: it cuts, writes the last batch again, removes a segment that was never
/// made, makes the first. The power goes at each of its steps, for each cut of the history.
#[test]
fn a_power_cut_at_any_step_of_a_recovery_loses_nothing_acknowledged() {
    let (mut cuts, mut opened) = (0, 0);
    for seed in 20..22 {
        for cut in 0..steps_of(seed) {
            let mut random = Random::new(seed * 1_000_003 + cut);
            let model = RefCell::<Model>::default();
            let disk = FaultyFiles::default();
            disk.fail_after(cut, Fault::PowerCut);
            block_on(async {
                if let Ok(log) = try_open(&disk).await {
                    let _ = live(&log, &model, &mut Random::new(seed), ROUNDS).await;
                }
            });
            let crashed = disk.after_power_cut(&mut random);
            for step in 0.. {
                println!("seed {seed}, cut {cut}, step {step} of the recovery");
                let disk = crashed.copy();
                disk.fail_after(step, Fault::PowerCut);
                let is_whole = block_on(try_open(&disk)).is_ok();
                let disk = disk.after_power_cut(&mut random);
                block_on(async {
                    let log = try_open(&disk).await.unwrap();
                    let seen = RefCell::new(model.borrow().clone());
                    check(&seen, &log).await;
                });
                cuts += 1;
                if is_whole {
                    opened += 1;
                    break;
                }
            }
        }
    }
    println!("{cuts} cuts during {opened} recoveries");
    assert!(cuts > 3 * opened, "the recoveries had hardly a step");
}

/// A read that fails says nothing of the bytes: the start is refused, and nothing is cut.
#[test]
fn a_failed_read_at_any_point_of_a_recovery_refuses_the_start_and_changes_nothing() {
    let (seed, model) = (30, RefCell::<Model>::default());
    let disk = FaultyFiles::default();
    block_on(async {
        let log = try_open(&disk).await.unwrap();
        live(&log, &model, &mut Random::new(seed), ROUNDS)
            .await
            .unwrap();
    });
    let reads = disk.reads();
    block_on(try_open(&disk.copy())).unwrap();
    let reads = {
        let probe = disk.copy();
        block_on(try_open(&probe)).unwrap();
        probe.reads() - reads
    };
    assert!(reads > 4, "{reads} reads");
    for read in 0..reads {
        let disk = disk.copy();
        disk.fail_read_after(read);
        let Err(refused) = block_on(try_open(&disk)) else {
            panic!("read {read} of {reads} failed, and the log opened");
        };
        assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
        block_on(async {
            let log = try_open(&disk).await.unwrap();
            let seen = RefCell::new(model.borrow().clone());
            check(&seen, &log).await;
        });
    }
}

/// On a full disk reads go on, so does a start, which only writes where there are bytes already. What
/// was refused is not there, now or later; with free space the log accepts writes again automatically.
#[test]
fn a_disk_that_is_full_from_any_step_on_loses_nothing_acknowledged() {
    let seed = 40;
    for step in 0..steps_of(seed) {
        println!("step {step}");
        let mut random = Random::new(seed * 1_000_003 + step);
        let model = RefCell::<Model>::default();
        let disk = FaultyFiles::default();
        disk.fail_after(step, Fault::Full);
        block_on(async {
            let Ok(log) = try_open(&disk).await else {
                return;
            };
            let lived = live(&log, &model, &mut Random::new(seed), ROUNDS).await;
            if let Err(error) = lived.and(log.close().await) {
                let told = matches!(error, PutError::Failed(_) | PutError::NotPersisted(_));
                assert!(told, "{error}");
            }
            check(&model, &log).await;
        });
        // While it is still full, and when there is room.
        for has_room in [false, true] {
            if has_room {
                disk.make_room();
            }
            block_on(async {
                match try_open(&disk).await {
                    Ok(log) => check(&model, &log).await,
                    Err(error) => assert!(!has_room, "{error}"),
                }
            });
        }
        let disk = disk.after_power_cut(&mut random);
        block_on(async {
            let log = try_open(&disk).await.unwrap();
            check(&model, &log).await;
        });
    }
}

#[test]
fn a_failed_call_at_any_step_is_told_as_it_is_and_the_log_goes_on() {
    for (seed, fault) in (10..14).flat_map(|seed| [(seed, Fault::Error), (seed, Fault::Done)]) {
        for step in 0..steps_of(seed) {
            println!("seed {seed}, step {step}, {fault:?}");
            let mut random = Random::new(seed * 1_000_003 + step);
            let model = RefCell::<Model>::default();
            let disk = FaultyFiles::default();
            disk.fail_after(step, fault);
            block_on(async {
                let Ok(log) = try_open(&disk).await else {
                    return;
                };
                match live(&log, &model, &mut Random::new(seed), ROUNDS).await {
                    Ok(()) => {}
                    // The next call works, so its outcome is always known.
                    Err(PutError::Failed(why) | PutError::NotPersisted(why)) => {
                        assert!(why.contains("on purpose"), "{why}");
                        check(&model, &log).await;
                        live(&log, &model, &mut random.clone(), 3).await.unwrap();
                        log.retry_revocations().await.unwrap();
                        assert!(!log.stats().poisoned);
                        assert_eq!(log.stats().revocations_bytes, 0);
                    }
                    Err(error) => panic!("{error}"),
                }
                if disk.fault_is_over() {
                    while log.compact_step(4096).await.unwrap() != Compaction::Idle {}
                }
                let _ = log.close().await;
                // Reads go on.
                check(&model, &log).await;
            });
            // Another life on the same page cache, which may show what the disk does not hold.
            block_on(async {
                let log = try_open(&disk).await.unwrap();
                check(&model, &log).await;
                live(&log, &model, &mut random.clone(), 3).await.unwrap();
            });
            let disk = disk.after_power_cut(&mut random);
            block_on(async {
                let log = try_open(&disk).await.unwrap();
                check(&model, &log).await;
            });
        }
    }
}

#[test]
fn a_failed_sync_is_never_acknowledged_by_a_later_one() {
    block_on(async {
        let disk = FaultyFiles::default();
        let (log, _) = open(disk.clone(), small("log")).await;
        let expect = keyway_store::Expect::Absent;
        log.put_blob(1, b"a", 1, b"one".to_vec(), expect)
            .await
            .unwrap();
        // The write goes through, its sync fails.
        disk.fail_after(1, Fault::Error);
        let failed = log.put_blob(1, b"b", 1, b"two".to_vec(), expect).await;
        assert!(matches!(failed, Err(PutError::Failed(_))), "{failed:?}");
        assert!(disk.fault_is_over());
        assert!(failed.unwrap_err().to_string().contains("check the disk"));
        assert!(log.stats().poisoned);
        // It was cut off, so the next sync has nothing of it.
        let after = log.put_blob(1, b"c", 1, b"three".to_vec(), expect).await;
        after.unwrap();
        assert!(!log.stats().poisoned);
        assert!(log.contains(1, b"a") && !log.contains(1, b"b") && log.contains(1, b"c"));
        for seed in 0..20 {
            let disk = disk.after_power_cut(&mut Random::new(seed));
            let (log, recovery) = open(disk, small("log")).await;
            assert_eq!(recovery.damage_count, 0);
            assert!(log.contains(1, b"a") && !log.contains(1, b"b") && log.contains(1, b"c"));
        }
    });
}
