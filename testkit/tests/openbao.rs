//! The testkit's OpenBao does what the tests that use it rely on.

use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

#[test]
fn what_is_written_survives_a_kill_and_a_seal() {
    let Some(mut server) = OpenBao::start_or_skip(Mode::Durable) else {
        return;
    };
    let port = server.port();
    server.enable_transit("transit");
    server.create_key("dek", true);
    server.kill();
    server.restart();
    assert_eq!(server.port(), port);
    assert_eq!(server.list("transit/keys"), ["dek"]);
    server.seal();
    server.unseal();
    let key = server.read("transit/keys/dek").unwrap();
    assert_eq!(key["data"]["derived"], json!(true));
}

#[test]
fn policies_tokens_and_roles_are_made_and_removed() {
    let Some(server) = OpenBao::start_or_skip(Mode::InMemory) else {
        return;
    };
    server.enable_transit("transit");
    assert_eq!(server.url(), format!("http://127.0.0.1:{}", server.port()));
    server.write_key_policy("wrap", "transit", "dek");
    assert!(server.read("sys/policies/acl/wrap").is_some());
    let token = server.token_for(&["wrap"], &json!({"ttl": "1m"}));
    let looked_up = server.write("auth/token/lookup", &json!({"token": token}));
    assert_eq!(looked_up["data"]["policies"], json!(["default", "wrap"]));
    let (role_id, secret_id) = server.approle("keyway", &["wrap"], &json!({}));
    let login = json!({"role_id": role_id, "secret_id": secret_id});
    assert!(server.write("auth/approle/login", &login)["auth"]["client_token"].is_string());
    server.remove_policy("wrap");
    assert!(server.read("sys/policies/acl/wrap").is_none());
    assert!(server.list("transit/keys").is_empty());
}

#[test]
fn certificates_are_signed_by_its_own_ca() {
    let Some(server) = OpenBao::start_or_skip(Mode::Tls) else {
        return;
    };
    assert!(server.url().starts_with("https://"));
    server.enable_cert_auth(&["wrap"]);
    assert_eq!(server.list("auth/cert/certs"), ["keyway"]);
    for file in [server.client_cert_file(), server.client_key_file()] {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.starts_with("-----BEGIN "), "{}", file.display());
    }
}
