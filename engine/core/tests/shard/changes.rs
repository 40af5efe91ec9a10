//! Puts, revocations, missing keys, blobs that cannot be opened.

use crate::rig::*;
use keyway_core::{
    Event, InvalidCause, Lifecycle, Limits, LoadError, NEGATIVE_US, OnSoftExpiry, Refusal,
    Settings, Urgency,
};

const NOT_FOUND: Got = Got::Refused(Refusal::NotFound);
const INVALID: Got = Got::Refused(Refusal::Invalid);
const REVOKED: Got = Got::Refused(Refusal::Revoked);

#[test]
fn missing_key_is_cached_for_a_second() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.fail(LoadError::NotFound);
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::NotFound));
    rig.sleep(NEGATIVE_US - 1);
    assert_eq!(rig.request("a"), NOT_FOUND);
    assert!(rig.loads.is_empty());
    rig.sleep(1);
    assert_eq!(rig.request("a"), Got::Wait);
    assert_eq!(
        rig.counters().rehydrate_fail_total,
        0,
        "missing is not failing"
    );
}

#[test]
fn put_takes_effect_immediately() {
    let mut rig = Rig::leased();
    rig.request("a");
    rig.fail(LoadError::NotFound);
    rig.stored("a", 1);
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    rig.land(1);
    assert_eq!(rig.end_of(1), Ended::Fresh(1));
}

#[test]
fn put_discards_the_load_in_flight() {
    for older in [
        Err(LoadError::NotFound),
        Err(LoadError::Corrupt),
        Err(LoadError::Store),
        Ok(1),
    ] {
        let mut rig = Rig::leased();
        rig.request_by(1, "a", None);
        rig.stored("a", 2);
        let load = rig.take_load();
        let result = older.map(|version| rig.loaded(version));
        rig.answer(&load, result);
        assert!(
            rig.is_waiting(1),
            "{older:?} does not show what is stored now"
        );
        assert_eq!(rig.alive.get(), 0);
        rig.land(2);
        assert_eq!(rig.end_of(1), Ended::Fresh(2));
        assert!(!rig.view("a").backing_off);
    }
}

#[test]
fn put_ends_backoff() {
    let mut rig = Rig::leased();
    rig.request("a");
    rig.fail(LoadError::Store);
    rig.stored("a", 1);
    assert_eq!(rig.request("a"), Got::Wait);
}

#[test]
fn put_is_loaded_immediately_and_nothing_older_is_served() {
    for policy in [OnSoftExpiry::Wait, OnSoftExpiry::ServeStale] {
        let mut rig = Rig::leased_with(Settings {
            on_soft_expiry: policy,
            ..settings()
        });
        rig.load("a", 1);
        rig.stored("a", 2);
        assert_eq!(rig.alive.get(), 0, "what is not served is not kept");
        assert_eq!(rig.loads[0].urgency, Urgency::OnDemand);
        assert_eq!(rig.request_by(1, "a", None), Got::Wait);
        rig.pass(3 * MS);
        assert!(matches!(
            rig.end_of(1),
            Ended::Refused(Refusal::Retry { .. })
        ));
        assert_eq!(rig.request_by(3, "a", None), Got::Wait);
        rig.land(2);
        assert_eq!(rig.end_of(3), Ended::Fresh(2));
    }
}

#[test]
fn put_of_the_live_version_changes_nothing() {
    let mut rig = Rig::leased();
    rig.load("a", 2);
    rig.stored("a", 2);
    rig.stored("a", 1);
    assert!(rig.loads.is_empty());
    assert_eq!(rig.request("a"), Got::Fresh(2));
}

#[test]
fn put_reaches_waiters_whose_older_key_has_been_loaded() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.request_by(2, "a", None);
    rig.land_without_drain(1);
    assert!(rig.take_ready());
    rig.shard.handle_stored(rig.now, PROD, b"a", 2);
    rig.drain();
    assert_eq!(rig.end_of(1), Ended::Fresh(1));
    assert!(matches!(
        rig.end_of(2),
        Ended::Refused(Refusal::Retry { .. })
    ));
}

#[test]
fn put_does_not_discard_a_load_that_has_not_begun() {
    let mut rig = Rig::leased();
    rig.queues_loads = true;
    rig.request_by(1, "a", None);
    rig.stored("a", 2);
    let flight = rig.loads[0].flight;
    assert!(rig.shard.begin_load(rig.now, flight));
    rig.land(2);
    assert_eq!(rig.end_of(1), Ended::Fresh(2));
    assert!(rig.loads.is_empty());
}

