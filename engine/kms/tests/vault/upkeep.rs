//! Tokens that are looked after although no call is made. Before, a token was renewed by a call that found it due, so one
//! with less time than half of a lease ended in the middle of the lease, and an idle server lost its token.

use std::time::{Duration, Instant};

use keyway_kms::{Operation, Outcome, Provider, Vault};
use keyway_testkit::openbao::Mode;
use serde_json::json;

use super::{POLICY, round_trip, server_or_skip, with_approle, with_token};

const WITHIN: Duration = Duration::from_secs(120);

/// Looks after the token as [`keyway_kms::Service::look_after_logins`] does, until `holds`.
async fn tend_until(vault: &Vault, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < WITHIN);
        let wait = vault.tend().expect("it has a login").await;
        let wait = wait.unwrap_or(Duration::from_millis(50));
        tokio::time::sleep(wait.min(Duration::from_millis(200))).await;
    }
}

fn renewals(vault: &Vault) -> u64 {
    vault.own_calls().count(Operation::Renew, Outcome::Ok)
}

#[tokio::test]
async fn a_token_is_renewed_though_no_call_is_made() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    // Far longer than a renewal takes on a busy machine; two renewals end after its first end.
    let periodic = server.token_for(&[POLICY], &json!({"period": "10s"}));
    let token = Vault::open(with_token(&server, &periodic)).unwrap();
    assert_eq!(token.own_calls_per_hour(), 0.0);
    tend_until(&token, || renewals(&token) >= 3).await;
    assert_eq!(token.own_calls_per_hour(), 720.0);
    round_trip(&token).await;
    assert_eq!(token.own_calls().count(Operation::Login, Outcome::Ok), 1);
}

#[tokio::test]
async fn a_login_is_renewed_once_a_call_has_made_it() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], &json!({"token_ttl": "10s"}));
    let vault = Vault::open(with_approle(&server, &role_id, &secret_id)).unwrap();
    // Nobody uses it, so it logs in nowhere.
    vault.tend().expect("it has a login").await.unwrap();
    assert_eq!(vault.own_calls().count(Operation::Login, Outcome::Ok), 0);
    round_trip(&vault).await;
    tend_until(&vault, || renewals(&vault) >= 3).await;
    assert_eq!(vault.own_calls().count(Operation::Login, Outcome::Ok), 1);
}
