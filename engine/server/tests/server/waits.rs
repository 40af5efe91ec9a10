//! Tens of thousands of requests that wait for one load.
//!
//! They were all executed in one turn, against one reading of the clock: keys with a hard TTL of 400 ms were used 5.6 s
//! past it, `key_age_ms` was 0, and LOCK was answered when all of them had been served.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;
use std::sync::mpsc;

use keyway_client::{Algorithm, Input, KeyOptions, Scheme, Status};
use keyway_protocol::{Octets, Request, Verify};

use crate::common::held_kms::HeldKms;
use crate::common::pipeline::{Pipeline, Reply};
use crate::common::{Server, prod, repeat_until};

/// Fewer than one principal may have in flight.
const CONNECTIONS: usize = 25;
/// On each connection: slightly fewer than may be in flight.
const REQUESTS: usize = 1_000;
const HARD_TTL_MS: u32 = 100;
/// No processor verifies an Ed25519 signature in less.
const VERIFY_US_MIN: u64 = 7;
/// Most keys that are loaded sequentially in the meantime: one that was loaded later is younger.
const LOADS_MAX: u64 = 20;
/// All of them together take longer than the key may be used.
const _: () = assert!(VERIFY_US_MIN * (CONNECTIONS * REQUESTS) as u64 > HARD_TTL_MS as u64 * 1_000);
const REFRESHES: usize = 100;
const MESSAGE: &[u8] = b"message";

/// Starts a server with the key on disk and nothing in memory, whose KMS delays its answers.
fn cold_server(kms: &HeldKms, dir: &Path, ttl: &[(&str, &str)]) -> (Server, Vec<u8>) {
    let setup = kms.setup(dir).shards(1);
    kms.release();
    let server = setup.start();
    let owner = server.unix_client();
    let mut settings = vec![
        ("allow:anonymous", "verify"),
        ("sign_wait_budget_us", "1000000"),
        ("max_in_flight", "0"),
    ];
    settings.extend_from_slice(ttl);
    owner.keyspace_create(&prod(), &settings).unwrap();
    let key = "prod/key".parse().unwrap();
    owner
        .key_generate(&key, Algorithm::Ed25519, KeyOptions::default())
        .unwrap();
    let message = Input::Message(MESSAGE);
    let signature = owner.sign(&key, Scheme::Default, message).unwrap().value;
    server.stop();
    // Nothing is to be loaded before it is requested.
    let _ = std::fs::remove_file(dir.join("data/hot_keys.txt"));
    kms.hold();
    (setup.start(), signature)
}

/// Sends all requests, and returns when they wait for the DEK: a PING after them has been answered.
fn send_all(server: &Server, signature: &[u8]) -> Vec<Pipeline> {
    let verify = Request::Verify(Verify {
        scheme: Scheme::Default,
        kind: keyway_protocol::InputKind::Message,
        signature: Octets(signature),
        key_version: 0,
        input: Octets(MESSAGE),
    });
    let mut pipelines: Vec<Pipeline> = (0..CONNECTIONS).map(|_| Pipeline::tcp(server)).collect();
    for pipeline in &mut pipelines {
        let keyspace = pipeline.keyspace("prod");
        for _ in 0..REQUESTS {
            pipeline.queue(&verify, keyspace, b"key", 0);
        }
    }
    for pipeline in &mut pipelines {
        pipeline.queue(&Request::Ping(Octets(b"all are taken")), 0, b"", 0);
        pipeline.send();
    }
    for pipeline in &mut pipelines {
        // On a busy machine some waits have ended by now.
        while pipeline.reply().payload != b"all are taken" {
            pipeline.taken_early += 1;
        }
    }
    pipelines
}

/// Returns the outstanding answers.
fn replies(pipelines: Vec<Pipeline>) -> Vec<Reply> {
    let mut replies = Vec::new();
    for mut pipeline in pipelines {
        replies.extend((pipeline.taken_early..REQUESTS).map(|_| pipeline.reply()));
    }
    replies
}

