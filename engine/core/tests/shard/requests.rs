//! What a request gets, and how long it waits for it.

use crate::rig::*;
use keyway_core::{
    Action, Event, KeyspaceId, Lifecycle, Limits, LoadError, OnSoftExpiry, Outcome, Refusal,
    Request, Settings, TICK_US, Token, Urgency, Verdict,
};

const BUDGET: u64 = 3 * MS;

#[test]
fn fresh_key_is_served_immediately_with_its_age() {
    let mut rig = Rig::leased();
    rig.load("a", 7);
    rig.sleep(5 * S);
    let request = Request {
        token: Token(1),
        keyspace: PROD,
        key_id: b"a",
        deadline: None,
    };
    let Verdict::Serve(grant) = rig.shard.handle_request(rig.now, request) else {
        panic!("not served")
    };
    assert_eq!(
        (grant.version, grant.stale, grant.age_us),
        (7, false, 5 * S)
    );
    assert_eq!(grant.expires_at, rig.now.plus_us(55 * S));
    assert!(
        rig.shard.poll_action().is_none(),
        "a hit has no consequences"
    );
}

#[test]
fn age_counts_from_when_the_load_began() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.sleep(2 * MS);
    rig.land(1);
    let began = rig.now.minus_us(2 * MS);
    assert_eq!(rig.view("a").loaded_at, Some(began));
    assert_eq!(rig.view("a").expires_at, Some(began.plus_us(60 * S)));
}

#[test]
fn nothing_is_served_at_or_after_effective_hard() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.set(|settings| settings.on_soft_expiry = OnSoftExpiry::ServeStale);
    rig.sleep(60 * S - 1);
    assert_eq!(rig.request("a"), Got::Stale(1));
    rig.sleep(1);
    assert_eq!(rig.request("a"), Got::Wait);
    assert_eq!(rig.alive.get(), 0, "found expired, and dropped");
}

#[test]
fn key_does_not_outlive_the_lease_or_its_not_after() {
    let mut rig = Rig::leased_with(Settings {
        hard_ttl_ms: 500_000,
        ..settings()
    });
    rig.sleep(50 * S);
    rig.load("a", 1);
    assert_eq!(
        rig.view("a").expires_at,
        Some(rig.now.plus_us(50 * S)),
        "the lease"
    );
    rig.request_by(1, "b", None);
    let load = rig.take_load();
    let mut loaded = rig.loaded(1);
    loaded.not_after = Some(rig.now.plus_us(7 * S));
    rig.answer(&load, Ok(loaded));
    rig.sleep(7 * S - 1);
    assert_eq!(rig.request("b"), Got::Fresh(1));
    rig.sleep(1);
    assert_eq!(rig.request("b"), Got::Wait);
}

#[test]
fn request_waits_for_an_absent_key_and_is_served_when_it_is_loaded() {
    let mut rig = Rig::leased();
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    assert_eq!(rig.loads[0].urgency, Urgency::OnDemand);
    rig.sleep(MS);
    rig.land(3);
    assert_eq!(rig.end_of(1), Ended::Fresh(3));
    assert_eq!(rig.counters().ready_fresh_total, 1);
}

#[test]
fn absent_key_that_is_not_loaded_in_time_means_retry() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.pass(BUDGET - MS);
    assert!(rig.is_waiting(1));
    rig.pass(2 * MS);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Retry { after_us: 1.. })
    ));
    assert_eq!(rig.counters().singleflight_wait_timeout_total, 1);
    assert_eq!(rig.lifecycle("a"), Lifecycle::Loading);
    rig.land(1);
    assert_eq!(rig.request("a"), Got::Fresh(1));
}

