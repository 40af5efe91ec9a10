//! Each rule fires on its situation, with its words, and nothing fires on a server that is well.

mod scene;

use keyway_client::Override;
use serde_json::{Value, json};

use super::*;
use scene::{Scene, hot_keys, requests, shard};

const KEYSPACE: &str = "/keyspaces/0";

fn at(name: &str) -> String {
    format!("{KEYSPACE}/{name}")
}

#[test]
fn nothing_is_found_where_all_is_well() {
    assert_eq!(examine(&Scene::healthy().case()), []);
}

#[test]
fn a_server_that_says_nothing_is_no_patient() {
    let scene = Scene {
        before: json!({}),
        now: json!({}),
        ..Scene::healthy()
    };
    assert_eq!(examine(&scene.case()), []);
}

/// The findings of a scene have to be one with this id and severity, which says all these words.
#[track_caller]
fn expect(scene: Scene, id: &str, severity: Severity, words: &[&str]) {
    let findings = examine(&scene.case());
    let found: Vec<_> = findings.iter().filter(|finding| finding.id == id).collect();
    assert_eq!(found.len(), 1, "{id}: {findings:#?}");
    assert_eq!(found[0].severity, severity, "{:#?}", found[0]);
    let document = found[0].document().to_string();
    for word in words {
        assert!(document.contains(word), "{word:?} is not in {document}");
    }
    assert!(
        document.contains(&format!("docs/RUNBOOK.md#{id}")),
        "{document}"
    );
}

use Severity::{Critical, Note, Warning};

#[test]
fn loads_that_fail_are_told_by_what_is_behind_them() {
    let failing = || Scene::healthy().now(&at("rehydrate_fail_total"), json!(12));
    let id = "rehydrate-failures";
    let corrupt = failing().now(
        &at("requests"),
        requests(&[("ok", 20_000), ("invalid", 12)]),
    );
    expect(
        corrupt,
        id,
        Critical,
        &[
            "rose by 12 in 5 s",
            "blobs do not open",
            "key cache invalid",
        ],
    );
    let lost = failing().both(&at("state"), json!("denied"));
    expect(
        lost,
        id,
        Critical,
        &["the data key is missing", "keyway unlock prod --wait"],
    );
    expect(failing(), id, Critical, &["the disk cannot be read"]);
    // Known to be bad, so not loaded again.
    let remembered = requests(&[("ok", 20_000), ("invalid", 3)]);
    let remembered = Scene::healthy().now(&at("requests"), remembered);
    expect(remembered, id, Warning, &["INVALID rose by 3"]);
    let over = Scene::healthy().both(&at("rehydrate_fail_total"), json!(5));
    expect(over, id, Note, &["is 5 and does not increase"]);
}

#[test]
fn waiters_are_told_with_the_key_that_they_wait_for() {
    let scene = Scene {
        waited_for: Some(hot_keys(900, 800)),
        ..Scene::healthy()
    };
    let many = scene.now(&at("singleflight_waiters"), json!(300));
    let words = [
        "was 300, the limit is 128",
        "prod/alice: 800 of 802",
        "--by waiters",
    ];
    expect(many, "waiters", Critical, &words);
    let burst = Scene::healthy().now(&at("singleflight_waiters_max"), json!(129));
    expect(burst, "waiters", Critical, &["was 129"]);
    let over = Scene::healthy().both(&at("singleflight_waiters_max"), json!(500));
    expect(over, "waiters", Note, &["was 500"]);
    let stuck = Scene::healthy()
        .both(&at("flights"), json!(1))
        .both(&at("rehydrate_total"), json!(100))
        .both(&at("state"), json!("acquiring"))
        .both(&at("dek_lease_left_s"), json!(0));
    expect(
        stuck,
        "waiters",
        Warning,
        &["a refresh is stuck", "dek_missing", "kms list"],
    );
}

