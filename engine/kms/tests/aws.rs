//! The `aws` provider at moto, an AWS KMS on loopback, with microburst in between where AWS's errors are wanted.
//!
//! Who provokes what: moto refuses wrong keys, signatures, policies, contexts and ciphertexts, and hangs when it is
//! stopped. It goes on decrypting under a disabled key, never throttles and never fails, so those answers are
//! microburst's. What no component here can show (a wrong clock against a right one, credentials from a role) is in the
//! unit tests of the classification.

#![cfg(feature = "aws")]

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyway_kms::{
    Aws, AwsSettings, Budget, Class, Context, KmsError, Provider, ProviderState, Purpose,
    SecretKey, Service, UnlockNeed, UnlockSecret, Unlocked,
};
use keyway_testkit::microburst::Microburst;
use keyway_testkit::moto::{Moto, MotoKey, REGION};
use keyway_testkit::process::free_port;

const SECRET: [u8; 32] = *b"\xa7 thirty-two bytes, one by one \xa7";
const ACTIONS: [&str; 4] = [
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "kms:DescribeKey",
];

fn context() -> Context {
    Context {
        cluster: *b"0123456789abcdef",
        keyspace: 7,
        generation: 2,
        purpose: Purpose::DataKey,
    }
}

fn dek() -> SecretKey {
    SecretKey::take(&mut SECRET.clone())
}

/// A moto that checks every request, one key, and a user who may use it.
struct Site {
    moto: Moto,
    key: MotoKey,
    credentials: PathBuf,
}

impl Site {
    fn start() -> Option<Self> {
        let moto = Moto::start()?;
        let key = moto.create_key();
        moto.point_alias("alias/keyway", &key);
        let credentials = moto.create_user("keyway", &ACTIONS);
        Some(Self {
            moto,
            key,
            credentials,
        })
    }

    fn settings(&self, key_id: &str, endpoint_url: String, credentials: PathBuf) -> AwsSettings {
        AwsSettings {
            region: Some(REGION.to_owned()),
            endpoint_url: Some(endpoint_url),
            credentials_file: Some(credentials),
            // The machine may be building at the same time.
            connect_ms_max: 30_000,
            call_ms_max: 30_000,
            ..AwsSettings::new(key_id)
        }
    }

    fn open(&self, key_id: &str) -> Aws {
        let credentials = self.credentials.clone();
        Aws::open(self.settings(key_id, self.moto.endpoint_url(), credentials)).unwrap()
    }

    fn open_as(&self, credentials: PathBuf) -> Aws {
        Aws::open(self.settings(&self.key.arn, self.moto.endpoint_url(), credentials)).unwrap()
    }
}

fn assert_class<T: std::fmt::Debug>(result: Result<T, KmsError>, class: Class) -> KmsError {
    let error = result.unwrap_err();
    assert_eq!(error.class(), class, "{error}");
    error
}

const UNAVAILABLE: Class = Class::Unavailable { retry_after: None };

#[tokio::test]
async fn what_was_wrapped_or_generated_opens_under_its_context_and_no_other() {
    let Some(site) = Site::start() else { return };
    site.moto.check_requests();
    for key_id in [site.key.arn.as_str(), &site.key.id, "alias/keyway"] {
        let aws = site.open(key_id);
        assert_eq!(aws.name(), "aws");
        assert_eq!(aws.state(), ProviderState::Unlocked);
        assert_eq!(aws.unlock_need(), UnlockNeed::Nothing);
        assert!(!aws.is_unprotected());

        let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
        assert!(
            !wrapped
                .0
                .windows(8)
                .any(|part| SECRET.windows(8).any(|secret| secret == part))
        );
        let opened = aws.unwrap(&context(), &wrapped.0).await.unwrap();
        assert!(opened.is_same(&dek()));

        let generated = aws.generate(&context()).unwrap().await.unwrap();
        assert!(!generated.dek.is_same(&dek()));
        let opened = aws.unwrap(&context(), &generated.wrapped.0).await.unwrap();
        assert!(opened.is_same(&generated.dek));

        let others = [
            Context {
                cluster: [0; 16],
                ..context()
            },
            Context {
                keyspace: 8,
                ..context()
            },
            Context {
                generation: 3,
                ..context()
            },
        ];
        for other in others {
            assert_class(aws.unwrap(&other, &wrapped.0).await, Class::Corrupt);
        }
    }
}

