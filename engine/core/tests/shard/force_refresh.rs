//! ForceRefresh: a load that began after the call.

use crate::rig::*;
use keyway_core::{Admission, KeyspaceId, LeaseEvent, Limits, LoadError, Refusal, Token};

#[test]
fn fresh_key_is_reloaded_while_it_is_served() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.force(1, "a");
    assert_eq!(
        rig.request("a"),
        Got::Fresh(1),
        "the old value serves meanwhile"
    );
    rig.land(2);
    assert_eq!(rig.end_of(1), Ended::Refreshed(2));
    assert_eq!(rig.request("a"), Got::Fresh(2));
}

#[test]
fn absent_key_is_loaded() {
    let mut rig = Rig::leased();
    rig.force(1, "a");
    rig.land(1);
    assert_eq!(rig.end_of(1), Ended::Refreshed(1));
}

#[test]
fn it_does_not_join_a_load_that_began_before_it() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    let older = rig.take_load();
    rig.force(2, "a");
    assert!(
        rig.loads.is_empty(),
        "one flight per key: the next load waits its turn"
    );
    rig.sleep(MS);
    let loaded = rig.loaded(1);
    rig.answer(&older, Ok(loaded));
    assert_eq!(
        rig.end_of(1),
        Ended::Fresh(1),
        "the waiter of the older load is served by it"
    );
    assert!(rig.is_waiting(2));
    assert_eq!(rig.request("a"), Got::Fresh(1));
    let began = rig.now;
    rig.sleep(MS);
    rig.land(2);
    assert_eq!(rig.end_of(2), Ended::Refreshed(2));
    assert_eq!(
        rig.view("a").loaded_at,
        Some(began),
        "nothing older is served"
    );
    let loaded = rig.loaded(3);
    rig.answer(&older, Ok(loaded));
    assert_eq!(rig.view("a").version, 2);
}

#[test]
fn many_of_them_share_the_next_load() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    for token in 2..50 {
        rig.force(token, "a");
    }
    rig.land(1);
    assert_eq!(rig.loads.len(), 1);
    rig.land(1);
    assert!((2..50).all(|token| rig.end_of(token) == Ended::Refreshed(1)));
    assert_eq!(rig.counters().rehydrate_total, 2);
}

/// A hundred force-refreshes in one write cost two loads: the first started one, and the others waited for the next,
/// although the first had not begun to read.
#[test]
fn load_that_has_not_begun_is_joined_by_later_refreshes() {
    let mut rig = Rig::leased();
    rig.queues_loads = true;
    for token in 0..100 {
        rig.force(token, "a");
    }
    let first = rig.take_load();
    assert!(rig.loads.is_empty(), "one load for all of them");
    assert!(rig.shard.begin_load(rig.now, first.flight));
    rig.force(100, "a");
    let loaded = rig.loaded(1);
    rig.answer(&first, Ok(loaded));
    for token in 0..100 {
        assert_eq!(rig.end_of(token), Ended::Refreshed(1));
    }
    assert!(rig.is_waiting(100), "it came after the load had begun");
    let next = rig.take_load();
    assert!(rig.shard.begin_load(rig.now, next.flight));
    let loaded = rig.loaded(1);
    rig.answer(&next, Ok(loaded));
    assert_eq!(rig.end_of(100), Ended::Refreshed(1));
    assert!(rig.loads.is_empty());
}

#[test]
fn load_that_waits_for_the_dek_is_joined() {
    let mut rig = Rig::new();
    rig.request_by(1, "a", None);
    rig.force(2, "a");
    rig.grant();
    assert_eq!(rig.loads.len(), 1);
    rig.land(1);
    assert_eq!(
        (rig.end_of(1), rig.end_of(2)),
        (Ended::Fresh(1), Ended::Refreshed(1))
    );
}

#[test]
fn next_load_starts_if_the_older_one_fails_or_hangs() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.force(2, "a");
    rig.fail(LoadError::Store);
    assert_eq!(rig.loads.len(), 1);
    rig.force(3, "a");
    let hung = rig.take_load();
    rig.jump(3 * S);
    assert!(matches!(
        rig.end_of(2),
        Ended::Refused(Refusal::Retry { .. })
    ));
    assert!(rig.is_waiting(3));
    rig.land(1);
    assert_eq!(rig.end_of(3), Ended::Refreshed(1));
    let loaded = rig.loaded(9);
    rig.answer(&hung, Ok(loaded));
    assert_eq!(rig.view("a").version, 1);
}

