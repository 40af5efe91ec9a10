//! After a DEK's rotation: finds the blobs that are sealed under an older DEK, and seals them anew.
//!
//! A pass over the log that finds none proves that the older DEKs are not needed any more, if it began after the shard
//! had confirmed that it seals under the newest one, with nothing older on its way: see [`super::floor`].

use keyway_keys::{Context, peek};
pub use keyway_node::messages::{ResealPage, ResealWork};
use keyway_store::{Expect, KeyState, PutError, Row};

use super::{Rehydrator, WriteError};

/// How the sealing of one blob ended.
enum Resealed {
    Done,
    /// Its DEK is not in use any more, and was asked for.
    DekRetired,
}

impl Rehydrator {
    /// Works through one page of a keyspace's blobs, those that are not sealed under the DEK of `generation`.
    ///
    /// Errors: [`WriteError::DekMissing`] if that DEK, or an older one that is needed, is not at hand;
    /// [`WriteError::Store`] if the shard may still seal under an older one; what the disk says.
    pub async fn reseal_page(
        &self,
        keyspace: u32,
        generation: u32,
        work: ResealWork,
        cursor: &[u8],
        limit: usize,
    ) -> Result<ResealPage, WriteError> {
        let floor = self.floors.of(keyspace);
        if floor < generation {
            // What it found would prove nothing.
            return Err(WriteError::Store(format!(
                "a pass for DEK {generation} came before the shard sealed under it (it is at {floor}); this is a bug"
            )));
        }
        let listed = self.log.list(cursor, limit, Some(keyspace)).await;
        let listed = listed.map_err(|error| WriteError::Store(error.to_string()))?;
        let mut page = ResealPage {
            cursor: listed.cursor,
            floor,
            ..ResealPage::default()
        };
        for row in listed.rows {
            let is_older = row.state != KeyState::Revoked
                && peek(&row.blob).is_ok_and(|blob| blob.dek_generation < generation);
            if !is_older {
                continue;
            }
            page.found += 1;
            if work == ResealWork::Count {
                continue;
            }
            match self.reseal(keyspace, generation, &row).await {
                Ok(Resealed::Done) => page.resealed += 1,
                Ok(Resealed::DekRetired) => page.unreadable += 1,
                Err(WriteError::Invalid(reason)) => {
                    tracing::error!(
                        keyspace,
                        key = %String::from_utf8_lossy(&row.key_id),
                        %reason,
                        "key cache invalid: a blob cannot be sealed under the new DEK"
                    );
                    page.unreadable += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    async fn reseal(
        &self,
        keyspace: u32,
        generation: u32,
        row: &Row,
    ) -> Result<Resealed, WriteError> {
        let key_id = row.key_id.as_slice();
        let context = Context { keyspace, key_id };
        let (blob, _under_way) = {
            let deks = self.deks.borrow();
            let deks = deks.get(&keyspace).ok_or(WriteError::DekMissing)?;
            let sealed_under = peek(&row.blob)?.dek_generation;
            let sealer = deks.get(&generation).ok_or(WriteError::DekMissing)?;
            let Some(opener) = deks.get(&sealed_under) else {
                self.want_retired(keyspace, sealed_under);
                return Ok(Resealed::DekRetired);
            };
            let under_way = self.floors.begin(keyspace, generation);
            let under_way = under_way.ok_or(WriteError::DekMissing)?;
            (
                self.vault.reseal(sealer, context, &row.blob, opener)?,
                under_way,
            )
        };
        // A version may have been revoked or trimmed since, which keeps the newest as it is.
        let expect = Expect::Revision(row.version, row.revision);
        let stored = self
            .log
            .put_blob(keyspace, key_id, row.version, blob, expect)
            .await;
        match stored {
            Ok(_) => Ok(Resealed::Done),
            // Somebody wrote or revoked it since: it is under the newest DEK, or none is needed.
            Err(PutError::Conflict { .. } | PutError::Revoked | PutError::NotFound) => {
                Ok(Resealed::Done)
            }
            Err(error) => Err(error.into()),
        }
    }
}
