//! AWS KMS: moto, with microburst in front for what moto does not support.

use keyway_testkit::microburst::Microburst;
use keyway_testkit::moto::{Moto, REGION};

use super::Shop;

#[cfg(feature = "aws")]
#[test]
fn at_aws_kms() {
    let Some(moto) = Moto::start() else { return };
    let Some(faults) = Microburst::start(&moto) else {
        return;
    };
    let key = moto.create_key();
    let actions = [
        "kms:Encrypt",
        "kms:Decrypt",
        "kms:GenerateDataKey",
        "kms:DescribeKey",
    ];
    let credentials = moto.create_user("keyway", &actions);
    let table = format!(
        "key_id = {:?}\nregion = {REGION:?}\nendpoint_url = {:?}\ncredentials_file = {credentials:?}",
        key.arn,
        faults.endpoint_url(),
    );
    let dir = tempfile::tempdir().unwrap();
    let mut shop = Shop::open("aws", dir.path(), &table, &[]);
    let states = [
        ("the key will be deleted", "the key is pending deletion."),
        ("its key store is unreachable", "the key is unavailable."),
    ];
    for (trouble, message) in states {
        let begin = || faults.answer_error("KMSInvalidStateException", 400, message);
        shop.suffer(trouble, begin, || faults.pass());
    }
    for (trouble, code, status) in [
        ("AccessDenied", "AccessDeniedException", 400),
        ("the key is disabled", "DisabledException", 400),
        ("the session has expired", "ExpiredTokenException", 400),
        (
            "the key pair is not known",
            "UnrecognizedClientException",
            400,
        ),
        ("the clock is wrong", "RequestTimeTooSkewed", 403),
        ("throttled", "ThrottlingException", 400),
        ("AWS KMS fails", "KMSInternalException", 500),
        ("the key is not found", "NotFoundException", 400),
    ] {
        let begin = || faults.answer_error(code, status, "as the test says");
        shop.suffer(trouble, begin, || faults.pass());
    }
    shop.suffer(
        "the connection is reset",
        || faults.reset_connections(),
        || faults.pass(),
    );
    shop.suffer("it hangs", || faults.delay(60_000), || faults.pass());
    shop.close();
}
