//! docs/PROTOCOL.md compared with the live server: the statuses of each operation, what works while a keyspace is locked,
//! settings and grants. The requests are written from that page alone.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, KeyOptions, KeyPath};
use keyway_protocol::{Grants, Octets, Opcode, RequestFrame, Scope, Status};

use crate::common::{Server, Setup, WITHIN, prod, wait_until};
use crate::hostile::Raw;

/// By operation: statuses.
type Table = BTreeMap<String, BTreeSet<String>>;

const EVERY: [Status; 6] = [
    Status::Ok,
    Status::BadRequest,
    Status::Unsupported,
    Status::Overloaded,
    Status::DeadlineExceeded,
    Status::Internal,
];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/PROTOCOL.md");
    std::fs::read_to_string(path).unwrap()
}

/// Returns the rows below a line of the page: their cells.
fn rows(page: &str, head: &str) -> Vec<Vec<String>> {
    let (_, rest) = page
        .split_once(head)
        .unwrap_or_else(|| panic!("{head} is not there"));
    let rows = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        row.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    rows.map(cells).collect()
}

/// Parses a table of operations, possibly several in a row, and statuses.
fn table(page: &str, head: &str) -> Table {
    let list = |cell: &str| -> Vec<String> {
        let words = cell.split(',').map(|word| word.trim().to_owned());
        words.filter(|word| !word.is_empty()).collect()
    };
    let mut table = Table::new();
    for row in rows(page, head) {
        for operation in list(&row[0]) {
            let statuses = list(&row[1]).into_iter().collect();
            let twice = table.insert(operation.clone(), statuses);
            assert_eq!(twice, None, "{operation} is there twice");
        }
    }
    table
}

fn upper(name: &str) -> String {
    name.to_ascii_uppercase()
}

/// Returns a valid payload, and the key it is for.
fn request(opcode: Opcode) -> (&'static str, Vec<u8>) {
    let zeros = |count| vec![0; count];
    match opcode {
        Opcode::Hello => ("", vec![1, 1, 0, 0, 0]),
        Opcode::Ping => ("", b"there?".to_vec()),
        Opcode::Sign => ("signer", [&[0; 4], &b"message"[..]].concat()),
        // Of 64 bytes, but not a signature of it.
        Opcode::Verify => (
            "signer",
            [&[0, 0, 64, 0, 0, 0, 0, 0][..], &[7; 64], b"message"].concat(),
        ),
        Opcode::Mac => ("tagger", b"message".to_vec()),
        Opcode::Encrypt => ("sealer", [&[0; 4], &b"message"[..]].concat()),
        Opcode::Decrypt => (
            "sealer",
            [&[0, 0, 0, 0, 1, 0, 0, 0], &[7; 12 + 20][..]].concat(),
        ),
        Opcode::Derive => ("deriver", vec![32, 0, 0, 0]),
        Opcode::PublicKey | Opcode::Get => ("signer", zeros(4)),
        Opcode::KeyspaceCreate => ("", b"made\n".to_vec()),
        Opcode::KeyspaceSet => ("", b"max_in_flight=65\n".to_vec()),
        Opcode::KeyspaceRewrap | Opcode::KmsLock => ("", b"local".to_vec()),
        Opcode::KeyspaceHot | Opcode::KeyList => ("", zeros(4)),
        Opcode::KeyGenerate => ("generated", [&[1][..], &zeros(11)].concat()),
        Opcode::KeyImport => (
            "imported",
            [&[1], &zeros(11)[..], &[3, 0, 0, 0], &[7; 32]].concat(),
        ),
        Opcode::KeyRotate | Opcode::ForceRefresh => ("signer", Vec::new()),
        Opcode::KeyRevoke | Opcode::KeyDelete => ("revoked", Vec::new()),
        Opcode::KeyTrim => ("signer", vec![1, 0, 0, 0]),
        Opcode::Unlock => ("", vec![0, 0]),
        Opcode::UnlockStatus => ("", vec![1, 0, 0, 0, 0, 0, 0, 0]),
        Opcode::KmsInit => ("", [&[3, 2, 5], &b"local"[..]].concat()),
        Opcode::KmsUnlock => ("", [&[0, 0, 5], &b"local"[..]].concat()),
        _ => ("", Vec::new()),
    }
}

