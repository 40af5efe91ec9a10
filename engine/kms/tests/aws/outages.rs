//! Outages: AWS's answers during them, and missing answers.

use std::sync::Arc;
use std::time::Instant;

use keyway_kms::{Aws, AwsSettings, Budget, Cause, Class, Provider, Service};
use keyway_testkit::microburst::Microburst;
use keyway_testkit::process::free_port;

use crate::site::{Site, UNAVAILABLE, assert_class, context, dek};

/// The codes are AWS's own; microburst puts them into AWS's envelope, whether moto would return them or not.
#[tokio::test]
async fn what_aws_answers_in_a_bad_hour_has_its_class() {
    let Some(site) = Site::start() else { return };
    let Some(proxy) = Microburst::start(&site.moto) else {
        return;
    };
    let aws = Aws::open(site.settings(
        &site.key.arn,
        proxy.endpoint_url(),
        site.credentials.clone(),
    ))
    .unwrap();
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    let throttled = Class::Throttled { retry_after: None };
    let table = [
        ("ThrottlingException", 400, throttled),
        ("LimitExceededException", 400, throttled),
        ("RequestLimitExceeded", 503, throttled),
        ("KMSInternalException", 500, UNAVAILABLE),
        ("DependencyTimeoutException", 503, UNAVAILABLE),
        ("KeyUnavailableException", 500, UNAVAILABLE),
        ("ServiceUnavailable", 503, UNAVAILABLE),
        ("NeverHeardOf", 502, UNAVAILABLE),
        ("AccessDeniedException", 400, Class::Denied),
        ("UnrecognizedClientException", 400, Class::Credential),
        ("ExpiredTokenException", 400, Class::Credential),
        ("SignatureDoesNotMatch", 403, Class::Credential),
        ("DisabledException", 400, Class::Disabled),
        // This message does not name a state that an administrator has put the key into.
        ("KMSInvalidStateException", 400, UNAVAILABLE),
        ("IncorrectKeyException", 400, Class::Misconfigured),
        ("InvalidKeyUsageException", 400, Class::Misconfigured),
        ("RequestTimeTooSkewed", 403, Class::Misconfigured),
        ("InvalidCiphertextException", 400, Class::Corrupt),
    ];
    let deleted = "arn:aws:kms:eu-central-1:123456789012:key/1 is pending deletion.";
    proxy.answer_error("KMSInvalidStateException", 400, deleted);
    assert_class(aws.unwrap(&context(), &wrapped.0).await, Class::Disabled);
    proxy.pass();
    for (code, status, class) in table {
        proxy.answer_error(code, status, "as the test says");
        let before = proxy.fault_count();
        let error = assert_class(aws.unwrap(&context(), &wrapped.0).await, class);
        assert!(error.what().contains(code), "{error}");
        // One fault for one call: the SDK does not retry.
        assert_eq!(proxy.fault_count(), before + 1, "{code}");
        assert_class(aws.generate(&context()).unwrap().await, class);
        assert_class(aws.wrap(&context(), &dek()).await, class);
        proxy.pass();
        if class == Class::Credential {
            // The next attempt would be made after a second, and is made now because the file was written.
            let text = std::fs::read(&site.credentials).unwrap();
            std::fs::write(&site.credentials, text).unwrap();
        }
        assert!(
            aws.unwrap(&context(), &wrapped.0)
                .await
                .unwrap()
                .is_same(&dek())
        );
    }
}

/// Each keyspace repeated the call with credentials that were just refused: that opens no breaker.
#[tokio::test]
async fn refused_credentials_are_repeated_under_a_backoff() {
    const CALLS: usize = 100;
    let Some(site) = Site::start() else { return };
    let Some(proxy) = Microburst::start(&site.moto) else {
        return;
    };
    let (url, file) = (proxy.endpoint_url(), site.credentials.clone());
    let aws = Aws::open(site.settings(&site.key.arn, url, file)).unwrap();
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    proxy.answer_error("UnrecognizedClientException", 400, "as the test says");
    let before = proxy.fault_count();
    let began = Instant::now();
    for _ in 0..CALLS {
        let error = assert_class(aws.unwrap(&context(), &wrapped.0).await, Class::Credential);
        assert_eq!(error.cause(), Cause::CredentialsUnknown);
        // An operator's command brings the next one forward, once a second.
        aws.hurry();
    }
    let sent = proxy.fault_count() - before;
    let seconds = began.elapsed().as_secs() as usize;
    assert!(sent <= seconds + 2, "{sent} of {CALLS} in {seconds} s");
}