#[test]
fn a_hot_key_is_told_by_name_and_shard() {
    let with = |requests, waiters| Scene {
        hot: Some(hot_keys(requests, waiters)),
        ..Scene::healthy()
    };
    let words = [
        "one key is hot",
        "prod/alice has 2000 requests a second",
        "shard 1",
    ];
    expect(with(120_000, 300), "waiters", Warning, &words);
    expect(with(120_000, 3), "waiters", Note, &words);
    assert_eq!(
        examine(&with(1_000, 3).case()),
        [],
        "a single key that is hardly used"
    );
}

#[test]
fn wait_timeouts_are_told_with_their_cause() {
    let id = "wait-timeouts";
    let rising = || Scene::healthy().now(&at("singleflight_wait_timeout_total"), json!(2));
    let words = [
        "rose by 2",
        "too narrow",
        "sign_wait_budget_us=6000 --for 15m",
    ];
    expect(rising(), id, Warning, &words);
    let many = Scene::healthy().now(&at("singleflight_wait_timeout_total"), json!(50));
    expect(many, id, Critical, &["rose by 50"]);
    let slow = json!({"count": 200, "p95": 20.0, "buckets": [50, 50, 0, 0, 100, 0]});
    let slow = rising().now(&at("rehydrate_latency_ms"), slow);
    expect(
        slow,
        id,
        Warning,
        &["read_slow", "p95 of loads is at most 25 ms"],
    );
    let queued = rising().now("/shards/0/load_queue_depth", json!(7));
    expect(queued, id, Warning, &["read_queued"]);
    let missing = rising()
        .both(&at("state"), json!("acquiring"))
        .both(&at("dek_lease_left_s"), json!(0));
    expect(missing, id, Warning, &["dek_missing"]);
    let over = Scene::healthy().both(&at("singleflight_wait_timeout_total"), json!(2));
    expect(over, id, Note, &["is 2 and does not increase"]);
}

#[test]
fn slow_loads_and_old_keys_are_told() {
    let slow = json!({"count": 200, "p95": 3.0, "buckets": [100, 50, 0, 50, 0, 0]});
    let slow = Scene::healthy().now(&at("rehydrate_latency_ms"), slow);
    expect(
        slow,
        "rehydrate-slow",
        Warning,
        &["p95 of 100 loads", "at most 5 ms"],
    );
    let old = || Scene::healthy().now(&at("oldest_served_age_ms"), json!(1_000_000));
    expect(
        old(),
        "old-keys-served",
        Warning,
        &["16 min 40 s old", "refreshes are late"],
    );
    let meant = old().setting("on_soft_expiry", "serve_stale");
    expect(
        meant,
        "old-keys-served",
        Warning,
        &["on_soft_expiry is serve_stale"],
    );
}

#[test]
fn a_starved_prefetcher_is_told_with_what_to_set() {
    let id = "prefetch-starved";
    let starved = Scene::healthy()
        .now(&at("prefetch_skipped_total"), json!(900))
        .setting("max_in_flight", "2")
        .changed("max_in_flight", "256", "2", "expired", 3);
    let words = [
        "rose by 900",
        "max_in_flight is 2",
        "keyway keyspace set prod max_in_flight=256 --for 15m",
        "max_in_flight reverted to 2 automatically 3 minutes ago (before: 256)",
    ];
    expect(starved, id, Warning, &words);
    let large = Scene::healthy()
        .now(&at("prefetch_skipped_total"), json!(900))
        .setting("max_in_flight", "60000");
    expect(large, id, Warning, &["max_in_flight=65536 --for 15m"]);
    let over = Scene::healthy().both(&at("prefetch_skipped_total"), json!(900));
    expect(over, id, Note, &["does not increase"]);
}

