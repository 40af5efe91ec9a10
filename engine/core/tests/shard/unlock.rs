//! Lock, unlock, tickets, and reloading.

use crate::rig::*;
use keyway_core::{LeaseEvent, Limits, LoadError, Refusal, Settings, UnlockState};

#[test]
fn lock_refuses_all_requests_immediately_and_drops_everything() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.load("b", 1);
    rig.request_by(1, "c", None);
    rig.force(2, "c");
    rig.lock();
    assert_eq!(rig.alive.get(), 0);
    assert_eq!(rig.dropped_deks, 1);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::NeedsUnlock { .. })
    ));
    assert!(matches!(
        rig.end_of(2),
        Ended::Refused(Refusal::NeedsUnlock { .. })
    ));
    for key in ["a", "b", "c", "never seen"] {
        assert!(needs_unlock(rig.request(key)));
    }
    rig.land(1);
    assert_eq!(rig.alive.get(), 0, "what was in flight is discarded");
    rig.jump(1_000 * S);
    assert_eq!(rig.unwraps, 0, "a locked keyspace calls no KMS");
    assert!(rig.loads.is_empty());
}

#[test]
fn answer_after_the_lock_is_dropped() {
    let mut rig = Rig::new();
    rig.request("a");
    rig.lock();
    rig.grant();
    assert_eq!(rig.dropped_deks, 2);
    assert_eq!(rig.shard.gauges(rig.now, PROD).unwrap().lease_left_us, 0);
    assert!(needs_unlock(rig.request("a")));
}

#[test]
fn only_unlock_ends_a_lock_and_its_ticket_shows_progress() {
    let mut rig = Rig::leased();
    for key in ["a", "b", "c"] {
        rig.load(key, 1);
        rig.request(key);
    }
    rig.lock();
    let Got::Refused(Refusal::NeedsUnlock { ticket }) = rig.request("a") else {
        panic!("not locked")
    };
    let status = |rig: &Rig| rig.shard.unlock_status(PROD, ticket).unwrap();
    assert_eq!(status(&rig).state, UnlockState::Pending);
    assert_eq!(rig.unlock(), ticket, "the ticket that all requests got");
    assert_eq!(rig.unwraps, 1);
    rig.sleep(MS);
    rig.grant();
    assert_eq!(
        (status(&rig).state, status(&rig).keys_left),
        (UnlockState::Pending, 3)
    );
    rig.jump(10 * MS);
    assert_eq!(
        rig.loads.len(),
        3,
        "keys in use are reloaded without a request"
    );
    rig.land(1);
    assert_eq!((status(&rig).keys_reloaded, status(&rig).keys_left), (1, 2));
    rig.fail(LoadError::Store);
    rig.land(1);
    assert_eq!(status(&rig).state, UnlockState::Done);
    assert_eq!(status(&rig).keys_reloaded, 2);
}

#[test]
fn keys_are_reloaded_under_max_in_flight() {
    let mut rig = Rig::leased_with(Settings {
        max_in_flight: 2,
        ..settings()
    });
    for key in ["a", "b", "c", "d", "e"] {
        rig.load(key, 1);
        rig.request(key);
    }
    rig.lock();
    rig.unlock();
    rig.grant();
    rig.jump(10 * MS);
    assert_eq!(rig.loads.len(), 2);
    rig.land(1);
    rig.jump(10 * MS);
    assert_eq!(rig.loads.len(), 2);
    assert_eq!(rig.counters().prefetch_flights, 2);
}

#[test]
fn unlock_is_done_with_the_dek_if_the_prefetcher_is_off() {
    let mut rig = Rig::leased_with(Settings {
        max_in_flight: 0,
        ..settings()
    });
    rig.load("a", 1);
    rig.request("a");
    rig.lock();
    let ticket = rig.unlock();
    rig.grant();
    assert_eq!(
        rig.shard.unlock_status(PROD, ticket).unwrap().state,
        UnlockState::Done
    );
    assert_eq!(rig.request("a"), Got::Wait);
}

