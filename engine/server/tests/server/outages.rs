//! A real OpenBao that becomes unreachable and recovers, and the calls that cold keys cost it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, KeyOptions, KeyPath, KeyspaceName, Status, UnlockState, UnlockWith,
};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use crate::common::{Server, Setup, WITHIN};

fn shop() -> KeyspaceName {
    "shop".parse().unwrap()
}

fn key(index: usize) -> KeyPath {
    format!("shop/key-{index}").parse().unwrap()
}

fn mac(client: &Client, key: &KeyPath) -> Result<(), Option<Status>> {
    let made = client.mac(key, b"message");
    made.map(drop).map_err(|error| error.status())
}

/// Four times as often as [`crate::common::wait_until`], since a check can be a request that must no longer be served.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < WITHIN, "{what} took too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns an OpenBao, and a setup of a server with it as KMS `bao`. The default stays local.
pub fn stand(dir: &Path) -> Option<(OpenBao, Setup)> {
    let bao = OpenBao::start_or_skip(Mode::Durable)?;
    bao.enable_transit("transit");
    bao.create_key("keyway", true);
    bao.write_key_policy("keyway", "transit", "keyway");
    let token = bao.token_for(&["keyway"], &json!({ "period": "1h" }));
    let token_file = dir.join("token");
    std::fs::write(&token_file, token).unwrap();
    std::fs::set_permissions(&token_file, Permissions::from_mode(0o600)).unwrap();
    let config = format!(
        "default_kms = \"local\"\n[kms.local]\nprovider = \"local\"\n[kms.bao]\nprovider = \"vault\"\n\
         address = {:?}\nkey = \"keyway\"\n\
         auth = {{ method = \"token\", token_file = {token_file:?} }}\n",
        bao.url(),
    );
    let config_file = dir.join("keywayd.toml");
    std::fs::write(&config_file, config).unwrap();
    let setup = Setup::new(&dir.join("data")).shards(2);
    let setup = setup.flag("--config").flag(config_file.to_str().unwrap());
    Some((bao, setup))
}

fn create(client: &Client, keys: usize) {
    client.keyspace_create(&shop(), &[("kms", "bao")]).unwrap();
    for index in 0..keys {
        let options = KeyOptions::default();
        let made = client.key_generate(&key(index), Algorithm::HmacSha256, options);
        made.unwrap();
    }
}

fn unwraps(server: &Server, outcome: &str) -> f64 {
    let labels =
        format!("kms=\"bao\",keyspace=\"shop\",operation=\"unwrap\",outcome=\"{outcome}\"");
    let series = format!("keyway_kms_calls_total{{{labels}}}");
    server.metric(&series).unwrap_or(0.0)
}

#[test]
fn keys_in_use_are_served_to_the_end_of_the_lease_and_not_past_it() {
    /// Uses that must succeed without a KMS before the lease is shortened.
    const USES: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let Some((mut bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    let began = Instant::now();
    create(&client, 1);
    wait_until("the first use", || mac(&client, &key(0)).is_ok());

    bao.kill();
    let gone_at = Instant::now();
    for _ in 0..USES {
        assert_eq!(mac(&client, &key(0)), Ok(()), "in the midst of the lease");
    }
    // The lease counts from a call that was sent after `began` and before the KMS was unreachable. A second from now is
    // within a lease of that length.
    let lease_ms = u64::try_from(began.elapsed().as_millis()).unwrap() + 1_000;
    let lease = Duration::from_millis(lease_ms);
    let lease_ms = lease_ms.to_string();
    let shorter = [("dek_lease_ms", lease_ms.as_str())];
    client.keyspace_set(&shop(), &shorter).unwrap();
    let mut last_served_at = gone_at;
    wait_until("the end of the lease", || {
        let asked_at = Instant::now();
        match mac(&client, &key(0)) {
            Ok(()) => {
                last_served_at = asked_at;
                false
            }
            Err(Some(Status::NeedsUnlock)) => true,
            Err(other) => panic!("{other:?} during the outage"),
        }
    });
    let outlived = last_served_at.duration_since(gone_at);
    assert!(outlived <= lease, "{outlived:?} of {lease:?}");
    // It does not end earlier, either.
    let ended_at = Instant::now();
    assert!(ended_at.duration_since(began) >= lease, "{lease:?}");
    for _ in 0..200 {
        assert_ne!(mac(&client, &key(0)), Ok(()), "served past the lease");
    }

    // An unlock with retries ends automatically when the KMS answers again.
    let ticket = client.unlock_with_retry(&shop(), UnlockWith::Nothing);
    let ticket = ticket.unwrap().value;
    let failed_before = unwraps(&server, "unavailable");
    wait_until("a try that fails", || {
        unwraps(&server, "unavailable") > failed_before || unwraps(&server, "breaker_open") > 0.0
    });
    let status = client.unlock_status(&shop(), ticket).unwrap().value;
    assert_eq!(status.state, UnlockState::Pending, "{status:?}");
    bao.restart();
    wait_until("the unlock", || {
        let status = client.unlock_status(&shop(), ticket).unwrap().value;
        assert_ne!(status.state, UnlockState::Failed, "{status:?}");
        status.state == UnlockState::Done
    });
    wait_until("the first use after the outage", || {
        mac(&client, &key(0)).is_ok()
    });
}

#[test]
fn a_hundred_thousand_requests_for_cold_keys_cost_one_unwrap() {
    const KEYS: usize = 1_000;
    const REQUESTS: usize = 100_000;
    const CLIENTS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    create(&server.client(), KEYS);
    drop(server);

    let server = setup.start();
    let clients = (0..CLIENTS).map(|first| {
        let client = server.client();
        std::thread::spawn(move || {
            let keys: Vec<KeyPath> = (0..KEYS).map(key).collect();
            let served = keys.iter().cycle().skip(first * KEYS / CLIENTS);
            served
                .take(REQUESTS / CLIENTS)
                .filter(|key| mac(&client, key).is_ok())
                .count()
        })
    });
    let clients: Vec<_> = clients.collect();
    let served: usize = clients.into_iter().map(|one| one.join().unwrap()).sum();
    assert!(served > REQUESTS / 2, "only {served} were served");
    // The exporter has the value within a second.
    wait_until("the count", || unwraps(&server, "ok") > 0.0);
    assert_eq!(unwraps(&server, "ok"), 1.0);
}

#[test]
fn a_wait_that_the_kms_outlasts_is_logged_with_the_key_and_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    create(&client, 1);
    client
        .keyspace_set(&shop(), &[("sign_wait_budget_us", "1")])
        .unwrap();
    drop(client);
    drop(server);

    // Each start is cold: the first request waits for the DEK, and no longer than a tick beyond that.
    wait_until("a wait for the DEK that ran out", || {
        let server = setup.start();
        let _ = mac(&server.client(), &key(0));
        let log = server.log();
        let mut lines = log.lines();
        lines.any(|line| {
            let parts = [
                "refresh wait timeout",
                "shop",
                "key-0",
                "cause=\"dek_missing\"",
            ];
            parts.iter().all(|part| line.contains(part))
        })
    });
}