#[test]
fn a_stopped_prefetcher_is_told_with_who_stopped_it() {
    let id = "prefetch-stopped";
    let off = || {
        Scene::healthy()
            .both(&at("prefetch_scan_total"), json!(1_000))
            .setting("max_in_flight", "0")
            .changed("max_in_flight", "64", "0", "uid:1000", 12)
    };
    let words = [
        "max_in_flight was set to 0 by uid:1000 12 minutes ago (before: 64)",
        "keyway keyspace set prod max_in_flight=64",
    ];
    expect(off(), id, Warning, &words);
    let temporary = Scene {
        overrides: Some((
            "max_in_flight",
            Override {
                until_unix_ms: 1_795_653_300_000,
                then: "64".into(),
            },
        )),
        ..off()
    };
    let words = ["it reverts to 64 automatically at 2026-11-26T00:35:00Z"];
    expect(temporary, id, Warning, &words);
    let unused = off()
        .both(&at("requests"), json!([]))
        .both(&at("hits"), json!(9))
        .both(&at("misses"), json!(9));
    expect(unused, id, Note, &["switched off"]);
    let hangs = Scene::healthy().both(&at("prefetch_scan_total"), json!(1_000));
    expect(
        hangs,
        id,
        Warning,
        &["has not increased for 5 s", "too busy"],
    );
    let idle = Scene::healthy()
        .both(&at("prefetch_scan_total"), json!(1_000))
        .both(&at("state"), json!("idle"))
        .both(&at("dek_lease_left_s"), json!(0));
    expect(idle, id, Note, &["no lease is held"]);
    let blind = Scene::healthy()
        .both(&at("prefetch_trigger_total"), json!(90))
        .now(
            &at("requests"),
            requests(&[("ok", 20_000), ("ok_stale", 40)]),
        )
        .setting("refresh_window_ms", "30000");
    expect(
        blind,
        id,
        Warning,
        &[
            "40 answers with stale keys",
            "refresh_window_ms, which is 30000",
        ],
    );
}

#[test]
fn a_closed_keyspace_is_told_with_who_closed_it() {
    let answered = requests(&[("ok", 10_000), ("needs_unlock", 100)]);
    let locked = Scene::healthy()
        .both(&at("state"), json!("locked"))
        .now(&at("requests"), answered)
        .changed("locked", "false", "true", "uid:0", 90);
    let words = [
        "100 of 100 requests (100.0%)",
        "it was locked by uid:0 1 hour ago",
        "keyway unlock prod --wait",
    ];
    expect(locked, "needs-unlock", Critical, &words);
    let quiet = Scene::healthy().both(&at("state"), json!("locked"));
    expect(quiet, "needs-unlock", Warning, &["its state is locked"]);
    let acquiring = Scene::healthy().both(&at("state"), json!("acquiring"));
    expect(acquiring, "needs-unlock", Warning, &["the KMS was called"]);
    // The provider has said why.
    let said = |state: &str| {
        let trouble = json!({
            "class": "unavailable", "cause": "sealed", "what": "https://bao answers 503: it is sealed",
            "remedy": "unseal it: bao operator unseal", "since_unix_ms": 0, "keyspaces": 1, "over": false,
        });
        let scene = Scene::healthy().both(&at("state"), json!(state));
        scene.both("/kms/0/trouble", trouble)
    };
    let words = ["there is no data key: https://bao answers 503"];
    expect(said("acquiring"), "needs-unlock", Warning, &words);
    let words = ["KMS local: https://bao answers 503", "bao operator unseal"];
    expect(said("denied"), "keyspace-denied", Critical, &words);
    let left = said("renewing").now(&at("dek_lease_left_s"), json!(120.0));
    let words = ["does not renew it: sealed", "it is sealed"];
    expect(left, "lease-not-renewed", Critical, &words);
    let denied = Scene::healthy().both(&at("state"), json!("denied"));
    expect(
        denied,
        "keyspace-denied",
        Critical,
        &["KMS local", "keyway unlock prod --wait"],
    );
}

#[test]
fn a_lease_that_is_not_renewed_is_told_before_it_ends() {
    let left = |seconds: f64| {
        let scene = Scene::healthy().both(&at("state"), json!("renewing"));
        scene.now(&at("dek_lease_left_s"), json!(seconds))
    };
    expect(
        left(120.0),
        "lease-not-renewed",
        Critical,
        &["2 min left of 1 h"],
    );
    expect(
        left(1_200.0),
        "lease-not-renewed",
        Warning,
        &["20 min left of 1 h"],
    );
    assert_eq!(examine(&left(2_900.0).case()), []);
    let renewed = left(120.0).both(&at("state"), json!("live"));
    assert_eq!(examine(&renewed.case()), []);
}

