//! Memory limits: which keys are evicted for which.

use crate::rig::*;
use keyway_core::{
    Action, Event, Instant, LeaseEvent, Limits, LoadError, Loaded, Refusal, Request, Shard, Token,
};

fn small(entries_max: usize, key_bytes_max: usize) -> Rig {
    let limits = Limits {
        entries_max,
        key_bytes_max,
        flights_max: entries_max - 1,
        on_demand_reserve: 0,
        negatives_max: 2,
        revoked_max: 2,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    rig
}

fn evicted(rig: &Rig) -> Vec<String> {
    let keys = rig.events.iter().filter_map(|event| match event {
        Event::Evicted { key_id, .. } => Some(String::from_utf8_lossy(key_id).into_owned()),
        _ => None,
    });
    keys.collect()
}

#[test]
fn least_valuable_key_is_evicted_first() {
    let mut rig = small(4, 1 << 20);
    for key in ["a", "b", "c", "d"] {
        rig.force(1, key);
        rig.land(1);
    }
    for key in ["a", "c", "d"] {
        rig.request(key);
    }
    rig.load("e", 1);
    assert_eq!(evicted(&rig), ["b"]);
    assert_eq!(rig.counters().evicted_total, 1);
    assert_eq!(rig.shard.totals().entries, 4);
    assert_eq!(rig.request("a"), Got::Fresh(1));
}

#[test]
fn key_bytes_are_bounded() {
    let mut rig = small(100, 350);
    for key in ["a", "b", "c", "d", "e"] {
        rig.load(key, 1);
    }
    assert_eq!((rig.alive.get(), rig.shard.totals().key_bytes), (3, 300));
    assert_eq!(evicted(&rig).len(), 2);
}

#[test]
fn refresh_reuses_the_space_of_the_key_it_replaces() {
    let mut rig = small(100, 200);
    rig.load("a", 1);
    rig.load("b", 1);
    rig.force(1, "a");
    rig.land(2);
    assert_eq!(rig.end_of(1), Ended::Refreshed(2));
    assert!(evicted(&rig).is_empty());
}

#[test]
fn entries_without_a_key_are_evicted() {
    let mut rig = small(4, 1 << 20);
    for key in ["a", "b", "c", "d"] {
        rig.request(key);
        rig.fail(LoadError::Corrupt);
        rig.fail(LoadError::Corrupt);
    }
    assert_eq!(rig.shard.totals().entries, 4);
    assert_eq!(rig.request("e"), Got::Wait, "an INVALID key is discarded");
}

#[test]
fn expired_keys_are_evicted_first() {
    let mut rig = small(4, 1 << 20);
    rig.load("old", 1);
    rig.sleep(30 * S);
    for key in ["b", "c", "d"] {
        rig.load(key, 1);
    }
    rig.sleep(30 * S);
    rig.load("e", 1);
    assert!(evicted(&rig).is_empty(), "it was not served any more");
    assert_eq!(rig.view("old").version, 0);
    assert_eq!(rig.counters().resident_keys, 4);
}

#[test]
fn missing_keys_never_evict_live_ones_beyond_their_bound() {
    let mut rig = small(4, 1 << 20);
    rig.load("a", 1);
    rig.load("b", 1);
    for key in 0..50 {
        rig.request(&format!("missing-{key}"));
        rig.fail(LoadError::NotFound);
    }
    assert!(evicted(&rig).is_empty());
    assert_eq!(rig.alive.get(), 2);
}

#[test]
fn keys_in_flight_and_revoked_entries_stay() {
    let mut rig = small(4, 1 << 20);
    rig.revoked("r1");
    rig.revoked("r2");
    rig.request_by(1, "a", None);
    rig.request_by(2, "b", None);
    assert!(matches!(
        rig.request("c"),
        Got::Refused(Refusal::Overloaded { .. })
    ));
    assert_eq!(rig.request("r1"), Got::Refused(Refusal::Revoked));
    rig.land(1);
    assert_eq!(
        rig.request("c"),
        Got::Wait,
        "something can be evicted: nothing is refused"
    );
    assert_eq!(evicted(&rig), ["a"]);
}

#[test]
fn key_larger_than_the_shard_is_refused_and_dropped() {
    let mut rig = small(10, 50);
    rig.request_by(1, "a", None);
    rig.land(1);
    assert!(matches!(
        rig.end_of(1),
        Ended::Refused(Refusal::Overloaded { .. })
    ));
    assert_eq!(rig.alive.get(), 0);
}

#[test]
fn shard_full_of_hot_keys_still_evicts() {
    let mut rig = small(1_000, 1 << 20);
    for key in 0..1_000 {
        rig.load(&format!("key-{key}"), 1);
    }
    for key in 0..1_000 {
        rig.request(&format!("key-{key}"));
    }
    for key in 0..10 {
        rig.load(&format!("new-{key}"), 1);
    }
    assert_eq!(rig.shard.totals().entries, 1_000);
    assert_eq!(rig.counters().evicted_total, 10);
}

#[test]
fn hand_spares_128_used_keys_in_a_row_and_takes_the_next() {
    let mut rig = small(1_000, 1 << 20);
    for key in 0..1_000 {
        rig.load(&format!("key-{key}"), 1);
    }
    rig.load("new-0", 1);
    rig.load("new-1", 1);
    assert_eq!(evicted(&rig), ["key-128", "key-257"]);
}

#[test]
fn used_key_after_many_flights_is_still_evicted() {
    let mut rig = small(12, 1 << 20);
    for key in 0..6 {
        rig.load(&format!("flying-{key}"), 1);
    }
    for key in 0..6 {
        rig.load(&format!("used-{key}"), 1);
    }
    for key in 0..6 {
        rig.force(key, &format!("flying-{key}"));
    }
    assert_eq!(rig.request("new"), Got::Wait);
    assert_eq!(evicted(&rig), ["used-0"]);
}

#[test]
fn key_as_large_as_the_byte_limit_is_accepted() {
    let mut rig = small(10, 100);
    rig.load("a", 1);
    assert_eq!(rig.request("a"), Got::Fresh(1));
    rig.load("b", 1);
    assert_eq!(evicted(&rig), ["a"]);
}

#[test]
fn entries_without_bytes_are_spared_when_bytes_are_short() {
    let mut rig = small(100, 200);
    rig.request("missing");
    rig.fail(LoadError::NotFound);
    rig.request("invalid");
    rig.fail(LoadError::Corrupt);
    rig.fail(LoadError::Corrupt);
    rig.request("failing");
    rig.fail(LoadError::Store);
    for key in ["a", "b", "c"] {
        rig.load(key, 1);
    }
    assert_eq!(evicted(&rig), ["a"]);
    assert_eq!(rig.request("missing"), Got::Refused(Refusal::NotFound));
    assert_eq!(rig.request("invalid"), Got::Refused(Refusal::Invalid));
    assert!(rig.view("failing").backing_off);
}

#[test]
fn residents_can_be_listed_with_their_use() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.force(1, "b");
    rig.land(1);
    let listed: Vec<_> = rig
        .shard
        .resident_keys(PROD)
        .map(|(key, used)| (key.to_vec(), used))
        .collect();
    assert_eq!(listed, [(b"a".to_vec(), true), (b"b".to_vec(), false)]);
    assert_eq!(rig.shard.resident_keys(OTHER).count(), 0);
}

