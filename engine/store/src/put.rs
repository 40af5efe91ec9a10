//! Puts: what is accepted, on which condition, and with which result.

use std::rc::Rc;

use crate::batch::{Lane, Pending, Staged};
use crate::error::PutError;
use crate::index::{Entry, KeyHash, KeyState};
use crate::limits::{BLOB_LEN_MAX, KEY_ID_LEN_MAX, REVOCATIONS_BYTES_MAX};
use crate::log::{BlobLog, Health, State};
use crate::receipt::Receipt;
use crate::record::{HEAD_LEN, Kind};
use crate::seam::Files;

/// What a put expects to find; checked against durable and pending records alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No such key, or one that was deleted: of two who create it, one succeeds.
    Absent,
    /// The key has this version: of two who rotate it, one succeeds.
    Version(u32),
    /// The key has this version, and this is the revision of its newest record: of two who change
    /// it in any way, one succeeds.
    Revision(u32, u64),
}

/// A durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Orders all writes of the log; greater is later.
    pub revision: u64,
    /// The key's version now.
    pub version: u32,
}

/// A revocation that was let in: it holds from now on, for every reader of the log.
#[derive(Debug)]
pub struct Revocation {
    pub(crate) stored: Stored,
    /// `None`: it was durable already.
    pub(crate) receipt: Option<Rc<Receipt>>,
}

/// Why a put is refused, and what must complete before the refusal is returned: a refusal must not
/// show a pending put that may still fail. Afterwards the put is looked at again.
type Refusal = (PutError, Option<Rc<Receipt>>);

type Admitted = Result<(Stored, Rc<Receipt>), Refusal>;

impl<F: Files> BlobLog<F> {
    /// Puts a key's sealed versions, `version` being the newest. Durable on return, and read by
    /// every `get` that begins afterwards.
    ///
    /// `version` is from 1 and never below the one it replaces. The future must be polled to its
    /// end: it may be the one that writes for others, and their puts fail if it is dropped
    /// meanwhile.
    ///
    /// # Errors
    /// See [`PutError`].
    pub async fn put_blob(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        mut blob: Vec<u8>,
        expect: Expect,
    ) -> Result<Stored, PutError> {
        loop {
            let admitted = self.admit_blob(keyspace, key_id, version, &mut blob, expect);
            if let Some(outcome) = self.settle(admitted).await {
                return outcome;
            }
        }
    }

    /// Marks a key as revoked permanently. Durable on return. Revoking twice is no error.
    ///
    /// The future must be polled to its end, as `put_blob`'s.
    ///
    /// # Errors
    /// As [`BlobLog::revoke`] and [`BlobLog::persisted`].
    pub async fn put_revoked(&self, keyspace: u32, key_id: &[u8]) -> Result<Stored, PutError> {
        let revocation = self.revoke(keyspace, key_id, 0, 0)?;
        self.persisted(revocation).await
    }