#[tokio::test]
async fn a_changed_ciphertext_never_opens() {
    let Some(site) = Site::start() else { return };
    let aws = site.open(&site.key.arn);
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap().0;
    for bad in [Vec::new(), vec![0; 6145]] {
        assert_class(aws.unwrap(&context(), &bad).await, Class::Corrupt);
    }
    // moto's format is its own: 36 bytes name the key, and a change there is another key, which AWS and moto refuse as
    // one that this identity may not see.
    for place in 0..wrapped.len() {
        let mut bad = wrapped.clone();
        bad[place] ^= 1;
        let class = if place < 36 {
            Class::Denied
        } else {
            Class::Corrupt
        };
        assert_class(aws.unwrap(&context(), &bad).await, class);
    }
    assert_class(
        aws.unwrap(&context(), &wrapped[..wrapped.len() - 1]).await,
        Class::Corrupt,
    );
    assert!(
        aws.unwrap(&context(), &wrapped)
            .await
            .unwrap()
            .is_same(&dek())
    );
}

#[tokio::test]
async fn credentials_that_are_wrong_unknown_or_without_rights_are_denied() {
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

    for credentials in [wrong_secret, unknown, no_rights] {
        let aws = site.open_as(credentials);
        let error = assert_class(aws.wrap(&context(), &dek()).await, Class::Denied);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_class(aws.generate(&context()).unwrap().await, Class::Denied);
        assert_class(aws.unlock(UnlockSecret::Nothing).await, Class::Denied);
    }
    let writer = site.open_as(only_encrypts);
    let wrapped = writer.wrap(&context(), &dek()).await.unwrap();
    assert_class(writer.unwrap(&context(), &wrapped.0).await, Class::Denied);
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
    assert_class(aws.wrap(&context(), &dek()).await, Class::Denied);
    std::fs::write(&path, good).unwrap();
    aws.wrap(&context(), &dek()).await.unwrap();
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
    assert_class(aws.wrap(&context(), &dek()).await, Class::Denied);
    settings.profile = Some("keyway".to_owned());
    Aws::open(settings)
        .unwrap()
        .wrap(&context(), &dek())
        .await
        .unwrap();
}

/// The codes are AWS's own; microburst puts them into AWS's envelope, whether moto would say them or not.
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
        ("UnrecognizedClientException", 400, Class::Denied),
        ("ExpiredTokenException", 400, Class::Denied),
        ("SignatureDoesNotMatch", 403, Class::Denied),
        ("DisabledException", 400, Class::Disabled),
        ("KMSInvalidStateException", 400, Class::Disabled),
        ("IncorrectKeyException", 400, Class::Misconfigured),
        ("InvalidKeyUsageException", 400, Class::Misconfigured),
        ("RequestTimeTooSkewed", 403, Class::Misconfigured),
        ("InvalidCiphertextException", 400, Class::Corrupt),
    ];
    for (code, status, class) in table {
        proxy.answer_error(code, status, "as the test says");
        let before = proxy.fault_count();
        let error = assert_class(aws.unwrap(&context(), &wrapped.0).await, class);
        assert!(error.what().contains(code), "{error}");
        // One fault for one call: the SDK does not retry by itself.
        assert_eq!(proxy.fault_count(), before + 1, "{code}");
        assert_class(aws.generate(&context()).unwrap().await, class);
        assert_class(aws.wrap(&context(), &dek()).await, class);
        proxy.pass();
        assert!(
            aws.unwrap(&context(), &wrapped.0)
                .await
                .unwrap()
                .is_same(&dek())
        );
    }
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
        connect_ms_max: 200,
        call_ms_max: 200,
        ..site.settings(&site.key.arn, endpoint_url, site.credentials.clone())
    };
    let through_proxy = Aws::open(hasty(proxy.endpoint_url())).unwrap();
    let direct = Aws::open(hasty(site.moto.endpoint_url())).unwrap();
    let nobody = Aws::open(hasty(format!("http://127.0.0.1:{}", free_port()))).unwrap();

    // microburst holds the call back far longer than the limit.
    proxy.delay(600_000);
    let error = assert_class(
        through_proxy.unwrap(&context(), &wrapped.0).await,
        UNAVAILABLE,
    );
    assert!(error.what().contains("in time"), "{error}");

    // moto is stopped: the kernel accepts the connection and nobody answers.
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

#[tokio::test]
async fn a_locked_provider_reaches_nothing_until_it_is_unlocked() {
    let Some(site) = Site::start() else { return };
    site.moto.check_requests();
    let aws = site.open(&site.key.arn);
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    aws.lock();
    assert_eq!(aws.state(), ProviderState::Locked);
    assert_class(aws.wrap(&context(), &dek()).await, Class::Locked);
    assert_class(aws.unwrap(&context(), &wrapped.0).await, Class::Locked);
    assert_class(aws.generate(&context()).unwrap().await, Class::Locked);
    assert_eq!(aws.unlock(UnlockSecret::Nothing).await, Ok(Unlocked::Open));
    assert_eq!(aws.state(), ProviderState::Unlocked);
    assert!(
        aws.unwrap(&context(), &wrapped.0)
            .await
            .unwrap()
            .is_same(&dek())
    );
}

