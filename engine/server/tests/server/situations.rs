//! The situations of docs/RUNBOOK.md, each produced on a live server. The metric moves as described there, the committed
//! alert fires, and the log line appears.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Call, HotBy, KeyOptions, KeyPath, KeyspaceName, Status, UnlockWith,
};
use keyway_testkit::openbao::OpenBao;

use crate::command_line::operator::Operator;
use crate::common::alerts::Alerts;
use crate::common::{Ends, Server, Setup, WITHIN, has_program, past_the_start, prod, wait_until};
use crate::figures::{SHORT_LIVED, damage_blob};
use crate::outages::stand;

/// More than the 128 of `KeywayWaitersHigh`, concurrently.
const CROWD: usize = 300;

const MESSAGE: &[u8] = b"the message";

fn shop() -> KeyspaceName {
    "shop".parse().unwrap()
}

/// Waits for a log line that has all these parts.
fn wait_for_line(server: &Server, parts: &[&str]) {
    wait_until(&format!("a log line with {parts:?}"), WITHIN, || {
        let log = server.log();
        let mut lines = log.lines();
        lines.any(|line| parts.iter().all(|part| line.contains(part)))
    });
}

/// Creates `count` keys, `key-0` and so on.
fn generate(client: &Client, keyspace: &KeyspaceName, count: usize) -> Vec<KeyPath> {
    let path = |n| format!("{keyspace}/key-{n}").parse().unwrap();
    let keys: Vec<KeyPath> = (0..count).map(path).collect();
    let options = KeyOptions::default();
    let calls = keys
        .iter()
        .map(|key| client.submit(Call::key_generate(key, Algorithm::HmacSha256, options)));
    let pending: Vec<_> = calls.collect();
    for pending in pending {
        pending.wait().unwrap();
    }
    keys
}

/// Waits until `keyway doctor` reports this for this keyspace, as more than a note on the past.
fn doctor_names(server: &Server, id: &str, keyspace: &str) {
    let operator = Operator::new();
    wait_until(&format!("{id} in doctor's findings"), WITHIN, || {
        let said = operator.run(server, "keyway doctor --duration 2s --json");
        let document: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_default();
        let findings = document["findings"].as_array();
        findings.into_iter().flatten().any(|finding| {
            finding["id"] == id && finding["keyspace"] == keyspace && finding["severity"] != "note"
        })
    });
}

/// Uses every key once, concurrently, and ignores the results.
fn use_all(client: &Client, keys: &[KeyPath]) {
    let pending: Vec<_> = keys
        .iter()
        .map(|key| client.submit(Call::mac(key, MESSAGE)))
        .collect();
    for pending in pending {
        let _ = pending.wait();
    }
}

/// Uses the keys continuously, with a pause between the rounds, while `then` runs.
fn under_load(server: &Server, keys: &[KeyPath], pause: Duration, then: impl FnOnce()) {
    while_another(
        || {
            let client = server.client();
            move || {
                use_all(&client, keys);
                std::thread::sleep(pause);
            }
        },
        then,
    );
}

/// Repeats what `begin` returns on a thread of its own while `then` runs. The thread ends even if `then` fails.
fn while_another<R: FnMut()>(begin: impl FnOnce() -> R + Send, then: impl FnOnce()) {
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = begin();
            while !ends.load(Ordering::Relaxed) {
                round();
            }
        });
        let _ends = Ends(&ends);
        then();
    });
}

fn figure(server: &Server, name: &str, keyspace: &str) -> f64 {
    let series = format!("{name}{{keyspace=\"{keyspace}\"}}");
    server.metric(&series).unwrap_or(0.0)
}

/// A lease that ends when it is set, or shortly after, and one that ends in no test.
const ENDING: [(&str, &str); 1] = [("dek_lease_ms", "100")];
const LASTING: [(&str, &str); 1] = [("dek_lease_ms", "3600000")];

/// A keyspace at a real OpenBao, whose one key many clients request all the time.
struct Shop {
    bao: OpenBao,
    server: Server,
    key: KeyPath,
}

impl Shop {
    fn open(dir: &Path, wait_budget_us: &str) -> Option<Shop> {
        let (bao, setup) = stand(dir)?;
        let server = setup.start();
        let client = server.client();
        client.keyspace_create(&shop(), &[("kms", "bao")]).unwrap();
        let key = generate(&client, &shop(), 1).remove(0);
        past_the_start(|| client.mac(&key, MESSAGE)).unwrap();
        let patient = [("sign_wait_budget_us", wait_budget_us)];
        client.keyspace_set(&shop(), &patient).unwrap();
        Some(Shop { bao, server, key })
    }