#[test]
fn a_kms_in_trouble_is_told_with_the_lease_that_ends_first() {
    let broken = Scene::healthy().both("/kms/0/breaker", json!("open"));
    let words = ["the first is that of prod, in 49 min 50 s"];
    expect(broken, "kms-breaker-open", Warning, &words);
    let trouble = json!({
        "class": "unavailable", "cause": "sealed", "what": "https://bao answers 503: it is sealed",
        "remedy": "unseal it: bao operator unseal", "since_unix_ms": 0, "keyspaces": 2, "over": false,
    });
    let mut over = trouble.clone();
    over["over"] = json!(true);
    let over = Scene::healthy().both("/kms/0/trouble", over);
    expect(
        over,
        "kms-breaker-open",
        Note,
        &["does again", "it is sealed"],
    );
    let sealed = Scene::healthy().both("/kms/0/trouble", trouble);
    let words = [
        "sealed of 2 keyspaces",
        "it is sealed",
        "bao operator unseal",
    ];
    expect(sealed, "kms-breaker-open", Warning, &words);
    for (need, command) in [
        ("passphrase", "keyway kms unlock local --passphrase"),
        ("pin", "keyway kms unlock local --pin"),
        ("shares", "keyway kms unlock local --share"),
    ] {
        let locked = Scene::healthy().both("/kms/0/state", json!("locked"));
        let locked = locked.both("/kms/0/need", json!(need));
        expect(locked, "kms-locked", Warning, &[command]);
    }
    let locked = Scene::healthy().both("/kms/0/state", json!("locked"));
    let locked = locked.both("/kms/0/need", json!("none"));
    expect(locked, "kms-locked", Warning, &["keyway kms unlock local"]);
    let new = Scene::healthy().both("/kms/0/need", json!("init"));
    let new = new.both("/kms/0/state", json!("uninitialised"));
    expect(
        new,
        "kms-locked",
        Warning,
        &["keyway kms init local --passphrase"],
    );
    let behind = json!({"newest": 7, "keyspaces_behind": 3});
    let behind = Scene::healthy().both("/kms/0/key_versions", behind);
    let words = ["3 keyspaces", "older than 7", "rewrap KEYSPACE --kms local"];
    expect(behind, "kms-key-version", Warning, &words);
    let calls = json!([{"keyspace": "prod", "outcome": "throttled", "count": 4}]);
    let throttled = Scene::healthy().now("/kms/0/calls", calls);
    expect(throttled, "kms-headroom", Warning, &["4 calls refused"]);
    let empty = Scene::healthy().both("/kms/0/rate_tokens", json!(0.5));
    expect(empty, "kms-headroom", Warning, &["0.5 calls could be made"]);
}