/// A connection that sends requests, and records the statuses.
struct Asker {
    raw: Raw,
    seen: Table,
}

impl Asker {
    fn at(server: &Server) -> Asker {
        let raw = Raw::greeted(&server.address());
        let seen = Table::new();
        Asker { raw, seen }
    }

    fn ask(
        &mut self,
        opcode: Opcode,
        keyspace: u32,
        key: &str,
        payload: &[u8],
        deadline_us: u32,
    ) -> Status {
        let (keyspace, key) = match opcode.scope() {
            Scope::Server => (0, ""),
            Scope::Keyspace => (keyspace, ""),
            Scope::Key => (keyspace, key),
        };
        let frame = RequestFrame {
            code: opcode.code(),
            request_id: 2,
            keyspace_id: keyspace,
            deadline_us,
            key_id: Octets(key.as_bytes()),
            payload: Octets(payload),
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        let (_, status, _) = self.raw.ask(&bytes);
        let seen = self.seen.entry(upper(opcode.name())).or_default();
        seen.insert(upper(status.name()));
        status
    }

    /// Repeats a request until the key's load is no longer waited for.
    fn ask_until_settled(
        &mut self,
        opcode: Opcode,
        keyspace: u32,
        key: &str,
        payload: &[u8],
    ) -> Status {
        let mut status = Status::Retry;
        wait_until("an answer that is none to wait for", WITHIN, || {
            status = self.ask(opcode, keyspace, key, payload, 0);
            !matches!(
                status,
                Status::Retry | Status::Unavailable | Status::Overloaded
            )
        });
        status
    }
}

fn make_keys(client: &Client) {
    let keys = [
        ("signer", Algorithm::Ed25519),
        ("tagger", Algorithm::HmacSha256),
        ("sealer", Algorithm::Aes256Gcm),
        ("deriver", Algorithm::HkdfSha256),
        ("revoked", Algorithm::Ed25519),
    ];
    for keyspace in ["prod", "shut"] {
        for (key, algorithm) in keys {
            let key: KeyPath = format!("{keyspace}/{key}").parse().unwrap();
            client
                .key_generate(&key, algorithm, KeyOptions::default())
                .unwrap();
        }
    }
}

#[test]
fn every_status_that_an_operation_gives_is_in_its_row() {
    let allowed = table(&page(), "| operation | statuses |");
    let locked = table(&page(), "| operation | while locked |");
    let operations: BTreeSet<String> = Opcode::ALL
        .iter()
        .map(|opcode| upper(opcode.name()))
        .collect();
    assert_eq!(allowed.keys().cloned().collect::<BTreeSet<_>>(), operations);
    let statuses: BTreeSet<String> = Status::ALL
        .iter()
        .map(|status| upper(status.name()))
        .collect();
    for (operation, row) in allowed.iter().chain(&locked) {
        assert!(row.is_subset(&statuses), "{operation}: {row:?}");
        assert!(operations.contains(operation), "{operation}");
    }

    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let shut = client
        .keyspace_create(&"shut".parse().unwrap(), &[])
        .unwrap()
        .value;
    make_keys(&client);
    client.key_revoke(&"prod/revoked".parse().unwrap()).unwrap();
    client.lock(&"shut".parse().unwrap()).unwrap();
    let mut asker = Asker::at(&server);
    let last = [Opcode::Lock, Opcode::Unlock];
    for opcode in Opcode::ALL.iter().filter(|opcode| !last.contains(opcode)) {
        let (key, payload) = request(*opcode);
        // While locked: exactly what the other table specifies.
        if let Some(row) = locked.get(&upper(opcode.name())) {
            let status = asker.ask_until_settled(*opcode, shut, key, &payload);
            assert_eq!(
                *row,
                BTreeSet::from([upper(status.name())]),
                "{opcode} while locked"
            );
        }
        for key in [key, "nobody", "revoked", "tagger", "signer"] {
            asker.ask_until_settled(*opcode, 1, key, &payload);
        }
        asker.ask(*opcode, 1, key, &payload, 1);
        asker.ask(*opcode, 77, key, &payload, 0);
        // A malformed HELLO ends the connection.
        if *opcode != Opcode::Hello {
            let too_long = [&payload[..], &[0xff; 70]].concat();
            asker.ask(*opcode, 1, key, &too_long, 0);
        }
    }
    for opcode in last {
        let (_, payload) = request(opcode);
        let status = asker.ask(opcode, shut, "", &payload, 0);
        assert_eq!(
            locked[&upper(opcode.name())],
            BTreeSet::from([upper(status.name())])
        );
    }
    let every: BTreeSet<String> = EVERY.iter().map(|status| upper(status.name())).collect();
    for (operation, seen) in &asker.seen {
        let mut row = &allowed[operation] | &every;
        let opcode = Opcode::ALL
            .iter()
            .find(|opcode| upper(opcode.name()) == *operation);
        if opcode.unwrap().scope() != Scope::Server {
            row.extend(["FORBIDDEN", "NO_KEYSPACE"].map(str::to_owned));
        }
        assert!(
            seen.is_subset(&row),
            "{operation} gives {seen:?}, and the page has {row:?}"
        );
    }
    // The requests have covered much: most statuses that need no failing KMS were returned.
    for status in [
        "NEEDS_UNLOCK",
        "NOT_FOUND",
        "REVOKED",
        "MISMATCH",
        "CONFLICT",
        "NO_KEYSPACE",
        "UNSUPPORTED",
    ] {
        let seen = asker.seen.values().any(|seen| seen.contains(status));
        assert!(seen, "{status} was never given");
    }
}

#[test]
fn without_a_grant_the_answer_is_forbidden_whatever_is_there() {
    let allowed = table(&page(), "| operation | statuses |");
    let dir = tempfile::tempdir().unwrap();
    let passphrase = dir.path().join("passphrase");
    std::fs::write(&passphrase, b"correct horse battery").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&passphrase, mode).unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2).production();
    let setup = setup
        .flag("--passphrase-file")
        .flag(passphrase.to_str().unwrap());
    let server = setup.start();
    let owner = server.unix_client();
    owner.keyspace_create(&prod(), &[]).unwrap();
    owner
        .keyspace_create(&"shut".parse().unwrap(), &[])
        .unwrap();
    make_keys(&owner);
    let mut asker = Asker::at(&server);
    for opcode in Opcode::ALL {
        let (key, payload) = request(*opcode);
        let is_forbidden =
            opcode.scope() != Scope::Server || allowed[&upper(opcode.name())].contains("FORBIDDEN");
        let expected = if is_forbidden {
            Status::Forbidden
        } else {
            Status::Ok
        };
        for (keyspace, key) in [(1, key), (1, "nobody"), (77, key)] {
            let status = asker.ask(*opcode, keyspace, key, &payload, 0);
            assert_eq!(status, expected, "{opcode} {keyspace} {key}");
        }
    }
}

