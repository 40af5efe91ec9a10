//! Blobs that were changed, swapped, rolled back or made up do not open.

use crate::common::{ALICE, Fixture, NEW, NOW, output, unhex};
use keyway_keys::{
    Algorithm, Arena, ArenaOptions, BLOB_LEN_MAX, Context, KeyUsage, Metadata, OpError, OpenError,
    ProviderChoice, Vault, peek,
};
use proptest::prelude::*;

/// A blob of every algorithm, and one with two versions.
fn one_of_each(fixture: &Fixture) -> Vec<Vec<u8>> {
    let mut blobs: Vec<_> = Algorithm::ALL
        .map(|algorithm| fixture.seal(algorithm))
        .into();
    blobs.push(fixture.rotate(&fixture.seal(Algorithm::Ed25519), None).0);
    blobs
}

#[test]
fn every_flipped_bit_is_refused() {
    let fixture = Fixture::new();
    for blob in one_of_each(&fixture) {
        assert!(fixture.open(&blob).is_ok());
        let algorithm = peek(&blob).unwrap().algorithm;
        let mut changed = blob.clone();
        for bit in 0..blob.len() * 8 {
            changed[bit / 8] ^= 1 << (bit % 8);
            let refused = fixture.open(&changed).is_err();
            assert!(refused, "bit {bit} of {algorithm} is not covered");
            changed[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(changed, blob);
    }
}

#[test]
fn truncated_and_extended_blobs_are_refused() {
    let fixture = Fixture::new();
    for mut blob in one_of_each(&fixture) {
        for len in 0..blob.len() {
            let refused = fixture.open(&blob[..len]);
            assert!(matches!(refused, Err(OpenError::Malformed(_))), "{len}");
        }
        for extra in [0, 0xff].into_iter().cycle().take(64) {
            blob.push(extra);
            let refused = fixture.open(&blob);
            assert!(matches!(refused, Err(OpenError::Malformed(_))));
        }
    }
}

#[test]
fn a_blob_opens_under_its_own_name_only() {
    let fixture = Fixture::new();
    let blob = fixture.seal(Algorithm::Ed25519);
    let open = |keyspace, key_id| {
        let context = Context { keyspace, key_id };
        fixture.vault.open(&fixture.dek, context, 0, &blob)
    };
    assert!(matches!(
        open(2, b"alice"),
        Err(OpenError::WrongKeyspace {
            found: 1,
            expected: 2
        })
    ));
    for key_id in [&b"alicf"[..], b"alic", b"alice2", b""] {
        assert!(matches!(open(1, key_id), Err(OpenError::WrongKeyId)));
    }
}

#[test]
fn a_renamed_blob_is_refused_although_the_name_fits() {
    let fixture = Fixture::new();
    let mut blob = fixture.seal(Algorithm::Ed25519);
    let at = blob.windows(5).position(|w| w == b"alice").unwrap();
    blob[at..at + 5].copy_from_slice(b"carol");
    let context = Context {
        keyspace: 1,
        key_id: b"carol",
    };
    let refused = fixture.vault.open(&fixture.dek, context, 0, &blob);
    assert!(matches!(refused, Err(OpenError::Corrupt)));
}

#[test]
fn parts_of_two_blobs_do_not_make_a_third() {
    let fixture = Fixture::new();
    let (one, two) = (
        fixture.seal(Algorithm::Aes256Gcm),
        fixture.seal(Algorithm::Aes256Gcm),
    );
    assert_eq!(one.len(), two.len());
    // The header's fields end at 48, 80, 112, 116, 120 and 136; the key id at 141.
    for cut in [48, 80, 112, 116, 120, 141, one.len() - 16] {
        let mixed = [&one[..cut], &two[cut..]].concat();
        if mixed != one && mixed != two {
            assert!(fixture.open(&mixed).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn an_older_version_is_refused_and_a_newer_one_is_not() {
    let fixture = Fixture::new();
    let first = fixture.seal(Algorithm::Ed25519);
    let (second, _) = fixture.rotate(&first, None);
    let open = |version, blob| fixture.vault.open(&fixture.dek, ALICE, version, blob);
    assert!(matches!(
        open(2, &first),
        Err(OpenError::OlderVersion {
            found: 1,
            expected: 2
        })
    ));
    assert!(open(1, &first).is_ok());
    assert!(open(1, &second).is_ok());
    assert!(open(2, &second).is_ok());
}

#[test]
fn another_dek_does_not_open_a_blob() {
    let fixture = Fixture::new();
    let blob = fixture.seal(Algorithm::Ed25519);
    let open = |generation, byte| {
        let dek = fixture.vault.dek(generation, &mut [byte; 32]).unwrap();
        fixture.vault.open(&dek, ALICE, 0, &blob).map(drop)
    };
    assert!(open(1, 0x11).is_ok());
    assert!(matches!(open(1, 0x12), Err(OpenError::Commitment)));
    assert!(matches!(
        open(2, 0x11),
        Err(OpenError::OtherDekGeneration {
            found: 1,
            available: 2
        })
    ));
}

#[test]
fn sealing_the_same_key_twice_gives_unrelated_bytes() {
    let fixture = Fixture::new();
    let seal = || fixture.seal_raw(Algorithm::HmacSha256, &[7; 64]);
    let (one, two) = (seal(), seal());
    let equal = one[48..].iter().zip(&two[48..]).filter(|(a, b)| a == b);
    // Payload length, versions, key id and chance.
    assert!(equal.count() < 40);
}

#[test]
fn the_secret_does_not_show_in_the_blob() {
    let fixture = Fixture::new();
    let blob = fixture.seal_raw(Algorithm::HmacSha256, &[7; 64]);
    assert!(!blob.windows(8).any(|window| window == [7; 8]));
}

#[test]
fn a_full_arena_is_a_passing_error_and_leaks_nothing() {
    let arena = Arena::new(ArenaOptions {
        capacity_bytes: 1 << 18,
        lock: false,
    })
    .unwrap();
    let vault = Vault::new(arena, ProviderChoice::Default);
    let dek = vault.dek(1, &mut [1; 32]).unwrap();
    let used = vault.arena().usage().used_bytes;
    let secret = [7; 1024];
    let (algorithm, format) = (Some(Algorithm::HmacSha512), keyway_keys::ImportFormat::Raw);
    let blob = vault
        .seal_imported(&dek, ALICE, algorithm, format, &secret, &NEW)
        .unwrap();
    let mut keys = Vec::new();
    let error = loop {
        match vault.open(&dek, ALICE, 0, &blob) {
            Ok(key) => keys.push(key),
            Err(error) => break error,
        }
    };
    assert!(error.is_transient(), "{error}");
    assert!(!keys.is_empty());
    keys.pop();
    assert!(vault.open(&dek, ALICE, 0, &blob).is_ok());
    keys.clear();
    assert_eq!(vault.arena().usage().used_bytes, used);
}

#[test]
fn the_longest_blob_stays_within_the_named_limit() {
    let fixture = Fixture::new();
    let mut blob = fixture.seal(Algorithm::Rsa4096);
    let document = crate::common::rsa_pkcs8(Algorithm::Rsa4096);
    let import = Some((keyway_keys::ImportFormat::Pkcs8Der, document));
    while let Ok((rotated, _)) =
        fixture
            .vault
            .seal_rotated(&fixture.dek, ALICE, &blob, &fixture.dek, import, NOW)
    {
        blob = rotated;
    }
    assert!(blob.len() <= BLOB_LEN_MAX, "{}", blob.len());
}

/// Sealed once and kept: what is at rest today must open with every later build.
#[test]
fn a_blob_of_format_1_still_opens() {
    let blob = unhex(include_str!("format-1.blob.hex"));
    let fixture = Fixture::new();
    let key = fixture.open(&blob).unwrap();
    assert_eq!(
        *key.metadata(),
        Metadata {
            version: 2,
            dek_generation: 1,
            algorithm: Algorithm::HmacSha256,
            usage: KeyUsage::MAC,
            exportable: true,
            created_unix_ms: NOW + 1,
            not_before_unix_ms: 0,
            not_after_unix_ms: 0,
            versions: None,
        }
    );
    assert_eq!(output(|out| key.export(1, out)).unwrap(), [7; 32]);
    assert_eq!(output(|out| key.export(2, out)).unwrap(), [8; 48]);
}

/// Format 2 has a version that is revoked.
#[test]
fn a_blob_of_format_2_still_opens() {
    let blob = unhex(include_str!("format-2.blob.hex"));
    let fixture = Fixture::new();
    let key = fixture.open(&blob).unwrap();
    assert_eq!(key.metadata().version, 3);
    assert_eq!(output(|out| key.export(1, out)).unwrap(), [7; 32]);
    let revoked = output(|out| key.export(2, out));
    assert_eq!(revoked, Err(OpError::VersionRevoked));
    assert_eq!(output(|out| key.export(3, out)).unwrap(), [9; 16]);
}

/// Format 3 tells in its header which versions there are.
#[test]
fn a_blob_of_format_3_still_opens() {
    let blob = unhex(include_str!("format-3.blob.hex"));
    let versions = peek(&blob).unwrap().versions.unwrap();
    assert_eq!((versions.oldest, versions.revoked), (1, 0b10));
    let key = Fixture::new().open(&blob).unwrap();
    let numbers = key.versions().map(|info| (info.version, info.revoked));
    assert!(numbers.eq([(3, false), (2, true), (1, false)]));
}

/// A blob of format 1, read as docs/ENVELOPE.md describes it, without this crate.
#[test]
fn a_blob_can_be_read_from_its_description_alone() {
    use ring::{aead, hkdf};
    let blob = unhex(include_str!("format-1.blob.hex"));
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &blob[48..80]).extract(&[0x11; 32]);
    let mut commitment = [0; 32];
    prk.expand(&[b"keyway blob v1 key commitment"], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut commitment))
        .unwrap();
    assert_eq!(blob[80..112], commitment);
    let info = [&b"keyway blob v1 encryption key"[..]];
    let okm = prk.expand(&info, &aead::AES_256_GCM).unwrap();
    let key = aead::LessSafeKey::new(aead::UnboundKey::from(okm));
    let (header, sealed) = blob.split_at(116 + b"alice".len());
    let mut sealed = sealed.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    let payload = key
        .open_in_place(nonce, aead::Aad::from(header), &mut sealed)
        .unwrap();
    let expected = [
        &[2, 0, 0, 0][..],
        &[2, 0, 0, 0, 48, 0, 0, 0],
        &(NOW + 1).to_le_bytes(),
        &[8; 48],
        &[1, 0, 0, 0, 32, 0, 0, 0],
        &NOW.to_le_bytes(),
        &[7; 32],
    ];
    assert_eq!(payload, expected.concat());
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let fixture = Fixture::new();
        prop_assert!(fixture.open(&bytes).is_err());
        let _ = peek(&bytes);
    }

    /// Random bytes rarely get past the magic number; these get further.
    #[test]
    fn a_good_blob_with_random_stretches_is_refused_without_a_panic(
        start in 0..300_usize,
        noise in prop::collection::vec(any::<u8>(), 1..40),
        tail in any::<prop::sample::Index>(),
    ) {
        let fixture = Fixture::new();
        let blob = fixture.seal(Algorithm::HmacSha384);
        let mut changed = blob.clone();
        for (at, byte) in (start..).zip(&noise) {
            if let Some(place) = changed.get_mut(at) {
                *place = *byte;
            }
        }
        if changed != blob {
            prop_assert!(fixture.open(&changed).is_err());
        }
        changed.truncate(tail.index(changed.len()));
        prop_assert!(fixture.open(&changed).is_err());
    }
}
