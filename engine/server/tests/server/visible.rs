//! Acknowledged means visible: every operation that begins after the OK of a rotation gets the new version.
//!
//! The previous version was served until the newer one was loaded, for up to 200 ms, and an operation that named the
//! version just returned was answered NOT_FOUND.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::{Algorithm, KeyOptions, KeyPath, Status};
use keyway_protocol::{InputKind, KeyRotate, Octets, Request, Scheme, Sign};

use crate::common::pipeline::Pipeline;
use crate::common::{Server, prod};

const ROTATIONS: u32 = 7;
const KEYS: usize = 12;
/// Requests immediately after each rotation.
const REQUESTS: usize = 100;

#[test]
fn nothing_older_is_served_after_a_rotation_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    // The policy under which an older version is most easily served.
    let policy = [("on_soft_expiry", "serve_stale")];
    client.keyspace_set(&prod(), &policy).unwrap();
    let mut pipelines = [Pipeline::shard(&server, 0), Pipeline::shard(&server, 1)];
    let keyspace = pipelines[0].keyspace("prod");
    let sign = Request::Sign(Sign {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        input: Octets(b"message"),
    });
    let rotate = Request::KeyRotate(KeyRotate { material: None });
    for key in 0..KEYS {
        let key_id = format!("key-{key}");
        let path: KeyPath = format!("prod/{key_id}").parse().unwrap();
        client
            .key_generate(&path, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
        let key_id = key_id.as_bytes();
        for pipeline in &mut pipelines {
            pipeline.ask_until_loaded(&sign, keyspace, key_id);
        }
        for _ in 0..ROTATIONS {
            let rotated = pipelines[0].ask(&rotate, keyspace, key_id);
            assert_eq!(rotated.status, Status::Ok);
            let named = Request::PublicKey {
                key_version: rotated.key_version,
            };
            for pipeline in &mut pipelines {
                for _ in 0..REQUESTS {
                    pipeline.queue(&sign, keyspace, key_id, 0);
                    pipeline.queue(&named, keyspace, key_id, 0);
                }
                pipeline.send();
            }
            for pipeline in &mut pipelines {
                for _ in 0..2 * REQUESTS {
                    let reply = pipeline.reply();
                    match reply.status {
                        Status::Ok => assert_eq!(reply.key_version, rotated.key_version),
                        // The load takes longer than the wait budget.
                        Status::Retry => {}
                        other => panic!("{other:?} of a version that was acknowledged"),
                    }
                }
            }
        }
    }
}
