//! Keys, DEKs and blobs as labels: each says what it is, and nothing is secret.

use crate::control::kms::Dek;
use keyway_node::port::OpError;
use keyway_protocol::{Request, Status};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Codes of algorithms: of a key whose operations are fast, and of one whose operations are slow and that takes long to
/// make.
pub(super) const FAST: u8 = keyway_protocol::Algorithm::Ed25519 as u8;
pub(super) const SLOW: u8 = keyway_protocol::Algorithm::Rsa3072 as u8;

/// A signature, a tag or a ciphertext that a key has made.
pub(super) const GOOD: &[u8] = b"made with the key";

/// What is in memory of the process: a count by shard and keyspace of loaded keys, and of DEKs.
#[derive(Debug, Default)]
pub(super) struct Memory {
    keys: RefCell<BTreeMap<(u16, u32), u64>>,
}

impl Memory {
    fn add(&self, at: (u16, u32)) {
        *self.keys.borrow_mut().entry(at).or_default() += 1;
    }

    fn remove(&self, at: (u16, u32)) {
        if let Some(count) = self.keys.borrow_mut().get_mut(&at) {
            *count -= 1;
        }
    }

    /// Keys and DEKs of a keyspace that a shard has in memory.
    pub(super) fn count(&self, shard: u16, keyspace: u32) -> u64 {
        let keys = self.keys.borrow();
        keys.get(&(shard, keyspace)).copied().unwrap_or(0)
    }
}

/// A place in the memory of the process; wiped when dropped.
#[derive(Debug)]
pub(super) struct InMemory {
    of: Rc<Memory>,
    at: (u16, u32),
}

impl InMemory {
    pub(super) fn new(of: &Rc<Memory>, shard: u16, keyspace: u32) -> Self {
        let at = (shard, keyspace);
        of.add(at);
        Self {
            of: Rc::clone(of),
            at,
        }
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.of.remove(self.at);
    }
}

/// A DEK at a shard.
#[derive(Debug)]
pub(super) struct SimDek {
    pub(super) dek: Dek,
    pub(super) _place: InMemory,
}

/// A loaded key.
#[derive(Debug)]
pub(super) struct SimKey {
    /// Which load it is from.
    pub(super) load: u64,
    pub(super) label: Label,
    /// Versions that were revoked alone when it was loaded: bit `i` for the version `i` below the newest.
    pub(super) revoked: u128,
    pub(super) _place: InMemory,
}

impl SimKey {
    /// Returns the version that a request uses.
    pub(super) fn version_for(&self, request: &Request<'_>) -> Result<u32, OpError> {
        let all = self.label.oldest..=self.label.version;
        let (named, is_good) = match request {
            Request::Verify(verify) => (verify.key_version, *verify.signature == *GOOD),
            Request::Decrypt(decrypt) => (
                decrypt.sealed.key_version,
                *decrypt.sealed.ciphertext == *GOOD,
            ),
            _ => (self.label.version, true),
        };
        let version = match named {
            0 => all.clone().rev().find(|version| !self.is_revoked(*version)),
            named => Some(named),
        };
        let (status, explanation) = match version {
            Some(version) if !all.contains(&version) => (Status::NotFound, "no such version"),
            Some(version) if !self.is_revoked(version) && is_good => return Ok(version),
            Some(version) if !self.is_revoked(version) => (Status::Mismatch, "it does not verify"),
            _ => (Status::Revoked, "this version of the key is revoked"),
        };
        Err(OpError {
            status,
            explanation: explanation.to_owned(),
        })
    }

    fn is_revoked(&self, version: u32) -> bool {
        let below = self.label.version.checked_sub(version);
        below.is_some_and(|below| self.revoked.checked_shr(below).unwrap_or(0) & 1 == 1)
    }
}

/// What a sealed blob says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) dek: Dek,
    pub(super) version: u32,
    /// Versions below this one were trimmed, or belong to a key that was deleted.
    pub(super) oldest: u32,
    /// Versions that have no secret any more: bit `i` for the version `i` below the newest.
    pub(super) revoked: u128,
    pub(super) algorithm: u8,
    /// ms since 1970; 0: never.
    pub(super) not_after: u64,
}

const LABEL_LEN: usize = 49;

impl Label {
    pub(super) fn is_slow(&self) -> bool {
        self.algorithm == SLOW
    }

    /// The blob of a key of this name.
    pub(super) fn seal(&self, key_id: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LABEL_LEN + key_id.len());
        bytes.extend_from_slice(&self.dek.keyspace.to_le_bytes());
        bytes.extend_from_slice(&self.dek.generation.to_le_bytes());
        bytes.extend_from_slice(&self.dek.made.to_le_bytes());
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.oldest.to_le_bytes());
        bytes.extend_from_slice(&self.revoked.to_le_bytes());
        bytes.push(self.algorithm);
        bytes.extend_from_slice(&self.not_after.to_le_bytes());
        bytes.extend_from_slice(key_id);
        bytes
    }

    /// What a blob says, and the id of its key; `None` if it is none.
    pub(super) fn read(blob: &[u8]) -> Option<(Self, &[u8])> {
        let (head, key_id) = blob.split_at_checked(LABEL_LEN)?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let label = Self {
            dek: Dek {
                keyspace: u32_at(0)?,
                generation: u32_at(4)?,
                made: u64_at(8)?,
            },
            version: u32_at(16)?,
            oldest: u32_at(20)?,
            revoked: u128::from_le_bytes(head.get(24..40)?.try_into().ok()?),
            algorithm: *head.get(40)?,
            not_after: u64_at(41)?,
        };
        Some((label, key_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_says_what_it_was_made_of() {
        let label = Label {
            dek: Dek {
                keyspace: 3,
                generation: 2,
                made: 77,
            },
            version: 5,
            oldest: 2,
            revoked: 0b100,
            algorithm: SLOW,
            not_after: 1_900_000_000_000,
        };
        let blob = label.seal(b"key");
        assert_eq!(Label::read(&blob), Some((label, b"key".as_slice())));
        assert_eq!(Label::read(&blob[..LABEL_LEN - 1]), None);
    }
}