#[test]
fn retry_hint_is_the_load_duration_and_at_least_a_tick() {
    let mut rig = Rig::leased();
    let hint_of = |rig: &mut Rig, token, key| {
        rig.request_by(token, key, None);
        rig.jump(4 * MS);
        match rig.end_of(token) {
            Ended::Refused(Refusal::Retry { after_us }) => after_us,
            ended => panic!("not RETRY: {ended:?}"),
        }
    };
    assert_eq!(
        hint_of(&mut rig, 1, "a"),
        TICK_US,
        "no duration is known yet"
    );
    rig.sleep(36 * MS);
    rig.land(1);
    assert_eq!(hint_of(&mut rig, 2, "b"), 40 * MS);
}

#[test]
fn no_wait_outlasts_its_budget_by_more_than_a_tick() {
    for offset in [0, 1, 499, 500, 999] {
        let mut rig = Rig::leased();
        rig.sleep(offset);
        rig.request_by(1, "a", None);
        let asked = rig.now;
        rig.now = asked.minus_us(offset);
        while rig.is_waiting(1) {
            rig.pass(MS);
        }
        let waited = rig.now.saturating_since(asked);
        assert!(
            (BUDGET..=BUDGET + MS).contains(&waited),
            "waited {waited} us"
        );
    }
}

#[test]
fn request_waits_for_a_refresh_and_then_gets_the_stale_key() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.sleep(10 * S);
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    assert_eq!(rig.request_by(2, "a", None), Got::Wait);
    assert_eq!(rig.loads.len(), 1);
    rig.pass(BUDGET + MS);
    assert_eq!(rig.end_of(1), Ended::Stale(1));
    assert_eq!(rig.end_of(2), Ended::Stale(1));
    assert_eq!(rig.counters().singleflight_wait_timeout_total, 2);
    assert_eq!(rig.counters().ready_stale_total, 2);
    let reports: Vec<_> = rig
        .events
        .iter()
        .filter(|event| matches!(event, Event::WaitTimeout { .. }))
        .collect();
    assert_eq!(reports.len(), 1, "once for each flight");
    assert!(matches!(
        reports[0],
        Event::WaitTimeout {
            keyspace: PROD,
            waiters: 2,
            ..
        }
    ));
}

#[test]
fn stale_key_refreshed_in_time_is_served_fresh() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.sleep(10 * S);
    rig.request_by(1, "a", None);
    rig.sleep(MS);
    rig.land(2);
    assert_eq!(rig.end_of(1), Ended::Fresh(2));
    assert_eq!(rig.counters().singleflight_wait_timeout_total, 0);
}

#[test]
fn no_request_waits_with_serve_stale() {
    let mut rig = Rig::leased_with(Settings {
        on_soft_expiry: OnSoftExpiry::ServeStale,
        ..settings()
    });
    rig.load("a", 1);
    rig.sleep(10 * S);
    for _ in 0..5 {
        assert_eq!(rig.request("a"), Got::Stale(1));
    }
    assert_eq!(rig.loads.len(), 1);
    rig.land(2);
    assert_eq!(rig.request("a"), Got::Fresh(2));
}

#[test]
fn zero_wait_budget_serves_stale_immediately_or_returns_retry() {
    let mut rig = Rig::leased_with(Settings {
        sign_wait_budget_us: 0,
        ..settings()
    });
    assert!(is_retry(rig.request("a")));
    rig.land(1);
    rig.sleep(10 * S);
    assert_eq!(rig.request("a"), Got::Stale(1));
    assert_eq!(rig.loads.len(), 1);
}

#[test]
fn passed_deadline_starts_nothing() {
    let mut rig = Rig::leased();
    assert_eq!(
        rig.request_by(1, "a", Some(rig.now)),
        Got::Refused(Refusal::DeadlineExceeded)
    );
    assert!(rig.loads.is_empty());
    rig.load("a", 1);
    assert_eq!(
        rig.request_by(2, "a", Some(rig.now)),
        Got::Refused(Refusal::DeadlineExceeded)
    );
    assert_eq!(rig.counters().refused.deadline_exceeded, 2);
    assert_eq!(rig.counters().hits_total, 0);
}

