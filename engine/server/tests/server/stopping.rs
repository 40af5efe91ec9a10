//! A command that takes something away is in force whatever the disk does, and reports if it could not be written.
//!
//! A LOCK and the withdrawal of a grant used to fail if `keyspaces.json` could not be written, and signing continued. The
//! control thread itself waited for the disk: while one write stalled, no lease was renewed and nothing was locked.
//! Writes fail here because a directory, and stall because a pipe, has the name under which the file is written first.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::PathBuf;
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, CallEffect, Error, Input, KeyOptions, KeyPath, KeyspaceInfo, KeyspaceName, Scheme,
    Status, UnlockState, UnlockWith,
};
use keyway_protocol::{Request, Settings};
use rustix::process::Resource;

use crate::common::pipeline::Pipeline;
use crate::common::{Server, Setup, past_the_start, wait_until};
use crate::key_writes::limit;

/// Longest duration of the slowest step on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

const PASSPHRASE: &[u8] = b"correct horse battery";

const UNWRITTEN: &str = "keyway_keyspaces_unwritten_changes";

fn name(keyspace: &str) -> KeyspaceName {
    keyspace.parse().unwrap()
}

fn key(keyspace: &str) -> KeyPath {
    format!("{keyspace}/alice").parse().unwrap()
}

fn sign(client: &Client, keyspace: &str) -> Result<(), Error> {
    let message = Input::Message(b"message");
    past_the_start(|| client.sign(&key(keyspace), Scheme::Default, message)).map(|_| ())
}

fn status_of(client: &Client, keyspace: &str) -> Option<Status> {
    let message = Input::Message(b"message");
    let signed = client.sign(&key(keyspace), Scheme::Default, message);
    signed.err().and_then(|error| error.status())
}

fn info(client: &Client, keyspace: &str) -> KeyspaceInfo {
    let all = client.keyspace_list().unwrap();
    all.into_iter().find(|info| info.name == keyspace).unwrap()
}

/// Starts a server with a passphrase, so that only its own user has all rights; anonymous clients may sign in `a` and
/// `b`.
fn start(dir: &tempfile::TempDir) -> (Setup, Server) {
    let passphrase = dir.path().join("passphrase");
    std::fs::write(&passphrase, PASSPHRASE).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&passphrase, mode).unwrap();
    let setup = Setup::new(&dir.path().join("data"))
        .shards(2)
        .production()
        .flag("--passphrase-file")
        .flag(passphrase.to_str().unwrap());
    let server = setup.start();
    let owner = server.unix_client();
    for keyspace in ["a", "b"] {
        let grants = [("allow:anonymous", "sign"), ("hard_ttl_ms", "3000000")];
        owner.keyspace_create(&name(keyspace), &grants).unwrap();
        owner
            .key_generate(&key(keyspace), Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
        sign(&server.client(), keyspace).unwrap();
    }
    (setup, server)
}

/// Returns the path where `keyspaces.json` is written before it is renamed.
fn temporary(server: &Server) -> PathBuf {
    server.data.join("keyspaces.json.tmp")
}

/// Makes every write fail until the directory is removed.
fn break_disk(server: &Server) {
    std::fs::create_dir(temporary(server)).unwrap();
}

fn mend_disk(server: &Server) {
    std::fs::remove_dir(temporary(server)).unwrap();
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 0.0);
}

/// Lets every write stall until the pipe is read from.
pub(crate) fn stall_disk(server: &Server) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, temporary(server), fifo, mode, 0).unwrap();
}

/// What stalls fails then, and the next write succeeds.
pub(crate) fn let_disk_go_on(server: &Server) {
    let pipe = temporary(server);
    let reader = std::fs::OpenOptions::new().read(true).open(&pipe).unwrap();
    std::fs::remove_file(&pipe).unwrap();
    drop(reader);
}

