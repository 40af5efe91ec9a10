//! DEK leases: when the KMS is called, and the effects of its answers.

use crate::rig::*;
use keyway_core::{Event, LeaseEvent, Lifecycle, LoadError, Refusal, Settings};

/// Completes one slow unwrap, so that the next is expected to take as long.
fn with_slow_kms() -> Rig {
    let mut rig = Rig::new();
    rig.request("warm");
    rig.sleep(20 * MS);
    rig.lease(LeaseEvent::Granted {
        sent_at: rig.now.minus_us(20 * MS),
        generation: 1,
    });
    rig.land(1);
    rig.ended.clear();
    rig
}

#[test]
fn first_request_calls_the_kms_once_and_waits() {
    let mut rig = Rig::new();
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    assert_eq!(rig.request_by(2, "b", None), Got::Wait);
    assert_eq!(rig.lifecycle("a"), Lifecycle::AwaitingDek);
    assert_eq!((rig.unwraps, rig.loads.len()), (1, 0));
    assert_eq!(rig.counters().unwraps_total, 1);
    rig.sleep(MS);
    rig.grant();
    assert_eq!(rig.loads.len(), 2);
    rig.land(1);
    rig.land(1);
    assert_eq!(
        (rig.end_of(1), rig.end_of(2)),
        (Ended::Fresh(1), Ended::Fresh(1))
    );
}

#[test]
fn wait_for_the_dek_ends_with_the_budget_and_the_flight_continues() {
    let mut rig = Rig::new();
    rig.request_by(1, "a", None);
    rig.pass(4 * MS);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Retry { .. })
    ));
    rig.grant();
    rig.land(1);
    assert_eq!(rig.request("a"), Got::Fresh(1));
}

#[test]
fn no_request_waits_if_an_unwrap_exceeds_the_budget() {
    let mut rig = with_slow_kms();
    rig.jump(100 * S);
    let Got::Refused(Refusal::NeedsUnlock { ticket }) = rig.request("a") else {
        panic!("waits for an unwrap that takes too long")
    };
    assert_eq!(rig.unwraps, 2, "requested anyway");
    assert_eq!(
        rig.request("b"),
        Got::Refused(Refusal::NeedsUnlock { ticket }),
        "one ticket"
    );
    assert_eq!(rig.unwraps, 2);
    rig.sleep(18 * MS);
    assert_eq!(rig.request("a"), Got::Wait, "the rest of it fits");
    rig.grant();
    assert!(rig.shard.unlock_status(PROD, ticket).is_some());
}

#[test]
fn lease_is_renewed_at_half_and_only_then_do_keys_live_longer() {
    let mut rig = Rig::leased_with(Settings {
        hard_ttl_ms: 1_000_000,
        ..settings()
    });
    let lease_end = rig.now.plus_us(100 * S);
    rig.load("a", 1);
    rig.request("a");
    assert_eq!(rig.view("a").expires_at, Some(lease_end));
    rig.jump(49 * S);
    assert_eq!(rig.unwraps, 0);
    rig.jump(S);
    assert_eq!(rig.unwraps, 1);
    rig.jump(S);
    assert_eq!(rig.unwraps, 1, "one request at a time");
    let loaded_at = rig.now;
    rig.sleep(S);
    rig.grant();
    assert_eq!(rig.view("a").expires_at, Some(loaded_at.plus_us(101 * S)));
}

#[test]
fn renewal_moves_no_key_past_its_hard_ttl() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    let hard = rig.now.plus_us(60 * S);
    rig.jump(50 * S);
    rig.grant();
    assert_eq!(rig.view("a").expires_at, Some(hard));
}

#[test]
fn lease_counts_from_when_the_request_was_sent() {
    let mut rig = Rig::new();
    rig.request("a");
    let sent_at = rig.now;
    rig.sleep(30 * S);
    rig.lease(LeaseEvent::Granted {
        sent_at,
        generation: 1,
    });
    assert_eq!(
        rig.shard.gauges(rig.now, PROD).unwrap().lease_left_us,
        70 * S
    );
}

#[test]
fn answer_older_than_the_lease_is_ignored() {
    let mut rig = Rig::new();
    rig.request_by(1, "a", None);
    let sent_at = rig.now;
    rig.sleep(100 * S);
    rig.lease(LeaseEvent::Granted {
        sent_at,
        generation: 1,
    });
    assert!(rig.loads.is_empty());
    assert_eq!(rig.dropped_deks, 1);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Unavailable { .. })
    ));
    assert!(needs_unlock(rig.request("a")));
}

#[test]
fn idle_keyspace_is_not_renewed_until_it_is_used() {
    let mut rig = Rig::leased();
    rig.jump(60 * S);
    assert_eq!(rig.unwraps, 0);
    rig.load("a", 1);
    rig.jump(7 * S);
    assert_eq!(rig.unwraps, 1, "the next check finds that it is in use");
}