#[test]
fn unlock_refused_by_the_kms_has_failed() {
    let mut rig = Rig::leased();
    rig.lock();
    let ticket = rig.unlock();
    rig.lease(LeaseEvent::Denied);
    rig.jump(S);
    rig.lease(LeaseEvent::Denied);
    assert_eq!(
        rig.shard.unlock_status(PROD, ticket).unwrap().state,
        UnlockState::Failed
    );
    let Got::Refused(Refusal::NeedsUnlock { ticket: next }) = rig.request("a") else {
        panic!("not refused")
    };
    assert_ne!(next, ticket);
    assert_eq!(rig.unlock(), next);
}

#[test]
fn unlock_during_reloading_has_its_own_counts() {
    let mut rig = Rig::leased();
    for key in ["a", "b"] {
        rig.load(key, 1);
        rig.request(key);
    }
    rig.lock();
    let first = rig.unlock();
    rig.grant();
    rig.jump(10 * MS);
    rig.land(1);
    let second = rig.unlock();
    assert_ne!(first, second);
    let status = |rig: &Rig, ticket| rig.shard.unlock_status(PROD, ticket).unwrap();
    assert_eq!(status(&rig, first).state, UnlockState::Done);
    assert_eq!(status(&rig, second).state, UnlockState::Pending);
    rig.land(1);
    assert_eq!(status(&rig, first).keys_reloaded, 1);
    assert_eq!(
        (
            status(&rig, second).state,
            status(&rig, second).keys_reloaded
        ),
        (UnlockState::Done, 1)
    );
}

#[test]
fn unlock_calls_the_kms_immediately() {
    let mut rig = Rig::new();
    rig.request("a");
    rig.lease(LeaseEvent::Unavailable {
        retry_after_us: 60 * S,
    });
    rig.unlock();
    assert_eq!(rig.unwraps, 2);
    rig.unlock();
    assert_eq!(rig.unwraps, 2, "but not twice at a time");
}

#[test]
fn unlock_rereads_invalid_keys() {
    let mut rig = Rig::leased();
    for key in ["a", "b"] {
        rig.request(key);
        rig.fail(LoadError::Corrupt);
        rig.fail(LoadError::Corrupt);
    }
    let ticket = rig.unlock();
    assert_eq!(rig.shard.unlock_status(PROD, ticket).unwrap().keys_left, 2);
    assert_eq!(
        rig.unwraps, 0,
        "the DEK is available: no KMS call for keys that cannot be opened"
    );
    rig.jump(10 * MS);
    assert_eq!(rig.loads.len(), 2);
    rig.land(1);
    rig.fail(LoadError::Corrupt);
    let status = rig.shard.unlock_status(PROD, ticket).unwrap();
    assert_eq!((status.state, status.keys_reloaded), (UnlockState::Done, 1));
    rig.jump(S);
    assert!(rig.loads.is_empty(), "each is read once");
}

#[test]
fn large_keyspace_is_dropped_within_thirty_two_ticks_and_not_used() {
    let limits = Limits {
        entries_max: 20_000,
        negatives_max: 100,
        revoked_max: 100,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    for key in 0..10_000 {
        let key = format!("key-{key}");
        rig.shard_request(1, &key);
        rig.land_now();
    }
    assert_eq!(rig.alive.get(), 10_000);
    rig.lock();
    assert!(rig.alive.get() > 0, "one step at a time");
    assert!(needs_unlock(rig.request("key-9999")));
    rig.unlock();
    rig.grant();
    assert_eq!(
        rig.request("key-9999"),
        Got::Wait,
        "dead, although its bytes may still be there"
    );
    for _ in 0..31 {
        rig.jump(MS);
    }
    assert_eq!(rig.alive.get(), 0);
    assert_eq!(rig.shard.totals().sweeping, 0);
}

#[test]
fn tickets_of_two_shards_differ() {
    let tickets = [0, 1].map(|shard_index| {
        let limits = Limits {
            shard_index,
            shard_count: 2,
            ..Limits::default()
        };
        let mut rig = Rig::with(limits, settings());
        rig.unlock()
    });
    assert_ne!(tickets[0], tickets[1]);
}