fn not_persisted<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    let error = answer.unwrap_err();
    assert_eq!(error.status(), Some(Status::NotPersisted), "{error}");
    assert_eq!(error.outcome(), CallEffect::InForce);
    error.to_string()
}

#[test]
fn a_lock_and_a_withdrawal_hold_though_they_cannot_be_written_and_are_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let (setup, server) = start(&dir);
    let (owner, anyone) = (server.unix_client(), server.client());
    break_disk(&server);

    let text = not_persisted(owner.lock(&name("a")));
    for part in [
        "in force on every shard",
        "keyspaces.json",
        "a restart",
        "keeps trying",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(status_of(&anyone, "a"), Some(Status::NeedsUnlock));
    assert_eq!(status_of(&owner, "a"), Some(Status::NeedsUnlock));
    not_persisted(owner.keyspace_set(&name("b"), &[("allow:anonymous", "none")]));
    // A connection without rights is closed, and a new one does not see that `b` exists.
    let refused = status_of(&anyone, "b");
    assert!(
        matches!(refused, Some(Status::Forbidden | Status::NoKeyspace)),
        "{refused:?}"
    );
    assert_eq!(status_of(&owner, "b"), None);
    not_persisted(owner.keyspace_set(&name("b"), &[("hard_ttl_ms", "2000000")]));
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 3.0);
    assert!(server.metric("keyway_keyspaces_write_failures_total") >= Some(3.0));
    server.wait_for_log("could not be written");
    let a = info(&owner, "a");
    assert!(a.locked == Some(true) && a.unwritten);

    // A change that grants something is refused, and may be on the disk.
    let refused = owner.keyspace_set(&name("b"), &[("allow:anonymous", "mac")]);
    let refused = refused.unwrap_err();
    assert_eq!(refused.status(), Some(Status::Internal));
    let text = refused.to_string();
    assert!(
        text.contains("is not in force, but it may be on the disk"),
        "{text}"
    );
    let refused = owner.keyspace_create(&name("c"), &[]);
    assert_eq!(refused.unwrap_err().status(), Some(Status::Internal));
    let ticket = owner
        .unlock(&name("a"), UnlockWith::Passphrase(PASSPHRASE))
        .unwrap()
        .value;
    wait_until("the unlock", WITHIN, || {
        let status = owner.unlock_status(&name("a"), ticket).unwrap().value;
        assert_ne!(status.state, UnlockState::Done, "{status:?}");
        status.state == UnlockState::Failed
    });
    assert_eq!(status_of(&owner, "a"), Some(Status::NeedsUnlock));

    mend_disk(&server);
    assert!(!info(&owner, "a").unwritten);
    owner.lock(&name("a")).unwrap();
    server.kill();
    let server = setup.start();
    let (owner, anyone) = (server.unix_client(), server.client());
    assert_eq!(status_of(&anyone, "a"), Some(Status::NeedsUnlock));
    // A client without rights in it does not see that it exists.
    assert_eq!(status_of(&anyone, "b"), Some(Status::NoKeyspace));
    let b = info(&owner, "b");
    assert_eq!(b.settings["hard_ttl_ms"], "2000000");
    assert_eq!(owner.keyspace_list().unwrap().len(), 2, "c was undone");
    // All of it can be undone by command.
    owner
        .unlock(&name("a"), UnlockWith::Passphrase(PASSPHRASE))
        .unwrap();
    wait_until("signing again", WITHIN, || status_of(&owner, "a").is_none());
    // What was refused while the disk was broken, tried again.
    owner
        .keyspace_set(&name("b"), &[("allow:anonymous", "mac")])
        .unwrap();
    assert!(!info(&owner, "b").allow.is_empty());
}

