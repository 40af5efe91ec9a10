//! Who may have access to the files with credentials: those that Kubernetes, systemd and agents write are accepted, and
//! those that other users can read or replace are not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use keyway_kms::{Class, Provider, TransitProvider, VaultAuth, VaultSettings};
use keyway_testkit::fault_proxy::FaultProxy;
use keyway_testkit::openbao::Mode;
use serde_json::json;

use super::{
    POLICY, round_trip, secret_file, server_or_skip, unwrap, with_approle, with_auth, wrap,
};

/// A user id of no account.
const STRANGER: u32 = 54_321;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns a group with another account than root in it.
fn shared_group() -> u32 {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let gids = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let uid: u32 = fields.next()?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        (uid != 0 && gid != 0).then_some(gid)
    });
    gids.into_iter().next().expect("there is another account")
}

fn is_root() -> bool {
    // The owner of a new file is this user.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::MetadataExt::uid(&file.path().metadata().unwrap()) == 0
}

/// Calls `check` with the file in each unsafe state, which it must refuse, and after each in a safe one.
async fn check_each_state(file: &Path, check: impl AsyncFn(&Path) -> Result<(), Class>) {
    let safe = || {
        set_mode(file, 0o600);
        chown(file, Some(0), Some(0)).unwrap();
    };
    let change = |mode, owner, group| {
        chown(file, Some(owner), Some(group)).unwrap();
        set_mode(file, mode);
    };
    let shared = shared_group();
    for (mode, owner, group) in [
        (0o640, 0, shared),
        (0o440, 0, shared),
        (0o444, 0, 0),
        (0o400, STRANGER, 0),
        (0o660, 0, 0),
    ] {
        change(mode, owner, group);
        assert_eq!(
            check(file).await,
            Err(Class::Misconfigured),
            "{mode:o} {owner} {group} {}",
            file.display()
        );
        safe();
        check(file).await.unwrap();
    }
    // A group that no account is in, as Kubernetes draws one for `fsGroup`.
    change(0o440, 0, STRANGER);
    check(file).await.unwrap();
    safe();
    // A link that another user could redirect.
    let dir = file.with_extension("d");
    fs::create_dir(&dir).unwrap();
    let link = dir.join("link");
    symlink(file, &link).unwrap();
    for (mode, owner, accepted) in [
        (0o755, 0, true),
        (0o777, 0, false),
        (0o755, STRANGER, false),
    ] {
        chown(&dir, Some(owner), Some(0)).unwrap();
        set_mode(&dir, mode);
        let expected = if accepted {
            Ok(())
        } else {
            Err(Class::Misconfigured)
        };
        assert_eq!(check(&link).await, expected, "{mode:o} {owner}");
    }
    chown(&dir, Some(0), Some(0)).unwrap();
}

/// A token that a group of several people could read was accepted.
#[tokio::test]
async fn a_credential_that_others_can_read_or_replace_is_refused() {
    if !is_root() {
        return;
    }
    let Some(server) = server_or_skip(Mode::Tls) else {
        return;
    };
    let trusting = |settings| VaultSettings {
        ca_file: Some(server.ca_file().to_owned()),
        ..settings
    };
    let open = async |settings: VaultSettings| {
        let vault = TransitProvider::open(settings);
        let vault = vault.map_err(|error| error.class())?;
        wrap(&vault).await.map(drop).map_err(|error| error.class())
    };
    let token = secret_file(&server, "token", &server.token_for(&[POLICY], &json!({})));
    check_each_state(&token, async |path: &Path| {
        let token_file = path.to_owned();
        open(trusting(with_auth(
            &server,
            VaultAuth::Token { token_file },
        )))
        .await
    })
    .await;
    let (role_id, secret_id) = server.approle("keyway", &[POLICY], &json!({}));
    with_approle(&server, &role_id, &secret_id);
    check_each_state(&server.dir().join("secret-id"), async |path: &Path| {
        let auth = VaultAuth::Approle {
            mount: "approle".into(),
            role_id: role_id.clone(),
            secret_id_file: path.to_owned(),
        };
        open(trusting(with_auth(&server, auth))).await
    })
    .await;
    server.enable_cert_auth(&[POLICY]);
    check_each_state(server.client_key_file(), async |path: &Path| {
        let cert = server.client_cert_file();
        open(super::with_cert(&server, Some("keyway"), cert, path)).await
    })
    .await;
}

/// Writes a version of a Kubernetes secret, and points `..data` at it, as the kubelet does.
fn publish(volume: &Path, version: &str, token: &str) -> PathBuf {
    let dir = volume.join(version);
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o755);
    fs::write(dir.join("token"), token).unwrap();
    set_mode(&dir.join("token"), 0o440);
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    let link = volume.join("token");
    if link.symlink_metadata().is_err() {
        symlink("..data/token", &link).unwrap();
    }
    if is_root() {
        chown(dir.join("token"), Some(0), Some(STRANGER)).unwrap();
    }
    link
}

/// A refused call reads the file again, so service alone does not show that the new version was noticed: the proxy sees
/// that no call was made with the old token once it had ended.
#[tokio::test]
async fn a_token_in_a_kubernetes_secret_is_replaced_with_it() {
    if !is_root() {
        return;
    }
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let volume = server.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    chown(&volume, Some(0), Some(STRANGER)).unwrap();
    set_mode(&volume, 0o3777);
    let first = server.token_for(&[POLICY], &json!({}));
    let token_file = publish(&volume, "..1", &first);
    let auth = VaultAuth::Token { token_file };
    let proxy = FaultProxy::start(([127, 0, 0, 1], server.port()).into());
    let settings = VaultSettings {
        address: format!("http://{}", proxy.address()),
        ..with_auth(&server, auth)
    };
    let vault = TransitProvider::open(settings).unwrap();
    let wrapped = wrap(&vault).await.unwrap();
    publish(&volume, "..2", &server.token_for(&[POLICY], &json!({})));
    vault.tend().expect("it has a login").await.unwrap();
    // The old one may end now.
    server.write("auth/token/revoke", &json!({ "token": first }));
    unwrap(&vault, &wrapped).await.unwrap();
    round_trip(&vault).await;
    let calls = proxy.calls();
    let refused = calls.iter().filter(|call| call.status == Some(403));
    assert_eq!(refused.count(), 0, "{calls:?}");
}
