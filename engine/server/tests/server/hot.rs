//! `keyway hot`: the keys of all shards that are requested most, waited for most and take longest to load.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::common::{Server, Setup, WITHIN, prod};
use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Call, HotBy, HotFigure, HotKeys, Input, KeyOptions, KeyPath, Scheme, Status,
};

const KEYS: usize = 200;

/// The least span of the window of hot keys.
const MINUTE: Duration = Duration::from_secs(60);

fn key(index: usize) -> KeyPath {
    format!("prod/key-{index:03}").parse().unwrap()
}

fn generate(client: &Client) {
    let options = KeyOptions::default();
    let calls = (0..KEYS).map(|n| Call::key_generate(&key(n), Algorithm::HmacSha256, options));
    let pending: Vec<_> = calls.map(|call| client.submit(call)).collect();
    for pending in pending {
        pending.wait().unwrap();
    }
}

/// Requests a key that many times, concurrently.
fn ask(client: &Client, key: &KeyPath, times: usize) {
    let pending: Vec<_> = (0..times)
        .map(|_| client.submit(Call::mac(key, b"message")))
        .collect();
    for pending in pending {
        pending.wait().unwrap();
    }
}

/// Returns how often a key is requested: approximately by Zipf's law, and not in the order of the keys' names.
fn times(index: usize) -> usize {
    600 / (1 + (index + 137) % KEYS)
}

fn hot(client: &Client, by: HotBy, limit: u16) -> HotKeys {
    client.keyspace_hot(&prod(), by, limit).unwrap().value
}

fn holds(figure: HotFigure, exact: u64) -> bool {
    (figure.count - figure.excess_max..=figure.count).contains(&exact)
}

#[test]
fn the_key_that_is_asked_for_most_is_named_first_with_its_count() {
    while !the_hottest_are_named() {}
}

/// Returns `false` if the machine was too slow for a result: a minute passed, so that the window may have left something
/// out, or the client repeated a request whose load outlasted the wait budget.
fn the_hottest_are_named() -> bool {
    let hottest = KEYS - 137;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 3);
    let client = server.client();
    generate(&client);
    // Almost no client repeats a request, which would count as one more.
    let patient = [("sign_wait_budget_us", "1000000")];
    client.keyspace_set(&prod(), &patient).unwrap();
    assert_eq!(hot(&client, HotBy::Requests, 0).keys, []);
    let began = Instant::now();
    for index in 0..KEYS {
        ask(&client, &key(index), times(index));
    }
    let total: usize = (0..KEYS).map(times).sum();
    let found = hot(&client, HotBy::Requests, 20);
    if began.elapsed() >= MINUTE || asked_again(&server) {
        return false;
    }
    assert_eq!((found.by.as_str(), found.keys.len()), ("requests", 20));
    assert_eq!(found.requests_counted_one_in, 1);
    assert_eq!(found.totals.requests, total as u64);
    assert_eq!(found.keys[0].key, key(hottest).key_id.as_str());
    assert!(
        (1..=120_000).contains(&found.window_ms),
        "{}",
        found.window_ms
    );
    for row in &found.keys {
        let index: usize = row.key.trim_start_matches("key-").parse().unwrap();
        assert!(holds(row.requests, times(index) as u64), "{row:?}");
        assert!(usize::from(row.shard) < 3);
    }
    let counts: Vec<u64> = found.keys.iter().map(|row| row.requests.count).collect();
    assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
    assert!(found.unlisted_max <= counts[19], "{found:?}");
    // They come from every shard, each from the one that its clients use.
    let mut shards: Vec<u16> = found.keys.iter().map(|row| row.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    assert_eq!(shards, [0, 1, 2]);
    // Each key was cold once: a load, and at least the request that started it waited for it.
    let all = hot(&client, HotBy::RehydrateTime, 0);
    assert_eq!(all.keys.len(), 128);
    assert!(all.keys.iter().all(|row| row.rehydrate_us.count > 0));
    assert!(all.totals.rehydrate_us > 0 && all.totals.waiters >= KEYS as u64);
    // Missing keys are not in memory, but requests for them are still counted.
    let nobody: KeyPath = "prod/nobody".parse().unwrap();
    for _ in 0..700 {
        let answer = client.sign(&nobody, Scheme::Default, Input::Message(b""));
        assert_eq!(answer.unwrap_err().status(), Some(Status::NotFound));
    }
    let found = hot(&client, HotBy::Requests, 1);
    if began.elapsed() >= MINUTE {
        return false;
    }
    assert_eq!(found.keys[0].key, "nobody");
    true
}