#[tokio::test]
async fn an_unlock_or_a_call_that_a_lock_overtakes_has_no_effect() {
    let Some(site) = Site::start() else { return };
    let aws = site.open(&site.key.arn);
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    // A future does nothing before it is polled, so each is polled until it waits for moto, and locked then.
    let context = context();
    let mut unwrap = aws.unwrap(&context, &wrapped.0);
    assert!(
        std::future::poll_fn(|cx| std::task::Poll::Ready(unwrap.as_mut().poll(cx).is_pending()))
            .await
    );
    aws.lock();
    assert_class(unwrap.await, Class::Locked);

    let mut unlock = aws.unlock(UnlockSecret::Nothing);
    assert!(
        std::future::poll_fn(|cx| std::task::Poll::Ready(unlock.as_mut().poll(cx).is_pending()))
            .await
    );
    aws.lock();
    assert_class(unlock.await, Class::Locked);
    assert_eq!(aws.state(), ProviderState::Locked);
    assert_class(aws.unwrap(&context, &wrapped.0).await, Class::Locked);
}

#[tokio::test]
async fn unlocking_shows_a_disabled_key_and_one_of_the_wrong_kind() {
    let Some(site) = Site::start() else { return };
    // DescribeKey is the one answer of moto's that a disabled key changes.
    let disabled = site.moto.create_key();
    site.moto.disable_key(&disabled);
    let aws = site.open(&disabled.arn);
    aws.lock();
    assert_class(aws.unlock(UnlockSecret::Nothing).await, Class::Disabled);
    assert_eq!(aws.state(), ProviderState::Locked);

    let rsa = serde_json::json!({ "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "RSA_2048" });
    let rsa = site.moto.kms("CreateKey", &rsa);
    let aws = site.open(rsa["KeyMetadata"]["Arn"].as_str().unwrap());
    let error = assert_class(
        aws.unlock(UnlockSecret::Nothing).await,
        Class::Misconfigured,
    );
    assert!(error.what().contains("RSA_2048"), "{error}");
}

#[tokio::test]
async fn an_alias_that_is_pointed_elsewhere_is_refused_until_an_unlock_takes_it() {
    let Some(site) = Site::start() else { return };
    let aws = site.open("alias/keyway");
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    let other = site.moto.create_key();
    site.moto.point_alias("alias/keyway", &other);
    let error = assert_class(aws.wrap(&context(), &dek()).await, Class::Misconfigured);
    assert!(
        error.what().contains(&other.arn) && error.what().contains(&site.key.arn),
        "{error}"
    );
    aws.lock();
    aws.unlock(UnlockSecret::Nothing).await.unwrap();
    let newer = aws.wrap(&context(), &dek()).await.unwrap();
    aws.unwrap(&context(), &newer.0).await.unwrap();
    // AWS says IncorrectKeyException here; moto says AccessDeniedException.
    assert_class(aws.unwrap(&context(), &wrapped.0).await, Class::Denied);
}

/// keywayd calls its KMS from a runtime of one thread, through the service, which does all retrying.
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

/// At `trace` the SDK would log the body of Encrypt, which holds the DEK in base64, and headers.
#[tokio::test]
async fn no_log_level_and_no_debug_shows_a_secret() {
    let Some(site) = Site::start() else { return };
    site.moto.check_requests();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);

    let aws = site.open(&site.key.arn);
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    let opened = aws.unwrap(&context(), &wrapped.0).await.unwrap();
    let generated = aws.generate(&context()).unwrap().await.unwrap();
    let debug = format!("{aws:?} {opened:?} {generated:?}");

    // What is logged outside of the SDK's futures arrives, so the log is listening.
    let hyper = log.text();
    assert!(hyper.contains("hyper"), "{hyper}");
    let secret_key = std::fs::read_to_string(&site.credentials).unwrap();
    let secret_key = secret_key.rsplit(" = ").next().unwrap().trim().to_owned();
    for text in [hyper, debug] {
        for secret in [dek(), opened_copy(&generated.dek)] {
            let bytes = secret.expose();
            assert!(!text.contains(&STANDARD.encode(bytes)));
            assert!(!text.contains(&format!("{bytes:?}")[1..60]));
        }
        assert!(!text.contains(&secret_key));
    }
}

fn opened_copy(secret: &SecretKey) -> SecretKey {
    SecretKey::take(&mut secret.expose().clone())
}

/// Where a log goes that a test reads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