#[test]
fn none_is_served_past_the_end_of_the_key_and_each_is_told_its_true_age() {
    repeat_until("a request that is served after its wait", || {
        let kms = HeldKms::start();
        let dir = tempfile::tempdir().unwrap();
        let hard = HARD_TTL_MS.to_string();
        let ttl = [
            ("soft_ttl_ms", "50"),
            ("hard_ttl_ms", hard.as_str()),
            ("refresh_window_ms", "0"),
            ("low_water_pct", "0"),
        ];
        let (server, signature) = cold_server(&kms, dir.path(), &ttl);
        let pipelines = send_all(&server, &signature);
        kms.release();
        let replies = replies(pipelines);
        let served = replies.iter().filter(|reply| reply.status == Status::Ok);
        let mut ages_ms: Vec<u32> = served.map(|reply| reply.key_age_ms).collect();
        for reply in &replies {
            let expected = matches!(reply.status, Status::Ok | Status::Retry);
            assert!(expected, "{:?}", reply.status);
        }
        assert!(ages_ms.len() < replies.len(), "all were served in time?");
        ages_ms.sort_unstable();
        for (before, age_ms) in ages_ms.iter().enumerate() {
            assert!(*age_ms < HARD_TTL_MS, "used at the age of {age_ms} ms");
            let least_ms = before as u64 / LOADS_MAX * VERIFY_US_MIN / 1_000;
            assert!(
                u64::from(*age_ms) + 1 >= least_ms,
                "{before} were served before it, and the key is said to be {age_ms} ms old"
            );
        }
        !ages_ms.is_empty()
    });
}

#[test]
fn a_lock_overtakes_those_who_have_yet_to_be_served() {
    repeat_until("a request that is served before the lock", || {
        let kms = HeldKms::start();
        let dir = tempfile::tempdir().unwrap();
        let (server, signature) = cold_server(&kms, dir.path(), &[]);
        let mut owner = Pipeline::unix(&server);
        let keyspace = owner.keyspace("prod");
        let mut pipelines = send_all(&server, &signature);
        let (first_served, is_served) = mpsc::channel();
        let mut first = pipelines.remove(0);
        let reader = std::thread::spawn(move || {
            let mut statuses = Vec::new();
            for _ in first.taken_early..REQUESTS {
                let reply = first.reply();
                if reply.status == Status::Ok {
                    let _ = first_served.send(());
                }
                statuses.push(reply.status);
            }
            statuses
        });
        kms.release();
        // An error: none of its requests was served.
        let any_served = is_served.recv().is_ok();
        let locked = owner.ask(&Request::Lock, keyspace, b"");
        assert_eq!(locked.status, Status::Ok);
        let mut statuses = reader.join().unwrap();
        statuses.extend(replies(pipelines).iter().map(|reply| reply.status));
        let count = |status| statuses.iter().filter(|is| **is == status).count();
        let (served, refused) = (count(Status::Ok), count(Status::NeedsUnlock));
        assert_eq!(served + refused + count(Status::Retry), statuses.len());
        if any_served {
            assert!(refused > 0, "all {served} were served before the lock");
        }
        any_served
    });
}

/// Each used to have a load of its own, one after the other.
#[test]
fn a_hundred_force_refreshes_in_one_write_cause_one_load() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let (server, _) = cold_server(&kms, dir.path(), &[]);
    let mut pipeline = Pipeline::unix(&server);
    let keyspace = pipeline.keyspace("prod");
    for _ in 0..REFRESHES {
        pipeline.queue(&Request::ForceRefresh, keyspace, b"key", 0);
    }
    let ping = pipeline.queue(&Request::Ping(Octets(b"")), 0, b"", 0);
    pipeline.send();
    // None begins to read before the DEK is available, and after the PING all have arrived.
    assert_eq!(pipeline.reply().request_id, ping);
    kms.wait_until_asked();
    kms.release();
    for _ in 0..REFRESHES {
        let reply = pipeline.reply();
        assert_eq!((reply.status, reply.key_version), (Status::Ok, 1));
    }
    let loads = "rehydrate_total{keyspace=\"prod\"}";
    server.wait_for_metric(loads, |loads| loads == 1.0);
}
