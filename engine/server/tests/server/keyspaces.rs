//! Keyspaces and their node: settings, locks, principals, passphrases, refusals to start.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{Server, Setup, WITHIN, ask, past_the_start, prod, refused, wait_until};
use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Answer, Custody, Error, HotBy, Input, KeyFormat, KeyOptions, KeyPath, KeyspaceName,
    KmsName, Scheme, Status, UnlockState, UnlockWith,
};
use keyway_protocol::{Hello, Request, VERSION};

const MESSAGE: &[u8] = b"the message";
const PASSPHRASE: &[u8] = b"correct horse battery";

fn path(text: &str) -> KeyPath {
    text.parse().unwrap()
}

fn sign(client: &Client, key: &KeyPath) -> Result<Answer<Vec<u8>>, Error> {
    client.sign(key, Scheme::Default, Input::Message(MESSAGE))
}

fn generate(client: &Client, key: &str) -> KeyPath {
    let key = path(key);
    client
        .key_generate(&key, Algorithm::Ed25519, KeyOptions::default())
        .unwrap();
    key
}

fn status<T: std::fmt::Debug>(result: Result<T, Error>) -> Status {
    let error = result.unwrap_err();
    error
        .status()
        .unwrap_or_else(|| panic!("not refused by the server: {error}"))
}

fn setting(client: &Client, keyspace: &KeyspaceName, name: &str) -> String {
    let keyspaces = client.keyspace_list().unwrap();
    let info = keyspaces
        .into_iter()
        .find(|info| info.name == keyspace.as_str())
        .unwrap();
    info.settings
        .get(name)
        .unwrap_or_else(|| panic!("{name} is not listed"))
        .clone()
}

/// Waits for an unlock to end. Returns its status.
fn unlock(client: &Client, keyspace: &KeyspaceName, with: UnlockWith<'_>) -> (UnlockState, String) {
    let ticket = client.unlock(keyspace, with).unwrap().value;
    let mut ended = None;
    wait_until("the unlock", WITHIN, || {
        let status = client.unlock_status(keyspace, ticket).unwrap().value;
        let is_over = status.state != UnlockState::Pending;
        ended = is_over.then_some((status.state, status.message));
        is_over
    });
    ended.unwrap()
}

#[test]
fn settings_act_at_once_and_last_over_stops_and_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    let key = generate(&client, "prod/alice");
    while sign(&client, &key).unwrap().key_age_ms < 100 {}
    // A shorter life also applies to loaded keys.
    let shorter = [
        ("jitter_pct", "0"),
        ("soft_ttl_ms", "40"),
        ("hard_ttl_ms", "50"),
    ];
    client.keyspace_set(&prod(), &shorter).unwrap();
    for _ in 0..20 {
        let age_ms = sign(&client, &key).unwrap().key_age_ms;
        assert!(age_ms <= 50, "{age_ms} ms");
    }
    client
        .keyspace_set(&prod(), &[("maxInFlight", "7"), ("signWaitBudget", "9000")])
        .unwrap();
    client
        .keyspace_set(&prod(), &[("refreshWindow", "30"), ("LowWater", "3")])
        .unwrap();
    let team = "team.two-b_c".parse().unwrap();
    client
        .keyspace_create(&team, &[("max_in_flight", "0")])
        .unwrap();
    let check = |client: &Client| {
        let expected = [
            ("soft_ttl_ms", "40"),
            ("hard_ttl_ms", "50"),
            ("jitter_pct", "0"),
            ("max_in_flight", "7"),
            ("sign_wait_budget_us", "9000"),
            ("refresh_window_ms", "30"),
            ("low_water_pct", "3"),
        ];
        for (name, value) in expected {
            assert_eq!(setting(client, &prod(), name), value, "{name}");
        }
        assert_eq!(setting(client, &team, "max_in_flight"), "0");
        assert_eq!(setting(client, &team, "soft_ttl_ms"), "600000");
    };
    check(&client);
    server.kill();
    let server = setup.start();
    check(&server.client());
    server.stop();
    let server = setup.start();
    check(&server.client());
    assert_eq!(
        status(server.client().keyspace_create(&team, &[])),
        Status::Conflict
    );
}