    /// Makes OpenBao hang repeatedly while many clients request the key: each time the lease ends, and requests wait for
    /// the DEK. It hangs for `hang` and for twice that in turn: a request waits if the unwrap is expected within its
    /// budget, and a hang longer than the previous ones exceeds that. `then` runs concurrently.
    fn while_refreshes_hang(&self, hang: Duration, then: impl FnOnce()) {
        let crowd = vec![self.key.clone(); CROWD];
        let hold_up = || {
            let client = self.server.client();
            let mut hangs = [hang, 2 * hang].into_iter().cycle();
            move || {
                self.bao.pause();
                client.keyspace_set(&shop(), &ENDING).unwrap();
                std::thread::sleep(hangs.next().unwrap());
                client.keyspace_set(&shop(), &LASTING).unwrap();
                self.bao.resume();
                wait_until("the next lease", WITHIN, || {
                    client.mac(&self.key, MESSAGE).is_ok()
                });
            }
        };
        while_another(hold_up, || {
            under_load(&self.server, &crowd, Duration::from_millis(5), then);
        });
    }
}

#[test]
fn a_stuck_refresh() {
    if !has_program("promtool") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(shop) = Shop::open(dir.path(), "600000") else {
        return;
    };
    let server = &shop.server;
    let mut alerts = Alerts::watch(dir.path(), server);
    shop.while_refreshes_hang(Duration::from_millis(1_300), || {
        let timeouts = "singleflight_wait_timeout_total{keyspace=\"shop\"}";
        server.wait_for_metric(timeouts, |value| value > 50.0);
        alerts.wait_for(server, "KeywayWaitTimeoutBurst", "shop");
        alerts.wait_for(server, "KeywayWaitTimeouts", "shop");
        let parts = [
            "refresh wait timeout",
            "keyspace=\"shop\"",
            "key-0",
            "cause=\"dek_missing\"",
        ];
        wait_for_line(server, &parts);
        doctor_names(server, "wait-timeouts", "shop");
    });
}

#[test]
fn a_hot_key() {
    if !has_program("promtool") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(shop) = Shop::open(dir.path(), "1000000") else {
        return;
    };
    let server = &shop.server;
    let mut alerts = Alerts::watch(dir.path(), server);
    shop.while_refreshes_hang(Duration::from_millis(900), || {
        wait_until("a crowd that waits", WITHIN, || {
            figure(server, "singleflight_waiters", "shop") > 128.0
        });
        alerts.wait_for(server, "KeywayWaitersHigh", "shop");
        let hot = server
            .client()
            .keyspace_hot(&self::shop(), HotBy::Waiters, 1);
        let hot = hot.unwrap().value;
        assert_eq!(hot.keys[0].key, "key-0");
        assert!(hot.keys[0].waiters.count > 128, "{hot:?}");
        doctor_names(server, "waiters", "shop");
    });
}

#[test]
fn a_starved_prefetcher() {
    if !has_program("promtool") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let keys = generate(&client, &prod(), 200);
    let starved = [
        ("soft_ttl_ms", "100"),
        ("hard_ttl_ms", "60000"),
        ("jitter_pct", "0"),
        ("maxInFlight", "1"),
    ];
    client.keyspace_set(&prod(), &starved).unwrap();
    let mut alerts = Alerts::watch(dir.path(), &server);
    under_load(&server, &keys, Duration::ZERO, || {
        alerts.wait_for(&server, "KeywayPrefetchStarved", "prod");
        assert!(figure(&server, "prefetch_skipped_total", "prod") > 0.0);
        doctor_names(&server, "prefetch-starved", "prod");
        // The page's fix, and the healthy state.
        let room = [("maxInFlight", "1024")];
        let minutes = Duration::from_secs(900);
        client.keyspace_set_for(&prod(), &room, minutes).unwrap();
        alerts.wait_for_end(&server, "KeywayPrefetchStarved", "prod");
    });
}

