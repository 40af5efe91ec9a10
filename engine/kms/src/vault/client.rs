//! Requests to one server: pooled connections, time limits, and bodies that are wiped.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::private_file::{self, Rule};
use crate::{Class, KmsError};

use super::errors::not_vault;
use super::settings::{VaultAuth, VaultSettings};

/// Longest answer, in bytes: a wrapped key of the longest length, many times over.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest PEM file, in bytes: a machine's whole list of CAs has some 250 KiB.
const PEM_BYTES_MAX: usize = 1024 * 1024;
/// How long a connection may lie unused. Shorter than the 5 minutes after which Vault's listener closes it.
const IDLE_MAX: Duration = Duration::from_secs(60);

const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
/// An agent with `require_request_header` wants it.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The wait that the server asked for.
    pub(super) retry_after: Option<Duration>,
    /// `0..=ANSWER_BYTES_MAX` bytes.
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Speaks to one server.
pub(super) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// `https://HOST:PORT`, without a slash at the end.
    address: String,
    namespace: Option<HeaderValue>,
    time_limit: Duration,
}

impl Client {
    /// Reads the certificates. `settings` have been checked.
    pub(super) fn new(settings: &VaultSettings) -> Result<Self, KmsError> {
        let uri = settings.address()?;
        let is_plain = uri.scheme_str() == Some("http");
        let namespace = settings.namespace.as_deref().map(HeaderValue::from_str);
        let namespace = namespace.transpose().map_err(|_| {
            KmsError::new(
                Class::Misconfigured,
                "the setting namespace does not fit into a header",
                "give letters, digits, '-', '_' and '.'",
            )
        })?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.connect_limit()));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls(settings, is_plain)?);
        let connector = if is_plain {
            https.https_or_http().enable_http1().wrap_connector(tcp)
        } else {
            https.https_only().enable_http1().wrap_connector(tcp)
        };
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            // Bodies go from our buffer to the socket or to TLS, without a stay in hyper's.
            .http1_writev(true)
            .build(connector);
        Ok(Self {
            pool,
            address: uri.to_string().trim_end_matches('/').to_owned(),
            namespace,
            time_limit: settings.request_limit(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// `path`: of the API, without the leading `v1/`, in characters that need no escaping. Every status is an answer.
    pub(super) async fn post(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, KmsError> {
        self.send(Method::POST, path, token, body).await
    }

    /// As [`Client::post`], without a body.
    pub(super) async fn get(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
    ) -> Result<Answer, KmsError> {
        self.send(Method::GET, path, token, Bytes::new()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, KmsError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/v1/{path}", self.address))
            .header(REQUEST, HeaderValue::from_static("true"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace);
        }
        if let Some(token) = token {
            request = request.header(TOKEN, token);
        }
        let request = request.body(Full::new(body)).map_err(|error| {
            KmsError::new(
                Class::Misconfigured,
                format!(
                    "no request can be made for {}/v1/{path}: {error}",
                    self.address
                ),
                "check the settings address, mount and key",
            )
        })?;
        let exchange = async {
            let response = self
                .pool
                .request(request)
                .await
                .map_err(|error| self.failure(&error))?;
            self.collect(response).await
        };
        tokio::time::timeout(self.time_limit, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(KmsError::new(
                    Class::Unavailable { retry_after: None },
                    format!(
                        "{} does not answer within {:?}",
                        self.address, self.time_limit
                    ),
                    "look at the server's health, and at the network; request_ms_max is the limit",
                ))
            })
    }

    /// Reads the body into one allocation, so that no copies are left behind by growth.
    async fn collect(&self, response: Response<Incoming>) -> Result<Answer, KmsError> {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(wait);
        let mut body = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
        let mut incoming = response.into_body();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| self.failure(&error))?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let got = format!("more than {ANSWER_BYTES_MAX} bytes");
                return Err(not_vault(&self.address, &got));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            retry_after,
            body,
        })
    }

    /// What it means that no answer came.
    fn failure(&self, error: &(dyn Error + 'static)) -> KmsError {
        if let Some(error) = tls_error(error).filter(|error| is_trust(error)) {
            return KmsError::new(
                Class::Misconfigured,
                format!("TLS with {} fails: {error}", self.address),
                "check the setting ca_file, the certificate's names and dates, and our client certificate",
            );
        }
        KmsError::new(
            Class::Unavailable { retry_after: None },
            format!("{} cannot be reached: {}", self.address, root_cause(error)),
            "check that the server runs, its address, and the network",
        )
    }
}

/// A wait in whole seconds. Vault names no dates.
fn wait(value: &HeaderValue) -> Option<Duration> {
    Some(Duration::from_secs(
        value.to_str().ok()?.trim().parse().ok()?,
    ))
}

fn tls(settings: &VaultSettings, is_plain: bool) -> Result<ClientConfig, KmsError> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |error: rustls::Error| {
        KmsError::new(
            Class::Misconfigured,
            format!("TLS cannot be set up: {error}"),
            "check that the files of the setting auth are a certificate and its own private key",
        )
    };
    let roots = match &settings.ca_file {
        // Nothing is trusted where nothing is asked.
        _ if is_plain => RootCertStore::empty(),
        Some(path) => roots_of(path)?,
        None => native_roots()?,
    };
    let config = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots);
    match &settings.auth {
        VaultAuth::Cert {
            cert_file,
            key_file,
            ..
        } => {
            let chain = certificates(cert_file)?;
            let pem = private_file::read(key_file, Rule::Credential, PEM_BYTES_MAX)?;
            let key = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| bad_pem(key_file, "an unencrypted private key"))?;
            config.with_client_auth_cert(chain, key).map_err(unusable)
        }
        VaultAuth::Token { .. } | VaultAuth::Approle { .. } => Ok(config.with_no_client_auth()),
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, KmsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|_| bad_pem(path, "a certificate of a CA"))?;
    }
    Ok(roots)
}

