//! The `vault` provider's settings, and the checks that need no network.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use serde::Deserialize;

use crate::{Class, KmsError};

/// Longest name, in bytes, of a mount, key, namespace or role.
const NAME_BYTES_MAX: usize = 256;
/// Longest time limit, in ms.
const LIMIT_MS_MAX: u64 = 60_000;

/// The Vault or OpenBao server, the transit key, and how to log in. It contains no secret: those are in files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSettings {
    /// `https://HOST[:PORT]`, or `http://` for a loopback host. Without a path.
    pub address: String,
    /// Where the transit engine is mounted.
    #[serde(default = "transit")]
    pub mount: String,
    /// The transit key's name. It must be a derived key.
    pub key: String,
    /// The namespace of both the transit engine and the auth method. `None` for the root namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The CAs that may sign the server's certificate, as PEM. `None` for those that the machine trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How to log in.
    pub auth: VaultAuth,
    /// Time to connect, in ms. `1..=60_000`.
    #[serde(default = "connect_ms_max")]
    pub connect_ms_max: u64,
    /// Time limit of one request with its answer, in ms; a call is one request, or several if it must log in first. At
    /// least `connect_ms_max`, and at most 60,000.
    #[serde(default = "request_ms_max")]
    pub request_ms_max: u64,
}

/// How to log in. A file with a secret must belong to the service's user or to root, and be inaccessible to all others; a
/// token or secret id is one line of printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum VaultAuth {
    /// A token obtained by another program. It is renewed if possible; the file is read again when the token is refused
    /// or expires, so an agent may replace it. The file may be missing when the server starts.
    Token {
        /// The file with the token.
        token_file: PathBuf,
    },
    /// AppRole. A server locks the role out temporarily (OpenBao: 15 minutes) after some wrong secret ids (5), so write a
    /// new one to the file before the old one expires.
    Approle {
        /// Where the auth method is mounted.
        #[serde(default = "approle")]
        mount: String,
        /// The role's id, which is no secret.
        role_id: String,
        /// The file with the secret id; read at each login.
        secret_id_file: PathBuf,
    },
    /// A TLS client certificate. The files are read at the start only.
    Cert {
        /// Where the auth method is mounted.
        #[serde(default = "cert")]
        mount: String,
        /// The name of the certificate's role. `None`: the server tries all of them.
        #[serde(default)]
        name: Option<String>,
        /// The certificate, and those that lead to its CA, as PEM.
        cert_file: PathBuf,
        /// Its private key, as PEM.
        key_file: PathBuf,
    },
}

fn transit() -> String {
    "transit".into()
}

fn approle() -> String {
    "approle".into()
}

fn cert() -> String {
    "cert".into()
}

/// A TCP and a TLS handshake within a continent, with slack for one lost packet.
fn connect_ms_max() -> u64 {
    2_000
}

/// Below [`Budget::call_ms_max`](crate::Budget), so that the message names the server and not the budget.
fn request_ms_max() -> u64 {
    4_000
}

impl VaultSettings {
    /// Refuses invalid settings.
    pub(super) fn check(&self) -> Result<(), KmsError> {
        let address = self.address()?;
        check_path("mount", &self.mount)?;
        check_name("key", &self.key)?;
        if let Some(namespace) = &self.namespace {
            check_path("namespace", namespace)?;
        }
        self.auth.check(&address)?;
        let limits = 1..=LIMIT_MS_MAX;
        if !limits.contains(&self.connect_ms_max) || !limits.contains(&self.request_ms_max) {
            return Err(refuse(
                format!(
                    "connect_ms_max = {} and request_ms_max = {}",
                    self.connect_ms_max, self.request_ms_max
                ),
                "give 1 to 60000 ms for each",
            ));
        }
        if self.connect_ms_max > self.request_ms_max {
            return Err(refuse(
                format!(
                    "connect_ms_max = {} is more than request_ms_max = {}, which contains it",
                    self.connect_ms_max, self.request_ms_max
                ),
                "give request_ms_max as much or more",
            ));
        }
        Ok(())
    }

