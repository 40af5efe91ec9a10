//! Files of the data directory that are missing, outdated, or changed by another program: each is refused with a remedy,
//! and the remedy is carried out.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, KeyFormat, KeyOptions, KeyPath, KeyspaceName, Status, UnlockState, UnlockWith,
};
use keyway_protocol::{Octets, Request, Settings};
use keyway_testkit::fault_proxy::Fault;
use serde_json::{Value, json};

use crate::common::{Server, Setup, past_the_start, prod, refused, wait_until};
use crate::rotation::{answer, stand};

const WITHIN: Duration = Duration::from_secs(60);
const SECRET: &[u8] = b"secret secret secret secret 1234";

fn key(text: &str) -> KeyPath {
    text.parse().unwrap()
}

fn import(client: &Client, path: &str) {
    let algorithm = Some(Algorithm::HmacSha256);
    let options = KeyOptions::default();
    let made = client.key_import(&key(path), algorithm, options, KeyFormat::Raw, SECRET);
    made.unwrap();
}

fn mac(client: &Client, path: &str) -> Vec<u8> {
    past_the_start(|| client.mac(&key(path), b"hi"))
        .unwrap()
        .value
}

/// Returns a stopped development server that has one key.
fn stopped(dir: &Path) -> (PathBuf, Setup) {
    let data = dir.join("data");
    let setup = Setup::new(&data).shards(2);
    let server = setup.start();
    import(&server.client(), "prod/alice");
    server.stop();
    (data, setup)
}

fn catalogue(data: &Path) -> Value {
    serde_json::from_slice(&fs::read(data.join("keyspaces.json")).unwrap()).unwrap()
}

fn write_catalogue(data: &Path, document: &Value) {
    fs::write(data.join("keyspaces.json"), document.to_string()).unwrap();
}

fn accepting(setup: &Setup, document: &Value) -> Setup {
    let revision = document["revision"].to_string();
    setup.clone().flag("--accept-catalogue").flag(&revision)
}

/// This was treated as a first start: the server started without keyspaces, and assigned their ids to new ones.
#[test]
fn a_catalogue_that_is_gone_is_refused_and_works_again_once_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (data, setup) = stopped(dir.path());
    let (file, away) = (data.join("keyspaces.json"), dir.path().join("away"));
    fs::rename(&file, &away).unwrap();
    let said = setup.refused();
    assert!(said.contains("keyspaces.json is missing"), "{said}");
    assert!(said.contains("restore it from a backup"), "{said}");
    fs::rename(&away, &file).unwrap();
    mac(&setup.start().client(), "prod/alice");
}

/// The same for a directory that an older server has used.
#[test]
fn a_catalogue_that_is_gone_from_a_directory_without_marks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = format_3(dir.path());
    fs::remove_file(data.join("keyspaces.json")).unwrap();
    let said = Setup::new(&data).shards(2).refused();
    assert!(said.contains("keyspaces.json is missing"), "{said}");
}

#[test]
fn a_catalogue_without_its_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (data, setup) = stopped(dir.path());
    fs::remove_file(data.join("store.toml")).unwrap();
    fs::remove_dir_all(data.join("blobs-000001")).unwrap();
    let said = setup.refused();
    assert!(said.contains("store.toml is missing"), "{said}");
}

/// If the passphrase was available, a new KEK was created, and every answer was that a record is corrupt.
#[test]
fn a_kek_that_is_gone_is_refused_while_keyspaces_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let passphrase = dir.path().join("passphrase");
    fs::write(&passphrase, "correct horse battery\n").unwrap();
    fs::set_permissions(&passphrase, Permissions::from_mode(0o600)).unwrap();
    let setup = Setup::new(&data).shards(1).production();
    let setup = setup
        .flag("--passphrase-file")
        .flag(passphrase.to_str().unwrap());
    let server = setup.start();
    server.unix_client().keyspace_create(&prod(), &[]).unwrap();
    server.stop();
    let (file, away) = (data.join("kek.json"), dir.path().join("away"));
    fs::rename(&file, &away).unwrap();
    let said = setup.refused();
    assert!(
        said.contains("kek.json is missing") && said.contains("prod"),
        "{said}"
    );
    assert!(!file.exists(), "none is made in its place");
    fs::rename(&away, &file).unwrap();
    import(&setup.start().unix_client(), "prod/alice");
}

