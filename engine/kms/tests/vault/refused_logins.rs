//! Refused logins: one for all callers, and the next one when something has changed. Before, each keyspace's call logged
//! in again: eleven refusals in four seconds locked the role out, also for its healthy users.

use std::sync::Arc;

use keyway_kms::{
    Cause, Class, KmsOperation, KmsOutcome, Provider, TransitProvider, UnlockSecret, VaultAuth,
    VaultSettings,
};
use keyway_testkit::fault_proxy::{Fault, FaultProxy};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::{Value, json};

use super::{
    POLICY, UNAVAILABLE, round_trip, secret_file, server_or_skip, settings, unwrap, with_approle,
    wrap,
};

/// Returns the same settings through a proxy that counts.
fn through(server: &OpenBao, settings: VaultSettings) -> (FaultProxy, VaultSettings) {
    let proxy = FaultProxy::start(format!("127.0.0.1:{}", server.port()).parse().unwrap());
    let address = format!("http://{}", proxy.address());
    (
        proxy,
        VaultSettings {
            address,
            ..settings
        },
    )
}

/// Returns a provider with a role of these options, through such a proxy.
fn approle_through(server: &OpenBao, options: &Value) -> (FaultProxy, TransitProvider) {
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], options);
    let (proxy, settings) = through(server, with_approle(server, &role_id, &secret_id));
    (proxy, TransitProvider::open(settings).unwrap())
}

fn count(proxy: &FaultProxy, end_of_path: &str) -> usize {
    let calls = proxy.calls();
    calls
        .iter()
        .filter(|call| call.path.ends_with(end_of_path))
        .count()
}

#[tokio::test]
async fn a_refused_login_is_made_once_for_all_callers() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (role_id, _) = server.approle("keyway", &[POLICY], &json!({}));
    let wrong = with_approle(&server, &role_id, "3c2d5f2a-wrong");
    let (proxy, settings) = through(&server, wrong);
    let vault = Arc::new(TransitProvider::open(settings).unwrap());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let vault = Arc::clone(&vault);
        callers.spawn(async move { wrap(&vault).await.unwrap_err() });
    }
    for error in callers.join_all().await {
        assert_eq!(error.class(), Class::Credential, "{error}");
        assert_eq!(error.cause(), Cause::LoginRefused);
        assert!(error.what().contains("invalid role or secret"), "{error}");
    }
    assert_eq!(count(&proxy, "/login"), 1);
    let refused = vault
        .own_calls()
        .count(KmsOperation::Login, KmsOutcome::Credential);
    assert_eq!(refused, 1);

    // An operator's request is tried immediately, and further ones are not: OpenBao counts.
    for _ in 0..10 {
        vault.hurry();
        let error = wrap(&vault).await.unwrap_err();
        assert_eq!(error.class(), Class::Credential, "{error}");
        assert_eq!(count(&proxy, "/login"), 2);
    }
    // The same bound holds for an unlock after a lock.
    vault.lock();
    for _ in 0..5 {
        let error = vault.unlock(UnlockSecret::Nothing).await.unwrap_err();
        assert!(error.remedy().contains("touch"), "{error}");
        assert_eq!(count(&proxy, "/login"), 2);
        let again = secret_file(&server, "again", &server.secret_id("keyway"));
        let healthy = VaultAuth::Approle {
            mount: "approle".into(),
            role_id: role_id.clone(),
            secret_id_file: again,
        };
        let healthy = TransitProvider::open(super::with_auth(&server, healthy)).unwrap();
        round_trip(&healthy).await;
    }
    // Another secret id in the file is tried immediately.
    secret_file(&server, "secret-id", &server.secret_id("keyway"));
    vault.unlock(UnlockSecret::Nothing).await.unwrap();
    round_trip(&vault).await;
    assert_eq!(count(&proxy, "/login"), 3);
}

/// Another token in the file was ignored while the old one was valid: when the old one's policy was removed, the server
/// wiped all keys although the file had a good token.
#[tokio::test]
async fn a_new_token_in_the_file_is_taken_up_before_the_old_ones_policy_ends() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    server.write_key_policy("next", "transit", super::KEY);
    let vault = TransitProvider::open(settings(&server)).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    // A token that the server does not know, and one that is partially written, replace nothing.
    for bad in ["s.never-a-token", "two words"] {
        secret_file(&server, "token", bad);
        unwrap(&vault, &wrapped).await.unwrap();
        vault.tend().expect("it has a login").await.unwrap();
    }
    secret_file(&server, "token", &server.token_for(&["next"], &json!({})));
    server.remove_policy(POLICY);
    unwrap(&vault, &wrapped).await.unwrap();
    // Without another one, the denial stands.
    server.remove_policy("next");
    let denied = unwrap(&vault, &wrapped).await.unwrap_err();
    assert_eq!(denied.class(), Class::Denied, "{denied}");
}

/// An idle server takes the new token up, too: the old one may be revoked before the next call.
#[tokio::test]
async fn a_new_token_in_the_file_is_taken_up_without_a_call() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (proxy, settings) = through(&server, settings(&server));
    let vault = TransitProvider::open(settings).unwrap();
    round_trip(&vault).await;
    let before = count(&proxy, "/lookup-self");
    secret_file(
        &server,
        "token",
        &server.token_for(&[POLICY], &json!({ "period": "1h" })),
    );
    vault.tend().expect("it has a login").await.unwrap();
    assert_eq!(count(&proxy, "/lookup-self"), before + 1);
    // The new one has an end.
    assert!(vault.own_calls_per_hour() > 0.0);
}

