//! Revoking one version of a key.
//!
//! It is a record of its own, beside the key's blob: so it needs neither the blob nor what opens it, takes effect as a
//! revocation does, and is written as one. The blob is left as it is; when it is opened, the log is asked which versions
//! are revoked.

use std::rc::Rc;

use crate::batch::Lane;
use crate::error::PutError;
use crate::index::{Index, KeyHash, KeyState};
use crate::log::{BlobLog, State};
use crate::put::{NewPut, Revocation, Stored};
use crate::record::{Head, Kind};
use crate::seam::Files;

/// Versions below the newest one that [`BlobLog::revoked_versions`] looks at: as many as a set of them has bits.
const VERSIONS_MAX: u32 = u128::BITS;

impl<F: Files> BlobLog<F> {
    /// Revokes one version of a key permanently, the newest one included. The log reports it as revoked immediately, and
    /// keeps trying to write that until it succeeds; `unix_ms` and `spare_bytes` are as for [`BlobLog::revoke`]. Revoking it
    /// twice is no error.
    ///
    /// A version that the key no longer has is accepted: the log does not know which ones a blob holds.
    ///
    /// # Errors
    /// Nothing has changed: `NotFound` if there is no such key or it is older than that version, `Revoked` if the whole key
    /// is, `RevocationsFull` if [`REVOCATIONS_BYTES_MAX`](crate::REVOCATIONS_BYTES_MAX) of revocations wait already.
    pub fn revoke_version(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        unix_ms: u64,
        spare_bytes: usize,
    ) -> Result<Revocation, PutError> {
        let mut state = self.shared.state.borrow_mut();
        let key = state.index.hash(keyspace, key_id);
        if let Some(put) = state.pending.get(&key)
            && put.kind == Kind::Revoked
        {
            return Err(PutError::Revoked);
        }
        // A put that is not durable may fail, and its version be that of another one later.
        let newest = match state.index.find(key) {
            None => return Err(PutError::NotFound),
            Some(entry) => match entry.state {
                KeyState::Revoked => return Err(PutError::Revoked),
                KeyState::Deleted => return Err(PutError::NotFound),
                KeyState::Live | KeyState::Damaged => entry.version,
            },
        };
        if version == 0 || version > newest {
            return Err(PutError::NotFound);
        }
        let hash = state.index.hash_version(keyspace, key_id, version);
        let known = match state.pending.get(&hash) {
            Some(put) => Some((put.revision, Some(Rc::clone(&put.receipt)))),
            None => state
                .beside
                .versions
                .find(hash)
                .map(|entry| (entry.revision, None)),
        };
        let (revision, receipt) = match known {
            Some(known) => known,
            None => {
                let put = NewPut {
                    lane: Lane::Revocations,
                    kind: Kind::VersionRevoked,
                    keyspace,
                    version,
                    key_id,
                    blob: unix_ms.to_le_bytes().to_vec(),
                };
                let (stored, receipt) = state.stage_revocation(hash, put, spare_bytes)?;
                (stored.revision, Some(receipt))
            }
        };
        let stored = Stored {
            revision,
            version: newest,
        };
        Ok(Revocation { stored, receipt })
    }

    /// Revokes one version of a key. Durable on return. Gives the key's newest version.
    ///
    /// The future must be polled to its end, as `put_blob`'s.
    ///
    /// # Errors
    /// As [`BlobLog::revoke_version`] and [`BlobLog::persisted`].
    pub async fn put_version_revoked(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
    ) -> Result<Stored, PutError> {
        let revocation = self.revoke_version(keyspace, key_id, version, 0, 0)?;
        self.persisted(revocation).await
    }

    /// Which versions of a key whose newest version is `newest` were revoked one by one: bit `i` is set if the version `i`
    /// below it is. No I/O; holds before a revocation is durable.
    pub fn revoked_versions(&self, keyspace: u32, key_id: &[u8], newest: u32) -> u128 {
        let state = self.shared.state.borrow();
        let hash = |index: &Index, version| index.hash_version(keyspace, key_id, version);
        state.revoked_versions(hash, newest)
    }
}

impl<L> State<L> {
    fn revoked_versions(&self, hash: impl Fn(&Index, u32) -> KeyHash, newest: u32) -> u128 {
        if self.beside.versions.len() == 0 && self.revocations.is_unused() {
            return 0;
        }
        let is_revoked = |below: &u32| {
            let hash = hash(&self.index, newest - below);
            self.beside.versions.find(hash).is_some() || self.pending.contains_key(&hash)
        };
        let below = 0..newest.min(VERSIONS_MAX);
        below.filter(is_revoked).map(|below| 1 << below).sum()
    }

    /// The name of a record in its table.
    pub fn hash_of(&self, head: &Head, key_id: &[u8]) -> KeyHash {
        match head.kind {
            Kind::VersionRevoked => self.index.hash_version(head.keyspace, key_id, head.version),
            _ => self.index.hash(head.keyspace, key_id),
        }
    }
}
