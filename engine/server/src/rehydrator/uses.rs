//! Use counts of AEAD keys at rest: blocks are reserved in the blob log before they are used, and
//! what is left of them is given back.

use std::time::Duration;

use keyway_keys::{Reservation, Reserving};
use keyway_store::PutError;

use super::{Rehydrator, WriteError};
use crate::runtime::tasks;

/// How often a request looks whether another one's reservation is through.
const BUSY_POLL: Duration = Duration::from_millis(1);

/// Looks of one request: five seconds.
const BUSY_POLLS_MAX: u32 = 5_000;

/// Keys of which the rests are given back at a time.
const SURPLUS_MAX: usize = 4_096;

impl Rehydrator {
    /// Reserves the next block of encryptions for a key version that has none left; durable on
    /// return.
    ///
    /// Errors: the store cannot be read or written, or a newer version is in use.
    pub async fn reserve_uses(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
    ) -> Result<(), WriteError> {
        for _ in 0..BUSY_POLLS_MAX {
            let mut reservation = match self.uses.reserve(keyspace, key_id, version) {
                Reserving::Begun(reservation) => reservation,
                Reserving::Needless => return Ok(()),
                Reserving::Busy => {
                    tasks::sleep(BUSY_POLL).await;
                    continue;
                }
                Reserving::Outdated => break,
            };
            let written = self.log.uses(keyspace, key_id).await;
            let written = written.map_err(|error| WriteError::Store(error.to_string()))?;
            if reservation.take_block(written) {
                let record = reservation.record();
                let put = self.log.put_uses(keyspace, key_id, version, record.count);
                put.await?;
                reservation.commit();
            }
            return Ok(());
        }
        Err(WriteError::Overloaded(
            "the key has just been changed; try again".to_owned(),
        ))
    }

    /// Gives back what is reserved and not used, of all keys: for a clean stop.
    ///
    /// Errors: it stays counted as used.
    pub async fn give_back_uses(&self) -> Result<(), PutError> {
        self.write_rests(self.uses.rests()).await
    }

    /// Forgets counts of keys that are not in memory any more, if there are very many.
    pub async fn forget_idle_uses(&self) {
        self.uses.forget_idle();
        let surplus = self.uses.surplus(SURPLUS_MAX);
        if !surplus.is_empty() && self.write_rests(surplus).await.is_ok() {
            self.uses.forget_idle();
        }
    }

    async fn write_rests(&self, rests: Vec<Reservation>) -> Result<(), PutError> {
        let records = rests.iter().map(|rest| {
            let record = rest.record();
            (
                record.keyspace,
                &*record.key_id,
                record.version,
                record.count,
            )
        });
        self.log.put_all_uses(records).await?;
        rests.into_iter().for_each(Reservation::commit);
        Ok(())
    }
}