/// Its answer was that "the command is in force on every shard", although the longer time limit was not.
#[test]
fn a_change_of_which_only_a_part_is_in_force_is_answered_with_that_part() {
    let dir = tempfile::tempdir().unwrap();
    let (setup, server) = start(&dir);
    let (owner, anyone) = (server.unix_client(), server.client());
    break_disk(&server);
    let changes = [("allow:anonymous", "none"), ("hard_ttl_ms", "3500000")];
    let text = not_persisted(owner.keyspace_set(&name("b"), &changes));
    for part in [
        "in force on every shard: allow:anonymous=none;",
        "not in force: hard_ttl_ms=3500000 (in force: 3000000);",
        "keyspaces.json could not be written",
        "a restart would undo it",
        "keeps trying",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("the command is in force"), "{text}");
    assert!(sign(&anyone, "b").is_err());
    let b = info(&owner, "b");
    assert!(b.unwritten);
    assert_eq!(b.settings["hard_ttl_ms"], "3000000");
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 1.0);
    mend_disk(&server);
    assert_eq!(info(&owner, "b").settings["hard_ttl_ms"], "3500000");
    owner.keyspace_set(&name("b"), &changes).unwrap();
    server.kill();
    let b = info(&setup.start().unix_client(), "b");
    assert!(b.allow.is_empty() && b.settings["hard_ttl_ms"] == "3500000");
}

#[test]
fn a_lock_and_a_withdrawal_need_no_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let (setup, server) = start(&dir);
    let (owner, anyone) = (server.unix_client(), server.client());
    sign(&owner, "b").unwrap();
    sign(&anyone, "a").unwrap();
    limit(&server, Resource::Nofile, Some(1));
    for done in [
        owner.lock(&name("a")).map(drop),
        owner
            .keyspace_set(&name("b"), &[("allow:anonymous", "none")])
            .map(drop),
    ] {
        let status = done.err().and_then(|error| error.status());
        assert!(
            matches!(status, None | Some(Status::NotPersisted)),
            "{status:?}"
        );
    }
    assert_eq!(status_of(&anyone, "a"), Some(Status::NeedsUnlock));
    let refused = status_of(&anyone, "b");
    assert!(
        refused.is_some() || sign(&anyone, "b").is_err(),
        "{refused:?}"
    );
    assert_eq!(status_of(&owner, "b"), None);
    limit(&server, Resource::Nofile, Some(4_096));
    // It is sent again until the answer is OK.
    wait_until("the writes", WITHIN, || {
        let grants = [("allow:anonymous", "none")];
        owner.lock(&name("a")).is_ok() && owner.keyspace_set(&name("b"), &grants).is_ok()
    });
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 0.0);
    server.kill();
    let server = setup.start();
    let owner = server.unix_client();
    assert_eq!(info(&owner, "a").locked, Some(true));
    assert!(info(&owner, "b").allow.is_empty());
    assert_eq!(status_of(&owner, "a"), Some(Status::NeedsUnlock));
}

/// An unlock that changes nothing on the disk does not wait for it.
#[test]
fn an_unlock_goes_on_while_the_disk_stalls() {
    let dir = tempfile::tempdir().unwrap();
    let (_, server) = start(&dir);
    server.stop();
    // Its KMS is closed, and no keyspace is locked.
    let setup = Setup::new(&dir.path().join("data")).shards(2).production();
    let server = setup.start();
    let owner = server.unix_client();
    assert_eq!(status_of(&owner, "a"), Some(Status::NeedsUnlock));
    stall_disk(&server);
    std::thread::scope(|scope| {
        let withdrawn = scope.spawn(|| {
            let grants = Settings::new("allow:anonymous=none\n").unwrap();
            let mut pipeline = Pipeline::unix(&server);
            let keyspace = pipeline.keyspace("b");
            pipeline.ask_within(&Request::KeyspaceSet(grants), keyspace, b"", 0)
        });
        server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 1.0);
        let unlock = UnlockWith::Passphrase(PASSPHRASE);
        let ticket = owner.unlock(&name("a"), unlock).unwrap().value;
        wait_until("the unlock", WITHIN, || {
            let status = owner.unlock_status(&name("a"), ticket).unwrap().value;
            assert_ne!(status.state, UnlockState::Failed, "{status:?}");
            status.state == UnlockState::Done
        });
        sign(&owner, "a").unwrap();
        // It still stalls, and the unlock is not among what waits for it.
        assert_eq!(server.metric(UNWRITTEN), Some(1.0));
        let_disk_go_on(&server);
        let withdrawn = withdrawn.join().unwrap().status;
        assert!(matches!(withdrawn, Status::Ok | Status::NotPersisted));
    });
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 0.0);
    assert!(info(&owner, "b").allow.is_empty());
}