#[test]
fn settings_and_grants_are_those_of_the_page() {
    let page = page();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let in_force = || client.keyspace_list().unwrap().remove(0).settings;
    let before = in_force();
    let rows = rows(&page, "| setting | default | values | alias |");
    let names: BTreeSet<String> = rows.iter().map(|row| row[0].replace('`', "")).collect();
    assert_eq!(names, before.keys().cloned().collect());
    for row in &rows {
        let (name, default, alias) = (
            row[0].replace('`', ""),
            row[1].replace('`', ""),
            row[3].replace('`', ""),
        );
        // A setting that follows another one is listed with the value in effect.
        let is_default = default == "auto" || before[&name] == default;
        assert!(is_default, "{name}: {default}, and it is {}", before[&name]);
        let names = [name.as_str(), alias.as_str()];
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            client
                .keyspace_set(&prod(), &[(name, default.as_str())])
                .unwrap();
        }
    }
    assert_eq!(in_force(), before);

    let (_, grants) = page
        .split_once("GRANTS is `all`, `none`, or some of ")
        .unwrap();
    let (grants, _) = grants.split_once(", with commas").unwrap();
    let grants = grants.replace(" and ", ",").replace(['`', ' ', '\n'], "");
    let grants: BTreeSet<&str> = grants
        .split(',')
        .filter(|grant| !grant.is_empty())
        .collect();
    assert_eq!(grants, Grants::ALL.names().collect());
}

/// It was documented, and missing.
#[test]
fn status_shows_the_kms_of_each_keyspace() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    wait_until("the metrics of the KMS", WITHIN, || {
        let status = client.status().unwrap().value;
        let document: serde_json::Value = serde_json::from_str(&status).unwrap();
        document["keyspaces"][0]["kms"] == "local"
    });
}