    /// Revokes a key permanently. The log reports it as revoked immediately, and keeps trying to write
    /// that until it succeeds. `unix_ms` is the time. A failed or full disk or a full queue of other
    /// puts does not stop it, nor does damage to the key's record. `spare_bytes` of the space for
    /// revocations stay free for others.
    ///
    /// # Errors
    /// Nothing has changed: `NotFound` if there is no such key, `RevocationsFull` if
    /// [`REVOCATIONS_BYTES_MAX`] of revocations wait already.
    pub fn revoke(
        &self,
        keyspace: u32,
        key_id: &[u8],
        unix_ms: u64,
        spare_bytes: usize,
    ) -> Result<Revocation, PutError> {
        let mut state = self.shared.state.borrow_mut();
        check_key_id(key_id)?;
        let hash = state.index.hash(keyspace, key_id);
        let version = match state.newest(hash) {
            Newest::None => return Err(PutError::NotFound),
            Newest::Durable(entry) if entry.state == KeyState::Deleted => {
                return Err(PutError::NotFound);
            }
            Newest::Durable(entry) if entry.state == KeyState::Revoked => {
                let stored = Stored {
                    revision: entry.revision,
                    version: entry.version,
                };
                let receipt = None;
                return Ok(Revocation { stored, receipt });
            }
            Newest::Durable(entry) => entry.version,
            Newest::Pending(put) if put.kind == Kind::Revoked => {
                let stored = Stored {
                    revision: put.revision,
                    version: put.version,
                };
                let receipt = Some(put.receipt);
                return Ok(Revocation { stored, receipt });
            }
            Newest::Pending(put) if put.kind == Kind::Deleted => return Err(PutError::NotFound),
            Newest::Pending(put) => put.version,
        };
        let put = NewPut {
            lane: Lane::Revocations,
            kind: Kind::Revoked,
            keyspace,
            version,
            key_id,
            blob: unix_ms.to_le_bytes().to_vec(),
        };
        let (stored, receipt) = state.stage_revocation(hash, put, spare_bytes)?;
        Ok(Revocation {
            stored,
            receipt: Some(receipt),
        })
    }

    /// Returns once a revocation is durable. The future must be polled to its end, as `put_blob`'s.
    ///
    /// # Errors
    /// `NotPersisted`: it is in force, and [`BlobLog::retry_revocations`] tries again.
    pub async fn persisted(&self, revocation: Revocation) -> Result<Stored, PutError> {
        if let Some(receipt) = revocation.receipt {
            self.durable(&receipt).await?;
        }
        Ok(revocation.stored)
    }

    /// Marks a revoked key as deleted: it is not listed any more, and its id may be used again,
    /// from the next version on. Durable on return.
    ///
    /// # Errors
    /// `NotFound`, `NotRevoked`; else see [`PutError`].
    pub async fn put_deleted(&self, keyspace: u32, key_id: &[u8]) -> Result<Stored, PutError> {
        loop {
            let admitted = self.admit_deleted(keyspace, key_id);
            match self.settle(admitted).await {
                // That is the revocation, which is not written yet: of the deletion nothing is in force.
                Some(Err(PutError::NotPersisted(why))) => return Err(PutError::Failed(why)),
                Some(outcome) => return outcome,
                None => {}
            }
        }
    }

    /// Writes down how many uses of a key version may have been made. Durable on return.
    ///
    /// # Errors
    /// See [`PutError`].
    pub async fn put_uses(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        count: u64,
    ) -> Result<(), PutError> {
        self.put_all_uses([(keyspace, key_id, version, count)].into_iter())
            .await
    }

    /// The same for many: keyspace, key id, version and count of each. On an error some of them may
    /// have been written.
    ///
    /// # Errors
    /// See [`PutError`].
    pub async fn put_all_uses<'a>(
        &self,
        records: impl Iterator<Item = (u32, &'a [u8], u32, u64)>,
    ) -> Result<(), PutError> {
        let mut receipt = Receipt::new();
        for (keyspace, key_id, version, count) in records {
            loop {
                match self.stage_uses((keyspace, key_id, version, count), &receipt) {
                    // With room again, the next ones.
                    Err(PutError::Overloaded) if receipt.outcome().is_none() => {
                        self.durable(&receipt).await?;
                        receipt = Receipt::new();
                    }
                    staged => break staged?,
                }
            }
        }
        self.durable(&receipt).await
    }

    fn stage_uses(
        &self,
        (keyspace, key_id, version, count): (u32, &[u8], u32, u64),
        receipt: &Rc<Receipt>,
    ) -> Result<(), PutError> {
        let mut state = self.shared.state.borrow_mut();
        let bytes_max = self.shared.options.pending_bytes_max;
        state.take_more(key_id, HEAD_LEN + key_id.len() + 8, bytes_max)?;
        let staged = Staged {
            hash: state.index.hash(keyspace, key_id),
            kind: Kind::Uses,
            revision: state.take_revision(),
            keyspace,
            version,
            key_id: key_id.to_vec(),
            blob: count.to_le_bytes().to_vec(),
            copy_of: None,
        };
        state.stage(Lane::Ordinary, staged, receipt);
        Ok(())
    }