#[test]
fn the_control_thread_goes_on_while_the_disk_stalls() {
    let dir = tempfile::tempdir().unwrap();
    let (_, server) = start(&dir);
    let (owner, anyone) = (server.unix_client(), server.client());
    // Short compared with the stall, long compared with a busy machine's pauses.
    owner
        .keyspace_set(&name("b"), &[("dek_lease_ms", "2000")])
        .unwrap();
    sign(&owner, "b").unwrap();
    stall_disk(&server);
    std::thread::scope(|scope| {
        // Without deadlines, the server waits for the disk for 4 s.
        let ask = |keyspace, request| {
            let mut pipeline = Pipeline::unix(&server);
            pipeline.ask_within(&request, pipeline.keyspace(keyspace), b"", 0)
        };
        let grant = Settings::new("allow:uid:4242=sign\n").unwrap();
        let grant = scope.spawn(move || ask("b", Request::KeyspaceSet(grant)));
        let locked = scope.spawn(move || ask("a", Request::Lock));
        // It is in force though the disk does not respond, long before it is answered.
        wait_until("the lock", WITHIN, || {
            status_of(&anyone, "a") == Some(Status::NeedsUnlock)
        });
        let renewals = "keyway_kms_calls_total{kms=\"local\",keyspace=\"b\",operation=\"unwrap\",outcome=\"ok\"}";
        let before = server.metric(renewals).unwrap_or(0.0);
        wait_until("three renewals", WITHIN, || {
            let _ = sign(&owner, "b");
            server.metric(renewals).unwrap_or(0.0) >= before + 3.0
        });
        assert_eq!(grant.join().unwrap().status, Status::Internal);
        let locked = locked.join().unwrap();
        assert_eq!(locked.status, Status::NotPersisted);
        let text = String::from_utf8(locked.payload).unwrap();
        assert!(text.contains("no answer for"), "{text}");
    });
    let_disk_go_on(&server);
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 0.0);
    owner.lock(&name("a")).unwrap();
    assert_eq!(info(&owner, "b").allow.get("uid:4242"), None);
    assert_eq!(info(&owner, "a").locked, Some(true));
}

/// A client that waited for 2 s received DEADLINE_EXCEEDED for what was in force.
#[test]
fn what_is_in_force_is_answered_so_within_a_short_deadline() {
    const DEADLINE_US: u32 = 2_000_000;
    let dir = tempfile::tempdir().unwrap();
    let (_, server) = start(&dir);
    stall_disk(&server);
    let withdrawn = Settings::new("allow:anonymous=none\n").unwrap();
    for (keyspace, request) in [
        ("b", Request::KeyspaceSet(withdrawn)),
        ("a", Request::Lock),
        ("", Request::LockAll),
    ] {
        let mut pipeline = Pipeline::unix(&server);
        let id = match keyspace {
            "" => 0,
            keyspace => pipeline.keyspace(keyspace),
        };
        let answer = pipeline.ask_within(&request, id, b"", DEADLINE_US);
        let text = String::from_utf8(answer.payload).unwrap();
        assert_eq!(answer.status, Status::NotPersisted, "{keyspace}: {text}");
        assert!(text.contains("in force on every shard"), "{text}");
    }
    assert_eq!(status_of(&server.client(), "a"), Some(Status::NeedsUnlock));
    let_disk_go_on(&server);
    server.wait_for_metric(UNWRITTEN, |unwritten| unwritten == 0.0);
}
