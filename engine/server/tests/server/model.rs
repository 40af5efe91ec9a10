//! Random operations have the same results with a live server, over the wire, and with the reference that the shard
//! itself is compared with.
//!
//! Each operation takes one of two paths: to the shard that owns the key, or through shard 0, which forwards what it does
//! not own. A result with one correct value (a MAC, an Ed25519 signature, a public key, a secret) is compared with it,
//! the rest is verified or opened again.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::common::{Server, patient_client};
use crate::library::Library;
use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Error, Input, KeyFormat, KeyOptions, KeyPath, KeyState, KeyspaceName, Scheme,
    Status, UnlockState, UnlockWith,
};
use keyway_keys::ImportFormat;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use reference::{Answer, Reference, Terms};

#[path = "../../../core/tests/model/reference.rs"]
mod reference;

const CASES: u32 = 250;
const STEPS_MAX: usize = 80;
/// Each attempt at a smaller case is a run against the server.
const SHRINK_STEPS_MAX: u32 = 300;
/// Keyspaces that a server has at most: each case has its own.
const KEYSPACES_MAX: u32 = 1_024;
const _: () = assert!(CASES + SHRINK_STEPS_MAX < KEYSPACES_MAX);
const MESSAGE: &[u8] = b"pay 5 to bob";
/// By key.
const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Ed25519,
    Algorithm::HmacSha256,
    Algorithm::Aes256Gcm,
    Algorithm::EcdsaP256,
];

#[derive(Clone, Copy, Debug)]
enum Way {
    ToTheOwner,
    Forwarded,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Generate,
    Import,
    Rotate,
    RotateWith,
    Revoke,
    /// Signs, computes a MAC or encrypts.
    Use,
    /// Verifies or opens the result of an earlier use, or a modified one.
    Check {
        uses_ago: usize,
        broken: bool,
    },
    PublicKey {
        versions_ago: u32,
    },
    Get {
        versions_ago: u32,
    },
    ForceRefresh,
    Lock,
    Unlock,
    List,
}

fn operation() -> impl Strategy<Value = Operation> {
    let ago = || prop_oneof![3 => Just(0), 2 => 1..10_u32];
    prop_oneof![
        7 => Just(Operation::Generate),
        6 => Just(Operation::Import),
        3 => Just(Operation::Rotate),
        3 => Just(Operation::RotateWith),
        1 => Just(Operation::Revoke),
        8 => Just(Operation::Use),
        6 => (0..4_usize, prop::bool::weighted(0.2))
            .prop_map(|(uses_ago, broken)| Operation::Check { uses_ago, broken }),
        3 => ago().prop_map(|versions_ago| Operation::PublicKey { versions_ago }),
        3 => ago().prop_map(|versions_ago| Operation::Get { versions_ago }),
        3 => Just(Operation::ForceRefresh),
        1 => Just(Operation::Lock),
        4 => Just(Operation::Unlock),
        1 => Just(Operation::List),
    ]
}

fn step() -> impl Strategy<Value = (u8, Way, Operation)> {
    let way = prop_oneof![Just(Way::ToTheOwner), Just(Way::Forwarded)];
    (0..ALGORITHMS.len() as u8, way, operation())
}

#[test]
fn a_live_server_answers_as_the_reference_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    // The sockets of the single shards have no such name, so that shard 0 has to forward.
    let lone = dir.path().join("lone.sock");
    std::os::unix::fs::symlink(server.endpoints["unix"].as_str().unwrap(), &lone).unwrap();
    let forwarding = patient_client(&format!("unix:{}", lone.display()));
    let (to_the_owner, library) = (server.client(), Library::new());
    let cases = Cell::new(0);
    let forwarded = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: CASES,
        max_shrink_iters: SHRINK_STEPS_MAX,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&prop::collection::vec(step(), 1..STEPS_MAX), |steps| {
        cases.set(cases.get() + 1);
        let keyspace = format!("model-{}", cases.get());
        let keyspace: KeyspaceName = keyspace.parse().unwrap();
        to_the_owner.keyspace_create(&keyspace, &[]).unwrap();
        let mut case = Case {
            clients: [&to_the_owner, &forwarding],
            library: &library,
            keyspace,
            reference: Reference::new(TERMS),
            made: BTreeMap::new(),
            secrets: BTreeMap::new(),
            serial: 0,
            forwarded: &forwarded,
        };
        for (step, (key, way, operation)) in steps.into_iter().enumerate() {
            println!("step {step}: key {key}, {way:?}, {operation:?}");
            case.carry_out(key, way, operation);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}\n{}", server.log()));
    println!("{} answers were forwarded", forwarded.get());
    assert!(forwarded.get() > CASES, "the other way was hardly taken");
}

