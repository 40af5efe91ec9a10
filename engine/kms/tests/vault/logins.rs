//! The auth methods, and tokens that expire, are refused, or are replaced.

use std::time::{Duration, Instant};

use keyway_kms::{Class, TransitProvider, VaultAuth};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::{Value, json};

use super::{
    KEY, POLICY, class, round_trip, secret_file, server_or_skip, settings, with_approle, with_auth,
    with_cert, with_token, wrap,
};

/// Returns the server's data about the tokens with this policy.
fn our_tokens(server: &OpenBao) -> Vec<Value> {
    let accessors = server.list("auth/token/accessors").into_iter();
    let looked_up = accessors.map(|accessor| {
        let body = json!({"accessor": accessor});
        server.write("auth/token/lookup-accessor", &body)["data"].clone()
    });
    looked_up
        .filter(|token| {
            token["policies"]
                .as_array()
                .unwrap()
                .contains(&json!(POLICY))
        })
        .collect()
}

fn revoke_our_tokens(server: &OpenBao) {
    for token in our_tokens(server) {
        let body = json!({"accessor": token["accessor"]});
        server.write("auth/token/revoke-accessor", &body);
    }
}

#[tokio::test]
async fn many_callers_share_one_login() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    // The server allows one login with this secret id, and no second.
    let (role_id, secret_id) =
        server.approle("keyway", &[POLICY], &json!({"secret_id_num_uses": 1}));
    let vault = TransitProvider::open(with_approle(&server, &role_id, &secret_id)).unwrap();
    let mut calls = tokio::task::JoinSet::new();
    let vault = std::sync::Arc::new(vault);
    for _ in 0..32 {
        let vault = vault.clone();
        calls.spawn(async move { round_trip(&vault).await });
    }
    calls.join_all().await;
    assert_eq!(our_tokens(&server).len(), 1);
}

#[tokio::test]
async fn a_wrong_secret_id_is_no_denial_and_a_new_one_in_the_file_is_taken() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (role_id, _) = server.approle("keyway", &[POLICY], &json!({}));
    let vault = TransitProvider::open(with_approle(&server, &role_id, "3c2d5f2a-wrong")).unwrap();
    assert_eq!(class(wrap(&vault).await), Class::Credential);
    secret_file(&server, "secret-id", &server.secret_id("keyway"));
    round_trip(&vault).await;
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    let Some(server) = server_or_skip(Mode::Tls) else {
        return;
    };
    server.enable_cert_auth(&[POLICY]);
    let (cert, key) = (server.client_cert_file(), server.client_key_file());
    for name in [None, Some("keyway")] {
        let vault = TransitProvider::open(with_cert(&server, name, cert, key)).unwrap();
        round_trip(&vault).await;
    }
    let absent = TransitProvider::open(with_cert(&server, Some("absent"), cert, key)).unwrap();
    assert_eq!(class(wrap(&absent).await), Class::Credential);
    // A certificate that this CA did not sign.
    let other = with_cert(
        &server,
        None,
        server.other_cert_file(),
        server.other_key_file(),
    );
    let other = TransitProvider::open(other).unwrap();
    assert_eq!(class(wrap(&other).await), Class::Credential);

    let swapped = with_cert(&server, None, cert, server.other_key_file());
    assert_eq!(class(TransitProvider::open(swapped)), Class::Misconfigured);
    let not_a_key = with_cert(&server, None, cert, cert);
    assert_eq!(
        class(TransitProvider::open(not_a_key)),
        Class::Misconfigured
    );
}

#[tokio::test]
async fn a_token_is_renewed_at_half_of_its_time() {
    for ttl_s in [12, 60, 240] {
        let Some(server) = server_or_skip(Mode::InMemory) else {
            return;
        };
        if is_renewed_at_half(&server, ttl_s).await {
            return;
        }
    }
    panic!("the machine needs minutes for two calls");
}

