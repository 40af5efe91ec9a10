//! The machine's trust store, which is read again when it changes: in a process of its own, whose environment names one.

use keyway_kms::{Aws, AwsSettings, Cause, Provider};
use keyway_testkit::child::{self, ROOTS, with_roots_of_its_own};
use keyway_testkit::openbao::{Mode, OpenBao};

use crate::site::{context, dek};

const NAME: &str = "trust::a_new_ca_of_the_machine_is_taken_up";

/// The roots were read once: a new CA needed a restart. OpenBao is no AWS KMS, but the handshake is real.
#[tokio::test]
async fn a_new_ca_of_the_machine_is_taken_up() {
    let Some(directory) = child::directory() else {
        return with_roots_of_its_own(NAME);
    };
    let roots = directory.join(ROOTS);
    let Some(server) = OpenBao::start_or_skip(Mode::Tls) else {
        return child::done(&directory);
    };
    std::fs::copy(server.other_cert_file(), &roots).unwrap();
    let credentials = server.dir().join("credentials");
    let text = "[default]\naws_access_key_id = AKIA\naws_secret_access_key = none\n";
    std::fs::write(&credentials, text).unwrap();
    let aws = Aws::open(AwsSettings {
        region: Some("eu-central-1".to_owned()),
        endpoint_url: Some(server.url()),
        credentials_file: Some(credentials),
        connect_ms_max: 30_000,
        call_ms_max: 30_000,
        ..AwsSettings::new("alias/keyway")
    })
    .unwrap();
    let error = aws.wrap(&context(), &dek()).await.unwrap_err();
    assert_eq!(error.cause(), Cause::ServerCertificateUntrusted, "{error}");
    std::fs::copy(server.ca_file(), &roots).unwrap();
    let error = aws.wrap(&context(), &dek()).await.unwrap_err();
    assert!(error.what().contains("status 4"), "{error}");
    child::done(&directory);
}
