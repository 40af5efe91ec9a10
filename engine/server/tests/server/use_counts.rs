//! The number of encryptions of AEAD keys survives the process, however it ends.
//!
//! The counts were in memory: each restart began again with 2^32 encryptions, which is the total that random nonces
//! allow.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, KeyOptions, KeyPath};

use crate::common::{Setup, past_the_start};

/// The share of its encryptions that the most used key has made.
const RATIO: &str = "keyway_aead_uses_ratio{keyspace=\"prod\"}";

/// A block of encryptions that is reserved at a time, as such a share.
const BLOCK: f64 = (1_u64 << 24) as f64 / (1_u64 << 32) as f64;

fn key() -> KeyPath {
    "prod/k".parse().unwrap()
}

fn encrypt(client: &Client) -> Vec<u8> {
    let sealed = past_the_start(|| client.encrypt(&key(), b"", b"text"));
    sealed.unwrap().value
}

#[test]
fn a_crash_costs_a_block_and_a_clean_stop_nothing_whatever_the_number_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let setup = |shards| Setup::new(&dir.path().join("data")).shards(shards);
    let server = setup(2).start();
    let options = KeyOptions::default();
    server
        .client()
        .key_generate(&key(), Algorithm::Aes256Gcm, options)
        .unwrap();
    let mut sealed = encrypt(&server.client());
    server.wait_for_metric(RATIO, |ratio| 0.0 < ratio && ratio < BLOCK);
    server.kill();
    for (crashes, shards) in [(1.0, 1), (2.0, 3)] {
        let server = setup(shards).start();
        let client = server.client();
        let opened = past_the_start(|| client.decrypt(&key(), b"", &sealed));
        assert_eq!(&*opened.unwrap().value, b"text");
        sealed = encrypt(&client);
        let expected = crashes * BLOCK;
        server.wait_for_metric(RATIO, |ratio| ratio > expected);
        assert!(server.metric(RATIO).unwrap() < expected + BLOCK);
        server.kill();
    }
    for _ in 0..2 {
        let server = setup(2).start();
        encrypt(&server.client());
        server.wait_for_metric(RATIO, |ratio| ratio > 3.0 * BLOCK);
        assert!(server.metric(RATIO).unwrap() < 4.0 * BLOCK);
        server.stop();
    }
    // A new version has all of its encryptions left.
    let server = setup(2).start();
    let client = server.client();
    past_the_start(|| client.key_rotate(&key(), None)).unwrap();
    encrypt(&client);
    server.wait_for_metric(RATIO, |ratio| 0.0 < ratio && ratio < BLOCK);
}

/// If the count cannot be saved, encryption is refused; decryption still works.
#[test]
fn a_count_that_cannot_be_written_down_stops_encrypting_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let server = setup.start();
    let client = server.client();
    let options = KeyOptions::default();
    client
        .key_generate(&key(), Algorithm::Aes256Gcm, options)
        .unwrap();
    let sealed = encrypt(&client);
    server.kill();
    let server = setup.start();
    crate::key_writes::limit(&server, rustix::process::Resource::Fsize, Some(0));
    let client = crate::key_writes::impatient(&server);
    let opened = past_the_start(|| client.decrypt(&key(), b"", &sealed));
    assert_eq!(&*opened.unwrap().value, b"text");
    crate::key_writes::refused("nothing was encrypted", || {
        client.encrypt(&key(), b"", b"text").map(|_| ())
    });
}
