//! Deadlines apply to every operation, including those that change keys and keyspaces.
//!
//! They applied only to operations with a key: KEY_GENERATE of an RSA key was answered when it was done, and done
//! although its deadline had passed before the key was written.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::{Algorithm, KeyOptions, KeyPath, Status};
use keyway_protocol::{KeyGenerate, KeyspaceCreate, NewKey, Request, Settings, Usage};

use crate::common::Server;
use crate::common::held_kms::HeldKms;
use crate::common::pipeline::Pipeline;

/// Less than it takes to generate an RSA key, on any machine.
const DEADLINE_US: u32 = 1_000;
/// Enough for a command to reach the KMS.
const KMS_DEADLINE_US: u32 = 500_000;

#[test]
fn a_key_that_is_not_made_by_its_deadline_is_not_made_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let warm: KeyPath = "prod/first".parse().unwrap();
    client
        .key_generate(&warm, Algorithm::Ed25519, KeyOptions::default())
        .unwrap();
    // At one of them it is forwarded.
    for shard in 0..2 {
        let mut pipeline = Pipeline::shard(&server, shard);
        let keyspace = pipeline.keyspace("prod");
        let key = format!("late-{shard}");
        let generate = Request::KeyGenerate(KeyGenerate {
            new_key: NewKey {
                algorithm: Some(Algorithm::Rsa4096),
                usage: Usage::NONE,
                exportable: false,
                not_after_unix_ms: 0,
            },
        });
        pipeline.queue(&generate, keyspace, key.as_bytes(), DEADLINE_US);
        pipeline.send();
        assert_eq!(pipeline.reply().status, Status::DeadlineExceeded);
        // By the time that this one exists, the other would as well.
        let other = format!("other-{shard}");
        let reply = pipeline.ask(&generate, keyspace, other.as_bytes());
        assert_eq!(reply.status, Status::Ok);
        let public = Request::PublicKey { key_version: 0 };
        let reply = pipeline.ask_until_loaded(&public, keyspace, key.as_bytes());
        assert_eq!(reply.status, Status::NotFound);
    }
}

#[test]
fn a_command_that_waits_for_the_kms_ends_at_its_deadline_and_changes_nothing_later() {
    let kms = HeldKms::start();
    let dir = tempfile::tempdir().unwrap();
    let server = kms.setup(dir.path()).shards(1).start();
    kms.hold();
    let mut owner = Pipeline::unix(&server);
    let create = |name| {
        Request::KeyspaceCreate(KeyspaceCreate {
            name,
            settings: Settings::NONE,
        })
    };
    owner.queue(&create("late"), 0, b"", KMS_DEADLINE_US);
    owner.send();
    assert_eq!(owner.reply().status, Status::DeadlineExceeded);
    kms.release();
    // The KMS answers this one after the other.
    assert_eq!(owner.ask(&create("other"), 0, b"").status, Status::Ok);
    let listed = server.unix_client().keyspace_list().unwrap();
    let names: Vec<&str> = listed
        .iter()
        .map(|keyspace| keyspace.name.as_str())
        .collect();
    assert_eq!(names, ["other"]);
}
