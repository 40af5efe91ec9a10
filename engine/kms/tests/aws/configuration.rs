//! Credentials, keys and endpoints: what the operator configures, and misconfigures.

use keyway_kms::{Aws, AwsSettings, Class, Provider, UnlockSecret};

use crate::site::{Site, UNAVAILABLE, assert_class, context, dek};

#[tokio::test]
async fn credentials_that_are_wrong_unknown_or_without_rights_open_nothing() {
    let Some(site) = Site::start() else { return };
    let text = std::fs::read_to_string(&site.credentials).unwrap();
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("aws_access_key_id = "))
        .unwrap();
    let wrong_secret = site
        .moto
        .write_credentials("wrong", id, "wrong-secret-hunter2");
    let unknown = site
        .moto
        .write_credentials("unknown", "AKIAUNKNOWNUNKNOWN00", "hunter2");
    let no_rights = site.moto.create_user("nobody", &[]);
    let only_encrypts = site.moto.create_user("writer", &["kms:Encrypt"]);
    site.moto.check_requests();

    // AWS identifies what it refuses by a code; moto omits it, and a 403 without a code decides nothing.
    let class = UNAVAILABLE;
    for credentials in [wrong_secret, unknown, no_rights] {
        let aws = site.open_as(credentials);
        let error = assert_class(aws.wrap(&context(), &dek()).await, class);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_class(aws.generate(&context()).unwrap().await, class);
        assert_class(aws.unlock(UnlockSecret::Nothing).await, class);
    }
    let writer = site.open_as(only_encrypts);
    let wrapped = writer.wrap(&context(), &dek()).await.unwrap();
    assert_class(writer.unwrap(&context(), &wrapped.0).await, class);
}

#[tokio::test]
async fn credentials_that_were_replaced_are_read_at_the_next_call() {
    let Some(site) = Site::start() else { return };
    let good = std::fs::read(&site.credentials).unwrap();
    let path = site
        .moto
        .write_credentials("replaced", "AKIAUNKNOWNUNKNOWN00", "hunter2");
    site.moto.check_requests();
    let aws = site.open_as(path.clone());
    assert_class(aws.wrap(&context(), &dek()).await, UNAVAILABLE);
    std::fs::write(&path, good).unwrap();
    aws.wrap(&context(), &dek()).await.unwrap();
    // They are read when the file changes, not only when a call fails: the old ones may lose their rights next.
    site.moto
        .write_credentials("replaced", "AKIAUNKNOWNUNKNOWN00", "hunter2");
    assert_class(aws.wrap(&context(), &dek()).await, UNAVAILABLE);
}

#[tokio::test]
async fn missing_keys_and_profiles_are_the_operators_to_mend() {
    let Some(site) = Site::start() else { return };
    for key_id in [
        "00000000-bc0f-4988-aa25-fc9e6ab776b6",
        "arn:aws:kms:eu-central-1:123456789012:key/00000000-bc0f-4988-aa25-fc9e6ab776b6",
        "alias/nobody",
    ] {
        let error = assert_class(
            site.open(key_id).wrap(&context(), &dek()).await,
            Class::Misconfigured,
        );
        assert!(error.what().contains(key_id), "{error}");
    }
    let mut settings = site.settings(
        &site.key.arn,
        site.moto.endpoint_url(),
        site.credentials.clone(),
    );
    settings.profile = Some("nobody".to_owned());
    let aws = Aws::open(settings.clone()).unwrap();
    assert_class(aws.wrap(&context(), &dek()).await, Class::Misconfigured);

    settings.profile = None;
    settings.credentials_file = Some(site.credentials.with_file_name("none"));
    let aws = Aws::open(settings).unwrap();
    assert_class(aws.wrap(&context(), &dek()).await, Class::Misconfigured);
}

#[tokio::test]
async fn an_endpoint_in_the_clear_is_refused_from_a_profile_too() {
    let Some(site) = Site::start() else { return };
    let mut file = std::fs::read_to_string(&site.credentials).unwrap();
    file.push_str("endpoint_url = http://192.0.2.1\n");
    std::fs::write(&site.credentials, file).unwrap();
    let settings = AwsSettings {
        endpoint_url: None,
        ..site.settings(&site.key.arn, String::new(), site.credentials.clone())
    };
    let aws = Aws::open(settings).unwrap();
    let error = assert_class(aws.wrap(&context(), &dek()).await, Class::Misconfigured);
    assert!(error.what().contains("http://192.0.2.1"), "{error}");
}

#[tokio::test]
async fn a_named_profile_gives_the_credentials() {
    let Some(site) = Site::start() else { return };
    let good = std::fs::read_to_string(&site.credentials).unwrap();
    let other = site
        .moto
        .write_credentials("two", "AKIAUNKNOWNUNKNOWN00", "hunter2");
    let bad = std::fs::read_to_string(&other).unwrap();
    std::fs::write(
        &other,
        format!("{bad}\n{}", good.replace("[default]", "[keyway]")),
    )
    .unwrap();
    site.moto.check_requests();
    let mut settings = site.settings(&site.key.arn, site.moto.endpoint_url(), other);
    let aws = Aws::open(settings.clone()).unwrap();
    assert_class(aws.wrap(&context(), &dek()).await, UNAVAILABLE);
    settings.profile = Some("keyway".to_owned());
    Aws::open(settings)
        .unwrap()
        .wrap(&context(), &dek())
        .await
        .unwrap();
}
