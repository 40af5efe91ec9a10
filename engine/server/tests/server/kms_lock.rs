//! Locking a KMS, and everything: its keys are wiped, its keyspaces are not served, and only its secret opens them again.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Error, KeyOptions, KeyPath, KeyspaceName, KmsName, Status, UnlockState, UnlockWith,
};
use keyway_client::{KeyFormat, Usage};
use keyway_protocol::{
    KeyGenerate, KeyImport, KeyRotate, KeyspaceCreate, Material, NewKey, Octets, Request, Settings,
};
use serde_json::Value;

use crate::common::held_kms::HeldKms;
use crate::common::pipeline::Pipeline;
use crate::common::{Server, Setup, past_the_start, wait_until};
use crate::rotation::stand;

const WITHIN: Duration = Duration::from_secs(60);
const PASSPHRASE: &[u8] = b"correct horse battery";

fn name(keyspace: &str) -> KeyspaceName {
    keyspace.parse().unwrap()
}

fn key(keyspace: &str) -> KeyPath {
    format!("{keyspace}/alice").parse().unwrap()
}

fn local() -> KmsName {
    "local".parse().unwrap()
}

fn mac(client: &Client, keyspace: &str) -> Result<(), Error> {
    client.mac(&key(keyspace), b"message").map(drop)
}

fn generate(client: &Client, keyspace: &str) {
    let options = KeyOptions::default();
    let made = client.key_generate(&key(keyspace), Algorithm::HmacSha256, options);
    made.unwrap();
    past_the_start(|| mac(client, keyspace)).unwrap();
}

/// Starts a server under a passphrase with keyspaces `a` and `b`, a key in each. `kms`: more of the KMS's table.
fn start(dir: &Path, kms: &str) -> (Setup, Server, Client) {
    let passphrase = dir.join("passphrase");
    std::fs::write(&passphrase, PASSPHRASE).unwrap();
    std::fs::set_permissions(&passphrase, Permissions::from_mode(0o600)).unwrap();
    let config = dir.join("keywayd.toml");
    std::fs::write(&config, format!("[kms.local]\nprovider = \"local\"\n{kms}")).unwrap();
    let setup = Setup::new(&dir.join("data")).shards(2).production();
    let setup = setup.flag("--config").flag(config.to_str().unwrap());
    let setup = setup
        .flag("--passphrase-file")
        .flag(passphrase.to_str().unwrap());
    let server = setup.start();
    let client = server.unix_client();
    for keyspace in ["a", "b"] {
        client.keyspace_create(&name(keyspace), &[]).unwrap();
        generate(&client, keyspace);
    }
    (setup, server, client)
}

/// Returns the result of an unlock.
fn unlock(client: &Client, keyspace: &str, with: UnlockWith<'_>) -> (UnlockState, String) {
    let keyspace = name(keyspace);
    let ticket = client.unlock(&keyspace, with).unwrap().value;
    let mut ended = None;
    wait_until("the unlock", WITHIN, || {
        let status = client.unlock_status(&keyspace, ticket).unwrap().value;
        let is_over = status.state != UnlockState::Pending;
        ended = Some((status.state, status.message));
        is_over
    });
    ended.unwrap()
}

fn kms_state(client: &Client, kms: &str) -> String {
    let status: Value = serde_json::from_str(&client.status().unwrap().value).unwrap();
    let all = status["kms"].as_array().unwrap();
    let of_name = all.iter().find(|it| it["name"] == kms).unwrap();
    of_name["state"].as_str().unwrap().to_owned()
}

fn wait_for_state(client: &Client, kms: &str, state: &str) {
    wait_until("the KMS's state", WITHIN, || {
        kms_state(client, kms) == state
    });
}

fn keyspace_state(client: &Client, keyspace: &str) -> String {
    let status: Value = serde_json::from_str(&client.status().unwrap().value).unwrap();
    let all = status["keyspaces"].as_array().unwrap();
    let of_name = all.iter().find(|it| it["name"] == keyspace).unwrap();
    of_name["state"].as_str().unwrap().to_owned()
}

/// Its keyspaces were shown as denied, and the alert and the log named a refusal of the KMS that never was.
#[test]
fn keyspaces_of_a_kms_that_is_locked_since_the_start_are_not_called_denied() {
    let dir = tempfile::tempdir().unwrap();
    let (_, server, client) = start(dir.path(), "");
    drop(client);
    let data = server.data.clone();
    server.stop();

    let config = dir.path().join("keywayd.toml");
    let setup = Setup::new(&data).shards(2).production();
    let server = setup
        .flag("--config")
        .flag(config.to_str().unwrap())
        .start();
    let client = server.unix_client();
    let refused = mac(&client, "a").unwrap_err();
    assert_eq!(refused.status(), Some(Status::NeedsUnlock), "{refused}");
    wait_until("the log line", WITHIN, || {
        server
            .log()
            .contains("the keyspace's KMS is locked: no data key")
    });
    // A snapshot that was taken since.
    wait_until("the keyspace's state", WITHIN, || {
        let state = keyspace_state(&client, "a");
        assert_ne!(state, "denied");
        state == "acquiring"
    });
    assert!(!server.log().contains("the KMS denied the keyspace"));

    let unlocked = unlock(&client, "a", UnlockWith::Passphrase(PASSPHRASE));
    assert_eq!(unlocked.0, UnlockState::Done, "{}", unlocked.1);
    past_the_start(|| mac(&client, "a")).unwrap();
}

