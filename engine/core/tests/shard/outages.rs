//! Outages of the KMS: what each request gets, and when the KMS is called again.

use crate::rig::*;
use keyway_core::{LeaseEvent, LoadError, Refusal, Settings, UnlockState};

/// Returns the hint of a request that waited for an unwrap that failed.
fn unavailable_us(ended: Ended) -> u64 {
    match ended {
        Ended::Refused(Refusal::Unavailable { after_us }) => after_us,
        ended => panic!("not UNAVAILABLE: {ended:?}"),
    }
}

fn ticket_of(got: Got) -> u64 {
    match got {
        Got::Refused(Refusal::NeedsUnlock { ticket }) => ticket,
        got => panic!("not NEEDS_UNLOCK: {got:?}"),
    }
}

#[test]
fn unused_keyspace_is_not_renewed_after_an_outage() {
    let mut rig = Rig::leased();
    rig.jump(60 * S);
    rig.lease(LeaseEvent::Unavailable {
        retry_after_us: 50 * S,
    });
    rig.jump(40 * S);
    rig.jump(20 * S);
    assert_eq!(rig.unwraps, 0, "no lease, no backoff, and no request");
    rig.request("a");
    assert_eq!(rig.unwraps, 1);
}

#[test]
fn outage_early_in_the_lease_does_not_advance_the_renewal() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.lease(LeaseEvent::Unavailable { retry_after_us: S });
    rig.jump(20 * S);
    rig.jump(29 * S);
    assert_eq!(rig.unwraps, 0);
    rig.jump(S);
    assert_eq!(rig.unwraps, 1, "at half");
}

#[test]
fn used_keys_are_reloaded_after_an_outage() {
    let mut rig = Rig::leased_with(Settings {
        max_in_flight: 0,
        ..settings()
    });
    for key in ["used", "unused"] {
        rig.load(key, 1);
    }
    rig.jump(50 * S);
    for key in ["used", "unused"] {
        rig.force(1, key);
        rig.land(1);
    }
    rig.request("used");
    rig.lease(LeaseEvent::Unavailable { retry_after_us: 0 });
    rig.jump(50 * S);
    assert_eq!(rig.alive.get(), 0);
    rig.grant();
    rig.set(|settings| settings.max_in_flight = 64);
    rig.jump(10 * MS);
    assert_eq!(rig.loads.len(), 1);
    assert_eq!(rig.loads[0].key, "used");
}

#[test]
fn waiter_of_a_failed_unwrap_gets_a_retry_hint() {
    let mut rig = Rig::new();
    rig.request_by(1, "a", None);
    rig.lease(LeaseEvent::Unavailable { retry_after_us: 0 });
    let after_us = unavailable_us(rig.end_of(1));
    assert!((100 * MS..=10 * S).contains(&after_us));
    let counters = rig.counters();
    assert_eq!(
        (counters.rehydrate_total, counters.rehydrate_fail_total),
        (1, 1)
    );
    rig.jump(after_us - MS);
    assert_eq!(rig.unwraps, 1);
    rig.jump(2 * MS);
    assert_eq!(rig.unwraps, 2, "asked again without waiting for a request");
    assert_eq!(
        rig.request_by(2, "a", None),
        Got::Wait,
        "so waiting may help"
    );
    rig.lease(LeaseEvent::Unavailable { retry_after_us: 0 });
    unavailable_us(rig.end_of(2));
}

#[test]
fn during_a_backoff_no_request_waits_and_all_get_one_ticket() {
    let mut rig = Rig::new();
    rig.request_by(1, "a", None);
    rig.lease(LeaseEvent::Unavailable {
        retry_after_us: 5 * S,
    });
    let ticket = ticket_of(rig.request("a"));
    rig.jump(2 * S);
    assert_eq!(ticket_of(rig.request("b")), ticket);
    assert_eq!(rig.unwraps, 1);
    let refused = &rig.counters().refused;
    assert_eq!((refused.unavailable, refused.needs_unlock), (1, 2));
}

#[test]
fn callers_get_a_ticket_when_the_lease_ends_in_an_outage() {
    let mut rig = Rig::leased_with(Settings {
        hard_ttl_ms: 1_000_000,
        ..settings()
    });
    rig.load("a", 1);
    rig.jump(50 * S);
    rig.land(1);
    rig.request("a");
    rig.lease(LeaseEvent::Unavailable {
        retry_after_us: 60 * S,
    });
    assert_eq!(rig.request("a"), Got::Fresh(1), "the lease still holds");
    rig.jump(50 * S);
    let ticket = ticket_of(rig.request("a"));
    let state = |rig: &Rig| rig.shard.unlock_status(PROD, ticket).unwrap().state;
    assert_eq!(state(&rig), UnlockState::Pending);
    rig.jump(10 * S);
    assert_eq!(rig.unwraps, 2, "the KMS is called without a request");
    rig.grant();
    rig.jump(10 * MS);
    rig.land(1);
    assert_eq!(state(&rig), UnlockState::Done);
    assert_eq!(rig.request("a"), Got::Fresh(1));
}

#[test]
fn retry_hint_of_the_kms_is_honoured() {
    let mut rig = Rig::new();
    rig.request_by(1, "a", None);
    rig.lease(LeaseEvent::Unavailable {
        retry_after_us: 30 * S,
    });
    assert!(unavailable_us(rig.end_of(1)) >= 30 * S);
}

#[test]
fn failing_requests_back_off_exponentially() {
    let mut rig = Rig::new();
    let mut longest = 0;
    for asked in 1..20 {
        assert_eq!(rig.request_by(asked, "a", None), Got::Wait);
        assert_eq!(rig.unwraps as u64, asked);
        rig.lease(LeaseEvent::Failed);
        let after_us = unavailable_us(rig.end_of(asked));
        assert!((100 * MS..=10 * S).contains(&after_us));
        longest = longest.max(after_us);
        rig.jump(after_us + MS);
    }
    assert!(longest > 5 * S);
}

#[test]
fn outage_during_the_lease_has_no_effect_on_requests() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.jump(50 * S);
    rig.lease(LeaseEvent::Unavailable { retry_after_us: 0 });
    assert_eq!(
        rig.request_by(1, "a", None),
        Got::Wait,
        "stale, and refreshed without the KMS"
    );
    rig.land(2);
    assert_eq!(rig.end_of(1), Ended::Fresh(2));
    rig.jump(10 * S);
    assert_eq!(rig.unwraps, 2);
}

#[test]
fn stale_key_is_served_when_a_generation_is_missing_in_an_outage() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.sleep(10 * S);
    rig.request_by(1, "a", None);
    rig.fail(LoadError::DekMissing);
    rig.lease(LeaseEvent::Unavailable {
        retry_after_us: 5 * S,
    });
    assert_eq!(rig.end_of(1), Ended::Stale(1));
    rig.sleep(4 * S);
    assert_eq!(rig.request("a"), Got::Stale(1));
    assert!(rig.loads.is_empty());
}

#[test]
fn unanswered_request_is_given_up() {
    let mut rig = Rig::new();
    rig.request("a");
    rig.jump(119 * S);
    assert_eq!(rig.unwraps, 1);
    rig.jump(S);
    rig.jump(10 * S);
    assert_eq!(rig.unwraps, 2);
}
