//! Another passphrase, and a new KEK: keyspaces are moved to a second local KMS with a file of its own, and the first file
//! is not needed any more. There is no command that changes a KEK file in place.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Custody, Error, KeyOptions, KeyPath, KeyspaceName, KmsName, UnlockWith,
};

use crate::common::{Setup, past_the_start};

const OLD: &[u8] = b"correct horse battery staple";
const NEW: &[u8] = b"another horse battery staple";

fn key(keyspace: &str) -> KeyPath {
    format!("{keyspace}/alice").parse().unwrap()
}

fn keyspace(text: &str) -> KeyspaceName {
    text.parse().unwrap()
}

fn kms(text: &str) -> KmsName {
    text.parse().unwrap()
}

fn mac(client: &Client, keyspace: &str) -> Result<Vec<u8>, Error> {
    client.mac(&key(keyspace), b"message").map(|tag| tag.value)
}

fn file(dir: &Path, name: &str, text: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn keyspaces_move_to_a_kek_file_with_another_passphrase_and_the_old_file_is_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (file(dir.path(), "old", OLD), file(dir.path(), "new", NEW));
    let config = dir.path().join("keywayd.toml");
    let data = dir.path().join("data");
    let setup = Setup::new(&data).shards(2).production();
    let setup = setup.flag("--config").flag(config.to_str().unwrap());
    let with = |passphrase: &Path| {
        let setup = setup.clone().flag("--passphrase-file");
        setup.flag(passphrase.to_str().unwrap())
    };
    let second = format!(
        "[kms.second]\nprovider = \"local\"\nfile = \"{}\"\n",
        dir.path().join("second.json").display()
    );

    fs::write(&config, "[kms.local]\nprovider = \"local\"\n").unwrap();
    let server = with(&old).start();
    let client = server.unix_client();
    let mut tags = Vec::new();
    for name in ["a", "b"] {
        client.keyspace_create(&keyspace(name), &[]).unwrap();
        let options = KeyOptions::default();
        client
            .key_generate(&key(name), Algorithm::HmacSha256, options)
            .unwrap();
        tags.push(past_the_start(|| mac(&client, name)).unwrap());
    }
    client.keyspace_rotate(&keyspace("a")).unwrap();
    drop(client);
    server.stop();

    let both = format!("default_kms = \"second\"\n[kms.local]\nprovider = \"local\"\n{second}");
    fs::write(&config, both).unwrap();
    let server = setup.start();
    let client = server.unix_client();
    client
        .kms_unlock(&kms("local"), UnlockWith::Passphrase(OLD))
        .unwrap();
    client
        .kms_init(&kms("second"), Custody::Passphrase(NEW))
        .unwrap();
    for name in ["a", "b"] {
        client
            .keyspace_rewrap(&keyspace(name), &kms("second"))
            .unwrap();
    }
    drop(client);
    server.stop();

    fs::remove_file(data.join("kek.json")).unwrap();
    fs::write(&config, second).unwrap();
    let server = with(&new).start();
    let client = server.unix_client();
    for (name, tag) in ["a", "b"].into_iter().zip(tags) {
        assert_eq!(past_the_start(|| mac(&client, name)).unwrap(), tag);
    }
    drop(client);
    server.stop();
}
