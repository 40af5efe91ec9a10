//! Keyspaces that are wrapped under an older version of the KMS's key are counted, and a rewrap at the same KMS removes
//! them from the count, before `min_decryption_version` is raised.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::KeyspaceName;
use serde_json::json;

use crate::command_line::operator::Operator;
use crate::common::{WITHIN, wait_until};
use crate::outages::stand;

const BEHIND: &str = "keyway_kms_keyspaces_behind{kms=\"bao\"}";

#[test]
fn keyspaces_behind_the_newest_version_are_counted_until_they_are_rewrapped() {
    let dir = tempfile::tempdir().unwrap();
    let Some((bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    let create = |name: &str| {
        let name: KeyspaceName = name.parse().unwrap();
        wait_until("a keyspace", WITHIN, || {
            client.keyspace_create(&name, &[("kms", "bao")]).is_ok()
        });
    };
    for name in ["one", "two", "three"] {
        create(name);
    }
    bao.write("transit/keys/keyway/rotate", &json!({}));
    // Its DEK shows the latest version.
    create("four");
    server.wait_for_metric(BEHIND, |count| count == 3.0);
    server.wait_for_log("keyspaces=3");
    server.wait_for_log("`keyway keyspace rewrap KEYSPACE --kms bao`");
    let operator = Operator::new();
    let listed = operator.done(&server, "keyway kms list");
    assert!(listed.contains("3 keyspaces"), "{listed}");
    let found = operator.run(&server, "keyway doctor --duration 2s");
    for part in [
        "wrapped under versions older than 2",
        "rewrap KEYSPACE --kms bao",
    ] {
        assert!(found.out.contains(part), "{}", found.out);
    }
    for name in ["one", "two", "three"] {
        let rewrap = format!("keyway keyspace rewrap {name} --kms bao");
        operator.done(&server, &rewrap);
    }
    server.wait_for_metric(BEHIND, |count| count == 0.0);
    // The purpose of the count.
    let raised = json!({ "min_decryption_version": 2 });
    bao.write("transit/keys/keyway/config", &raised);
    drop(server);
    let server = setup.start();
    for name in ["one", "two", "three", "four"] {
        operator.done(&server, &format!("keyway unlock {name} --wait"));
    }
}
