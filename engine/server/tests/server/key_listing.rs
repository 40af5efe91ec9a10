//! KEY_LIST shows every key, whatever is written concurrently, with the state of its versions.
//!
//! Half of the listings of five keys under rotation omitted one: a key's record moved from behind the cursor to beyond
//! the end of the log that the page had measured. A damaged key was listed as active, and nothing showed which versions
//! were left and which of them revoked.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::sync::atomic::{AtomicBool, Ordering};

use keyway_client::{Algorithm, KeyOptions, KeyPath, KeyState};

use crate::command_line::operator::Operator;
use crate::common::{Ends, Server, Setup, prod};
use crate::figures::damage_blob;

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
        let _done = Ends(&done);
        let lister = server.client();
        let lacking: Vec<_> = (0..LISTINGS)
            .map(|_| lister.key_list(&prod()).unwrap())
            .filter(|listed| {
                let is_listed = |key: &KeyPath| listed.iter().any(|row| row.key_id == key.key_id);
                !keys.iter().all(is_listed)
            })
            .collect();
        assert_eq!(lacking.len(), 0, "of {LISTINGS}: {lacking:?}");
    });
}

/// As `keyway key list` shows it: name, newest version, state, oldest version, revoked versions.
type Row = (String, u32, KeyState, Option<u32>, Vec<u32>);

fn rows(server: &Server) -> Vec<Row> {
    let keys = server.client().key_list(&prod()).unwrap();
    let rows = keys.into_iter().map(|key| {
        let revoked = key.versions.into_iter();
        let revoked = revoked.flat_map(|versions| versions.revoked_of(key.key_version));
        let oldest = key.versions.map(|versions| versions.oldest);
        let revoked = revoked.collect();
        (
            key.key_id.to_string(),
            key.key_version,
            key.state,
            oldest,
            revoked,
        )
    });
    rows.collect()
}

#[test]
fn a_listing_shows_trimmed_and_revoked_versions_also_while_locked_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    let options = KeyOptions::default();
    for (name, rotations) in [("aead", 5), ("gone", 1), ("new", 0)] {
        let key = format!("prod/{name}").parse().unwrap();
        client
            .key_generate(&key, Algorithm::Aes256Gcm, options)
            .unwrap();
        for _ in 0..rotations {
            client.key_rotate(&key, None).unwrap();
        }
    }
    let (aead, gone) = ("prod/aead".parse().unwrap(), "prod/gone".parse().unwrap());
    client.key_revoke_version(&aead, 5).unwrap();
    client.key_revoke_version(&aead, 3).unwrap();
    client.key_trim(&aead, 3).unwrap();
    client.key_revoke(&gone).unwrap();
    let expected = [
        ("aead".to_owned(), 6, KeyState::Active, Some(3), vec![3, 5]),
        ("gone".to_owned(), 2, KeyState::Revoked, None, vec![]),
        ("new".to_owned(), 1, KeyState::Active, Some(1), vec![]),
    ];
    assert_eq!(rows(&server), expected);
    client.lock(&prod()).unwrap();
    assert_eq!(rows(&server), expected);
    server.kill();
    assert_eq!(
        rows(&Setup::new(&dir.path().join("data")).shards(1).start()),
        expected
    );
}

/// Damage under a running server, and damage that a start finds. What the command line names as the remedy is run.
#[test]
fn a_damaged_key_is_listed_as_that_with_remedies_that_work() {
    let operator = Operator::new();
    let setup = Setup::new(&operator.path("data")).shards(1);
    let server = setup.start();
    let listed = "keyway key list prod; keyway --json key list prod > list.json";
    let made = operator.shell(
        &server,
        &format!(
            "openssl genpkey -algorithm ed25519 -out kept.pem
         keyway key import prod/kept-elsewhere --file kept.pem
         keyway key generate prod/lost-for-good --alg ed25519
         keyway key generate prod/whole --alg ed25519
         {listed}"
        ),
    );
    let out = made.done();
    assert!(
        out.contains("3 keys\n") && !out.contains("damaged"),
        "{out}"
    );
    damage_blob(&operator.path("data"), "kept-elsewhere");
    damage_blob(&operator.path("data"), "lost-for-good");
    let check = |server: &Server| {
        let out = operator.shell(server, listed).done();
        for words in [
            "kept-elsewhere        1  -          damaged       -  -\n",
            "lost-for-good         1  -          damaged       -  -\n",
            "whole                 1  ed25519    active        1  -\n",
            "2 keys damaged",
            "keyway key import",
            "keyway key revoke",
            "keyway key delete",
        ] {
            assert!(out.contains(words), "{words:?} is not in {out}");
        }
        let json = std::fs::read_to_string(operator.path("list.json")).unwrap();
        assert_eq!(json.matches("\"state\":\"damaged\"").count(), 2, "{json}");
    };
    check(&server);
    server.stop();
    let server = setup.start();
    check(&server);
    let mended = operator.shell(
        &server,
        "keyway key import prod/kept-elsewhere --file kept.pem
         keyway key revoke prod/lost-for-good
         keyway key delete prod/lost-for-good
         keyway key list prod
         keyway key generate prod/lost-for-good --alg ed25519",
    );
    let out = mended.done();
    assert!(
        out.contains("2 keys\n") && !out.contains("damaged"),
        "{out}"
    );
    let states = rows(&server).into_iter().map(|row| row.2);
    assert!(states.eq([KeyState::Active; 3]));
}