/// On the bare shard, since the rig visits all keys after each step.
#[test]
fn large_shard_drops_everything_within_32_ticks_of_a_lock() {
    const KEYS: u32 = 80_000;
    let mut now = Instant::from_micros(S);
    let mut shard = Shard::new(Limits::default(), 1).expect("the limits are valid");
    let made = shard.handle_keyspace(now, PROD, settings());
    made.expect("the settings are valid");
    let granted = LeaseEvent::Granted {
        sent_at: now,
        generation: 1,
    };
    shard.handle_lease(now, PROD, granted);
    for key in 0..KEYS {
        let (key_id, token) = (key.to_le_bytes(), Token(key.into()));
        let request = Request {
            token,
            keyspace: PROD,
            key_id: &key_id,
            deadline: None,
        };
        let _ = shard.handle_request(now, request);
        while let Some(action) = shard.poll_action() {
            let Action::Load { flight, .. } = action else {
                continue;
            };
            let loaded = Loaded {
                value: (),
                version: 1,
                key_bytes: 32,
                not_after: None,
                dek_generation: 1,
            };
            assert!(shard.begin_load(now, flight));
            shard.handle_loaded(now, flight, Ok(loaded));
        }
        while shard.poll_ready(now).is_some() {}
    }
    let resident = |shard: &Shard<()>| shard.counters(PROD).expect("known").resident_keys;
    assert_eq!(resident(&shard), u64::from(KEYS));
    shard.handle_lock(now, PROD);
    for _ in 0..32 {
        now = now.plus_us(MS);
        shard.handle_tick(now);
    }
    assert_eq!(resident(&shard), 0);
}
