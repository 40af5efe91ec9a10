//! The secrets of KMSes: they are in memory while their KMS is open, and nothing is left of them after KMS_LOCK and
//! LOCK_ALL, even if no file can be read and none be opened.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyway_client::blocking::Client;
use keyway_client::{Error, Status, UnlockWith};
use keyway_testkit::openbao::{Mode, OpenBao};
use rustix::process::Resource;
use serde_json::{Value, json};

use super::{Flipped, SECRET_LEN, SHARDS, occurrences, setup};
use crate::common::{Server, Setup};
use crate::key_writes::limit;
use crate::rotation;

/// Each way to lock a KMS.
#[derive(Clone, Copy, Debug)]
enum Lock {
    Kms(&'static str),
    All,
}

impl Lock {
    fn of(kms: &'static str) -> [Lock; 2] {
        [Lock::Kms(kms), Lock::All]
    }

    fn send(self, client: &Client) -> Result<(), Error> {
        match self {
            Lock::Kms(kms) => client.kms_lock(&kms.parse().unwrap()).map(drop),
            Lock::All => client.lock_all().map(drop),
        }
    }
}

/// Asserts that a KMS's secrets are found until `lock` is answered, and that nothing is left of them then. The control
/// thread executes some hundred commands first: what it drops is freed by tasks that run on it.
fn assert_wiped(server: &Server, secrets: &[Flipped], lock: Lock, send: impl FnOnce(&Client)) {
    let client = server.client();
    let Some(counts) = occurrences(server, secrets) else {
        return;
    };
    assert!(counts[0] > 0, "before {lock:?}: the search finds nothing");
    send(&client);
    for _ in 0..300 {
        client.keyspace_list().unwrap();
    }
    let counts = occurrences(server, secrets).unwrap();
    assert_eq!(counts, vec![0; secrets.len()], "after {lock:?}");
}

/// Makes the KMS generate and unwrap a DEK, so that its secret is in use.
fn use_kms(client: &Client) {
    let keyspace = "any".parse().unwrap();
    client
        .keyspace_create(&keyspace, &[("kms", "bao")])
        .unwrap();
}

/// Returns an OpenBao with TLS, the token for it, the file with its CA, and a setup of a server with it as its only KMS.
fn stand_with_tls(dir: &Path) -> Option<(OpenBao, String, PathBuf, Setup)> {
    let bao = OpenBao::start_or_skip(Mode::Tls)?;
    bao.enable_transit("transit");
    bao.create_key("keyway", true);
    bao.write_key_policy("keyway", "transit", "keyway");
    let token = bao.token_for(&["keyway"], &json!({ "period": "1h" }));
    let (token_file, ca) = (dir.join("token"), dir.join("ca.pem"));
    std::fs::write(&token_file, &token).unwrap();
    std::fs::set_permissions(&token_file, Permissions::from_mode(0o600)).unwrap();
    std::fs::copy(bao.ca_file(), &ca).unwrap();
    let config = format!(
        "[kms.bao]\nprovider = \"vault\"\naddress = {:?}\nkey = \"keyway\"\nca_file = {ca:?}\n\
         auth = {{ method = \"token\", token_file = {token_file:?} }}\n",
        bao.url(),
    );
    let config_file = dir.join("keywayd.toml");
    std::fs::write(&config_file, config).unwrap();
    let setup = Setup::new(&dir.join("data")).shards(SHARDS);
    let setup = setup.flag("--config").flag(config_file.to_str().unwrap());
    Some((bao, token, ca, setup))
}

#[test]
fn local_kek_is_wiped_when_its_kms_is_locked() {
    for lock in Lock::of("local") {
        let dir = tempfile::tempdir().unwrap();
        let (server, _client) = setup(&dir, "any", &[]);
        let file = std::fs::read(server.data.join("kek.json")).unwrap();
        let file: Value = serde_json::from_slice(&file).unwrap();
        let text = file["keks"]["unprotected"]["versions"][0]["key"].as_str();
        let text = text.unwrap();
        let digits = (0..text.len()).step_by(2);
        let kek: Vec<u8> = digits
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect();
        assert_eq!(kek.len(), SECRET_LEN);
        // Its text was wiped once the file had been read.
        let secrets = [Flipped::of(&kek), Flipped::of(text.as_bytes())];
        assert_wiped(&server, &secrets, lock, |client| lock.send(client).unwrap());
    }
}

#[test]
fn provider_token_is_wiped_when_its_kms_is_locked() {
    for lock in Lock::of("bao") {
        let dir = tempfile::tempdir().unwrap();
        let Some((_bao, _proxy, setup)) = rotation::stand(dir.path(), SHARDS) else {
            return;
        };
        let token = std::fs::read(dir.path().join("token")).unwrap();
        let server = setup.start();
        use_kms(&server.client());
        let token = [Flipped::of(&token)];
        assert_wiped(&server, &token, lock, |client| lock.send(client).unwrap());
    }
}

/// The connections, whose buffers contain the token, stayed for up to a minute if their certificates could not be read
/// again.
#[test]
fn provider_token_is_wiped_although_the_certificates_cannot_be_read() {
    for lock in Lock::of("bao") {
        let dir = tempfile::tempdir().unwrap();
        let Some((_bao, token, ca, setup)) = stand_with_tls(dir.path()) else {
            return;
        };
        let server = setup.start();
        use_kms(&server.client());
        std::fs::remove_file(&ca).unwrap();
        let token = [Flipped::of(token.as_bytes())];
        assert_wiped(&server, &token, lock, |client| lock.send(client).unwrap());
    }
}

#[test]
fn provider_token_is_wiped_without_a_free_descriptor() {
    for lock in Lock::of("bao") {
        let dir = tempfile::tempdir().unwrap();
        let Some((_bao, token, _ca, setup)) = stand_with_tls(dir.path()) else {
            return;
        };
        let server = setup.start();
        use_kms(&server.client());
        let token = [Flipped::of(token.as_bytes())];
        assert_wiped(&server, &token, lock, |client| {
            limit(&server, Resource::Nofile, Some(1));
            // The locks of its keyspaces cannot be written.
            let locked = lock.send(client).unwrap_err();
            assert_eq!(locked.status(), Some(Status::NotPersisted), "{locked}");
            limit(&server, Resource::Nofile, Some(4_096));
        });
    }
}

/// PIN of the token, long enough to be found by.
const PIN: &str = "4711-is-nobodys-long-token-pin-0815";

/// A PIN comes from a file, or with KMS_UNLOCK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PinFrom {
    File,
    Operator,
}

