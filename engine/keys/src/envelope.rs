//! The sealed form of a key: `docs/ENVELOPE.md` has the bytes.
//!
//! ```text
//!  header (all of it authenticated)        │ ciphertext of the payload │ tag
//!  fixed part, salt, commitment, key id    │ the live versions         │
//! ```

mod cipher;
mod header;
mod payload;

pub(crate) use cipher::{TAG_LEN, open, seal};
pub(crate) use header::{Format, Header, SALT_LEN};
pub use payload::VERSIONS_MAX;
pub(crate) use payload::{Entry, PAYLOAD_LEN_MAX, Payload, VersionAt, payload_len, write_payload};

use crate::algorithm::{Algorithm, KeyUsage};
use crate::error::OpenError;

/// Greatest length of a key id, in bytes.
pub const KEY_ID_LEN_MAX: usize = 128;

/// Greatest length of a blob, in bytes.
pub const BLOB_LEN_MAX: usize = header::FIXED_LEN_MAX + KEY_ID_LEN_MAX + PAYLOAD_LEN_MAX + TAG_LEN;

/// Which key a blob is for. The blob is bound to both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// The keyspace's number, from 1.
    pub keyspace: u32,
    /// The key's id: 1 to 128 bytes, each of 0x21..=0x7e.
    pub key_id: &'a [u8],
}

/// What a blob says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// The newest version, from 1.
    pub version: u32,
    /// The generation of the DEK that the blob is sealed under.
    pub dek_generation: u32,
    /// The algorithm of every version.
    pub algorithm: Algorithm,
    /// What the key may be used for; never empty.
    pub usage: KeyUsage,
    /// Whether the secret may be had by callers.
    pub exportable: bool,
    /// When the newest version was made, Unix time in milliseconds.
    pub created_unix_ms: u64,
    /// Start of validity, Unix time in milliseconds; 0 is none.
    pub not_before_unix_ms: u64,
    /// End of validity, Unix time in milliseconds; 0 is none.
    pub not_after_unix_ms: u64,
    /// Which versions there are. `None`: the blob was written before headers told.
    pub versions: Option<VersionsKept>,
}

/// The versions that a key still has: from the oldest to the newest, without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionsKept {
    /// The oldest, from 1. What is below was trimmed, or is of a key that was deleted.
    pub oldest: u32,
    /// Those that were revoked one by one: bit `i` is set if the version `i` below the newest is revoked.
    pub revoked: u128,
}

impl VersionsKept {
    /// Of `versions`, newest first: the number of each, and whether it is revoked.
    pub(crate) fn of(versions: impl IntoIterator<Item = (u32, bool)>) -> Self {
        let mut newest = None;
        let mut kept = Self {
            oldest: 0,
            revoked: 0,
        };
        for (version, is_revoked) in versions {
            let newest = *newest.get_or_insert(version);
            kept.oldest = version;
            kept.revoked |= u128::from(is_revoked)
                .checked_shl(newest - version)
                .unwrap_or(0);
        }
        kept
    }

    fn broken_rule(self, newest: u32) -> Option<&'static str> {
        if !(1..=newest).contains(&self.oldest) {
            return Some("the oldest version is not one of 1 to the newest");
        }
        let older = newest - self.oldest;
        let beyond = u128::MAX.checked_shl(older + 1).unwrap_or(0);
        // A blob always has the newest; that it is revoked is in the log.
        let is_outside = self.revoked & (beyond | 1) != 0;
        is_outside.then_some("a version is revoked that is the newest, or not there")
    }
}

impl Metadata {
    /// The rule that this metadata breaks, if it breaks one.
    pub(crate) fn broken_rule(&self) -> Option<&'static str> {
        if self.version == 0 {
            Some("key versions begin at 1")
        } else if self.usage.is_empty() {
            Some("the usage is empty")
        } else if !self.algorithm.usage_default().contains(self.usage) {
            Some("the usage holds something that the algorithm cannot do")
        } else if self.not_after_unix_ms != 0 && self.not_after_unix_ms <= self.not_before_unix_ms {
            Some("not_after is not later than not_before")
        } else {
            self.versions
                .and_then(|versions| versions.broken_rule(self.version))
        }
    }
}

/// What `blob` says of its key, **not authenticated**: good for listings and for picking the DEK
/// generation, not for a decision about use.
pub fn peek(blob: &[u8]) -> Result<Metadata, OpenError> {
    Header::parse(blob).map(|(header, _)| header.metadata)
}

/// Whether `key_id` has a permitted length and permitted bytes only.
pub(crate) fn key_id_is_valid(key_id: &[u8]) -> bool {
    (1..=KEY_ID_LEN_MAX).contains(&key_id.len())
        && key_id.iter().all(|byte| (0x21..=0x7e).contains(byte))
}