#[test]
fn contradictory_settings_are_refused_with_the_rule_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let before = client.keyspace_list().unwrap();
    let cases: [(&[(&str, &str)], &str); 7] = [
        (
            &[("soft_ttl_ms", "5000"), ("hard_ttl_ms", "1000")],
            "soft_ttl_ms <= hard_ttl_ms",
        ),
        (&[("soft_ttl_ms", "1")], "10 <= soft_ttl_ms"),
        (&[("jitter_pct", "51")], "jitter_pct <= 50"),
        (
            &[("refreshWindow", "600000")],
            "refresh_window_ms < soft_ttl_ms",
        ),
        (
            &[("LowWater", "90")],
            "low_water_pct / 100 <= refresh_window_ms",
        ),
        (&[("max_in_flight", "9"), ("soft_ttl_ms", "soon")], "soon"),
        (&[("colour", "red")], "`colour` is not a setting"),
    ];
    for (settings, rule) in cases {
        let error = client.keyspace_set(&prod(), settings).unwrap_err();
        assert_eq!(error.status(), Some(Status::BadRequest), "{settings:?}");
        assert!(error.to_string().contains(rule), "{error}");
        let error = client
            .keyspace_create(&"new".parse().unwrap(), settings)
            .unwrap_err();
        assert!(error.to_string().contains(rule), "{error}");
    }
    let grant = client
        .keyspace_set(&prod(), &[("allow:bob", "sign")])
        .unwrap_err();
    assert!(
        grant.to_string().contains("`bob` is not a principal"),
        "{grant}"
    );
    assert_eq!(client.keyspace_list().unwrap(), before);
}

#[test]
fn a_locked_keyspace_stays_locked_until_it_is_unlocked() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    let keys: Vec<_> = (0..8)
        .map(|n| generate(&client, &format!("prod/key-{n}")))
        .collect();
    client
        .keyspace_create(&"other".parse().unwrap(), &[])
        .unwrap();
    let other = generate(&client, "other/key");
    let signatures: Vec<_> = keys
        .iter()
        .map(|key| sign(&client, key).unwrap().value)
        .collect();
    client.lock(&prod()).unwrap();
    let check_locked = |client: &Client| {
        for key in &keys {
            let error = sign(client, key).unwrap_err();
            assert_eq!(error.status(), Some(Status::NeedsUnlock), "{error}");
            assert!(error.ticket().is_some());
        }
        let new = client.key_generate(&path("prod/new"), Algorithm::Ed25519, KeyOptions::default());
        assert_eq!(status(new), Status::NeedsUnlock);
        let used = past_the_start(|| sign(client, &other));
        assert!(used.is_ok(), "the other keyspace is open");
        let listed = client.keyspace_list().unwrap();
        assert_eq!(
            listed.iter().map(|info| info.locked).collect::<Vec<_>>(),
            [Some(true), Some(false)]
        );
    };
    check_locked(&client);
    server.kill();
    let server = setup.start();
    check_locked(&server.client());
    server.wait_for_metric("keyway_keyspace_locked{keyspace=\"prod\"}", |value| {
        value == 1.0
    });
    assert!(
        server.http("/readyz").1.contains("prod"),
        "{}",
        server.http("/readyz").1
    );
    server.stop();
    let server = setup.start();
    let client = server.client();
    check_locked(&client);
    let (state, message) = unlock(&client, &prod(), UnlockWith::Nothing);
    assert_eq!(state, UnlockState::Done, "{message}");
    for (key, signature) in keys.iter().zip(&signatures) {
        assert_eq!(&sign(&client, key).unwrap().value, signature);
    }
    server.kill();
    let server = setup.start();
    let used = past_the_start(|| sign(&server.client(), &keys[0]));
    assert!(used.is_ok(), "the unlock lasts");
}

/// Returns a production server's directory with a passphrase file, and its setup.
fn production(dir: &Path) -> (Setup, PathBuf) {
    let file = dir.join("passphrase");
    write_private(&file, PASSPHRASE);
    let setup = Setup::new(&dir.join("data"))
        .production()
        .shards(2)
        .flag("--passphrase-file")
        .flag(file.to_str().unwrap());
    (setup, file)
}

fn write_private(file: &Path, bytes: &[u8]) {
    std::fs::write(file, bytes).unwrap();
    set_mode(file, 0o600);
}

