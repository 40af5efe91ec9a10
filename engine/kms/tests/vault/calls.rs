//! Wrap, unwrap and generate without faults, and what they are bound to.

use std::sync::Arc;

use keyway_kms::{
    Budget, Class, Context, Provider, Service, TransitProvider, UnlockSecret, VaultSettings,
};
use keyway_testkit::openbao::Mode;
use serde_json::json;

use super::{CONTEXT, KEY, class, round_trip, server_or_skip, settings, unwrap, with_token, wrap};

#[tokio::test]
async fn what_is_wrapped_or_generated_is_unwrapped_under_the_same_context_only() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    round_trip(&vault).await;
    let generated = vault.generate(&CONTEXT).unwrap().await.unwrap();
    let unwrapped = unwrap(&vault, &generated.wrapped).await.unwrap();
    assert!(unwrapped.is_same(&generated.dek));
    let again = vault.generate(&CONTEXT).unwrap().await.unwrap();
    assert!(!again.dek.is_same(&generated.dek));

    let wrapped = wrap(&vault).await.unwrap();
    assert!(wrapped.0.starts_with(b"vault:v1:"));
    let others = [
        Context {
            keyspace: 8,
            ..CONTEXT
        },
        Context {
            generation: 4,
            ..CONTEXT
        },
        Context {
            cluster: [0; 16],
            ..CONTEXT
        },
    ];
    for other in others {
        for bytes in [&wrapped.0, &generated.wrapped.0] {
            assert_eq!(class(vault.unwrap(&other, bytes).await), Class::Corrupt);
        }
    }
}

#[tokio::test]
async fn a_rotated_key_opens_what_its_older_version_wrapped() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    let old = wrap(&vault).await.unwrap();
    server.write("transit/keys/dek/rotate", &json!({}));
    let new = wrap(&vault).await.unwrap();
    assert!(new.0.starts_with(b"vault:v2:"));
    for wrapped in [old, new] {
        unwrap(&vault, &wrapped).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_changed_or_is_no_ciphertext_is_corrupt() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    let wrapped = wrap(&vault).await.unwrap().0;
    let text = String::from_utf8(wrapped.clone()).unwrap();
    let mut flipped = wrapped.clone();
    flipped[20] = if flipped[20] == b'A' { b'B' } else { b'A' };
    let bad = [
        flipped,
        wrapped[..wrapped.len() - 4].to_vec(),
        text.replace("v1", "v2").into(),
        b"vault:v1:AAAA".to_vec(),
        b"vault:v1:=".to_vec(),
        b"vault:v1:a\"b".to_vec(),
        b"\xff".to_vec(),
        Vec::new(),
    ];
    for bytes in bad {
        assert_eq!(class(vault.unwrap(&CONTEXT, &bytes).await), Class::Corrupt);
    }
    // Also when it is the first call, which also checks the binding.
    let vault = TransitProvider::open(settings(&server)).unwrap();
    assert_eq!(
        class(vault.unwrap(&CONTEXT, b"vault:v1:AAAA").await),
        Class::Corrupt
    );
}

/// Such a key accepts a context and ignores it: every keyspace's wrapped key would open under every other's context.
#[tokio::test]
async fn a_key_that_ignores_contexts_is_refused_by_every_call() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    server.create_key("loose", false);
    let open = || {
        let settings = with_token(&server, server.root_token());
        TransitProvider::open(VaultSettings {
            key: "loose".into(),
            ..settings
        })
        .unwrap()
    };
    let made = server.write(
        "transit/encrypt/loose",
        &json!({"plaintext": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}),
    );
    let wrapped = made["data"]["ciphertext"].as_str().unwrap();
    assert_eq!(class(wrap(&open()).await), Class::Misconfigured);
    assert_eq!(
        class(open().unwrap(&CONTEXT, wrapped.as_bytes()).await),
        Class::Misconfigured
    );
    assert_eq!(
        class(open().generate(&CONTEXT).unwrap().await),
        Class::Misconfigured
    );
    assert_eq!(
        class(open().unlock(UnlockSecret::Nothing).await),
        Class::Misconfigured
    );
    let error = wrap(&open()).await.unwrap_err();
    assert!(error.what().contains("not derived"), "{error}");
}

#[tokio::test]
async fn a_namespace_has_its_own_keys() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    server.write("sys/namespaces/team", &json!({}));
    server.enable_transit("team/transit");
    server.create_key_at("team/transit", KEY, true);
    server.write_key_policy("team/keyway", "transit", KEY);
    let made = server.write("team/auth/token/create", &json!({"policies": ["keyway"]}));
    let token = made["auth"]["client_token"].as_str().unwrap();

    let in_team = VaultSettings {
        namespace: Some("team".into()),
        ..with_token(&server, token)
    };
    let team = TransitProvider::open(in_team.clone()).unwrap();
    round_trip(&team).await;
    let wrapped = wrap(&team).await.unwrap();
    let root = TransitProvider::open(with_token(&server, server.root_token())).unwrap();
    assert_eq!(class(unwrap(&root, &wrapped).await), Class::Corrupt);
    let absent = VaultSettings {
        namespace: Some("absent".into()),
        ..in_team
    };
    let absent = TransitProvider::open(absent).unwrap();
    assert_eq!(class(wrap(&absent).await), Class::Misconfigured);
}

#[tokio::test]
async fn the_service_makes_and_unwraps_deks_with_it() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = Arc::new(TransitProvider::open(settings(&server)).unwrap());
    assert_eq!(vault.name(), "vault");
    assert!(!vault.is_unprotected());
    let service = Service::new(vault, [1; 16], Budget::default(), || 0).unwrap();
    let made = service.new_dek(7, 1).await.unwrap();
    let unwrapped = service.unwrap_dek(7, 1, &made.record).await.unwrap();
    assert!(unwrapped.dek.is_same(&made.dek));
}
