//! The SDK's client, created at the first call, and its restrictions.

use std::future::Future;

use aws_config::SdkConfig;
use aws_config::profile::ProfileFileCredentialsProvider;
#[expect(
    deprecated,
    reason = "the new names are in aws-runtime, which nothing else here needs"
)]
use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
use aws_config::provider_config::ProviderConfig;
use aws_sdk_kms::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{
    BehaviorVersion, ConfigBag, IdentityCache, Intercept, Region, RuntimeComponents,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_kms::error::BoxError;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider as TlsProvider, TlsContext, TrustStore};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::OnceCell;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use super::fetches::Fetches;
use super::key_name::KeyName;
use super::settings::{AwsSettings, check_endpoint, is_loopback};
use crate::stamp::Stamp;
use crate::{Class, KmsError};

/// One client with its credentials, from an unlock to the next lock. The first call creates it, because determining the
/// region may need a request; concurrent calls wait for it. Dropping it drops the cached credentials.
#[derive(Debug)]
pub(super) struct Connection {
    client: OnceCell<aws_sdk_kms::Client>,
    /// State of the files with the credentials and the CAs, before they are read.
    files: Stamp,
}

impl Connection {
    pub(super) fn new(files: Stamp) -> Self {
        Self {
            client: OnceCell::new(),
            files,
        }
    }

    /// Returns `true` if the files had this state.
    pub(super) fn is_of(&self, files: &Stamp) -> bool {
        self.files == *files
    }

    /// Returns the client. After a failure, the next call tries again.
    pub(super) async fn client(
        &self,
        settings: &AwsSettings,
        key: &KeyName,
        fetches: &Fetches,
    ) -> Result<&aws_sdk_kms::Client, KmsError> {
        self.client
            .get_or_try_init(|| without_sdk_logging(make_client(settings, key, fetches)))
            .await
    }
}

/// Runs a future of the SDK without logging. At level `trace` the SDK logs complete requests: a session's token, and the
/// DEK in an Encrypt request. Two of its environment variables (`LOG_SIGNABLE_BODY`, `LOG_SENSITIVE_BODIES`) add the body
/// and the answers. No level and no variable may write a secret to disk. The error contains the cause.
pub(super) fn without_sdk_logging<F: Future>(future: F) -> impl Future<Output = F::Output> {
    future.with_subscriber(NoSubscriber::default())
}

async fn make_client(
    settings: &AwsSettings,
    key: &KeyName,
    fetches: &Fetches,
) -> Result<aws_sdk_kms::Client, KmsError> {
    let limit = settings.call_time_max();
    let loaded = tokio::time::timeout(limit, load(settings, key)).await;
    let config = loaded.map_err(|_| {
        KmsError::new(
            Class::Unavailable { retry_after: None },
            format!("the AWS configuration was not determined within {limit:?}"),
            "set region; otherwise it is read from the machine's metadata service",
        )
    })??;
    let mut kms = aws_sdk_kms::config::Builder::from(&config).interceptor(EndpointGuard);
    if let Some(source) = config.credentials_provider() {
        kms.set_credentials_provider(Some(fetches.of(source)));
    }
    Ok(aws_sdk_kms::Client::from_conf(kms.build()))
}

async fn load(settings: &AwsSettings, key: &KeyName) -> Result<SdkConfig, KmsError> {
    let http = http_client(settings)?;
    let call_max = settings.call_time_max();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http.clone())
        // The service retries, within one budget for all; retries in the SDK would multiply the attempts.
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(settings.connect_time_max())
                .read_timeout(call_max)
                .operation_attempt_timeout(call_max)
                .operation_timeout(call_max)
                .build(),
        )
        // Bodies are a few kilobytes, and the time limits above are stricter.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Earlier than the call's own limit, so that the error names what took so long.
        .identity_cache(
            IdentityCache::lazy()
                .load_timeout(call_max.mul_f32(0.75))
                .build(),
        );
    if let Some(region) = settings.known_region(key) {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(url) = &settings.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    let files = profile_files(settings);
    if let Some(files) = &files {
        loader = loader.profile_files(files.clone());
    }
    if settings.names_credentials() {
        loader = loader.no_credentials();
    }
    let base = loader.load().await;
    let Some(region) = base.region().cloned() else {
        return Err(KmsError::new(
            Class::Misconfigured,
            format!("no AWS region is known for key {}", key.as_str()),
            "set region, name the key by its ARN, or set AWS_REGION",
        ));
    };
    if let Some(url) = base.endpoint_url() {
        // It may come from AWS_ENDPOINT_URL or a profile.
        check_endpoint(url)?;
    }
    if !settings.names_credentials() {
        return Ok(base);
    }
    let sources = ProviderConfig::without_region()
        .with_region(Some(region))
        .with_retry_config(RetryConfig::disabled())
        .with_http_client(http);
    let mut provider = ProfileFileCredentialsProvider::builder().configure(&sources);
    if let Some(files) = files {
        provider = provider.profile_files(files);
    }
    if let Some(profile) = &settings.profile {
        provider = provider.profile_name(profile);
    }
    let provider = SharedCredentialsProvider::new(provider.build());
    Ok(base.into_builder().credentials_provider(provider).build())
}

