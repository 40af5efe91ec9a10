//! AWS KMS: moto, with microburst in front for what moto does not support.

use keyway_testkit::microburst::Microburst;
use keyway_testkit::moto::{Moto, REGION};

use super::{Shop, matrix};

/// A fault and how it begins.
type Trouble<'a> = (&'static str, &'a (dyn Fn(&Microburst) + Sync));

#[cfg(feature = "aws")]
#[test]
fn at_aws_kms() {
    let Some(moto) = Moto::start() else { return };
    let (key, actions) = (
        moto.create_key(),
        [
            "kms:Encrypt",
            "kms:Decrypt",
            "kms:GenerateDataKey",
            "kms:DescribeKey",
        ],
    );
    let credentials = moto.create_user("keyway", &actions);
    let answer = |code: &'static str, status: u16, message: &'static str| {
        move |faults: &Microburst| faults.answer_error(code, status, message)
    };
    let other = |code: &'static str, status: u16| answer(code, status, "as the test says");
    let invalid_state = |message| answer("KMSInvalidStateException", 400, message);
    let deleted = invalid_state("the key is pending deletion.");
    let unreachable = invalid_state("the key is unavailable.");
    let lanes: [&[Trouble<'_>]; 4] = [
        &[
            ("the key will be deleted", &deleted),
            ("its key store is unreachable", &unreachable),
            ("AccessDenied", &other("AccessDeniedException", 400)),
        ],
        &[
            ("the key is disabled", &other("DisabledException", 400)),
            (
                "the session has expired",
                &other("ExpiredTokenException", 400),
            ),
            (
                "the key pair is not known",
                &other("UnrecognizedClientException", 400),
            ),
        ],
        &[
            ("the clock is wrong", &other("RequestTimeTooSkewed", 403)),
            ("throttled", &other("ThrottlingException", 400)),
            ("AWS KMS fails", &other("KMSInternalException", 500)),
        ],
        &[
            ("the key is not found", &other("NotFoundException", 400)),
            ("the connection is reset", &Microburst::reset_connections),
            ("it hangs", &|faults| faults.delay(60_000)),
        ],
    ];
    let open = |dir: &std::path::Path, faults: &Microburst| {
        let table = format!(
            "key_id = {:?}\nregion = {REGION:?}\nendpoint_url = {:?}\ncredentials_file = {credentials:?}",
            key.arn,
            faults.endpoint_url(),
        );
        Shop::open("aws", dir, &table, &[])
    };
    let rows = std::thread::scope(|scope| {
        let lanes = lanes.map(|troubles| {
            let (moto, open) = (&moto, &open);
            scope.spawn(move || {
                let faults = Microburst::start(moto)?;
                let dir = tempfile::tempdir().unwrap();
                let mut shop = open(dir.path(), &faults);
                for (trouble, begin) in troubles {
                    shop.suffer(trouble, || begin(&faults), || faults.pass());
                }
                Some(shop.rows)
            })
        });
        let rows = lanes.map(|lane| lane.join().unwrap());
        rows.into_iter().collect::<Option<Vec<_>>>()
    });
    if let Some(rows) = rows {
        let rows: Vec<_> = rows.into_iter().flatten().collect();
        matrix::check("aws", &rows);
    }
}