/// A missing log was treated as that of a shard that had never had a key.
#[test]
fn a_log_that_is_gone_is_refused_until_it_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (data, setup) = stopped(dir.path());
    for shard in ["shard-000", "shard-001"] {
        let shard = data.join("blobs-000001").join(shard);
        fs::remove_file(shard.join("00000001.log")).unwrap();
        let said = setup.refused();
        let (_, remedy) = said.trim().split_once("that shard's keys: ").unwrap();
        assert_eq!(
            remedy,
            format!("touch {}", shard.join("start-empty").display())
        );
        fs::write(shard.join("start-empty"), "").unwrap();
    }
    let server = setup.start();
    let client = server.client();
    let gone = past_the_start(|| client.mac(&key("prod/alice"), b"hi")).unwrap_err();
    assert_eq!(gone.status(), Some(Status::NotFound));
}

/// An older catalogue undid locks and withdrawn grants.
#[test]
fn an_older_catalogue_alone_is_refused_unless_the_operator_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (data, setup) = stopped(dir.path());
    let older = catalogue(&data);
    let server = setup.start();
    let client = server.client();
    client.lock(&prod()).unwrap();
    let made_since: KeyspaceName = "since".parse().unwrap();
    let used = client.keyspace_create(&made_since, &[]).unwrap().value;
    server.stop();
    let newest = catalogue(&data);

    write_catalogue(&data, &older);
    let said = setup.refused();
    assert!(said.contains("an older file was put back"), "{said}");
    let accept = format!("--accept-catalogue {}", older["revision"]);
    assert!(said.contains(&accept), "{said}");
    // One with a raised revision is treated like any other changed one.
    let mut raised = older.clone();
    raised["revision"] = newest["revision"].clone();
    write_catalogue(&data, &raised);
    let said = setup.refused();
    assert!(said.contains("an older file was put back"), "{said}");

    write_catalogue(&data, &older);
    let accepting = accepting(&setup, &older);
    let server = accepting.start();
    let client = server.client();
    mac(&client, "prod/alice");
    let other: KeyspaceName = "other".parse().unwrap();
    let id = client.keyspace_create(&other, &[]).unwrap().value;
    assert!(id > used, "id {id} was used before");
    server.stop();
    // The flag no longer has an effect.
    mac(&accepting.start().client(), "prod/alice");
}

/// A user with write access to the file could grant themselves anything, and undo a lock.
#[test]
fn a_catalogue_that_somebody_else_has_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (data, setup) = stopped(dir.path());
    let good = catalogue(&data);
    let mut unsealed = good.clone();
    unsealed["seals"] = json!({});
    let mut granted = good.clone();
    granted["keyspaces"]["1"]["policy"] = json!({ "anonymous": "all" });
    let mut renamed = good.clone();
    renamed["keyspaces"]["7"] = renamed["keyspaces"]["1"].clone();
    renamed["keyspaces"].as_object_mut().unwrap().remove("1");
    for (what, changed) in [("seal", unsealed), ("grant", granted), ("id", renamed)] {
        write_catalogue(&data, &changed);
        let said = setup.refused();
        assert!(said.contains("cannot be trusted"), "{what}: {said}");
        assert!(said.contains("--accept-catalogue"), "{what}: {said}");
    }
    // Removing the marker files as well does not help.
    let manifest = fs::read_to_string(data.join("store.toml")).unwrap();
    let (without_marks, _) = manifest.split_once("[marks]").unwrap();
    fs::write(data.join("store.toml"), without_marks).unwrap();
    let mut older_format = good.clone();
    older_format["format"] = json!(3);
    let fields = older_format.as_object_mut().unwrap();
    fields.remove("seals");
    fields.remove("revision");
    write_catalogue(&data, &older_format);
    let said = setup.refused();
    assert!(said.contains("cannot be trusted"), "{said}");

    fs::write(data.join("store.toml"), manifest).unwrap();
    write_catalogue(&data, &good);
    mac(&setup.start().client(), "prod/alice");
}