    /// Returns `address`, checked: a scheme, a host and optionally a port.
    pub(super) fn address(&self) -> Result<Uri, KmsError> {
        let shape = "give https://HOST:PORT";
        let what = |why: &str| format!("address = {:?} {why}", self.address);
        if self.address.contains(['?', '#']) {
            return Err(refuse(what("has a query"), shape));
        }
        let uri: Uri = self
            .address
            .parse()
            .map_err(|_| refuse(what("is not a URL"), shape))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(refuse(what("has no scheme or no host"), shape));
        };
        if authority.as_str().contains('@') {
            // The value may contain a password: it is not repeated.
            return Err(refuse("address has a user name in it".into(), shape));
        }
        if authority.host().is_empty() {
            return Err(refuse(what("has no host"), shape));
        }
        if uri.path() != "/" {
            return Err(refuse(what("has a path"), shape));
        }
        match scheme {
            "https" => Ok(uri),
            "http" if is_loopback(authority.host()) => Ok(uri),
            "http" => Err(refuse(
                what("would send tokens and keys over the network in the clear"),
                "use https://; http:// is for a loopback host, such as an agent on this machine",
            )),
            _ => Err(refuse(what("is neither https:// nor http://"), shape)),
        }
    }

    pub(super) fn connect_limit(&self) -> Duration {
        Duration::from_millis(self.connect_ms_max)
    }

    pub(super) fn request_limit(&self) -> Duration {
        Duration::from_millis(self.request_ms_max)
    }
}

impl VaultAuth {
    fn check(&self, address: &Uri) -> Result<(), KmsError> {
        match self {
            Self::Token { .. } => Ok(()),
            Self::Approle { mount, role_id, .. } => {
                check_path("auth.mount", mount)?;
                check_text("auth.role_id", role_id)
            }
            Self::Cert { .. } if address.scheme_str() != Some("https") => Err(refuse(
                format!("auth.method = \"cert\" with address = \"{address}\""),
                "use https://: the client certificate is shown in the TLS handshake",
            )),
            Self::Cert { mount, name, .. } => {
                check_path("auth.mount", mount)?;
                name.as_ref()
                    .map_or(Ok(()), |name| check_text("auth.name", name))
            }
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Checks a name that is one segment of a URL's path, and needs no escaping there.
fn check_name(setting: &str, name: &str) -> Result<(), KmsError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let has_letters = name.bytes().any(|byte| byte != b'.');
    if has_letters && name.len() <= NAME_BYTES_MAX && name.bytes().all(fits) {
        return Ok(());
    }
    Err(refuse(
        format!("{setting} = {name:?} is not a name that the API takes"),
        "give 1 to 256 of: letters, digits, '-', '_' and '.'",
    ))
}

/// Checks names separated by `/`.
fn check_path(setting: &str, path: &str) -> Result<(), KmsError> {
    if path.len() > NAME_BYTES_MAX || path.split('/').any(|name| check_name("", name).is_err()) {
        return Err(refuse(
            format!("{setting} = {path:?} is not a path that the API takes"),
            "give names of letters, digits, '-', '_' and '.', with '/' between them and at no end",
        ));
    }
    Ok(())
}

/// Checks a text that goes into a request's body.
fn check_text(setting: &str, text: &str) -> Result<(), KmsError> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(refuse(
            format!("{setting} = {text:?} is not a name that the API takes"),
            "give 1 to 256 printable characters of ASCII, without spaces",
        ));
    }
    Ok(())
}

