//! Both choices of providers give the same bytes where the algorithm fixes them, take what the other
//! made, and refuse the same.

use crate::common::{Fixture, output, unhex};
use keyway_keys::{
    Algorithm, Input, OpError, ProviderChoice, Scheme, UnlockedKey, verify_with_public_key,
};
use proptest::prelude::*;

const CHOICES: [ProviderChoice; 2] = [ProviderChoice::Default, ProviderChoice::RingOnly];

/// The same key, opened by each.
fn both(seal: impl Fn(&Fixture) -> Vec<u8>) -> [UnlockedKey; 2] {
    let blob = seal(&Fixture::new());
    CHOICES.map(|choice| Fixture::with(choice).open(&blob).unwrap())
}

/// What both say to the same question.
fn agreed<R: PartialEq + std::fmt::Debug>(
    keys: &[UnlockedKey; 2],
    ask: impl Fn(&UnlockedKey) -> R,
) -> R {
    let [default, ring] = keys.each_ref().map(ask);
    assert_eq!(default, ring);
    default
}

/// RFC 8032, section 7.1, tests 1 and 2: what is signed is these bytes, not merely something valid.
#[test]
fn ed25519_signs_the_bytes_of_rfc_8032() {
    for (seed, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155
             5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ] {
        let keys = both(|fixture| fixture.seal_raw(Algorithm::Ed25519, &unhex(seed)));
        let message = unhex(message);
        let input = Input::Message(&message);
        let signed = agreed(&keys, |key| {
            output(|out| key.sign(Scheme::Ed25519, input, out))
        });
        assert_eq!(signed.unwrap(), unhex(signature));
    }
}

#[test]
fn every_key_imports_to_the_same_under_both() {
    for algorithm in Algorithm::ALL {
        let exported = output(|out| Fixture::new().key(algorithm).export(0, out)).unwrap();
        let [default, ring] = CHOICES.map(|choice| {
            let fixture = Fixture::with(choice);
            let blob = match algorithm.is_asymmetric() {
                true => fixture.seal_pkcs8(&exported),
                false => fixture.seal_raw(algorithm, &exported),
            };
            let key = fixture.open(&blob).unwrap();
            let public = output(|out| key.public_key(0, out));
            (output(|out| key.export(0, out)), public)
        });
        assert_eq!(default, ring, "{algorithm}");
    }
}