    fn admit_blob(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        blob: &mut Vec<u8>,
        expect: Expect,
    ) -> Admitted {
        let mut state = self.shared.state.borrow_mut();
        let len = HEAD_LEN + key_id.len() + blob.len();
        let bytes_max = self.shared.options.pending_bytes_max;
        state
            .take_more(key_id, len, bytes_max)
            .map_err(|error| (error, None))?;
        if blob.is_empty() || blob.len() > BLOB_LEN_MAX {
            return Err((PutError::BadRecord("a blob has from 1 byte to 1 MiB"), None));
        }
        if version == 0 {
            return Err((PutError::BadRecord("a key's version is at least 1"), None));
        }
        let hash = state.index.hash(keyspace, key_id);
        let (current, deleted, revision, seen) = match state.newest(hash) {
            Newest::None => (None, 0, 0, None),
            Newest::Durable(entry) => match entry.state {
                KeyState::Revoked => return Err((PutError::Revoked, None)),
                KeyState::Deleted => (None, entry.version, 0, None),
                KeyState::Live | KeyState::Damaged => {
                    (Some(entry.version), 0, entry.revision, None)
                }
            },
            // A revocation is in force already; the outcome of a deletion is not known yet.
            Newest::Pending(put) if put.kind == Kind::Revoked => {
                return Err((PutError::Revoked, None));
            }
            Newest::Pending(put) if put.kind == Kind::Deleted => {
                return Err((PutError::Revoked, Some(put.receipt)));
            }
            Newest::Pending(put) => (Some(put.version), 0, put.revision, Some(put.receipt)),
        };
        match (expect, current) {
            (Expect::Absent, Some(current)) => {
                return Err((PutError::Conflict { current }, seen));
            }
            (Expect::Version(_) | Expect::Revision(..), None) => {
                return Err((PutError::NotFound, None));
            }
            (Expect::Version(expected) | Expect::Revision(expected, _), Some(current))
                if expected != current =>
            {
                return Err((PutError::Conflict { current }, seen));
            }
            (Expect::Revision(_, expected), Some(current)) if expected != revision => {
                return Err((PutError::Conflict { current }, seen));
            }
            (_, current) if version < current.unwrap_or(deleted + 1) => {
                let current = current.unwrap_or(deleted);
                let offered = version;
                return Err((PutError::VersionBehind { current, offered }, seen));
            }
            _ => {}
        }
        let put = NewPut {
            lane: Lane::Ordinary,
            kind: Kind::Blob,
            keyspace,
            version,
            key_id,
            blob: std::mem::take(blob),
        };
        Ok(state.stage_new(hash, put))
    }

    fn admit_deleted(&self, keyspace: u32, key_id: &[u8]) -> Admitted {
        let mut state = self.shared.state.borrow_mut();
        let bytes_max = self.shared.options.pending_bytes_max;
        state
            .take_more(key_id, HEAD_LEN + key_id.len(), bytes_max)
            .map_err(|error| (error, None))?;
        let hash = state.index.hash(keyspace, key_id);
        let version = match state.newest(hash) {
            Newest::None => return Err((PutError::NotFound, None)),
            Newest::Durable(entry) => match entry.state {
                KeyState::Revoked => entry.version,
                KeyState::Deleted => return Err((PutError::NotFound, None)),
                KeyState::Live | KeyState::Damaged => return Err((PutError::NotRevoked, None)),
            },
            // A revocation that is not durable may be undone by a restart, a deletion may not.
            Newest::Pending(put) => return Err((PutError::NotRevoked, Some(put.receipt))),
        };
        let put = NewPut {
            lane: Lane::Ordinary,
            kind: Kind::Deleted,
            keyspace,
            version,
            key_id,
            blob: Vec::new(),
        };
        Ok(state.stage_new(hash, put))
    }

