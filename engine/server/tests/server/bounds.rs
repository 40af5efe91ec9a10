//! Limits for clients without rights, and places reserved for the operator. The faults: idle anonymous connections kept
//! the owner out; with all descriptors in use LOCK could not even be sent; 200 connections that did not read cost 300
//! MiB; and clients without any right could make the control thread work for them.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use keyway_client::Status;
use keyway_client::blocking::Client;
use keyway_protocol::Opcode;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::common::{Server, Setup, prod, wait_until};
use crate::hostile::{Raw, frame, hello, ping, rss_bytes};

/// Time limit for a machine that builds concurrently.
const WITHIN: Duration = crate::common::WITHIN;
const CONNECTIONS_MAX: usize = 8;
/// Connections that send requests and never read.
const UNREAD_CONNECTIONS: usize = 200;
/// Most memory for all of them: the bound of one principal, twice for growth, and 64 KiB of requests and of answers for
/// each connection.
const UNREAD_RSS_BYTES_MAX: u64 = 96 << 20;

/// Returns a production server with keyspace `prod`, whose settings also are `lines`.
pub(crate) fn production(
    dir: &tempfile::TempDir,
    flags: &[&str],
    allow: &[(&str, &str)],
) -> Server {
    let pass = dir.path().join("pass");
    if !pass.exists() {
        std::fs::write(&pass, "correct horse battery staple").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&pass, mode).unwrap();
    }
    let setup = Setup::new(&dir.path().join("data")).production().shards(1);
    let setup = setup.flag("--passphrase-file").flag(pass.to_str().unwrap());
    let server = flags
        .iter()
        .fold(setup, |setup, flag| setup.flag(flag))
        .start();
    operator(&server).keyspace_create(&prod(), allow).unwrap();
    server
}

fn may_lock(server: &Server) {
    // A call also has its own time limit.
    wait_until("LOCK", WITHIN, || operator(server).lock(&prod()).is_ok());
}

/// Returns a client on the Unix socket. One attempt has its own time limit, which a loaded machine may exceed.
pub(crate) fn operator(server: &Server) -> Client {
    let address = format!("unix:{}", server.endpoints["unix"].as_str().unwrap());
    let mut client = None;
    wait_until("the operator's connection", WITHIN, || {
        client = Client::connect(&address).ok();
        client.is_some()
    });
    client.unwrap()
}

#[test]
fn the_operator_gets_in_beside_as_many_strangers_as_there_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let limit = CONNECTIONS_MAX.to_string();
    let flags = ["--connections-max", limit.as_str()];
    let server = production(&dir, &flags, &[("allow:anonymous", "sign")]);
    wait_until("the first connection's end", WITHIN, || {
        server.metric("keyway_shard_connections{shard=\"0\"}") == Some(0.0)
    });
    // They have a right, so none of them is evicted.
    let mut strangers: Vec<Raw> = (0..CONNECTIONS_MAX)
        .map(|_| Raw::greeted(&server.address()))
        .collect();
    assert_eq!(Raw::connect(&server.address()).answer(), None);
    may_lock(&server);
    for stranger in &mut strangers {
        assert_eq!(stranger.ask(&ping(2, b"")).1, Status::Ok);
    }
}

#[test]
fn those_without_rights_make_room_and_are_let_go_when_idle() {
    let dir = tempfile::tempdir().unwrap();
    let limit = CONNECTIONS_MAX.to_string();
    let server = production(&dir, &["--connections-max", limit.as_str()], &[]);
    let mut strangers: Vec<Raw> = (0..CONNECTIONS_MAX)
        .map(|_| Raw::greeted(&server.address()))
        .collect();
    // More operators than there are reserved places.
    let operators: Vec<_> = (0..CONNECTIONS_MAX + 4)
        .map(|_| operator(&server))
        .collect();
    for operator in &operators {
        operator.keyspace_list().unwrap();
    }
    for stranger in &mut strangers {
        assert_eq!(stranger.answer(), None, "an idle stranger is let go");
    }
    for operator in &operators {
        operator.keyspace_list().unwrap();
    }
}

