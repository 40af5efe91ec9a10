//! Writes that need the DEK: they request it through the core, once for all, and are resumed when it is available.

use crate::rig::*;
use keyway_core::{DekVerdict, LeaseEvent, Limits, Refusal};

const UNAVAILABLE: LeaseEvent = LeaseEvent::Unavailable { retry_after_us: 0 };

#[test]
fn write_continues_immediately_under_a_live_lease() {
    let mut rig = Rig::leased();
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Ready);
    assert_eq!((rig.unwraps, rig.counters().dek_waiters), (0, 0));
}

#[test]
fn writes_and_requests_share_one_unwrap_and_all_are_resumed() {
    let mut rig = Rig::new();
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Wait);
    assert_eq!(rig.want_dek(2, 0, None), DekVerdict::Wait);
    assert_eq!(rig.request("key"), Got::Wait);
    assert_eq!((rig.unwraps, rig.counters().dek_waiters), (1, 2));
    rig.grant();
    assert_eq!((rig.end_of(1), rig.end_of(2)), (Ended::Dek, Ended::Dek));
    assert_eq!((rig.counters().dek_waiters, rig.loads.len()), (0, 1));
}

#[test]
fn write_waits_through_an_outage_and_retries_after_the_backoff() {
    let mut rig = Rig::new();
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Wait);
    rig.lease(UNAVAILABLE);
    assert!(rig.is_waiting(1), "an outage is not the end");
    rig.pass(S);
    assert_eq!(rig.unwraps, 2, "requested again, without another request");
    rig.grant();
    assert_eq!(rig.end_of(1), Ended::Dek);
}

#[test]
fn write_during_a_backoff_waits_for_the_next_request() {
    let mut rig = Rig::new();
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Wait);
    rig.lease(UNAVAILABLE);
    assert_eq!(rig.want_dek(2, 1, None), DekVerdict::Wait);
    assert_eq!(rig.unwraps, 1, "the backoff applies to writes as well");
    rig.pass(S);
    assert_eq!(rig.unwraps, 2);
    rig.grant();
    assert_eq!((rig.end_of(1), rig.end_of(2)), (Ended::Dek, Ended::Dek));
}

#[test]
fn write_waits_no_longer_than_its_limit_and_its_deadline() {
    let mut rig = Rig::new();
    let deadline = rig.now.plus_us(500 * MS);
    assert_eq!(rig.want_dek(1, 1, Some(deadline)), DekVerdict::Wait);
    assert_eq!(rig.want_dek(2, 1, None), DekVerdict::Wait);
    rig.pass(501 * MS);
    assert_eq!(rig.end_of(1), Ended::Refused(Refusal::DeadlineExceeded));
    assert!(rig.is_waiting(2));
    rig.pass(2_500 * MS);
    let end = rig.end_of(2);
    assert!(
        matches!(end, Ended::Refused(Refusal::Unavailable { after_us: 1.. })),
        "{end:?}"
    );
    assert_eq!(rig.counters().dek_waiters, 0);
    let late = rig.want_dek(3, 1, Some(rig.now));
    assert_eq!(late, DekVerdict::Refuse(Refusal::DeadlineExceeded));
}

#[test]
fn lock_and_denial_end_the_wait_immediately() {
    let mut rig = Rig::new();
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Wait);
    rig.lock();
    let told = |end| matches!(end, Ended::Refused(Refusal::NeedsUnlock { ticket: 1.. }));
    assert!(told(rig.end_of(1)));
    let locked = rig.want_dek(2, 1, None);
    assert!(matches!(
        locked,
        DekVerdict::Refuse(Refusal::NeedsUnlock { ticket: 1.. })
    ));
    rig.unlock();
    assert_eq!(rig.want_dek(3, 1, None), DekVerdict::Wait);
    rig.lease(LeaseEvent::Denied);
    assert!(rig.is_waiting(3), "the first refusal is confirmed");
    rig.pass(1_001 * MS);
    rig.lease(LeaseEvent::Denied);
    assert!(told(rig.end_of(3)));
}