/// No time passes for the reference: the server's keys stay fresh for longer than the test takes, and the client waits
/// for their loads.
const TERMS: Terms = Terms {
    soft: u64::MAX / 2,
    hard: u64::MAX / 2,
    negative: u64::MAX / 2,
    load: 0,
    wait: 0,
    serve_stale: false,
};

struct Case<'a> {
    clients: [&'a Client; 2],
    library: &'a Library,
    keyspace: KeyspaceName,
    reference: Reference,
    /// What was signed, tagged or encrypted, by key, with the version used.
    made: BTreeMap<u8, Vec<(u32, Vec<u8>)>>,
    /// Secrets by key and version, as returned by `get`.
    secrets: BTreeMap<(u8, u32), Vec<u8>>,
    serial: u8,
    forwarded: &'a Cell<u32>,
}

impl Case<'_> {
    fn carry_out(&mut self, key: u8, way: Way, operation: Operation) {
        let client = self.clients[way as usize];
        let path = self.path(key);
        let algorithm = algorithm(key);
        let options = KeyOptions {
            exportable: true,
            ..KeyOptions::default()
        };
        match operation {
            Operation::Import if has_raw_secrets(key) => {
                let secret = self.new_secret();
                let format = KeyFormat::Raw;
                let got = client.key_import(&path, Some(algorithm), options, format, &secret);
                let expected = self.reference.put(key, true);
                assert_eq!(self.answer(&got), expected);
                self.learn(key, expected, &secret);
            }
            Operation::Generate | Operation::Import => {
                let got = client.key_generate(&path, algorithm, options);
                let expected = self.reference.put(key, true);
                assert_eq!(self.answer(&got), expected);
            }
            Operation::RotateWith if has_raw_secrets(key) => {
                let secret = self.new_secret();
                let got = client.key_rotate(&path, Some((KeyFormat::Raw, &secret)));
                let expected = self.reference.put(key, false);
                assert_eq!(self.answer(&got), expected);
                self.learn(key, expected, &secret);
            }
            Operation::Rotate | Operation::RotateWith => {
                let got = client.key_rotate(&path, None);
                let expected = self.reference.put(key, false);
                assert_eq!(self.answer(&got), expected);
            }
            Operation::Revoke => {
                let expected = self.reference.revoke(key);
                assert_eq!(self.answer(&client.key_revoke(&path)), expected);
            }
            Operation::ForceRefresh => {
                let expected = self.reference.force_refresh(key);
                assert_eq!(self.answer(&client.force_refresh(&path)), expected);
            }
            Operation::Use => self.make(client, key),
            Operation::Check { uses_ago, broken } => self.check(client, key, uses_ago, broken),
            Operation::PublicKey { versions_ago } => self.public_key(client, key, versions_ago),
            Operation::Get { versions_ago } => {
                let version = self.newest(key).saturating_sub(versions_ago);
                self.get(client, key, version);
            }
            Operation::Lock => {
                client.lock(&self.keyspace).unwrap();
                self.reference.lock();
            }
            Operation::Unlock => {
                self.unlock(client);
                self.reference.locked = false;
            }
            Operation::List => self.list(client),
        }
    }

    fn make(&mut self, client: &Client, key: u8) {
        let path = self.path(key);
        let made = match algorithm(key) {
            Algorithm::HmacSha256 => client.mac(&path, MESSAGE),
            Algorithm::Aes256Gcm => client.encrypt(&path, b"", MESSAGE),
            _ => client.sign(&path, Scheme::Default, Input::Message(MESSAGE)),
        };
        let value = made.as_ref().map(|made| made.value.clone());
        let value = value.unwrap_or_default();
        let expected = self.reference.request(key);
        assert_eq!(self.answer(&made), expected);
        let Answer::Version(version) = expected else {
            return;
        };
        if matches!(key, 0 | 1) {
            if !self.secrets.contains_key(&(key, version)) {
                self.get(client, key, version);
            }
            let secret = &self.secrets[&(key, version)];
            let right = self
                .library
                .sign_or_mac(algorithm(key), format_of(key), secret, MESSAGE);
            assert_eq!(value, right, "version {version}");
        }
        self.made.entry(key).or_default().push((version, value));
    }

    fn check(&mut self, client: &Client, key: u8, uses_ago: usize, broken: bool) {
        let made = self.made.get(&key).and_then(|made| {
            let at = made.len().checked_sub(1 + uses_ago)?;
            Some(made[at].clone())
        });
        // With nothing to check, a refusal is expected.
        let (version, value) = made.unwrap_or((0, vec![0; 64]));
        let message = if broken { b"pay 5 to eve" } else { MESSAGE };
        let path = self.path(key);
        let checked = match algorithm(key) {
            Algorithm::HmacSha256 => self.verdict(&client.verify_mac(&path, message, &value)),
            Algorithm::Aes256Gcm => {
                let opened = client.decrypt(&path, if broken { b"other" } else { b"" }, &value);
                if let Ok(opened) = &opened {
                    assert_eq!(&*opened.value, MESSAGE);
                }
                self.verdict(&opened)
            }
            _ => {
                let input = Input::Message(message);
                self.verdict(&client.verify(&path, Scheme::Default, input, &value, 0))
            }
        };
        let expected = match self.reference.request(key) {
            // A ciphertext names its version, a signature or a tag does not.
            Answer::Version(newest) if !is_live(version, newest) => {
                (algorithm(key) == Algorithm::Aes256Gcm).then_some(Answer::NotFound)
            }
            Answer::Version(_) if broken => None,
            Answer::Version(_) => Some(Answer::Version(version)),
            refused => Some(refused),
        };
        assert_eq!(checked, expected, "made with version {version}");
    }

    fn public_key(&mut self, client: &Client, key: u8, versions_ago: u32) {
        let version = self.newest(key).saturating_sub(versions_ago);
        let got = client.public_key(&self.path(key), version);
        let value = got.as_ref().map(|got| got.value.clone());
        match self.reference.request(key) {
            Answer::Version(_) if matches!(key, 1 | 2) => {
                assert_eq!(got.unwrap_err().status(), Some(Status::Unsupported));
            }
            Answer::Version(newest) => {
                let expected = version_of(version, newest);
                assert_eq!(self.answer(&got), expected);
                if let Answer::Version(version) = expected {
                    if !self.secrets.contains_key(&(key, version)) {
                        self.get(client, key, version);
                    }
                    let secret = &self.secrets[&(key, version)];
                    let right = self
                        .library
                        .public_key(algorithm(key), format_of(key), secret);
                    assert_eq!(value.unwrap(), right, "version {version}");
                }
            }
            refused => assert_eq!(self.answer(&got), refused),
        }
    }

    fn get(&mut self, client: &Client, key: u8, version: u32) {
        let got = client.get(&self.path(key), version);
        let value = got.as_ref().map(|got| got.value.to_vec());
        let expected = match self.reference.request(key) {
            Answer::Version(newest) => version_of(version, newest),
            refused => refused,
        };
        assert_eq!(self.answer(&got), expected);
        let (Answer::Version(version), Ok(value)) = (expected, value) else {
            return;
        };
        let known = self
            .secrets
            .entry((key, version))
            .or_insert_with(|| value.clone());
        // Keys imported as raw bytes may be returned wrapped.
        let same = value.windows(known.len()).any(|part| part == *known);
        assert!(same, "version {version} of key {key} has another secret");
        *known = value;
    }

    fn list(&self, client: &Client) {
        let rows = client.key_list(&self.keyspace).unwrap();
        let listed: Vec<_> = rows
            .iter()
            .map(|row| (row.key_id.as_bytes().to_vec(), row.key_version, row.state))
            .collect();
        let stored = self
            .reference
            .keys
            .iter()
            .filter(|(_, key)| key.version > 0);
        let expected: Vec<_> = stored
            .map(|(key, known)| {
                let state = if known.revoked {
                    KeyState::Revoked
                } else {
                    KeyState::Active
                };
                (format!("key-{key}").into_bytes(), known.version, state)
            })
            .collect();
        assert_eq!(listed, expected);
    }

    fn unlock(&self, client: &Client) {
        let ticket = client
            .unlock(&self.keyspace, UnlockWith::Nothing)
            .unwrap()
            .value;
        loop {
            let status = client.unlock_status(&self.keyspace, ticket).unwrap().value;
            match status.state {
                UnlockState::Pending => std::thread::sleep(std::time::Duration::from_millis(1)),
                UnlockState::Done => return,
                UnlockState::Failed | UnlockState::Unknown => panic!("{}", status.message),
            }
        }
    }

    fn path(&self, key: u8) -> KeyPath {
        format!("{}/key-{key}", self.keyspace).parse().unwrap()
    }

    fn newest(&self, key: u8) -> u32 {
        self.reference.keys.get(&key).map_or(0, |key| key.version)
    }

    fn new_secret(&mut self) -> [u8; 32] {
        self.serial += 1;
        [self.serial; 32]
    }

    fn learn(&mut self, key: u8, stored: Answer, secret: &[u8]) {
        // An Ed25519 key's secret is used as returned by `get`.
        if let (Answer::Version(version), 1..) = (stored, key) {
            self.secrets.insert((key, version), secret.to_vec());
        }
    }

    /// As above for something that was checked; `None` if it does not verify.
    fn verdict<T>(&self, result: &Result<keyway_client::Answer<T>, Error>) -> Option<Answer> {
        let status = result.as_ref().err().and_then(Error::status);
        (status != Some(Status::Mismatch)).then(|| self.answer(result))
    }

    /// Converts the server's answer to the reference's.
    fn answer<T>(&self, result: &Result<keyway_client::Answer<T>, Error>) -> Answer {
        let error = match result {
            Ok(answer) => {
                self.forwarded
                    .set(self.forwarded.get() + u32::from(answer.forwarded));
                return match answer.stale {
                    true => Answer::Stale(answer.key_version),
                    false => Answer::Version(answer.key_version),
                };
            }
            Err(error) => error,
        };
        match error.status() {
            Some(Status::NotFound) => Answer::NotFound,
            Some(Status::Invalid) => Answer::Invalid,
            Some(Status::Revoked) => Answer::Revoked,
            Some(Status::NeedsUnlock) => Answer::NeedsUnlock,
            Some(Status::Conflict) => Answer::Conflict,
            Some(Status::Retry) => Answer::Retry,
            _ => panic!("{error}"),
        }
    }
}

fn algorithm(key: u8) -> Algorithm {
    ALGORITHMS[usize::from(key)]
}

/// Returns `true` if any 32 bytes are a secret of the key's kind.
fn has_raw_secrets(key: u8) -> bool {
    algorithm(key) != Algorithm::EcdsaP256
}

/// Returns the format in which `get` returns a key's secret.
fn format_of(key: u8) -> ImportFormat {
    match algorithm(key) {
        Algorithm::Ed25519 | Algorithm::EcdsaP256 => ImportFormat::Pkcs8Der,
        _ => ImportFormat::Raw,
    }
}

fn is_live(version: u32, newest: u32) -> bool {
    (1..=newest).contains(&version)
}

/// Returns the result of a request for one version; 0 is the latest.
fn version_of(version: u32, newest: u32) -> Answer {
    match version {
        0 => Answer::Version(newest),
        _ if is_live(version, newest) => Answer::Version(version),
        _ => Answer::NotFound,
    }
}
