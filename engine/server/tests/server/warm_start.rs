//! A restart begins with the keys that were hot before it, and reports its progress.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, KeyOptions, KeyPath, KeyspaceName, UnlockState, UnlockWith};

use crate::common::{Server, Setup, WITHIN, past_the_start, wait_until};

/// Keys of each keyspace, the first half of them in use.
const KEYS: usize = 40;
const HOT: usize = KEYS / 2;

fn keyspace(name: &str) -> KeyspaceName {
    name.parse().unwrap()
}

fn keys(keyspace: &str) -> Vec<KeyPath> {
    let path = |n| format!("{keyspace}/key-{n}").parse().unwrap();
    (0..KEYS).map(path).collect()
}

fn generate(client: &Client, keys: &[KeyPath]) {
    for key in keys {
        past_the_start(|| client.key_generate(key, Algorithm::HmacSha256, KeyOptions::default()))
            .unwrap();
    }
}

fn use_keys(client: &Client, keys: &[KeyPath]) {
    for key in keys {
        past_the_start(|| client.mac(key, b"message")).unwrap();
    }
}

fn readyz(server: &Server) -> (bool, serde_json::Value) {
    let (head, body) = server.http("/readyz");
    (head.contains("200"), serde_json::from_str(&body).unwrap())
}

fn until_ready(server: &Server) -> serde_json::Value {
    let mut document = serde_json::Value::Null;
    wait_until("the warm start", WITHIN, || {
        let ready;
        (ready, document) = readyz(server);
        assert_eq!(document["ready"], ready);
        ready
    });
    document
}

fn of(series: &str, keyspace: &str) -> String {
    format!("{series}{{keyspace=\"{keyspace}\"}}")
}

#[test]
fn hot_keys_are_loaded_ahead_without_waiting_for_a_locked_keyspace() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Setup::new(&data).shards(2).start();
    assert_eq!(until_ready(&server)["warm_start_keys"], 0);
    let client = server.client();
    client.keyspace_create(&keyspace("vault"), &[]).unwrap();
    for keyspace in ["prod", "vault"] {
        generate(&client, &keys(keyspace));
        // Twice: the first use loads a key, the second finds it.
        use_keys(&client, &keys(keyspace)[..HOT]);
        use_keys(&client, &keys(keyspace)[..HOT]);
    }
    client.lock(&keyspace("vault")).unwrap();
    server.stop();

    // With another number of shards, most keys have another owner. Those of the locked keyspace remain listed.
    for shards in [3, 1] {
        let server = Setup::new(&data).shards(shards).start();
        let ready = until_ready(&server);
        assert_eq!(ready["warm_start_done"], true, "{ready}");
        assert_eq!(ready["warm_start_keys"], 2 * HOT, "{ready}");
        assert_eq!(ready["warm_start_keys_left"], HOT, "{ready}");
        assert_eq!(ready["locked_keyspaces"][0], "vault", "{ready}");
        server.wait_for_metric(&of("keyway_prefetch_warm_total", "prod"), |n| {
            n == HOT as f64
        });
        server.wait_for_metric(&of("keyway_resident_keys", "prod"), |n| n == HOT as f64);
        use_keys(&server.client(), &keys("prod")[..HOT]);
        server.wait_for_metric(&of("keyway_hits_total", "prod"), |n| n == HOT as f64);
        assert_eq!(server.metric(&of("keyway_misses_total", "prod")), Some(0.0));
        assert_eq!(
            server.metric(&of("keyway_resident_keys", "vault")),
            Some(0.0)
        );
        server.wait_for_log("warm start done");
        server.stop();
    }

    let server = Setup::new(&data).shards(2).start();
    until_ready(&server);
    let client = server.client();
    let ticket = client
        .unlock(&keyspace("vault"), UnlockWith::Nothing)
        .unwrap()
        .value;
    wait_until("the unlock", WITHIN, || {
        let status = client.unlock_status(&keyspace("vault"), ticket).unwrap();
        status.value.state == UnlockState::Done
    });
    server.wait_for_metric(&of("keyway_prefetch_warm_total", "vault"), |n| {
        n == HOT as f64
    });
    assert_eq!(
        server.metric(&of("keyway_misses_total", "vault")),
        Some(0.0)
    );
    let left: f64 = (0..2)
        .filter_map(|shard| {
            server.metric(&format!(
                "keyway_shard_warm_start_keys_left{{shard=\"{shard}\"}}"
            ))
        })
        .sum();
    assert_eq!(left, 0.0);
}

#[test]
fn a_damaged_list_makes_a_cold_start_and_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Setup::new(&data).shards(2).start();
    let client = server.client();
    generate(&client, &keys("prod"));
    use_keys(&client, &keys("prod"));
    use_keys(&client, &keys("prod"));
    server.stop();
    let file = data.join("hot_keys.txt");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 1 + KEYS, "{text}");
    std::fs::write(&file, text.replace("\n1 ", "\none ")).unwrap();
    let server = Setup::new(&data).shards(2).start();
    assert_eq!(until_ready(&server)["warm_start_keys"], 0);
    server.wait_for_log("hot_keys.txt, line 2: `one ");
    use_keys(&server.client(), &keys("prod"));
}