#[test]
fn write_that_needs_a_newer_generation_renews_the_live_lease() {
    let mut rig = Rig::leased();
    assert_eq!(rig.want_dek(1, 2, None), DekVerdict::Wait);
    assert_eq!(rig.unwraps, 1);
    rig.grant();
    assert!(rig.is_waiting(1), "generation 1 is available, and too old");
    rig.pass(500 * MS);
    assert_eq!(rig.unwraps, 1, "not requested again immediately");
    rig.pass(600 * MS);
    assert_eq!(rig.unwraps, 2, "requested again a second later");
    rig.grant_generation(2);
    assert_eq!(rig.end_of(1), Ended::Dek);
    assert_eq!(rig.want_dek(2, 2, None), DekVerdict::Ready);
}

/// A raised floor applies to all: a write that requires less would otherwise be sealed under an older DEK.
#[test]
fn highest_requested_generation_applies_to_all() {
    let mut rig = Rig::leased();
    assert_eq!(rig.want_dek(1, 2, None), DekVerdict::Wait);
    assert_eq!(rig.want_dek(2, 1, None), DekVerdict::Wait);
    rig.grant_generation(2);
    assert_eq!((rig.end_of(1), rig.end_of(2)), (Ended::Dek, Ended::Dek));
}

#[test]
fn lease_that_ends_before_the_write_resumes_is_requested_again() {
    let mut rig = Rig::new();
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Wait);
    let sent_at = rig.now;
    let granted = LeaseEvent::Granted {
        sent_at,
        generation: 1,
    };
    rig.sleep(100 * S - 1);
    rig.shard.handle_lease(rig.now, PROD, granted);
    // The write has timed out, and its timer has not fired.
    rig.sleep(2);
    rig.drain();
    assert!(rig.is_waiting(1));
    rig.tick();
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Unavailable { .. })
    ));
}

#[test]
fn cancelled_write_is_discarded_and_the_request_continues() {
    let mut rig = Rig::new();
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Wait);
    rig.gone(1);
    assert_eq!(
        (rig.counters().dek_waiters, rig.shard.totals().waiters),
        (0, 0)
    );
    rig.grant();
    assert!(rig.is_waiting(1) && rig.unwraps == 1);
}

#[test]
fn waiting_writes_count_among_the_waiters_of_the_shard() {
    let limits = Limits {
        waiters_max: 1,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Wait);
    let full = rig.want_dek(2, 1, None);
    assert!(matches!(
        full,
        DekVerdict::Refuse(Refusal::Overloaded { after_us: 1.. })
    ));
}

/// Resuming one write at a time must keep the cost of an input independent of the number of waiting writes.
#[test]
fn writes_are_resumed_one_at_a_time() {
    let mut rig = Rig::new();
    for token in 0..100 {
        assert_eq!(rig.want_dek(token, 1, None), DekVerdict::Wait);
    }
    let sent_at = rig.now;
    let generation = 1;
    rig.shard.handle_lease(
        rig.now,
        PROD,
        LeaseEvent::Granted {
            sent_at,
            generation,
        },
    );
    assert_eq!(rig.counters().dek_waiters, 100, "none is returned yet");
    for left in (0..100).rev() {
        assert!(rig.take_ready());
        assert_eq!(rig.counters().dek_waiters, left);
    }
    let tokens: Vec<u64> = rig.ended.iter().map(|(token, _)| *token).collect();
    assert!(tokens.is_sorted(), "first come, first served: {tokens:?}");
}

/// A keyspace that is only written to keeps its lease: a write is a use.
#[test]
fn write_under_a_live_lease_counts_as_use() {
    let mut rig = Rig::leased();
    rig.pass(10 * S);
    assert_eq!(rig.want_dek(1, 1, None), DekVerdict::Ready);
    rig.pass(45 * S);
    assert_eq!(rig.unwraps, 1, "renewed after half of the lease");
}