fn set_mode(file: &Path, mode: u32) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_passphrase_opens_the_kek_and_only_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let (setup, file) = production(dir.path());
    let server = setup.start();
    let client = server.unix_client();
    assert!(!client.is_dev());
    assert!(
        client.keyspace_list().unwrap().is_empty(),
        "only --dev makes a keyspace"
    );
    client.keyspace_create(&prod(), &[]).unwrap();
    let key = generate(&client, "prod/alice");
    let signature = sign(&client, &key).unwrap().value;
    server.stop();
    let log = std::fs::read_to_string(dir.path().join("data.log")).unwrap();
    let kek = dir.path().join("data/kek.json");
    for text in [log, std::fs::read_to_string(&kek).unwrap()] {
        assert!(
            !text.contains("correct horse"),
            "the passphrase was written down"
        );
    }

    // The same passphrase from a descriptor: a file, then a pipe.
    for redirect in ["3<\"$PASS\"", "3< <(cat \"$PASS\")"] {
        let plain = Setup::new(&dir.path().join("data")).production().shards(2);
        let by_descriptor = plain.flag("--passphrase-fd").flag("3");
        let words = by_descriptor.command();
        let quoted: Vec<_> = std::iter::once(words.get_program())
            .chain(words.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let line = format!("exec {} {redirect}", quoted.join(" "));
        let server = by_descriptor.start_as(bash(&line, &file));
        let signed = past_the_start(|| sign(&server.unix_client(), &key));
        assert_eq!(signed.unwrap().value, signature);
        server.stop();
    }

    write_private(&file, b"wrong horse battery");
    let text = setup.refused();
    assert!(text.contains("passphrase"), "{text}");
    write_private(&file, PASSPHRASE);
    set_mode(&file, 0o644);
    let text = setup.refused();
    assert!(text.contains("chmod 0600"), "{text}");
    set_mode(&file, 0o600);
    set_mode(&kek, 0o644);
    let text = setup.refused();
    assert!(
        text.contains("chmod 0600") && text.contains("kek.json"),
        "{text}"
    );
    set_mode(&kek, 0o600);
    let server = setup.start();
    let signed = past_the_start(|| sign(&server.unix_client(), &key));
    assert_eq!(signed.unwrap().value, signature);
}

fn bash(line: &str, passphrase: &Path) -> std::process::Command {
    let mut command = std::process::Command::new("bash");
    command
        .args(["-c", line])
        .env("PASS", passphrase)
        .stdin(Stdio::null());
    command
}

#[test]
fn a_server_without_its_passphrase_starts_locked_and_opens_over_the_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (setup, _) = production(dir.path());
    let server = setup.start();
    let client = server.unix_client();
    client.keyspace_create(&prod(), &[]).unwrap();
    let key = generate(&client, "prod/alice");
    let signature = sign(&client, &key).unwrap().value;
    server.kill();

    let server = Setup::new(&dir.path().join("data"))
        .production()
        .shards(2)
        .start();
    let client = server.unix_client();
    let error = sign(&client, &key).unwrap_err();
    assert_eq!(error.status(), Some(Status::NeedsUnlock), "{error}");
    assert!(error.ticket().is_some());
    let wrong_horse = UnlockWith::Passphrase(b"wrong horse battery");
    for wrong in [UnlockWith::Nothing, wrong_horse] {
        let (state, message) = unlock(&client, &prod(), wrong);
        assert_eq!(state, UnlockState::Failed);
        assert!(message.contains("passphrase"), "{message}");
        assert_eq!(status(sign(&client, &key)), Status::NeedsUnlock);
    }
    let right = UnlockWith::Passphrase(PASSPHRASE);
    let over_tcp = server.client().unlock(&prod(), right);
    assert!(over_tcp.is_err(), "anonymous has no right to unlock");
    let (state, message) = unlock(&client, &prod(), right);
    assert_eq!(state, UnlockState::Done, "{message}");
    assert_eq!(sign(&client, &key).unwrap().value, signature);
    assert!(!server.log().contains("correct horse"));
}

