//! A key's versions over the wire: they stay until they are trimmed, one can be revoked, and a deleted key continues its
//! version numbers if it is created again.
//!
//! The ninth rotation used to drop version 1 silently: what it had encrypted could no longer be decrypted, and its
//! signatures did not verify.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime};

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Error, Input, KeyFormat, KeyOptions, KeyPath, Scheme, Secret, Status, UnlockWith,
};

use crate::common::held_kms::HeldKms;
use crate::common::{Server, Setup, WITHIN, past_the_start, prod, wait_until};

const MESSAGE: Input<'_> = Input::Message(b"pay 5 to bob");

fn path(text: &str) -> KeyPath {
    text.parse().unwrap()
}

fn generate(client: &Client, key: &str, algorithm: Algorithm) -> KeyPath {
    let key = path(key);
    let options = KeyOptions {
        exportable: true,
        ..KeyOptions::default()
    };
    client.key_generate(&key, algorithm, options).unwrap();
    key
}

fn refused<T: Debug>(result: Result<T, Error>) -> (Status, String) {
    let error = result.unwrap_err();
    (error.status().unwrap(), error.to_string())
}

fn status<T: Debug>(result: Result<T, Error>) -> Status {
    refused(result).0
}

fn decrypt(client: &Client, key: &KeyPath, sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let opened = past_the_start(|| client.decrypt(key, b"aad", sealed));
    opened.map(|answer| answer.value.to_vec())
}

#[test]
fn sixty_four_rotations_lose_nothing_and_what_does_not_fit_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    let key = generate(&client, "prod/k", Algorithm::Aes256Gcm);
    let signer = generate(&client, "prod/s", Algorithm::Ed25519);
    let signature = client
        .sign(&signer, Scheme::Default, MESSAGE)
        .unwrap()
        .value;
    let mut sealed = vec![client.encrypt(&key, b"aad", b"version 1").unwrap().value];
    for version in 2..=65 {
        assert_eq!(client.key_rotate(&key, None).unwrap().key_version, version);
        let text = format!("version {version}");
        sealed.push(client.encrypt(&key, b"aad", text.as_bytes()).unwrap().value);
        client.key_rotate(&signer, None).unwrap();
    }
    let check = |client: &Client| {
        for (version, sealed) in (1..).zip(&sealed) {
            let text = decrypt(client, &key, sealed).unwrap();
            assert_eq!(text, format!("version {version}").as_bytes());
        }
        for version in [0, 1] {
            let verified = client.verify(&signer, Scheme::Default, MESSAGE, &signature, version);
            assert_eq!(verified.unwrap().key_version, 1);
        }
    };
    check(&client);
    server.kill();
    let server = setup.start();
    let client = server.client();
    check(&client);
    let newest = loop {
        match client.key_rotate(&key, None) {
            Ok(answer) => assert!(answer.key_version < 1_000),
            Err(error) => break refused(Err::<(), _>(error)),
        }
    };
    assert_eq!(newest.0, Status::Conflict);
    assert!(newest.1.contains("keyway key trim"), "{}", newest.1);
    check(&client);
    // The remedy works, and is logged.
    let trimmed = client.key_trim(&key, 5).unwrap();
    assert_eq!(status(decrypt(&client, &key, &sealed[3])), Status::NotFound);
    assert_eq!(decrypt(&client, &key, &sealed[4]).unwrap(), b"version 5");
    let rotated = client.key_rotate(&key, None).unwrap();
    assert_eq!(rotated.key_version, trimmed.key_version + 1);
    wait_until("the line in the log", WITHIN, || {
        let log = server.log();
        log.contains("key trimmed") && log.contains("below")
    });
}

/// Keys in memory contain the versions that are taken away: they must not be used once the OK is sent, on any path of a
/// request.
#[test]
fn a_version_that_was_trimmed_or_revoked_is_gone_with_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let (client, other) = (server.client(), server.unix_client());
    for round in 0..10 {
        let key = generate(&client, &format!("prod/k{round}"), Algorithm::Aes256Gcm);
        let sealed: Vec<_> = (0..5)
            .map(|_| {
                let sealed = client.encrypt(&key, b"aad", b"text").unwrap().value;
                client.key_rotate(&key, None).unwrap();
                sealed
            })
            .collect();
        for sealed in &sealed {
            decrypt(&other, &key, sealed).unwrap();
        }
        client.key_revoke_version(&key, 3).unwrap();
        assert_eq!(status(decrypt(&other, &key, &sealed[2])), Status::Revoked);
        assert_eq!(status(decrypt(&client, &key, &sealed[2])), Status::Revoked);
        client.key_trim(&key, 2).unwrap();
        assert_eq!(status(decrypt(&other, &key, &sealed[0])), Status::NotFound);
        assert_eq!(status(decrypt(&client, &key, &sealed[0])), Status::NotFound);
        for sealed in [&sealed[1], &sealed[3], &sealed[4]] {
            decrypt(&other, &key, sealed).unwrap();
        }
        // Revoking it again changes nothing, and a rotation does not restore it.
        client.key_revoke_version(&key, 3).unwrap();
        client.key_rotate(&key, None).unwrap();
        assert_eq!(status(decrypt(&other, &key, &sealed[2])), Status::Revoked);
    }
    let key = path("prod/k0");
    let newest = client.public_key(&key, 0).map(|answer| answer.key_version);
    assert_eq!(status(newest), Status::Unsupported, "it is symmetric");
    let exported: Result<Secret, _> = client.get(&key, 3).map(|answer| answer.value);
    assert_eq!(status(exported.map(|_| ())), Status::Revoked);
    client.get(&key, 2).unwrap();
    server.kill();
    let server = setup.start();
    let client = server.client();
    let exported = past_the_start(|| client.get(&key, 3).map(|_| ()));
    assert_eq!(status(exported), Status::Revoked);
}