#[test]
fn what_cannot_be_checked_at_the_start_is_checked_before_a_dek_is_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, _proxy, setup)) = stand(dir.path(), 1) else {
        return;
    };
    let shop: KeyspaceName = "shop".parse().unwrap();
    let server = setup.start();
    let client = server.client();
    client.keyspace_create(&shop, &[]).unwrap();
    import(&client, "shop/alice");
    client.lock(&shop).unwrap();
    drop(client);
    server.stop();
    let data = dir.path().join("data");
    let good = catalogue(&data);
    let mut unlocked = good.clone();
    let id = good["keyspaces"].as_object().unwrap();
    let (id, _) = id.iter().find(|(_, it)| it["name"] == "shop").unwrap();
    unlocked["keyspaces"][id]["locked"] = json!(false);
    write_catalogue(&data, &unlocked);

    let server = setup.start();
    let client = server.client();
    wait_until("a line in the log", WITHIN, || {
        let status = answer(&server, &Request::Mac(Octets(b"hi")), 2, b"alice");
        assert_ne!(status, Status::Ok, "it was locked");
        server.log().contains("cannot be trusted")
    });
    let ticket = client.unlock(&shop, UnlockWith::Nothing).unwrap().value;
    wait_until("the unlock", WITHIN, || {
        let status = client.unlock_status(&shop, ticket).unwrap().value;
        assert_ne!(status.state, UnlockState::Done, "{status:?}");
        status.state == UnlockState::Failed
    });
    server.stop();

    let server = accepting(&setup, &unlocked).start();
    mac(&server.client(), "shop/alice");
}

/// A lock and a withdrawal need no key and no KMS, and last; what grants something waits for the KMS.
#[test]
fn a_lock_and_a_withdrawal_last_although_the_kms_was_away_since_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, proxy, setup)) = stand(dir.path(), 1) else {
        return;
    };
    let shop: KeyspaceName = "shop".parse().unwrap();
    let grants = [("allow:uid:7", "sign,mac"), ("allow:uid:8", "mac")];
    let server = setup.start();
    server.client().keyspace_create(&shop, &grants).unwrap();
    import(&server.client(), "shop/alice");
    server.stop();

    proxy.set(Fault::Error);
    let server = setup.start();
    let client = server.client();
    client
        .keyspace_set(&shop, &[("allow:uid:7", "mac")])
        .unwrap();
    client.lock(&shop).unwrap();
    let given = Request::KeyspaceSet(Settings::new("allow:uid:9=mac\n").unwrap());
    let keyspaces = client.keyspace_list().unwrap();
    let id = keyspaces
        .iter()
        .find(|info| info.name == "shop")
        .unwrap()
        .id;
    assert_eq!(answer(&server, &given, id, b""), Status::Unavailable);
    drop(client);
    server.kill();

    let holds = |server: &Server, locked: bool| {
        let keyspaces = server.client().keyspace_list().unwrap();
        let mut keyspaces = keyspaces.into_iter();
        let info = keyspaces.find(|info| info.name == "shop").unwrap();
        assert_eq!(info.locked, Some(locked));
        let grants: Vec<_> = info.allow.into_iter().collect();
        let expected = [("uid:7", "mac"), ("uid:8", "mac")];
        assert_eq!(
            grants,
            expected.map(|(who, what)| (who.to_owned(), what.to_owned()))
        );
    };
    let server = setup.start();
    holds(&server, true);
    proxy.set(Fault::Pass);
    let client = server.client();
    client.unlock(&shop, UnlockWith::Nothing).unwrap();
    wait_until("the unlock", WITHIN, || {
        client.mac(&key("shop/alice"), b"hi").is_ok()
    });
    holds(&server, false);
    client
        .keyspace_set(&shop, &[("soft_ttl_ms", "1000")])
        .unwrap();
    drop(client);
    server.kill();
    let server = setup.start();
    holds(&server, false);
    mac(&server.client(), "shop/alice");
}

