//! Certificates that are replaced on the disk, and self-signed servers.

use keyway_kms::{Cause, Class, TransitProvider, VaultSettings};
use keyway_testkit::child::{self, ROOTS, with_roots_of_its_own};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use super::{POLICY, round_trip, server_or_skip, settings, unwrap, with_cert, wrap};

fn trusting(server: &OpenBao) -> VaultSettings {
    VaultSettings {
        ca_file: Some(server.ca_file().to_owned()),
        ..settings(server)
    }
}

/// `ca_file` was read at the start only: a new CA on the disk was never used.
#[tokio::test]
async fn a_new_ca_in_the_file_is_taken_up() {
    let Some(mut server) = server_or_skip(Mode::Tls) else {
        return;
    };
    let ca = server.dir().join("trusted.pem");
    std::fs::copy(server.ca_file(), &ca).unwrap();
    let settings = VaultSettings {
        ca_file: Some(ca.clone()),
        ..settings(&server)
    };
    let vault = TransitProvider::open(settings).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    server.renew_certificates();
    // The previous connection is found closed first.
    let _closed = unwrap(&vault, &wrapped).await;
    let error = unwrap(&vault, &wrapped).await.unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured, "{error}");
    assert_eq!(error.cause(), Cause::ServerCertificateUntrusted);
    // A partially written file changes nothing; the complete one does.
    std::fs::write(&ca, "-----BEGIN CERTIFICATE-----\n").unwrap();
    unwrap(&vault, &wrapped).await.unwrap_err();
    std::fs::copy(server.ca_file(), &ca).unwrap();
    unwrap(&vault, &wrapped).await.unwrap();
}

/// Without `ca_file`, the machine's trust store was read once. The test runs in a process of its own, whose environment
/// names one.
#[tokio::test]
async fn a_new_ca_of_the_machine_is_taken_up() {
    const NAME: &str = "certificates::a_new_ca_of_the_machine_is_taken_up";
    let Some(directory) = child::directory() else {
        return with_roots_of_its_own(NAME);
    };
    let roots = directory.join(ROOTS);
    if let Some(mut server) = server_or_skip(Mode::Tls) {
        std::fs::copy(server.ca_file(), &roots).unwrap();
        let vault = TransitProvider::open(settings(&server)).unwrap();
        let wrapped = wrap(&vault).await.unwrap();
        server.renew_certificates();
        let _closed = unwrap(&vault, &wrapped).await;
        let error = unwrap(&vault, &wrapped).await.unwrap_err();
        assert_eq!(error.cause(), Cause::ServerCertificateUntrusted, "{error}");
        std::fs::copy(server.ca_file(), &roots).unwrap();
        unwrap(&vault, &wrapped).await.unwrap();
    }
    child::done(&directory);
}

/// The client certificate was read at the start only.
#[tokio::test]
async fn a_new_client_certificate_is_taken_up() {
    let Some(server) = server_or_skip(Mode::Tls) else {
        return;
    };
    server.enable_cert_auth(&[POLICY]);
    let role = |common_name: &str| {
        let ca = std::fs::read_to_string(server.ca_file()).unwrap();
        let role = json!({
            "certificate": ca, "token_policies": [POLICY], "allowed_common_names": [common_name],
        });
        server.write("auth/cert/certs/keyway", &role);
    };
    role("first");
    server.renew_client_certificate("first");
    let (cert, key) = (server.client_cert_file(), server.client_key_file());
    let vault = TransitProvider::open(with_cert(&server, Some("keyway"), cert, key)).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    // The role accepts the next certificate only, and the token is gone: a login with the old one is refused.
    role("second");
    for accessor in server.list("auth/token/accessors") {
        let body = json!({ "accessor": accessor });
        let token = server.write("auth/token/lookup-accessor", &body);
        if token["data"]["policies"]
            .as_array()
            .unwrap()
            .contains(&json!(POLICY))
        {
            server.write("auth/token/revoke-accessor", &body);
        }
    }
    let error = unwrap(&vault, &wrapped).await.unwrap_err();
    assert_eq!(error.class(), Class::Credential, "{error}");
    server.renew_client_certificate("second");
    unwrap(&vault, &wrapped).await.unwrap();
}

/// OpenBao refuses a certificate that has expired in the words for any other.
#[tokio::test]
async fn a_client_certificate_that_has_expired_is_named() {
    let Some(server) = server_or_skip(Mode::Tls) else {
        return;
    };
    server.enable_cert_auth(&[POLICY]);
    let (cert, key) = (server.client_cert_file(), server.client_key_file());
    server.let_client_certificate_end();
    let vault = TransitProvider::open(with_cert(&server, Some("keyway"), cert, key)).unwrap();
    let error = wrap(&vault).await.unwrap_err();
    assert_eq!(error.class(), Class::Credential, "{error}");
    assert_eq!(error.cause(), Cause::ClientCertificate, "{error}");
    server.renew_client_certificate("keyway");
    round_trip(&vault).await;
}

/// `openssl req -x509` creates a CA, and webpki accepts no CA as a server's certificate: `ca_file` could not name it,
/// although the message suggested it.
#[tokio::test]
async fn a_server_that_signed_its_own_certificate_can_be_trusted() {
    let Some(mut server) = server_or_skip(Mode::Tls) else {
        return;
    };
    server.sign_itself();
    let right = trusting(&server);
    round_trip(&TransitProvider::open(right.clone()).unwrap()).await;
    // It is trusted for its own names only.
    let other = VaultSettings {
        ca_file: Some(server.other_cert_file().to_owned()),
        ..right.clone()
    };
    let error = wrap(&TransitProvider::open(other).unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured, "{error}");
}
