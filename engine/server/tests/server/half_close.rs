//! A client that closes its sending direction, as described in docs/PROTOCOL.md, on a live server.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::HashSet;
use std::net::Shutdown;

use keyway_client::{KeyPath, Status};
use keyway_protocol::Opcode;

use crate::common::{Server, past_the_start};
use crate::hostile::{Raw, frame, good_keys, ping, sign};

/// KEY_GENERATE's payload for an Ed25519 key with all uses and without end.
const ED25519: [u8; 12] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Ends the sending direction and reads to the end of the connection. Returns the answers until then.
fn half_close(mut raw: Raw) -> Vec<(u64, Status, Vec<u8>)> {
    raw.stream.shutdown(Shutdown::Write).unwrap();
    std::iter::from_fn(|| raw.answer()).collect()
}

#[test]
fn answers_before_the_end_are_whole_and_each_is_of_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let (key, signature) = good_keys(&server).remove(0);
    for count in [0_u64, 1, 2, 100, 2_000] {
        let mut raw = Raw::greeted(&server.address());
        let id = key.key_id.as_str().as_bytes();
        let requests: Vec<u8> = (1..=count).flat_map(|n| sign(n, 1, id)).collect();
        raw.send(&requests);
        let mut missing: HashSet<u64> = (1..=count).collect();
        for (id, status, payload) in half_close(raw) {
            assert_eq!((status, &payload), (Status::Ok, &signature));
            assert!(missing.remove(&id), "{id} was not asked, or twice answered");
        }
    }
    // Its resources are released, and others are served as before.
    server.wait_for_metric("keyway_shard_connections{shard=\"1\"}", |n| n <= 1.0);
    let mut raw = Raw::greeted(&server.address());
    assert_eq!(raw.ask(&ping(1, b"there?")).1, Status::Ok);
}

#[test]
fn a_request_that_is_cut_short_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let whole = frame(Opcode::KeyGenerate.code(), 2, 1, b"cut", &ED25519);
    for len in [1, 4, 31, whole.len() - 1] {
        let mut raw = Raw::greeted(&server.address());
        raw.send(&whole[..len]);
        assert_eq!(half_close(raw), [], "after {len} bytes");
    }
    assert!(
        server
            .client()
            .key_list(&crate::common::prod())
            .unwrap()
            .is_empty()
    );
}

/// A client that closes before the answer cannot know the outcome of a write, which is complete or absent.
#[test]
fn a_write_before_the_end_is_done_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    for round in 0..20 {
        let id = format!("made-{round}");
        let mut raw = Raw::greeted(&server.address());
        raw.send(&frame(
            Opcode::KeyGenerate.code(),
            2,
            1,
            id.as_bytes(),
            &ED25519,
        ));
        let answers = half_close(raw);
        let key: KeyPath = format!("prod/{id}").parse().unwrap();
        let used = past_the_start(|| client.public_key(&key, 0));
        let status = used.as_ref().err().and_then(keyway_client::Error::status);
        match &answers[..] {
            [] => assert!(used.is_ok() || status == Some(Status::NotFound), "{used:?}"),
            [(2, Status::Ok, _)] => assert_eq!(used.unwrap().key_version, 1),
            _ => panic!("{answers:?}"),
        }
    }
}
