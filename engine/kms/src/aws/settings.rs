//! The operator's settings for a key at AWS KMS, checked once.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use serde::Deserialize;

use super::key_name::KeyName;
use crate::roots;
use crate::stamp::Stamp;
use crate::{Class, KmsError};

/// Longest of the time limits, in ms: a minute. The callers' own limits are far below.
const TIME_MS_MAX: u64 = 60_000;
/// Longest name of a region or profile.
const NAME_BYTES_MAX: usize = 128;

/// A key at AWS KMS and how to reach it. Nothing in it is secret: credentials come from the same sources as for AWS's own
/// tools.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsSettings {
    /// A symmetric encryption key: its id, its ARN, `alias/NAME`, or an alias's ARN. An ARN is best: it determines the
    /// account, while an alias can be changed to a key that did not wrap what is stored.
    pub key_id: String,
    /// The region. Default: the one in the ARN, otherwise `AWS_REGION`, the profile's, or the one in the machine's
    /// metadata.
    #[serde(default)]
    pub region: Option<String>,
    /// The endpoint of KMS, as `https://HOST[:PORT]`; http is accepted for loopback only. Default: the region's endpoint.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// The profile that provides credentials. If it or `credentials_file` is set, credentials come only from that
    /// profile. Default: the SDK's chain of environment, profile, web identity, container, and the machine's metadata.
    #[serde(default)]
    pub profile: Option<String>,
    /// A credentials file instead of `~/.aws/credentials`.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// Time to connect, in ms. `1..=call_ms_max`.
    #[serde(default = "default_connect_ms_max")]
    pub connect_ms_max: u64,
    /// Time limit of one call including credentials, connecting and the answer, in ms. `1..=60000`. Keep it below
    /// [`Budget::call_ms_max`](crate::Budget::call_ms_max), so that the error of a timeout names the endpoint.
    #[serde(default = "default_call_ms_max")]
    pub call_ms_max: u64,
}

const fn default_connect_ms_max() -> u64 {
    2_000
}

const fn default_call_ms_max() -> u64 {
    4_000
}

impl AwsSettings {
    /// Creates settings for `key_id` with defaults for everything else.
    pub fn new(key_id: impl Into<String>) -> Self {
        Self {
            key_id: key_id.into(),
            region: None,
            endpoint_url: None,
            profile: None,
            credentials_file: None,
            connect_ms_max: default_connect_ms_max(),
            call_ms_max: default_call_ms_max(),
        }
    }

    /// Returns the region if it is known without a request: the configured one, otherwise the ARN's.
    pub(super) fn known_region<'a>(&'a self, key: &'a KeyName) -> Option<&'a str> {
        self.region.as_deref().or(key.region())
    }

    /// Returns `true` if credentials may come from the named profile only.
    pub(super) fn names_credentials(&self) -> bool {
        self.profile.is_some() || self.credentials_file.is_some()
    }

    /// Returns the state of the files with the credentials and the machine's CAs, as far as they are known: what an
    /// instance or container role provides is not in files.
    pub(super) fn files_stamp(&self) -> Stamp {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let in_home = |name: &str| Some(variable("HOME")?.join(".aws").join(name));
        let credentials = self.credentials_file.clone();
        let files = [
            credentials
                .or_else(|| variable("AWS_SHARED_CREDENTIALS_FILE"))
                .or_else(|| in_home("credentials")),
            variable("AWS_CONFIG_FILE").or_else(|| in_home("config")),
            variable("AWS_WEB_IDENTITY_TOKEN_FILE"),
        ];
        let files = files.iter().flatten().map(PathBuf::as_path);
        Stamp::of(files).and(roots::stamp())
    }

    /// [`AwsSettings::call_ms_max`].
    pub(super) fn call_time_max(&self) -> Duration {
        Duration::from_millis(self.call_ms_max)
    }

    /// [`AwsSettings::connect_ms_max`].
    pub(super) fn connect_time_max(&self) -> Duration {
        Duration::from_millis(self.connect_ms_max)
    }

