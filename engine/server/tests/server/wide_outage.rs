//! An outage of a KMS with 200 keyspaces is one fault: tens of log lines, not thousands, and every keyspace, `kms list`
//! and `keyspace create` name its cause. All recover without a command.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, KeyOptions, KeyPath, KeyspaceName, Status};
use serde_json::json;

use crate::command_line::operator::Operator;
use crate::common::{Ends, Server, WITHIN, wait_until};
use crate::outages::stand;

const KEYSPACES: usize = 200;
/// Most log lines of an outage, or of its end, in a minute: ten of each of three events, and how many more there were.
const LINES_PER_MINUTE: usize = 40;
/// Long enough that 200 keyspaces are created and used in time, and renewed within the budget.
const LEASE_MS: &str = "30000";

fn keyspace(index: usize) -> KeyspaceName {
    format!("shop-{index}").parse().unwrap()
}

fn key(index: usize) -> KeyPath {
    format!("shop-{index}/key").parse().unwrap()
}

/// Returns how many keyspaces are in this state.
fn in_state(server: &Server, state: &str) -> usize {
    let (_, metrics) = server.http("/metrics");
    let wanted = format!(",state=\"{state}\"}} 1");
    let of_shops = metrics.lines().filter(|line| {
        line.starts_with("keyway_keyspace_state{keyspace=\"shop-") && line.ends_with(&wanted)
    });
    of_shops.count()
}

fn use_all(server: &Server, ends: &AtomicBool) {
    let client = server.client();
    while !ends.load(Ordering::Relaxed) {
        for index in 0..KEYSPACES {
            let _ = client.mac(&key(index), b"message");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn create_all(client: &Client) {
    for index in 0..KEYSPACES {
        let settings = [("kms", "bao"), ("dek_lease_ms", LEASE_MS)];
        wait_until("a keyspace", WITHIN, || {
            client.keyspace_create(&keyspace(index), &settings).is_ok()
        });
        let options = KeyOptions::default();
        wait_until("a key", WITHIN, || {
            let made = client.key_generate(&key(index), Algorithm::HmacSha256, options);
            made.is_ok()
        });
    }
}

/// Returns the log lines after the first `before`, which must be few: what may be logged in a minute, for all minutes of
/// which the trouble has had a part, however slow the machine is.
fn few_lines_since(server: &Server, before: usize, began: Instant) -> String {
    let log = server.log();
    let lines: Vec<&str> = log.lines().skip(before).collect();
    let minutes = began.elapsed().as_secs() / 60 + 2;
    let lines_max = LINES_PER_MINUTE * minutes as usize;
    assert!(lines.len() <= lines_max, "{}: {lines:#?}", lines.len());
    lines.join("\n")
}

fn wait_for_service(client: &Client) {
    let served = |index| client.mac(&key(index), b"message").is_ok();
    wait_until("all are served", WITHIN, || (0..KEYSPACES).all(served));
}

/// Waits until the leases of all keyspaces have ended, and their trouble has this cause.
fn wait_for_trouble(server: &Server, cause: &str, state: &str) {
    wait_until("the end of all leases", WITHIN, || {
        in_state(server, state) == KEYSPACES
    });
    let series = format!("keyway_kms_trouble_keyspaces{{kms=\"bao\",cause=\"{cause}\"}}");
    server.wait_for_metric(&series, |keyspaces| keyspaces == KEYSPACES as f64);
}

/// Each keyspace's denial was logged by each shard: thousands of lines when a policy was removed.
#[test]
fn a_removed_policy_a_revoked_token_and_a_seal_are_one_trouble_each() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    create_all(&client);
    let token_file = dir.path().join("token");
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| use_all(&server, &ends));
        let _ends = Ends(&ends);
        wait_for_service(&client);
        for cause in ["sealed", "token_ended"] {
            let (before, began) = (server.log().lines().count(), Instant::now());
            if cause == "sealed" {
                bao.seal();
            } else {
                let token = std::fs::read_to_string(&token_file).unwrap();
                bao.write("auth/token/revoke", &json!({ "token": token }));
            }
            wait_for_trouble(&server, cause, "acquiring");
            let said = few_lines_since(&server, before, began);
            assert!(said.contains(&format!("cause=\"{cause}\"")), "{said}");
            let (before, began) = (server.log().lines().count(), Instant::now());
            if cause == "sealed" {
                bao.unseal();
            } else {
                let token = bao.token_for(&["keyway"], &json!({ "period": "1h" }));
                std::fs::write(&token_file, token).unwrap();
            }
            wait_for_service(&client);
            few_lines_since(&server, before, began);
        }
        let (before, began) = (server.log().lines().count(), Instant::now());
        bao.remove_policy("keyway");
        wait_for_trouble(&server, "policy", "denied");
        let said = few_lines_since(&server, before, began);
        assert!(
            said.contains("the KMS denied the keyspace: purged"),
            "{said}"
        );
        assert!(said.contains("cause=\"policy\""), "{said}");
    });
}

#[test]
fn an_outage_of_two_hundred_keyspaces_is_one_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    create_all(&client);
    let operator = Operator::new();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| use_all(&server, &ends));
        let _ends = Ends(&ends);
        wait_for_service(&client);

        let (before, began) = (server.log().lines().count(), Instant::now());
        bao.kill();
        wait_for_trouble(&server, "connection_refused", "acquiring");
        let said = few_lines_since(&server, before, began);
        assert!(said.contains("cause=\"connection_refused\""), "{said}");
        let refused = client.mac(&key(7), b"message").unwrap_err();
        assert_eq!(refused.status(), Some(Status::NeedsUnlock));

        let listed = operator.run(&server, "keyway kms list");
        assert!(listed.out.contains("cannot be reached"), "{}", listed.out);
        assert!(
            listed.out.contains("check that the server runs"),
            "{}",
            listed.out
        );
        // The client retries as long as it is configured to.
        let create = "command keyway --timeout 3s keyspace create another --kms bao";
        let created = operator.shell(&server, create);
        created.refused(4, &["cannot be reached", "check that the server runs"]);
        let found = operator.run(&server, "keyway doctor --duration 2s");
        let lines = found.out.lines().count();
        assert!(lines <= 3 * LINES_PER_MINUTE, "{lines}: {}", found.out);
        let of_all = "connection_refused of 200 keyspaces";
        assert!(found.out.contains(of_all), "{}", found.out);

        let (before, began) = (server.log().lines().count(), Instant::now());
        bao.restart();
        wait_for_service(&client);
        let none = "keyway_kms_trouble_keyspaces{kms=\"bao\",cause=\"none\"}";
        server.wait_for_metric(none, |keyspaces| keyspaces == 0.0);
        few_lines_since(&server, before, began);
    });
}
