//! Errors, sorted by who can fix them.

use crate::algorithm::Algorithm;
use crate::arena::ArenaError;
use crate::found::Found;
use core::fmt;
use std::error::Error;

/// Why an operation with an unlocked key was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpError {
    /// The caller: this operation is for keys of another kind.
    WrongKeyType,
    /// The caller or the operator: the key's algorithm or the chosen provider cannot do this.
    Unsupported(&'static str),
    /// The key was made for other uses.
    UsageForbidden,
    /// The key's validity begins later, at this Unix time in milliseconds.
    NotYetValid(u64),
    /// The key's validity ended at this Unix time in milliseconds.
    Expired(u64),
    /// The signature, MAC or ciphertext does not verify.
    Mismatch,
    /// The caller: the input has a wrong length or form.
    BadInput(&'static str),
    /// The caller: a digest of a length that is not that of the scheme's hash, in bytes.
    DigestLen {
        /// The length of the digest.
        found: usize,
        /// The length of the hash.
        expected: usize,
    },
    /// The key's secret may not leave.
    NotExportable,
    /// The key has no version of that number, or it was trimmed.
    NoSuchVersion,
    /// This version of the key is revoked.
    VersionRevoked,
    /// This key version has encrypted as often as is safe; rotate the key.
    UseLimit,
    /// That this key version encrypts has to be written down first.
    UsesNotReserved,
    /// Ours: a provider failed where it should not.
    Internal,
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongKeyType => f.write_str("the key's algorithm has no such operation"),
            Self::Unsupported(what) | Self::BadInput(what) => f.write_str(what),
            Self::UsageForbidden => {
                f.write_str("the key was made without this use; make one whose usage allows it")
            }
            Self::NotYetValid(from) => {
                write!(
                    f,
                    "the key is valid from Unix time {from} ms on, which is to come"
                )
            }
            Self::Expired(until) => {
                write!(
                    f,
                    "the key was valid until Unix time {until} ms; use a newer key"
                )
            }
            Self::DigestLen { found, expected } => write!(
                f,
                "the digest has {found} bytes, and the scheme's hash makes {expected}; \
                 name the scheme of the hash that made it, or send another digest"
            ),
            Self::Mismatch => f.write_str("it does not verify under this key"),
            Self::NotExportable => {
                f.write_str("the key is not exportable; that is decided when a key is made")
            }
            Self::NoSuchVersion => {
                f.write_str("the key has no version of that number, or it was trimmed")
            }
            Self::VersionRevoked => f.write_str("this version of the key is revoked"),
            Self::UseLimit => f.write_str(
                "this key version has reached the number of encryptions that random nonces \
                 allow; rotate the key",
            ),
            Self::UsesNotReserved => f.write_str(
                "the key's count of encryptions has to be written down first; try again",
            ),
            Self::Internal => f.write_str("the cryptography provider failed unexpectedly"),
        }
    }
}

impl Error for OpError {}

