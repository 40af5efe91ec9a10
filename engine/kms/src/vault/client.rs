//! Requests to one server: pooled connections, time limits, and bodies that are wiped.

use std::error::Error;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
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
use rustls::ClientConfig;
use rustls::client::Resumption;
use zeroize::Zeroizing;

use super::errors::not_vault;
use super::settings::VaultSettings;
use super::tls;
use crate::stamp::Stamp;
use crate::{Cause, Class, KmsError};

/// Longest answer, in bytes: many times a wrapped key of the greatest length.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long a connection may be idle. Shorter than the 5 minutes after which Vault's listener closes it.
const IDLE_MAX: Duration = Duration::from_secs(60);

const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
/// Required by an agent with `require_request_header`.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// An answer.
pub(super) struct VaultResponse {
    pub(super) status: StatusCode,
    /// The wait requested by the server.
    pub(super) retry_after: Option<Duration>,
    /// `0..=ANSWER_BYTES_MAX` bytes.
    pub(super) body: Zeroizing<Vec<u8>>,
}

type Connections = Pool<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The client of one server.
pub(super) struct Client {
    settings: VaultSettings,
    pool: Mutex<Pooled>,
    /// `https://HOST:PORT`, without a slash at the end.
    address: String,
    /// Without TLS.
    is_plain: bool,
    namespace: Option<HeaderValue>,
    time_limit: Duration,
}

/// Connections under one state of the certificates' files.
struct Pooled {
    connections: Connections,
    /// What those files say, so that new connections need no file and no descriptor.
    tls: ClientConfig,
    stamp: Stamp,
    /// The state of files that could not be read, so that this is logged once.
    unreadable: Option<Stamp>,
}

