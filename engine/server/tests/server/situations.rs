//! The situations of docs/RUNBOOK.md, each brought about on a live server. The metric moves as the page says, the
//! committed alert fires in a real Prometheus, and the log line is there.

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
use crate::common::prometheus::Prometheus;
use crate::common::{Server, Setup, has_program, past_the_start, prod, wait_until};
use crate::dashboards::alert_rules;
use crate::figures::{SHORT_LIVED, damage_blob};
use crate::outages::stand;

/// How long the slowest thing may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// How much shorter every time in the alerts is made: 5 minutes become 10 s. The rest of each rule is as committed.
const SHORTER: u64 = 30;

/// How often Prometheus scrapes and evaluates, so that the shortest time, 2 s, has several samples in it.
const INTERVAL: Duration = Duration::from_millis(400);

/// More than the 128 of `KeywayWaitersHigh`, at once.
const CROWD: usize = 300;

const MESSAGE: &[u8] = b"the message";

fn shop() -> KeyspaceName {
    "shop".parse().unwrap()
}

/// `5m` as seconds; none if it is no time in minutes or hours.
fn seconds(time: &str) -> Option<u64> {
    let unit = match time.chars().last()? {
        'm' => 60,
        'h' => 3_600,
        _ => return None,
    };
    let count: u64 = time[..time.len() - 1].parse().ok()?;
    Some(count * unit)
}

/// The committed rules with every range (`[5m]`) and every `for: 5m` divided by [`SHORTER`]; expressions and limits stay.
/// So a rule that counts (`increase(…[5m]) > 10`) asks for the same rise in less time, a rate asks for the same rate, and
/// what has to last (`for`) has to last less long: when each fires to the minute is for promtool's tests in docs/alerts.
fn shortened_rules() -> String {
    let mut changed = 0;
    let mut shorter = |time: &str| {
        let time = seconds(time).unwrap_or_else(|| panic!("{time} is no time"));
        changed += 1;
        format!("{}s", time / SHORTER)
    };
    let mut rules = String::new();
    for line in alert_rules().lines() {
        let mut rest = line;
        if let Some((indent, time)) = line.split_once("for: ")
            && indent.trim().is_empty()
        {
            rules += &format!("{indent}for: {}\n", shorter(time));
            continue;
        }
        while let Some((before, after)) = rest.split_once('[')
            && !line.trim_start().starts_with('#')
        {
            let (time, after) = after.split_once(']').unwrap();
            rules += &format!("{before}[{}]", shorter(time));
            rest = after;
        }
        rules += &format!("{rest}\n");
    }
    assert!(changed > 40, "only {changed} times were found");
    rules
}

/// A Prometheus with the shortened rules that has scraped the server, so that every counter's step is seen.
fn watch(dir: &Path, server: &Server) -> Prometheus {
    let target = server.endpoints["metrics"].as_str().unwrap();
    let prometheus = Prometheus::start_every(dir, target, &shortened_rules(), INTERVAL);
    wait_until("the first scrape", WITHIN, || {
        !prometheus.query("rehydrate_fail_total").is_empty()
    });
    prometheus
}

fn wait_for_alert(prometheus: &Prometheus, name: &str, keyspace: &str) {
    let firing =
        format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\",keyspace=\"{keyspace}\"}}");
    wait_until(name, WITHIN, || prometheus.query(&firing) == [1.0]);
}

fn wait_for_no_alert(prometheus: &Prometheus, name: &str, keyspace: &str) {
    let alert = format!("ALERTS{{alertname=\"{name}\",keyspace=\"{keyspace}\"}}");
    wait_until("the end of the alert", WITHIN, || {
        prometheus.query(&alert).is_empty()
    });
}

/// Waits for a log line that has all these parts.
fn wait_for_line(server: &Server, parts: &[&str]) {
    wait_until(&format!("a log line with {parts:?}"), WITHIN, || {
        let log = server.log();
        let mut lines = log.lines();
        lines.any(|line| parts.iter().all(|part| line.contains(part)))
    });
}

