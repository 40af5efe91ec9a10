//! Versions of a key: all of them stay until they are trimmed, and one of them can be revoked.
//!
//! The ninth rotation used to drop version 1 without a word: what it had encrypted could not be
//! decrypted any more.

use crate::common::{ALICE, Fixture, NEW, NOW, output, rsa_pkcs8};
use keyway_keys::{
    Algorithm, Arena, ArenaOptions, Cost, ImportFormat, Input, KeyError, OpError, OpenError,
    ProviderChoice, SECRET_LEN_MAX, Scheme, UnlockedKey, VERSIONS_MAX, Vault,
};

/// Versions of a symmetric key that are promised to fit.
const SYMMETRIC_VERSIONS_MIN: u32 = 64;

fn numbers(key: &UnlockedKey) -> Vec<u32> {
    key.versions().map(|version| version.version).collect()
}

fn rotated(fixture: &Fixture, algorithm: Algorithm, versions: u32) -> Vec<u8> {
    let mut blob = fixture.seal(algorithm);
    for expected in 2..=versions {
        let (next, version) = fixture.rotate(&blob, None);
        assert_eq!(version, expected);
        blob = next;
    }
    blob
}

#[test]
fn every_version_of_a_symmetric_key_stays_usable() {
    let fixture = Fixture::new();
    let mut blob = fixture.seal(Algorithm::ChaCha20Poly1305);
    let mut ciphertexts = Vec::new();
    for version in 1..=SYMMETRIC_VERSIONS_MIN {
        let key = fixture.open(&blob).unwrap();
        ciphertexts.push(output(|out| key.encrypt(b"aad", &version.to_le_bytes(), out)).unwrap());
        blob = fixture.rotate(&blob, None).0;
    }
    let key = fixture.open(&blob).unwrap();
    for (version, ciphertext) in (1..).zip(&ciphertexts) {
        let plaintext = output(|out| key.decrypt(b"aad", ciphertext, out)).unwrap();
        assert_eq!(plaintext, u32::to_le_bytes(version));
        assert_eq!(
            output(|out| key.decrypt(b"other", ciphertext, out)),
            Err(OpError::Mismatch)
        );
    }
}

#[test]
fn sixty_four_versions_of_the_longest_secret_fit() {
    let fixture = Fixture::new();
    let mut blob = fixture.seal_raw(Algorithm::HmacSha512, &[1; SECRET_LEN_MAX]);
    let first = fixture.open(&blob).unwrap();
    let tag = output(|out| first.mac(b"message", out)).unwrap();
    for version in 2..=SYMMETRIC_VERSIONS_MIN {
        let secret = [version as u8; SECRET_LEN_MAX];
        blob = fixture.rotate(&blob, Some((ImportFormat::Raw, &secret))).0;
    }
    let key = fixture.open(&blob).unwrap();
    let message = Input::Message(b"message");
    assert_eq!(key.verify(0, Scheme::Default, message, &tag), Ok(1));
    assert_eq!(key.verify(1, Scheme::Default, message, &tag), Ok(1));
    assert_eq!(key.verify_cost(0, false), Cost::Slow);
    assert_eq!(key.verify_cost(1, false), Cost::Fast);
}

#[test]
fn a_rotation_beyond_what_fits_is_refused_with_the_remedy_and_loses_nothing() {
    for algorithm in [Algorithm::Aes256Gcm, Algorithm::Rsa4096] {
        let fixture = Fixture::new();
        let import = match algorithm {
            Algorithm::Rsa4096 => Some((ImportFormat::Detect, rsa_pkcs8(algorithm))),
            _ => None,
        };
        let mut blob = fixture.seal(algorithm);
        let (dek, vault) = (&fixture.dek, &fixture.vault);
        let refused = loop {
            match vault.seal_rotated(dek, ALICE, &blob, dek, import, NOW) {
                Ok((next, _)) => blob = next,
                Err(error) => break error,
            }
        };
        let message = refused.to_string();
        let KeyError::Versions { count, oldest: 1 } = refused else {
            panic!("{message}")
        };
        assert!(message.contains("keyway key trim"), "{message}");
        let key = fixture.open(&blob).unwrap();
        assert_eq!(numbers(&key), (1..=count as u32).rev().collect::<Vec<_>>());
        assert!(count <= VERSIONS_MAX && count > 8, "{count}");
        // Trimmed, it rotates again, and the numbers go on.
        let trimmed = vault
            .seal_trimmed(dek, ALICE, &blob, dek, 3)
            .unwrap()
            .unwrap();
        let (_, version) = vault
            .seal_rotated(dek, ALICE, &trimmed, dek, import, NOW)
            .unwrap();
        assert_eq!(version, count as u32 + 1);
    }
}