#[test]
fn idle_keyspace_is_checked_every_sixteenth_of_the_lease() {
    let mut rig = Rig::leased();
    rig.jump(60 * S);
    rig.load("a", 1);
    rig.jump(6 * S);
    assert_eq!(rig.unwraps, 0, "a sixteenth of 100 s is 6.25 s");
    rig.jump(S);
    assert_eq!(rig.unwraps, 1);
}

#[test]
fn latest_generation_under_the_lease_is_reported() {
    let mut rig = Rig::new();
    let generation = |rig: &Rig| rig.shard.gauges(rig.now, PROD).unwrap().dek_generation;
    assert_eq!(generation(&rig), 0, "no lease");
    for (granted, newest) in [(3, 3), (5, 5), (4, 5)] {
        rig.lease(LeaseEvent::Granted {
            sent_at: rig.now,
            generation: granted,
        });
        assert_eq!(generation(&rig), newest);
    }
    rig.jump(100 * S);
    assert_eq!(generation(&rig), 0);
}

#[test]
fn end_of_the_lease_drops_all_plaintext_and_the_dek() {
    let mut rig = Rig::leased_with(Settings {
        hard_ttl_ms: 1_000_000,
        ..settings()
    });
    rig.load("a", 1);
    rig.load("b", 1);
    rig.sleep(100 * S);
    assert_ne!(
        rig.request("a"),
        Got::Fresh(1),
        "even before the timer fired"
    );
    assert_eq!(rig.alive.get(), 1);
    rig.tick();
    assert_eq!(rig.alive.get(), 0);
    assert_eq!(rig.dropped_deks, 1);
    assert!(
        rig.events
            .iter()
            .any(|event| matches!(event, Event::LeaseEnded { .. }))
    );
}

#[test]
fn end_of_an_unused_lease_drops_plaintext() {
    let mut rig = Rig::leased_with(Settings {
        hard_ttl_ms: 1_000_000,
        max_in_flight: 0,
        ..settings()
    });
    rig.load("a", 1);
    rig.grant();
    rig.jump(99 * S);
    assert_eq!((rig.alive.get(), rig.unwraps), (1, 0), "idle: not renewed");
    rig.jump(S);
    assert_eq!(rig.alive.get(), 0);
    rig.grant();
    assert_eq!(rig.request("a"), Got::Wait);
}

#[test]
fn new_lease_does_not_revive_keys_of_the_old_one() {
    let mut rig = Rig::leased_with(Settings {
        hard_ttl_ms: 1_000_000,
        ..settings()
    });
    rig.load("a", 1);
    rig.sleep(100 * S);
    rig.grant();
    assert_eq!(rig.view("a").version, 0);
    assert_eq!(rig.request("a"), Got::Wait);
}

#[test]
fn refusal_is_confirmed_after_a_second() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.jump(50 * S);
    rig.load("a2", 1);
    assert_eq!(rig.unwraps, 1);
    rig.lease(LeaseEvent::Denied);
    assert_eq!(rig.request("a2"), Got::Fresh(1), "the lease still holds");
    rig.jump(999 * MS);
    assert_eq!(rig.unwraps, 1);
    rig.jump(MS);
    assert_eq!(rig.unwraps, 2);
    rig.lease(LeaseEvent::Disabled);
    assert_eq!(rig.alive.get(), 0, "purged, in the middle of the lease");
    assert_eq!(rig.dropped_deks, 1);
    let Got::Refused(Refusal::NeedsUnlock { ticket }) = rig.request("a2") else {
        panic!("not refused")
    };
    assert!(rig.events.contains(&Event::KeyspaceDenied {
        keyspace: PROD,
        ticket,
        kms_locked: false,
    }));
    rig.jump(100 * S);
    assert!(needs_unlock(rig.request("a2")));
    assert_eq!(
        rig.unwraps, 2,
        "the KMS is not called until an operator unlocks"
    );
}

#[test]
fn no_request_waits_for_the_second_refusal() {
    let mut rig = Rig::new();
    rig.request_by(1, "a", None);
    rig.lease(LeaseEvent::Denied);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::NeedsUnlock { .. })
    ));
    assert!(needs_unlock(rig.request("a")));
    rig.jump(S);
    assert_eq!(rig.unwraps, 2, "called again although no request waits");
    rig.grant();
    assert_eq!(rig.request("a"), Got::Wait);
}

#[test]
fn success_between_two_refusals_resets_the_count() {
    let mut rig = Rig::leased();
    rig.lease(LeaseEvent::Denied);
    rig.jump(S);
    rig.grant();
    rig.lease(LeaseEvent::Denied);
    assert!(!rig.shard.gauges(rig.now, PROD).unwrap().denied);
}

