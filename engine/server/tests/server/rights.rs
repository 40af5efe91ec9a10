//! A right must exist when the work is done, and not only when the request arrives.
//!
//! It was checked when a request arrived: requests that queued, or waited for a key, continued with a right that had been
//! withdrawn. 954 signatures were made after a withdrawal had been acknowledged.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, KeyOptions, KeyPath, Scheme, Status, UnlockState};
use keyway_protocol::{InputKind, Octets, Request, Settings, Sign, Unlock, UnlockKind};

use crate::common::held_kms::HeldKms;
use crate::common::pipeline::{PATIENT_US, Pipeline};
use crate::common::{Server, WITHIN, prod, repeat_until, wait_until};

/// Slightly fewer than may be in flight on a connection. This many RSA signatures take a second of a processor.
const QUEUED: usize = 1_000;
/// Signatures that were made before the withdrawal was in force and that reach the client after its answer.
const IN_TRANSIT_MAX: usize = 100;
/// Connections with that many commands each.
const PIPELINES: usize = 4;

fn sign_request() -> Request<'static> {
    Request::Sign(Sign {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        input: Octets(b"message"),
    })
}

/// Starts a server on which every client may sign with one key.
fn server_with(
    kms: &HeldKms,
    dir: &tempfile::TempDir,
    shards: u16,
    algorithm: Algorithm,
) -> Server {
    let server = kms.setup(dir.path()).shards(shards).start();
    let owner = server.unix_client();
    let settings = [
        ("allow:anonymous", "sign"),
        ("sign_wait_budget_us", "1000000"),
    ];
    owner.keyspace_create(&prod(), &settings).unwrap();
    let key: KeyPath = "prod/key".parse().unwrap();
    owner
        .key_generate(&key, algorithm, KeyOptions::default())
        .unwrap();
    server
}

fn grant(owner: &Client, rights: &str) {
    let settings = [("allow:anonymous", rights)];
    owner.keyspace_set(&prod(), &settings).unwrap();
}

/// Withdraws the right while slow operations queue, and counts the results after that.
fn queued_signatures(pipeline: &mut Pipeline, server: &Server) {
    let keyspace = pipeline.keyspace("prod");
    let owner = server.unix_client();
    repeat_until("a signature that the withdrawal overtakes", || {
        grant(&owner, "sign");
        for _ in 0..QUEUED {
            pipeline.queue(&sign_request(), keyspace, b"key", 0);
        }
        pipeline.send();
        // The queue is being processed.
        let mut taken = 1;
        while pipeline.reply().status != Status::Ok {
            taken += 1;
        }
        grant(&owner, "none");
        let arrived = pipeline.take_arrived();
        taken += arrived.len();
        let after: Vec<Status> = (taken..QUEUED).map(|_| pipeline.reply().status).collect();
        let count = |status| after.iter().filter(|is| **is == status).count();
        let made = count(Status::Ok);
        assert_eq!(made + count(Status::Forbidden), after.len());
        assert!(
            made <= IN_TRANSIT_MAX,
            "{made} signatures were made after the right was withdrawn"
        );
        // They are answered in turn. The right can be gone before the withdrawal is answered, so those that had arrived by
        // then count as well: none is signed after the first refusal.
        let all: Vec<Status> = arrived
            .iter()
            .map(|reply| reply.status)
            .chain(after)
            .collect();
        let refused = all.iter().position(|status| *status == Status::Forbidden);
        if let Some(first) = refused {
            let made = all[first..].iter().filter(|status| **status == Status::Ok);
            assert_eq!(made.count(), 0, "signed after a refusal");
        }
        refused.is_some()
    });
}

#[test]
fn a_slow_operation_that_queues_loses_its_right() {
    let dir = tempfile::tempdir().unwrap();
    let server = server_with(&HeldKms::start(), &dir, 1, Algorithm::Rsa3072);
    queued_signatures(&mut Pipeline::tcp(&server), &server);
}

#[test]
fn a_slow_operation_that_queues_at_another_shard_loses_its_right() {
    let dir = tempfile::tempdir().unwrap();
    let server = server_with(&HeldKms::start(), &dir, 2, Algorithm::Rsa3072);
    let mut pipelines = [Pipeline::shard(&server, 0), Pipeline::shard(&server, 1)];
    let keyspace = pipelines[0].keyspace("prod");
    let away = pipelines.iter_mut().find_map(|pipeline| {
        let reply = pipeline.ask_until_loaded(&sign_request(), keyspace, b"key");
        reply.is_forwarded.then_some(pipeline)
    });
    let away = away.expect("one of two shards is not the owner");
    queued_signatures(away, &server);
}