    /// Refuses invalid settings, and returns the parsed key name.
    pub(super) fn check(&self) -> Result<KeyName, KmsError> {
        let key = KeyName::parse(&self.key_id)?;
        if let Some(region) = &self.region {
            let is_label =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            // The region becomes part of a host name.
            if region.is_empty() || region.len() > NAME_BYTES_MAX || !region.bytes().all(is_label) {
                return Err(misconfigured(
                    format!("region is {region:?}"),
                    "name a region, such as eu-central-1",
                ));
            }
            if let Some(of_key) = key.region().filter(|of_key| of_key != region) {
                return Err(misconfigured(
                    format!("region is {region}, and key_id is in {of_key}"),
                    "leave region out, or name a key of that region",
                ));
            }
        }
        if let Some(profile) = &self.profile
            && (profile.is_empty() || profile.len() > NAME_BYTES_MAX)
        {
            return Err(misconfigured(
                format!(
                    "profile is {} bytes long, not 1 to {NAME_BYTES_MAX}",
                    profile.len()
                ),
                "name a profile of the AWS configuration, or leave it out",
            ));
        }
        if let Some(url) = &self.endpoint_url {
            check_endpoint(url)?;
        }
        let limits = [
            ("call_ms_max", self.call_ms_max, TIME_MS_MAX),
            ("connect_ms_max", self.connect_ms_max, self.call_ms_max),
        ];
        for (name, value, max) in limits {
            if !(1..=max).contains(&value) {
                return Err(misconfigured(
                    format!("{name} is {value}, not 1 to {max}"),
                    "connect_ms_max goes up to call_ms_max, and call_ms_max up to a minute",
                ));
            }
        }
        Ok(key)
    }
}

/// Refuses an endpoint to which no request with plaintext may be sent: anything but https, except on loopback. The URL
/// must not contain a user, path or query, which would end up in logs.
pub(super) fn check_endpoint(url: &str) -> Result<(), KmsError> {
    const REMEDY: &str = "give https://HOST[:PORT]; http is for loopback addresses alone";
    // The text is not shown until it is known to contain no password.
    let uri: Uri = url
        .parse()
        .map_err(|_| misconfigured("endpoint_url is no URL", REMEDY))?;
    let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else {
        return Err(misconfigured("endpoint_url names no host", REMEDY));
    };
    if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some()
    {
        return Err(misconfigured(
            format!("endpoint_url has more than a host and a port ({host})"),
            REMEDY,
        ));
    }
    let is_safe = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_loopback(host),
        _ => false,
    };
    if is_safe {
        return Ok(());
    }
    Err(misconfigured(
        format!("endpoint_url is {url}: it would carry keys in the clear"),
        REMEDY,
    ))
}

/// Returns `true` if `host` is `localhost` or a loopback address. IPv6 addresses are in brackets, as in URLs.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn misconfigured(what: impl Into<String>, remedy: &str) -> KmsError {
    KmsError::new(Class::Misconfigured, what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str =
        "arn:aws:kms:eu-central-1:123456789012:key/c85555f2-bc0f-4988-aa25-fc9e6ab776b6";

    fn refused(settings: &AwsSettings) -> String {
        let error = settings.check().unwrap_err();
        assert_eq!(error.class(), Class::Misconfigured, "{error}");
        error.to_string()
    }

    #[test]
    fn one_line_is_enough_and_an_unknown_key_is_refused() {
        let settings: AwsSettings =
            serde_json::from_str(&format!(r#"{{"key_id":"{ARN}"}}"#)).unwrap();
        assert_eq!(settings, AwsSettings::new(ARN));
        let key = settings.check().unwrap();
        assert_eq!(settings.known_region(&key), Some("eu-central-1"));
        let unknown =
            serde_json::from_str::<AwsSettings>(r#"{"key_id":"x","secret_access_key":"y"}"#);
        assert!(unknown.unwrap_err().to_string().contains("unknown field"));
    }

    #[test]
    fn plaintext_never_goes_to_http_beyond_loopback() {
        for url in [
            "https://kms.eu-central-1.amazonaws.com",
            "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com/",
            "http://127.0.0.1:4566",
            "http://[::1]:4566",
            "http://localhost:4566",
        ] {
            assert_eq!(check_endpoint(url), Ok(()), "{url}");
        }
        for url in [
            "http://10.0.0.1:4566",
            "http://127.0.0.1.example.com",
            "http://localhost.example.com",
            "ftp://127.0.0.1",
            "127.0.0.1:4566",
            "/path",
            "",
            "https://host/path",
            "https://host/?a=b",
        ] {
            assert!(check_endpoint(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let mut settings = AwsSettings::new(ARN);
        settings.endpoint_url = Some("https://user:hunter2@host".to_owned());
        assert!(!refused(&settings).contains("hunter2"));
    }

    #[test]
    fn a_region_must_be_one_and_be_the_arns() {
        let mut settings = AwsSettings::new(ARN);
        settings.region = Some("us-east-1".to_owned());
        assert!(refused(&settings).contains("eu-central-1"));
        settings.region = Some("x.example.com/".to_owned());
        assert!(refused(&settings).contains("region is"));
    }

    #[test]
    fn time_limits_are_bounded_and_ordered() {
        for (connect_ms_max, call_ms_max) in [(0, 1), (1, 0), (2, 1), (1, TIME_MS_MAX + 1)] {
            let settings = AwsSettings {
                connect_ms_max,
                call_ms_max,
                ..AwsSettings::new(ARN)
            };
            assert!(refused(&settings).contains("_ms_max is"));
        }
    }
}