/// The only way to make a server wipe its KEK was to stop it.
#[test]
fn a_locked_kms_takes_its_keyspaces_along_until_each_is_given_the_passphrase() {
    let dir = tempfile::tempdir().unwrap();
    let (setup, server, client) = start(dir.path(), "");
    client.kms_lock(&local()).unwrap();
    for keyspace in ["a", "b"] {
        let refused = mac(&client, keyspace).unwrap_err();
        assert_eq!(refused.status(), Some(Status::NeedsUnlock), "{refused}");
    }
    wait_for_state(&client, "local", "locked");
    let made = client.keyspace_create(&name("c"), &[]).unwrap_err();
    assert_eq!(made.status(), Some(Status::Conflict), "{made}");

    let (state, why) = unlock(&client, "a", UnlockWith::Nothing);
    assert_eq!(state, UnlockState::Failed);
    assert!(why.contains("passphrase"), "{why}");
    let (state, _) = unlock(&client, "a", UnlockWith::Passphrase(b"wrong"));
    assert_eq!(state, UnlockState::Failed);
    let opened = unlock(&client, "a", UnlockWith::Passphrase(PASSPHRASE));
    assert_eq!(opened.0, UnlockState::Done, "{opened:?}");
    mac(&client, "a").unwrap();
    // The KMS is open now, and the other keyspace stays locked by the operator.
    assert!(mac(&client, "b").is_err());
    drop(client);
    server.kill();
    let server = setup.start();
    let client = server.unix_client();
    past_the_start(|| mac(&client, "a")).unwrap();
    let refused = mac(&client, "b").unwrap_err();
    assert_eq!(
        refused.status(),
        Some(Status::NeedsUnlock),
        "locked over a restart"
    );
}

/// A principal with the right to unlock could end a lock, since the KMS was still open.
#[test]
fn locked_keyspace_needs_the_secret_although_its_kms_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_setup, _server, client) = start(dir.path(), "");
    client.lock(&name("a")).unwrap();
    assert_eq!(kms_state(&client, "local"), "unlocked");
    let (state, why) = unlock(&client, "a", UnlockWith::Nothing);
    assert_eq!(state, UnlockState::Failed);
    assert!(why.contains("--passphrase"), "{why}");
    let (state, _) = unlock(&client, "a", UnlockWith::Passphrase(b"wrong"));
    assert_eq!(state, UnlockState::Failed);
    assert!(mac(&client, "a").is_err());
    mac(&client, "b").unwrap();
    let opened = unlock(&client, "a", UnlockWith::Passphrase(PASSPHRASE));
    assert_eq!(opened.0, UnlockState::Done, "{opened:?}");
    mac(&client, "a").unwrap();
}

#[test]
fn a_setting_of_the_kms_lets_a_keyspace_be_unlocked_without_the_secret_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_setup, _server, client) = start(dir.path(), "unlock_without_secret = true\n");
    client.lock(&name("a")).unwrap();
    let opened = unlock(&client, "a", UnlockWith::Nothing);
    assert_eq!(opened.0, UnlockState::Done, "{opened:?}");
    client.kms_lock(&local()).unwrap();
    let (state, why) = unlock(&client, "a", UnlockWith::Nothing);
    assert_eq!(state, UnlockState::Failed, "the KMS itself is locked");
    assert!(why.contains("passphrase"), "{why}");
}

