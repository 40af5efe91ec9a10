//! Using an unlocked key allocates nothing beside the caller's output, for the operations that run
//! on every request. (AWS-LC's own heap is not in view; Ed25519 does not use it.)

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_keys::{
    Algorithm, Arena, ArenaOptions, Context, Input, NewKey, OpError, ProviderChoice, Scheme,
    UnlockedKey, Vault,
};

#[path = "../../../testkit/counting_allocator.rs"]
mod counting_allocator;

#[test]
fn hot_operations_allocate_nothing() {
    type Operate = fn(&UnlockedKey, &mut Vec<u8>) -> Result<u32, OpError>;
    let sign: Operate = |key, out| key.sign(Scheme::Default, Input::Message(b"message"), out);
    let mac: Operate = |key, out| key.mac(b"message", out);
    let encrypt: Operate = |key, out| key.encrypt(b"aad", b"message", out);
    let derive: Operate = |key, out| key.derive(64, b"salt", b"info", out);
    let arena = Arena::new(ArenaOptions {
        capacity_bytes: 1 << 20,
        lock: false,
    })
    .unwrap();
    let vault = Vault::new(arena, ProviderChoice::Default);
    let dek = vault.dek(1, &mut [7; 32]).unwrap();
    let context = Context {
        keyspace: 1,
        key_id: b"alice",
    };
    let new = NewKey {
        usage: None,
        exportable: false,
        not_before_unix_ms: 0,
        not_after_unix_ms: 0,
        now_unix_ms: 1,
        first_version: 1,
    };
    for (algorithm, operate) in [
        (Algorithm::Ed25519, sign),
        (Algorithm::EcdsaP256, sign),
        (Algorithm::HmacSha256, mac),
        (Algorithm::HmacSha512, mac),
        (Algorithm::Aes256Gcm, encrypt),
        (Algorithm::ChaCha20Poly1305, encrypt),
        (Algorithm::HkdfSha256, derive),
    ] {
        let blob = vault
            .seal_generated(&dek, context, algorithm, &new)
            .unwrap();
        let key = vault.open(&dek, context, 1, &blob).unwrap();
        let mut out = Vec::with_capacity(4096);
        let before = counting_allocator::allocations();
        operate(&key, &mut out).unwrap();
        assert_eq!(counting_allocator::allocations() - before, 0, "{algorithm}");
    }
}
