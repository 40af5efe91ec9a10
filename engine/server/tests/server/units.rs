//! Units of a service manager, which gives them credentials.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Input, KeyOptions, Scheme, Status};
use rustix::process::Pid;

use crate::common::{WITHIN, past_the_start, patient_client, prod, wait_until};
use crate::containers::{is_ready, keywayd, stop};

/// Each has a KEK of its own under a passphrase, and a key in use.
#[test]
fn a_unit_starts_open_with_its_passphrase_among_its_credentials_and_locked_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let credentials = dir.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let start = || {
        let _ = std::fs::remove_file(data.join("endpoints.json"));
        let mut command = keywayd(&[], &data);
        let command = command.env("CREDENTIALS_DIRECTORY", &credentials);
        command.spawn().unwrap()
    };
    let owner = || {
        wait_until("a server", WITHIN, || is_ready(&data));
        patient_client(&format!("unix:{}", data.join("keyway.sock").display()))
    };
    let key = "prod/a".parse().unwrap();
    let sign = |client: &Client| client.sign(&key, Scheme::Default, Input::Message(b"message"));

    let write = |name: &str, text: &str| {
        let path = credentials.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        path
    };
    let passphrase = write("keyway-passphrase", "correct horse battery staple");
    let child = start();
    let client = owner();
    client.keyspace_create(&prod(), &[]).unwrap();
    let options = KeyOptions::default();
    client
        .key_generate(&key, Algorithm::Ed25519, options)
        .unwrap();
    let before = sign(&client).unwrap().value;
    let pid = Pid::from_child(&child);
    stop(child, pid);

    let child = start();
    let after = past_the_start(|| sign(&owner()));
    assert_eq!(after.unwrap().value, before);
    let pid = Pid::from_child(&child);
    stop(child, pid);

    std::fs::remove_file(passphrase).unwrap();
    write("bao-token", "x");
    let child = start();
    let answer = sign(&owner());
    let status = answer.as_ref().err().and_then(|error| error.status());
    assert_eq!(status, Some(Status::NeedsUnlock), "{answer:?}");
    let pid = Pid::from_child(&child);
    let log = stop(child, pid);
    assert!(log.contains("the KMS is locked"), "{log}");
}
