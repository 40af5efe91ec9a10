//! Settings that change while keys are in memory.

use crate::rig::*;
use keyway_core::{Limits, OnSoftExpiry, Settings, Shard};

#[test]
fn shorter_soft_ttl_applies_to_the_next_request() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.sleep(5 * S);
    assert_eq!(rig.request("a"), Got::Fresh(1));
    rig.set(|settings| {
        settings.soft_ttl_ms = 1_000;
        settings.on_soft_expiry = OnSoftExpiry::ServeStale;
    });
    assert_eq!(rig.request("a"), Got::Stale(1));
    rig.set(|settings| settings.soft_ttl_ms = 20_000);
    assert_eq!(rig.request("a"), Got::Fresh(1));
}

#[test]
fn shorter_soft_ttl_advances_the_refresh() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.request("a");
    rig.pass(S);
    rig.set(|settings| settings.soft_ttl_ms = 2_000);
    rig.pass(700 * MS);
    assert_eq!(rig.loads.len(), 1);
}

#[test]
fn shorter_hard_ttl_expires_keys_immediately_and_drops_them_within_ticks() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.load("b", 1);
    rig.sleep(20 * S);
    rig.set(|settings| (settings.soft_ttl_ms, settings.hard_ttl_ms) = (5_000, 20_000));
    assert_eq!(rig.request("a"), Got::Wait);
    rig.jump(MS);
    assert_eq!(rig.alive.get(), 0);
}

#[test]
fn longer_hard_ttl_applies_from_the_next_load() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    let loaded_at = rig.now;
    rig.sleep(S);
    rig.set(|settings| settings.hard_ttl_ms = 90_000);
    assert_eq!(rig.view("a").expires_at, Some(loaded_at.plus_us(60 * S)));
    rig.sleep(1);
    rig.load("b", 1);
    assert_eq!(rig.view("b").expires_at, Some(rig.now.plus_us(90 * S)));
    rig.set(|settings| settings.hard_ttl_ms = 30_000);
    rig.set(|settings| settings.hard_ttl_ms = 90_000);
    assert_eq!(
        rig.view("b").expires_at,
        Some(rig.now.plus_us(30 * S)),
        "it does not rise again"
    );
}

#[test]
fn eight_rises_of_the_hard_ttl_are_distinguished() {
    let mut rig = Rig::leased_with(Settings {
        dek_lease_ms: 1_000_000,
        ..settings()
    });
    let mut expected = Vec::new();
    for rise in 0..9 {
        let hard_ttl_ms = 60_000 + 1_000 * rise;
        rig.set(|settings| settings.hard_ttl_ms = hard_ttl_ms);
        rig.sleep(MS);
        let key = format!("key-{rise}");
        rig.load(&key, 1);
        expected.push((key, rig.now.plus_us(hard_ttl_ms * MS)));
        rig.sleep(MS);
    }
    rig.set(|settings| settings.low_water_pct = 4);
    for (key, expires_at) in expected {
        assert_eq!(rig.view(&key).expires_at, Some(expires_at), "{key}");
    }
}

#[test]
fn shorter_lease_applies_immediately_and_a_longer_one_at_the_next_unwrap() {
    let mut rig = Rig::leased();
    let left = |rig: &Rig| rig.shard.gauges(rig.now, PROD).unwrap().lease_left_us;
    rig.load("a", 1);
    rig.set(|settings| settings.dek_lease_ms = 50_000);
    assert_eq!(left(&rig), 50 * S);
    rig.set(|settings| settings.dek_lease_ms = 900_000);
    assert_eq!(left(&rig), 50 * S);
    rig.jump(25 * S);
    assert_eq!(rig.unwraps, 1, "renewed at half of the rest");
    rig.grant();
    assert_eq!(left(&rig), 900 * S);
}