/// A withdrawal waited for the KMS if the same command also changed anything else, and signing continued.
#[test]
fn what_a_change_takes_away_is_in_force_before_its_kms_answers() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, proxy, setup)) = stand(dir.path(), 1) else {
        return;
    };
    let shop: KeyspaceName = "shop".parse().unwrap();
    let server = setup.start();
    let grants = [("allow:uid:7", "sign,mac"), ("allow:uid:8", "mac")];
    server.client().keyspace_create(&shop, &grants).unwrap();
    server.stop();

    proxy.set(Fault::Error);
    let server = setup.start();
    let client = server.client();
    let info = |client: &Client| {
        let keyspaces = client.keyspace_list().unwrap();
        let mut keyspaces = keyspaces.into_iter();
        keyspaces.find(|info| info.name == "shop").unwrap()
    };
    let changes = [
        ("allow:uid:7", "none"),
        ("soft_ttl_ms", "1000"),
        ("hard_ttl_ms", "7200000"),
    ];
    let answered = client.keyspace_set(&shop, &changes).unwrap_err();
    assert_eq!(answered.status(), Some(Status::NotPersisted), "{answered}");
    let text = answered.to_string();
    for part in [
        "in force on every shard: allow:uid:7=none, soft_ttl_ms=1000;",
        "not in force: hard_ttl_ms=7200000 (in force: 3600000);",
        "it is not complete: ",
        "a restart undoes shorter time limits",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let shown = info(&client);
    assert!(!shown.allow.contains_key("uid:7") && shown.allow.contains_key("uid:8"));
    assert_eq!(shown.settings["soft_ttl_ms"], "1000");
    assert_eq!(shown.settings["hard_ttl_ms"], "3600000");
    drop(client);
    server.kill();
    let server = setup.start();
    assert!(
        !info(&server.client()).allow.contains_key("uid:7"),
        "it lasts"
    );

    proxy.set(Fault::Pass);
    let client = server.client();
    wait_until("the KMS", WITHIN, || {
        client.keyspace_set(&shop, &changes).is_ok()
    });
    drop(client);
    server.kill();
    let shown = info(&setup.start().client());
    assert!(!shown.allow.contains_key("uid:7"));
    assert_eq!(shown.settings["soft_ttl_ms"], "1000");
    assert_eq!(shown.settings["hard_ttl_ms"], "7200000");
}

/// Returns a directory created by a server of format 3, with one shard's log empty.
fn format_3(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/fixtures/format-3");
    crate::rotation::copy(&fixture, &data);
    for file in ["kek.json", "keyspaces.json", "store.toml"] {
        fs::set_permissions(data.join(file), Permissions::from_mode(0o600)).unwrap();
    }
    data
}

#[test]
fn a_directory_of_format_3_is_taken_over_and_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let data = format_3(dir.path());
    let setup = Setup::new(&data).shards(2);
    let server = setup.start();
    let client = server.client();
    import(&client, "prod/again");
    assert_eq!(mac(&client, "prod/old"), mac(&client, "prod/again"));
    let keyspaces = client.keyspace_list().unwrap();
    let locked: Vec<_> = keyspaces.iter().map(|info| info.locked).collect();
    assert_eq!(locked, [Some(false), Some(true)]);
    client.keyspace_rotate(&prod()).unwrap();
    wait_until("resealing", WITHIN, || {
        client.keyspace_list().unwrap()[0].reseal.is_none()
    });
    server.stop();
    let document = catalogue(&data);
    assert_eq!(document["format"], json!(4));
    assert!(document["seals"]["local"]["tag"].is_string(), "{document}");

    let mut changed = document.clone();
    changed["keyspaces"]["2"]["locked"] = json!(false);
    write_catalogue(&data, &changed);
    assert!(refused(setup.command()).contains("cannot be trusted"));
    write_catalogue(&data, &document);
    assert!(!mac(&setup.start().client(), "prod/old").is_empty());
}
