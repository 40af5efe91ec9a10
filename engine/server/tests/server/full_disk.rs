//! A full file system: what takes something away is in force, and is written once there is free space.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, CallEffect, Error, Input, KeyOptions, KeyPath, KeyspaceName, Options, Scheme, Status,
};

use crate::common::held_kms::HeldKms;
use crate::common::{Server, Setup, past_the_start};
use crate::containers::is_root;

const UNWRITTEN: &str = "keyway_keyspaces_unwritten_changes";
const ROOM_BYTES: u64 = 8 << 20;

fn name(keyspace: &str) -> KeyspaceName {
    keyspace.parse().unwrap()
}

fn key(keyspace: &str, id: &str) -> KeyPath {
    format!("{keyspace}/{id}").parse().unwrap()
}

fn sign(client: &Client, keyspace: &str, id: &str) -> Result<(), Error> {
    let message = Input::Message(b"message");
    let signed = past_the_start(|| client.sign(&key(keyspace, id), Scheme::Default, message));
    signed.map(|_| ())
}

fn generate(client: &Client, keyspace: &str, id: &str) -> Result<(), Error> {
    let options = KeyOptions::default();
    let made = client.key_generate(&key(keyspace, id), Algorithm::Ed25519, options);
    made.map(|_| ())
}

fn not_persisted<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let error = answer.unwrap_err();
    assert_eq!(error.status(), Some(Status::NotPersisted), "{error}");
    assert_eq!(error.outcome(), CallEffect::InForce);
}

fn status<T: std::fmt::Debug>(answer: Result<T, Error>) -> Status {
    answer.unwrap_err().status().unwrap()
}

/// Starts a server whose data directory is a small file system of its own.
fn start(kms: &HeldKms, dir: &Path) -> Server {
    let data = dir.join("data");
    std::fs::create_dir(&data).unwrap();
    let setup = setup(kms, dir).mounted();
    let keywayd = setup.command();
    let script = format!(
        "mount --make-rprivate / && mount -t tmpfs -o size={ROOM_BYTES},mode=700 tmpfs \"$0\" && exec \"$@\""
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script])
        .arg(&data)
        .arg(keywayd.get_program())
        .args(keywayd.get_args())
        .stdin(std::process::Stdio::null());
    setup.start_as(command)
}

fn setup(kms: &HeldKms, dir: &Path) -> Setup {
    let setup = kms.setup(dir).shards(1);
    setup.flag("--unix").flag(dir.join("s").to_str().unwrap())
}

/// Uses all free space.
fn fill(server: &Server) {
    let mut file = std::fs::File::create(server.data.join("fill")).unwrap();
    for len in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![1; len]).is_ok() {}
    }
}

#[test]
fn a_full_file_system_keeps_nothing_from_being_taken_away_and_is_written_to_once_there_is_room() {
    if !is_root("a small file system") {
        return;
    }
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let server = start(&kms, dir.path());
    let owner = server.unix_client();
    for keyspace in ["a", "b"] {
        let grants = [("allow:anonymous", "sign")];
        owner.keyspace_create(&name(keyspace), &grants).unwrap();
        for id in ["kept", "revoked"] {
            generate(&owner, keyspace, id).unwrap();
            sign(&owner, keyspace, id).unwrap();
        }
    }
    let anyone = server.client();
    sign(&anyone, "b", "kept").unwrap();
    fill(&server);

    // Of writes that only grant something, the log accepts those for which it has reserved space. Then it refuses, and
    // nothing changes.
    let unix = format!("unix:{}", server.endpoints["unix"].as_str().unwrap());
    let options = Options::new(unix.parse().unwrap()).deadline(Duration::from_millis(900));
    let impatient = Client::connect_with(options).unwrap();
    owner
        .keyspace_set(&name("b"), &[("allow:anonymous", "all")])
        .unwrap_err();
    let mut made = Vec::new();
    let refused = loop {
        let id = format!("more-{}", made.len());
        match generate(&impatient, "b", &id) {
            Ok(()) => made.push(id),
            Err(error) => break (id, error),
        }
        assert!(made.len() < 10_000, "the file system is not full");
    };
    assert!(refused.1.outcome() != CallEffect::InForce, "{}", refused.1);
    owner.key_revoke(&key("b", "revoked")).unwrap();
    assert_eq!(status(sign(&owner, "b", "revoked")), Status::Revoked);
    not_persisted(owner.keyspace_set(&name("b"), &[("allow:anonymous", "none")]));
    not_persisted(owner.lock(&name("a")));
    let refused_now = status(sign(&anyone, "b", "kept"));
    assert!(matches!(
        refused_now,
        Status::Forbidden | Status::NoKeyspace
    ));
    let message = Input::Message(b"message");
    let locked = owner.sign(&key("a", "kept"), Scheme::Default, message);
    assert_eq!(status(locked), Status::NeedsUnlock);
    sign(&owner, "b", "kept").unwrap();
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 2.0);

    std::fs::remove_file(server.data.join("fill")).unwrap();
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 0.0);
    owner.lock(&name("a")).unwrap();
    past_the_start(|| generate(&owner, "b", &refused.0)).unwrap();
    // What is on the disk is what is in force.
    let copy = dir.path().join("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&server.data)
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    server.kill();
    std::fs::remove_dir(dir.path().join("data")).unwrap();
    std::fs::rename(&copy, dir.path().join("data")).unwrap();
    let server = setup(&kms, dir.path()).start();
    let owner = server.unix_client();
    let locked = owner.sign(&key("a", "kept"), Scheme::Default, message);
    assert_eq!(status(locked), Status::NeedsUnlock);
    assert_eq!(status(sign(&owner, "b", "revoked")), Status::Revoked);
    let infos = owner.keyspace_list().unwrap();
    let b = infos.iter().find(|info| info.name == "b").unwrap();
    assert!(b.allow.is_empty(), "{:?}", b.allow);
    for id in made.iter().chain([&refused.0]) {
        sign(&owner, "b", id).unwrap();
    }
}