#[test]
fn leases_of_every_keyspace_are_renewed_as_early_as_the_limits_specify() {
    let limits = Limits {
        renew_early_ppm: 100_000,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    for _ in 0..2 {
        rig.grant();
        rig.unwraps = 0;
        rig.load("a", 1);
        rig.jump(44 * S);
        assert_eq!(rig.unwraps, 0, "45 s are half of the lease less a tenth");
        rig.jump(S);
        assert_eq!(rig.unwraps, 1);
    }
}

#[test]
fn change_that_ends_a_lease_takes_effect() {
    let mut rig = Rig::leased();
    rig.load("a", 1);
    rig.sleep(20 * S);
    rig.set(|settings| settings.dek_lease_ms = 20_000);
    assert_eq!(rig.alive.get(), 0);
    assert_eq!(rig.dropped_deks, 1);
}

#[test]
fn change_of_many_keys_is_processed_in_bounded_steps() {
    let limits = Limits {
        entries_max: 20_000,
        negatives_max: 100,
        revoked_max: 100,
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, settings());
    rig.grant();
    for key in 0..5_000 {
        rig.shard_request(1, &format!("key-{key}"));
        rig.land_now();
    }
    rig.set(|settings| settings.low_water_pct = 4);
    assert_eq!(rig.shard.totals().sweeping, 1);
    rig.jump(MS);
    assert_eq!(rig.shard.totals().sweeping, 1, "a step is 2048 of 5000");
    rig.pass(2 * MS);
    assert_eq!(rig.shard.totals().sweeping, 0);
}

#[test]
fn conflicting_settings_change_nothing() {
    let mut rig = Rig::leased();
    let broken = Settings {
        hard_ttl_ms: 1,
        ..settings()
    };
    let error = rig
        .shard
        .handle_keyspace(rig.now, PROD, broken.clone())
        .unwrap_err();
    assert_eq!(error.name, "hard_ttl_ms");
    assert_eq!(rig.shard.settings(PROD), Some(&settings()));
    assert!(rig.shard.handle_keyspace(rig.now, OTHER, broken).is_err());
    assert_eq!(rig.shard.keyspace_ids().collect::<Vec<_>>(), [PROD]);
}

#[test]
fn conflicting_limits_are_refused() {
    let limits = Limits {
        shard_index: 3,
        shard_count: 3,
        ..Limits::default()
    };
    assert!(Shard::<Key>::new(limits, 1).is_err());
}

#[test]
fn limits_are_accepted_up_to_their_bounds() {
    type Change = fn(&mut Limits);
    // Each rule, with limits that just satisfy it and limits that just violate it.
    let edges: [(&str, Change, Change); 17] = [
        (
            "shard_count >= 1",
            |l| l.shard_count = 1,
            |l| l.shard_count = 0,
        ),
        (
            "shard_index < shard_count",
            |l| (l.shard_index, l.shard_count) = (2, 3),
            |l| (l.shard_index, l.shard_count) = (3, 3),
        ),
        (
            "entries_max >= 4",
            |l| (l.entries_max, l.flights_max) = (4, 3),
            |l| (l.entries_max, l.flights_max) = (3, 2),
        ),
        (
            "entries_max <= 2^30",
            |l| l.entries_max = 1 << 30,
            |l| l.entries_max = (1 << 30) + 1,
        ),
        (
            "key_bytes_max >= 1",
            |l| l.key_bytes_max = 1,
            |l| l.key_bytes_max = 0,
        ),
        (
            "flights_max >= 1",
            |l| l.flights_max = 1,
            |l| l.flights_max = 0,
        ),
        (
            "flights_max < entries_max",
            |l| l.flights_max = 99,
            |l| l.flights_max = 100,
        ),
        (
            "on_demand_reserve < flights_max",
            |l| (l.flights_max, l.on_demand_reserve) = (8, 7),
            |l| (l.flights_max, l.on_demand_reserve) = (8, 8),
        ),
        (
            "waiters_max >= 1",
            |l| l.waiters_max = 1,
            |l| l.waiters_max = 0,
        ),
        (
            "waiters_max <= 2^30",
            |l| l.waiters_max = 1 << 30,
            |l| l.waiters_max = (1 << 30) + 1,
        ),
        (
            "negatives_max >= 1",
            |l| l.negatives_max = 1,
            |l| l.negatives_max = 0,
        ),
        (
            "negatives_max <= entries_max / 2",
            |l| l.negatives_max = 50,
            |l| l.negatives_max = 51,
        ),
        (
            "revoked_max >= 1",
            |l| l.revoked_max = 1,
            |l| l.revoked_max = 0,
        ),
        (
            "revoked_max <= entries_max / 2",
            |l| l.revoked_max = 50,
            |l| l.revoked_max = 51,
        ),
        (
            "flight_time_limit_us >= 10000",
            |l| l.flight_time_limit_us = 10_000,
            |l| l.flight_time_limit_us = 9_999,
        ),
        (
            "flight_time_limit_us <= 600000000",
            |l| l.flight_time_limit_us = 600_000_000,
            |l| l.flight_time_limit_us = 600_000_001,
        ),
        (
            "renew_early_ppm <= 200000",
            |l| l.renew_early_ppm = 200_000,
            |l| l.renew_early_ppm = 200_001,
        ),
    ];
    let after = |change: Change| {
        let mut limits = Limits {
            entries_max: 100,
            flights_max: 8,
            on_demand_reserve: 0,
            negatives_max: 2,
            revoked_max: 2,
            ..Limits::default()
        };
        change(&mut limits);
        limits.validate().map_err(|error| error.rule)
    };
    for (rule, keeps, breaks) in edges {
        assert_eq!(after(keeps), Ok(()), "{rule}");
        assert_eq!(after(breaks), Err(rule));
    }
}

#[test]
fn settings_are_accepted_up_to_their_bounds() {
    const YEAR_MS: u64 = 365 * 86_400_000;
    type Change = fn(&mut Settings);
    // Each setting, with a value at the bound and one just beyond.
    let edges: [(&str, Change, Change); 11] = [
        ("soft_ttl_ms", |s| s.soft_ttl_ms = 10, |s| s.soft_ttl_ms = 9),
        (
            "hard_ttl_ms",
            |s| s.hard_ttl_ms = YEAR_MS,
            |s| s.hard_ttl_ms = YEAR_MS + 1,
        ),
        (
            "hard_ttl_ms",
            |s| s.hard_ttl_ms = 1_000,
            |s| s.hard_ttl_ms = 999,
        ),
        (
            "dek_lease_ms",
            |s| s.dek_lease_ms = 100,
            |s| s.dek_lease_ms = 99,
        ),
        ("jitter_pct", |s| s.jitter_pct = 50, |s| s.jitter_pct = 51),
        (
            "refresh_window_ms",
            |s| (s.jitter_pct, s.refresh_window_ms) = (10, Some(899)),
            |s| (s.jitter_pct, s.refresh_window_ms) = (10, Some(900)),
        ),
        (
            "low_water_pct",
            |s| (s.low_water_pct, s.refresh_window_ms) = (30, Some(300)),
            |s| (s.low_water_pct, s.refresh_window_ms) = (31, Some(300)),
        ),
        (
            "max_in_flight",
            |s| s.max_in_flight = 65_536,
            |s| s.max_in_flight = 65_537,
        ),
        (
            "delete_wait_ms",
            |s| s.delete_wait_ms = 31_536_000_000,
            |s| s.delete_wait_ms = 31_536_000_001,
        ),
        (
            "sign_wait_budget_us",
            |s| s.sign_wait_budget_us = 1_000_000,
            |s| s.sign_wait_budget_us = 1_000_001,
        ),
        (
            "soft_ttl_ms",
            |s| (s.soft_ttl_ms, s.hard_ttl_ms) = (YEAR_MS, YEAR_MS),
            |s| (s.soft_ttl_ms, s.hard_ttl_ms) = (YEAR_MS + 1, YEAR_MS + 1),
        ),
    ];
    let after = |change: Change| {
        let mut settings = Settings {
            soft_ttl_ms: 1_000,
            ..settings()
        };
        change(&mut settings);
        settings.validate().map_err(|error| error.name)
    };
    for (name, keeps, breaks) in edges {
        assert_eq!(after(keeps), Ok(()), "{name}");
        assert_eq!(after(breaks), Err(name));
    }
}