#[test]
fn the_newest_version_is_revoked_alone_and_a_rotation_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    let options = KeyOptions {
        exportable: true,
        ..KeyOptions::default()
    };
    let all = [
        Algorithm::Ed25519,
        Algorithm::EcdsaP256,
        Algorithm::HmacSha256,
        Algorithm::Aes256Gcm,
        Algorithm::HkdfSha256,
    ];
    let keys = all.map(|algorithm| (algorithm, path(&format!("prod/k{}", algorithm.code()))));
    let use_newest = |client: &Client, (algorithm, key): &(Algorithm, KeyPath)| {
        let used = past_the_start(|| match algorithm {
            Algorithm::HmacSha256 => client.mac(key, b"text").map(|it| it.key_version),
            Algorithm::Aes256Gcm => client.encrypt(key, b"", b"text").map(|it| it.key_version),
            Algorithm::HkdfSha256 => client.derive(key, b"", b"", 32).map(|it| it.key_version),
            _ => client
                .sign(key, Scheme::Default, MESSAGE)
                .map(|it| it.key_version),
        });
        let exported = past_the_start(|| client.get(key, 0).map(|it| it.key_version));
        assert_eq!(used.is_ok(), exported.is_ok());
        used
    };
    for of in &keys {
        client.key_generate(&of.1, of.0, options).unwrap();
        assert_eq!(use_newest(&client, of).unwrap(), 1);
        client.key_revoke_version(&of.1, 1).unwrap();
        assert_eq!(status(use_newest(&client, of)), Status::Revoked, "{}", of.1);
        assert_eq!(status(client.get(&of.1, 1).map(|_| ())), Status::Revoked);
    }
    server.kill();
    let server = setup.start();
    let client = server.client();
    for of in &keys {
        assert_eq!(status(use_newest(&client, of)), Status::Revoked, "{}", of.1);
        client.key_rotate(&of.1, None).unwrap();
        assert_eq!(use_newest(&client, of).unwrap(), 2);
        assert_eq!(status(client.get(&of.1, 1).map(|_| ())), Status::Revoked);
    }
    // With the next write of the key, the blob no longer has it either: see the list.
    let listed = client.key_list(&prod()).unwrap();
    for row in &listed {
        let versions = row.versions.unwrap().revoked_of(row.key_version);
        assert_eq!(versions.collect::<Vec<_>>(), [1], "{}", row.key_id);
    }
}

#[test]
fn versions_that_are_not_there_are_not_revoked_and_the_newest_is_not_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let key = generate(&client, "prod/k", Algorithm::Ed25519);
    let nobody = path("prod/nobody");
    assert_eq!(status(client.key_trim(&key, 2)), Status::Conflict);
    assert_eq!(status(client.key_revoke_version(&key, 2)), Status::NotFound);
    assert_eq!(status(client.key_trim(&nobody, 2)), Status::NotFound);
    assert_eq!(
        status(client.key_revoke_version(&nobody, 2)),
        Status::NotFound
    );
    client.key_rotate(&key, None).unwrap();
    client.key_revoke_version(&key, 1).unwrap();
    assert_eq!(client.key_trim(&key, 2).unwrap().key_version, 2);
    // What was trimmed is gone, and revoking it changes nothing.
    client.key_revoke_version(&key, 1).unwrap();
    assert_eq!(status(client.public_key(&key, 1)), Status::NotFound);
    client.sign(&key, Scheme::Default, MESSAGE).unwrap();
    client.key_revoke(&key).unwrap();
    assert_eq!(status(client.key_revoke_version(&key, 2)), Status::Revoked);
}