    /// `None`: the put that was in the way has completed, check again.
    async fn settle(&self, admitted: Admitted) -> Option<Result<Stored, PutError>> {
        match admitted {
            Ok((stored, receipt)) => Some(self.durable(&receipt).await.map(|()| stored)),
            Err((error, None)) => Some(Err(error)),
            Err((_, Some(receipt))) => match self.durable(&receipt).await {
                Err(error @ PutError::NotPersisted(_)) => Some(Err(error)),
                Ok(()) | Err(_) => None,
            },
        }
    }
}

pub(crate) enum Newest {
    None,
    Durable(Entry),
    Pending(Pending),
}

pub(crate) struct NewPut<'a> {
    pub lane: Lane,
    pub kind: Kind,
    pub keyspace: u32,
    pub version: u32,
    pub key_id: &'a [u8],
    pub blob: Vec<u8>,
}

fn check_key_id(key_id: &[u8]) -> Result<(), PutError> {
    if key_id.is_empty() || key_id.len() > KEY_ID_LEN_MAX {
        return Err(PutError::BadRecord("a key id has from 1 to 128 bytes"));
    }
    Ok(())
}

impl<L> State<L> {
    /// Whether another record of `len` bytes may be queued.
    fn take_more(&self, key_id: &[u8], len: usize, bytes_max: usize) -> Result<(), PutError> {
        check_key_id(key_id)?;
        let queued = self.queue.bytes;
        match &self.health {
            Health::Closed => Err(PutError::Closed),
            // One record is always accepted, otherwise a small bound would refuse it indefinitely.
            Health::Writable if queued > 0 && queued + len > bytes_max => Err(PutError::Overloaded),
            Health::Writable => Ok(()),
        }
    }

    pub fn newest(&self, hash: KeyHash) -> Newest {
        match (self.pending.get(&(hash, 0)), self.index.find(hash)) {
            (Some(put), _) => Newest::Pending(put.clone()),
            (None, Some(entry)) => Newest::Durable(entry),
            (None, None) => Newest::None,
        }
    }

    pub fn take_revision(&mut self) -> u64 {
        let revision = self.next_revision;
        self.next_revision += 1;
        revision
    }

    /// Takes a revocation, which neither a full queue nor a failing disk refuses.
    pub fn stage_revocation(
        &mut self,
        hash: KeyHash,
        put: NewPut<'_>,
        spare_bytes: usize,
    ) -> Result<(Stored, Rc<Receipt>), PutError> {
        if matches!(self.health, Health::Closed) {
            return Err(PutError::Closed);
        }
        let len = HEAD_LEN + put.key_id.len() + put.blob.len();
        let waiting_bytes = self.revocations.bytes;
        if waiting_bytes + len + spare_bytes > REVOCATIONS_BYTES_MAX {
            return Err(PutError::RevocationsFull(waiting_bytes));
        }
        Ok(self.stage_new(hash, put))
    }

    fn stage_new(&mut self, hash: KeyHash, put: NewPut<'_>) -> (Stored, Rc<Receipt>) {
        let revision = self.take_revision();
        let (version, kind) = (put.version, put.kind);
        let receipt = Receipt::new();
        let staged = Staged {
            hash,
            kind,
            revision,
            keyspace: put.keyspace,
            version,
            key_id: put.key_id.to_vec(),
            blob: put.blob,
            copy_of: None,
        };
        let name = staged.pending_name();
        self.stage(put.lane, staged, &receipt);
        let pending = Pending {
            version,
            kind,
            revision,
            receipt: Rc::clone(&receipt),
        };
        self.pending.insert(name, pending);
        (Stored { revision, version }, receipt)
    }
}