proptest! {
    // RSA-4096 takes ring 4 ms a signature.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn signatures_without_randomness_are_the_same_bytes(
        message in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        use Scheme::{RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512};
        let pkcs1 = [RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512];
        for (algorithm, schemes) in [
            (Algorithm::Ed25519, &[Scheme::Ed25519][..]),
            (Algorithm::Rsa2048, &pkcs1),
            (Algorithm::Rsa3072, &pkcs1),
            (Algorithm::Rsa4096, &pkcs1),
        ] {
            let keys = both(|fixture| fixture.seal(algorithm));
            for scheme in schemes {
                let input = Input::Message(&message);
                let signed = agreed(&keys, |key| output(|out| key.sign(*scheme, input, out)));
                prop_assert!(signed.is_ok());
            }
        }
    }

    #[test]
    fn changed_signatures_get_the_same_answer(
        message in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        mask in 1..=255_u8,
        len in any::<prop::sample::Index>(),
    ) {
        for algorithm in Algorithm::ALL.into_iter().filter(|a| a.is_asymmetric()) {
            let keys = both(|fixture| fixture.seal(algorithm));
            let input = Input::Message(&message);
            for by in &keys {
                let mut signature = output(|out| by.sign(Scheme::Default, input, out)).unwrap();
                let verify = |signature: &[u8]| {
                    agreed(&keys, |key| key.verify(0, Scheme::Default, input, signature))
                };
                prop_assert_eq!(verify(&signature), Ok(1));
                let shorter = &signature[..len.index(signature.len())];
                prop_assert_eq!(verify(shorter), Err(OpError::Mismatch));
                let at = at.index(signature.len());
                signature[at] ^= mask;
                prop_assert_eq!(verify(&signature), Err(OpError::Mismatch));
            }
        }
    }

    /// One provider does all of this today; the test is there for the day when that changes. What is
    /// compared with now is AWS-LC, called directly.
    #[test]
    fn symmetric_operations_are_the_same_bytes_as_the_other_providers(
        secret in prop::collection::vec(any::<u8>(), 16..200),
        text in prop::collection::vec(any::<u8>(), 0..300),
        aad in prop::collection::vec(any::<u8>(), 0..60),
        len in 1..4096_usize,
    ) {
        use aws_lc_rs::{hkdf, hmac};
        struct Len(usize);
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }
        for (algorithm, aws) in [
            (Algorithm::HmacSha256, hmac::HMAC_SHA256),
            (Algorithm::HmacSha384, hmac::HMAC_SHA384),
            (Algorithm::HmacSha512, hmac::HMAC_SHA512),
        ] {
            let keys = both(|fixture| fixture.seal_raw(algorithm, &secret));
            let mac = agreed(&keys, |key| output(|out| key.mac(&text, out))).unwrap();
            let aws = hmac::sign(&hmac::Key::new(aws, &secret), &text);
            prop_assert_eq!(&mac[..], aws.as_ref());
        }
        let keys = both(|fixture| fixture.seal_raw(Algorithm::HkdfSha256, &secret));
        let derived = agreed(&keys, |key| output(|out| key.derive(len, &aad, &text, out)));
        let mut aws = vec![0; len];
        hkdf::Salt::new(hkdf::HKDF_SHA256, &aad)
            .extract(&secret)
            .expand(&[&text], Len(len))
            .and_then(|okm| okm.fill(&mut aws))
            .unwrap();
        prop_assert_eq!(derived.unwrap(), aws);
        for algorithm in [Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305] {
            let keys = both(|fixture| fixture.seal(algorithm));
            for by in &keys {
                let mut sealed = output(|out| by.encrypt(&aad, &text, out)).unwrap();
                let decrypt = |sealed: &[u8]| {
                    agreed(&keys, |key| output(|out| key.decrypt(&aad, sealed, out)))
                };
                prop_assert_eq!(decrypt(&sealed), Ok(text.clone()));
                *sealed.last_mut().unwrap() ^= 1;
                prop_assert_eq!(decrypt(&sealed), Err(OpError::Mismatch));
            }
        }
    }
}

/// A public key alone verifies as the key does that it came from, and is taken whole or not at all.
#[test]
fn a_public_key_alone_gives_the_answers_of_its_key() {
    let input = Input::Message(b"message");
    for algorithm in Algorithm::ALL.into_iter().filter(|a| a.is_asymmetric()) {
        let key = Fixture::new().key(algorithm);
        let public = output(|out| key.public_key(0, out)).unwrap();
        let signature = output(|out| key.sign(Scheme::Default, input, out)).unwrap();
        for choice in CHOICES {
            let verify = |public: &[u8], scheme, input| {
                verify_with_public_key(choice, public, scheme, input, &signature)
            };
            assert_eq!(verify(&public, Scheme::Default, input), Ok(()));
            let other = Input::Message(b"another");
            let refused = verify(&public, Scheme::Default, other);
            assert_eq!(refused, Err(OpError::Mismatch));
            let foreign = match algorithm {
                Algorithm::Ed25519 => Scheme::EcdsaSha256,
                _ => Scheme::Ed25519,
            };
            let refused = verify(&public, foreign, input);
            assert!(
                matches!(refused, Err(OpError::Unsupported(_))),
                "{refused:?}"
            );
            let trailing = [&public[..], &[0]].concat();
            let shorter = (0..public.len()).map(|len| &public[..len]);
            for damaged in shorter.chain([&trailing[..]]) {
                let refused = verify(damaged, Scheme::Default, input);
                assert!(matches!(refused, Err(OpError::BadInput(_))), "{refused:?}");
            }
        }
    }
}