#[test]
fn deadline_before_the_budget_ends_the_wait() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", Some(rig.now.plus_us(2 * MS)));
    rig.pass(MS);
    assert!(rig.is_waiting(1));
    rig.pass(MS);
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::DeadlineExceeded));
    assert_eq!(
        rig.counters().singleflight_wait_timeout_total,
        0,
        "the budget was not exhausted"
    );
}

#[test]
fn short_deadline_is_met_with_a_stale_key() {
    let mut rig = Rig::leased_with(Settings {
        sign_wait_budget_us: 50_000,
        ..settings()
    });
    rig.load("a", 1);
    rig.sleep(10 * S);
    assert_eq!(
        rig.request_by(1, "a", Some(rig.now.plus_us(2 * MS))),
        Got::Stale(1),
        "too short to wait"
    );
    assert_eq!(
        rig.request_by(2, "a", Some(rig.now.plus_us(6 * MS))),
        Got::Wait
    );
    rig.pass(5 * MS);
    assert_eq!(rig.end_of(2), Ended::Stale(1));
    assert_eq!(rig.counters().singleflight_wait_timeout_total, 0);
}

#[test]
fn result_after_the_deadline_is_not_returned() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", Some(rig.now.plus_us(500)));
    rig.sleep(600);
    rig.land(1);
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::DeadlineExceeded));
}

#[test]
fn cancelled_waiter_does_not_affect_others() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.request_by(2, "a", None);
    rig.gone(1);
    rig.gone(1);
    rig.gone(99);
    assert_eq!(rig.counters().singleflight_waiters, 1);
    rig.gone(2);
    assert_eq!(rig.lifecycle("a"), Lifecycle::Loading, "the flight goes on");
    rig.land(1);
    assert!(rig.ended.is_empty());
    assert_eq!(rig.counters().abandoned_total, 2);
    assert_eq!(rig.request("a"), Got::Fresh(1));
}

#[test]
fn failed_load_reaches_every_waiter_and_the_next_backs_off() {
    for error in [LoadError::Store, LoadError::TimedOut, LoadError::Panicked] {
        let mut rig = Rig::leased();
        for token in 1..=3 {
            rig.request_by(token, "a", None);
        }
        rig.fail(error);
        for token in 1..=3 {
            assert!(matches!(
                rig.end_of(token),
                Ended::Refused(Refusal::Retry { .. })
            ));
        }
        assert_eq!(rig.counters().rehydrate_fail_total, 1);
        let Got::Refused(Refusal::Retry { after_us }) = rig.request("a") else {
            panic!("in backoff")
        };
        assert!((1..=10 * S).contains(&after_us));
        assert!(rig.loads.is_empty());
        rig.sleep(after_us);
        rig.load("a", 1);
        assert!(!rig.view("a").backing_off);
    }
}

#[test]
fn failed_refresh_keeps_the_key_and_no_request_waits_in_backoff() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.sleep(10 * S);
    rig.request_by(1, "a", None);
    rig.fail(LoadError::Store);
    assert_eq!(rig.end_of(1), Ended::Stale(1));
    assert_eq!(rig.request("a"), Got::Stale(1));
    assert!(rig.loads.is_empty());
    rig.sleep(50 * S);
    assert_eq!(rig.request("a"), Got::Wait, "past hard, past backoff");
}

#[test]
fn backoff_grows_with_consecutive_failures_and_is_reset() {
    let mut rig = Rig::leased();
    let mut longest = 0;
    for _ in 0..20 {
        assert_eq!(rig.request("a"), Got::Wait);
        rig.fail(LoadError::Store);
        let Got::Refused(Refusal::Retry { after_us }) = rig.request("a") else {
            panic!("in backoff")
        };
        assert!((50 * MS..=10 * S).contains(&after_us));
        longest = longest.max(after_us);
        rig.sleep(after_us);
    }
    assert!(longest > 5 * S);
    rig.jump(25 * S);
    assert_eq!(rig.shard.totals().entries, 0);
}

