//! KEY_LIST shows every key, whatever is written concurrently.
//!
//! Half of the listings of five keys under rotation omitted one: a key's record moved from behind the cursor to beyond
//! the end of the log that the page had measured.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::sync::atomic::{AtomicBool, Ordering};

use keyway_client::{Algorithm, KeyOptions, KeyPath};

use crate::common::{Server, prod};

const KEYS: usize = 5;
const LISTINGS: usize = 100;

#[test]
fn a_listing_under_rotation_lacks_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let keys: Vec<KeyPath> = (0..KEYS)
        .map(|key| format!("prod/key-{key}").parse().unwrap())
        .collect();
    for key in &keys {
        let options = KeyOptions::default();
        client
            .key_generate(key, Algorithm::Aes256Gcm, options)
            .unwrap();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for key in &keys {
            let client = server.client();
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let newest = client.key_rotate(key, None).unwrap().key_version;
                    client.key_trim(key, newest).unwrap();
                }
            });
        }
        let lister = server.client();
        let lacking: Vec<_> = (0..LISTINGS)
            .map(|_| lister.key_list(&prod()).unwrap())
            .filter(|listed| {
                let is_listed = |key: &KeyPath| listed.iter().any(|row| row.key_id == key.key_id);
                !keys.iter().all(is_listed)
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        assert_eq!(lacking.len(), 0, "of {LISTINGS}: {lacking:?}");
    });
}
