//! The settings for the token, the key, and the time limits.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::Deserialize;

use crate::{Class, KmsError};

/// Range of both time limits, in milliseconds.
const LIMIT_MS: RangeInclusive<u64> = 1..=600_000;
/// Longest label of a token, in bytes: PKCS#11's `CK_TOKEN_INFO.label`. A serial number has at most 16.
const TOKEN_BYTES_MAX: usize = 32;
/// Longest label of a key, in bytes. PKCS#11 has no limit; this is far above typical labels.
const KEY_BYTES_MAX: usize = 255;

/// Settings of a `pkcs11` KMS.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Settings {
    /// The vendor's PKCS#11 module, a shared object, by its absolute path. It is loaded into this process.
    pub module: PathBuf,
    /// The token's label, or its serial number if labels are not unique.
    pub token: String,
    /// The label of the AES-256 key on the token. It must allow encryption and decryption.
    pub key: String,
    /// A file with the user PIN, readable only by this user. Without it an operator gives the PIN at each unlock.
    #[serde(default)]
    pub pin_file: Option<PathBuf>,
    /// Time limit of a wrap or an unwrap, including its wait for other calls, in milliseconds: `1..=600_000`.
    #[serde(default = "call_ms_max")]
    pub call_ms_max: u64,
    /// Time limit of an unlock, in milliseconds: `1..=600_000`. It may load the module and start the token's firmware.
    #[serde(default = "unlock_ms_max")]
    pub unlock_ms_max: u64,
}

fn call_ms_max() -> u64 {
    5_000
}

fn unlock_ms_max() -> u64 {
    30_000
}

impl Pkcs11Settings {
    /// Creates settings with default time limits and without a PIN file.
    pub fn new(
        module: impl Into<PathBuf>,
        token: impl Into<String>,
        key: impl Into<String>,
    ) -> Self {
        Self {
            module: module.into(),
            token: token.into(),
            key: key.into(),
            pin_file: None,
            call_ms_max: call_ms_max(),
            unlock_ms_max: unlock_ms_max(),
        }
    }

    /// Checks what can be checked without loading the module.
    pub(super) fn check(&self) -> Result<(), KmsError> {
        let refuse = |what, remedy: &str| Err(KmsError::new(Class::Misconfigured, what, remedy));
        let module = self.module.display();
        // A relative name would be searched along LD_LIBRARY_PATH.
        if !self.module.is_absolute() {
            return refuse(
                format!("the PKCS#11 module {module} is not an absolute path"),
                "give the module's full path, from / on",
            );
        }
        // A module that is missing now may be on a volume that is mounted later: the first use reports it.
        for (name, value, bytes_max) in [
            ("token", &self.token, TOKEN_BYTES_MAX),
            ("key", &self.key, KEY_BYTES_MAX),
        ] {
            if value.is_empty() || value.len() > bytes_max {
                return refuse(
                    format!("the {name} has {} bytes", value.len()),
                    &format!("give the {name}'s label, 1 to {bytes_max} bytes"),
                );
            }
        }
        for (name, value) in [
            ("call_ms_max", self.call_ms_max),
            ("unlock_ms_max", self.unlock_ms_max),
        ] {
            if !LIMIT_MS.contains(&value) {
                return refuse(
                    format!("{name} is {value}"),
                    "give 1 to 600000 milliseconds",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Pkcs11Settings {
        // Any file suffices: it is not loaded here.
        Pkcs11Settings::new(std::env::current_exe().unwrap(), "token", "key")
    }

    #[test]
    fn unknown_names_are_refused_and_limits_have_defaults() {
        let text = r#"{"module": "/lib/hsm.so", "token": "t", "key": "k"}"#;
        let read: Pkcs11Settings = serde_json::from_str(text).unwrap();
        assert_eq!(read, Pkcs11Settings::new("/lib/hsm.so", "t", "k"));
        let text = r#"{"module": "/lib/hsm.so", "token": "t", "key": "k", "pin": "1234"}"#;
        let error = serde_json::from_str::<Pkcs11Settings>(text).unwrap_err();
        assert!(error.to_string().contains("unknown field `pin`"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_value() {
        settings().check().unwrap();
        type Spoil = fn(&mut Pkcs11Settings);
        let cases: [(Spoil, &str); 6] = [
            (|s| s.module = "libhsm.so".into(), "libhsm.so"),
            (|s| s.token = String::new(), "token has 0"),
            (|s| s.token = "t".repeat(33), "token has 33"),
            (|s| s.key = String::new(), "key has 0"),
            (|s| s.call_ms_max = 0, "call_ms_max is 0"),
            (|s| s.unlock_ms_max = 600_001, "unlock_ms_max is 600001"),
        ];
        for (spoil, reason) in cases {
            let mut settings = settings();
            spoil(&mut settings);
            let error = settings.check().unwrap_err();
            assert_eq!(error.class(), Class::Misconfigured);
            assert!(error.what().contains(reason), "{error}");
        }
    }
}
