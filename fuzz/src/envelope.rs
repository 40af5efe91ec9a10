//! The envelope: nothing opens but a blob that was sealed, byte for byte, and a header that parses
//! has one encoding.
//!
//! The input's first byte chooses: the rest is a blob as it stands, or a script of changes to one
//! of the sealed blobs in `fuzz/blobs`.

use keyway_keys::{
    Arena, ArenaOptions, Context, Dek, Metadata, OpenError, ProviderChoice, UnlockedKey, Vault,
    peek,
};

use crate::script::{self, Script};

/// The fields before the salt, in bytes (`docs/ENVELOPE.md`).
const FIELDS_LEN: usize = 48;

const ALICE: Context<'static> = Context {
    keyspace: 1,
    key_id: b"alice",
};

/// Sealed blobs of alice in keyspace 1 under DEK generation 1, whose bytes are all 0x11: kept, not
/// made, so that an input means the same in every run.
const BLOBS: [&[u8]; 4] = [
    include_bytes!("../blobs/hmac-sha256-two-versions.blob"),
    include_bytes!("../blobs/ed25519.blob"),
    include_bytes!("../blobs/aes-256-gcm.blob"),
    include_bytes!("../blobs/rsa-2048.blob"),
];

struct Fixture {
    vault: Vault,
    dek: Dek,
}

impl Fixture {
    fn new() -> Self {
        let arena = Arena::new(ArenaOptions {
            capacity_bytes: 1 << 20,
            lock: false,
        });
        let vault = Vault::new(arena.expect("there is memory"), ProviderChoice::Default);
        let dek = vault.dek(1, &mut [0x11; 32]);
        let dek = dek.expect("the arena has room for a DEK");
        Self { vault, dek }
    }

    fn open(&self, blob: &[u8]) -> Result<UnlockedKey, OpenError> {
        self.vault.open(&self.dek, ALICE, 0, blob)
    }
}

thread_local! {
    static FIXTURE: Fixture = Fixture::new();
}

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let mode = script.u8();
    let blob = if mode & 1 == 0 {
        script.rest().to_vec()
    } else {
        let which = usize::from(mode >> 1);
        let mut blob = BLOBS[which % BLOBS.len()].to_vec();
        let other = BLOBS[(which / BLOBS.len()) % BLOBS.len()];
        while !script.is_empty() {
            script::edit(&mut script, &mut blob, other);
        }
        blob
    };
    header_is_canonical(&blob);
    FIXTURE.with(|fixture| opens_only_if_sealed(fixture, &blob));
}

fn opens_only_if_sealed(fixture: &Fixture, blob: &[u8]) {
    let used = fixture.vault.arena().usage().used_bytes;
    let opened = fixture.open(blob);
    match &opened {
        Ok(key) => {
            assert!(BLOBS.contains(&blob), "a blob opened that was never sealed");
            let told = peek(blob).expect("what opens can be looked at");
            assert_eq!(told, *key.metadata());
        }
        Err(error) => {
            assert!(!BLOBS.contains(&blob), "a sealed blob was refused: {error}");
            assert!(!error.is_transient(), "the arena is full: {error}");
        }
    }
    drop(opened);
    let left = fixture.vault.arena().usage().used_bytes;
    assert_eq!(left, used, "an opening leaves something in the arena");
}

/// Writes the header's fields again, from what `peek` says of them and as `docs/ENVELOPE.md` has
/// them: the bytes must be those that it read.
fn header_is_canonical(blob: &[u8]) {
    let Ok(Metadata {
        version,
        dek_generation,
        algorithm,
        usage,
        exportable,
        created_unix_ms,
        not_before_unix_ms,
        not_after_unix_ms,
        versions,
    }) = peek(blob)
    else {
        return;
    };
    let key_id_len = blob[21];
    // All formats have these fields; the third has the versions behind them.
    let format = blob[4];
    assert!(matches!(format, 1..=3), "format {format} is none");
    assert_eq!(format == 3, versions.is_some());
    let mut again = [&b"KWYB"[..], &[format, 1]].concat();
    again.extend_from_slice(&u16::from(exportable).to_le_bytes());
    // The keyspace is no metadata: any but 0 is accepted as it stands.
    assert_ne!(blob[8..12], [0; 4], "keyspaces begin at 1");
    again.extend_from_slice(&blob[8..12]);
    again.extend_from_slice(&version.to_le_bytes());
    again.extend_from_slice(&dek_generation.to_le_bytes());
    again.extend_from_slice(&[algorithm.id(), key_id_len]);
    again.extend_from_slice(&usage.bits().to_le_bytes());
    again.extend_from_slice(&created_unix_ms.to_le_bytes());
    again.extend_from_slice(&not_before_unix_ms.to_le_bytes());
    again.extend_from_slice(&not_after_unix_ms.to_le_bytes());
    assert_eq!(again, blob[..FIELDS_LEN], "the header has another encoding");
    let payload_len = u32::from_le_bytes([blob[112], blob[113], blob[114], blob[115]]);
    let versions_len = versions.map_or(0, |versions| {
        let again = [
            &versions.oldest.to_le_bytes()[..],
            &versions.revoked.to_le_bytes(),
        ];
        assert_eq!(
            again.concat(),
            blob[116..136],
            "the versions have another encoding"
        );
        20
    });
    let len = 116 + versions_len + usize::from(key_id_len) + payload_len as usize + 16;
    assert_eq!(len, blob.len(), "the lengths of the header disagree");
}