#[test]
fn with_every_descriptor_taken_the_operator_gets_in_and_strangers_are_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let server = production(&dir, &[], &[]);
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    let before = rustix::process::getrlimit(Resource::Nofile);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let greatest = descriptors
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .max()
        .unwrap();
    // Every number below the limit is in use, except for some that were released.
    let limit = Rlimit {
        current: Some(greatest + 1),
        maximum: before.maximum,
    };
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    let mut strangers = Vec::new();
    loop {
        let mut stranger = Raw::connect(&server.address());
        // It may already be closed.
        let _ = stranger.stream.write_all(&hello(1, 1));
        if stranger.answer().is_none() {
            break;
        }
        strangers.push(stranger);
        assert!(strangers.len() < 1_000, "the limit does not hold");
    }
    // Twice: an accept that had begun before uses the old limit.
    for _ in 0..2 {
        operator(&server).keyspace_list().unwrap();
    }
    wait_until("the line about it", WITHIN, || {
        server.log().contains("accept failed")
    });
}

#[test]
fn answers_that_nobody_reads_have_a_bound_for_the_whole_shard() {
    let dir = tempfile::tempdir().unwrap();
    let server = production(&dir, &[], &[]);
    let before = rss_bytes(&server);
    let request: Vec<u8> = (1..=8).flat_map(|id| ping(id, &[7; 66_000])).collect();
    let unread: Vec<TcpStream> = (0..UNREAD_CONNECTIONS)
        .map(|_| {
            let raw = Raw::greeted(&server.address());
            raw.stream.set_nonblocking(true).unwrap();
            raw.stream
        })
        .collect();
    // Rounds, until none accepts anything in a whole round.
    let began = Instant::now();
    loop {
        let written: usize = unread
            .iter()
            .map(|mut stream| stream.write(&request).unwrap_or(0))
            .sum();
        if written == 0 {
            break;
        }
        assert!(
            began.elapsed() < WITHIN,
            "the server reads on without being read"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let grown = rss_bytes(&server).saturating_sub(before);
    assert!(
        grown < UNREAD_RSS_BYTES_MAX,
        "the server has grown by {grown} bytes"
    );
    // Others are served in the meantime, and one of the many that finally reads gets its answers.
    may_lock(&server);
    drop(unread);
    let mut raw = Raw::greeted(&server.address());
    assert_eq!(raw.ask(&ping(2, b"there?")).1, Status::Ok);
}

#[test]
fn client_without_grant_does_not_reach_the_control_thread() {
    let dir = tempfile::tempdir().unwrap();
    let server = production(&dir, &[], &[]);
    let series = "keyway_shard_control_requests_total{shard=\"0\"}";
    server.wait_for_metric(series, |count| count >= 1.0);
    let before = server.metric(series);
    let mut stranger = Raw::greeted(&server.address());
    let ask = |stranger: &mut Raw, opcode: Opcode, keyspace, payload: &[u8]| {
        stranger.ask(&frame(opcode.code(), 7, keyspace, b"", payload))
    };
    for _ in 0..50 {
        let (_, status, payload) = ask(&mut stranger, Opcode::KeyspaceList, 0, b"");
        let document: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(
            (status, &document["keyspaces"]),
            (Status::Ok, &serde_json::json!([]))
        );
        assert_eq!(
            ask(&mut stranger, Opcode::Status, 0, b"").1,
            Status::Forbidden
        );
        let ticket = (1_u64 << 32).to_le_bytes();
        assert_eq!(
            ask(&mut stranger, Opcode::UnlockStatus, 1, &ticket).1,
            Status::Forbidden
        );
        assert_eq!(
            ask(&mut stranger, Opcode::KeyspaceHistory, 1, b"").1,
            Status::Forbidden
        );
    }
    // The metric is at most a second old: wait for one that is newer than the requests.
    let mut connected = Raw::greeted(&server.address());
    wait_until("the metric", WITHIN, || {
        // Strangers that ask for nothing are closed.
        for stranger in [&mut stranger, &mut connected] {
            stranger.ask(&ping(9, b""));
        }
        server.metric("keyway_shard_connections{shard=\"0\"}") >= Some(2.0)
    });
    assert_eq!(server.metric(series), before);
    operator(&server).keyspace_list().unwrap();
    server.wait_for_metric(series, |count| Some(count) > before);
    drop(connected);
}

/// Reads until the end of the stream.
pub fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count) = stream.read(&mut chunk) {
        if count == 0 {
            break;
        }
        all.extend_from_slice(&chunk[..count]);
    }
    all
}