#[test]
fn trimming_removes_the_versions_below_and_never_the_newest() {
    let fixture = Fixture::new();
    let (dek, vault) = (&fixture.dek, &fixture.vault);
    let blob = rotated(&fixture, Algorithm::Aes256Gcm, 5);
    let trim = |blob: &[u8], below| vault.seal_trimmed(dek, ALICE, blob, dek, below);
    let kept = trim(&blob, 3).unwrap().unwrap();
    let key = fixture.open(&kept).unwrap();
    assert_eq!(numbers(&key), [5, 4, 3]);
    assert_eq!(
        output(|out| key.export(2, out)),
        Err(OpError::NoSuchVersion)
    );
    assert_eq!(trim(&kept, 3).unwrap(), None, "nothing is left to trim");
    assert_eq!(trim(&kept, 0).unwrap(), None);
    let refused = trim(&kept, 6).unwrap_err();
    assert!(matches!(refused, KeyError::NewestVersion { newest: 5 }));
    let newest = trim(&kept, 5).unwrap().unwrap();
    assert_eq!(numbers(&fixture.open(&newest).unwrap()), [5]);
}

#[test]
fn a_revoked_version_does_nothing_and_the_others_everything() {
    let fixture = Fixture::new();
    let (dek, vault) = (&fixture.dek, &fixture.vault);
    let revoke = |blob: &[u8], version| {
        let revoked = vault.seal_version_revoked(dek, ALICE, blob, dek, version);
        revoked.map(Option::unwrap)
    };
    let gone = Err(OpError::VersionRevoked);

    let first = fixture.seal(Algorithm::Aes256Gcm);
    let ciphertext =
        output(|out| fixture.open(&first).unwrap().encrypt(b"", b"text", out)).unwrap();
    let blob = fixture.rotate(&fixture.rotate(&first, None).0, None).0;
    let key = fixture.open(&revoke(&blob, 1).unwrap()).unwrap();
    assert_eq!(output(|out| key.decrypt(b"", &ciphertext, out)), gone);
    assert_eq!(output(|out| key.export(1, out)), gone);
    assert!(output(|out| key.export(2, out)).is_ok());
    assert!(key.versions().map(|v| v.revoked).eq([false, false, true]));

    let first = fixture.seal(Algorithm::Ed25519);
    let message = Input::Message(b"message");
    let signature = output(|out| {
        fixture
            .open(&first)
            .unwrap()
            .sign(Scheme::Default, message, out)
    })
    .unwrap();
    let blob = revoke(&fixture.rotate(&first, None).0, 1).unwrap();
    let key = fixture.open(&blob).unwrap();
    let verify = |version| key.verify(version, Scheme::Default, message, &signature);
    assert_eq!(verify(1), Err(OpError::VersionRevoked));
    assert_eq!(verify(0), Err(OpError::Mismatch));
    assert_eq!(output(|out| key.public_key(1, out)), gone);

    // It stays revoked through rotations, a new DEK and trims below it, and frees its material.
    let other = vault.dek(2, &mut [0x22; 32]).unwrap();
    let resealed = vault.reseal(&other, ALICE, &blob, dek).unwrap();
    let key = vault.open(&other, ALICE, 0, &resealed).unwrap();
    assert_eq!(output(|out| key.public_key(1, out)), gone);
    assert!(blob.len() < fixture.rotate(&first, None).0.len());
}

#[test]
fn revoking_the_newest_version_or_one_that_is_not_there_is_refused() {
    let fixture = Fixture::new();
    let (dek, vault) = (&fixture.dek, &fixture.vault);
    let blob = rotated(&fixture, Algorithm::HmacSha256, 3);
    let revoke = |blob: &[u8], version| vault.seal_version_revoked(dek, ALICE, blob, dek, version);
    let newest = revoke(&blob, 3).unwrap_err();
    assert!(newest.to_string().contains("rotate first"), "{newest}");
    assert!(matches!(revoke(&blob, 4), Err(KeyError::NoSuchVersion(4))));
    let once = revoke(&blob, 2).unwrap().unwrap();
    assert_eq!(revoke(&once, 2).unwrap(), None, "it is revoked already");
}

#[test]
fn a_key_may_begin_at_a_later_version() {
    let fixture = Fixture::new();
    let new = keyway_keys::NewKey {
        first_version: 7,
        ..NEW
    };
    let blob = fixture
        .vault
        .seal_generated(&fixture.dek, ALICE, Algorithm::Ed25519, &new)
        .unwrap();
    assert_eq!(fixture.open(&blob).unwrap().metadata().version, 7);
    let older = fixture.vault.open(&fixture.dek, ALICE, 8, &blob);
    assert!(matches!(older, Err(OpenError::OlderVersion { .. })));
}

/// What a listing shows of a key without its DEK.
#[test]
fn the_header_tells_the_versions_that_are_left_and_those_that_are_revoked() {
    let fixture = Fixture::new();
    let (dek, vault) = (&fixture.dek, &fixture.vault);
    let kept = |blob: &[u8]| keyway_keys::peek(blob).unwrap().versions.unwrap();
    let mut blob = rotated(&fixture, Algorithm::Aes256Gcm, 5);
    assert_eq!((kept(&blob).oldest, kept(&blob).revoked), (1, 0));
    for (version, revoked) in [(4, 0b10), (1, 0b1_0010)] {
        let next = vault.seal_version_revoked(dek, ALICE, &blob, dek, version);
        blob = next.unwrap().unwrap();
        assert_eq!((kept(&blob).oldest, kept(&blob).revoked), (1, revoked));
    }
    let trimmed = vault.seal_trimmed(dek, ALICE, &blob, dek, 2);
    blob = trimmed.unwrap().unwrap();
    assert_eq!((kept(&blob).oldest, kept(&blob).revoked), (2, 0b10));
    blob = fixture.rotate(&blob, None).0;
    assert_eq!((kept(&blob).oldest, kept(&blob).revoked), (2, 0b100));
    blob = vault.reseal(dek, ALICE, &blob, dek).unwrap();
    assert_eq!((kept(&blob).oldest, kept(&blob).revoked), (2, 0b100));
}

