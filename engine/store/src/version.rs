//! Revoking one version of a key.
//!
//! It is a record of its own, beside the key's blob: so it needs neither the blob nor what opens it, takes effect as a
//! revocation does, and is written as one. The blob is left as it is; when it is opened, the log is asked which versions
//! are revoked. The record goes once no blob holds the version: see [`revoked`](crate::revoked).

use std::rc::Rc;

use crate::batch::Lane;
use crate::error::PutError;
use crate::index::{KeyHash, KeyState};
use crate::log::{BlobLog, State};
use crate::put::{NewPut, Revocation, Stored};
use crate::record::Kind;
use crate::seam::Files;

impl<F: Files> BlobLog<F> {
    /// Revokes one version of a key permanently, the newest one included. The log reports it as revoked immediately, and
    /// keeps trying to write that until it succeeds; `unix_ms` and `spare_bytes` are as for [`BlobLog::revoke`]. Revoking it
    /// twice is no error.
    ///
    /// A version that the key no longer has is accepted, and nothing is written for one that was trimmed.
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
        if let Some(put) = state.pending.get(&(key, 0))
            && put.kind == Kind::Revoked
        {
            return Err(PutError::Revoked);
        }
        // A put that is not durable may fail, and its version be that of another one later.
        let entry = match state.index.find(key) {
            None => return Err(PutError::NotFound),
            Some(entry) => match entry.state {
                KeyState::Revoked => return Err(PutError::Revoked),
                KeyState::Deleted => return Err(PutError::NotFound),
                KeyState::Live | KeyState::Damaged => entry,
            },
        };
        let newest = entry.version;
        if version == 0 || version > newest {
            return Err(PutError::NotFound);
        }
        let known = match state.pending.get(&(key, version)) {
            Some(put) => Some((put.revision, Some(Rc::clone(&put.receipt)))),
            None if !entry.may_hold(version) => Some((entry.revision, None)),
            None => {
                let durable = state.beside.versions.find(key, version);
                durable.map(|entry| (entry.revision, None))
            }
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
                let (stored, receipt) = state.stage_revocation(key, put, spare_bytes)?;
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

    /// Number of versions that were revoked one by one, durably, and that a blob may hold: at most as many as the blobs of
    /// the log have.
    pub fn revoked_versions_count(&self) -> usize {
        self.shared.state.borrow().beside.versions.len()
    }

    /// Which versions of a key whose newest version is `newest` were revoked one by one: bit `i` is set if the version `i`
    /// below it is. No I/O; holds before a revocation is durable.
    pub fn revoked_versions(&self, keyspace: u32, key_id: &[u8], newest: u32) -> u128 {
        let state = self.shared.state.borrow();
        state.revoked_versions(state.index.hash(keyspace, key_id), newest)
    }
}

impl<L> State<L> {
    fn revoked_versions(&self, key: KeyHash, newest: u32) -> u128 {
        let pending = self.pending.range((key, 1)..=(key, u32::MAX));
        let pending = pending.map(|((_, version), _)| *version);
        let revoked = self.beside.versions.of(key).chain(pending);
        let below = revoked.filter_map(|version| newest.checked_sub(version));
        below.fold(0, |bits, below| {
            bits | 1_u128.checked_shl(below).unwrap_or(0)
        })
    }
}
