//! One test for each way in which the server refuses or is unreachable, and the class that it must have.

use std::time::Duration;

use keyway_kms::{Class, Provider, TransitProvider, UnlockSecret, VaultSettings};
use keyway_testkit::openbao::Mode;
use serde_json::json;

use super::{
    CONTEXT, KEY, POLICY, UNAVAILABLE, class, round_trip, server_or_skip, settings, unwrap,
    with_token, wrap,
};

#[tokio::test]
async fn without_its_policy_everything_is_denied() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    server.remove_policy(POLICY);
    assert_eq!(class(wrap(&vault).await), Class::Denied);
    assert_eq!(class(unwrap(&vault, &wrapped).await), Class::Denied);
    assert_eq!(
        class(vault.generate(&CONTEXT).unwrap().await),
        Class::Denied
    );
    assert_eq!(
        class(vault.unlock(UnlockSecret::Nothing).await),
        Class::Denied
    );
    server.write_key_policy(POLICY, "transit", KEY);
    round_trip(&vault).await;
}

#[tokio::test]
async fn a_key_that_is_deleted_or_switched_off_is_disabled() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let existing = settings(&server);
    let vault = TransitProvider::open(existing.clone()).unwrap();
    let old = wrap(&vault).await.unwrap();
    server.write("transit/keys/dek/rotate", &json!({}));
    let config = "transit/keys/dek/config";
    server.write(config, &json!({"min_decryption_version": 2}));
    assert_eq!(class(unwrap(&vault, &old).await), Class::Disabled);
    // New keys are wrapped with the new version, and the provider opens.
    round_trip(&vault).await;
    vault.unlock(UnlockSecret::Nothing).await.unwrap();
    round_trip(&vault).await;
    server.write(config, &json!({"min_decryption_version": 1}));
    unwrap(&vault, &old).await.unwrap();

    server.delete("transit/keys/dek/soft-delete");
    assert_eq!(class(unwrap(&vault, &old).await), Class::Disabled);
    assert_eq!(class(wrap(&vault).await), Class::Disabled);
    assert_eq!(
        class(vault.unlock(UnlockSecret::Nothing).await),
        Class::Disabled
    );
    server.write("transit/keys/dek/soft-delete-restore", &json!({}));
    unwrap(&vault, &old).await.unwrap();

    server.write(config, &json!({"deletion_allowed": true}));
    server.delete("transit/keys/dek");
    assert_eq!(class(unwrap(&vault, &old).await), Class::Disabled);
    let restarted = TransitProvider::open(existing).unwrap();
    assert_eq!(class(unwrap(&restarted, &old).await), Class::Disabled);
    assert_eq!(class(wrap(&vault).await), Class::Misconfigured);
    assert_eq!(
        class(vault.generate(&CONTEXT).unwrap().await),
        Class::Misconfigured
    );
    assert_eq!(
        class(vault.unlock(UnlockSecret::Nothing).await),
        Class::Misconfigured
    );
    assert!(
        server.list("transit/keys").is_empty(),
        "no call created it again"
    );
}

#[tokio::test]
async fn a_sealed_server_is_unavailable_until_it_is_unsealed() {
    let Some(mut server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let existing = settings(&server);
    let vault = TransitProvider::open(existing.clone()).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    server.seal();
    assert_eq!(class(unwrap(&vault, &wrapped).await), UNAVAILABLE);
    let never_logged_in = TransitProvider::open(existing).unwrap();
    assert_eq!(class(wrap(&never_logged_in).await), UNAVAILABLE);
    server.unseal();
    unwrap(&vault, &wrapped).await.unwrap();
}

#[tokio::test]
async fn a_killed_server_is_unavailable_until_it_is_back() {
    let Some(mut server) = server_or_skip(Mode::Durable) else {
        return;
    };
    let existing = settings(&server);
    let vault = TransitProvider::open(existing.clone()).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    server.kill();
    assert_eq!(class(unwrap(&vault, &wrapped).await), UNAVAILABLE);
    // The provider opens without its server.
    let opened_meanwhile = TransitProvider::open(existing).unwrap();
    assert_eq!(class(wrap(&opened_meanwhile).await), UNAVAILABLE);
    server.restart();
    for vault in [vault, opened_meanwhile] {
        unwrap(&vault, &wrapped).await.unwrap();
    }
}

#[tokio::test]
async fn a_hung_server_is_unavailable_when_the_time_is_over() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let settings = settings(&server);
    let impatient = VaultSettings {
        connect_ms_max: 300,
        request_ms_max: 300,
        ..settings.clone()
    };
    let vault = TransitProvider::open(settings).unwrap();
    round_trip(&vault).await;
    let impatient = TransitProvider::open(impatient).unwrap();
    server.pause();
    assert_eq!(class(wrap(&impatient).await), UNAVAILABLE);
    server.resume();
    round_trip(&vault).await;
}