#[test]
fn an_unprotected_kek_is_for_development_only() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Setup::new(&data).start();
    server.wait_for_log("UNPROTECTED");
    server.stop();
    let text = Setup::new(&data).production().refused();
    assert!(text.contains("--dev"), "{text}");
    // It is logged at every start.
    std::fs::write(dir.path().join("data.log"), "").unwrap();
    Setup::new(&data).start().wait_for_log("UNPROTECTED");
}

#[test]
fn without_a_kek_and_a_passphrase_the_server_starts_and_says_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(&dir.path().join("data")).production().start();
    server.wait_for_log("keyway kms init");
    let name = "shop".parse().unwrap();
    let refused = server.unix_client().keyspace_create(&name, &[]);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("keyway kms init"), "{text}");
}

#[test]
fn a_directory_or_port_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let text = Setup::new(&server.data).refused();
    assert!(text.contains("in use by process"), "{text}");
    assert!(text.contains(&server.pid().to_string()), "{text}");
    let other = dir.path().join("other");
    for flag in ["--listen", "--metrics"] {
        for address in [
            server.address(),
            server.endpoints["metrics"].as_str().unwrap().into(),
        ] {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keywayd"));
            command
                .args(["--dev", "--shards", "1", "--arena-mib", "16", "--data"])
                .arg(&other);
            let free = if flag == "--listen" {
                "--metrics"
            } else {
                "--listen"
            };
            command.args([flag, address.as_str(), free, "127.0.0.1:0"]);
            let text = refused(command);
            assert!(text.contains(&address) && text.contains(flag), "{text}");
        }
    }
    let key = generate(&server.client(), "prod/alice");
    assert!(
        sign(&server.client(), &key).is_ok(),
        "the first server is undisturbed"
    );
}

/// The side that closes a connection first occupies its port for a minute: at a stop that is the server.
#[test]
fn the_port_is_free_again_at_once_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let listen = |address: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keywayd"));
        command
            .args(["--dev", "--shards", "1", "--arena-mib", "16"])
            .args(["--metrics", "127.0.0.1:0", "--listen", address, "--data"])
            .arg(&data);
        Setup::new(&data).start_as(command)
    };
    // Below the ephemeral ports: no other test can take it between the stop and the start. The shard's own port is the
    // next one.
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    // A concurrent run of the tests on this machine starts its search elsewhere.
    let first = u16::try_from(std::process::id() % 5_000).unwrap();
    let mut ports = (0..5_000).map(|n| 20_000 + 2 * ((first + n) % 5_000));
    let port = ports.find(|port| is_free(*port) && is_free(port + 1));
    let port = port.expect("one of 5,000 pairs of ports is free");
    let address = format!("127.0.0.1:{port}");
    let server = listen(&address);
    let client = server.client();
    let key = generate(&client, "prod/alice");
    assert!(sign(&client, &key).is_ok());
    server.stop();
    let server = listen(&address);
    assert_eq!(server.address(), address);
    assert!(past_the_start(|| sign(&server.client(), &key)).is_ok());
}

#[test]
fn a_listener_beyond_loopback_needs_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    for flag in ["--listen", "--metrics"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keywayd"));
        command.args(["--dev", flag, "0.0.0.0:0", "--data"]);
        command.arg(dir.path().join("data"));
        let text = refused(command);
        assert!(
            text.contains("--listen-beyond-loopback-without-tls"),
            "{text}"
        );
    }
}