/// Returns `true` if any request for a MAC was answered RETRY.
fn asked_again(server: &Server) -> bool {
    let outcome = |name| {
        let labels = format!("keyspace=\"prod\",operation=\"mac\",outcome=\"{name}\"");
        format!("keyway_requests_total{{{labels}}}")
    };
    // The snapshot that includes all of them.
    let asked = (0..KEYS).map(times).sum::<usize>() as f64;
    server.wait_for_metric(&outcome("ok"), |count| count == asked);
    server.metric(&outcome("retry")).unwrap_or(0.0) > 0.0
}

#[test]
fn the_key_whose_loads_are_waited_for_is_first_by_waiters() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 3);
    let client = server.client();
    generate(&client);
    // Loaded again by the first request after 200 ms, and never ahead.
    let settings = [
        ("soft_ttl_ms", "100"),
        ("hard_ttl_ms", "200"),
        ("jitter_pct", "0"),
        ("max_in_flight", "0"),
        ("sign_wait_budget_us", "1000000"),
    ];
    client.keyspace_set(&prod(), &settings).unwrap();
    let began = Instant::now();
    loop {
        // Another key is requested more often, sequentially: few requests wait for it.
        (0..200).for_each(|_| ask(&client, &key(1), 1));
        std::thread::sleep(Duration::from_millis(250));
        ask(&client, &key(7), 100);
        let by_waiters = hot(&client, HotBy::Waiters, 10);
        let by_requests = hot(&client, HotBy::Requests, 10);
        let first = &by_waiters.keys[0];
        if first.key == "key-007"
            && first.waiters.count > 50
            && by_requests.keys[0].key == "key-001"
        {
            assert!(first.waiters.count <= first.requests.count, "{first:?}");
            assert!(by_waiters.totals.waiters >= first.waiters.count);
            break;
        }
        assert!(began.elapsed() < WITHIN, "{by_waiters:?} {by_requests:?}");
    }
}

#[test]
fn client_that_may_not_list_keys_does_not_see_hot_keys() {
    let dir = tempfile::tempdir().unwrap();
    let passphrase = dir.path().join("passphrase");
    std::fs::write(&passphrase, b"correct horse battery staple").unwrap();
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Setup::new(&dir.path().join("data"))
        .production()
        .shards(3)
        .flag("--passphrase-file")
        .flag(passphrase.to_str().unwrap())
        .start();
    let owner = server.unix_client();
    owner
        .keyspace_create(&prod(), &[("allow:anonymous", "all")])
        .unwrap();
    let every_right_but_manage = "sign,verify,mac,encrypt,decrypt,derive,get,unlock";
    let grant = |rights| {
        owner
            .keyspace_set(&prod(), &[("allow:anonymous", rights)])
            .unwrap()
    };
    generate(&owner);
    ask(&owner, &key(5), 3);

    grant(every_right_but_manage);
    let anonymous = server.client();
    let refused = anonymous.keyspace_hot(&prod(), HotBy::Requests, 0);
    assert_eq!(refused.unwrap_err().status(), Some(Status::Forbidden));
    grant("manage");
    assert_eq!(hot(&anonymous, HotBy::Requests, 1).keys[0].key, "key-005");
    assert_eq!(hot(&owner, HotBy::Requests, 1).keys[0].key, "key-005");

    // On the exporter's port, which does not authenticate, no key is named.
    for path in ["/metrics", "/readyz", "/healthz", "/live.json", "/"] {
        assert!(!server.http(path).1.contains("key-005"), "{path}");
    }
}