#[tokio::test]
async fn over_the_servers_quota_is_throttled_and_the_wait_is_told() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    let headers = json!({"enable_rate_limit_response_headers": true});
    server.write("sys/quotas/config", &headers);
    let quota = json!({"path": "transit", "rate": 1, "interval": "1h"});
    server.write("sys/quotas/rate-limit/keyway", &quota);
    let mut refused = None;
    for _ in 0..2 {
        refused = unwrap(&vault, &wrapped).await.err();
    }
    let class = refused.expect("one call an hour is allowed").class();
    let Class::Throttled {
        retry_after: Some(wait),
    } = class
    else {
        panic!("{class:?}");
    };
    assert!(
        wait > Duration::ZERO && wait <= Duration::from_secs(3600),
        "{wait:?}"
    );
    server.write(
        "sys/quotas/config",
        &json!({"enable_rate_limit_response_headers": false}),
    );
    let refused = unwrap(&vault, &wrapped).await.unwrap_err();
    assert_eq!(refused.class(), Class::Throttled { retry_after: None });
}

#[tokio::test]
async fn settings_that_fit_no_server_are_misconfigured() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let right = with_token(&server, server.root_token());
    let absent_mount = VaultSettings {
        mount: "absent".into(),
        ..right.clone()
    };
    let other_engine = VaultSettings {
        mount: "sys".into(),
        ..right.clone()
    };
    let tls_to_plain = VaultSettings {
        address: server.url().replace("http:", "https:"),
        ca_file: None,
        ..right
    };
    for settings in [absent_mount, other_engine, tls_to_plain] {
        let vault = TransitProvider::open(settings).unwrap();
        assert_eq!(class(wrap(&vault).await), Class::Misconfigured);
        assert_eq!(
            class(vault.unlock(UnlockSecret::Nothing).await),
            Class::Misconfigured
        );
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_misconfigured() {
    let Some(server) = server_or_skip(Mode::Tls) else {
        return;
    };
    let right = VaultSettings {
        ca_file: Some(server.ca_file().to_owned()),
        ..settings(&server)
    };
    round_trip(&TransitProvider::open(right.clone()).unwrap()).await;
    let localhost = server.url().replace("127.0.0.1", "localhost");
    let by_name = VaultSettings {
        address: localhost,
        ..right.clone()
    };
    round_trip(&TransitProvider::open(by_name).unwrap()).await;

    let other_ca = VaultSettings {
        ca_file: Some(server.other_cert_file().to_owned()),
        ..right.clone()
    };
    let machine_cas = VaultSettings {
        ca_file: None,
        ..right.clone()
    };
    let other_name = VaultSettings {
        address: server.url().replace("127.0.0.1", "127.0.0.2"),
        ..right.clone()
    };
    let plain_to_tls = VaultSettings {
        address: server.url().replace("https:", "http:"),
        ..right.clone()
    };
    for settings in [other_ca, plain_to_tls] {
        let vault = TransitProvider::open(settings).unwrap();
        assert_eq!(class(wrap(&vault).await), Class::Misconfigured);
    }
    // Either the machine trusts no CA, which the open reports, or not this one.
    let machine_cas = match TransitProvider::open(machine_cas) {
        Ok(vault) => wrap(&vault).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert_eq!(class(machine_cas), Class::Misconfigured);
    // Nothing listens there, so trust is not involved.
    let vault = TransitProvider::open(other_name).unwrap();
    assert_eq!(class(wrap(&vault).await), UNAVAILABLE);
    let not_pem = VaultSettings {
        ca_file: Some(server.dir().join("openbao.json")),
        ..right
    };
    assert_eq!(class(TransitProvider::open(not_pem)), Class::Misconfigured);
}
