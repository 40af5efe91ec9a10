//! Refreshes ahead of need.

use crate::rig::*;
use keyway_core::{KeyspaceId, Limits, LoadError, SCAN_PERIOD_US, SCANNED_MAX, Settings, Urgency};

/// Start of the refresh window with a soft TTL of 10 s; the last 5 % begin at 9.5 s.
const WINDOW_AT: u64 = 8 * S;
const LOW_WATER_AT: u64 = 9_500 * MS;

fn used(keys: &[&str], settings: Settings) -> Rig {
    let mut rig = Rig::leased_with(settings);
    for key in keys {
        rig.load(key, 1);
        rig.request(key);
    }
    rig
}

#[test]
fn used_key_is_refreshed_inside_the_window_and_never_goes_stale() {
    let mut rig = used(&["a"], settings());
    rig.pass(WINDOW_AT - 10 * MS);
    assert!(rig.loads.is_empty());
    rig.pass(20 * MS);
    assert_eq!(rig.loads[0].urgency, Urgency::Ahead);
    assert_eq!(rig.counters().prefetch_trigger_total, 1);
    rig.land(2);
    rig.sleep(5 * S);
    assert_eq!(rig.request("a"), Got::Fresh(2));
}

#[test]
fn unused_key_expires_and_its_plaintext_is_dropped() {
    let mut rig = Rig::leased();
    rig.force(1, "a");
    rig.land(1);
    rig.pass(60 * S - MS);
    assert!(rig.loads.is_empty());
    assert_eq!(rig.alive.get(), 1);
    rig.pass(MS);
    assert_eq!(rig.alive.get(), 0);
    assert_eq!(rig.counters().expired_total, 1);
    assert_eq!(rig.shard.totals().entries, 0);
}

#[test]
fn used_means_used_since_the_last_refresh() {
    let mut rig = used(&["a"], settings());
    rig.pass(WINDOW_AT + 10 * MS);
    rig.land(2);
    rig.pass(30 * S);
    assert!(rig.loads.is_empty());
}

#[test]
fn key_that_comes_into_use_inside_the_window_is_refreshed() {
    let mut rig = Rig::leased();
    rig.force(1, "a");
    rig.land(1);
    rig.pass(9 * S);
    assert!(rig.loads.is_empty());
    rig.request("a");
    rig.pass(S - MS);
    assert_eq!(rig.loads.len(), 1);
}

#[test]
fn unused_key_inside_the_window_is_checked_every_eighth_of_it() {
    let mut rig = Rig::leased();
    rig.force(1, "a");
    rig.land(1);
    rig.pass(WINDOW_AT + 10 * MS);
    rig.request("a");
    rig.pass(230 * MS);
    assert!(rig.loads.is_empty(), "an eighth of 2 s is 250 ms");
    rig.pass(30 * MS);
    assert_eq!(rig.loads.len(), 1);
}

#[test]
fn urgent_keys_go_first() {
    let mut rig = used(
        &["late"],
        Settings {
            max_in_flight: 0,
            ..settings()
        },
    );
    rig.pass(S);
    rig.load("later", 1);
    rig.request("later");
    rig.pass(LOW_WATER_AT - S);
    rig.set(|settings| settings.max_in_flight = 1);
    rig.pass(10 * MS);
    assert_eq!(rig.loads.len(), 1);
    assert_eq!(
        (rig.loads[0].key.as_str(), rig.loads[0].urgency),
        ("late", Urgency::Urgent)
    );
    rig.land(2);
    rig.pass(10 * MS);
    assert_eq!(
        (rig.loads[0].key.as_str(), rig.loads[0].urgency),
        ("later", Urgency::Ahead)
    );
}

#[test]
fn keys_beyond_max_in_flight_are_skipped_and_retried() {
    let mut rig = used(
        &["a", "b", "c", "d", "e"],
        Settings {
            max_in_flight: 2,
            ..settings()
        },
    );
    rig.pass(WINDOW_AT - 5 * MS);
    let scans = rig.counters().prefetch_scan_total;
    rig.pass(10 * MS);
    assert_eq!(rig.loads.len(), 2);
    assert_eq!(rig.counters().prefetch_scan_total, scans + 1);
    assert_eq!(rig.counters().prefetch_skipped_total, 3);
    rig.pass(10 * MS);
    assert_eq!(rig.loads.len(), 2, "no slot is free");
    assert_eq!(rig.counters().prefetch_skipped_total, 6);
    rig.land(2);
    rig.pass(10 * MS);
    assert_eq!(rig.loads.len(), 2);
    assert_eq!(rig.counters().prefetch_skipped_total, 8);
    assert_eq!(rig.counters().prefetch_trigger_total, 3);
}

#[test]
fn raising_max_in_flight_ends_skipping_at_the_next_scan() {
    let mut rig = used(
        &["a", "b", "c", "d", "e"],
        Settings {
            max_in_flight: 1,
            ..settings()
        },
    );
    rig.pass(WINDOW_AT + 5 * MS);
    assert_eq!(rig.loads.len(), 1);
    let skipped = rig.counters().prefetch_skipped_total;
    assert!(skipped > 0);
    rig.set(|settings| settings.max_in_flight = 64);
    rig.pass(10 * MS);
    assert_eq!(rig.loads.len(), 5);
    rig.pass(100 * MS);
    assert_eq!(rig.counters().prefetch_skipped_total, skipped);
}