/// It needed the data key: nothing could be revoked while a keyspace was locked or its KMS did not answer.
#[test]
fn a_version_is_revoked_while_the_keyspace_is_locked_and_without_a_kms() {
    let dir = tempfile::tempdir().unwrap();
    let kms = HeldKms::start();
    let setup = kms.setup(dir.path()).shards(2);
    let server = setup.start();
    let owner = server.unix_client();
    owner.keyspace_create(&prod(), &[]).unwrap();
    let (locked, cold) = (path("prod/locked"), path("prod/cold"));
    let mut sealed = Vec::new();
    for key in [&locked, &cold] {
        let options = KeyOptions::default();
        owner
            .key_generate(key, Algorithm::Aes256Gcm, options)
            .unwrap();
        sealed.push(owner.encrypt(key, b"aad", b"text").unwrap().value);
        owner.key_rotate(key, None).unwrap();
    }
    owner.lock(&prod()).unwrap();
    owner.key_revoke_version(&locked, 1).unwrap();
    owner.unlock(&prod(), UnlockWith::Nothing).unwrap();
    wait_until("the unlock", WITHIN, || {
        owner.encrypt(&locked, b"aad", b"text").is_ok()
    });
    assert_eq!(
        status(decrypt(&owner, &locked, &sealed[0])),
        Status::Revoked
    );
    server.kill();

    kms.hold();
    let server = setup.start();
    let owner = server.unix_client();
    owner.key_revoke_version(&cold, 1).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| decrypt(&owner, &cold, &sealed[1]));
        kms.wait_until_asked();
        kms.release();
        assert_eq!(status(waits.join().unwrap()), Status::Revoked);
    });
    for (key, sealed) in [(&locked, &sealed[0]), (&cold, &sealed[1])] {
        assert_eq!(status(decrypt(&owner, key, sealed)), Status::Revoked);
        let sealed = owner.encrypt(key, b"aad", b"text").unwrap();
        assert_eq!(sealed.key_version, 2);
    }
}

#[test]
fn a_key_is_deleted_after_it_was_revoked_and_its_versions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    let key = generate(&client, "prod/k", Algorithm::Ed25519);
    client.key_rotate(&key, None).unwrap();
    let signature = client.sign(&key, Scheme::Default, MESSAGE).unwrap().value;
    let (code, text) = refused(client.key_delete(&key));
    assert_eq!(code, Status::Conflict);
    assert!(text.contains("revoke it first"), "{text}");
    client.key_revoke(&key).unwrap();
    client
        .keyspace_set(&prod(), &[("delete_wait_ms", "3600000")])
        .unwrap();
    let (code, text) = refused(client.key_delete(&key));
    assert_eq!(code, Status::Conflict);
    assert!(text.contains("delete_wait_ms"), "{text}");
    server.kill();
    // The setting and the time of the revocation survive a restart and a move.
    let server = Setup::new(&dir.path().join("data")).shards(1).start();
    let client = server.client();
    assert_eq!(status(client.key_delete(&key)), Status::Conflict);
    client
        .keyspace_set(&prod(), &[("delete_wait_ms", "0")])
        .unwrap();
    assert_eq!(client.key_delete(&key).unwrap().key_version, 2);
    assert_eq!(client.key_list(&prod()).unwrap().len(), 0);
    assert_eq!(status(client.key_delete(&key)), Status::NotFound);
    assert_eq!(status(client.key_revoke(&key)), Status::NotFound);
    let signed = past_the_start(|| client.sign(&key, Scheme::Default, MESSAGE));
    assert_eq!(status(signed), Status::NotFound);
    server.kill();
    let server = setup.start();
    let client = server.client();
    assert_eq!(client.key_list(&prod()).unwrap().len(), 0);
    // Created again it begins with version 3, and signatures of the old key are not valid for it.
    let options = KeyOptions::default();
    let made = client.key_generate(&key, Algorithm::Ed25519, options);
    assert_eq!(made.unwrap().key_version, 3);
    let verify = |version| client.verify(&key, Scheme::Default, MESSAGE, &signature, version);
    assert_eq!(status(verify(0)), Status::Mismatch);
    assert_eq!(status(verify(2)), Status::NotFound);
    let signed = client.sign(&key, Scheme::Default, MESSAGE).unwrap();
    assert_eq!(signed.key_version, 3);
    client.key_revoke(&key).unwrap();
    client.key_delete(&key).unwrap();
    let imported = client.key_import(
        &key,
        Some(Algorithm::HmacSha256),
        options,
        KeyFormat::Raw,
        &[7; 32],
    );
    assert_eq!(imported.unwrap().key_version, 4);
}

/// The waiting period was only tested by settings that are never, or immediately, over.
#[test]
fn a_key_can_be_deleted_once_its_waiting_period_is_over_and_not_before() {
    const WAIT: Duration = Duration::from_millis(1_000);
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(&dir.path().join("data")).shards(2).start();
    let client = server.client();
    client
        .keyspace_set(&prod(), &[("delete_wait_ms", "1000")])
        .unwrap();
    let key = generate(&client, "prod/k", Algorithm::Ed25519);
    let before = Instant::now();
    // The wait is one of the wall clock, which may be set while it lasts.
    let revoked_at = SystemTime::now();
    client.key_revoke(&key).unwrap();
    loop {
        match client.key_delete(&key) {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.status(), Some(Status::Conflict), "{error}");
                assert!(before.elapsed() < WITHIN, "{error}");
            }
        }
    }
    let waited = revoked_at.elapsed().unwrap();
    assert!(waited >= WAIT, "{waited:?}");
    assert_eq!(status(client.key_delete(&key)), Status::NotFound);
}
