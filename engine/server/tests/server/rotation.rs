//! Rotations of a DEK that lose nothing: the KMS becomes unreachable in the middle, two are concurrent, blobs are
//! restored from a backup, and retired DEKs are destroyed.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Call, Error, KeyOptions, KeyPath, KeyspaceInfo, KeyspaceName, Status, UnlockWith,
};
use keyway_testkit::fault_proxy::{Fault, FaultProxy};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use keyway_protocol::{Hello, KeyGenerate, NewKey, Octets, Request, Usage, VERSION};

use crate::common::{Server, Setup, ask, past_the_start, prod, wait_until};

const WITHIN: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(30);

/// Returns an OpenBao behind a proxy, and a setup of a server with it as its only KMS.
pub fn stand(dir: &Path, shards: u16) -> Option<(OpenBao, FaultProxy, Setup)> {
    let bao = OpenBao::start_or_skip(Mode::Durable)?;
    bao.enable_transit("transit");
    bao.create_key("keyway", true);
    bao.write_key_policy("keyway", "transit", "keyway");
    let token = bao.token_for(&["keyway"], &json!({ "period": "1h" }));
    let token_file = dir.join("token");
    std::fs::write(&token_file, token).unwrap();
    std::fs::set_permissions(&token_file, Permissions::from_mode(0o600)).unwrap();
    let proxy = FaultProxy::start(([127, 0, 0, 1], bao.port()).into());
    let config = format!(
        "[kms.bao]\nprovider = \"vault\"\naddress = \"http://{}\"\nkey = \"keyway\"\n\
         auth = {{ method = \"token\", token_file = {token_file:?} }}\n\
         [kms.bao.budget]\nattempts_max = 2\nbreaker_failures = 1000\n",
        proxy.address(),
    );
    let config_file = dir.join("keywayd.toml");
    std::fs::write(&config_file, config).unwrap();
    let setup = Setup::new(&dir.join("data")).shards(shards);
    let setup = setup.flag("--config").flag(config_file.to_str().unwrap());
    Some((bao, proxy, setup))
}

fn keyspace(name: &str) -> KeyspaceName {
    name.parse().unwrap()
}

fn key(keyspace: &KeyspaceName, index: usize) -> KeyPath {
    format!("{}/key-{index}", keyspace.as_str())
        .parse()
        .unwrap()
}

fn generate(client: &Client, key: &KeyPath) -> Result<(), Error> {
    let options = KeyOptions::default();
    let call = Call::key_generate(key, Algorithm::HmacSha256, options);
    // The server waits for a DEK for some seconds.
    client.call(call.deadline(DEADLINE)).map(drop)
}

/// Returns the server's answer to one request, which the client would otherwise retry.
pub fn answer(server: &Server, request: &Request<'_>, keyspace: u32, key_id: &[u8]) -> Status {
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        client_name: "test",
    };
    let hello = ask(&mut stream, &Request::Hello(hello), 0, b"", 0);
    assert_eq!(hello.0, Status::Ok);
    ask(&mut stream, request, keyspace, key_id, 0).0
}

fn info(client: &Client, name: &KeyspaceName) -> KeyspaceInfo {
    let keyspaces = client.keyspace_list().unwrap();
    let mut keyspaces = keyspaces.into_iter();
    keyspaces.find(|info| info.name == name.as_str()).unwrap()
}

/// Waits until no blob is sealed under an older DEK.
fn wait_for_reseal(client: &Client, name: &KeyspaceName) {
    wait_until("resealing", WITHIN, || info(client, name).reseal.is_none());
}

fn retired(client: &Client, name: &KeyspaceName) -> u64 {
    let retired = info(client, name).retired_deks;
    retired.map_or(0, |retired| retired.count)
}

/// Uses a key repeatedly until it works.
fn wait_for_use(client: &Client, key: &KeyPath) {
    let what = format!("{key}: a use of an acknowledged key");
    wait_until(&what, WITHIN, || client.mac(key, b"message").is_ok());
}

