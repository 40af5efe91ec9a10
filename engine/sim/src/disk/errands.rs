//! A shard's errands at its log: those that the server runs in the same way, and the reservation of use counts.

use super::log::Ended;
use keyway_errands::{list, of_put, put, read, revoked_at};
use keyway_node::port::WriteError;
use keyway_node::shard::{Done, Errand, OwnedName};
use keyway_store::BlobLog;
use keyway_store::virtual_files::VirtualFiles;

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
        Errand::RevokedAt(name) => Done::RevokedAt(revoked_at(log, &name).await),
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
