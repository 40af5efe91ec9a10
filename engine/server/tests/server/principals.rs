//! What one principal may use of a shard, and what a shard keeps for clients that do not read. The limits apply to
//! principals without full rights; without them one greedy client took what all share.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use keyway_client::{Algorithm, KeyOptions, KeyPath, Status};
use keyway_protocol::{
    Algorithm as WireAlgorithm, KeyGenerate, KeyList, KeyRevoke, NewKey, Request, Usage,
};

use crate::common::held_kms::HeldKms;
use crate::common::pipeline::Pipeline;
use crate::common::{Ends, Server, prod, repeat_until, wait_until};
use crate::hostile::{Raw, hello, ping};

const PARKED: &str = "keyway_shard_parked_requests{shard=\"0\"}";
const UNSENT: &str = "keyway_shard_unsent_answer_bytes{shard=\"0\"}";

/// `--connections-max`, and the three quarters of it that one principal may have.
const CONNECTIONS_MAX: usize = 64;
const CONNECTIONS_OF_ONE: usize = 48;
const IN_FLIGHT_OF_ONE: f64 = 32_768.0;
const GENERATING_OF_ONE: usize = 2_048;
const UNSENT_BYTES_MAX: f64 = (64 << 20) as f64;
/// Answers in flight to it when the bound is exceeded.
const UNSENT_SLACK_BYTES: f64 = (16 << 20) as f64;

/// Starts a server on which every client may manage keys.
fn start(kms: &HeldKms, dir: &Path, flags: &[&str]) -> Server {
    let setup = kms.setup(dir).shards(1);
    let setup = flags.iter().fold(setup, |setup, flag| setup.flag(flag));
    let server = setup.start();
    let owner = server.unix_client();
    let grants = [("allow:anonymous", "manage")];
    owner.keyspace_create(&prod(), &grants).unwrap();
    let key: KeyPath = "prod/key".parse().unwrap();
    owner
        .key_generate(&key, Algorithm::Ed25519, KeyOptions::default())
        .unwrap();
    server
}

/// As above, with nothing in memory and a KMS that does not answer.
fn start_cold(kms: &HeldKms, dir: &Path) -> Server {
    start(kms, dir, &[]).stop();
    let _ = std::fs::remove_file(dir.join("data/hot_keys.txt"));
    kms.hold();
    kms.setup(dir).shards(1).start()
}

fn pipelines(server: &Server, count: usize) -> Vec<Pipeline> {
    (0..count).map(|_| Pipeline::tcp(server)).collect()
}

#[test]
fn one_principal_has_three_quarters_of_the_connections() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let limit = CONNECTIONS_MAX.to_string();
    let server = start(&kms, dir.path(), &["--connections-max", &limit]);
    wait_until("the first connections' end", crate::common::WITHIN, || {
        server.metric("keyway_shard_connections{shard=\"0\"}") == Some(0.0)
    });
    let mut strangers = Vec::new();
    loop {
        let mut stranger = Raw::connect(&server.address());
        // It may already be closed.
        let _ = stranger.stream.write_all(&hello(1, 1));
        if stranger.answer().is_none() {
            break;
        }
        strangers.push(stranger);
    }
    assert_eq!(strangers.len(), CONNECTIONS_OF_ONE);
    server.unix_client().keyspace_list().unwrap();
}