/// A login from before a change of the role keeps its policies: its denial says nothing about a new login's.
#[tokio::test]
async fn a_denial_is_believed_only_of_a_new_login() {
    let Some(server) = server_or_skip(Mode::Tls) else {
        return;
    };
    let trusting = |settings| VaultSettings {
        ca_file: Some(server.ca_file().to_owned()),
        ..settings
    };
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], &json!({}));
    let approle = trusting(with_approle(&server, &role_id, &secret_id));
    server.enable_cert_auth(&[POLICY]);
    let (cert, key) = (server.client_cert_file(), server.client_key_file());
    let cert = super::with_cert(&server, Some("keyway"), cert, key);
    let both = [approle, cert].map(|settings| TransitProvider::open(settings).unwrap());
    let mut wrapped = Vec::new();
    for vault in &both {
        wrapped.push(wrap(vault).await.unwrap());
    }
    server.write_key_policy("next", "transit", super::KEY);
    server.approle("keyway", &["next"], &json!({}));
    server.enable_cert_auth(&["next"]);
    server.remove_policy(POLICY);
    for (vault, wrapped) in both.iter().zip(&wrapped) {
        unwrap(vault, wrapped).await.unwrap();
    }
    server.remove_policy("next");
    for (vault, wrapped) in both.iter().zip(&wrapped) {
        let denied = unwrap(vault, wrapped).await.unwrap_err();
        assert_eq!(denied.class(), Class::Denied, "{denied}");
        assert_eq!(denied.cause(), Cause::Policy);
    }
}

/// The KMS's word stands if it also refuses the login; if it does not answer, nothing is decided.
#[tokio::test]
async fn a_denial_with_a_refused_login_stands() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (proxy, vault) = approle_through(&server, &json!({"secret_id_num_uses": 1}));
    let wrapped = wrap(&vault).await.unwrap();
    server.remove_policy(POLICY);
    for _ in 0..5 {
        let denied = unwrap(&vault, &wrapped).await.unwrap_err();
        assert_eq!(denied.class(), Class::Denied, "{denied}");
    }
    assert_eq!(count(&proxy, "/login"), 2);
}

#[tokio::test]
async fn a_policy_that_denies_costs_one_login() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (proxy, vault) = approle_through(&server, &json!({}));
    let wrapped = wrap(&vault).await.unwrap();
    server.remove_policy(POLICY);
    for _ in 0..5 {
        let error = unwrap(&vault, &wrapped).await.unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{error}");
        assert_eq!(error.cause(), Cause::Policy);
    }
    assert_eq!(count(&proxy, "/login"), 2);
}

/// OpenBao returns 403 for an unknown token and for a policy that does not allow the call. Only the second is a denial,
/// also for a token that may not look itself up.
#[tokio::test]
async fn a_token_that_has_ended_is_no_denial() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    for options in [json!({}), json!({"no_default_policy": true})] {
        server.write_key_policy(POLICY, "transit", super::KEY);
        let token = server.token_for(&[POLICY], &options);
        let token_file = secret_file(&server, "token", &token);
        let settings = super::with_auth(&server, VaultAuth::Token { token_file });
        let (proxy, settings) = through(&server, settings);
        let vault = TransitProvider::open(settings).unwrap();
        let wrapped = wrap(&vault).await.unwrap();
        server.remove_policy(POLICY);
        let denied = unwrap(&vault, &wrapped).await.unwrap_err();
        assert_eq!(denied.class(), Class::Denied, "{options}: {denied}");
        server.write("auth/token/revoke", &json!({ "token": token }));
        let ended = unwrap(&vault, &wrapped).await.unwrap_err();
        assert_eq!(ended.class(), Class::Credential, "{options}: {ended}");
        assert_eq!(ended.cause(), Cause::TokenEnded);
        // What is known is not requested again for each keyspace.
        let calls = proxy.calls().len();
        unwrap(&vault, &wrapped).await.unwrap_err();
        assert_eq!(proxy.calls().len(), calls);
    }
}

/// A firewall's page with status 403 counted as the KMS's denial: all keys were wiped two attempts later.
#[tokio::test]
async fn a_page_of_a_middleman_decides_nothing() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (proxy, settings) = through(&server, settings(&server));
    let vault = TransitProvider::open(settings.clone()).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    let never_logged_in = TransitProvider::open(settings).unwrap();
    for status in [200, 302, 400, 401, 403, 404, 407, 451] {
        proxy.set(Fault::Page(status));
        for vault in [&vault, &never_logged_in] {
            let error = unwrap(vault, &wrapped).await.unwrap_err();
            assert_eq!(error.class(), UNAVAILABLE, "{status}: {error}");
            assert_eq!(error.cause(), Cause::NotTheKms, "{status}: {error}");
        }
    }
    proxy.set(Fault::Pass);
    unwrap(&vault, &wrapped).await.unwrap();
    unwrap(&never_logged_in, &wrapped).await.unwrap();
}
