//! Symmetric keys, imported as a user imports them.

use keyway_keys::{
    Algorithm, Arena, ArenaOptions, Context, Dek, ImportFormat, KeyError, NewKey, OpError,
    ProviderChoice, UnlockedKey, Vault,
};

const ALICE: Context<'static> = Context {
    keyspace: 1,
    key_id: b"alice",
};

const NEW: NewKey = NewKey {
    usage: None,
    exportable: false,
    not_before_unix_ms: 0,
    not_after_unix_ms: 0,
    now_unix_ms: 1_750_000_000_000,
    first_version: 1,
};

/// A vault and a DEK in it.
pub struct Fixture {
    vault: Vault,
    dek: Dek,
}

impl Fixture {
    pub fn with(choice: ProviderChoice) -> Self {
        let arena = Arena::new(ArenaOptions {
            capacity_bytes: 1 << 20,
            lock: false,
        });
        let vault = Vault::new(arena.unwrap(), choice);
        let dek = vault.dek(1, &mut [0x11; 32]).unwrap();
        Self { vault, dek }
    }

    pub fn seal_raw(&self, algorithm: Algorithm, secret: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (algorithm, format) = (Some(algorithm), ImportFormat::Raw);
        self.vault
            .seal_imported(&self.dek, ALICE, algorithm, format, secret, &NEW)
    }

    pub fn raw_key(&self, algorithm: Algorithm, secret: &[u8]) -> UnlockedKey {
        let blob = self.seal_raw(algorithm, secret).unwrap();
        self.vault.open(&self.dek, ALICE, 0, &blob).unwrap()
    }
}

/// What `call` gives.
pub fn output(call: impl FnOnce(&mut Vec<u8>) -> Result<u32, OpError>) -> Result<Vec<u8>, OpError> {
    let mut out = Vec::new();
    call(&mut out).map(|_| out)
}