fn native_roots() -> Result<RootCertStore, KmsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(KmsError::new(
            Class::Misconfigured,
            "this machine trusts no CA",
            "install the package ca-certificates, or name the server's CA in the setting ca_file",
        ));
    }
    Ok(roots)
}

/// The certificates of a PEM file, at least one. They are public, so anybody may read the file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KmsError> {
    let file = std::fs::File::open(path).map_err(|error| {
        KmsError::new(
            Class::Misconfigured,
            format!("cannot open {}: {error}", path.display()),
            "check the path, and that the service's user may read it",
        )
    })?;
    let pem = private_file::read_bounded(file, path, PEM_BYTES_MAX)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(bad_pem(path, "certificates")),
    }
}

fn bad_pem(path: &Path, wanted: &str) -> KmsError {
    KmsError::new(
        Class::Misconfigured,
        format!("{} does not hold {wanted} as PEM", path.display()),
        "check that the path names the right file",
    )
}

/// The TLS error at the root of `error`, if there is one. `io::Error` does not show what it wraps as its source.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| {
        match cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        }
    })
}

/// Whether the two ends will not trust or understand each other until somebody changes a setting.
fn is_trust(error: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::PeerIncompatible(_)
        | rustls::Error::NoCertificatesPresented
        | rustls::Error::InvalidMessage(_) => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::CertificateRequired
                | Alert::UnknownCA
                | Alert::ProtocolVersion
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_whole_seconds() {
        assert_eq!(
            wait(&HeaderValue::from_static("7")),
            Some(Duration::from_secs(7))
        );
        for bad in ["", "-1", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(wait(&HeaderValue::from_static(bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_tls_error_is_found_below_io_errors() {
        let tls = rustls::Error::NoCertificatesPresented;
        let error = io::Error::other(io::Error::other(tls));
        assert!(tls_error(&error).is_some_and(is_trust));
        assert!(tls_error(&io::Error::other("no TLS")).is_none());
    }
}
