//! What every kind of key does, and what it refuses.

use crate::common::{ALICE, Fixture, NEW, NOW, output, rsa_pkcs8};
use keyway_keys::{
    Algorithm, Context, Cost, ENCRYPTIONS_MAX, ImportFormat, Input, KeyError, KeyOperation,
    KeyUsage, NewKey, OpError, ProviderChoice, Reserving, Scheme, UnlockedKey, UseLedger,
};

const MESSAGE: &[u8] = b"a message of no importance";
const CHOICES: [ProviderChoice; 2] = [ProviderChoice::Default, ProviderChoice::RingOnly];

const SIGNING: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::EcdsaP256,
    Algorithm::EcdsaP384,
    Algorithm::Rsa2048,
    Algorithm::Rsa3072,
    Algorithm::Rsa4096,
];

fn schemes(algorithm: Algorithm) -> Vec<Scheme> {
    use Scheme::*;
    match algorithm {
        Algorithm::Ed25519 => vec![Default, Ed25519],
        Algorithm::EcdsaP256 => vec![Default, EcdsaSha256, EcdsaSha256Jws, DefaultJws],
        Algorithm::EcdsaP384 => vec![Default, EcdsaSha384, EcdsaSha384Jws, DefaultJws],
        _ => [0, 4, 5, 6, 7, 8, 9]
            .into_iter()
            .map(|id| Scheme::from_id(id).unwrap())
            .collect(),
    }
}

/// Schemes whose hash is not that of the key's curve. ring has no call for them.
fn foreign_schemes(algorithm: Algorithm) -> Vec<Scheme> {
    use Scheme::*;
    match algorithm {
        Algorithm::EcdsaP256 => vec![EcdsaSha384, EcdsaSha384Jws, EcdsaSha512, EcdsaSha512Jws],
        Algorithm::EcdsaP384 => vec![EcdsaSha256, EcdsaSha256Jws, EcdsaSha512, EcdsaSha512Jws],
        _ => vec![],
    }
}

fn digest(algorithm: Algorithm, scheme: Scheme) -> Vec<u8> {
    use ring::digest::{SHA256, SHA384, SHA512};
    let hash = match scheme {
        Scheme::DefaultJws if algorithm == Algorithm::EcdsaP384 => &SHA384,
        Scheme::EcdsaSha512 | Scheme::EcdsaSha512Jws => &SHA512,
        Scheme::EcdsaSha384Jws
        | Scheme::EcdsaSha384
        | Scheme::RsaPkcs1Sha384
        | Scheme::RsaPssSha384 => &SHA384,
        Scheme::RsaPkcs1Sha512 | Scheme::RsaPssSha512 => &SHA512,
        _ => &SHA256,
    };
    ring::digest::digest(hash, MESSAGE).as_ref().to_vec()
}

fn sign(key: &UnlockedKey, scheme: Scheme, input: Input<'_>) -> Result<Vec<u8>, OpError> {
    output(|out| key.sign(scheme, input, out))
}