#[tokio::test]
async fn cut_connections_and_torn_answers_are_outages() {
    let Some(site) = Site::start() else { return };
    let Some(proxy) = Microburst::start(&site.moto) else {
        return;
    };
    let aws = Aws::open(site.settings(
        &site.key.arn,
        proxy.endpoint_url(),
        site.credentials.clone(),
    ))
    .unwrap();
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    proxy.reset_connections();
    assert_class(aws.unwrap(&context(), &wrapped.0).await, UNAVAILABLE);
    proxy.truncate_answers();
    assert_class(aws.unwrap(&context(), &wrapped.0).await, UNAVAILABLE);
    assert_class(aws.wrap(&context(), &dek()).await, UNAVAILABLE);
    proxy.pass();
    aws.unwrap(&context(), &wrapped.0).await.unwrap();
}

#[tokio::test]
async fn a_slow_a_hung_and_a_dead_kms_are_outages() {
    let Some(mut site) = Site::start() else {
        return;
    };
    let Some(proxy) = Microburst::start(&site.moto) else {
        return;
    };
    let patient = site.open(&site.key.arn);
    let wrapped = patient.wrap(&context(), &dek()).await.unwrap();

    let hasty = |endpoint_url| AwsSettings {
        connect_ms_max: 2_000,
        call_ms_max: 2_000,
        ..site.settings(&site.key.arn, endpoint_url, site.credentials.clone())
    };
    let through_proxy = Aws::open(hasty(proxy.endpoint_url())).unwrap();
    let direct = Aws::open(hasty(site.moto.endpoint_url())).unwrap();
    let nobody = Aws::open(hasty(format!("http://127.0.0.1:{}", free_port()))).unwrap();

    // microburst delays the call far beyond the limit.
    proxy.delay(600_000);
    let error = assert_class(
        through_proxy.unwrap(&context(), &wrapped.0).await,
        UNAVAILABLE,
    );
    assert!(error.what().contains("in time"), "{error}");

    // moto is stopped: the kernel accepts the connection and no answer comes.
    site.moto.process().pause();
    let error = assert_class(direct.unwrap(&context(), &wrapped.0).await, UNAVAILABLE);
    assert!(error.what().contains("in time"), "{error}");
    site.moto.process().resume();
    assert!(
        patient
            .unwrap(&context(), &wrapped.0)
            .await
            .unwrap()
            .is_same(&dek())
    );

    assert_class(nobody.unwrap(&context(), &wrapped.0).await, UNAVAILABLE);
    site.moto.process().kill();
    assert_class(patient.unwrap(&context(), &wrapped.0).await, UNAVAILABLE);
}

/// keywayd calls its KMS from a single-threaded runtime, through the service, which does all retrying.
#[test]
fn the_service_works_on_a_runtime_of_one_thread_and_retries_what_the_sdk_does_not() {
    let Some(site) = Site::start() else { return };
    let Some(proxy) = Microburst::start(&site.moto) else {
        return;
    };
    let aws = Aws::open(site.settings(
        &site.key.arn,
        proxy.endpoint_url(),
        site.credentials.clone(),
    ))
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
        let budget = Budget {
            call_ms_max: 60_000,
            backoff_ms_min: 1,
            backoff_ms_max: 1,
            ..Budget::default()
        };
        let service = Service::new(Arc::new(aws), context().cluster, budget, || 0).unwrap();
        proxy.answer_error("KMSInternalException", 500, "as the test says");
        let failed = service.unwrap_dek(7, 2, &wrapped.0).await;
        assert_class(failed, UNAVAILABLE);
        assert_eq!(proxy.fault_count(), budget.attempts_max as usize);
        proxy.pass();
        let opened = service.unwrap_dek(7, 2, &wrapped.0).await.unwrap();
        assert!(opened.dek.is_same(&dek()));
    });
}
