//! Names of keyspaces, keys and KMSes: checked once, at construction.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use crate::ProtocolError;
use crate::limits::{KEY_ID_LEN_MAX, KEYSPACE_NAME_LEN_MAX, KMS_NAME_LEN_MAX};
use crate::reader::{at_least, at_most};

/// Checks that `bytes` are a keyspace's name: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`.
pub fn check_keyspace_name(bytes: &[u8]) -> Result<&str, ProtocolError> {
    check_text("keyspace name", bytes, KEYSPACE_NAME_LEN_MAX, is_name_byte)
}

/// Checks that `bytes` are a KMS's name: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`.
pub fn check_kms_name(bytes: &[u8]) -> Result<&str, ProtocolError> {
    check_text("kms name", bytes, KMS_NAME_LEN_MAX, is_name_byte)
}

/// Checks that `bytes` are a key id: 1 to 128 printable ASCII characters without spaces.
pub fn check_key_id(bytes: &[u8]) -> Result<&str, ProtocolError> {
    check_text("key_id", bytes, KEY_ID_LEN_MAX, is_key_id_byte)
}

/// As [`check_key_id`], for a caller that needs no text.
#[inline]
pub(crate) fn check_key_id_bytes(bytes: &[u8]) -> Result<(), ProtocolError> {
    check_bytes("key_id", bytes, KEY_ID_LEN_MAX, is_key_id_byte)
}

fn is_key_id_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
}

fn check_text<'a>(
    field: &'static str,
    bytes: &'a [u8],
    len_max: usize,
    allowed: impl Fn(u8) -> bool,
) -> Result<&'a str, ProtocolError> {
    check_bytes(field, bytes, len_max, allowed)?;
    Ok(core::str::from_utf8(bytes).expect("only ASCII is allowed"))
}

#[inline]
fn check_bytes(
    field: &'static str,
    bytes: &[u8],
    len_max: usize,
    allowed: impl Fn(u8) -> bool,
) -> Result<(), ProtocolError> {
    at_least(field, bytes.len(), 1)?;
    at_most(field, bytes.len(), len_max)?;
    match bytes.iter().position(|&byte| !allowed(byte)) {
        Some(at) => Err(ProtocolError::BadByte {
            field,
            at: at as u64,
            byte: bytes[at],
        }),
        None => Ok(()),
    }
}

macro_rules! checked_text {
    ($(#[$meta:meta])* $type:ident, $check:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        impl $type {
            /// Checks and copies.
            pub fn new(text: &str) -> Result<Self, ProtocolError> {
                $check(text.as_bytes()).map(|text| Self(text.to_owned()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The bytes on the wire.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl FromStr for $type {
            type Err = ProtocolError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl TryFrom<&[u8]> for $type {
            type Error = ProtocolError;

            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                $check(bytes).map(|text| Self(text.to_owned()))
            }
        }

        impl core::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

checked_text! {
    /// A keyspace's name: 1 to 64 bytes of `a-z`, `0-9`, `.`, `_` and `-`.
    KeyspaceName, check_keyspace_name
}

checked_text! {
    /// The name of a KMS, as the server's configuration gives it: 1 to 64 bytes of `a-z`, `0-9`,
    /// `.`, `_` and `-`.
    KmsName, check_kms_name
}

checked_text! {
    /// A key's id within its keyspace: 1 to 128 printable ASCII characters without spaces.
    KeyId, check_key_id
}

/// A key's full name, written `prod/alice`: the keyspace, a slash, the key id (which may hold
/// more slashes).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPath {
    /// The keyspace.
    pub keyspace: KeyspaceName,
    /// The key within it.
    pub key_id: KeyId,
}

impl FromStr for KeyPath {
    type Err = ProtocolError;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        let (keyspace, key_id) = path.split_once('/').ok_or(ProtocolError::Rule {
            field: "key path",
            rule: "write KEYSPACE/KEY, as in prod/alice",
        })?;
        Ok(Self {
            keyspace: keyspace.parse()?,
            key_id: key_id.parse()?,
        })
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.keyspace, self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_path_is_split_at_its_first_slash() {
        let path: KeyPath = "prod/tenants/7/signing".parse().unwrap();
        assert_eq!(path.keyspace.as_str(), "prod");
        assert_eq!(path.key_id.as_str(), "tenants/7/signing");
        assert_eq!(path.to_string(), "prod/tenants/7/signing");
    }

    #[test]
    fn names_outside_of_their_alphabet_or_length_are_refused() {
        for bad in ["", "Prod", "pr od", "prod/x", "prod\u{e9}"] {
            assert!(KeyspaceName::new(bad).is_err(), "{bad:?}");
            assert!(KmsName::new(bad).is_err(), "{bad:?}");
        }
        assert!(KmsName::new(&"a".repeat(64)).is_ok());
        assert!(KmsName::new(&"a".repeat(65)).is_err());
        assert!(KeyspaceName::new(&"a".repeat(64)).is_ok());
        assert!(KeyspaceName::new(&"a".repeat(65)).is_err());
        for bad in ["", "a b", "a\n", "\u{7f}", "\u{e9}"] {
            assert!(KeyId::new(bad).is_err(), "{bad:?}");
        }
        assert!(KeyId::new(&"~".repeat(128)).is_ok());
        assert!(KeyId::new(&"~".repeat(129)).is_err());
        assert!("alice".parse::<KeyPath>().is_err());
        assert!("prod/".parse::<KeyPath>().is_err());
    }
}
