//! Refused logins: one for all callers, and the next one when something has changed. Before, each keyspace's call logged
//! in again: eleven refusals in four seconds locked the role out, also for its healthy users.

use std::sync::Arc;

use keyway_kms::{
    Cause, Class, KmsOperation, KmsOutcome, Provider, TransitProvider, VaultAuth, VaultSettings,
};
use keyway_testkit::fault_proxy::{Fault, FaultProxy};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

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

    // An operator's request, and another secret id in the file, are tried immediately.
    vault.hurry();
    wrap(&vault).await.unwrap_err();
    assert_eq!(count(&proxy, "/login"), 2);
    secret_file(&server, "secret-id", &server.secret_id("keyway"));
    round_trip(&vault).await;
    assert_eq!(count(&proxy, "/login"), 3);
}

#[tokio::test]
async fn a_policy_that_denies_costs_no_login() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], &json!({}));
    let approle = with_approle(&server, &role_id, &secret_id);
    let (proxy, settings) = through(&server, approle);
    let vault = TransitProvider::open(settings).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    server.remove_policy(POLICY);
    for _ in 0..5 {
        let error = unwrap(&vault, &wrapped).await.unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{error}");
        assert_eq!(error.cause(), Cause::Policy);
    }
    assert_eq!(count(&proxy, "/login"), 1);
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