/// Returns `false` if the machine was too slow: the tokens expired before they were checked.
async fn is_renewed_at_half(server: &OpenBao, ttl_s: u64) -> bool {
    let (began, ttl) = (Instant::now(), format!("{ttl_s}s"));
    let is_at = |percent: u64| began.elapsed() >= Duration::from_millis(ttl_s * 10 * percent);
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], &json!({"token_ttl": ttl}));
    let approle = TransitProvider::open(with_approle(server, &role_id, &secret_id)).unwrap();
    let periodic = server.token_for(&[POLICY], &json!({"period": ttl}));
    let token = TransitProvider::open(with_token(server, &periodic)).unwrap();
    for vault in [&approle, &token] {
        round_trip(vault).await;
    }
    let tokens = our_tokens(server);
    let are_new = tokens
        .iter()
        .all(|token| token.get("last_renewal").is_none());
    if is_at(50) {
        return false;
    }
    assert!(are_new, "{tokens:?}");
    tokio::time::sleep(Duration::from_millis(ttl_s * 500 + 100)).await;
    let mut failed = false;
    for vault in [&approle, &token] {
        failed |= wrap(vault).await.is_err();
    }
    let tokens = our_tokens(server);
    if is_at(90) {
        return false;
    }
    assert!(!failed, "a token that had time left was refused");
    assert_eq!(tokens.len(), 2, "no call logged in again");
    assert!(
        tokens.iter().all(|token| token["last_renewal"].is_string()),
        "{tokens:?}"
    );
    true
}

#[tokio::test]
async fn a_token_at_its_end_is_followed_by_a_login() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let short = json!({"token_ttl": "1s", "token_max_ttl": "2s"});
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], &short);
    let vault = TransitProvider::open(with_approle(&server, &role_id, &secret_id)).unwrap();
    // Past the first token's half, its end and its maximum, whichever the machine's speed reaches.
    for _ in 0..8 {
        round_trip(&vault).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    round_trip(&vault).await;
}

#[tokio::test]
async fn a_revoked_token_is_replaced_within_the_call() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], &json!({}));
    let vault = TransitProvider::open(with_approle(&server, &role_id, &secret_id)).unwrap();
    round_trip(&vault).await;
    revoke_our_tokens(&server);
    round_trip(&vault).await;
}

#[tokio::test]
async fn a_token_file_is_read_again_when_its_token_is_refused() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let token_file = server.dir().join("token");
    let vault = TransitProvider::open(with_auth(&server, VaultAuth::Token { token_file })).unwrap();
    assert_eq!(
        class(wrap(&vault).await),
        Class::Misconfigured,
        "no file yet"
    );
    secret_file(&server, "token", "s.never-a-token\n");
    assert_eq!(class(wrap(&vault).await), Class::Credential);
    settings(&server);
    round_trip(&vault).await;
    revoke_our_tokens(&server);
    assert_eq!(class(wrap(&vault).await), Class::Credential);
    settings(&server);
    round_trip(&vault).await;
}

#[tokio::test]
async fn tokens_that_cannot_be_renewed_serve_too() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let batch = server.token_for(&[POLICY], &json!({"type": "batch", "ttl": "1h"}));
    let silent = server.token_for(&[POLICY], &json!({"no_default_policy": true}));
    for token in [server.root_token(), &batch, &silent] {
        round_trip(&TransitProvider::open(with_token(&server, token)).unwrap()).await;
    }
}

#[tokio::test]
async fn nothing_prints_a_secret() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let token = server.token_for(&[POLICY], &json!({}));
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], &json!({}));
    let all = [
        with_token(&server, &token),
        with_approle(&server, &role_id, &secret_id),
    ];
    let mut printed = String::new();
    for settings in all {
        server.write_key_policy(POLICY, "transit", KEY);
        let vault = TransitProvider::open(settings.clone()).unwrap();
        round_trip(&vault).await;
        server.remove_policy(POLICY);
        let error = wrap(&vault).await.unwrap_err();
        printed += &format!("{vault:?} {vault:#?} {settings:?} {error} {error:?}");
    }
    assert!(printed.contains("redacted"));
    // The DEK of these tests, in base64 and as numbers.
    for secret in [&token, &secret_id, "p6enp6en", "167, 167"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
