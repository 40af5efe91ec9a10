//! Panics, planted in a debug build: each request has one answer, and a core that has panicked is never used again.
//!
//! A panic in a handler left a partial answer in the connection's buffer followed by another one, and closed the
//! connection. After a panic in the core the shard continued with an inconsistent state.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{Read, Write};
use std::net::TcpStream;

use keyway_client::{Algorithm, KeyOptions, KeyPath, Status};
use keyway_protocol::{InputKind, Octets, Request, Scheme, Sign};

use crate::common::pipeline::Pipeline;
use crate::common::{Server, Setup};

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
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let hello = keyway_protocol::Hello {
        version_min: 1,
        version_max: 1,
        client_name: "panics",
    };
    crate::common::ask(&mut stream, &Request::Hello(hello), 0, b"", 0);
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
    let server = setup.start();
    let mut pipeline = Pipeline::tcp(&server);
    for key in [&b"good"[..], b"bad"] {
        let reply = pipeline.ask_until_loaded(&sign(), keyspace, key);
        assert_eq!(reply.status, Status::Ok);
    }
}