#[test]
fn a_stopped_prefetcher() {
    if !has_program("promtool") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let keys = generate(&client, &prod(), 20);
    client.keyspace_set(&prod(), &SHORT_LIVED).unwrap();
    client
        .keyspace_set(&prod(), &[("maxInFlight", "0")])
        .unwrap();
    let mut alerts = Alerts::watch(dir.path(), &server);
    under_load(&server, &keys, Duration::from_millis(20), || {
        let scans = figure(&server, "prefetch_scan_total", "prod");
        alerts.wait_for(&server, "KeywayPrefetchStopped", "prod");
        let still = ["prefetch_scan_total", "prefetch_trigger_total"];
        let [after, triggered] = still.map(|name| figure(&server, name, "prod"));
        // The first value may be from a snapshot before the change.
        assert!(after - scans < 200.0, "{scans}, then {after}");
        let loads = figure(&server, "rehydrate_total", "prod");
        assert!(loads > triggered, "requests load what is not prefetched");
        doctor_names(&server, "prefetch-stopped", "prod");
        // The page's fix, and the healthy state.
        client
            .keyspace_set(&prod(), &[("maxInFlight", "64")])
            .unwrap();
        alerts.wait_for_end(&server, "KeywayPrefetchStopped", "prod");
        wait_until("the prefetcher", WITHIN, || {
            figure(&server, "prefetch_trigger_total", "prod") > triggered
        });
    });
}

#[test]
fn corrupt_blobs() {
    if !has_program("promtool") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let setup = Setup::new(&data).shards(2);
    let server = setup.start();
    // Ids of one length, none of which is a part of another.
    let path = |n| format!("prod/damaged-{n}").parse().unwrap();
    let keys: Vec<KeyPath> = (10..30).map(path).collect();
    for key in &keys {
        let options = KeyOptions::default();
        let made = server
            .client()
            .key_generate(key, Algorithm::HmacSha256, options);
        made.unwrap();
    }
    server.stop();
    for key in &keys {
        damage_blob(&data, key.key_id.as_str());
    }
    let server = setup.start();
    let client = server.client();
    let mut alerts = Alerts::watch(dir.path(), &server);
    for key in &keys {
        let error = past_the_start(|| client.mac(key, MESSAGE)).unwrap_err();
        assert_eq!(error.status(), Some(Status::Invalid), "{error}");
    }
    under_load(&server, &keys, Duration::from_millis(20), || {
        let failures = "rehydrate_fail_total{keyspace=\"prod\"}";
        server.wait_for_metric(failures, |value| value >= 20.0);
        alerts.wait_for(&server, "KeywayRehydrateFailures", "prod");
        let parts = [
            "key cache invalid",
            "keyspace=\"prod\"",
            "damaged-",
            "cause=Corrupt",
            "dek=\"held\"",
        ];
        wait_for_line(&server, &parts);
        doctor_names(&server, "rehydrate-failures", "prod");
    });
}

#[test]
fn a_lost_dek() {
    if !has_program("promtool") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    client.keyspace_create(&shop(), &[("kms", "bao")]).unwrap();
    let keys = generate(&client, &shop(), 5);
    let mut alerts = Alerts::watch(dir.path(), &server);
    under_load(&server, &keys, Duration::from_millis(20), || {
        wait_until("a key in use", WITHIN, || {
            figure(&server, "keyway_resident_keys", "shop") > 0.0
        });
        bao.remove_policy("keyway");
        client.keyspace_set(&shop(), &ENDING).unwrap();
        let denied = "keyway_keyspace_state{keyspace=\"shop\",state=\"denied\"}";
        server.wait_for_metric(denied, |value| value == 1.0);
        wait_for_line(
            &server,
            &["the KMS denied the keyspace", "keyspace=\"shop\""],
        );
        let share = "NEEDS_UNLOCK_rate{keyspace=\"shop\"} > 0.005";
        alerts.wait_until(&server, share, true);
        // The KMS's refusal has an alert of its own, with an additional label: the state.
        alerts.wait_for(&server, "KeywayKeyspaceDenied", "shop");
        alerts.wait_for(&server, "KeywayNeedsUnlock", "shop");
        doctor_names(&server, "keyspace-denied", "shop");
        doctor_names(&server, "needs-unlock", "shop");

        // The page's fix: the policy's right is restored, and an operator unlocks.
        bao.write_key_policy("keyway", "transit", "keyway");
        client.keyspace_set(&shop(), &LASTING).unwrap();
        client.unlock(&shop(), UnlockWith::Nothing).unwrap();
        past_the_start(|| client.mac(&keys[0], MESSAGE)).unwrap();
        alerts.wait_for_end(&server, "KeywayKeyspaceDenied", "shop");
    });
}