/// Makes `count` keys, `key-0` and so on.
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

/// Waits until `keyway doctor` finds this in this keyspace, as more than a note on what is over.
fn doctor_names(server: &Server, id: &str, keyspace: &str) {
    let operator = Operator::new();
    wait_until(&format!("{id} in doctor's findings"), WITHIN, || {
        let said = operator.run(server, "keyway doctor --watch-for 2s --json");
        let document: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_default();
        let findings = document["findings"].as_array();
        findings.into_iter().flatten().any(|finding| {
            finding["id"] == id && finding["keyspace"] == keyspace && finding["severity"] != "note"
        })
    });
}

/// Uses every key once, all at the same time, and takes what comes.
fn use_all(client: &Client, keys: &[KeyPath]) {
    let pending: Vec<_> = keys
        .iter()
        .map(|key| client.submit(Call::mac(key, MESSAGE)))
        .collect();
    for pending in pending {
        let _ = pending.wait();
    }
}

/// Uses the keys on and on, with a pause between the rounds, while `then` runs.
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

/// Repeats what `begin` makes on a thread of its own while `then` runs. If `then` fails, the thread ends all the same.
fn while_another<R: FnMut()>(begin: impl FnOnce() -> R + Send, then: impl FnOnce()) {
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
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

/// So short that it ends during each hang of OpenBao. It is renewed at half: who comes at its end finds a question
/// that is 200 ms old, and waits if the wait budget has room for that.
const LEASE_MS: &str = "400";

/// A keyspace at a real OpenBao, whose one key is asked for by a crowd all the time.
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
        let settings = [
            ("dek_lease_ms", LEASE_MS),
            ("sign_wait_budget_us", wait_budget_us),
        ];
        client.keyspace_set(&shop(), &settings).unwrap();
        Some(Shop { bao, server, key })
    }

    /// OpenBao hangs for `hang`, again and again, while a crowd asks for the key: each time the lease ends, and who asks
    /// waits for the DEK. `then` runs meanwhile.
    fn while_refreshes_hang(&self, hang: Duration, then: impl FnOnce()) {
        let crowd = vec![self.key.clone(); CROWD];
        let hold_up = || {
            || {
                self.bao.pause();
                std::thread::sleep(hang);
                self.bao.resume();
                std::thread::sleep(Duration::from_millis(300));
            }
        };
        while_another(hold_up, || {
            under_load(&self.server, &crowd, Duration::from_millis(5), then);
        });
    }
}

