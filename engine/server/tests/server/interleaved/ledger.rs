//! The expected state of a key, and whether the server's answers agree with it.

use std::collections::BTreeMap;

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Answer, Error, Input, KeyPath, Scheme, Status};
use keyway_keys::ImportFormat;

use super::World;
use crate::common::{Random, Server, past_the_start};
use crate::library::Library;

pub const MESSAGE: &[u8] = b"what is signed again and again";

/// A key of one worker.
pub struct Key {
    pub path: KeyPath,
    /// The latest version that was acknowledged or seen; 0 for none.
    pub version_min: u32,
    /// The latest version that was requested. More than `version_min`: its outcome is unknown.
    pub version_max: u32,
    pub revoked: bool,
    pub may_be_revoked: bool,
    /// By version, as it was first seen; those of imported keys are known in advance.
    public: BTreeMap<u32, Vec<u8>>,
    signatures: BTreeMap<u32, Vec<u8>>,
}

impl Key {
    /// Creates the state of a key that is about to be created.
    pub fn new(path: KeyPath) -> Key {
        Key {
            path,
            version_min: 0,
            version_max: 1,
            revoked: false,
            may_be_revoked: false,
            public: BTreeMap::new(),
            signatures: BTreeMap::new(),
        }
    }

    /// Returns `true` if the outcome of a write is unknown.
    pub fn is_in_doubt(&self) -> bool {
        self.version_min != self.version_max || self.may_be_revoked != self.revoked
    }

    /// Records that the secret of `version` is `secret`.
    pub fn expect_secret(&mut self, library: &Library, version: u32, secret: &[u8]) {
        let (algorithm, format) = (Algorithm::Ed25519, ImportFormat::Raw);
        let public = library.public_key(algorithm, format, secret);
        let signature = library.sign_or_mac(algorithm, format, secret, MESSAGE);
        self.public.insert(version, public);
        self.signatures.insert(version, signature);
    }

    /// Records that the write in doubt was not done: its version is unknown.
    pub fn forget_newest(&mut self) {
        self.version_max = self.version_min;
        self.public
            .retain(|version, _| *version <= self.version_min);
        self.signatures
            .retain(|version, _| *version <= self.version_min);
    }

    pub fn sign(&self, client: &Client) -> Result<Answer<Vec<u8>>, Error> {
        client.sign(&self.path, Scheme::Default, Input::Message(MESSAGE))
    }

    /// Checks a signature of the server.
    pub fn see_signature(&mut self, answer: &Answer<Vec<u8>>) {
        let (path, version) = (&self.path, answer.key_version);
        assert!(!self.revoked, "{path}: used after its revocation");
        let versions = self.version_min.max(1)..=self.version_max;
        assert!(
            versions.contains(&version),
            "{path}: {version} of {versions:?}"
        );
        let known = self
            .signatures
            .entry(version)
            .or_insert_with(|| answer.value.clone());
        assert_eq!(
            *known, answer.value,
            "{path}: version {version} is another key"
        );
        self.version_min = version;
    }

    /// Checks a public key of the server.
    pub fn see_public(&mut self, version: u32, spki: &[u8]) {
        let known = self.public.entry(version).or_insert_with(|| spki.to_vec());
        assert_eq!(
            known, spki,
            "{}: version {version} is another key",
            self.path
        );
    }

    /// Asserts that the key and all its versions are as acknowledged. Its worker has nothing in flight.
    fn check(&mut self, server: &Server, client: &Client) {
        let path = self.path.clone();
        let used = past_the_start(|| self.sign(client));
        let status = used.as_ref().err().and_then(Error::status);
        match (&used, status) {
            (Ok(answer), _) => {
                self.see_signature(answer);
                self.forget_newest();
                self.may_be_revoked = false;
                let (input, version) = (Input::Message(MESSAGE), answer.key_version);
                let verified = client.verify(&path, Scheme::Default, input, &answer.value, version);
                verified.unwrap_or_else(|error| panic!("{path}, version {version}: {error}"));
            }
            (_, Some(Status::Revoked)) => {
                assert!(self.may_be_revoked, "{path}: it was never revoked");
                self.revoked = true;
                return;
            }
            (_, Some(Status::NotFound)) if self.version_min == 0 => {
                self.version_max = 0;
                return;
            }
            (Err(error), _) => panic!("{path}: {error}; {}", server.log()),
        }
        // None is trimmed: all of them have to be there.
        for version in 1..=self.version_min {
            match client.public_key(&path, version) {
                Ok(answer) => self.see_public(version, &answer.value),
                Err(error) => panic!("{path}, version {version}: {error}; {}", server.log()),
            }
        }
    }
}

/// Checks the keys of all workers, and drops those that were never created. Returns their number.
pub fn check_all(world: &World, server: &Server, client: &Client) -> usize {
    let mut there = 0;
    for keys in &world.keys {
        let mut keys = keys.lock().unwrap();
        keys.iter_mut().for_each(|key| key.check(server, client));
        keys.retain(|key| key.version_max > 0);
        there += keys.len();
    }
    there
}

/// Returns a secret to import.
pub fn secret(random: &mut Random) -> [u8; 32] {
    let mut bytes = [0; 32];
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    bytes
}