#[test]
fn load_that_is_no_longer_needed_does_not_begin() {
    let mut rig = Rig::leased();
    rig.queues_loads = true;
    rig.request("a");
    rig.request("b");
    rig.revoked("a");
    let loads = rig.loads.clone();
    assert!(!rig.shard.begin_load(rig.now, loads[0].flight));
    assert!(rig.shard.begin_load(rig.now, loads[1].flight));
    assert!(!rig.shard.begin_load(rig.now, loads[1].flight), "once");
}

#[test]
fn older_version_is_never_accepted_after_a_put() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.stored("a", 3);
    rig.land(2);
    assert_eq!(rig.view("a").version, 0);
    assert!(rig.events.iter().any(|event| matches!(
        event,
        Event::VersionWentBack {
            loaded: 2,
            expected: 3,
            ..
        }
    )));
}

#[test]
fn negatives_are_bounded() {
    let limits = Limits {
        negatives_max: 3,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    for key in ["a", "b", "c", "d", "e"] {
        rig.request(key);
        rig.fail(LoadError::NotFound);
    }
    assert_eq!(rig.shard.totals().negatives, 3);
    assert_eq!(rig.request("e"), NOT_FOUND);
    assert_eq!(rig.request("a"), Got::Wait, "the oldest was discarded");
    rig.jump(2 * S);
    assert_eq!(rig.shard.totals().negatives, 0);
}

#[test]
fn key_that_went_missing_is_no_longer_served() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.force(1, "a");
    rig.fail(LoadError::NotFound);
    assert_eq!(rig.request("a"), NOT_FOUND);
    assert_eq!(rig.alive.get(), 0);
}

#[test]
fn unopenable_blob_is_read_once_more_and_then_left() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.jump(10 * S);
    rig.request_by(1, "a", None);
    rig.fail(LoadError::Corrupt);
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::Invalid));
    assert_eq!(rig.alive.get(), 0, "the plaintext is gone");
    assert_eq!(rig.request("a"), INVALID);
    assert_eq!(rig.loads.len(), 1);
    rig.fail(LoadError::Corrupt);
    rig.sleep(10 * S);
    rig.tick();
    assert_eq!(rig.request("a"), INVALID);
    assert!(rig.loads.is_empty());
    let reports = rig.events.iter().filter(|event| {
        matches!(
            event,
            Event::KeyInvalid {
                cause: InvalidCause::Corrupt,
                ..
            }
        )
    });
    assert_eq!(reports.count(), 1, "once for the change of state");
    assert_eq!(rig.unwraps, 0, "the KMS is not involved");
    assert_eq!(rig.counters().rehydrate_fail_total, 2);
    rig.stored("a", 2);
    assert_eq!(rig.request("a"), Got::Wait);
    rig.land(2);
    assert_eq!(rig.request("a"), Got::Fresh(2));
}

#[test]
fn blob_that_opens_the_second_time_is_served() {
    let mut rig = Rig::leased();
    rig.request("a");
    rig.fail(LoadError::Corrupt);
    rig.land(1);
    assert_eq!(rig.request("a"), Got::Fresh(1));
    assert!(
        rig.events
            .iter()
            .any(|event| matches!(event, Event::KeyValid { .. }))
    );
}

#[test]
fn failed_second_read_is_repeated_by_the_next_request() {
    let mut rig = Rig::leased();
    rig.request("a");
    rig.fail(LoadError::Corrupt);
    rig.fail(LoadError::Store);
    assert_eq!(rig.request("a"), INVALID);
    assert!(rig.loads.is_empty(), "in backoff");
    rig.sleep(S);
    assert_eq!(rig.request("a"), INVALID);
    rig.land(1);
    assert_eq!(rig.request("a"), Got::Fresh(1));
}

#[test]
fn invalid_key_never_causes_a_kms_call() {
    let mut rig = Rig::leased();
    rig.request("a");
    rig.fail(LoadError::Corrupt);
    rig.fail(LoadError::DekMissing);
    assert_eq!(rig.unwraps, 0);
    rig.jump(200 * S);
    let unwraps = rig.unwraps;
    assert_eq!(rig.request("a"), INVALID);
    assert_eq!(rig.unwraps, unwraps, "even without a lease");
    assert!(rig.loads.is_empty());
}

