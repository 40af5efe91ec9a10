//! Puts: what is let in, on which condition, and what is told of it.

use crate::commit::{Pending, Staged};
use crate::error::PutError;
use crate::index::{Entry, KeyHash, KeyState};
use crate::limits::{BLOB_LEN_MAX, KEY_ID_LEN_MAX};
use crate::log::{BlobLog, Health, State};
use crate::record::{HEAD_LEN, Kind};
use crate::seam::Files;

/// What a put expects to find; checked against durable and pending records alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No such key: of two who create it, one succeeds.
    Absent,
    /// The key has this version: of two who rotate it, one succeeds.
    Version(u32),
}

/// A durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Orders all writes of the log; greater is later.
    pub revision: u64,
    /// The key's version now.
    pub version: u32,
}

/// Why a put is refused, and what must be durable before it may be said: a refusal must not show
/// a pending put that a crash could still undo.
type Refusal = (PutError, Option<u64>);

impl<F: Files> BlobLog<F> {
    /// Puts a key's sealed versions, `version` being the newest. Durable on return, and read by
    /// every `get` that begins afterwards.
    ///
    /// `version` is from 1 and never below the one it replaces. The future must be polled to its
    /// end: it may be the one that writes for others, and the log is poisoned if it is dropped
    /// meanwhile.
    ///
    /// # Errors
    /// See [`PutError`].
    pub async fn put_blob(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        blob: Vec<u8>,
        expect: Expect,
    ) -> Result<Stored, PutError> {
        let admitted = self.admit_blob(keyspace, key_id, version, blob, expect);
        self.settle(admitted).await
    }

    /// Marks a key as revoked, for ever. Durable on return. Revoking twice is no error.
    ///
    /// The future must be polled to its end, as `put_blob`'s.
    ///
    /// # Errors
    /// `NotFound` if there is no such key; else see [`PutError`].
    pub async fn put_revoked(&self, keyspace: u32, key_id: &[u8]) -> Result<Stored, PutError> {
        let admitted = self.admit_revoked(keyspace, key_id);
        self.settle(admitted).await
    }

    fn admit_blob(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        blob: Vec<u8>,
        expect: Expect,
    ) -> Result<(Stored, u64), Refusal> {
        let mut state = self.shared.state.borrow_mut();
        let len = HEAD_LEN + key_id.len() + blob.len();
        state.take_more(key_id, len, self.shared.options.pending_bytes_max)?;
        if blob.is_empty() || blob.len() > BLOB_LEN_MAX {
            return Err((PutError::BadRecord("a blob has from 1 byte to 1 MiB"), None));
        }
        if version == 0 {
            return Err((PutError::BadRecord("a key's version is at least 1"), None));
        }
        let hash = state.index.hash(keyspace, key_id);
        let (current, seen) = match state.newest(hash) {
            Newest::None => (None, None),
            Newest::Durable(entry) if entry.state == KeyState::Revoked => {
                return Err((PutError::Revoked, None));
            }
            Newest::Durable(entry) => (Some(entry.version), None),
            Newest::Pending(put) if put.revoked => {
                return Err((PutError::Revoked, Some(put.ticket)));
            }
            Newest::Pending(put) => (Some(put.version), Some(put.ticket)),
        };
        match (expect, current) {
            (Expect::Absent, Some(current)) => {
                return Err((PutError::Conflict { current }, seen));
            }
            (Expect::Version(_), None) => return Err((PutError::NotFound, None)),
            (Expect::Version(expected), Some(current)) if expected != current => {
                return Err((PutError::Conflict { current }, seen));
            }
            (Expect::Version(_), Some(current)) if version < current => {
                return Err((
                    PutError::VersionBehind {
                        current,
                        offered: version,
                    },
                    seen,
                ));
            }
            (Expect::Absent, None) | (Expect::Version(_), Some(_)) => {}
        }
        Ok(state.stage_new(hash, Kind::Blob, keyspace, version, key_id, blob))
    }

    fn admit_revoked(&self, keyspace: u32, key_id: &[u8]) -> Result<(Stored, u64), Refusal> {
        let mut state = self.shared.state.borrow_mut();
        let len = HEAD_LEN + key_id.len();
        state.take_more(key_id, len, self.shared.options.pending_bytes_max)?;
        let hash = state.index.hash(keyspace, key_id);
        let version = match state.newest(hash) {
            Newest::None => return Err((PutError::NotFound, None)),
            Newest::Durable(entry) if entry.state == KeyState::Revoked => {
                let stored = Stored {
                    revision: entry.revision,
                    version: entry.version,
                };
                return Ok((stored, state.durable_ticket));
            }
            Newest::Durable(entry) => entry.version,
            Newest::Pending(put) if put.revoked => {
                return Ok((
                    Stored {
                        revision: put.revision,
                        version: put.version,
                    },
                    put.ticket,
                ));
            }
            Newest::Pending(put) => put.version,
        };
        Ok(state.stage_new(hash, Kind::Revoked, keyspace, version, key_id, Vec::new()))
    }

    async fn settle(&self, admitted: Result<(Stored, u64), Refusal>) -> Result<Stored, PutError> {
        match admitted {
            Ok((stored, ticket)) => {
                self.durable(ticket).await?;
                Ok(stored)
            }
            Err((error, None)) => Err(error),
            Err((error, Some(ticket))) => {
                self.durable(ticket).await?;
                Err(error)
            }
        }
    }
}

enum Newest {
    None,
    Durable(Entry),
    Pending(Pending),
}

impl<L> State<L> {
    /// Whether another record of `len` bytes may be queued.
    fn take_more(&self, key_id: &[u8], len: usize, pending_max: usize) -> Result<(), Refusal> {
        if key_id.is_empty() || key_id.len() > KEY_ID_LEN_MAX {
            return Err((
                PutError::BadRecord("a key id has from 1 to 128 bytes"),
                None,
            ));
        }
        match &self.health {
            Health::Poisoned(why) => Err((PutError::Poisoned(why.clone()), None)),
            Health::Closed => Err((PutError::Closed, None)),
            // One record is always let in, else a small bound would refuse it for ever.
            Health::Writable
                if self.pending_bytes > 0 && self.pending_bytes + len > pending_max =>
            {
                Err((PutError::Overloaded, None))
            }
            Health::Writable => Ok(()),
        }
    }

    fn newest(&self, hash: KeyHash) -> Newest {
        match (self.pending.get(&hash), self.index.find(hash)) {
            (Some(put), _) => Newest::Pending(*put),
            (None, Some(entry)) => Newest::Durable(entry),
            (None, None) => Newest::None,
        }
    }

    pub fn take_revision(&mut self) -> u64 {
        let revision = self.next_revision;
        self.next_revision += 1;
        revision
    }

    fn stage_new(
        &mut self,
        hash: KeyHash,
        kind: Kind,
        keyspace: u32,
        version: u32,
        key_id: &[u8],
        blob: Vec<u8>,
    ) -> (Stored, u64) {
        let revision = self.take_revision();
        let key_id = key_id.to_vec();
        let copy_of = None;
        let staged = Staged {
            hash,
            kind,
            revision,
            keyspace,
            version,
            key_id,
            blob,
            copy_of,
            ticket: 0,
        };
        let ticket = self.stage(staged);
        let revoked = kind == Kind::Revoked;
        self.pending.insert(
            hash,
            Pending {
                version,
                revoked,
                revision,
                ticket,
            },
        );
        (Stored { revision, version }, ticket)
    }
}