/// Each command had a status of its own for it.
#[test]
fn a_closed_kms_is_answered_with_the_same_status_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let held = HeldKms::start();
    let setup = held.setup(dir.path());
    let config = dir.path().join("keywayd.toml");
    let other = std::fs::read_to_string(&config).unwrap();
    let both = format!("default_kms = \"local\"\n[kms.local]\nprovider = \"local\"\n{other}");
    std::fs::write(&config, both).unwrap();
    let passphrase = dir.path().join("passphrase");
    std::fs::write(&passphrase, PASSPHRASE).unwrap();
    std::fs::set_permissions(&passphrase, Permissions::from_mode(0o600)).unwrap();
    let opening = setup
        .clone()
        .flag("--passphrase-file")
        .flag(passphrase.to_str().unwrap());
    let server = opening.start();
    let client = server.unix_client();
    client.keyspace_create(&name("a"), &[]).unwrap();
    generate(&client, "a");
    client
        .keyspace_create(&name("b"), &[("kms", "held")])
        .unwrap();
    drop(client);
    server.stop();

    // Without the passphrase it stays closed, and no keyspace is locked.
    let server = setup.start();
    let mut pipeline = Pipeline::unix(&server);
    let (a, b) = (pipeline.keyspace("a"), pipeline.keyspace("b"));
    let mut status = |request: Request<'_>, keyspace: u32, key: &[u8]| {
        // On a busy machine a use is answered RETRY while the call to the KMS is in flight.
        let reply = loop {
            let reply = pipeline.ask(&request, keyspace, key);
            if reply.status != Status::Retry {
                break reply;
            }
        };
        (
            reply.status,
            String::from_utf8_lossy(&reply.payload).into_owned(),
        )
    };
    let nothing = Settings::new("").unwrap();
    let create = KeyspaceCreate {
        name: "c",
        settings: nothing,
    };
    let longer = Settings::new("soft_ttl_ms=700000\n").unwrap();
    for (request, keyspace) in [
        (Request::KeyspaceCreate(create), 0),
        (Request::KeyspaceSet(longer), a),
        (Request::KeyspaceRotate, a),
        (Request::KeyspaceRewrap { kms: "held" }, a),
        (Request::KeyspaceRewrap { kms: "local" }, b),
    ] {
        let what = format!("{:?}", request.opcode());
        let (status, text) = status(request, keyspace, b"");
        assert_eq!(status, Status::Conflict, "{what}: {text}");
        assert!(text.contains("unlock it"), "{what}: {text}");
    }
    let material = Material {
        format: KeyFormat::Raw,
        bytes: Octets(&[7; 32]),
    };
    let new_key = NewKey {
        algorithm: Some(Algorithm::HmacSha256),
        exportable: false,
        usage: Usage::NONE,
        not_after_unix_ms: 0,
    };
    for (request, key) in [
        (Request::Mac(Octets(b"message")), &b"alice"[..]),
        (Request::Get { key_version: 0 }, b"alice"),
        (Request::KeyRotate(KeyRotate { material: None }), b"alice"),
        (Request::KeyGenerate(KeyGenerate { new_key }), b"bob"),
        (
            Request::KeyImport(KeyImport { new_key, material }),
            b"carol",
        ),
    ] {
        let what = format!("{:?}", request.opcode());
        let (status, text) = status(request, a, key);
        assert_eq!(status, Status::NeedsUnlock, "{what}: {text}");
    }
}

#[test]
fn everything_can_be_locked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, _proxy, setup)) = stand(dir.path(), 2) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    let names = ["a", "b", "c"];
    for keyspace in names {
        client.keyspace_create(&name(keyspace), &[]).unwrap();
        generate(&client, keyspace);
    }
    client.lock_all().unwrap();
    for keyspace in names {
        let refused = mac(&client, keyspace).unwrap_err();
        assert_eq!(refused.status(), Some(Status::NeedsUnlock), "{refused}");
    }
    let keyspaces = client.keyspace_list().unwrap();
    assert!(keyspaces.iter().all(|info| info.locked == Some(true)));
    wait_for_state(&client, "bao", "locked");
    // This one needs no secret: it logs in with its settings.
    for keyspace in names {
        let opened = unlock(&client, keyspace, UnlockWith::Nothing);
        assert_eq!(opened.0, UnlockState::Done, "{opened:?}");
        wait_until("a use", WITHIN, || mac(&client, keyspace).is_ok());
    }
    wait_for_state(&client, "bao", "unlocked");
}

#[test]
fn only_the_servers_user_may_lock_a_kms_or_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (_setup, server, client) = start(dir.path(), "");
    let grants = [("allow:anonymous", "all")];
    client.keyspace_set(&name("a"), &grants).unwrap();
    let anonymous = server.client();
    for refused in [anonymous.kms_lock(&local()), anonymous.lock_all()] {
        assert_eq!(refused.unwrap_err().status(), Some(Status::Forbidden));
    }
    let nowhere = client.kms_lock(&"nowhere".parse().unwrap());
    assert_eq!(nowhere.unwrap_err().status(), Some(Status::BadRequest));
    mac(&client, "a").unwrap();
}

/// It acts first and is written later, like every command that takes something away.
#[test]
fn a_kms_is_locked_although_nothing_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_setup, server, client) = start(dir.path(), "");
    let blocked = server.data.join("keyspaces.json.tmp");
    std::fs::create_dir(&blocked).unwrap();
    let error = client.kms_lock(&local()).unwrap_err();
    assert_eq!(error.status(), Some(Status::NotPersisted), "{error}");
    for keyspace in ["a", "b"] {
        let refused = mac(&client, keyspace).unwrap_err();
        assert_eq!(refused.status(), Some(Status::NeedsUnlock), "{refused}");
    }
    std::fs::remove_dir(&blocked).unwrap();
    client.kms_lock(&local()).unwrap();
}
