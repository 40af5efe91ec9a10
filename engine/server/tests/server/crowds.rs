//! Everything that was acknowledged can be used, listed, changed and locked, whatever the number of keyspaces and grants.
//!
//! STATUS used to fail with a hundred or more keyspaces, and with it `keyway status`, `kms list`, `doctor` and `top`.
//! KEYSPACE_LIST failed with 32 keyspaces of 70 grants each, and HELLO silently omitted keyspaces.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeSet;

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Input, KeyOptions, KeyPath, KeyspaceName, Scheme, Status};
use keyway_protocol::limits::KEYSPACE_COUNT_MAX;

use crate::command_line::operator::Operator;
use crate::common::{Server, past_the_start, wait_until};

/// Returns the number of keyspaces, more than HELLO can list; `KEYWAY_CROWD` sets it, for `make crowd`.
fn keyspaces() -> usize {
    let told = std::env::var("KEYWAY_CROWD").ok();
    let told = told.map(|text| text.parse().expect("KEYWAY_CROWD is a number"));
    told.unwrap_or(0).max(KEYSPACE_COUNT_MAX + 100)
}

/// Grants of each of the first keyspaces.
const GRANTS: usize = 70;
const GRANTING: usize = 40;

/// Connections that create keyspaces concurrently.
const MAKERS: usize = 16;

fn name(number: usize) -> KeyspaceName {
    format!("crowd-{number}").parse().unwrap()
}

fn make(client: &Client, number: usize) {
    let principals: Vec<String> = (0..GRANTS).map(|uid| format!("allow:uid:{uid}")).collect();
    let grants: Vec<(&str, &str)> = match number < GRANTING {
        true => principals
            .iter()
            .map(|name| (name.as_str(), "sign,verify,mac"))
            .collect(),
        false => Vec::new(),
    };
    client.keyspace_create(&name(number), &grants).unwrap();
}

fn sign(client: &Client, number: usize) {
    let key: KeyPath = format!("{}/alice", name(number)).parse().unwrap();
    let message = Input::Message(b"message");
    past_the_start(|| client.sign(&key, Scheme::Default, message)).unwrap();
}

#[test]
fn many_keyspaces_are_used_listed_changed_and_locked() {
    let dir = tempfile::tempdir().unwrap();
    let (server, count) = (Server::dev(&dir, 2), keyspaces());
    let early = server.client();
    std::thread::scope(|scope| {
        for maker in 0..MAKERS {
            let client = server.client();
            scope.spawn(move || {
                (maker..count)
                    .step_by(MAKERS)
                    .for_each(|number| make(&client, number));
            });
        }
    });
    // Beyond the list of HELLO, for a new client and for one that has been connected all the time.
    let late = server.client();
    let listed = late.keyspace_list().unwrap();
    let last = listed
        .iter()
        .filter_map(|info| info.name.strip_prefix("crowd-"))
        .next_back();
    let last: usize = last.unwrap().parse().unwrap();
    let key: KeyPath = format!("{}/alice", name(last)).parse().unwrap();
    let options = KeyOptions::default();
    past_the_start(|| late.key_generate(&key, Algorithm::Ed25519, options)).unwrap();
    for client in [&early, &late] {
        sign(client, last);
    }
    let names: BTreeSet<&str> = listed.iter().map(|info| info.name.as_str()).collect();
    assert_eq!((listed.len(), names.len()), (count + 1, count + 1));
    let granted = listed
        .iter()
        .filter(|info| info.allow.len() == GRANTS)
        .count();
    assert_eq!(granted, GRANTING);

    early
        .keyspace_set(&name(last), &[("max_in_flight", "7")])
        .unwrap();
    late.lock(&name(last)).unwrap();
    wait_until(
        "the metrics of all keyspaces",
        std::time::Duration::from_secs(60),
        || {
            let status = late.status().unwrap().value;
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let keyspaces = status["keyspaces"].as_array().unwrap();
            let locked = keyspaces.iter().filter(|row| row["locked"] == true).count();
            let at_local = keyspaces.iter().filter(|row| row["kms"] == "local").count();
            let ids: BTreeSet<u64> = keyspaces
                .iter()
                .filter_map(|row| row["id"].as_u64())
                .collect();
            assert_eq!(ids.len(), keyspaces.len(), "each row once");
            assert_eq!(status["shards"].as_array().unwrap().len(), 2);
            assert_eq!(status["kms"].as_array().unwrap().len(), 1);
            (locked, at_local) == (1, count + 1)
        },
    );
    let operator = Operator::new();
    for what in ["status", "kms list", "keyspace list", "top --once"] {
        // Into a file: it is larger than a pipe's buffer.
        operator.done(&server, &format!("keyway {what} > said"));
        assert!(!operator.read("said").is_empty(), "{what}");
    }
    let doctor = operator.run(&server, "keyway doctor --duration 2s --json > found");
    // 1 means that it has findings, which are not under test.
    assert!(
        doctor.code <= 1 && !operator.read("found").is_empty(),
        "{}{}",
        doctor.out,
        doctor.err
    );

    // A LOCK of each is more than a shard does in one turn. Its answer says that all are in force.
    late.lock_all().unwrap();
    let refused = early.sign(&key, Scheme::Default, Input::Message(b"message"));
    assert_eq!(refused.unwrap_err().status(), Some(Status::NeedsUnlock));
    wait_until(
        "the rows of all keyspaces show that they are locked",
        std::time::Duration::from_secs(60),
        || {
            let status = late.status().unwrap().value;
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let keyspaces = status["keyspaces"].as_array().unwrap();
            let locked = keyspaces.iter().filter(|row| row["locked"] == true);
            locked.count() == count + 1
        },
    );
}

#[test]
fn a_keyspace_has_at_most_256_principals_and_its_row_fits() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let crowd = name(0);
    client.keyspace_create(&crowd, &[]).unwrap();
    let all = keyway_protocol::Grants::ALL.to_string();
    let grant = |uid: u32| client.keyspace_set(&crowd, &[(&format!("allow:uid:{uid}"), &all)]);
    let first = u32::MAX - 255;
    for chunk in (first..=u32::MAX).collect::<Vec<_>>().chunks(64) {
        let names: Vec<String> = chunk.iter().map(|uid| format!("allow:uid:{uid}")).collect();
        let lines: Vec<(&str, &str)> = names
            .iter()
            .map(|name| (name.as_str(), all.as_str()))
            .collect();
        let hour = std::time::Duration::from_secs(3_600);
        client.keyspace_set_for(&crowd, &lines, hour).unwrap();
    }
    let refused = grant(7).unwrap_err();
    assert_eq!(refused.status(), Some(Status::BadRequest));
    assert!(
        refused.to_string().contains("256 is the maximum"),
        "{refused}"
    );
    let row = client
        .keyspace_list()
        .unwrap()
        .into_iter()
        .find(|info| info.name == crowd.as_str());
    let row = row.unwrap();
    assert_eq!((row.allow.len(), row.overrides.len()), (256, 256));
    let none = ("allow:uid:4294967295", "none");
    client.keyspace_set(&crowd, &[none]).unwrap();
    grant(7).unwrap();
}
