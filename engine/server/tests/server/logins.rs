//! Logins at a real OpenBao that are refused, and those that replace one. [`crate::renewals`] has those that are kept.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, KeyOptions, KeyPath, KeyspaceName, UnlockWith};
use keyway_testkit::fault_proxy::{Fault, FaultProxy};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use crate::command_line::operator::Operator;
use crate::common::{Setup, WITHIN, wait_until};

pub const POLICY: &str = "keyway";

pub fn keyspace(index: usize) -> KeyspaceName {
    format!("shop-{index}").parse().unwrap()
}

pub fn key(index: usize) -> KeyPath {
    format!("shop-{index}/key").parse().unwrap()
}

pub fn write_secret(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::set_permissions(&next, Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// An OpenBao, a proxy in front of it that counts, and a server's setup.
pub struct Stand {
    pub bao: OpenBao,
    pub proxy: FaultProxy,
    pub setup: Setup,
    /// The file with the token or the secret id.
    pub file: PathBuf,
}

/// `auth`: what the setting `auth` contains, besides the file with the secret that `secret` returns.
pub fn stand(
    dir: &Path,
    secret: impl FnOnce(&OpenBao) -> (String, String),
    budget: &str,
) -> Option<Stand> {
    let bao = OpenBao::start_or_skip(Mode::Durable)?;
    bao.enable_transit("transit");
    bao.create_key("keyway", true);
    bao.write_key_policy(POLICY, "transit", "keyway");
    let (auth, text) = secret(&bao);
    let file = dir.join("secret");
    write_secret(&file, &text);
    let proxy = FaultProxy::start(([127, 0, 0, 1], bao.port()).into());
    let config = format!(
        "[kms.bao]\nprovider = \"vault\"\naddress = \"http://{}\"\nkey = \"keyway\"\n\
         auth = {{ {auth} = {file:?} }}\n[kms.bao.budget]\n{budget}\n",
        proxy.address(),
    );
    let config_file = dir.join("keywayd.toml");
    std::fs::write(&config_file, config).unwrap();
    let setup = Setup::new(&dir.join("data")).shards(2);
    let setup = setup.flag("--config").flag(config_file.to_str().unwrap());
    Some(Stand {
        bao,
        proxy,
        setup,
        file,
    })
}

pub fn with_token(options: serde_json::Value) -> impl FnOnce(&OpenBao) -> (String, String) {
    move |bao| {
        let token = bao.token_for(&[POLICY], &options);
        ("method = \"token\", token_file".to_owned(), token)
    }
}

pub fn create(client: &Client, keyspaces: usize, settings: &[(&str, &str)]) {
    for index in 0..keyspaces {
        wait_until("a keyspace", WITHIN, || {
            client.keyspace_create(&keyspace(index), settings).is_ok()
        });
        let options = KeyOptions::default();
        wait_until("a key", WITHIN, || {
            let made = client.key_generate(&key(index), Algorithm::HmacSha256, options);
            made.is_ok()
        });
    }
}

pub fn is_served(client: &Client, index: usize) -> bool {
    client.mac(&key(index), b"message").is_ok()
}

/// Each `keyway unlock`, the remedy of every NEEDS_UNLOCK, made another refused login: five of them locked the role out.
#[test]
fn a_refused_login_is_not_repeated_for_each_keyspace_or_command() {
    const KEYSPACES: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let mut role = String::new();
    let approle = |bao: &OpenBao| {
        let (role_id, secret_id) = bao.approle("keyway", &[POLICY], &json!({}));
        role.clone_from(&role_id);
        let auth = format!("method = \"approle\", role_id = {role_id:?}, secret_id_file");
        (auth, secret_id)
    };
    let Some(stand) = stand(dir.path(), approle, "rate_per_s = 1000") else {
        return;
    };
    let server = stand.setup.start();
    let client = server.client();
    create(&client, KEYSPACES, &[("dek_lease_ms", "10000")]);
    write_secret(&stand.file, "3c2d5f2a-wrong");
    let logins = || {
        let calls = stand.proxy.calls();
        calls
            .iter()
            .filter(|call| call.path.ends_with("/login"))
            .count()
    };
    let before = logins();
    // The tokens of its logins.
    let prefix = "sys/leases/revoke-prefix/auth/approle/login";
    stand.bao.write(prefix, &json!({ "sync": true }));
    let series = "keyway_kms_trouble_keyspaces{kms=\"bao\",cause=\"login_refused\"}";
    wait_until("the failure of all keyspaces", WITHIN, || {
        for index in 0..KEYSPACES {
            let _ = client.mac(&key(index), b"message");
        }
        server.metric(series) == Some(KEYSPACES as f64)
    });
    for index in 0..10 {
        let ticket = client.unlock(&keyspace(index), UnlockWith::Nothing);
        let ticket = ticket.unwrap().value;
        wait_until("the end of the unlock", WITHIN, || {
            let status = client.unlock_status(&keyspace(index), ticket).unwrap();
            status.value.state != keyway_client::UnlockState::Pending
        });
    }
    let refused = logins() - before;
    assert!((1..=2).contains(&refused), "{refused} refused logins");
    let operator = Operator::new();
    let listed = operator.run(&server, "keyway kms list");
    assert!(
        listed.out.contains("the next login is tried in"),
        "{}",
        listed.out
    );
    // The role is not locked out: another service logs in with it.
    let secret_id = stand.bao.secret_id("keyway");
    let login = json!({ "role_id": role, "secret_id": secret_id });
    stand.bao.write("auth/approle/login", &login);
    // Another secret id in the file ends it.
    write_secret(&stand.file, &stand.bao.secret_id("keyway"));
    wait_until("service again", WITHIN, || {
        (0..KEYSPACES).all(|index| is_served(&client, index))
    });
}

/// The server had read the token once: when its policy was removed, all keys were wiped although the file had another one.
#[test]
fn another_token_in_the_file_is_used_before_the_first_ones_policy_ends() {
    let dir = tempfile::tempdir().unwrap();
    let token = with_token(json!({ "period": "1h" }));
    let Some(stand) = stand(dir.path(), token, "") else {
        return;
    };
    let server = stand.setup.start();
    let client = server.client();
    create(&client, 1, &[("dek_lease_ms", "4000")]);
    stand.bao.write_key_policy("next", "transit", "keyway");
    let next = stand.bao.token_for(&["next"], &json!({ "period": "1h" }));
    write_secret(&stand.file, &next);
    stand.bao.remove_policy(POLICY);
    let unwraps = "keyway_kms_calls_total{kms=\"bao\",keyspace=\"shop-0\",operation=\"unwrap\",outcome=\"ok\"}";
    let before = server.metric(unwraps).unwrap_or(0.0);
    wait_until("unwraps under the new policy", WITHIN, || {
        let _ = client.mac(&key(0), b"message");
        assert!(!server.log().contains("purged"), "{}", server.log());
        server.metric(unwraps).unwrap_or(0.0) >= before + 3.0
    });
    assert!(is_served(&client, 0));
}

/// An operator who has fixed the KMS does not wait for the breaker.
#[test]
fn an_operators_unlock_goes_past_the_breaker() {
    let dir = tempfile::tempdir().unwrap();
    let token = with_token(json!({ "period": "1h" }));
    // It stays open for an hour.
    let budget = "breaker_failures = 1\nbreaker_open_ms = 3600000\nbreaker_open_ms_max = 3600000\nattempts_max = 1";
    let Some(stand) = stand(dir.path(), token, budget) else {
        return;
    };
    let server = stand.setup.start();
    let client = server.client();
    create(&client, 1, &[("dek_lease_ms", "2000")]);
    stand.proxy.set(Fault::Down);
    wait_until("the open breaker", WITHIN, || {
        let _ = client.mac(&key(0), b"message");
        server.metric("keyway_kms_breaker_open{kms=\"bao\"}") == Some(1.0)
    });
    stand.proxy.set(Fault::Pass);
    let operator = Operator::new();
    operator.done(&server, "keyway unlock shop-0 --wait");
    wait_until("service", WITHIN, || is_served(&client, 0));
}