fn lock_and_unlock(client: &Client, name: &KeyspaceName) {
    client.lock(name).unwrap();
    client.unlock(name, UnlockWith::Nothing).unwrap();
}

/// The KMS became unreachable right after it had verified the new DEK: unwrapping it once more, for the shards, failed,
/// so they continued to seal under the older one, which was retired although keys under it had just been acknowledged.
/// Half of the keys created in the meantime were lost at the next lock.
#[test]
fn keys_made_while_the_kms_is_gone_right_after_it_proved_the_new_dek_can_be_opened() {
    const TRIALS: usize = 4;
    const KEYS: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, proxy, setup)) = stand(dir.path(), 2) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    for trial in 0..TRIALS {
        let shop = keyspace(&format!("shop-{trial}"));
        client.keyspace_create(&shop, &[]).unwrap();
        // The rotation makes two calls: one that generates the DEK, and one that verifies it.
        proxy.set_after(2, Fault::Error);
        assert_eq!(client.keyspace_rotate(&shop).unwrap().value, 2);
        let made: Vec<_> = (0..KEYS)
            .map(|index| {
                let options = KeyOptions::default();
                let call = Call::key_generate(&key(&shop, index), Algorithm::HmacSha256, options);
                client.submit(call.deadline(DEADLINE))
            })
            .collect();
        for (index, made) in made.into_iter().enumerate() {
            let made = made.wait();
            assert!(made.is_ok(), "{}: {made:?}", key(&shop, index));
        }
        wait_for_reseal(&client, &shop);
        proxy.set(Fault::Pass);
        lock_and_unlock(&client, &shop);
        for index in 0..KEYS {
            wait_for_use(&client, &key(&shop, index));
        }
    }
}

/// Shards start with what was written, not with what they held: a write after a crash in the middle of a rotation is
/// sealed under the new DEK or not at all.
#[test]
fn after_a_crash_in_the_middle_of_a_rotation_nothing_is_sealed_under_the_older_dek() {
    const KEYS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, proxy, setup)) = stand(dir.path(), 2) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    let shop = keyspace("shop");
    client.keyspace_create(&shop, &[]).unwrap();
    for index in 0..KEYS {
        generate(&client, &key(&shop, index)).unwrap();
    }
    client.keyspace_rotate(&shop).unwrap();
    drop(client);
    server.kill();

    proxy.set(Fault::Error);
    let server = setup.start();
    let client = server.client();
    let new_key = NewKey {
        algorithm: Some(Algorithm::HmacSha256),
        exportable: false,
        usage: Usage::NONE,
        not_after_unix_ms: 0,
    };
    let request = Request::KeyGenerate(KeyGenerate { new_key });
    let id = info(&client, &shop).id;
    let refused = answer(&server, &request, id, b"refused");
    let without_a_dek = [Status::Unavailable, Status::NeedsUnlock];
    assert!(without_a_dek.contains(&refused), "{refused:?}");
    proxy.set(Fault::Pass);
    wait_until("a write", WITHIN, || {
        match generate(&client, &key(&shop, KEYS)) {
            Ok(()) => true,
            // An earlier attempt whose answer arrived too late.
            Err(error) => error.status() == Some(Status::Conflict),
        }
    });
    wait_for_reseal(&client, &shop);
    lock_and_unlock(&client, &shop);
    for index in 0..=KEYS {
        wait_for_use(&client, &key(&shop, index));
    }
}

