//! A command that takes something away waits for nothing that its own connection sent before it.
//!
//! A LOCK after requests that waited for their key was read only when those had been answered: at its limit of requests
//! in flight, or of unsent answers, a connection was not read at all.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::{Algorithm, KeyOptions, KeyPath, KeyspaceName};
use keyway_protocol::{InputKind, KeyRevoke, Octets, Request, Scheme, Settings, Sign, Status};

use crate::common::held_kms::HeldKms;
use crate::common::pipeline::{PATIENT_US, Pipeline};
use crate::common::{Server, Setup, WITHIN, wait_until};

/// Many more than may be in flight on a connection.
const HELD: usize = 3_000;

/// Unread answers of this kind: more than a socket and a connection's share of unsent answers can hold, and with the next
/// few they are within what is read ahead.
const UNREAD: usize = 30;
const UNREAD_LEN: usize = 60 << 10;

fn sign() -> Request<'static> {
    Request::Sign(Sign {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        input: Octets(b"message"),
    })
}

fn start(setup: &Setup, keyspaces: &[&str]) -> Server {
    let server = setup.start();
    let owner = server.unix_client();
    for keyspace in keyspaces {
        let name: KeyspaceName = keyspace.parse().unwrap();
        let settings = [("allow:anonymous", "sign")];
        owner.keyspace_create(&name, &settings).unwrap();
        let key: KeyPath = format!("{keyspace}/key").parse().unwrap();
        owner
            .key_generate(&key, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
    }
    server
}

#[test]
fn a_lock_overtakes_what_its_connection_has_waiting() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let setup = kms.setup(dir.path()).shards(1);
    start(&setup, &["prod"]).stop();
    let _ = std::fs::remove_file(dir.path().join("data/hot_keys.txt"));
    kms.hold();
    let server = setup.start();
    let mut pipeline = Pipeline::unix(&server);
    let keyspace = pipeline.keyspace("prod");
    // They wait for the KMS, not limited by a budget of the keyspace.
    for _ in 0..HELD {
        pipeline.queue(&Request::ForceRefresh, keyspace, b"key", 0);
    }
    let lock = pipeline.queue(&Request::Lock, keyspace, b"", PATIENT_US);
    pipeline.send();
    for _ in 0..=HELD {
        let reply = pipeline.reply();
        let expected = match reply.request_id == lock {
            true => Status::Ok,
            false => Status::NeedsUnlock,
        };
        assert_eq!(reply.status, expected, "{}", reply.request_id);
    }
    kms.release();
}

#[test]
fn what_takes_away_overtakes_answers_that_its_connection_does_not_read() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let server = start(&kms.setup(dir.path()).shards(1), &["a", "b", "c"]);
    let text = vec![b'x'; UNREAD_LEN];
    let revoke = Request::KeyRevoke(KeyRevoke { key_version: 0 });
    let withdraw = Request::KeyspaceSet(Settings::new("allow:anonymous=none\n").unwrap());
    for (name, command, key, expected) in [
        ("a", revoke, &b"key"[..], Status::Revoked),
        ("b", withdraw, b"", Status::Forbidden),
        ("c", Request::Lock, b"", Status::NeedsUnlock),
    ] {
        let (mut deaf, mut other) = (Pipeline::unix(&server), Pipeline::tcp(&server));
        let keyspace = deaf.keyspace(name);
        let signed = other.ask_until_loaded(&sign(), keyspace, b"key");
        assert_eq!(signed.status, Status::Ok);
        for _ in 0..UNREAD {
            deaf.queue(&Request::Ping(Octets(&text)), 0, b"", 0);
        }
        let id = deaf.queue(&command, keyspace, key, PATIENT_US);
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || {
                deaf.send();
                deaf
            });
            wait_until("the command's effect", WITHIN, || {
                other.ask(&sign(), keyspace, b"key").status == expected
            });
            let mut deaf = sending.join().unwrap();
            let mut replies = (0..=UNREAD).map(|_| deaf.reply());
            let answer = replies.find(|reply| reply.request_id == id);
            assert_eq!(answer.unwrap().status, Status::Ok, "{name}");
        });
    }
}