#[expect(
    deprecated,
    reason = "the new names are in aws-runtime, which nothing else here needs"
)]
fn profile_files(settings: &AwsSettings) -> Option<ProfileFiles> {
    let path = settings.credentials_file.as_ref()?;
    let files = ProfileFiles::builder()
        .include_default_config_file(true)
        .with_file(ProfileFileKind::Credentials, path)
        .build();
    Some(files)
}

/// Creates an HTTP client of hyper and rustls, with ring. HTTPS_PROXY is ignored: the way to a KMS without a route to the
/// internet is an endpoint in the local network.
fn http_client(settings: &AwsSettings) -> Result<SharedHttpClient, KmsError> {
    let roots = trusted_roots();
    let needs_tls = settings
        .endpoint_url
        .as_ref()
        .is_none_or(|url| url.starts_with("https:"));
    if roots.is_empty() && needs_tls {
        return Err(KmsError::new(
            Class::Misconfigured,
            "this machine has no trusted root certificates",
            "install the package ca-certificates, or set SSL_CERT_FILE",
        ));
    }
    let mut trusted = TrustStore::empty();
    trusted.add_pem_certificate(roots);
    let tls = TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .map_err(|error| {
            KmsError::new(
                Class::Misconfigured,
                format!("cannot configure TLS for AWS KMS: {error}"),
                "check the machine's trusted root certificates",
            )
        })?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(TlsProvider::Rustls(CryptoMode::Ring))
        .tls_context(tls)
        .build_https())
}

/// Returns the machine's trusted roots as PEM, without those that rustls cannot use. The SDK would read them only once in
/// a process.
fn trusted_roots() -> Vec<u8> {
    let mut pem = Vec::new();
    for root in rustls_native_certs::load_native_certs().certs {
        if rustls::RootCertStore::empty().add(root.clone()).is_err() {
            continue;
        }
        pem.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
        pem.extend_from_slice(STANDARD.encode(&root).as_bytes());
        pem.extend_from_slice(b"\n-----END CERTIFICATE-----\n");
    }
    pem
}

/// The last check before a request is sent. Endpoints also come from the environment and from profiles, in several forms,
/// all of which end here.
#[derive(Debug)]
struct EndpointGuard;

impl Intercept for EndpointGuard {
    fn name(&self) -> &'static str {
        "EndpointGuard"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let uri: hyper::Uri = context.request().uri().parse()?;
        let is_safe = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => uri.host().is_some_and(is_loopback),
            _ => false,
        };
        if is_safe {
            return Ok(());
        }
        Err(BoxError::from(PlaintextEndpoint))
    }
}

/// The error for an endpoint in the environment or a profile that is neither https nor loopback.
#[derive(Debug)]
pub(super) struct PlaintextEndpoint;

impl std::fmt::Display for PlaintextEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the endpoint is neither https nor on loopback")
    }
}

impl std::error::Error for PlaintextEndpoint {}

#[cfg(test)]
mod tests {
    use aws_sdk_kms::config::Credentials;
    use aws_sdk_kms::primitives::Blob;

    use super::super::classify::{Asked, classify};
    use super::*;

    /// 192.0.2.1 belongs to no machine, and no request tests that.
    #[tokio::test]
    async fn the_guard_stops_a_request_in_the_clear_before_it_leaves() {
        let http = http_client(&AwsSettings {
            endpoint_url: Some("http://127.0.0.1".to_owned()),
            ..AwsSettings::new("alias/keyway")
        });
        let config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http.unwrap())
            .retry_config(RetryConfig::disabled())
            .region(Region::new("eu-central-1"))
            .endpoint_url("http://192.0.2.1")
            .credentials_provider(Credentials::new("id", "none", None, None, "test"))
            .interceptor(EndpointGuard)
            .build();
        let request = aws_sdk_kms::Client::from_conf(config).encrypt();
        let request = request.key_id("alias/keyway").plaintext(Blob::new("x"));
        let error = request.send().await.unwrap_err();
        let asked = Asked {
            operation: "Encrypt",
            key: "alias/keyway",
            now: std::time::SystemTime::now(),
        };
        let error = classify(asked, &error).error;
        assert_eq!(error.class(), Class::Misconfigured, "{error}");
        assert!(
            error.what().contains(&PlaintextEndpoint.to_string()),
            "{error}"
        );
    }
}
