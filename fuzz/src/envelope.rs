//! Blobs: nothing opens but what was sealed.

use keyway_keys::{
    Algorithm, Arena, ArenaOptions, Context, Dek, ImportFormat, NewKey, ProviderChoice, Vault, peek,
};

const NAME: Context<'static> = Context {
    keyspace: 1,
    key_id: b"alice",
};

struct Fixture {
    vault: Vault,
    dek: Dek,
    blobs: Vec<Vec<u8>>,
}

thread_local! {
    static FIXTURE: Fixture = fixture();
}

fn fixture() -> Fixture {
    let arena = Arena::new(ArenaOptions {
        capacity_bytes: 1 << 20,
        lock: false,
    });
    let vault = Vault::new(arena.expect("a small arena"), ProviderChoice::Default);
    let dek = vault.dek(1, &mut [0x11; 32]).expect("the arena has room");
    let new = NewKey {
        usage: None,
        exportable: true,
        not_before_unix_ms: 0,
        not_after_unix_ms: 0,
        now_unix_ms: 1_750_000_000_000,
    };
    let secrets = [
        (Algorithm::Ed25519, 32),
        (Algorithm::HmacSha256, 40),
        (Algorithm::Aes256Gcm, 32),
    ];
    let blobs = secrets.map(|(algorithm, len)| {
        let secret = vec![0x42; len];
        let sealed = vault.seal_imported(
            &dek,
            NAME,
            Some(algorithm),
            ImportFormat::Raw,
            &secret,
            &new,
        );
        sealed.expect("a good secret is sealed")
    });
    Fixture {
        vault,
        dek,
        blobs: blobs.into(),
    }
}

/// `data` is a blob by itself, and a list of edits to a good one: which, then (place, change) in
/// three bytes each, then perhaps a length.
pub fn check(data: &[u8]) {
    FIXTURE.with(|Fixture { vault, dek, blobs }| {
        let opens = |blob: &[u8]| vault.open(dek, NAME, 0, blob).is_ok();
        assert!(!opens(data), "bytes that nobody sealed open");
        let _ = peek(data);
        let Some((which, edits)) = data.split_first() else {
            return;
        };
        let good = &blobs[usize::from(*which) % blobs.len()];
        let mut blob = good.clone();
        let triples = edits.chunks_exact(3);
        let rest = triples.remainder();
        for edit in triples {
            let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % blob.len();
            blob[at] ^= edit[2];
        }
        match *rest {
            [len] => blob.truncate(usize::from(len) % (good.len() + 1)),
            [byte, count] => blob.extend(std::iter::repeat_n(byte, usize::from(count))),
            _ => {}
        }
        assert_eq!(
            opens(&blob),
            blob == *good,
            "a blob opens if it is as it was sealed"
        );
    });
}
