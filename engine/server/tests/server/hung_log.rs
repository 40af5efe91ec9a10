//! A blob log whose disk hangs: a revocation is in force on the key's shard, and is answered so before the deadline, also if
//! another shard forwarded it. A forwarded KEY_REVOKE was answered DEADLINE_EXCEEDED.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::{Algorithm, KeyOptions, KeyPath, Status};
use keyway_protocol::{InputKind, KeyRevoke, Octets, Request, Scheme, Sign, Verify};

use crate::common::pipeline::Pipeline;
use crate::common::{Setup, WITHIN, wait_until};

const SHARDS: usize = 2;
const DEADLINE_US: u32 = 2_000_000;
const MESSAGE: &[u8] = b"message";

fn sign() -> Request<'static> {
    Request::Sign(Sign {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        input: Octets(MESSAGE),
    })
}

fn verify(signature: &[u8]) -> Request<'_> {
    Request::Verify(Verify {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        key_version: 1,
        signature: Octets(signature),
        input: Octets(MESSAGE),
    })
}

#[test]
fn a_forwarded_revocation_is_in_force_and_answered_so_while_the_log_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let hangs = dir.path().join("hangs");
    let setup = Setup::new(&dir.path().join("data")).shards(SHARDS as u16);
    let mut command = setup.command();
    command.env("KEYWAY_PLANT", format!("sync:{}", hangs.display()));
    let server = setup.start_as(command);
    let client = server.client();
    // What is revoked: a key, and one version of another.
    let cases = [("whole", 0), ("version", 1)];
    let path = |key: &str| -> KeyPath { format!("prod/{key}").parse().unwrap() };
    let mut signatures = Vec::new();
    for (key, _) in cases {
        let options = KeyOptions::default();
        client
            .key_generate(&path(key), Algorithm::Ed25519, options)
            .unwrap();
        let signed = client.sign(
            &path(key),
            Scheme::Default,
            keyway_client::Input::Message(MESSAGE),
        );
        signatures.push(signed.unwrap().value);
        client.key_rotate(&path(key), None).unwrap();
    }
    std::fs::write(&hangs, b"").unwrap();
    for ((key, version), signature) in cases.into_iter().zip(&signatures) {
        let revoke = Request::KeyRevoke(KeyRevoke {
            key_version: version,
        });
        let verifies = verify(signature);
        // The shard that forwards.
        let mut pipelines = [0, 1].map(|shard| Pipeline::shard(&server, shard));
        let keyspace = pipelines[0].keyspace("prod");
        let at = pipelines.iter_mut().position(|pipeline| {
            let verified = pipeline.ask_until_loaded(&verifies, keyspace, key.as_bytes());
            assert_eq!(verified.status, Status::Ok);
            verified.is_forwarded
        });
        let pipeline = &mut pipelines[at.unwrap()];
        let answer = pipeline.ask_within(&revoke, keyspace, key.as_bytes(), DEADLINE_US);
        let text = String::from_utf8(answer.payload).unwrap();
        assert_eq!(answer.status, Status::NotPersisted, "{key}: {text}");
        assert!(answer.is_forwarded);
        // Through each shard.
        for shard in 0..SHARDS {
            let mut pipeline = Pipeline::shard(&server, shard);
            let answer = pipeline.ask_until_loaded(&verifies, keyspace, key.as_bytes());
            assert_eq!(answer.status, Status::Revoked, "{key}");
            let signed = pipeline.ask_until_loaded(&sign(), keyspace, key.as_bytes());
            let expected = match version {
                0 => Status::Revoked,
                _ => Status::Ok,
            };
            assert_eq!(signed.status, expected, "{key}");
        }
    }
    std::fs::remove_file(&hangs).unwrap();
    for (key, version) in cases {
        wait_until("writing the revocation", WITHIN, || match version {
            0 => client.key_revoke(&path(key)).is_ok(),
            version => client.key_revoke_version(&path(key), version).is_ok(),
        });
    }
    server.kill();
    let server = setup.start();
    let mut pipeline = Pipeline::tcp(&server);
    let keyspace = pipeline.keyspace("prod");
    for ((key, _), signature) in cases.into_iter().zip(&signatures) {
        let verifies = verify(signature);
        let answer = pipeline.ask_until_loaded(&verifies, keyspace, key.as_bytes());
        assert_eq!(answer.status, Status::Revoked, "{key}");
    }
}
