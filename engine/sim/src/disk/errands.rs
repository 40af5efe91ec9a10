//! What a shard asks its log for, as the server's driver does it.

use super::log::Ended;
use keyway_node::port::{Blob, Expect, Found, KeyState, Page, ReadError, Row, Write, WriteError};
use keyway_node::shard::{Done, Errand, OwnedName};
use keyway_store::virtual_files::VirtualFiles;
use keyway_store::{BlobLog, Lookup, PutError};

type Log = BlobLog<VirtualFiles>;

/// Uses that are reserved at a time.
const USES: u64 = 1_000;

/// Does what a shard asked for: as the server's driver.
pub(super) async fn run<T>(log: &Log, errand: Errand, ended: &Ended<T>) -> Done {
    match errand {
        Errand::Read(name) => Done::Read(read(log, &name).await),
        Errand::Put(name, write) => {
            let number = ended.begin_put(&write);
            let put = put(log, &name, write).await;
            ended.end_put(number, put.is_ok());
            Done::Put(put)
        }
        Errand::RevokedAt(name) => {
            let revoked_at = log.revoked_at(name.keyspace, &name.key_id).await;
            Done::RevokedAt(revoked_at.map_err(|error| WriteError::Store(error.to_string())))
        }
        Errand::List {
            keyspace,
            cursor,
            rows_max,
        } => Done::Listed(list(log, keyspace, &cursor, rows_max).await),
        Errand::Reserve(name, version) => {
            let reserved = reserve(log, &name, version).await;
            ended.wrote.set(true);
            Done::Reserved(reserved)
        }
        Errand::Generate(_) => Done::Lost,
    }
}

async fn read(log: &Log, name: &OwnedName) -> Result<Found, ReadError> {
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

async fn put(log: &Log, name: &OwnedName, write: Write) -> Result<u32, WriteError> {
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
        Write::Revocation => log.put_revoked(keyspace, key_id).await,
        Write::Deletion => log.put_deleted(keyspace, key_id).await,
    };
    stored.map(|stored| stored.version).map_err(of_put)
}

async fn list(log: &Log, keyspace: u32, cursor: &[u8], rows_max: usize) -> Result<Page, String> {
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
    });
    Ok(Page {
        rows: rows.collect(),
        cursor: page.cursor,
    })
}

async fn reserve(log: &Log, name: &OwnedName, version: u32) -> Result<(), WriteError> {
    let (keyspace, key_id) = (name.keyspace, &*name.key_id);
    let written = log.uses(keyspace, key_id).await;
    let written = written.map_err(|error| WriteError::Store(error.to_string()))?;
    let count = match written {
        Some((of, count)) if of == version => count.saturating_add(USES),
        _ => USES,
    };
    let put = log.put_uses(keyspace, key_id, version, count).await;
    put.map_err(of_put)
}

pub(super) fn state_of(state: keyway_store::KeyState) -> KeyState {
    match state {
        keyway_store::KeyState::Live => KeyState::Live,
        keyway_store::KeyState::Revoked => KeyState::Revoked,
        keyway_store::KeyState::Deleted => KeyState::Deleted,
        keyway_store::KeyState::Damaged => KeyState::Damaged,
    }
}

pub(super) fn of_put(error: PutError) -> WriteError {
    match error {
        PutError::Conflict { .. } | PutError::VersionBehind { .. } | PutError::NotRevoked => {
            WriteError::Conflict(error.to_string())
        }
        PutError::NotFound => WriteError::NotFound,
        PutError::Revoked => WriteError::Revoked,
        PutError::Overloaded => WriteError::Overloaded(error.to_string()),
        PutError::NotPersisted(_) => WriteError::NotPersisted(error.to_string()),
        PutError::Unknown(_) => WriteError::Unknown(error.to_string()),
        _ => WriteError::Store(error.to_string()),
    }
}
