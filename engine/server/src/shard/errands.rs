//! What takes time: the blob log, key generation, use counts. Each errand is a task of its own, and has exactly one
//! result.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::FutureExt;
use keyway_errands::{list, of_put, put, read, revoked_at};
use keyway_keys::{Algorithm, Reservation, Reserving, UseLedger, generate_rsa_pkcs8};
use keyway_node::port::{Generated, WriteError};
use keyway_node::shard::{Done, Errand, OwnedName, TaskId};
use keyway_store::{BlobLog, PutError};

use super::Driver;
use super::port::of_keys;
use crate::plant::panic_if_planted;
use crate::runtime::files::RingFiles;
use crate::runtime::tasks;

/// How often a request looks whether another one's reservation is through.
const BUSY_POLL: Duration = Duration::from_millis(1);

/// Looks of one request: five seconds.
const BUSY_POLLS_MAX: u32 = 5_000;

/// Keys of which the rests are given back at a time.
const SURPLUS_MAX: usize = 4_096;

type Log = BlobLog<RingFiles>;

impl Driver {
    /// Starts an errand. A read is submitted to the disk before this returns, not after the tasks that are queued: requests
    /// may be waiting for it.
    pub(super) fn run(self: &Rc<Self>, task: TaskId, errand: Errand) {
        let driver = Rc::clone(self);
        tasks::spawn_at_once(async move {
            let errand = AssertUnwindSafe(driver.run_whole(errand)).catch_unwind();
            let (done, has_rested) = tasks::noting_rest(errand).await;
            let done = done.unwrap_or_else(|_| {
                tracing::error!(shard = driver.index, "an errand panicked; this is a bug");
                Done::Lost
            });
            // Its result takes a turn of its own, never one inside the turn that asked for it.
            if !has_rested {
                futures_lite::future::yield_now().await;
            }
            driver.shard.borrow_mut().handle_done(task, done);
            driver.turn();
        });
    }

    async fn run_whole(&self, errand: Errand) -> Done {
        if let Errand::Read(name) | Errand::Put(name, _) = &errand {
            panic_if_planted("errand", &name.key_id);
        }
        match errand {
            Errand::Read(name) => Done::Read(read(&self.log, &name).await),
            Errand::Put(name, write) => Done::Put(put(&self.log, &name, write).await),
            Errand::RevokedAt(name) => Done::RevokedAt(revoked_at(&self.log, &name).await),
            Errand::List {
                keyspace,
                cursor,
                rows_max,
            } => Done::Listed(list(&self.log, keyspace, &cursor, rows_max).await),
            Errand::Generate(algorithm) => Done::Generated(generate(algorithm).await),
            Errand::Reserve(name, version) => {
                Done::Reserved(reserve(&self.log, &self.uses, &name, version).await)
            }
        }
    }

    /// Releases the unused reservations of all keys: for a clean stop.
    ///
    /// Errors: it stays counted as used.
    pub(super) async fn give_back_uses(&self) -> Result<(), PutError> {
        write_rests(&self.log, self.uses.rests()).await
    }

    /// Forgets counts of keys that are not in memory any more, if there are very many.
    pub(super) async fn forget_idle_uses(&self) {
        self.uses.forget_idle();
        let surplus = self.uses.surplus(SURPLUS_MAX);
        if !surplus.is_empty() && write_rests(&self.log, surplus).await.is_ok() {
            self.uses.forget_idle();
        }
    }
}

/// RSA keys take up to seconds to make: off the shard's thread.
async fn generate(code: u8) -> Result<Generated, WriteError> {
    let algorithm = Algorithm::from_id(code);
    let algorithm = algorithm
        .ok_or_else(|| WriteError::Bad("this server does not know the algorithm".into()))?;
    let made = tasks::spawn_blocking(move || generate_rsa_pkcs8(algorithm)).await;
    made.map_err(of_keys)
}

/// Reserves the next block of encryptions for a key version that has none left; durable on return.
///
/// Errors: the store cannot be read or written, or a newer version is in use.
async fn reserve(
    log: &Log,
    uses: &UseLedger,
    name: &OwnedName,
    version: u32,
) -> Result<(), WriteError> {
    let (keyspace, key_id) = (name.keyspace, &*name.key_id);
    for _ in 0..BUSY_POLLS_MAX {
        let mut reservation = match uses.reserve(keyspace, key_id, version) {
            Reserving::Begun(reservation) => reservation,
            Reserving::Needless => return Ok(()),
            Reserving::Busy => {
                tasks::sleep(BUSY_POLL).await;
                continue;
            }
            Reserving::Outdated => break,
        };
        let written = log.uses(keyspace, key_id).await;
        let written = written.map_err(|error| WriteError::Store(error.to_string()))?;
        if reservation.take_block(written) {
            let record = reservation.record();
            let put = log.put_uses(keyspace, key_id, version, record.count);
            put.await.map_err(of_put)?;
            reservation.commit();
        }
        return Ok(());
    }
    Err(WriteError::Overloaded(
        "the key has just been changed; try again".to_owned(),
    ))
}

async fn write_rests(log: &Log, rests: Vec<Reservation>) -> Result<(), PutError> {
    let records = rests.iter().map(|rest| {
        let record = rest.record();
        (
            record.keyspace,
            &*record.key_id,
            record.version,
            record.count,
        )
    });
    log.put_all_uses(records).await?;
    rests.into_iter().for_each(Reservation::commit);
    Ok(())
}
