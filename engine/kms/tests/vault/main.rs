//! The `vault` provider against a real OpenBao.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod calls;
mod certificates;
mod failures;
mod files;
mod lock;
mod logins;
mod refused_logins;
mod upkeep;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyway_kms::{
    Class, Context, KmsError, Provider, Purpose, SecretKey, TransitProvider, VaultAuth,
    VaultSettings, Wrapped,
};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

const KEY: &str = "dek";
const POLICY: &str = "keyway";
const CONTEXT: Context = Context {
    cluster: *b"0123456789abcdef",
    keyspace: 7,
    generation: 3,
    purpose: Purpose::DataKey,
};

/// Starts a server with a derived key, and a policy that allows no more than the provider needs.
fn server_or_skip(mode: Mode) -> Option<OpenBao> {
    let server = OpenBao::start_or_skip(mode)?;
    server.enable_transit("transit");
    server.create_key(KEY, true);
    server.write_key_policy(POLICY, "transit", KEY);
    Some(server)
}

/// Creates a private file with that text.
fn secret_file(server: &OpenBao, name: &str, text: &str) -> PathBuf {
    let path = server.dir().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Returns settings that log in with that token.
fn with_token(server: &OpenBao, token: &str) -> VaultSettings {
    let token_file = secret_file(server, "token", token);
    with_auth(server, VaultAuth::Token { token_file })
}

/// Returns settings that log in with a token of the test's policy.
fn settings(server: &OpenBao) -> VaultSettings {
    with_token(server, &server.token_for(&[POLICY], &json!({})))
}

fn with_auth(server: &OpenBao, auth: VaultAuth) -> VaultSettings {
    VaultSettings {
        address: server.url(),
        mount: "transit".into(),
        key: KEY.into(),
        namespace: None,
        ca_file: None,
        auth,
        connect_ms_max: 20_000,
        request_ms_max: 60_000,
    }
}

/// Returns settings that log in by AppRole.
fn with_approle(server: &OpenBao, role_id: &str, secret_id: &str) -> VaultSettings {
    let auth = VaultAuth::Approle {
        mount: "approle".into(),
        role_id: role_id.into(),
        secret_id_file: secret_file(server, "secret-id", secret_id),
    };
    with_auth(server, auth)
}

fn with_cert(server: &OpenBao, name: Option<&str>, cert: &Path, key: &Path) -> VaultSettings {
    let auth = VaultAuth::Cert {
        mount: "cert".into(),
        name: name.map(str::to_owned),
        cert_file: cert.to_owned(),
        key_file: key.to_owned(),
    };
    VaultSettings {
        ca_file: Some(server.ca_file().to_owned()),
        ..with_auth(server, auth)
    }
}

fn dek() -> SecretKey {
    SecretKey::take(&mut [0xa7; 32])
}

async fn wrap(vault: &TransitProvider) -> Result<Wrapped, KmsError> {
    vault.wrap(&CONTEXT, &dek()).await
}

async fn unwrap(vault: &TransitProvider, wrapped: &Wrapped) -> Result<SecretKey, KmsError> {
    vault.unwrap(&CONTEXT, &wrapped.0).await
}

/// Wraps and unwraps, and checks that the secret is the same.
async fn round_trip(vault: &TransitProvider) {
    let wrapped = wrap(vault).await.unwrap();
    assert!(unwrap(vault, &wrapped).await.unwrap().is_same(&dek()));
}

/// Returns the class of a refusal, whose text must be useful.
fn class<T: std::fmt::Debug>(result: Result<T, KmsError>) -> Class {
    let error = result.unwrap_err();
    assert!(!error.what().is_empty() && !error.remedy().is_empty());
    eprintln!("{error}");
    error.class()
}

const UNAVAILABLE: Class = Class::Unavailable { retry_after: None };
