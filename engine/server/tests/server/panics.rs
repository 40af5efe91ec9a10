//! Panics, planted in a debug build: each request has one answer, and a core that has panicked is never used again.
//!
//! A panic in a handler left a partial answer in the connection's buffer followed by another one, and closed the
//! connection. After a panic in the core the shard continued with an inconsistent state.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{Read, Write};

use keyway_client::{Algorithm, KeyOptions, KeyPath, Status};
use keyway_protocol::{InputKind, KeyspaceCreate, Octets, Request, Scheme, Settings, Sign};

use crate::common::pipeline::Pipeline;
use crate::common::{Server, Setup};
use crate::hostile::Raw;

fn sign() -> Request<'static> {
    Request::Sign(Sign {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        input: Octets(b"message"),
    })
}

/// Starts a server with two keys, of which the place `planted` panics at `bad`.
fn server_with(planted: &str, setup: &Setup) -> Server {
    let mut command = setup.command();
    command.env("KEYWAY_PLANT", format!("{planted}:bad"));
    let server = setup.start_as(command);
    for key in ["good", "bad"] {
        let path: KeyPath = format!("prod/{key}").parse().unwrap();
        server
            .client()
            .key_generate(&path, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
    }
    server
}

/// Asserts that both keys are there and can be used.
fn assert_both_serve(server: &Server, keyspace: u32) {
    let mut pipeline = Pipeline::tcp(server);
    for key in [&b"good"[..], b"bad"] {
        let reply = pipeline.ask_until_loaded(&sign(), keyspace, key);
        assert_eq!(reply.status, Status::Ok);
    }
}

#[test]
fn an_operation_that_panics_is_answered_once_and_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = server_with("operation", &Setup::new(&dir.path().join("data")).shards(2));
    // One of the two forwards it.
    for shard in 0..2 {
        let mut pipeline = Pipeline::shard(&server, shard);
        let keyspace = pipeline.keyspace("prod");
        pipeline.ask_until_loaded(&sign(), keyspace, b"good");
        pipeline.ask_until_loaded(&sign(), keyspace, b"bad");
        let mut expected = Vec::new();
        for number in 0..200 {
            let (key, status) = match number % 3 {
                0 => (&b"bad"[..], Status::Internal),
                _ => (&b"good"[..], Status::Ok),
            };
            expected.push((pipeline.queue(&sign(), keyspace, key, 0), status));
        }
        pipeline.send();
        let mut replies: Vec<_> = (0..expected.len())
            .map(|_| pipeline.reply())
            .map(|reply| (reply.request_id, reply.status))
            .collect();
        replies.sort_unstable_by_key(|(id, _)| *id);
        assert_eq!(replies, expected);
    }
    server.stop();
}

#[test]
fn a_core_that_panics_stops_the_server_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = server_with("core", &setup);
    let mut stream = Raw::greeted(&server.address()).stream;
    let keyspace = Pipeline::tcp(&server).keyspace("prod");
    let frame = Pipeline::encode(7, &sign(), keyspace, b"bad", 0);
    stream.write_all(&frame).unwrap();
    // INTERNAL, if it is sent before the connection ends: never a signature.
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    if let Ok(Some((answer, taken))) = keyway_protocol::ResponseFrame::decode(&bytes) {
        assert_eq!((answer.status, taken), (Status::Internal, bytes.len()));
    }
    let data = server.data.clone();
    assert!(!server.wait_for_exit().success());
    let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
    assert!(log.contains("the core panicked"), "{log}");
    assert_both_serve(&setup.start(), keyspace);
}

/// A read or a write of the log whose task panics is answered, and disturbs no other key.
#[test]
fn an_errand_that_panics_is_answered_once_and_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let mut command = setup.command();
    command.env("KEYWAY_PLANT", "errand:bad");
    let server = setup.start_as(command);
    let client = server.client();
    let path = |key: &str| -> KeyPath { format!("prod/{key}").parse().unwrap() };
    let generate = |key: &str| {
        let options = KeyOptions::default();
        client.key_generate(&path(key), Algorithm::Ed25519, options)
    };
    generate("good").unwrap();
    for _ in 0..3 {
        let refused = generate("bad").unwrap_err();
        assert_eq!(refused.status(), Some(Status::Internal), "{refused}");
    }
    let mut pipeline = Pipeline::tcp(&server);
    let keyspace = pipeline.keyspace("prod");
    let reply = pipeline.ask_until_loaded(&sign(), keyspace, b"good");
    assert_eq!(reply.status, Status::Ok);
    // A rotation waits for writes that were begun.
    client.keyspace_rotate(&crate::common::prod()).unwrap();
    server.wait_for_log("an errand panicked");
    server.stop();
    let server = setup.start();
    let mut pipeline = Pipeline::tcp(&server);
    let reply = pipeline.ask_until_loaded(&sign(), keyspace, b"good");
    assert_eq!(reply.status, Status::Ok);
    let options = KeyOptions::default();
    let made = server
        .client()
        .key_generate(&path("bad"), Algorithm::Ed25519, options);
    made.unwrap();
}

/// Without control no lock and no withdrawal acts, so nothing may be served.
#[test]
fn a_control_that_panics_ends_the_server_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = server_with("control", &setup);
    let mut stream = Raw::greeted(&server.address()).stream;
    let keyspace = Pipeline::tcp(&server).keyspace("prod");
    let create = Request::KeyspaceCreate(KeyspaceCreate {
        name: "bad",
        settings: Settings::new("").unwrap(),
    });
    let frame = Pipeline::encode(7, &create, 0, b"", 0);
    stream.write_all(&frame).unwrap();
    // The connection ends without an answer: what has become of it is not known.
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert!(bytes.is_empty(), "{bytes:?}");
    assert!(!server.wait_for_exit().success());
    assert_both_serve(&setup.start(), keyspace);
}