#[test]
fn messages_sign_and_verify_under_every_scheme_and_provider() {
    for algorithm in SIGNING {
        let blob = Fixture::new().seal(algorithm);
        for choice in CHOICES {
            let fixture = Fixture::with(choice);
            let key = fixture.open(&blob).unwrap();
            // What one provider signs, the other's verification takes.
            for other in CHOICES {
                let fixture = Fixture::with(other);
                let verifier = fixture.open(&blob).unwrap();
                for scheme in schemes(algorithm) {
                    let input = Input::Message(MESSAGE);
                    let signature = sign(&key, scheme, input).unwrap();
                    assert_eq!(verifier.verify(0, scheme, input, &signature), Ok(1));
                    let mut wrong = signature.clone();
                    *wrong.last_mut().unwrap() ^= 1;
                    for (input, signature) in [
                        (input, &wrong[..]),
                        (input, &signature[1..]),
                        (input, &[]),
                        (Input::Message(b"another"), &signature[..]),
                    ] {
                        let refused = verifier.verify(0, scheme, input, signature);
                        assert_eq!(refused, Err(OpError::Mismatch), "{algorithm} {scheme:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn ring_alone_refuses_hashes_that_are_not_the_curves() {
    let ring = Fixture::with(ProviderChoice::RingOnly);
    for algorithm in [Algorithm::EcdsaP256, Algorithm::EcdsaP384] {
        let key = ring.key(algorithm);
        for scheme in foreign_schemes(algorithm) {
            let input = Input::Message(MESSAGE);
            for refused in [
                sign(&key, scheme, input).map(drop),
                key.verify(0, scheme, input, &[1; 64]).map(drop),
                key.verify(0, scheme, input, &[1; 96]).map(drop),
            ] {
                let error = refused.unwrap_err();
                assert!(
                    matches!(error, OpError::Unsupported(_) | OpError::Mismatch),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn digests_sign_like_the_message_they_come_from() {
    let fixture = Fixture::new();
    for algorithm in SIGNING.into_iter().filter(|a| *a != Algorithm::Ed25519) {
        let key = fixture.key(algorithm);
        let all = schemes(algorithm).into_iter().skip(1);
        for scheme in all.chain(foreign_schemes(algorithm)) {
            let digest = digest(algorithm, scheme);
            let signature = sign(&key, scheme, Input::Digest(&digest)).unwrap();
            for input in [Input::Digest(&digest), Input::Message(MESSAGE)] {
                assert_eq!(key.verify(0, scheme, input, &signature), Ok(1));
            }
            let of_message = sign(&key, scheme, Input::Message(MESSAGE)).unwrap();
            let input = Input::Digest(&digest);
            assert_eq!(key.verify(0, scheme, input, &of_message), Ok(1));
            let other = vec![7; digest.len()];
            let refused = key.verify(0, scheme, Input::Digest(&other), &signature);
            assert_eq!(refused, Err(OpError::Mismatch));
            for len in [0, digest.len() - 1, digest.len() + 1, 1000] {
                let wrong = vec![7; len];
                let refused = sign(&key, scheme, Input::Digest(&wrong));
                let expected = digest.len();
                let error = OpError::DigestLen {
                    found: len,
                    expected,
                };
                assert_eq!(refused, Err(error));
                let refused = key.verify(0, scheme, Input::Digest(&wrong), &signature);
                assert_eq!(refused, Err(error));
            }
        }
    }
}

#[test]
fn digests_are_unsupported_for_ed25519_and_with_ring_alone() {
    let ring = Fixture::with(ProviderChoice::RingOnly);
    for key in [
        Fixture::new().key(Algorithm::Ed25519),
        ring.key(Algorithm::EcdsaP256),
        ring.open(&ring.seal_pkcs8(rsa_pkcs8(Algorithm::Rsa2048)))
            .unwrap(),
    ] {
        let input = Input::Digest(&[7; 32]);
        let refused = sign(&key, Scheme::Default, input);
        assert!(matches!(refused, Err(OpError::Unsupported(_))));
        let refused = key.verify(0, Scheme::Default, input, &[0; 64]);
        assert!(matches!(refused, Err(OpError::Unsupported(_))));
    }
}

#[test]
fn ring_alone_generates_everything_but_rsa() {
    let fixture = Fixture::with(ProviderChoice::RingOnly);
    for algorithm in Algorithm::ALL {
        let made = fixture
            .vault
            .seal_generated(&fixture.dek, ALICE, algorithm, &NEW);
        if algorithm.is_slow_to_generate() {
            let refused = made.unwrap_err().to_string();
            assert!(refused.contains("import one, or allow AWS-LC"), "{refused}");
            fixture.open(&fixture.seal(algorithm)).unwrap();
        } else {
            assert!(fixture.open(&made.unwrap()).is_ok(), "{algorithm}");
        }
    }
    let fixture = Fixture::with(ProviderChoice::Default);
    let made = fixture
        .vault
        .seal_generated(&fixture.dek, ALICE, Algorithm::Rsa2048, &NEW);
    fixture.open(&made.unwrap()).unwrap();
}

#[test]
fn generated_rsa_keys_sign() {
    let fixture = Fixture::new();
    let algorithm = Algorithm::Rsa2048;
    let made = fixture
        .vault
        .seal_generated(&fixture.dek, ALICE, algorithm, &NEW);
    let key = fixture.open(&made.unwrap()).unwrap();
    let input = Input::Message(MESSAGE);
    let signature = sign(&key, Scheme::Default, input).unwrap();
    assert_eq!(key.verify(0, Scheme::Default, input, &signature), Ok(1));
}

#[test]
fn what_is_encrypted_decrypts_with_the_same_associated_data_only() {
    let fixture = Fixture::new();
    for algorithm in [Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305] {
        let key = fixture.key(algorithm);
        for plaintext in [&b""[..], b"text", &[7; 65536]] {
            let sealed = output(|out| key.encrypt(b"aad", plaintext, out)).unwrap();
            assert_eq!(sealed.len(), 4 + 12 + plaintext.len() + 16);
            assert_eq!(sealed[..4], 1_u32.to_le_bytes());
            let opened = output(|out| key.decrypt(b"aad", &sealed, out)).unwrap();
            assert_eq!(opened, plaintext);
            let refused = output(|out| key.decrypt(b"other", &sealed, out));
            assert_eq!(refused, Err(OpError::Mismatch));
        }
        let sealed = output(|out| key.encrypt(b"", b"text", out)).unwrap();
        for byte in 4..sealed.len() {
            let mut changed = sealed.clone();
            changed[byte] ^= 0x10;
            let refused = output(|out| key.decrypt(b"", &changed, out));
            assert_eq!(refused, Err(OpError::Mismatch), "byte {byte}");
        }
        for len in 0..32 {
            let refused = output(|out| key.decrypt(b"", &sealed[..len], out));
            assert!(matches!(refused, Err(OpError::BadInput(_))), "{len}");
        }
        for version in [0_u32, 2] {
            let mut other = sealed.clone();
            other[..4].copy_from_slice(&version.to_le_bytes());
            let refused = output(|out| key.decrypt(b"", &other, out));
            assert_eq!(refused, Err(OpError::NoSuchVersion));
        }
    }
}

#[test]
fn two_encryptions_of_the_same_differ() {
    let key = Fixture::new().key(Algorithm::Aes256Gcm);
    let once = output(|out| key.encrypt(b"", b"text", out)).unwrap();
    let again = output(|out| key.encrypt(b"", b"text", out)).unwrap();
    assert_ne!(once, again);
}

#[test]
fn encryptions_are_counted_across_openings() {
    let fixture = Fixture::new();
    let blob = fixture.seal(Algorithm::Aes256Gcm);
    let ledger = UseLedger::new();
    for opening in 1..=3 {
        let mut key = fixture.open(&blob).unwrap();
        key.count_uses_in(&ledger, ALICE);
        if opening == 1 {
            let early = key.encrypt(b"", b"text", &mut Vec::new());
            assert_eq!(early, Err(OpError::UsesNotReserved));
            assert!(key.needs_reservation());
            let Reserving::Begun(mut reservation) = ledger.reserve(1, b"alice", 1) else {
                panic!("no other task is reserving")
            };
            assert!(reservation.take_block(None));
            reservation.commit();
        }
        assert!(!key.needs_reservation());
        key.encrypt(b"", b"text", &mut Vec::new()).unwrap();
        let uses = key.uses().unwrap();
        assert_eq!((uses.encryptions, uses.limit), (opening, ENCRYPTIONS_MAX));
    }
    assert_eq!(fixture.key(Algorithm::HmacSha256).uses(), None);
}

#[test]
fn derivation_depends_on_all_its_inputs_and_is_bounded() {
    let key = Fixture::new().key(Algorithm::HkdfSha256);
    let derive = |len, salt, info| output(|out| key.derive(len, salt, info, out));
    let derived = derive(32, b"salt", b"info").unwrap();
    assert_eq!(derive(32, b"salt", b"info").unwrap(), derived);
    assert_ne!(derive(32, b"other", b"info").unwrap(), derived);
    assert_ne!(derive(32, b"salt", b"other").unwrap(), derived);
    assert_eq!(derive(4096, b"", b"").unwrap().len(), 4096);
    for len in [0, 4097, usize::MAX] {
        assert!(matches!(derive(len, b"", b""), Err(OpError::BadInput(_))));
    }
}

#[test]
fn every_key_refuses_what_is_not_its_business() {
    let fixture = Fixture::new();
    for algorithm in Algorithm::ALL {
        let key = fixture.key(algorithm);
        let can = algorithm.usage_default();
        let input = Input::Message(MESSAGE);
        let out = &mut Vec::new();
        let answers = [
            (KeyUsage::SIGN, key.sign(Scheme::Default, input, out)),
            (KeyUsage::MAC, key.mac(MESSAGE, out)),
            (KeyUsage::ENCRYPT, key.encrypt(b"", MESSAGE, out)),
            (KeyUsage::DECRYPT, key.decrypt(b"", &[0; 64], out)),
            (KeyUsage::DERIVE, key.derive(32, b"", b"", out)),
        ];
        for (usage, answer) in answers {
            let refused = answer == Err(OpError::WrongKeyType);
            assert_eq!(refused, !can.contains(usage), "{algorithm} {usage}");
        }
        let verify = key.verify(0, Scheme::Default, input, &[0; 64]);
        let verifies = can.contains(KeyUsage::VERIFY) || can.contains(KeyUsage::MAC);
        assert_eq!(verify == Err(OpError::WrongKeyType), !verifies);
        assert_eq!(key.public_key(0, out).is_ok(), algorithm.is_asymmetric());
    }
}

#[test]
fn usage_limits_what_a_key_does() {
    let fixture = Fixture::new();
    let with = |algorithm, usage| {
        let new = NewKey {
            usage: Some(usage),
            ..NEW
        };
        fixture
            .vault
            .seal_generated(&fixture.dek, ALICE, algorithm, &new)
    };
    let blob = with(Algorithm::Ed25519, KeyUsage::VERIFY).unwrap();
    let key = fixture.open(&blob).unwrap();
    let refused = sign(&key, Scheme::Default, Input::Message(MESSAGE));
    assert_eq!(refused, Err(OpError::UsageForbidden));
    let blob = with(Algorithm::Aes256Gcm, KeyUsage::DECRYPT).unwrap();
    let refused = fixture
        .open(&blob)
        .unwrap()
        .encrypt(b"", b"", &mut Vec::new());
    assert_eq!(refused, Err(OpError::UsageForbidden));
    let refused = with(Algorithm::Ed25519, KeyUsage::ENCRYPT);
    assert!(matches!(refused, Err(KeyError::Metadata(_))));
}

#[test]
fn validity_is_checked_against_the_given_time() {
    let fixture = Fixture::new();
    let make = |not_before_unix_ms, not_after_unix_ms| {
        let new = NewKey {
            not_before_unix_ms,
            not_after_unix_ms,
            ..NEW
        };
        let algorithm = Algorithm::Ed25519;
        fixture
            .vault
            .seal_generated(&fixture.dek, ALICE, algorithm, &new)
    };
    let key = fixture.open(&make(NOW + 10, NOW + 20).unwrap()).unwrap();
    assert_eq!(key.check_time(NOW + 9), Err(OpError::NotYetValid(NOW + 10)));
    assert_eq!(key.check_time(NOW + 10), Ok(()));
    assert_eq!(key.check_time(NOW + 20), Err(OpError::Expired(NOW + 20)));
    assert!(matches!(make(0, NOW), Err(KeyError::NotAfterPassed { .. })));
    let never = make(NOW + 5, NOW + 5);
    assert!(matches!(never, Err(KeyError::Metadata(_))));
    let blob = make(0, NOW + 20).unwrap();
    let late = fixture
        .vault
        .seal_rotated(&fixture.dek, ALICE, &blob, &fixture.dek, None, NOW + 20);
    assert!(matches!(late, Err(KeyError::Metadata(_))));
}

#[test]
fn only_exportable_keys_leave() {
    let fixture = Fixture::new();
    let new = NewKey {
        exportable: false,
        ..NEW
    };
    let secret = [7; 32];
    let seal = |new| {
        let (algorithm, format) = (Some(Algorithm::Aes256Gcm), ImportFormat::Raw);
        let blob =
            fixture
                .vault
                .seal_imported(&fixture.dek, ALICE, algorithm, format, &secret, new);
        fixture.open(&blob.unwrap()).unwrap()
    };
    let refused = output(|out| seal(&new).export(0, out));
    assert_eq!(refused, Err(OpError::NotExportable));
    assert_eq!(output(|out| seal(&NEW).export(0, out)).unwrap(), secret);
}

#[test]
fn exported_asymmetric_keys_come_back_as_the_same_key() {
    let fixture = Fixture::new();
    for algorithm in SIGNING {
        let key = fixture.key(algorithm);
        let exported = output(|out| key.export(0, out)).unwrap();
        let again = fixture.open(&fixture.seal_pkcs8(&exported)).unwrap();
        assert_eq!(again.metadata().algorithm, algorithm);
        assert_eq!(
            output(|out| again.public_key(0, out)).unwrap(),
            output(|out| key.public_key(0, out)).unwrap()
        );
    }
}

#[test]
fn a_rotated_key_signs_with_the_newest_and_verifies_with_any_version() {
    let fixture = Fixture::new();
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256, Algorithm::Rsa2048] {
        let input = Input::Message(MESSAGE);
        let first = fixture.seal(algorithm);
        let by_first = sign(&fixture.open(&first).unwrap(), Scheme::Default, input).unwrap();
        let (second, version) = fixture.rotate(&first, None);
        assert_eq!(version, 2);
        let key = fixture.open(&second).unwrap();
        assert_eq!(key.metadata().version, 2);
        let mut by_second = Vec::new();
        assert_eq!(key.sign(Scheme::Default, input, &mut by_second), Ok(2));
        for (version, signature, expected) in [
            (0, &by_first, Ok(1)),
            (0, &by_second, Ok(2)),
            (1, &by_first, Ok(1)),
            (2, &by_first, Err(OpError::Mismatch)),
            (1, &by_second, Err(OpError::Mismatch)),
            (3, &by_second, Err(OpError::NoSuchVersion)),
        ] {
            let answer = key.verify(version, Scheme::Default, input, signature);
            assert_eq!(answer, expected, "{algorithm}");
        }
        let public = |version| output(|out| key.public_key(version, out));
        assert_eq!(public(0), public(2));
        assert_ne!(public(1), public(2));
        assert_eq!(public(3), Err(OpError::NoSuchVersion));
    }
}

#[test]
fn a_rotated_symmetric_key_still_opens_what_older_versions_made() {
    let fixture = Fixture::new();
    let first = fixture.seal(Algorithm::ChaCha20Poly1305);
    let sealed = output(|out| fixture.open(&first).unwrap().encrypt(b"a", b"text", out)).unwrap();
    let key = fixture.open(&fixture.rotate(&first, None).0).unwrap();
    let mut out = Vec::new();
    assert_eq!(key.decrypt(b"a", &sealed, &mut out), Ok(1));
    assert_eq!(out, b"text");
    let newer = output(|out| key.encrypt(b"a", b"text", out)).unwrap();
    assert_eq!(newer[..4], 2_u32.to_le_bytes());

    let first = fixture.seal(Algorithm::HmacSha512);
    let tag = output(|out| fixture.open(&first).unwrap().mac(MESSAGE, out)).unwrap();
    let key = fixture.open(&fixture.rotate(&first, None).0).unwrap();
    let input = Input::Message(MESSAGE);
    assert_eq!(key.verify(0, Scheme::Default, input, &tag), Ok(1));
    let refused = key.verify(2, Scheme::Default, input, &tag);
    assert_eq!(refused, Err(OpError::Mismatch));
    assert_ne!(output(|out| key.mac(MESSAGE, out)).unwrap(), tag);
}

#[test]
fn a_rotation_keeps_what_the_key_is_and_takes_the_new_dek() {
    let fixture = Fixture::new();
    let new = NewKey {
        usage: Some(KeyUsage::SIGN),
        not_before_unix_ms: NOW,
        not_after_unix_ms: NOW + 1_000_000,
        ..NEW
    };
    let algorithm = Algorithm::EcdsaP256;
    let blob = fixture
        .vault
        .seal_generated(&fixture.dek, ALICE, algorithm, &new)
        .unwrap();
    let newer_dek = fixture.vault.dek(2, &mut [0x22; 32]).unwrap();
    let (rotated, _) = fixture
        .vault
        .seal_rotated(&newer_dek, ALICE, &blob, &fixture.dek, None, NOW + 5)
        .unwrap();
    let before = keyway_keys::peek(&blob).unwrap();
    let after = keyway_keys::peek(&rotated).unwrap();
    assert_eq!(after.dek_generation, 2);
    assert_eq!((after.version, after.created_unix_ms), (2, NOW + 5));
    let versions = keyway_keys::VersionsKept {
        oldest: 1,
        revoked: 0,
    };
    let expected = keyway_keys::Metadata {
        version: 2,
        dek_generation: 2,
        created_unix_ms: NOW + 5,
        versions: Some(versions),
        ..before
    };
    assert_eq!(after, expected);
    assert!(fixture.vault.open(&newer_dek, ALICE, 2, &rotated).is_ok());
}

#[test]
fn sealing_under_another_dek_changes_nothing_but_the_generation() {
    let fixture = Fixture::new();
    let first = fixture
        .vault
        .seal_generated(&fixture.dek, ALICE, Algorithm::Ed25519, &NEW)
        .unwrap();
    let (blob, _) = fixture.rotate(&first, None);
    let newer_dek = fixture.vault.dek(2, &mut [0x22; 32]).unwrap();
    let resealed = fixture
        .vault
        .reseal(&newer_dek, ALICE, &blob, &fixture.dek)
        .unwrap();
    let expected = keyway_keys::Metadata {
        dek_generation: 2,
        ..keyway_keys::peek(&blob).unwrap()
    };
    assert_eq!(keyway_keys::peek(&resealed).unwrap(), expected);
    let before = fixture.vault.open(&fixture.dek, ALICE, 2, &blob).unwrap();
    let after = fixture.vault.open(&newer_dek, ALICE, 2, &resealed).unwrap();
    for version in [1, 2] {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        before.public_key(version, &mut old).unwrap();
        after.public_key(version, &mut new).unwrap();
        assert_eq!(old, new);
    }
    // The old DEK opens it no longer, and another key's blob is not taken for this one.
    assert!(
        fixture
            .vault
            .open(&fixture.dek, ALICE, 2, &resealed)
            .is_err()
    );
    assert!(
        fixture
            .vault
            .reseal(
                &newer_dek,
                Context {
                    key_id: b"bob",
                    ..ALICE
                },
                &blob,
                &fixture.dek
            )
            .is_err()
    );
}

#[test]
fn a_rotation_to_another_algorithm_is_refused() {
    let fixture = Fixture::new();
    let blob = fixture.seal(Algorithm::Ed25519);
    let import = Some((ImportFormat::Detect, rsa_pkcs8(Algorithm::Rsa2048)));
    let refused = fixture
        .vault
        .seal_rotated(&fixture.dek, ALICE, &blob, &fixture.dek, import, NOW);
    assert!(matches!(refused, Err(KeyError::AlgorithmMismatch { .. })));
}

#[test]
fn keys_need_a_proper_name() {
    let fixture = Fixture::new();
    let long = [b'a'; 129];
    for (keyspace, key_id) in [(0, &b"a"[..]), (1, b""), (1, b"a b"), (1, &long)] {
        let context = Context { keyspace, key_id };
        let algorithm = Algorithm::Ed25519;
        let refused = fixture
            .vault
            .seal_generated(&fixture.dek, context, algorithm, &NEW);
        assert!(matches!(refused, Err(KeyError::Metadata(_))));
    }
}

#[test]
fn costly_operations_are_named() {
    let fixture = Fixture::new();
    for (algorithm, operation, cost) in [
        (Algorithm::Ed25519, KeyOperation::Sign, Cost::Fast),
        (Algorithm::EcdsaP256, KeyOperation::Sign, Cost::Fast),
        (Algorithm::EcdsaP384, KeyOperation::Sign, Cost::Slow),
        (Algorithm::Rsa2048, KeyOperation::Sign, Cost::Slow),
        (Algorithm::Rsa2048, KeyOperation::Verify, Cost::Fast),
        (Algorithm::Rsa2048, KeyOperation::PublicKey, Cost::Fast),
        (Algorithm::HmacSha512, KeyOperation::Mac, Cost::Fast),
    ] {
        assert_eq!(fixture.key(algorithm).cost(operation, false), cost);
    }
}

#[test]
fn a_key_says_how_much_memory_it_holds() {
    let fixture = Fixture::new();
    let before = fixture.vault.arena().usage().used_bytes;
    for algorithm in Algorithm::ALL {
        let key = fixture.key(algorithm);
        let held = fixture.vault.arena().usage().used_bytes - before;
        assert!(held > 0 && key.memory_bytes() > held, "{algorithm}");
        drop(key);
        assert_eq!(fixture.vault.arena().usage().used_bytes, before);
    }
}
