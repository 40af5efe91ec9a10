//! Logs contain no secret.

use std::io::Write;
use std::sync::{Arc, Mutex};

use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_kms::primitives::Blob;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider as TlsProvider, TlsContext, TrustStore};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyway_kms::{Provider, UnlockSecret};
use keyway_testkit::moto::REGION;

use crate::site::{SECRET, Site, context, dek};

/// By default, the SDK logs its requests at `trace`: the token of a session in the headers, and the DEK in the body of
/// Encrypt. The test first shows that the log would contain both, and then that it does not when the provider makes the
/// calls.
#[tokio::test]
async fn no_log_level_and_no_debug_shows_a_secret() {
    const TOKEN: &str = "session-token-hunter2";
    let Some(site) = Site::start() else { return };
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);

    encrypt_without_provider(&site, TOKEN).await;
    let told = log.take();
    let is_told = told.contains(TOKEN) && told.contains(&STANDARD.encode(SECRET));
    assert!(is_told, "the SDK logs no requests any more: is the log on?");

    let mut file = std::fs::read_to_string(&site.credentials).unwrap();
    let access_secret = file.rsplit(" = ").next().unwrap().trim().to_owned();
    file.push_str(&format!("aws_session_token = {TOKEN}\n"));
    std::fs::write(&site.credentials, file).unwrap();
    let aws = site.open(&site.key.arn);
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    let opened = aws.unwrap(&context(), &wrapped.0).await.unwrap();
    let generated = aws.generate(&context()).unwrap().await.unwrap();
    aws.unlock(UnlockSecret::Nothing).await.unwrap();
    let debug = format!("{aws:?} {opened:?} {generated:?}");
    for text in [log.take(), debug] {
        for secret in [&SECRET, generated.dek.expose()] {
            let base64 = STANDARD.encode(secret);
            let numbers = format!("{:?}", base64.as_bytes());
            assert!(!text.contains(&base64));
            assert!(!text.contains(numbers.trim_matches(['[', ']'])));
        }
        assert!(!text.contains(TOKEN));
        assert!(!text.contains(&access_secret));
    }
}

async fn encrypt_without_provider(site: &Site, token: &str) {
    let tls = TlsContext::builder().with_trust_store(TrustStore::empty());
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(TlsProvider::Rustls(CryptoMode::Ring))
        .tls_context(tls.build().unwrap())
        .build_https();
    let token = Some(token.to_owned());
    let credentials = Credentials::new("AKIATESTTESTTESTTEST", "none", token, None, "test");
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .region(Region::new(REGION))
        .endpoint_url(site.moto.endpoint_url())
        .credentials_provider(credentials)
        .build();
    let request = aws_sdk_kms::Client::from_conf(config).encrypt();
    let request = request.key_id(&site.key.arn).plaintext(Blob::new(SECRET));
    request.send().await.unwrap();
}

/// A log that a test reads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8_lossy(&bytes).into_owned()
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
