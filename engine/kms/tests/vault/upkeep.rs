//! Tokens are maintained even without calls. Before, a token was renewed by a call that found it due, so one with less
//! time than half of a lease expired in the middle of the lease, and an idle server lost its token.
//!
//! A token can expire because the machine was too busy to maintain it. Each trial detects that, and is repeated with
//! tokens that live longer.

use std::time::{Duration, Instant};

use keyway_kms::{KmsOperation, KmsOutcome, Provider, TransitProvider};
use keyway_testkit::fault_proxy::FaultProxy;
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use super::{POLICY, round_trip, server_or_skip, with_approle, with_token};

/// Lifetimes of tokens in successive trials, in s.
const TTLS_S: [u64; 3] = [10, 60, 240];

/// How long a trial may take.
const WITHIN: Duration = Duration::from_secs(600);

/// The result of a trial.
#[derive(PartialEq)]
enum Trial {
    Right,
    /// The machine paused for so long that the token may have expired.
    TooSlow,
}

/// Repeats the trial until the machine is fast enough for it.
async fn in_time(trial: impl AsyncFn(&OpenBao, u64) -> Trial) {
    in_time_at(Mode::InMemory, trial).await;
}

async fn in_time_at(mode: Mode, trial: impl AsyncFn(&OpenBao, u64) -> Trial) {
    for ttl_s in TTLS_S {
        let Some(server) = server_or_skip(mode) else {
            return;
        };
        if trial(&server, ttl_s).await == Trial::Right {
            return;
        }
    }
    panic!("the machine needs minutes for two calls");
}

/// Maintains the token as [`keyway_kms::Service::look_after_logins`] does, until `holds`. `since`: before it was created.
async fn tend_until(
    vault: &TransitProvider,
    since: Instant,
    ttl_s: u64,
    holds: impl Fn() -> bool,
) -> Trial {
    let mut last = since;
    while !holds() {
        assert!(since.elapsed() < WITHIN);
        if last.elapsed() >= Duration::from_secs(ttl_s) / 2 {
            return Trial::TooSlow;
        }
        last = Instant::now();
        let wait = vault.tend().expect("it has a login").await;
        let wait = wait.unwrap_or(Duration::from_millis(50));
        tokio::time::sleep(wait.min(Duration::from_millis(200))).await;
    }
    Trial::Right
}

fn renewals(vault: &TransitProvider) -> u64 {
    vault.own_calls().count(KmsOperation::Renew, KmsOutcome::Ok)
}

fn logins(vault: &TransitProvider) -> u64 {
    vault.own_calls().count(KmsOperation::Login, KmsOutcome::Ok)
}

#[tokio::test]
async fn a_token_is_renewed_though_no_call_is_made() {
    in_time(async |server: &OpenBao, ttl_s| {
        let since = Instant::now();
        let periodic = server.token_for(&[POLICY], &json!({"period": format!("{ttl_s}s")}));
        let token = TransitProvider::open(with_token(server, &periodic)).unwrap();
        assert_eq!(token.own_calls_per_hour(), 0.0);
        // The second one is created after the first token's end.
        let tended = tend_until(&token, since, ttl_s, || renewals(&token) >= 2).await;
        if tended == Trial::TooSlow || logins(&token) > 1 {
            return Trial::TooSlow;
        }
        assert_eq!(token.own_calls_per_hour(), 7200.0 / ttl_s as f64);
        round_trip(&token).await;
        Trial::Right
    })
    .await;
}

#[tokio::test]
async fn a_login_is_renewed_once_a_call_has_made_it() {
    in_time(async |server: &OpenBao, ttl_s| {
        let role = json!({"token_ttl": format!("{ttl_s}s")});
        let (role_id, secret_id) = server.approle("keyway", &[POLICY], &role);
        let vault = TransitProvider::open(with_approle(server, &role_id, &secret_id)).unwrap();
        // It is not in use, so it logs in nowhere.
        vault.tend().expect("it has a login").await.unwrap();
        assert_eq!(logins(&vault), 0);
        let since = Instant::now();
        round_trip(&vault).await;
        let tended = tend_until(&vault, since, ttl_s, || renewals(&vault) >= 2).await;
        if tended == Trial::TooSlow || logins(&vault) > 1 {
            return Trial::TooSlow;
        }
        Trial::Right
    })
    .await;
}

#[tokio::test]
async fn a_login_with_a_certificate_is_renewed() {
    in_time_at(Mode::Tls, async |server: &OpenBao, ttl_s| {
        server.enable_auth("cert");
        let ca = std::fs::read_to_string(server.ca_file()).unwrap();
        let role = json!({
            "certificate": ca, "token_policies": [POLICY], "token_ttl": format!("{ttl_s}s"),
        });
        server.write("auth/cert/certs/keyway", &role);
        let (cert, key) = (server.client_cert_file(), server.client_key_file());
        let settings = super::with_cert(server, Some("keyway"), cert, key);
        let vault = TransitProvider::open(settings).unwrap();
        let since = Instant::now();
        round_trip(&vault).await;
        let tended = tend_until(&vault, since, ttl_s, || renewals(&vault) >= 2).await;
        if tended == Trial::TooSlow || logins(&vault) > 1 {
            return Trial::TooSlow;
        }
        round_trip(&vault).await;
        Trial::Right
    })
    .await;
}

/// A renewal that failed because the role was gone was sent again each second until the token expired.
#[tokio::test]
async fn a_renewal_that_fails_is_sent_again_under_a_back_off_and_the_old_token_serves_on() {
    /// How long to observe, of the 30 s from half of the token's duration to its end.
    const WATCHED: Duration = Duration::from_secs(16);
    in_time(async |server: &OpenBao, ttl_s| {
        let ttl_s = ttl_s.max(60);
        let role = json!({"token_ttl": format!("{ttl_s}s")});
        let (role_id, secret_id) = server.approle("keyway", &[POLICY], &role);
        let upstream = format!("127.0.0.1:{}", server.port()).parse().unwrap();
        let proxy = FaultProxy::start(upstream);
        let settings = keyway_kms::VaultSettings {
            address: format!("http://{}", proxy.address()),
            ..with_approle(server, &role_id, &secret_id)
        };
        let vault = TransitProvider::open(settings).unwrap();
        let since = Instant::now();
        round_trip(&vault).await;
        server.delete("auth/approle/role/keyway");
        let sent = |path: &str| {
            let calls = proxy.calls();
            calls.iter().filter(|call| call.path.contains(path)).count()
        };
        let tended = tend_until(&vault, since, ttl_s, || sent("renew-self") > 0).await;
        if tended == Trial::TooSlow {
            return tended;
        }
        let began = Instant::now();
        tend_until(&vault, began, ttl_s, || began.elapsed() > WATCHED).await;
        let served = super::wrap(&vault).await;
        if since.elapsed() >= Duration::from_secs(ttl_s) {
            return Trial::TooSlow;
        }
        served.unwrap();
        // After 1, 2, 4 and 8 s.
        let (renewals, logins) = (sent("renew-self"), sent("approle/login"));
        assert!(renewals <= 6 && logins <= 2, "{renewals} and {logins}");
        Trial::Right
    })
    .await;
}