#[test]
fn missing_generation_causes_an_unwrap_not_invalid() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.fail(LoadError::DekMissing);
    assert_eq!(
        (rig.unwraps, rig.lifecycle("a")),
        (1, Lifecycle::AwaitingDek)
    );
    rig.sleep(MS);
    rig.lease(LeaseEvent::Granted {
        sent_at: rig.now,
        generation: 2,
    });
    rig.land(1);
    assert_eq!(rig.end_of(1), Ended::Fresh(1));
    assert_eq!(rig.counters().rehydrate_fail_total, 0);
}

#[test]
fn generation_that_the_kms_does_not_return_is_a_failure() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.fail(LoadError::DekMissing);
    rig.grant();
    rig.fail(LoadError::DekMissing);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Retry { .. })
    ));
    assert_eq!((rig.unwraps, rig.lifecycle("a")), (1, Lifecycle::BackOff));
    assert_eq!(rig.counters().rehydrate_fail_total, 1);
}

#[test]
fn flight_waits_for_another_generation_once_even_during_an_unwrap() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.fail(LoadError::DekMissing);
    rig.grant();
    rig.request_by(2, "b", None);
    let (of_a, of_b) = (rig.take_load(), rig.take_load());
    rig.answer(&of_b, Err(LoadError::DekMissing));
    assert_eq!(rig.unwraps, 2);
    rig.answer(&of_a, Err(LoadError::DekMissing));
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Retry { .. })
    ));
    assert!(rig.is_waiting(2), "b has not waited yet");
}

#[test]
fn invalid_key_does_not_wait_for_another_generation() {
    let mut rig = Rig::leased();
    rig.request("invalid");
    rig.fail(LoadError::Corrupt);
    let second_reading = rig.take_load();
    rig.request("a");
    rig.fail(LoadError::DekMissing);
    assert_eq!(rig.unwraps, 1);
    rig.answer(&second_reading, Err(LoadError::DekMissing));
    let view = rig.view("invalid");
    assert_eq!(
        (view.lifecycle, view.refreshing, view.backing_off),
        (Lifecycle::Invalid, false, true)
    );
}

#[test]
fn key_loaded_without_a_lease_is_not_used() {
    let mut rig = Rig::leased();
    rig.sleep(100 * S - MS);
    rig.request_by(1, "a", None);
    rig.sleep(MS);
    rig.land(1);
    assert_eq!(rig.alive.get(), 0);
    assert_eq!(
        (rig.unwraps, rig.lifecycle("a")),
        (1, Lifecycle::AwaitingDek)
    );
    rig.grant();
    rig.land(1);
    assert_eq!(rig.end_of(1), Ended::Fresh(1));
}

#[test]
fn locked_kms_means_needs_unlock_immediately() {
    let mut rig = Rig::new();
    rig.request_by(1, "a", None);
    rig.lease(LeaseEvent::Locked);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::NeedsUnlock { .. })
    ));
    assert!(rig.shard.gauges(rig.now, PROD).unwrap().denied);
    rig.jump(100 * S);
    assert_eq!(rig.unwraps, 1);
}

#[test]
fn lease_runs_to_its_end_when_the_kms_gets_locked() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.request("a");
    rig.jump(50 * S);
    rig.lease(LeaseEvent::Locked);
    rig.load("b", 1);
    assert_eq!(rig.request("b"), Got::Fresh(1));
    rig.jump(50 * S);
    assert!(needs_unlock(rig.request("b")));
    assert_eq!(rig.dropped_deks, 1);
}

#[test]
fn old_grant_does_not_cause_a_storm_of_requests() {
    let mut rig = Rig::new();
    rig.request("a");
    for _ in 0..1_000 {
        let unwraps = rig.unwraps;
        rig.lease(LeaseEvent::Granted {
            sent_at: rig
                .now
                .minus_us(60 * S)
                .max(keyway_core::Instant::from_micros(950 * S)),
            generation: 1,
        });
        rig.request("a");
        rig.pass(MS);
        assert!(rig.unwraps <= unwraps + 1);
    }
    assert!(rig.unwraps <= 3, "{} requests in a second", rig.unwraps);
}

/// Found by the simulator: if the KMS had been locked before, a grant that arrived after the lease had ended and before a
/// tick was treated as denied, and the DEK that came with it was dropped.
#[test]
fn grant_after_the_end_of_the_lease_starts_a_new_one() {
    let mut rig = Rig::leased_with(settings());
    rig.load("key", 1);
    rig.unlock();
    rig.lease(LeaseEvent::Locked);
    rig.dropped_deks = 0;
    let lease_left_us = rig
        .shard
        .gauges(rig.now, PROD)
        .expect("known")
        .lease_left_us;
    // The clock has advanced without a tick.
    rig.now = rig.now.plus_us(lease_left_us);
    rig.grant();
    let gauges = rig.shard.gauges(rig.now, PROD).expect("known");
    assert!(!gauges.denied && gauges.lease_left_us > 0);
    assert_eq!(rig.dropped_deks, 0, "the DEK is the new lease's");
    assert_eq!(
        rig.request_by(7, "key", None),
        Got::Wait,
        "what was loaded before is dead"
    );
}
