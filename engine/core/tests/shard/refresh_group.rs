//! One flight per key, ended once, by its own id, within its time limit.

use crate::rig::*;
use keyway_core::{Lifecycle, LoadError, Refusal, Settings, UnlockState};

#[test]
fn ten_thousand_waiters_cause_one_load() {
    let mut rig = Rig::leased_with(Settings {
        sign_wait_budget_us: 500_000,
        ..settings()
    });
    rig.load("hot", 1);
    rig.jump(10 * S);
    let before = rig.counters().rehydrate_total;
    for token in 0..10_000 {
        let request = keyway_core::Request {
            token: keyway_core::Token(token),
            keyspace: PROD,
            key_id: b"hot",
            deadline: None,
        };
        assert!(matches!(
            rig.shard.handle_request(rig.now, request),
            keyway_core::Verdict::Wait
        ));
    }
    rig.drain();
    assert_eq!(rig.loads.len(), 1);
    assert_eq!(rig.counters().singleflight_waiters, 10_000);
    rig.sleep(MS);
    rig.land(2);
    assert_eq!(rig.ended.len(), 10_000);
    assert!(rig.ended.iter().all(|(_, end)| *end == Ended::Fresh(2)));
    assert_eq!(rig.counters().rehydrate_total - before, 1);
    assert_eq!(rig.counters().singleflight_waiters, 0);
}

#[test]
fn ten_thousand_waiters_time_out_within_ten_ticks_with_the_stale_key() {
    let mut rig = Rig::leased();
    rig.load("hot", 1);
    rig.jump(10 * S);
    for token in 0..10_000 {
        rig.shard_request(token, "hot");
    }
    rig.drain();
    rig.sleep(3 * MS);
    rig.pass(10 * MS);
    assert_eq!(rig.ended.len(), 10_000);
    assert!(rig.ended.iter().all(|(_, end)| *end == Ended::Stale(1)));
    assert_eq!(rig.counters().singleflight_wait_timeout_total, 10_000);
    assert_eq!(rig.loads.len(), 1);
}

#[test]
fn flight_that_times_out_ends_for_all_waiters_and_its_result_is_ignored() {
    let mut rig = Rig::leased_with(Settings {
        sign_wait_budget_us: 1_000_000,
        ..settings()
    });
    rig.request_by(1, "a", None);
    rig.pass(S + MS);
    rig.request_by(2, "a", None);
    rig.pass(S);
    assert!(matches!(
        rig.end_of(2),
        Ended::Refused(Refusal::Retry { .. })
    ));
    assert_eq!(rig.lifecycle("a"), Lifecycle::BackOff);
    assert_eq!(rig.counters().rehydrate_total, 1);
    assert_eq!(rig.counters().rehydrate_fail_total, 1);
    let load = rig.take_load();
    let loaded = rig.loaded(1);
    rig.answer(&load, Ok(loaded));
    assert_eq!(rig.lifecycle("a"), Lifecycle::BackOff);
    assert_eq!(rig.alive.get(), 0, "the late key was dropped");
    assert_eq!(rig.shard.totals().late_results_total, 1);
}

#[test]
fn id_of_an_ended_load_does_not_affect_the_next_flight() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    let first = rig.take_load();
    rig.jump(3 * S);
    rig.sleep(10 * S);
    rig.request_by(2, "a", None);
    let second = rig.take_load();
    assert_ne!(first.flight, second.flight);
    let loaded = rig.loaded(1);
    rig.answer(&first, Ok(loaded));
    assert_eq!(rig.lifecycle("a"), Lifecycle::Loading);
    let loaded = rig.loaded(2);
    rig.answer(&second, Ok(loaded));
    assert_eq!(rig.end_of(2), Ended::Fresh(2));
    let loaded = rig.loaded(9);
    rig.answer(&second, Ok(loaded));
    assert_eq!(rig.view("a").version, 2, "an answer counts once");
}

#[test]
fn served_version_never_decreases() {
    let mut rig = Rig::leased();
    rig.load("a", 5);
    rig.sleep(10 * S);
    rig.request_by(1, "a", None);
    rig.land(4);
    assert_eq!(rig.end_of(1), Ended::Stale(5));
    assert_eq!(rig.view("a").version, 5);
    assert_eq!(rig.counters().rehydrate_fail_total, 1);
}

#[test]
fn load_longer_than_the_hard_ttl_returns_nothing() {
    let mut rig = Rig::leased_with(Settings {
        soft_ttl_ms: 50,
        hard_ttl_ms: 100,
        ..settings()
    });
    rig.request_by(1, "a", None);
    rig.sleep(100 * MS);
    rig.land(1);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Retry { .. })
    ));
    assert_eq!(rig.alive.get(), 0);
}

#[test]
fn gauges_return_to_zero_at_rest() {
    let mut rig = Rig::leased();
    for key in ["a", "b", "c"] {
        rig.request(key);
    }
    let totals = rig.shard.totals();
    assert_eq!(
        (
            totals.keyspaces,
            totals.entries,
            totals.flights,
            totals.waiters
        ),
        (1, 3, 3, 3)
    );
    // One for each flight and waiter, one for the renewal of the lease and one for its end.
    assert_eq!(totals.timers, 8);
    rig.land(1);
    rig.fail(LoadError::NotFound);
    rig.fail(LoadError::Store);
    let ticket = rig.unlock();
    assert_eq!(
        rig.shard.unlock_status(PROD, ticket).unwrap().state,
        UnlockState::Done
    );
    rig.jump(90 * S);
    rig.jump(90 * S);
    rig.lock();
    let totals = rig.shard.totals();
    assert_eq!(
        (totals.entries, totals.flights, totals.waiters),
        (0, 0, 0),
        "{totals:?}"
    );
    assert_eq!(
        (totals.key_bytes, totals.negatives, totals.timers),
        (0, 0, 0),
        "{totals:?}"
    );
    assert_eq!(rig.alive.get(), 0);
}