#[test]
fn a_stuck_refresh() {
    if !has_program("prometheus") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(shop) = Shop::open(dir.path(), "600000") else {
        return;
    };
    let server = &shop.server;
    let prometheus = watch(dir.path(), server);
    shop.while_refreshes_hang(Duration::from_millis(1_300), || {
        let timeouts = "singleflight_wait_timeout_total{keyspace=\"shop\"}";
        server.wait_for_metric(timeouts, |value| value > 50.0);
        wait_for_alert(&prometheus, "KeywayWaitTimeoutBurst", "shop");
        wait_for_alert(&prometheus, "KeywayWaitTimeouts", "shop");
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
    if !has_program("prometheus") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Whoever asks waits for as long as one hang lasts: nobody is told to come again.
    let Some(shop) = Shop::open(dir.path(), "1000000") else {
        return;
    };
    let server = &shop.server;
    let prometheus = watch(dir.path(), server);
    shop.while_refreshes_hang(Duration::from_millis(900), || {
        wait_until("a crowd that waits", WITHIN, || {
            figure(server, "singleflight_waiters", "shop") > 128.0
        });
        wait_for_alert(&prometheus, "KeywayWaitersHigh", "shop");
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
    if !has_program("prometheus") {
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
    let prometheus = watch(dir.path(), &server);
    under_load(&server, &keys, Duration::ZERO, || {
        wait_for_alert(&prometheus, "KeywayPrefetchStarved", "prod");
        assert!(figure(&server, "prefetch_skipped_total", "prod") > 0.0);
        doctor_names(&server, "prefetch-starved", "prod");
        // The page's way out, and what good looks like.
        let room = [("maxInFlight", "1024")];
        let minutes = Duration::from_secs(900);
        client.keyspace_set_for(&prod(), &room, minutes).unwrap();
        wait_for_no_alert(&prometheus, "KeywayPrefetchStarved", "prod");
    });
}

#[test]
fn a_stopped_prefetcher() {
    if !has_program("prometheus") {
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
    let prometheus = watch(dir.path(), &server);
    under_load(&server, &keys, Duration::from_millis(20), || {
        let scans = figure(&server, "prefetch_scan_total", "prod");
        wait_for_alert(&prometheus, "KeywayPrefetchStopped", "prod");
        let still = ["prefetch_scan_total", "prefetch_trigger_total"];
        let [after, triggered] = still.map(|name| figure(&server, name, "prod"));
        // The first figure may be from a snapshot before the switch.
        assert!(after - scans < 200.0, "{scans}, then {after}");
        let loads = figure(&server, "rehydrate_total", "prod");
        assert!(loads > triggered, "requests load what nobody prefetches");
        doctor_names(&server, "prefetch-stopped", "prod");
        // The page's way out, and what good looks like.
        client
            .keyspace_set(&prod(), &[("maxInFlight", "64")])
            .unwrap();
        wait_for_no_alert(&prometheus, "KeywayPrefetchStopped", "prod");
        wait_until("the prefetcher", WITHIN, || {
            figure(&server, "prefetch_trigger_total", "prod") > triggered
        });
    });
}

#[test]
fn corrupt_blobs() {
    if !has_program("prometheus") {
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
    let prometheus = watch(dir.path(), &server);
    for key in &keys {
        let error = past_the_start(|| client.mac(key, MESSAGE)).unwrap_err();
        assert_eq!(error.status(), Some(Status::Invalid), "{error}");
    }
    under_load(&server, &keys, Duration::from_millis(20), || {
        let failures = "rehydrate_fail_total{keyspace=\"prod\"}";
        server.wait_for_metric(failures, |value| value >= 20.0);
        wait_for_alert(&prometheus, "KeywayRehydrateFailures", "prod");
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
    if !has_program("prometheus") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    let settings = [("kms", "bao"), ("dek_lease_ms", "2000")];
    client.keyspace_create(&shop(), &settings).unwrap();
    let keys = generate(&client, &shop(), 5);
    let prometheus = watch(dir.path(), &server);
    under_load(&server, &keys, Duration::from_millis(20), || {
        wait_until("a key in use", WITHIN, || {
            figure(&server, "keyway_resident_keys", "shop") > 0.0
        });
        bao.remove_policy("keyway");
        let denied = "keyway_keyspace_state{keyspace=\"shop\",state=\"denied\"}";
        server.wait_for_metric(denied, |value| value == 1.0);
        wait_for_line(
            &server,
            &["the KMS denied the keyspace", "keyspace=\"shop\""],
        );
        let rate = "NEEDS_UNLOCK_rate{keyspace=\"shop\"}";
        wait_until(
            "NEEDS_UNLOCK",
            WITHIN,
            || matches!(prometheus.query(rate)[..], [share] if share > 0.005),
        );
        // The KMS's refusal is told by an alert of its own: it has a label more, the state.
        wait_for_alert(&prometheus, "KeywayKeyspaceDenied", "shop");
        wait_for_alert(&prometheus, "KeywayNeedsUnlock", "shop");
        doctor_names(&server, "keyspace-denied", "shop");
        doctor_names(&server, "needs-unlock", "shop");

        // The page's way out: what the policy allowed is given back, and somebody unlocks.
        bao.write_key_policy("keyway", "transit", "keyway");
        client.unlock(&shop(), UnlockWith::Nothing).unwrap();
        past_the_start(|| client.mac(&keys[0], MESSAGE)).unwrap();
        wait_for_no_alert(&prometheus, "KeywayKeyspaceDenied", "shop");
    });
}
