//! A connection that follows the protocol is never closed for being slow because the server is. Two faults: the time for
//! a frame's rest continued while the server did not read (at its limit of requests in flight, or because bytes of later
//! frames were always available), and while the server's process was suspended.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyway_client::{Algorithm, KeyOptions, Scheme, Status};
use keyway_protocol::{InputKind, Octets, Opcode, Request, Sign};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::Server;
use crate::hostile::{Raw, frame, ping};

/// Longer than a connection may take for the rest of a frame.
const BEYOND_THE_STALL_LIMIT: Duration = Duration::from_secs(14);
/// Time for some checks of connections after the pause, well within that limit.
const LOOKS: Duration = Duration::from_secs(3);
/// More than a connection may have in flight: the server is always at its limit, and always has more to read.
const IN_FLIGHT: u64 = 3_000;

fn sign(id: u64) -> Vec<u8> {
    let sign = Request::Sign(Sign {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        input: Octets(b"message"),
    });
    let mut payload = Vec::new();
    sign.encode_payload(&mut payload).unwrap();
    frame(Opcode::Sign.code(), id, 1, b"rsa", &payload)
}

#[test]
fn a_client_that_always_has_more_to_ask_is_never_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let key = "prod/rsa".parse().unwrap();
    server
        .client()
        .key_generate(&key, Algorithm::Rsa2048, KeyOptions::default())
        .unwrap();
    let mut raw = Raw::greeted(&server.address());
    let mut writer = raw.stream.try_clone().unwrap();
    let ends = Instant::now() + BEYOND_THE_STALL_LIMIT;
    let (answered, total) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        let (answered, total) = (&answered, &total);
        scope.spawn(move || {
            // The data sent always ends within a frame, whose rest comes with the next batch.
            let mut asked = 0;
            let mut rest = Vec::new();
            while Instant::now() < ends {
                if asked - answered.load(Ordering::Relaxed) >= IN_FLIGHT {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                rest.extend((0..100).flat_map(|i| sign(asked + i + 1)));
                let next = rest.split_off(rest.len() - 20);
                writer.write_all(&rest).expect("the server takes it");
                rest = next;
                asked += 100;
            }
            // Before the last bytes: until they arrive, an answer is outstanding.
            total.store(asked, Ordering::Relaxed);
            writer.write_all(&rest).expect("the server takes it");
        });
        let mut seen = HashSet::new();
        let mut read = |raw: &mut Raw| {
            let answer = raw.answer();
            let (id, status, _) = answer.expect("a client that reads its answers is served");
            assert!(
                matches!(status, Status::Ok | Status::Overloaded),
                "{status:?}"
            );
            assert!(seen.insert(id), "{id} was answered twice");
            answered.store(seen.len() as u64, Ordering::Relaxed);
        };
        while answered.load(Ordering::Relaxed) < total.load(Ordering::Relaxed) {
            read(&mut raw);
        }
    });
}

#[test]
fn a_pause_of_the_server_is_not_held_against_its_clients() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let request = ping(2, &[7; 100]);
    let mut halves: Vec<Raw> = (0..4)
        .map(|_| {
            let mut raw = Raw::greeted(&server.address());
            raw.send(&request[..50]);
            raw
        })
        .collect();
    // So that the server has seen the halves.
    let mut other = Raw::greeted(&server.address());
    assert_eq!(other.ask(&ping(3, b"")).1, Status::Ok);
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    std::thread::sleep(BEYOND_THE_STALL_LIMIT);
    kill_process(pid, Signal::CONT).unwrap();
    // It checks for stalled connections once a second.
    std::thread::sleep(LOOKS);
    for raw in &mut halves {
        raw.send(&request[50..]);
    }
    for raw in &mut halves {
        let (id, status, payload) = raw.answer().expect("the connection stands");
        assert_eq!(
            (id, status, payload.as_slice()),
            (2, Status::Ok, &[7; 100][..])
        );
    }
}