impl Client {
    /// Reads the certificates. `settings` were checked before.
    pub(super) fn new(settings: &VaultSettings) -> Result<Self, KmsError> {
        let uri = settings.address()?;
        let namespace = settings.namespace.as_deref().map(HeaderValue::from_str);
        let namespace = namespace.transpose().map_err(|_| {
            KmsError::new(
                Class::Misconfigured,
                "the setting namespace does not fit into a header",
                "give letters, digits, '-', '_' and '.'",
            )
        })?;
        let stamp = tls::stamp(settings);
        let is_plain = uri.scheme_str() == Some("http");
        let tls = tls::tls(settings, is_plain)?;
        Ok(Self {
            pool: Mutex::new(Pooled {
                stamp,
                connections: connections(settings, is_plain, &tls),
                tls,
                unreadable: None,
            }),
            is_plain,
            settings: settings.clone(),
            address: uri.to_string().trim_end_matches('/').to_owned(),
            namespace,
            time_limit: settings.request_limit(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Closes idle connections, and those in use when they become idle: their buffers contain tokens and keys. It cannot
    /// fail: it reads no file and opens none.
    pub(super) fn drop_connections(&self) {
        let mut pool = self.pool();
        // Sessions to resume belong to the connections.
        pool.tls.resumption = Resumption::default();
        pool.connections = connections(&self.settings, self.is_plain, &pool.tls);
    }

    /// Returns the connections, or new ones under new certificates if a file has changed. While a file cannot be read,
    /// for example because it is being written, the old certificates stay in use.
    fn connections(&self) -> Connections {
        let stamp = tls::stamp(&self.settings);
        let mut pool = self.pool();
        if pool.stamp != stamp && pool.unreadable.as_ref() != Some(&stamp) {
            match tls::tls(&self.settings, self.is_plain) {
                Ok(tls) => {
                    tracing::info!(
                        address = self.address,
                        "the certificates were read again: their files have changed"
                    );
                    pool.connections = connections(&self.settings, self.is_plain, &tls);
                    pool.tls = tls;
                    pool.stamp = stamp;
                    pool.unreadable = None;
                }
                Err(error) => {
                    tracing::warn!(
                        address = self.address,
                        %error,
                        "changed certificates cannot be used: those from before stay in use"
                    );
                    pool.unreadable = Some(stamp);
                }
            }
        }
        pool.connections.clone()
    }

    fn pool(&self) -> MutexGuard<'_, Pooled> {
        // No change of it can panic half way.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a POST request. `path` is below the API's `v1/`, in characters that need no escaping. Every status counts as
    /// an answer.
    pub(super) async fn post(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<VaultResponse, KmsError> {
        self.send(Method::POST, path, token, body).await
    }

    /// As [`Client::post`], with GET and without a body.
    pub(super) async fn get(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
    ) -> Result<VaultResponse, KmsError> {
        self.send(Method::GET, path, token, Bytes::new()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<VaultResponse, KmsError> {
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
        let connections = self.connections();
        let exchange = async {
            let response = connections
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
                )
                .from_cause(Cause::TimedOut))
            })
    }

    /// Reads the body into one allocation, so that growth leaves no copies.
    async fn collect(&self, response: Response<Incoming>) -> Result<VaultResponse, KmsError> {
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
        Ok(VaultResponse {
            status,
            retry_after,
            body,
        })
    }

    /// Classifies a missing answer.
    fn failure(&self, error: &(dyn Error + 'static)) -> KmsError {
        if let Some((class, cause, remedy)) = tls_error(error).and_then(trust) {
            let cause_text = root_cause(error);
            let what = format!("TLS with {} fails: {cause_text}", self.address);
            return KmsError::new(class, what, remedy).from_cause(cause);
        }
        KmsError::new(
            Class::Unavailable { retry_after: None },
            format!("{} cannot be reached: {}", self.address, root_cause(error)),
            "check that the server runs, its address, and the network",
        )
        .from_cause(network_cause(error))
    }
}

/// Parses a wait in whole seconds. Vault does not use dates.
fn wait(value: &HeaderValue) -> Option<Duration> {
    Some(Duration::from_secs(
        value.to_str().ok()?.trim().parse().ok()?,
    ))
}

/// Returns the TLS error at the root of `error`, if there is one. `io::Error` does not expose the wrapped error as its
/// source.
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

/// Returns the cause of a network error.
fn network_cause(error: &(dyn Error + 'static)) -> Cause {
    let kinds = causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    for kind in kinds {
        match kind {
            io::ErrorKind::ConnectionRefused => return Cause::ConnectionRefused,
            io::ErrorKind::TimedOut => return Cause::TimedOut,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => return Cause::ConnectionLost,
            _ => {}
        }
    }
    // The connector distinguishes it by its text only.
    let says = |words: &str| causes(error).any(|cause| cause.to_string().contains(words));
    if says("dns error") || says("failed to lookup address") {
        Cause::NoSuchHost
    } else if says("deadline has elapsed") {
        Cause::TimedOut
    } else {
        Cause::ConnectionLost
    }
}

/// Classifies a failed handshake that only a change of a setting, a file or a clock can fix.
fn trust(error: &rustls::Error) -> Option<(Class, Cause, &'static str)> {
    use rustls::AlertDescription as Alert;
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. },
        ) => Some((
            Class::Misconfigured,
            Cause::ServerCertificateExpired,
            "renew the server's certificate, or set the clock of this machine",
        )),
        rustls::Error::InvalidCertificate(_) => Some((
            Class::Misconfigured,
            Cause::ServerCertificateUntrusted,
            "name the CA of the server's certificate, or a certificate that it signed itself, in ca_file, and check the \
             certificate's names; the file is read again when it changes",
        )),
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::InvalidMessage(_)
        | rustls::Error::AlertReceived(Alert::ProtocolVersion) => Some((
            Class::Misconfigured,
            Cause::Settings,
            "check the setting address: the server does not speak TLS 1.2 or 1.3 there",
        )),
        rustls::Error::NoCertificatesPresented => Some((
            Class::Misconfigured,
            Cause::ServerCertificateUntrusted,
            "give the server a certificate",
        )),
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => Some((
            Class::Credential,
            Cause::ClientCertificate,
            "renew our client certificate (auth.cert_file and key_file): the files are read again when they change",
        )),
        _ => None,
    }
}

/// Creates an empty pool of connections.
fn connections(settings: &VaultSettings, is_plain: bool, tls: &ClientConfig) -> Connections {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(settings.connect_limit()));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls.clone());
    let connector = if is_plain {
        https.https_or_http().enable_http1().wrap_connector(tcp)
    } else {
        https.https_only().enable_http1().wrap_connector(tcp)
    };
    Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        // Bodies go from their buffer to the socket or to TLS, without a copy in hyper's.
        .http1_writev(true)
        .build(connector)
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
        assert!(tls_error(&error).and_then(trust).is_some());
        assert!(tls_error(&io::Error::other("no TLS")).is_none());
    }
}