#[test]
fn unknown_keyspace_is_refused_and_counted() {
    let mut rig = Rig::leased();
    let request = Request {
        token: Token(1),
        keyspace: KeyspaceId(9),
        key_id: b"a",
        deadline: None,
    };
    let verdict = rig.shard.handle_request(rig.now, request);
    assert!(matches!(verdict, Verdict::Refuse(Refusal::NoKeyspace)));
    assert_eq!(rig.shard.totals().no_keyspace_total, 1);
}

#[test]
fn same_key_id_in_two_keyspaces_is_two_keys() {
    let mut rig = Rig::leased();
    rig.shard
        .handle_keyspace(rig.now, OTHER, settings())
        .unwrap();
    rig.load("a", 1);
    let request = Request {
        token: Token(1),
        keyspace: OTHER,
        key_id: b"a",
        deadline: None,
    };
    assert!(matches!(
        rig.shard.handle_request(rig.now, request),
        Verdict::Wait
    ));
    rig.drain();
    assert_eq!(rig.unwraps, 1, "the other keyspace has no DEK yet");
}

#[test]
fn too_many_waiters_or_flights_are_overloaded() {
    let limits = Limits {
        waiters_max: 2,
        flights_max: 2,
        on_demand_reserve: 0,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    assert_eq!(rig.request_by(2, "a", None), Got::Wait);
    let overloaded = |got| matches!(got, Got::Refused(Refusal::Overloaded { after_us: 1.. }));
    assert!(overloaded(rig.request("a")));
    rig.gone(1);
    assert_eq!(rig.request_by(3, "b", None), Got::Wait);
    rig.gone(2);
    assert!(overloaded(rig.request("c")), "no third flight");
    rig.land(1);
    assert_eq!(rig.request("c"), Got::Wait);
}

#[test]
fn stale_key_is_served_if_no_waiter_can_be_added() {
    let limits = Limits {
        waiters_max: 1,
        flights_max: 1,
        on_demand_reserve: 0,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    rig.load("a", 1);
    rig.load("b", 1);
    rig.sleep(10 * S);
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    assert_eq!(rig.request("a"), Got::Stale(1));
    rig.gone(1);
    assert_eq!(rig.request("b"), Got::Stale(1), "no flight to wait for");
}

#[test]
fn waiters_are_checked_when_they_are_returned_not_when_the_load_ends() {
    let mut rig = Rig::leased();
    let deadline = Some(rig.now.plus_us(2 * MS));
    rig.request_by(1, "a", None);
    rig.request_by(2, "a", deadline);
    for token in 3..7 {
        rig.request_by(token, "a", None);
    }
    rig.land_without_drain(1);
    let landed_at = rig.now;
    let hard = landed_at.plus_us(60 * S);
    let (served_at, shard) = (landed_at.plus_us(5 * S), &mut rig.shard);
    match shard.poll_ready(served_at) {
        Some((Token(1), Outcome::Serve(grant))) => assert_eq!(grant.age_us, 5 * S),
        other => panic!("{other:?}"),
    }
    rig.now = served_at;
    assert!(rig.take_ready());
    assert_eq!(rig.end_of(2), Ended::Refused(Refusal::DeadlineExceeded));
    rig.now = hard.minus_us(1);
    assert!(rig.take_ready());
    assert_eq!(rig.end_of(3), Ended::Stale(1));
    rig.now = hard;
    assert!(rig.take_ready());
    assert!(matches!(
        rig.end_of(4),
        Ended::Refused(Refusal::Retry { .. })
    ));
    rig.shard.handle_revoked(rig.now, PROD, b"a");
    assert!(rig.take_ready());
    assert_eq!(rig.end_of(5), Ended::Refused(Refusal::Revoked));
    rig.gone(6);
    assert!(!rig.shard.has_ready() && rig.shard.totals().waiters == 0);
    assert!(rig.counters().is_balanced());
}

#[test]
fn lock_reaches_waiters_whose_key_has_been_loaded() {
    let mut rig = Rig::leased();
    rig.request_by(1, "a", None);
    rig.request_by(2, "a", None);
    rig.land_without_drain(1);
    assert!(rig.take_ready());
    assert_eq!(rig.end_of(1), Ended::Fresh(1));
    rig.shard.handle_lock(rig.now, PROD);
    assert!(rig.take_ready());
    let locked = rig.end_of(2);
    assert!(matches!(
        locked,
        Ended::Refused(Refusal::NeedsUnlock { .. })
    ));
}

#[test]
fn waiter_gets_the_state_of_the_key_after_its_load() {
    for (error, refusal) in [
        (LoadError::NotFound, Refusal::NotFound),
        (LoadError::Corrupt, Refusal::Invalid),
    ] {
        let mut rig = Rig::leased();
        rig.request_by(1, "a", None);
        rig.force(2, "a");
        rig.land_without_drain(1);
        let mut next = None;
        while let Some(action) = rig.shard.poll_action() {
            if let Action::Load { flight, .. } = action {
                next = Some(flight);
            }
        }
        let next = next.expect("the force-refresh needs a load of its own");
        assert!(rig.shard.begin_load(rig.now, next));
        rig.shard.handle_loaded(rig.now, next, Err(error));
        assert!(rig.take_ready());
        assert_eq!(rig.end_of(1), Ended::Refused(refusal));
    }
}

#[test]
fn tick_ends_a_bounded_number_of_waits() {
    let limits = Limits {
        timers_per_tick_max: 10,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    for token in 0..25 {
        rig.request_by(token, "a", None);
    }
    rig.sleep(3 * MS);
    for timed_out in [10, 20, 25, 25] {
        rig.tick();
        assert_eq!(rig.ended.len(), timed_out);
        let counted = rig.counters().singleflight_wait_timeout_total;
        assert_eq!(counted, timed_out as u64);
    }
}

#[test]
fn end_of_a_lease_is_handled_before_ends_of_waits() {
    let limits = Limits {
        timers_per_tick_max: 1,
        ..Limits::default()
    };
    let settings = Settings {
        sign_wait_budget_us: 1_000_000,
        ..settings()
    };
    let mut rig = Rig::with(limits, settings);
    rig.grant();
    rig.load("a", 1);
    rig.jump(99 * S);
    for token in 0..3 {
        rig.request_by(token, "b", None);
    }
    rig.sleep(S);
    rig.tick();
    let ended = |event: &Event| matches!(event, Event::LeaseEnded { .. });
    assert!(rig.events.iter().any(ended), "{:?}", rig.events);
}

#[test]
fn oldest_served_age_is_the_maximum_since_it_was_taken() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.sleep(3 * S);
    rig.request("a");
    rig.load("b", 1);
    rig.request("b");
    assert_eq!(rig.shard.take_oldest_served_age(PROD), Some(3 * S));
    assert_eq!(rig.shard.take_oldest_served_age(PROD), Some(0));
}

#[test]
fn view_shows_use_since_the_load_and_whether_the_keyspace_is_open() {
    let mut rig = Rig::leased();
    rig.load("key", 1);
    // Serving it to the request that waited is a use.
    assert!(rig.view("key").used && !rig.view("key").needs_unlock);
    rig.force(1, "key");
    rig.land(2);
    assert!(!rig.view("key").used, "a load begins again");
    // References of the CLOCK are not uses.
    rig.request("key");
    rig.force(2, "key");
    rig.land(3);
    assert!(!rig.view("key").used);
    rig.request("key");
    assert!(rig.view("key").used);
    rig.lock();
    assert!(rig.view("key").needs_unlock);
}
