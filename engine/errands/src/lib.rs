//! Carries out at the blob log what a shard of the node asks of it.
//!
//! The node decides and names no log; the crate of the log names no node. The server and the simulator both drive a node
//! over a log, so what lies between the two is here, once: the simulator runs what ships.
//!
//! ```text
//!  node: Errand ──▶ read, put, revoked_at, list ──▶ store: BlobLog
//!  node: Done   ◀── Found, Page, WriteError     ◀── Lookup, ListPage, PutError
//! ```

#![forbid(unsafe_code)]

use keyway_node::port::{
    Blob, Expect, Found, KeyState, Known, Name, Page, ReadError, Row, Write, WriteError,
};
use keyway_node::shard::OwnedName;
use keyway_store::{BlobLog, Files, Lookup, PutError, REVOCATIONS_BYTES_RESERVED};

/// Returns what the log's index has of a key. In memory, no I/O.
#[must_use]
pub fn known<F: Files>(log: &BlobLog<F>, name: Name<'_>) -> Option<Known> {
    let known = log.version_of(name.keyspace, name.key_id)?;
    Some(Known {
        version: known.version,
        revision: known.revision,
        state: state_of(known.state),
    })
}

/// Revokes a key: the log answers so from now on, and will write it down. In memory, no I/O. `takes_reserve`: also if
/// only the space that is reserved for the operator is left.
///
/// # Errors
/// Nothing has changed.
pub fn revoke<F: Files>(
    log: &BlobLog<F>,
    name: Name<'_>,
    unix_ms: u64,
    takes_reserve: bool,
) -> Result<(), WriteError> {
    let spare_bytes = spare_bytes(takes_reserve);
    let revoked = log.revoke(name.keyspace, name.key_id, unix_ms, spare_bytes);
    revoked.map(drop).map_err(of_put)
}

/// Revokes one version of a key, as [`revoke`] does the whole.
///
/// # Errors
/// Nothing has changed.
pub fn revoke_version<F: Files>(
    log: &BlobLog<F>,
    name: Name<'_>,
    version: u32,
    unix_ms: u64,
    takes_reserve: bool,
) -> Result<(), WriteError> {
    let spare_bytes = spare_bytes(takes_reserve);
    let (keyspace, key_id) = (name.keyspace, name.key_id);
    let revoked = log.revoke_version(keyspace, key_id, version, unix_ms, spare_bytes);
    revoked.map(drop).map_err(of_put)
}

/// Returns which versions up to `newest` of a key were revoked one by one: bit `i` is set if the version `i` below it is.
/// In memory, no I/O.
#[must_use]
pub fn revoked_versions<F: Files>(log: &BlobLog<F>, name: Name<'_>, newest: u32) -> u128 {
    log.revoked_versions(name.keyspace, name.key_id, newest)
}

/// Reads a key's newest blob.
///
/// # Errors
/// The blob is damaged, or the disk does not read.
pub async fn read<F: Files>(log: &BlobLog<F>, name: &OwnedName) -> Result<Found, ReadError> {
    match log.get(name.keyspace, &name.key_id).await {
        Ok(Lookup::Blob(blob)) => Ok(Found::Blob(Blob {
            version: blob.version,
            revision: blob.revision,
            bytes: blob.bytes().to_vec(),
        })),
        Ok(Lookup::Missing) => Ok(Found::Missing),
        Ok(Lookup::Revoked { .. }) => Ok(Found::Revoked),
        Err(error @ keyway_store::ReadError::Damaged { .. }) => {
            Err(ReadError::Damaged(error.to_string()))
        }
        Err(error) => Err(ReadError::Io(error.to_string())),
    }
}

/// Writes to a key, durably. Returns its newest version.
///
/// # Errors
/// What is stored does not allow it, or the disk does not write.
pub async fn put<F: Files>(
    log: &BlobLog<F>,
    name: &OwnedName,
    write: Write,
) -> Result<u32, WriteError> {
    let (keyspace, key_id) = (name.keyspace, &*name.key_id);
    let stored = match write {
        Write::Blob { sealed, expect } => {
            let expect = match expect {
                Expect::Absent => keyway_store::Expect::Absent,
                Expect::Revision(version, revision) => {
                    keyway_store::Expect::Revision(version, revision)
                }
            };
            log.put_blob(keyspace, key_id, sealed.version, sealed.bytes, expect)
                .await
        }
        // The log has let it in; this waits until it is durable.
        Write::Revocation => log.put_revoked(keyspace, key_id).await,
        Write::VersionRevocation(version) => {
            log.put_version_revoked(keyspace, key_id, version).await
        }
        Write::Deletion => log.put_deleted(keyspace, key_id).await,
    };
    stored.map(|stored| stored.version).map_err(of_put)
}

/// Returns when a key was revoked, in ms since the Unix epoch.
///
/// # Errors
/// The disk does not read.
pub async fn revoked_at<F: Files>(
    log: &BlobLog<F>,
    name: &OwnedName,
) -> Result<Option<u64>, WriteError> {
    let revoked_at = log.revoked_at(name.keyspace, &name.key_id).await;
    revoked_at.map_err(|error| WriteError::Store(error.to_string()))
}

/// Lists a page of a keyspace's keys, from `cursor` on.
///
/// # Errors
/// The cursor is none of the log's, or the disk does not read.
pub async fn list<F: Files>(
    log: &BlobLog<F>,
    keyspace: u32,
    cursor: &[u8],
    rows_max: usize,
) -> Result<Page, String> {
    let page = log.list(cursor, rows_max, Some(keyspace)).await;
    let page = page.map_err(|error| error.to_string())?;
    let rows = page.rows.into_iter().map(|row| Row {
        key_id: row.key_id,
        blob: Blob {
            version: row.version,
            revision: row.revision,
            bytes: row.blob,
        },
        state: state_of(row.state),
        revoked: row.revoked,
    });
    Ok(Page {
        rows: rows.collect(),
        cursor: page.cursor,
        unsettled: page.unsettled,
    })
}

/// Converts the state of a key.
#[must_use]
pub fn state_of(state: keyway_store::KeyState) -> KeyState {
    match state {
        keyway_store::KeyState::Live => KeyState::Live,
        keyway_store::KeyState::Revoked => KeyState::Revoked,
        keyway_store::KeyState::Deleted => KeyState::Deleted,
        keyway_store::KeyState::Damaged => KeyState::Damaged,
    }
}

/// Converts the reason why the log has not written.
#[must_use]
pub fn of_put(error: PutError) -> WriteError {
    match error {
        PutError::Conflict { .. } => WriteError::Conflict(
            "the key was changed by another request at the same time; look at it, then try again"
                .to_owned(),
        ),
        PutError::NotFound => WriteError::NotFound,
        PutError::Revoked => WriteError::Revoked,
        PutError::Overloaded | PutError::RevocationsFull(_) => {
            WriteError::Overloaded(error.to_string())
        }
        PutError::VersionBehind { .. } | PutError::NotRevoked => {
            WriteError::Conflict(error.to_string())
        }
        PutError::NotPersisted(_) => WriteError::NotPersisted(error.to_string()),
        PutError::Unknown(_) => WriteError::Unknown(error.to_string()),
        _ => WriteError::Store(error.to_string()),
    }
}

/// Returns how much of the space for revocations stays free for the operator.
fn spare_bytes(takes_reserve: bool) -> usize {
    match takes_reserve {
        true => 0,
        false => REVOCATIONS_BYTES_RESERVED,
    }
}
