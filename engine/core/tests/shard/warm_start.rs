//! Warm start: which keys are hot, and loading those that were hot in a previous run.

use crate::rig::*;
use keyway_core::{
    HOTTEST_SCAN_STEP, Hottest, Lifecycle, Limits, LoadError, Settings, UnlockState, Urgency,
    WarmAdmission,
};

const PASS: u64 = 10 * MS;

fn hot(rig: &mut Rig, key: &str) -> WarmAdmission {
    let warming = rig.shard.handle_warm_key(rig.now, PROD, key.as_bytes());
    assert_eq!(rig.shard.poll_action(), None, "nothing happens immediately");
    rig.shard.audit().expect("the audit passes");
    warming
}

fn warming_keys(rig: &Rig) -> usize {
    let gauges = rig.shard.gauges(rig.now, PROD);
    gauges.expect("the keyspace exists").warming_keys
}

fn loading(rig: &Rig) -> Vec<&str> {
    rig.loads.iter().map(|load| load.key.as_str()).collect()
}

fn with_share(share: u32) -> Rig {
    Rig::leased_with(Settings {
        max_in_flight: share,
        ..settings()
    })
}

#[test]
fn hot_keys_of_a_previous_run_are_loaded_by_the_next_pass_in_order() {
    let mut rig = Rig::leased();
    for key in ["first", "second", "third"] {
        assert_eq!(hot(&mut rig, key), WarmAdmission::Queued);
    }
    assert_eq!((warming_keys(&rig), rig.loads.len()), (3, 0));
    rig.jump(PASS);
    assert_eq!(loading(&rig), ["first", "second", "third"]);
    assert_eq!(rig.loads[0].urgency, Urgency::Ahead);
    rig.land(1);
    rig.land(1);
    assert_eq!(warming_keys(&rig), 1);
    rig.land(1);
    assert_eq!(warming_keys(&rig), 0);
    let counters = rig.counters();
    assert_eq!(
        (
            counters.prefetch_warm_total,
            counters.prefetch_trigger_total,
            counters.unwraps_total
        ),
        (3, 0, 0)
    );
    assert_eq!(rig.request("second"), Got::Fresh(1));
}

#[test]
fn without_a_lease_nothing_is_queued_and_the_kms_is_not_called() {
    let mut rig = Rig::new();
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Later);
    assert_eq!((rig.unwraps, rig.shard.totals().entries), (0, 0));
    rig.grant();
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    rig.lock();
    assert_eq!(hot(&mut rig, "b"), WarmAdmission::Later);
    rig.unlock();
    rig.grant();
    rig.sleep(100 * S);
    assert_eq!(
        hot(&mut rig, "b"),
        WarmAdmission::Later,
        "the lease has ended"
    );
}

#[test]
fn known_keys_are_not_queued() {
    let mut rig = Rig::leased();
    rig.load("live", 1);
    rig.request("missing");
    rig.fail(LoadError::NotFound);
    rig.request("invalid");
    rig.fail(LoadError::Corrupt);
    rig.fail(LoadError::Corrupt);
    rig.revoked("revoked");
    rig.request("flying");
    assert_eq!(hot(&mut rig, "queued"), WarmAdmission::Queued);
    for key in ["live", "missing", "invalid", "revoked", "flying", "queued"] {
        assert_eq!(hot(&mut rig, key), WarmAdmission::Needless, "{key}");
    }
    let elsewhere = rig.shard.handle_warm_key(rig.now, OTHER, b"a");
    assert_eq!(elsewhere, WarmAdmission::Needless, "no such keyspace");
    assert_eq!(warming_keys(&rig), 1);
}

#[test]
fn queue_and_flights_stay_within_the_share() {
    let mut rig = with_share(2);
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    assert_eq!(hot(&mut rig, "b"), WarmAdmission::Queued);
    assert_eq!(hot(&mut rig, "c"), WarmAdmission::Later);
    rig.jump(PASS);
    assert_eq!(rig.loads.len(), 2);
    assert_eq!(hot(&mut rig, "c"), WarmAdmission::Later);
    rig.land(1);
    assert_eq!(hot(&mut rig, "c"), WarmAdmission::Queued);
    assert_eq!(hot(&mut rig, "d"), WarmAdmission::Later);
    rig.set(|settings| settings.max_in_flight = 0);
    rig.land(1);
    assert_eq!(hot(&mut rig, "d"), WarmAdmission::Later, "switched off");
}

#[test]
fn due_keys_go_first() {
    let mut rig = with_share(2);
    for key in ["due", "also due"] {
        rig.load(key, 1);
        rig.request(key);
    }
    rig.pass(8 * S - 5 * MS);
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    rig.pass(PASS);
    assert_eq!(loading(&rig), ["due", "also due"]);
    assert_eq!(hot(&mut rig, "b"), WarmAdmission::Later);
    rig.land(2);
    rig.pass(PASS);
    assert_eq!(loading(&rig), ["also due", "a"]);
}

