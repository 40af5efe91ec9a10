//! Computes the expected results of a server when the secret is known.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::Algorithm;
use keyway_keys::{
    Arena, ArenaOptions, Context, Dek, ImportFormat, Input, NewKey, ProviderChoice, Scheme,
    UnlockedKey, Vault,
};

/// The crates below the server, used as a library.
pub struct Library {
    vault: Vault,
    dek: Dek,
}

impl Library {
    /// Creates one with its own arena.
    pub fn new() -> Library {
        let options = ArenaOptions {
            capacity_bytes: 1 << 20,
            lock: false,
        };
        let vault = Vault::new(Arena::new(options).unwrap(), ProviderChoice::Default);
        let dek = vault.dek(1, &mut [1; 32]).unwrap();
        Library { vault, dek }
    }

    /// Returns the signature of an Ed25519 key, or the MAC of an HMAC key: both have one correct result.
    pub fn sign_or_mac(
        &self,
        algorithm: Algorithm,
        format: ImportFormat,
        secret: &[u8],
        message: &[u8],
    ) -> Vec<u8> {
        let key = self.key(algorithm, format, secret);
        let mut out = Vec::new();
        match algorithm {
            Algorithm::Ed25519 => key
                .sign(Scheme::Default, Input::Message(message), &mut out)
                .unwrap(),
            _ => key.mac(message, &mut out).unwrap(),
        };
        out
    }

    /// Returns the public key that belongs to a private one, as DER.
    pub fn public_key(&self, algorithm: Algorithm, format: ImportFormat, secret: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let key = self.key(algorithm, format, secret);
        key.public_key(0, &mut out).unwrap();
        out
    }

    fn key(&self, algorithm: Algorithm, format: ImportFormat, secret: &[u8]) -> UnlockedKey {
        let context = Context {
            keyspace: 1,
            key_id: b"reference",
        };
        let new = NewKey {
            usage: None,
            exportable: false,
            not_before_unix_ms: 0,
            not_after_unix_ms: 0,
            now_unix_ms: 1,
            first_version: 1,
        };
        let id = keyway_keys::Algorithm::from_id(algorithm.code());
        let blob = self
            .vault
            .seal_imported(&self.dek, context, id, format, secret, &new)
            .unwrap();
        self.vault.open(&self.dek, context, 1, &blob).unwrap()
    }
}
