//! Unlocks after a restart: with a passphrase, and with three of five shares. Wrong secrets are refused with their
//! reason, and counted.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Custody, Input, KeyOptions, KeyPath, KeyspaceName, KmsState, Scheme, Status,
    UnlockState, UnlockStatus, UnlockWith,
};
use keyway_protocol::KmsName;

use crate::common::{Server, Setup, WITHIN, wait_until};

const PASSPHRASE: &[u8] = b"correct horse battery";

fn shop() -> KeyspaceName {
    "shop".parse().unwrap()
}

fn local() -> KmsName {
    "local".parse().unwrap()
}

fn key() -> KeyPath {
    "shop/alice".parse().unwrap()
}

fn sign(client: &Client) -> Result<Vec<u8>, Option<Status>> {
    let signed = client.sign(&key(), Scheme::Default, Input::Message(b"message"));
    signed
        .map(|answer| answer.value)
        .map_err(|error| error.status())
}

/// Starts a server without a KEK, a terminal or a passphrase, creates a KEK, and a keyspace with one key.
fn with_kek(setup: &Setup, custody: Custody<'_>) -> (Vec<Vec<u8>>, Vec<u8>) {
    let server = setup.start();
    let client = server.unix_client();
    let refused = client.keyspace_create(&shop(), &[]).unwrap_err();
    assert!(refused.to_string().contains("kms init"), "{refused}");
    let shares = client.kms_init(&local(), custody).unwrap().value;
    let shares = shares.into_iter().map(keyway_client::Secret::into_vec);
    let shares = shares.collect();
    let again = client.kms_init(&local(), custody).unwrap_err();
    assert!(again.to_string().contains("exists"), "{again}");
    client.keyspace_create(&shop(), &[]).unwrap();
    let options = KeyOptions::default();
    client
        .key_generate(&key(), Algorithm::Ed25519, options)
        .unwrap();
    let signature = sign(&client).unwrap();
    (shares, signature)
}

/// Starts an unlock and waits until it has ended or needs more shares.
fn unlock(client: &Client, with: UnlockWith<'_>) -> UnlockStatus {
    let ticket = client.unlock(&shop(), with).unwrap().value;
    let mut status = None;
    wait_until("the unlock", WITHIN, || {
        let now = client.unlock_status(&shop(), ticket).unwrap().value;
        let is_over = now.state != UnlockState::Pending || now.shares.is_some();
        status = Some(now);
        is_over
    });
    status.unwrap()
}

fn refusals(server: &Server) -> f64 {
    let series = "keyway_kms_calls_total{kms=\"local\",keyspace=\"shop\",operation=\"unlock\",outcome=\"denied\"}";
    server.metric(series).unwrap_or(0.0)
}

#[test]
fn with_a_passphrase() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2).production();
    let (shares, signature) = with_kek(&setup, Custody::Passphrase(PASSPHRASE));
    assert!(shares.is_empty());

    let server = setup.start();
    let client = server.unix_client();
    assert_eq!(sign(&client), Err(Some(Status::NeedsUnlock)));
    let nothing = unlock(&client, UnlockWith::Nothing);
    assert_eq!(nothing.state, UnlockState::Failed);
    assert!(nothing.message.contains("--passphrase"), "{nothing:?}");
    let wrong = unlock(&client, UnlockWith::Passphrase(b"wrong horse battery"));
    assert_eq!(wrong.state, UnlockState::Failed);
    assert!(wrong.message.contains("passphrase"), "{wrong:?}");
    let right = unlock(&client, UnlockWith::Passphrase(PASSPHRASE));
    assert_eq!(right.state, UnlockState::Done, "{right:?}");
    assert_eq!(sign(&client), Ok(signature));
    wait_for_refusals(&server, 1.0);
}

#[test]
fn with_three_of_five_shares() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2).production();
    let custody = Custody::Shares {
        count: 5,
        threshold: 3,
    };
    let (shares, signature) = with_kek(&setup, custody);
    assert_eq!(shares.len(), 5);

    let server = setup.start();
    let client = server.unix_client();
    assert_eq!(sign(&client), Err(Some(Status::NeedsUnlock)));
    let given = |share: &[u8]| unlock(&client, UnlockWith::Share(share));
    let first = given(&shares[4]);
    assert_eq!(first.shares.map(|s| (s.given, s.threshold)), Some((1, 3)));
    // A repeated share, one with a mistyped word, and a passphrase: none of them counts, and each has its reason.
    let same = given(&shares[4]);
    assert_eq!(same.state, UnlockState::Failed, "{same:?}");
    let mut words: Vec<&[u8]> = shares[0].split(|byte| *byte == b' ').collect();
    words.swap(5, 6);
    let mistyped = given(&words.join(&b' '));
    assert_eq!(mistyped.state, UnlockState::Failed, "{mistyped:?}");
    let passphrase = unlock(&client, UnlockWith::Passphrase(PASSPHRASE));
    assert!(passphrase.message.contains("share"), "{passphrase:?}");
    let second = given(&shares[0]);
    assert_eq!(second.shares.map(|s| (s.given, s.threshold)), Some((2, 3)));
    assert_eq!(sign(&client), Err(Some(Status::NeedsUnlock)));
    let third = given(&shares[2]);
    assert_eq!(third.state, UnlockState::Done, "{third:?}");
    assert_eq!(sign(&client), Ok(signature));
    wait_for_refusals(&server, 2.0);

    // Without a keyspace, the holders give them to the KMS.
    drop(server);
    let server = setup.start();
    let client = server.unix_client();
    for (share, state) in [
        (1, KmsState::Locked),
        (2, KmsState::Locked),
        (3, KmsState::Unlocked),
    ] {
        let given = client.kms_unlock(&local(), UnlockWith::Share(&shares[share]));
        assert_eq!(given.unwrap().value.state, state);
    }
    wait_until("the unlock", WITHIN, || sign(&client).is_ok());
}

fn wait_for_refusals(server: &Server, at_least: f64) {
    wait_until("the count of refusals", WITHIN, || {
        refusals(server) >= at_least
    });
}