#[test]
fn due_and_reloading_keys_leave_no_capacity_for_warm_keys() {
    let mut rig = with_share(1);
    rig.load("due", 1);
    rig.request("due");
    rig.load("other", 1);
    rig.request("other");
    rig.pass(8 * S + 15 * MS);
    assert_eq!(rig.loads.len(), 1);
    rig.land(2);
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Later, "one is due");
    let mut rig = with_share(1);
    rig.load("parked", 1);
    rig.request("parked");
    rig.lock();
    rig.unlock();
    rig.grant();
    assert_eq!(
        hot(&mut rig, "a"),
        WarmAdmission::Later,
        "one is to be reloaded"
    );
    let mut rig = with_share(1);
    rig.request("invalid");
    rig.fail(LoadError::Corrupt);
    rig.fail(LoadError::Corrupt);
    rig.unlock();
    assert_eq!(
        hot(&mut rig, "a"),
        WarmAdmission::Later,
        "one is read again"
    );
}

#[test]
fn reserve_and_entries_are_left_to_requests() {
    let limits = Limits {
        flights_max: 3,
        on_demand_reserve: 2,
        entries_max: 4,
        negatives_max: 2,
        revoked_max: 2,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    rig.request("a");
    assert_eq!(
        hot(&mut rig, "x"),
        WarmAdmission::Later,
        "one flight of three"
    );
    rig.land(1);
    for key in ["b", "c", "d"] {
        rig.load(key, 1);
    }
    assert_eq!(
        hot(&mut rig, "x"),
        WarmAdmission::Later,
        "all entries are taken"
    );
    assert_eq!(rig.counters().evicted_total, 0);
}

#[test]
fn no_key_is_evicted_for_a_warm_key() {
    let limits = Limits {
        key_bytes_max: 200,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    rig.force(1, "a");
    rig.land(1);
    assert_eq!(hot(&mut rig, "fits"), WarmAdmission::Queued);
    assert_eq!(hot(&mut rig, "too much"), WarmAdmission::Queued);
    rig.jump(PASS);
    rig.land(1);
    rig.land(1);
    assert_eq!((rig.alive.get(), rig.counters().evicted_total), (2, 0));
    assert_eq!(rig.lifecycle("too much"), Lifecycle::Absent);
    assert_eq!(hot(&mut rig, "too much"), WarmAdmission::Queued);
    rig.jump(PASS);
    rig.request_by(7, "too much", None);
    rig.land(1);
    assert_eq!(rig.end_of(7), Ended::Fresh(1), "now a request waits");
    assert_eq!(rig.counters().evicted_total, 1);
}

#[test]
fn missing_generation_is_requested_only_if_a_request_waits() {
    let mut rig = Rig::leased();
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    rig.jump(PASS);
    rig.fail(LoadError::DekMissing);
    assert_eq!(
        (rig.unwraps, rig.lifecycle("a")),
        (0, Lifecycle::BackOff),
        "no request waits"
    );
    assert_eq!(hot(&mut rig, "b"), WarmAdmission::Queued);
    rig.jump(PASS);
    rig.request("b");
    rig.fail(LoadError::DekMissing);
    assert_eq!(
        (rig.unwraps, rig.lifecycle("b")),
        (1, Lifecycle::AwaitingDek)
    );
    assert_eq!(hot(&mut rig, "c"), WarmAdmission::Queued);
    rig.jump(PASS);
    rig.fail(LoadError::DekMissing);
    assert_eq!(
        (rig.unwraps, rig.lifecycle("c")),
        (1, Lifecycle::AwaitingDek),
        "it is being requested anyway"
    );
}

#[test]
fn load_that_ends_after_the_lease_calls_no_kms() {
    for overtaken in [false, true] {
        let mut rig = Rig::leased();
        assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
        rig.jump(PASS);
        if overtaken {
            rig.stored("a", 2);
        }
        rig.sleep(100 * S);
        rig.land(1);
        assert_eq!(rig.unwraps, 0, "overtaken {overtaken}");
        assert_eq!((rig.shard.totals().flights, rig.alive.get()), (0, 0));
        assert_eq!(warming_keys(&rig), 0);
    }
}

#[test]
fn put_that_supersedes_a_warm_load_starts_the_next_one() {
    let mut rig = Rig::leased();
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    rig.jump(PASS);
    rig.stored("a", 2);
    rig.land(1);
    rig.land(2);
    assert_eq!(rig.request("a"), Got::Fresh(2));
}

#[test]
fn request_does_not_wait_for_the_pass() {
    let mut rig = Rig::leased();
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    assert_eq!(rig.loads[0].urgency, Urgency::OnDemand);
    assert_eq!(warming_keys(&rig), 0);
    rig.land(1);
    assert_eq!(rig.end_of(1), Ended::Fresh(1));
}

#[test]
fn failed_load_is_not_retried() {
    let mut rig = Rig::leased();
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    rig.jump(PASS);
    rig.fail(LoadError::Store);
    rig.pass(11 * S);
    assert!(rig.loads.is_empty());
    assert_eq!(rig.shard.totals().entries, 0);
}

#[test]
fn unused_warm_key_is_left_to_expire() {
    let mut rig = Rig::leased();
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    rig.jump(PASS);
    rig.land(1);
    rig.pass(61 * S);
    assert!(rig.loads.is_empty());
    assert_eq!((rig.alive.get(), rig.unwraps), (0, 0), "nor is it a use");
}

#[test]
fn keys_queued_when_the_lease_ends_are_loaded_under_the_next() {
    let mut rig = Rig::leased();
    rig.sleep(100 * S - MS);
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    rig.sleep(MS);
    rig.pass(20 * MS);
    assert!(rig.loads.is_empty());
    assert_eq!((rig.unwraps, warming_keys(&rig)), (0, 1));
    rig.grant();
    rig.jump(PASS);
    assert_eq!(loading(&rig), ["a"]);
}

#[test]
fn unlock_does_not_wait_for_the_warm_start() {
    let mut rig = Rig::leased();
    assert_eq!(hot(&mut rig, "a"), WarmAdmission::Queued);
    let ticket = rig.unlock();
    let status = rig
        .shard
        .unlock_status(PROD, ticket)
        .expect("its state is known");
    assert_eq!(
        (status.state, status.keys_reloaded, status.keys_left),
        (UnlockState::Done, 0, 0)
    );
    rig.jump(PASS);
    assert_eq!(loading(&rig), ["a"]);
}

fn hottest(rig: &Rig, mut hottest: Hottest) -> Vec<String> {
    while rig.shard.collect_hottest(&mut hottest) {}
    let keys = hottest.into_keys().into_iter();
    keys.map(|(_, key)| String::from_utf8(key.to_vec()).expect("test keys are text"))
        .collect()
}

#[test]
fn most_used_keys_are_the_hottest() {
    let mut rig = Rig::leased();
    for (key, uses) in [("warm", 3), ("cold", 0), ("hot", 9), ("tepid", 1)] {
        rig.load(key, 1);
        for _ in 0..uses {
            assert_eq!(rig.request(key), Got::Fresh(1));
        }
    }
    assert_eq!(hottest(&rig, Hottest::new(9)), ["hot", "warm", "tepid"]);
    assert_eq!(hottest(&rig, Hottest::new(2)), ["hot", "warm"]);
    assert_eq!(hottest(&rig, Hottest::of(PROD, 1)), ["hot"]);
    assert!(hottest(&rig, Hottest::of(OTHER, 9)).is_empty());
    rig.revoked("hot");
    assert_eq!(hottest(&rig, Hottest::new(1)), ["warm"]);
}

#[test]
fn uses_before_the_last_load_count_half() {
    let mut rig = Rig::leased();
    for (key, uses) in [("before", 5), ("since", 3)] {
        rig.load(key, 1);
        for _ in 0..uses {
            rig.request(key);
        }
    }
    assert_eq!(hottest(&rig, Hottest::new(1)), ["before"]);
    rig.force(1, "before");
    rig.land(1);
    assert_eq!(hottest(&rig, Hottest::new(2)), ["since", "before"]);
    for _ in 0..2 {
        rig.force(1, "before");
        rig.land(1);
    }
    assert_eq!(hottest(&rig, Hottest::new(2)), ["since"], "out of use");
}

#[test]
fn keys_purged_while_in_use_are_hot_and_other_cached_states_are_not() {
    let mut rig = Rig::leased();
    for key in ["used", "invalid"] {
        rig.load(key, 1);
        rig.request(key);
    }
    rig.force(1, "invalid");
    rig.fail(LoadError::Corrupt);
    rig.fail(LoadError::Corrupt);
    rig.lock();
    assert_eq!(rig.alive.get(), 0);
    assert_eq!(hottest(&rig, Hottest::new(9)), ["used"]);
}

#[test]
fn survey_reaches_the_last_key_in_bounded_steps() {
    let mut rig = Rig::leased();
    let keys = 2 * HOTTEST_SCAN_STEP;
    for key in 0..keys {
        rig.shard_request(1, &format!("key-{key}"));
        rig.land_now();
    }
    for key in [0, HOTTEST_SCAN_STEP, keys - 1] {
        rig.request(&format!("key-{key}"));
    }
    let mut all = Hottest::new(9);
    assert!(
        rig.shard.collect_hottest(&mut all),
        "there is a second step"
    );
    assert!(!rig.shard.collect_hottest(&mut all), "and no third");
    assert!(!rig.shard.collect_hottest(&mut all), "the end is the end");
    let keys = all.into_keys();
    let keys: Vec<_> = keys.iter().map(|(_, key)| &key[..]).collect();
    assert_eq!(keys, [&b"key-0"[..], b"key-2048", b"key-4095"]);
}