/// The second rotation got BAD_REQUEST, as if its request had been invalid.
#[test]
fn second_of_two_concurrent_rotations_gets_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, proxy, setup)) = stand(dir.path(), 1) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    let shop = keyspace("shop");
    client.keyspace_create(&shop, &[]).unwrap();
    proxy.set(Fault::Delay(Duration::from_millis(300)));
    let calls = [(); 3].map(|()| {
        let call = Call::keyspace_rotate(&shop).deadline(DEADLINE);
        client.submit(call)
    });
    let ended = calls.map(|call| call.wait());
    let (won, lost): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 2), "{lost:?}");
    for loser in lost {
        let error = loser.unwrap_err();
        assert_eq!(error.status(), Some(Status::Conflict), "{error}");
        let text = error.to_string();
        assert!(text.contains("keyway keyspace list"), "{text}");
    }
    assert_eq!(info(&client, &shop).generation, Some(2));
}

/// A copy of the logs of a stopped server, to be restored.
struct Backup<'a> {
    data: &'a Path,
    kept: std::path::PathBuf,
}

impl<'a> Backup<'a> {
    fn take(data: &'a Path, dir: &Path) -> Self {
        let kept = dir.join("backup");
        copy(&data.join("blobs-000001"), &kept);
        Backup { data, kept }
    }

    fn put_back(&self) {
        let blobs = self.data.join("blobs-000001");
        std::fs::remove_dir_all(&blobs).unwrap();
        copy(&self.kept, &blobs);
    }
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let to = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy(&entry, &to),
            false => {
                std::fs::copy(&entry, &to).unwrap();
            }
        }
    }
}

/// Rotates, and waits until the older DEK is retired.
fn rotate(client: &Client, name: &KeyspaceName) {
    past_the_start(|| client.mac(&key(name, 0), b"message")).unwrap();
    client.keyspace_rotate(name).unwrap();
    wait_for_reseal(client, name);
}

fn has_logged(server: &Server, what: &str) -> bool {
    server.log().contains(what)
}

/// Retired DEKs were discarded immediately: no blob of a log restored from a backup from before the rotation could be
/// opened.
#[test]
fn a_log_from_before_the_rotation_can_be_put_back_until_retired_deks_are_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let setup = Setup::new(&data).shards(1);
    let server = setup.start();
    let first = key(&prod(), 0);
    generate(&server.client(), &first).unwrap();
    server.stop();
    let backup = Backup::take(&data, dir.path());

    let server = setup.start();
    let client = server.client();
    rotate(&client, &prod());
    assert_eq!(retired(&client, &prod()), 1);
    drop(client);
    server.stop();
    backup.put_back();

    let server = setup.start();
    let client = server.client();
    wait_for_use(&client, &first);
    assert!(has_logged(&server, "a blob is sealed under a retired DEK"));
    wait_for_reseal(&client, &prod());
    assert_eq!(retired(&client, &prod()), 1, "retired again");
    drop(client);
    server.stop();
    backup.put_back();

    // The blob has not been used, but it exists: its DEK is not destroyed.
    let server = setup.start();
    let client = server.client();
    let error = client.keyspace_destroy_deks(&prod()).unwrap_err();
    assert_eq!(error.status(), Some(Status::Conflict), "{error}");
    wait_for_reseal(&client, &prod());
    assert_eq!(client.keyspace_destroy_deks(&prod()).unwrap().value, 1);
    assert_eq!(client.keyspace_destroy_deks(&prod()).unwrap().value, 0);
    assert_eq!(retired(&client, &prod()), 0);
    client.mac(&first, b"message").unwrap();
    let history = client.keyspace_history(&prod()).unwrap().value;
    let destroyed = history.changes.iter();
    let mut destroyed = destroyed.filter(|change| change.to.as_deref() == Some("destroyed"));
    assert_eq!(destroyed.next().unwrap().from.as_deref(), Some("1"));
    drop(client);
    server.stop();
    backup.put_back();

    let server = setup.start();
    let id = info(&server.client(), &prod()).id;
    wait_until("a line in the log", WITHIN, || {
        let request = Request::Mac(Octets(b"message"));
        let status = answer(&server, &request, id, b"key-0");
        assert_ne!(status, Status::Ok, "its DEK was destroyed");
        has_logged(&server, "sealed under a DEK that was destroyed")
    });
}
