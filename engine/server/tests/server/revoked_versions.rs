//! What the server keeps in memory of versions that were revoked alone ends with the versions. It was kept forever, so that a
//! client with the right to manage keys could fill the memory with revocations of versions that were long trimmed.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::{Algorithm, KeyOptions, KeyPath, Status};

use crate::common::{Setup, WITHIN, past_the_start, wait_until};

const KEYS: usize = 10;
const ROUNDS: u32 = 100;

fn metric(shard: usize) -> String {
    format!("keyway_shard_store_revoked_versions{{shard=\"{shard}\"}}")
}

/// A thousand rounds in all.
#[test]
fn rounds_of_revoking_and_trimming_leave_nothing_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data"));
    let server = setup.clone().shards(1).start();
    let client = server.client();
    let keys: Vec<KeyPath> = (0..KEYS)
        .map(|key| format!("prod/k{key}").parse().unwrap())
        .collect();
    for key in &keys {
        let options = KeyOptions::default();
        client
            .key_generate(key, Algorithm::HmacSha256, options)
            .unwrap();
    }
    std::thread::scope(|scope| {
        for key in &keys {
            let client = server.client();
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let newest = client.key_rotate(key, None).unwrap().key_version;
                    client.key_revoke_version(key, newest - 1).unwrap();
                    client.key_trim(key, newest).unwrap();
                    // Nothing is written for what is gone.
                    client.key_revoke_version(key, newest - 1).unwrap();
                }
                let newest = ROUNDS + 1;
                client.key_revoke_version(key, newest).unwrap();
            });
        }
    });
    // The newest versions, which their blobs hold.
    server.wait_for_metric(&metric(0), |value| value == KEYS as f64);
    // With the next version, the next write leaves them out.
    for key in &keys {
        client.key_rotate(key, None).unwrap();
    }
    server.wait_for_metric(&metric(0), |value| value == 0.0);
    for key in &keys {
        client.key_revoke_version(key, ROUNDS + 2).unwrap();
    }
    server.kill();
    // The same after a restart, and after a move to another number of shards.
    let server = setup.shards(2).start();
    let client = server.client();
    let count = |shard| server.metric(&metric(shard)).unwrap_or_default();
    wait_until("the metric", WITHIN, || count(0) + count(1) == KEYS as f64);
    for key in &keys {
        let mac = past_the_start(|| client.mac(key, b"text"));
        let status = mac.unwrap_err().status();
        assert_eq!(status, Some(Status::Revoked));
        client.key_revoke(key).unwrap();
    }
    wait_until("the metric", WITHIN, || count(0) + count(1) == 0.0);
}