/// Why a blob was not opened. Everything but [`OpenError::Arena`] lasts until the blob or the DEK
/// changes: trying again does not help.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Not a blob, or not in the one canonical form.
    Malformed(&'static str),
    /// Sealed for another keyspace: the number in the blob and the one expected.
    WrongKeyspace {
        /// The keyspace in the blob.
        found: u32,
        /// The keyspace that was to be opened.
        expected: u32,
    },
    /// Sealed for another key id.
    WrongKeyId,
    /// An older version than the one known to exist.
    OlderVersion {
        /// The version in the blob.
        found: u32,
        /// The version known to exist.
        expected: u32,
    },
    /// Sealed under another generation of the DEK.
    OtherDekGeneration {
        /// The generation in the blob.
        found: u32,
        /// The generation of the available DEK.
        available: u32,
    },
    /// The key commitment does not fit: another DEK of the same generation, or a changed blob.
    Commitment,
    /// The authentication tag does not fit: the blob was changed.
    Corrupt,
    /// Authentic, but not a payload that this version understands.
    Payload(&'static str),
    /// Ours, and passing: no room in the arena.
    Arena(ArenaError),
}

impl OpenError {
    /// Whether the same blob may open later without having changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Arena(ArenaError::Full { .. }))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed blob: {what}"),
            Self::WrongKeyspace { found, expected } => {
                write!(f, "the blob belongs to keyspace {found}, not to {expected}")
            }
            Self::WrongKeyId => f.write_str("the blob belongs to another key id"),
            Self::OlderVersion { found, expected } => {
                write!(
                    f,
                    "the blob holds version {found}, but version {expected} exists"
                )
            }
            Self::OtherDekGeneration { found, available } => write!(
                f,
                "the blob is sealed under DEK generation {found}, the available DEK is {available}"
            ),
            Self::Commitment => f.write_str("the blob is not sealed under the available DEK"),
            Self::Corrupt => f.write_str("the blob's authentication tag does not fit"),
            Self::Payload(what) => write!(f, "authentic blob with a bad payload: {what}"),
            Self::Arena(error) => error.fmt(f),
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Arena(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ArenaError> for OpenError {
    fn from(error: ArenaError) -> Self {
        Self::Arena(error)
    }
}

/// Why no blob was made.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyError {
    /// The caller: the material is not something that can be imported.
    Import {
        /// What was found, without any of its bytes.
        found: Found,
        /// What to do.
        remedy: &'static str,
    },
    /// The caller: the material is of another algorithm than was named, or than the key has.
    AlgorithmMismatch {
        /// The material's algorithm.
        found: Algorithm,
        /// The algorithm named, or the one that the key has.
        expected: Algorithm,
    },
    /// The caller: usage or validity contradict each other or the algorithm.
    Metadata(&'static str),
    /// The caller: the key would not be valid for a moment.
    NotAfterPassed {
        /// When it was to cease to be valid, Unix time in milliseconds.
        not_after_unix_ms: u64,
        /// What time it is.
        now_unix_ms: u64,
    },
    /// The operator or the caller: the chosen provider cannot do this.
    Unsupported(&'static str),
    /// The blob to be rotated could not be opened.
    Open(OpenError),
    /// The operator: another version does not fit into the blob.
    Versions {
        /// Versions that the key has.
        count: usize,
        /// The oldest of them.
        oldest: u32,
    },
    /// The operator: the newest version is neither revoked alone nor trimmed.
    NewestVersion {
        /// Its number.
        newest: u32,
    },
    /// The caller: the key has no version of that number.
    NoSuchVersion(u32),
    /// Ours, and passing: no room in the arena.
    Arena(ArenaError),
    /// Ours: a provider failed where it should not.
    Internal(&'static str),
}

impl KeyError {
    pub(crate) fn import(found: impl Into<Found>, remedy: &'static str) -> Self {
        Self::Import {
            found: found.into(),
            remedy,
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Import { found, remedy } => write!(f, "cannot import {found}: {remedy}"),
            Self::AlgorithmMismatch { found, expected } => write!(
                f,
                "the key material is {found}, but {expected} was expected; \
                 name the right algorithm, or use another key id"
            ),
            Self::Metadata(what) | Self::Unsupported(what) => f.write_str(what),
            Self::NotAfterPassed {
                not_after_unix_ms,
                now_unix_ms,
            } => write!(
                f,
                "not_after is Unix time {not_after_unix_ms} ms, which has passed: it is \
                 {now_unix_ms} ms now; give a later time, or none"
            ),
            Self::Versions { count, oldest } => write!(
                f,
                "the key has {count} versions, and no further one fits; first remove old ones \
                 that are no longer needed, with `keyway key trim KEYSPACE/KEY --below VERSION` \
                 (the oldest is {oldest})"
            ),
            Self::NewestVersion { newest } => write!(
                f,
                "version {newest} is the key's newest, which stays; rotate first with `keyway key \
                 rotate KEYSPACE/KEY`, or revoke the whole key with `keyway key revoke \
                 KEYSPACE/KEY`"
            ),
            Self::NoSuchVersion(version) => {
                write!(f, "the key has no version {version}, or it was trimmed")
            }
            Self::Open(error) => write!(f, "the present key cannot be opened: {error}"),
            Self::Arena(error) => error.fmt(f),
            Self::Internal(what) => write!(f, "the cryptography provider failed: {what}"),
        }
    }
}

impl Error for KeyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Open(error) => Some(error),
            Self::Arena(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ArenaError> for KeyError {
    fn from(error: ArenaError) -> Self {
        Self::Arena(error)
    }
}

impl From<OpenError> for KeyError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Arena(error) => Self::Arena(error),
            error => Self::Open(error),
        }
    }
}
