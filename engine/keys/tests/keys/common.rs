//! Vaults, keys and bytes for the tests.

use keyway_keys::{
    Algorithm, Arena, ArenaOptions, Context, Dek, ImportFormat, NewKey, OpenError, ProviderChoice,
    UnlockedKey, Vault, generate_rsa_pkcs8,
};
use std::sync::OnceLock;

pub const NOW: u64 = 1_750_000_000_000;

pub const ALICE: Context<'static> = Context {
    keyspace: 1,
    key_id: b"alice",
};

pub const NEW: NewKey = NewKey {
    usage: None,
    exportable: true,
    not_before_unix_ms: 0,
    not_after_unix_ms: 0,
    now_unix_ms: NOW,
    first_version: 1,
};

/// A vault and a DEK in it.
pub struct Fixture {
    pub vault: Vault,
    pub dek: Dek,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(ProviderChoice::Default)
    }

    pub fn with(choice: ProviderChoice) -> Self {
        let arena = Arena::new(ArenaOptions {
            capacity_bytes: 1 << 20,
            lock: false,
        })
        .unwrap();
        let vault = Vault::new(arena, choice);
        let dek = vault.dek(1, &mut [0x11; 32]).unwrap();
        Self { vault, dek }
    }

    /// The blob of a new key. RSA keys are the same throughout a run: making one takes long.
    pub fn seal(&self, algorithm: Algorithm) -> Vec<u8> {
        if algorithm.is_slow_to_generate() {
            return self.seal_pkcs8(rsa_pkcs8(algorithm));
        }
        self.vault
            .seal_generated(&self.dek, ALICE, algorithm, &NEW)
            .unwrap()
    }

    pub fn seal_pkcs8(&self, document: &[u8]) -> Vec<u8> {
        let format = ImportFormat::Pkcs8Der;
        self.vault
            .seal_imported(&self.dek, ALICE, None, format, document, &NEW)
            .unwrap()
    }

    pub fn seal_raw(&self, algorithm: Algorithm, secret: &[u8]) -> Vec<u8> {
        let algorithm = Some(algorithm);
        self.vault
            .seal_imported(&self.dek, ALICE, algorithm, ImportFormat::Raw, secret, &NEW)
            .unwrap()
    }

    pub fn rotate(&self, blob: &[u8], import: Option<(ImportFormat, &[u8])>) -> (Vec<u8>, u32) {
        self.vault
            .seal_rotated(&self.dek, ALICE, blob, &self.dek, import, NOW + 1)
            .unwrap()
    }

    pub fn open(&self, blob: &[u8]) -> Result<UnlockedKey, OpenError> {
        self.vault.open(&self.dek, ALICE, 0, blob)
    }

    pub fn key(&self, algorithm: Algorithm) -> UnlockedKey {
        self.open(&self.seal(algorithm)).unwrap()
    }

    pub fn raw_key(&self, algorithm: Algorithm, secret: &[u8]) -> UnlockedKey {
        self.open(&self.seal_raw(algorithm, secret)).unwrap()
    }
}

/// An RSA private key of this run.
pub fn rsa_pkcs8(algorithm: Algorithm) -> &'static [u8] {
    static KEYS: [OnceLock<Vec<u8>>; 3] = [const { OnceLock::new() }; 3];
    let index = match algorithm {
        Algorithm::Rsa2048 => 0,
        Algorithm::Rsa3072 => 1,
        _ => 2,
    };
    KEYS[index].get_or_init(|| generate_rsa_pkcs8(algorithm).unwrap().to_vec())
}

/// What `call` appends to its output, which must leave what is there alone.
pub fn output<E: std::fmt::Debug>(
    call: impl FnOnce(&mut Vec<u8>) -> Result<u32, E>,
) -> Result<Vec<u8>, E> {
    let mut out = b"before".to_vec();
    call(&mut out)?;
    assert_eq!(&out[..6], b"before");
    Ok(out.split_off(6))
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