fn refuse(what: String, remedy: &str) -> KmsError {
    KmsError::new(Class::Misconfigured, what, remedy)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings(changes: &Value) -> Result<VaultSettings, serde_json::Error> {
        let mut value = json!({
            "address": "https://vault.example:8200",
            "key": "dek",
            "auth": {"method": "token", "token_file": "/run/token"},
        });
        for (name, change) in changes.as_object().unwrap() {
            value[name] = change.clone();
        }
        serde_json::from_value(value)
    }

    #[test]
    fn the_defaults_are_those_of_the_server() {
        let settings = settings(&json!({"auth": {
            "method": "approle", "role_id": "r", "secret_id_file": "/run/secret-id",
        }}))
        .unwrap();
        settings.check().unwrap();
        assert_eq!(settings.mount, "transit");
        let VaultAuth::Approle { mount, .. } = &settings.auth else {
            panic!("{:?}", settings.auth);
        };
        assert_eq!(mount, "approle");
        assert!(settings.request_ms_max < crate::Budget::default().call_ms_max);
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(settings(&json!({"adress": "x"})).is_err());
        for auth in [
            json!({"method": "token", "token_file": "/t", "token": "s.secret"}),
            json!({"method": "approle", "role_id": "r", "secret_id": "s"}),
            json!({"method": "userpass"}),
            json!({"token_file": "/t"}),
        ] {
            assert!(settings(&json!({"auth": auth})).is_err(), "{auth}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in [
            "https://vault.example",
            "https://vault.example:8200/",
            "https://[2001:db8::1]:8200",
            "http://127.0.0.1:8200",
            "http://127.9.9.9:8200",
            "http://[::1]:8200",
            "http://localhost",
        ] {
            settings(&json!({"address": good}))
                .unwrap()
                .check()
                .unwrap();
        }
        for (bad, reason) in [
            ("http://vault.example:8200", "in the clear"),
            ("http://10.0.0.1:8200", "in the clear"),
            ("http://localhost.example", "in the clear"),
            ("http://127.0.0.1.example", "in the clear"),
            ("ftp://127.0.0.1", "neither"),
            ("127.0.0.1:8200", "scheme"),
            ("vault.example", "scheme"),
            ("/v1", "scheme"),
            ("", "URL"),
            ("https://vault.example/v1", "path"),
            ("https://vault.example/?a=b", "query"),
            ("https://vault.example#a", "query"),
        ] {
            let error = settings(&json!({"address": bad}))
                .unwrap()
                .check()
                .unwrap_err();
            assert_eq!(error.class(), Class::Misconfigured);
            assert!(error.what().contains(reason), "{bad}: {error}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let bad = json!({"address": "https://user:hunter2@vault.example"});
        let error = settings(&bad).unwrap().check().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.what().contains("user name"));
    }

    #[test]
    fn names_that_would_change_the_path_are_refused() {
        for (setting, bad) in [
            ("key", ""),
            ("key", ".."),
            ("key", "a/b"),
            ("key", "a b"),
            ("key", "a?b"),
            ("key", "a%2fb"),
            ("mount", ""),
            ("mount", "/transit"),
            ("mount", "transit/"),
            ("mount", "a//b"),
            ("mount", "a/../sys"),
            ("namespace", "team\r\nX-Vault-Token: x"),
            ("namespace", "team/"),
        ] {
            let error = settings(&json!({setting: bad}))
                .unwrap()
                .check()
                .unwrap_err();
            assert!(error.what().starts_with(setting), "{bad}: {error}");
        }
        for (setting, good) in [
            ("key", "dek-1_a.b"),
            ("mount", "team/transit"),
            ("namespace", "a/b"),
        ] {
            settings(&json!({setting: good})).unwrap().check().unwrap();
        }
    }

    #[test]
    fn impossible_limits_and_methods_are_refused() {
        let cert = json!({"method": "cert", "cert_file": "/c", "key_file": "/k"});
        let empty_role = json!({"method": "approle", "role_id": "", "secret_id_file": "/s"});
        for (changes, reason) in [
            (json!({"connect_ms_max": 0}), "connect_ms_max = 0"),
            (json!({"request_ms_max": 60_001}), "request_ms_max = 60001"),
            (json!({"connect_ms_max": 5_000}), "more than"),
            (json!({"address": "http://127.0.0.1", "auth": cert}), "cert"),
            (json!({"auth": empty_role}), "auth.role_id"),
        ] {
            let error = settings(&changes).unwrap().check().unwrap_err();
            assert!(error.what().contains(reason), "{changes}: {error}");
        }
    }
}