#[test]
fn a_core_in_trouble_is_told_with_its_shard() {
    let id = "shard-saturated";
    let turns = |sum: u64, buckets: Value| json!({"count": 9_000, "sum": sum, "buckets": buckets});
    let scene = Scene {
        hot: Some(hot_keys(900, 0)),
        ..Scene::healthy()
    };
    let usual = json!([9_000, 0, 0, 0, 0, 0]);
    let busy = scene.now("/shards/1/turn_ms", turns(5_200, usual));
    let words = [
        "94% of its time in turns (the others: 10%)",
        "prod/alice",
        "far more",
    ];
    expect(busy, id, Warning, &words);
    let long = turns(1_000, json!([8_000, 0, 0, 0, 1_000, 0]));
    let long = Scene::healthy().now("/shards/1/turn_ms", long);
    expect(long, id, Warning, &["p99 of its turns is at most 25 ms"]);
    for (name, count) in [
        ("slow_queue_depth", 1_025),
        ("parked_requests", 16_385),
        ("forwards_refused_total", 1),
    ] {
        let scene = Scene::healthy().now(&format!("/shards/0/{name}"), json!(count));
        expect(scene, id, Warning, &[&count.to_string()]);
    }
    let refused = requests(&[("ok", 20_000), ("overloaded", 6)]);
    let refused = Scene::healthy().now(&at("requests"), refused);
    expect(refused, id, Warning, &["6 requests in 5 s", "OVERLOADED"]);
    let silent = shard(0, 1);
    expect(
        Scene::healthy().now("/shards/0", silent),
        "shard-unresponsive",
        Critical,
        &["no turn in 5 s"],
    );
    let poisoned = Scene::healthy().both("/shards/0/store_poisoned", json!(true));
    expect(poisoned, "store-poisoned", Critical, &["shard 0"]);
    let panicked = Scene::healthy().now("/shards/0/panics_total", json!(1));
    expect(
        panicked,
        "panics",
        Warning,
        &["1 since the start, 1 in 5 s"],
    );
    let long_ago = Scene::healthy().both("/shards/0/panics_total", json!(1));
    expect(long_ago, "panics", Note, &["1 since the start, 0 in 5 s"]);
    let full = Scene::healthy().now("/shards/0/arena_used_bytes", json!(960));
    expect(full, "arena-full", Note, &["960 B of 1000 B"]);
    let evicting = Scene::healthy().now(&at("evicted_total"), json!(3));
    expect(evicting, "arena-full", Warning, &["rose by 3"]);
}

#[test]
fn a_start_that_does_not_end_is_told() {
    let id = "warm-start";
    let starting = Scene::healthy().both("/shards/0/serving", json!(false));
    expect(starting, id, Warning, &["reads its blob log"]);
    let warming = || {
        Scene::healthy()
            .both("/shards/0/warm_start_settled", json!(false))
            .both("/shards/0/warm_start_keys_left", json!(40))
    };
    expect(warming(), id, Warning, &["does not go on", "40 keys"]);
    let moving = warming().now("/shards/0/warm_start_keys_left", json!(20));
    expect(moving, id, Note, &["goes on"]);
}

#[test]
fn a_restart_is_the_only_finding() {
    let scene = Scene::healthy().now("/pid", json!(8));
    let scene = scene.now(&at("rehydrate_fail_total"), json!(12));
    assert_eq!(examine(&scene.case()).len(), 1);
    let again = Scene::healthy().now("/pid", json!(8));
    expect(again, "instance-down", Critical, &["process 7 became 8"]);
}

#[test]
fn the_worst_comes_first() {
    let scene = Scene::healthy()
        .now(&at("prefetch_skipped_total"), json!(900))
        .both("/shards/0/panics_total", json!(1))
        .both("/shards/1/store_poisoned", json!(true));
    let findings = examine(&scene.case());
    let severities: Vec<Severity> = findings.iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Critical, Warning, Note]);
}

#[test]
fn every_id_has_an_alert_or_is_named_here() {
    let rules = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/alerts/keyway.rules.yml"
    );
    let rules = std::fs::read_to_string(rules).unwrap();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/doctor/rules");
    let mut ids = std::collections::BTreeSet::new();
    for file in [
        "mod",
        "refresh",
        "prefetch",
        "unlock",
        "kms",
        "key_versions",
        "cores",
    ] {
        let source = std::fs::read_to_string(format!("{directory}/{file}.rs")).unwrap();
        let quoted = source.split('"').skip(1).step_by(2).map(str::to_owned);
        let is_id = |word: &String| {
            word.contains('-')
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        };
        ids.extend(quoted.filter(is_id));
    }
    assert!(ids.len() > 12, "{ids:?}");
    // No alert is about capacity: evictions are a matter of size.
    ids.remove("arena-full");
    // A state of the circuit breaker.
    ids.remove("half-open");
    for id in ids {
        assert!(
            rules.contains(&format!("docs/RUNBOOK.md#{id}\n")),
            "{id} has no alert"
        );
    }
}