#[test]
fn zero_disables_the_prefetcher_and_another_value_enables_it() {
    let mut rig = used(
        &["a"],
        Settings {
            max_in_flight: 0,
            ..settings()
        },
    );
    rig.pass(9 * S);
    assert!(rig.loads.is_empty());
    assert_eq!(rig.counters().prefetch_scan_total, 0);
    assert_eq!(rig.counters().prefetch_skipped_total, 0);
    rig.set(|settings| settings.max_in_flight = 64);
    rig.pass(10 * MS);
    assert_eq!(rig.loads.len(), 1);
}

#[test]
fn prefetching_is_bounded_by_the_share_of_the_shard() {
    let limits = Limits {
        shard_index: 1,
        shard_count: 2,
        ..Limits::default()
    };
    let mut rig = Rig::with(
        limits,
        Settings {
            max_in_flight: 3,
            ..settings()
        },
    );
    rig.grant();
    for key in ["a", "b", "c"] {
        rig.load(key, 1);
        rig.request(key);
    }
    rig.pass(WINDOW_AT + 10 * MS);
    assert_eq!(
        rig.loads.len(),
        1,
        "3 over 2 shards: 2 for the first, 1 for the second"
    );
}

#[test]
fn reserve_is_left_to_requests() {
    let limits = Limits {
        flights_max: 5,
        on_demand_reserve: 2,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    for key in ["a", "b", "c", "d", "e"] {
        rig.load(key, 1);
        rig.request(key);
    }
    rig.pass(WINDOW_AT + 10 * MS);
    assert_eq!(rig.loads.len(), 3);
    assert_eq!(rig.request("x"), Got::Wait);
    assert_eq!(rig.request("y"), Got::Wait);
    assert_eq!(rig.loads.len(), 5);
    rig.land(2);
    rig.pass(10 * MS);
    assert_eq!(
        rig.loads.len(),
        4,
        "requests use the capacity: nothing is prefetched"
    );
}

#[test]
fn request_joins_a_prefetch_flight_and_gets_its_result() {
    let mut rig = used(&["a"], settings());
    rig.pass(WINDOW_AT + 10 * MS);
    rig.sleep(2 * S);
    assert_eq!(rig.request_by(1, "a", None), Got::Wait);
    assert_eq!(rig.loads.len(), 1);
    rig.land(2);
    assert_eq!(rig.end_of(1), Ended::Fresh(2));
    assert_eq!(rig.counters().prefetch_flights, 0);
}

#[test]
fn failed_refresh_is_retried_after_its_backoff() {
    let mut rig = used(&["a"], settings());
    rig.pass(WINDOW_AT + 10 * MS);
    rig.fail(LoadError::Store);
    rig.pass(30 * MS);
    assert!(rig.loads.is_empty(), "the shortest backoff is 50 ms");
    rig.pass(90 * MS);
    assert_eq!(rig.loads.len(), 1);
    rig.land(2);
    assert_eq!(rig.request("a"), Got::Fresh(2));
}

#[test]
fn nothing_is_prefetched_without_a_lease() {
    let mut rig = used(
        &["a"],
        Settings {
            soft_ttl_ms: 110_000,
            hard_ttl_ms: 200_000,
            ..settings()
        },
    );
    rig.jump(100 * S);
    rig.pass(20 * S);
    assert!(rig.loads.is_empty());
}

#[test]
fn jitter_spreads_refreshes_and_only_shortens() {
    let mut rig = Rig::leased_with(Settings {
        jitter_pct: 10,
        ..settings()
    });
    let loaded_at = rig.now;
    let mut soft_after: Vec<u64> = (0..100)
        .map(|key| {
            let key = format!("key-{key}");
            rig.load(&key, 1);
            let view = rig.view(&key);
            assert_eq!(
                view.expires_at,
                Some(loaded_at.plus_us(60 * S)),
                "hard has no jitter"
            );
            view.soft_at.unwrap().saturating_since(loaded_at)
        })
        .collect();
    soft_after.sort_unstable();
    assert!(soft_after[0] >= 9 * S && soft_after[99] <= 10 * S);
    assert!(soft_after[99] - soft_after[0] > S / 2, "spread out");
}

#[test]
fn late_tick_scans_once() {
    let mut rig = Rig::leased();
    rig.tick();
    let scans = rig.counters().prefetch_scan_total;
    rig.jump(5 * S);
    assert_eq!(rig.counters().prefetch_scan_total, scans + 1);
}

/// A pass over ten thousand keyspaces took a hundred times a second as long as a turn may.
#[test]
fn many_keyspaces_take_turns_in_the_passes() {
    let mut rig = Rig::leased();
    let others = 2..=2 * SCANNED_MAX as u32 + 100;
    for id in others.clone() {
        let added = rig
            .shard
            .handle_keyspace(rig.now, KeyspaceId(id), settings());
        added.unwrap();
    }
    let scans = |rig: &Rig| -> Vec<u64> {
        let ids = others.clone().map(KeyspaceId);
        let counters = ids.map(|id| rig.shard.counters(id).unwrap().prefetch_scan_total);
        counters.collect()
    };
    let before: u64 = scans(&rig).iter().sum();
    let mut most = 0;
    for _ in 0..6 {
        let before: u64 = scans(&rig).iter().sum();
        rig.jump(SCAN_PERIOD_US);
        most = most.max(scans(&rig).iter().sum::<u64>() - before);
    }
    assert_eq!(most, SCANNED_MAX as u64);
    // Six passes are two rounds.
    assert!(scans(&rig).iter().all(|scans| *scans == 2), "{before}");
}