#[test]
fn in_production_a_principal_has_what_it_was_granted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (setup, _) = production(dir.path());
    let server = setup.start();
    let owner = server.unix_client();
    owner.keyspace_create(&prod(), &[]).unwrap();
    owner
        .keyspace_create(&"hidden".parse().unwrap(), &[])
        .unwrap();
    let key = generate(&owner, "prod/alice");
    let secret = path("prod/secret");
    let options = KeyOptions {
        exportable: true,
        ..KeyOptions::default()
    };
    owner
        .key_generate(&secret, Algorithm::HmacSha256, options)
        .unwrap();
    assert!(owner.get(&secret, 0).is_ok() && owner.status().is_ok());

    // Without a grant even the keyspace's name is unknown; by its id the answer is the same for existing and missing
    // keys.
    assert!(server.client().keyspace_list().unwrap().is_empty());
    assert!(sign(&server.client(), &key).is_err());
    owner
        .keyspace_set(&prod(), &[("allow:anonymous", "verify")])
        .unwrap();
    let anonymous = server.client();
    let present = sign(&anonymous, &key).unwrap_err();
    let missing = sign(&anonymous, &path("prod/nobody")).unwrap_err();
    assert_eq!(present.status(), Some(Status::Forbidden));
    assert_eq!(present.to_string(), missing.to_string());

    owner
        .keyspace_set(&prod(), &[("allow:anonymous", "sign")])
        .unwrap();
    let check = |anonymous: &Client| {
        let signed = past_the_start(|| sign(anonymous, &key)).unwrap().value;
        let message = Input::Message(MESSAGE);
        let verified = anonymous.verify(&key, Scheme::Default, message, &signed, 0);
        assert_eq!(status(verified), Status::Forbidden);
        assert_eq!(status(anonymous.mac(&secret, MESSAGE)), Status::Forbidden);
        assert_eq!(status(anonymous.get(&secret, 0)), Status::Forbidden);
        assert_eq!(status(anonymous.key_rotate(&key, None)), Status::Forbidden);
        assert_eq!(status(anonymous.key_revoke(&key)), Status::Forbidden);
        assert_eq!(status(anonymous.force_refresh(&key)), Status::Forbidden);
        assert_eq!(status(anonymous.key_list(&prod())), Status::Forbidden);
        let hot = anonymous.keyspace_hot(&prod(), HotBy::Requests, 0);
        assert_eq!(status(hot), Status::Forbidden);
        assert_eq!(status(anonymous.lock(&prod())), Status::Forbidden);
        let unlock = anonymous.unlock(&prod(), UnlockWith::Nothing);
        assert_eq!(status(unlock), Status::Forbidden);
        assert_eq!(
            status(anonymous.keyspace_rotate(&prod())),
            Status::Forbidden
        );
        let local: KmsName = "local".parse().unwrap();
        let rewrap = anonymous.keyspace_rewrap(&prod(), &local);
        assert_eq!(status(rewrap), Status::Forbidden);
        let (count, threshold) = (3, 2);
        let init = anonymous.kms_init(&local, Custody::Shares { count, threshold });
        assert_eq!(status(init), Status::Forbidden);
        let unlock = anonymous.kms_unlock(&local, UnlockWith::Share(b"share"));
        assert_eq!(status(unlock), Status::Forbidden);
        assert_eq!(status(anonymous.status()), Status::Forbidden);
        let set = anonymous.keyspace_set(&prod(), &[("allow:anonymous", "all")]);
        assert_eq!(status(set), Status::Forbidden);
        let create = anonymous.keyspace_create(&"mine".parse().unwrap(), &[]);
        assert_eq!(status(create), Status::Forbidden);
        let import = anonymous.key_import(
            &path("prod/mine"),
            Some(Algorithm::Ed25519),
            KeyOptions::default(),
            KeyFormat::Raw,
            &[1; 32],
        );
        assert_eq!(status(import), Status::Forbidden);
        let names: Vec<_> = anonymous
            .keyspace_list()
            .unwrap()
            .into_iter()
            .map(|info| info.name)
            .collect();
        assert_eq!(names, ["prod"]);
    };
    check(&server.client());
    server.stop();
    let server = setup.start();
    check(&server.client());
    let owner = server.unix_client();
    owner
        .keyspace_set(&prod(), &[("allow:anonymous", "none")])
        .unwrap();
    // A client that knows the keyspace's id from elsewhere only sees that it has no right.
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        client_name: "anonymous",
    };
    assert_eq!(
        ask(&mut stream, &Request::Hello(hello), 0, b"", 0).0,
        Status::Ok
    );
    let public_key = Request::PublicKey { key_version: 0 };
    let [here, missing, nowhere] = [(1, "alice"), (1, "nobody"), (77, "nobody")]
        .map(|(keyspace, key)| ask(&mut stream, &public_key, keyspace, key.as_bytes(), 0));
    assert_eq!(here.0, Status::Forbidden);
    assert_eq!(here, missing);
    assert_eq!(here, nowhere);
    assert!(sign(&server.client(), &key).is_err());
    assert!(sign(&owner, &key).is_ok());
}