#[test]
fn one_principal_has_so_many_requests_in_flight() {
    repeat_until(
        "all the requests that one principal may have in flight",
        || {
            let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
            let server = start_cold(&kms, dir.path());
            let mut greedy = pipelines(&server, 40);
            let keyspace = greedy[0].keyspace("prod");
            for pipeline in &mut greedy {
                for _ in 0..1_024 {
                    pipeline.queue(&Request::ForceRefresh, keyspace, b"key", 0);
                }
                pipeline.send();
            }
            // As many as possible, until the waits time out.
            let mut most = 0.0;
            for _ in 0..300 {
                let now = server.metric(PARKED).unwrap_or(0.0);
                assert!(now <= IN_FLIGHT_OF_ONE + 64.0, "{now} are in flight");
                if now < most {
                    break;
                }
                most = now;
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            // A principal that has none in flight is still served.
            let mut another = Raw::greeted(&server.address());
            assert_eq!(another.ask(&ping(2, b"there?")).1, Status::Ok);
            kms.release();
            most >= IN_FLIGHT_OF_ONE
        },
    );
}

#[test]
fn one_principal_generates_so_many_keys_at_a_time_and_revokes_all_the_same() {
    repeat_until("a key generation beyond the share", || {
        let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
        let server = start_cold(&kms, dir.path());
        let mut greedy = pipelines(&server, 3);
        let keyspace = greedy[0].keyspace("prod");
        let generate = Request::KeyGenerate(KeyGenerate {
            new_key: NewKey {
                algorithm: Some(WireAlgorithm::Ed25519),
                exportable: false,
                usage: Usage::NONE,
                not_after_unix_ms: 0,
            },
        });
        for (at, pipeline) in greedy.iter_mut().enumerate() {
            for number in 0..1_000 {
                let id = format!("new-{at}-{number}");
                pipeline.queue(&generate, keyspace, id.as_bytes(), 0);
            }
            pipeline.send();
        }
        let revoke = Request::KeyRevoke(KeyRevoke { key_version: 0 });
        let revoked = Pipeline::tcp(&server).ask(&revoke, keyspace, b"key");
        assert_eq!(revoked.status, Status::Ok);
        let replies = greedy
            .iter_mut()
            .flat_map(|pipeline| (0..1_000).map(|_| pipeline.reply().status));
        let statuses: Vec<Status> = replies.collect();
        kms.release();
        let refused = statuses.iter().filter(|is| **is == Status::Overloaded);
        let refused = refused.count();
        assert!(refused <= statuses.len() - GENERATING_OF_ONE);
        refused > 0
    });
}

#[test]
fn one_principal_lists_in_so_many_tasks_at_a_time() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let server = start(&kms, dir.path(), &[]);
    let owner = server.unix_client();
    for number in 0..100 {
        let key: KeyPath = format!("prod/k{number}").parse().unwrap();
        owner
            .key_generate(&key, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
    }
    let list = Request::KeyList(KeyList {
        shard: 0,
        limit: 0,
        cursor: keyway_protocol::Octets(b""),
    });
    let mut greedy = pipelines(&server, 8);
    let keyspace = greedy[0].keyspace("prod");
    for pipeline in &mut greedy {
        for _ in 0..500 {
            pipeline.queue(&list, keyspace, b"", 0);
        }
    }
    greedy.iter_mut().for_each(Pipeline::send);
    let replies = greedy
        .iter_mut()
        .flat_map(|pipeline| (0..500).map(|_| pipeline.reply().status));
    let statuses: Vec<Status> = replies.collect();
    let count = |status| statuses.iter().filter(|is| **is == status).count();
    assert!(count(Status::Overloaded) > 0, "none was refused");
    assert_eq!(
        count(Status::Ok) + count(Status::Overloaded),
        statuses.len()
    );
}

/// Answers to requests that were taken before a connection was at its limit have a bound for the whole shard.
#[test]
fn a_shard_with_too_many_unsent_answers_closes_those_who_do_not_read_and_no_others() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let server = start(&kms, dir.path(), &[]);
    let owner = server.unix_client();
    // A page of the list is as long as an answer can be.
    let names: Vec<String> = (0..200)
        .map(|uid| format!("allow:uid:{}", 4_000_000 + uid))
        .collect();
    let grants: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "sign,verify,mac"))
        .collect();
    for number in 0..10 {
        let name = format!("crowd-{number}").parse().unwrap();
        owner.keyspace_create(&name, &grants).unwrap();
    }
    let list = Request::KeyspaceList { after: 0 };
    let ask = |count: usize| {
        let mut pipeline = Pipeline::unix(&server);
        for _ in 0..count {
            pipeline.queue(&list, 0, b"", 0);
        }
        pipeline.send();
        pipeline
    };
    let unsent = || server.metric(UNSENT).unwrap_or(0.0);
    let is_enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // These read from time to time, so they stay.
        let mut readers = Vec::new();
        for _ in 0..8 {
            let mut pipeline = ask(100);
            let is_enough = &is_enough;
            readers.push(scope.spawn(move || {
                while !is_enough.load(Ordering::SeqCst) {
                    assert_eq!(pipeline.reply().status, Status::Ok);
                    // There is always data to be read.
                    pipeline.queue(&Request::KeyspaceList { after: 0 }, 0, b"", 0);
                    pipeline.send();
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
                for _ in 0..100 {
                    assert_eq!(pipeline.reply().status, Status::Ok);
                }
            }));
        }
        let enough = Ends(&is_enough);
        let mut deaf = Vec::new();
        wait_until("the bound", crate::common::WITHIN, || {
            assert!(unsent() <= UNSENT_BYTES_MAX + UNSENT_SLACK_BYTES);
            deaf.push(ask(1_000));
            std::thread::sleep(std::time::Duration::from_millis(500));
            server
                .log()
                .contains("a connection that does not read them is closed")
        });
        drop(enough);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