#[test]
fn pin_of_a_token_is_nowhere_after_its_kms_is_locked() {
    for from in [PinFrom::File, PinFrom::Operator] {
        for lock in Lock::of("hsm") {
            let Some(hsm) = keyway_testkit::softhsm::start_or_skip() else {
                return;
            };
            hsm.create_aes_key("keyway");
            let pin = PIN.to_owned() + hsm.pin();
            hsm.change_pin(hsm.pin(), &pin);
            let dir = tempfile::tempdir().unwrap();
            let pin_file = dir.path().join("pin");
            std::fs::write(&pin_file, &pin).unwrap();
            std::fs::set_permissions(&pin_file, Permissions::from_mode(0o600)).unwrap();
            let mut config = format!(
                "default_kms = \"hsm\"\n[kms.hsm]\nprovider = \"pkcs11\"\nmodule = {:?}\ntoken = {:?}\n\
                 key = \"keyway\"\n",
                hsm.module(),
                hsm.token_label(),
            );
            if from == PinFrom::File {
                config += &format!("pin_file = {pin_file:?}\n");
            }
            let config_file = dir.path().join("keywayd.toml");
            std::fs::write(&config_file, config).unwrap();
            let setup = Setup::new(&dir.path().join("data")).shards(SHARDS);
            let setup = setup.production().flag("--config");
            let setup = setup.flag(config_file.to_str().unwrap());
            let mut command = setup.command();
            command.envs(hsm.env());
            let server = setup.start_as(command);
            let owner = server.unix_client();
            if from == PinFrom::Operator {
                let kms = "hsm".parse().unwrap();
                let unlocked = owner.kms_unlock(&kms, UnlockWith::Pin(pin.as_bytes()));
                unlocked.unwrap();
            }
            let keyspace = "any".parse().unwrap();
            owner.keyspace_create(&keyspace, &[("kms", "hsm")]).unwrap();
            let path = hsm.module().to_str().unwrap();
            // The search finds what is there: the module's path.
            let searched = [Flipped::of(path.as_bytes()), Flipped::of(pin.as_bytes())];
            lock.send(&owner).unwrap();
            for _ in 0..300 {
                owner.keyspace_list().unwrap();
            }
            let Some(counts) = occurrences(&server, &searched) else {
                return;
            };
            assert!(counts[0] > 0, "the search finds nothing");
            assert_eq!(counts[1], 0, "{from:?}, {lock:?}");
        }
    }
}