#[test]
fn failure_is_reported_and_the_old_value_is_still_served() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.force(1, "a");
    rig.fail(LoadError::Store);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Retry { .. })
    ));
    assert_eq!(rig.request("a"), Got::Fresh(1));
    assert_eq!(
        rig.try_force(2, "a"),
        Admission::Waiting,
        "a backoff does not delay an operator"
    );
}

#[test]
fn missing_or_invalid_key_is_looked_up_again() {
    let mut rig = Rig::leased();
    rig.request("a");
    rig.fail(LoadError::NotFound);
    rig.force(1, "a");
    assert_eq!(rig.request("a"), Got::Refused(Refusal::NotFound));
    rig.land(1);
    assert_eq!(rig.end_of(1), Ended::Refreshed(1));
    rig.request("b");
    rig.fail(LoadError::Corrupt);
    rig.fail(LoadError::Corrupt);
    rig.force(2, "b");
    rig.fail(LoadError::Corrupt);
    assert_eq!(rig.end_of(2), Ended::Refused(Refusal::Invalid));
    rig.force(3, "b");
    rig.land(1);
    assert_eq!(rig.end_of(3), Ended::Refreshed(1));
}

#[test]
fn it_is_refused_if_no_load_can_help() {
    let mut rig = Rig::leased();
    rig.revoked("r");
    assert_eq!(rig.try_force(1, "r"), Admission::Refused(Refusal::Revoked));
    let now = rig.now;
    let unknown = rig
        .shard
        .handle_force_refresh(now, Token(1), KeyspaceId(9), b"a", None);
    assert_eq!(unknown, Admission::Refused(Refusal::NoKeyspace));
    assert_eq!(rig.shard.totals().no_keyspace_total, 1);
    let late = rig
        .shard
        .handle_force_refresh(now, Token(1), PROD, b"a", Some(now));
    assert_eq!(late, Admission::Refused(Refusal::DeadlineExceeded));
    rig.lock();
    assert!(matches!(
        rig.try_force(1, "a"),
        Admission::Refused(Refusal::NeedsUnlock { .. })
    ));
    assert!(rig.loads.is_empty());
    assert_eq!(rig.counters().force_refused_total, 3);
}

#[test]
fn it_waits_for_the_dek_unless_the_kms_is_in_backoff() {
    let mut rig = Rig::new();
    rig.force(1, "a");
    assert_eq!(rig.unwraps, 1);
    rig.lease(LeaseEvent::Unavailable { retry_after_us: 0 });
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Unavailable { .. })
    ));
    assert!(matches!(
        rig.try_force(2, "a"),
        Admission::Refused(Refusal::NeedsUnlock { .. })
    ));
}

#[test]
fn its_own_deadline_and_its_longest_wait_end_it() {
    let mut rig = Rig::leased();
    let deadline = Some(rig.now.plus_us(5 * MS));
    let (now, token) = (rig.now, Token(1));
    let _ = rig
        .shard
        .handle_force_refresh(now, token, PROD, b"a", deadline);
    rig.pass(5 * MS);
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::DeadlineExceeded));
    rig.force(2, "a");
    for version in 1..50 {
        rig.sleep(S);
        rig.stored("a", version);
        rig.tick();
        if rig.is_waiting(2) {
            rig.land(version);
        }
    }
    assert!(
        matches!(rig.end_of(2), Ended::Refused(Refusal::Retry { .. })),
        "superseded indefinitely"
    );
}

#[test]
fn one_that_leaves_does_not_take_the_next_load_with_it() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.force(2, "a");
    rig.force(3, "a");
    rig.gone(2);
    rig.land(1);
    rig.land(1);
    assert_eq!(rig.end_of(3), Ended::Refreshed(1));
    assert!(rig.is_waiting(2));
    assert_eq!(rig.counters().force_abandoned_total, 1);
}

#[test]
fn it_waits_within_the_limits() {
    let limits = Limits {
        waiters_max: 1,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    rig.force(1, "a");
    assert!(matches!(
        rig.try_force(2, "a"),
        Admission::Refused(Refusal::Overloaded { .. })
    ));
}

#[test]
fn without_a_free_flight_it_is_overloaded() {
    let limits = Limits {
        flights_max: 1,
        on_demand_reserve: 0,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    rig.force(1, "a");
    assert!(matches!(
        rig.try_force(2, "b"),
        Admission::Refused(Refusal::Overloaded { .. })
    ));
    rig.force(3, "a");
}