#[test]
fn a_request_that_waits_for_its_key_loses_its_right() {
    repeat_until("a waiting request that the withdrawal overtakes", || {
        let kms = HeldKms::start();
        let dir = tempfile::tempdir().unwrap();
        server_with(&kms, &dir, 1, Algorithm::Ed25519).stop();
        let _ = std::fs::remove_file(dir.path().join("data/hot_keys.txt"));
        kms.hold();
        let server = kms.setup(dir.path()).shards(1).start();
        let owner = server.unix_client();
        let mut pipeline = Pipeline::tcp(&server);
        let keyspace = pipeline.keyspace("prod");
        for _ in 0..QUEUED {
            pipeline.queue(&sign_request(), keyspace, b"key", 0);
        }
        pipeline.send();
        grant(&owner, "none");
        kms.release();
        let statuses: Vec<Status> = (0..QUEUED).map(|_| pipeline.reply().status).collect();
        let count = |status| statuses.iter().filter(|is| **is == status).count();
        assert_eq!(count(Status::Ok), 0, "signed without a right");
        assert_eq!(
            count(Status::Forbidden) + count(Status::Retry) + count(Status::NeedsUnlock),
            QUEUED
        );
        count(Status::Forbidden) > 0
    });
}

/// Returns `true` if the latest change of the keyspace is that of the grants of `anonymous`.
fn is_withdrawal_newest(owner: &Client) -> bool {
    let changes = owner.keyspace_history(&prod()).unwrap().value.changes;
    changes[0].what == "allow:anonymous"
}

#[test]
fn a_command_that_queues_at_control_loses_its_right() {
    let dir = tempfile::tempdir().unwrap();
    let server = server_with(&HeldKms::start(), &dir, 1, Algorithm::Ed25519);
    let owner = server.unix_client();
    repeat_until("a command that the withdrawal overtakes", || {
        grant(&owner, "manage");
        let mut pipelines: Vec<Pipeline> = (0..PIPELINES).map(|_| Pipeline::tcp(&server)).collect();
        for pipeline in &mut pipelines {
            let keyspace = pipeline.keyspace("prod");
            for number in 1..=QUEUED {
                let line = format!("max_in_flight={number}\n");
                let set = Request::KeyspaceSet(Settings::new(&line).unwrap());
                pipeline.queue(&set, keyspace, b"", PATIENT_US);
            }
        }
        // They are answered together, once they are written: there is no first answer to wait for.
        pipelines.iter_mut().for_each(Pipeline::send);
        grant(&owner, "none");
        assert!(is_withdrawal_newest(&owner), "changed without a right");
        let replies = pipelines
            .iter_mut()
            .flat_map(|pipeline| (0..QUEUED).map(|_| pipeline.reply().status));
        let statuses: Vec<Status> = replies.collect();
        assert!(is_withdrawal_newest(&owner), "changed without a right");
        let count = |status| statuses.iter().filter(|is| **is == status).count();
        let (made, refused) = (count(Status::Ok), count(Status::Forbidden));
        assert_eq!(made + refused + count(Status::Overloaded), statuses.len());
        made > 0 && refused > 0
    });
}

#[test]
fn a_command_that_waits_for_the_kms_loses_its_right() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let server = server_with(&kms, &dir, 1, Algorithm::Ed25519);
    let owner = server.unix_client();
    let info = || owner.keyspace_list().unwrap().remove(0);

    grant(&owner, "manage");
    let mut pipeline = Pipeline::tcp(&server);
    let keyspace = pipeline.keyspace("prod");
    kms.hold();
    pipeline.queue(&Request::KeyspaceRotate, keyspace, b"", PATIENT_US);
    pipeline.send();
    kms.wait_until_asked();
    grant(&owner, "none");
    kms.release();
    assert_eq!(pipeline.reply().status, Status::Forbidden);
    assert_eq!(info().generation, Some(1));

    owner.lock(&prod()).unwrap();
    grant(&owner, "unlock");
    let mut pipeline = Pipeline::tcp(&server);
    kms.hold();
    let unlock = Request::Unlock(Unlock {
        kind: UnlockKind::Nothing,
        watch: false,
        force: false,
        secret: Octets(b""),
    });
    let reply = pipeline.ask(&unlock, keyspace, b"");
    assert_eq!(reply.status, Status::Ok);
    let ticket = u64::from_le_bytes(reply.payload.try_into().unwrap());
    kms.wait_until_asked();
    grant(&owner, "none");
    kms.release();
    wait_until("the unlock", WITHIN, || {
        let status = owner.unlock_status(&prod(), ticket).unwrap().value;
        assert_ne!(status.state, UnlockState::Done);
        status.state == UnlockState::Failed
    });
    assert_eq!(info().locked, Some(true));
}