#[test]
fn key_past_not_after_is_invalid_until_it_changes() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    let load = rig.take_load();
    let mut loaded = rig.loaded(1);
    loaded.not_after = Some(rig.now);
    rig.answer(&load, Ok(loaded));
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::Invalid));
    assert_eq!(rig.view("a").invalid, Some(InvalidCause::NotAfterPassed));
    assert!(rig.loads.is_empty(), "another reading would not help");
    rig.stored("a", 2);
    assert_eq!(rig.request("a"), Got::Wait);
}

#[test]
fn revoked_key_is_refused_immediately_and_permanently() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.jump(10 * S);
    rig.request_by(1, "a", None);
    rig.force(2, "a");
    rig.revoked("a");
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::Revoked));
    assert_eq!(rig.end_of(2), Ended::Refused(Refusal::Revoked));
    assert_eq!(rig.alive.get(), 0);
    assert_eq!(rig.shard.totals().flights, 0);
    rig.land(2);
    assert_eq!(rig.request("a"), REVOKED);
    assert_eq!(rig.alive.get(), 0);
    rig.stored("a", 3);
    rig.jump(100 * S);
    assert_eq!(rig.request("a"), REVOKED);
}

#[test]
fn revoked_result_counts_even_for_a_superseded_load() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.stored("a", 2);
    rig.fail(LoadError::Revoked);
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::Revoked));
    assert_eq!(rig.lifecycle("a"), Lifecycle::Revoked);
}

#[test]
fn cached_revocations_are_bounded_and_reread() {
    let limits = Limits {
        revoked_max: 2,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    for key in ["a", "b", "c"] {
        rig.revoked(key);
    }
    assert_eq!(rig.shard.totals().revoked, 2);
    assert_eq!(rig.request("c"), REVOKED);
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    rig.fail(LoadError::Revoked);
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::Revoked));
    assert_eq!(rig.request("a"), REVOKED);
    assert_eq!(rig.shard.totals().revoked, 2);
}

#[test]
fn changes_of_unknown_keys_and_keyspaces_have_no_effect() {
    let mut rig = Rig::new();
    rig.stored("a", 1);
    rig.shard.handle_revoked(rig.now, OTHER, b"a");
    rig.shard
        .handle_lease(rig.now, OTHER, keyway_core::LeaseEvent::Denied);
    rig.shard.handle_lock(rig.now, OTHER);
    assert_eq!(rig.shard.handle_unlock(rig.now, OTHER), None);
    assert_eq!(rig.shard.totals().entries, 0);
    assert!(rig.shard.poll_action().is_none());
}

/// Trimmed or revoked versions of a key remained in memory until the next load, and were served until then.
#[test]
fn rewritten_key_is_reloaded_before_it_is_served_again() {
    let mut rig = Rig::leased();
    rig.load("alice", 3);
    rig.shard.handle_rewritten(rig.now, PROD, b"alice", 3);
    rig.drain();
    assert_eq!(rig.request("alice"), Got::Wait);
    rig.land(3);
    assert!(matches!(rig.request("alice"), Got::Fresh(_)));
    // A load that began before returns the previous state.
    rig.shard.handle_rewritten(rig.now, PROD, b"alice", 3);
    rig.drain();
    assert_eq!(rig.request("alice"), Got::Wait);
    rig.shard.handle_rewritten(rig.now, PROD, b"alice", 3);
    rig.land(3);
    assert_eq!(rig.request("alice"), Got::Wait, "that load is discarded");
    rig.land(3);
    assert!(matches!(rig.request("alice"), Got::Fresh(_)));
}

#[test]
fn deleted_key_is_no_longer_revoked() {
    let mut rig = Rig::leased();
    rig.load("alice", 3);
    rig.revoked("alice");
    rig.shard.handle_deleted(rig.now, PROD, b"alice");
    rig.drain();
    assert_eq!(rig.request("alice"), Got::Wait);
    rig.fail(LoadError::NotFound);
    rig.stored("alice", 4);
    assert_eq!(rig.request("alice"), Got::Wait);
    rig.land(4);
    assert!(matches!(rig.request("alice"), Got::Fresh(_)));
}
