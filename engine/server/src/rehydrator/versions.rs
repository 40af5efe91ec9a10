//! What takes something away from a key: one version revoked, old ones trimmed, the whole key
//! revoked, deleted; and where a key's versions begin.

use keyway_keys::{Context, Dek, KeyError, peek};
use keyway_store::{
    Blob, Expect, KeyState, Known, Lookup, ReadError as StoreReadError, Revocation,
};

use super::{Rehydrator, WriteError};
use crate::clock;

/// Where a new key goes.
pub(super) struct Place {
    /// Its first version.
    pub version: u32,
    /// What the log is to hold.
    pub expect: Expect,
    /// It takes the place of a damaged record.
    pub restores: bool,
}

/// Where a key goes of which the log knows this, if it can go anywhere.
pub(super) fn place_of(known: Option<Known>, is_import: bool) -> Result<Place, WriteError> {
    let absent = |version| Place {
        version,
        expect: Expect::Absent,
        restores: false,
    };
    let Some(known) = known else {
        return Ok(absent(1));
    };
    match known.state {
        KeyState::Revoked => Err(WriteError::Revoked),
        // Versions go on where they ended: what was made with the old key is not taken for the
        // new one's.
        KeyState::Deleted => match known.version.checked_add(1) {
            Some(version) => Ok(absent(version)),
            None => Err(WriteError::Conflict(
                "the id has used up its version numbers; use another id".to_owned(),
            )),
        },
        KeyState::Damaged if is_import => Ok(Place {
            version: known.version,
            expect: Expect::Revision(known.version, known.revision),
            restores: true,
        }),
        KeyState::Damaged => Err(WriteError::Conflict(
            "the key exists and its record is damaged; import it again with `keyway key import`, \
             or revoke it"
                .to_owned(),
        )),
        KeyState::Live => Err(WriteError::Conflict(
            "the key exists; use `keyway key rotate` for a new version".to_owned(),
        )),
    }
}

impl Rehydrator {
    /// The newest blob of a key that is to be changed.
    pub(super) async fn newest_blob(
        &self,
        keyspace: u32,
        key_id: &[u8],
    ) -> Result<Blob, WriteError> {
        match self.log.get(keyspace, key_id).await {
            Ok(Lookup::Blob(blob)) => Ok(blob),
            Ok(Lookup::Missing) => Err(WriteError::NotFound),
            Ok(Lookup::Revoked { .. }) => Err(WriteError::Revoked),
            Err(error @ StoreReadError::Damaged { .. }) => {
                Err(WriteError::Invalid(error.to_string()))
            }
            Err(error) => Err(WriteError::Store(error.to_string())),
        }
    }

    /// Removes a key's versions below `below`; durable on return. The newest version.
    pub async fn trim(
        &self,
        keyspace: u32,
        key_id: &[u8],
        below: u32,
        may_write: impl Fn() -> Result<(), WriteError>,
    ) -> Result<u32, WriteError> {
        self.rewrite(keyspace, key_id, may_write, |blob, dek, opener| {
            let context = Context { keyspace, key_id };
            self.vault.seal_trimmed(dek, context, blob, opener, below)
        })
        .await
    }

    /// Revokes one version of a key; durable on return. The newest version.
    pub async fn revoke_version(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        may_write: impl Fn() -> Result<(), WriteError>,
    ) -> Result<u32, WriteError> {
        self.rewrite(keyspace, key_id, may_write, |blob, dek, opener| {
            let context = Context { keyspace, key_id };
            self.vault
                .seal_version_revoked(dek, context, blob, opener, version)
        })
        .await
    }

    /// Stores what `change` makes of a key's newest blob, sealed under the newest DEK. `None` from
    /// it: nothing is to be changed.
    async fn rewrite(
        &self,
        keyspace: u32,
        key_id: &[u8],
        may_write: impl Fn() -> Result<(), WriteError>,
        change: impl Fn(&[u8], &Dek, &Dek) -> Result<Option<Vec<u8>>, KeyError>,
    ) -> Result<u32, WriteError> {
        let current = self.newest_blob(keyspace, key_id).await?;
        may_write()?;
        let sealed_under = peek(current.bytes())?.dek_generation;
        let (changed, _under_way) = {
            let deks = self.deks.borrow();
            let deks = deks.get(&keyspace).ok_or(WriteError::DekMissing)?;
            let opener = deks.get(&sealed_under).ok_or(WriteError::DekMissing)?;
            let (newest, dek) = deks.last_key_value().ok_or(WriteError::DekMissing)?;
            let under_way = self.floors.begin(keyspace, *newest);
            let under_way = under_way.ok_or(WriteError::DekMissing)?;
            (change(current.bytes(), dek, opener)?, under_way)
        };
        let Some(blob) = changed else {
            return Ok(current.version);
        };
        let expect = Expect::Revision(current.version, current.revision);
        let stored = self
            .log
            .put_blob(keyspace, key_id, current.version, blob, expect)
            .await?;
        Ok(stored.version)
    }

    /// Revokes a key for ever: it holds for every load that begins from now on. To be followed by
    /// [`Rehydrator::persist_revocation`].
    ///
    /// Errors: nothing has changed.
    pub fn revoke(&self, keyspace: u32, key_id: &[u8]) -> Result<Revocation, WriteError> {
        Ok(self.log.revoke(keyspace, key_id, clock::unix_ms())?)
    }

    /// Waits until a revocation is durable. The version that the key had.
    ///
    /// Errors: [`WriteError::NotPersisted`]; the log goes on trying.
    pub async fn persist_revocation(&self, revocation: Revocation) -> Result<u32, WriteError> {
        Ok(self.log.persisted(revocation).await?.version)
    }

    /// Deletes a key that was revoked `wait_ms` ago or earlier; durable on return. Its last
    /// version.
    pub async fn delete(
        &self,
        keyspace: u32,
        key_id: &[u8],
        wait_ms: u64,
    ) -> Result<u32, WriteError> {
        if wait_ms > 0 {
            let revoked_at = self.log.revoked_at(keyspace, key_id).await;
            let revoked_at = revoked_at.map_err(|error| WriteError::Store(error.to_string()))?;
            // A time that is not known counts from now: better too late than too early.
            let now = clock::unix_ms();
            let until = revoked_at.unwrap_or(now).saturating_add(wait_ms);
            let is_revoked = self
                .log
                .version_of(keyspace, key_id)
                .is_some_and(|known| known.state == KeyState::Revoked);
            if is_revoked && now < until {
                return Err(WriteError::Conflict(format!(
                    "the key can be deleted in {} s, by the keyspace's delete_wait_ms ({wait_ms}); \
                     wait, or set delete_wait_ms lower",
                    (until - now).div_ceil(1_000)
                )));
            }
        }
        Ok(self.log.put_deleted(keyspace, key_id).await?.version)
    }
}