#[test]
fn a_key_of_as_many_versions_as_fit_tells_each_of_them() {
    let fixture = Fixture::new();
    let (dek, vault) = (&fixture.dek, &fixture.vault);
    let mut blob = rotated(&fixture, Algorithm::Ed25519, VERSIONS_MAX as u32);
    let kept = |blob: &[u8]| keyway_keys::peek(blob).unwrap().versions.unwrap();
    blob = vault
        .seal_version_revoked(dek, ALICE, &blob, dek, 1)
        .unwrap()
        .unwrap();
    assert_eq!((kept(&blob).oldest, kept(&blob).revoked), (1, 1 << 127));
    fixture.open(&blob).unwrap();
}

/// A key with very many versions takes neighbouring spans of the arena; without room for them the
/// error is one that passes.
#[test]
fn a_large_key_in_a_small_arena_is_refused_for_want_of_room_only() {
    let fixture = Fixture::new();
    let mut blob = fixture.seal_raw(Algorithm::HkdfSha256, &[1; SECRET_LEN_MAX]);
    for _ in 1..SYMMETRIC_VERSIONS_MIN {
        blob = fixture
            .rotate(&blob, Some((ImportFormat::Raw, &[2; SECRET_LEN_MAX])))
            .0;
    }
    let arena = Arena::new(ArenaOptions {
        capacity_bytes: 1 << 16,
        lock: false,
    })
    .unwrap();
    let small = Vault::new(arena, ProviderChoice::Default);
    let dek = small.dek(1, &mut [0x11; 32]).unwrap();
    let refused = small.open(&dek, ALICE, 0, &blob).unwrap_err();
    assert!(refused.is_transient(), "{refused}");
}

/// The log may say that versions are revoked of which the blob does not: see `Vault::open_without`.
#[test]
fn versions_that_are_left_out_do_nothing_the_newest_included() {
    let fixture = Fixture::new();
    let (vault, dek) = (&fixture.vault, &fixture.dek);
    let open = |blob: &[u8], revoked: &'static [u32]| {
        let is_revoked = |version| revoked.contains(&version);
        vault
            .open_without(dek, ALICE, 0, blob, &is_revoked)
            .unwrap()
    };
    let out = || Vec::new();
    let blob = fixture.rotate(&fixture.seal(Algorithm::Aes256Gcm), None).0;
    let whole = open(&blob, &[]);
    let mut sealed = Vec::new();
    whole.encrypt(b"", b"text", &mut sealed).unwrap();
    let newest = open(&blob, &[2]);
    let refused = Err(OpError::VersionRevoked);
    assert_eq!(newest.encrypt(b"", b"text", &mut out()), refused);
    assert_eq!(newest.decrypt(b"", &sealed, &mut out()), refused);
    assert!(!newest.needs_reservation());
    assert_eq!(open(&blob, &[1]).decrypt(b"", &sealed, &mut out()), Ok(2));
    for algorithm in Algorithm::ALL {
        let blob = fixture.rotate(&fixture.seal(algorithm), None).0;
        let key = open(&blob, &[2]);
        let revoked: Vec<_> = key.versions().map(|at| at.revoked).collect();
        assert_eq!(revoked, [true, false], "{algorithm}");
        let input = Input::Message(b"text");
        let signed = key.sign(Scheme::Default, input, &mut out());
        let used = [
            signed,
            key.mac(b"text", &mut out()),
            key.encrypt(b"", b"text", &mut out()),
            key.derive(32, b"", b"", &mut out()),
            key.public_key(0, &mut out()),
            key.public_key(2, &mut out()),
        ];
        for result in used {
            let is_refused = matches!(
                result,
                Err(OpError::VersionRevoked | OpError::WrongKeyType | OpError::UsageForbidden)
            );
            assert!(is_refused, "{algorithm}: {result:?}");
        }
        let revoked = used.iter().filter(|result| **result == refused).count();
        assert!(revoked > 0, "{algorithm}");
        if algorithm.is_asymmetric() {
            let mut signature = Vec::new();
            let whole = open(&blob, &[]);
            whole.sign(Scheme::Default, input, &mut signature).unwrap();
            let verify = |version| key.verify(version, Scheme::Default, input, &signature);
            assert_eq!(verify(0), Err(OpError::Mismatch), "{algorithm}");
            assert_eq!(verify(2), refused);
            assert!(key.public_key(1, &mut out()).is_ok());
        }
    }
}
