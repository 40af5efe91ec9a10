//! What the shard reports, as log lines. The runbook's lines are `refresh wait timeout` and `key cache invalid`; people
//! match them by these words.

use keyway_core::{Event, KeyspaceId};
use keyway_node::policy::Principal;
use keyway_node::shard::{KeyChange, Report};

use super::Driver;
use crate::logging::PER_MINUTE;

impl Driver {
    pub(super) fn write_log(&self, report: &Report) {
        let shard = self.index;
        match report {
            Report::Core { event, cause } => self.write_core(event, cause),
            Report::HandlerPanicked => {
                tracing::error!(shard, "a request handler panicked; please report this bug");
            }
            Report::CorePanicked => tracing::error!(
                shard,
                "the core panicked: this shard no longer answers, and the server stops; please report this bug"
            ),
            Report::KeyChanged {
                keyspace,
                key_id,
                change,
                newest,
                who,
            } => self.write_change(*keyspace, key_id, *change, *newest, *who),
            Report::ReadFailed { keyspace, error } => {
                tracing::warn!(keyspace, %error, "blob log read failed");
            }
            Report::NoRoomForKey { keyspace, error } => {
                tracing::error!(keyspace, %error, "key not loaded: arena full");
            }
            Report::NotOpened { keyspace, error } => {
                tracing::debug!(keyspace, %error, "a blob did not open");
            }
            Report::NoRoomForDek { keyspace, error } => {
                tracing::error!(keyspace, %error, "DEK not loaded: arena full");
            }
            Report::SettingsRefused { keyspace, error } => {
                tracing::error!(keyspace = %self.name(KeyspaceId(*keyspace)), %error, "settings refused");
            }
            Report::NotResealed {
                keyspace,
                key_id,
                error,
            } => tracing::error!(
                keyspace,
                key = %show(key_id),
                reason = %error,
                "key cache invalid: a blob cannot be sealed under the new DEK"
            ),
            Report::UnsentShed { who, unsent_bytes } => tracing::warn!(
                shard,
                principal = %who,
                unsent_bytes,
                "the shard has too many unsent answers: a connection that does not read them is closed"
            ),
            Report::WarmAdmission {
                keys,
                left,
                took_ms: Some(took_ms),
            } => tracing::info!(shard, keys, left, took_ms, "warm start done"),
            Report::WarmAdmission { keys, left, .. } => {
                tracing::info!(shard, keys, left, "loading the hottest keys");
            }
        }
    }

    fn name(&self, id: KeyspaceId) -> String {
        let shard = self.shard.borrow();
        let name = shard.keyspace_name(id.0);
        name.map_or_else(|| id.0.to_string(), str::to_owned)
    }

    fn write_change(
        &self,
        keyspace: u32,
        key_id: &[u8],
        change: KeyChange,
        newest: u32,
        who: Principal,
    ) {
        if change == KeyChange::Restored {
            let key = show(key_id);
            tracing::warn!(keyspace, %key, version = newest, "damaged key restored by an import");
            return;
        }
        let (keyspace, key) = (self.name(KeyspaceId(keyspace)), show(key_id));
        match change {
            KeyChange::Trimmed(below) => {
                tracing::info!(keyspace, %key, below, newest, %who, "key trimmed");
            }
            KeyChange::VersionRevoked(version) => {
                tracing::info!(keyspace, %key, version, newest, %who, "key version revoked");
            }
            KeyChange::Revoked => tracing::info!(keyspace, %key, newest, %who, "key revoked"),
            KeyChange::Deleted => tracing::info!(keyspace, %key, newest, %who, "key deleted"),
            KeyChange::Restored => {}
        }
    }

    fn write_core(&self, event: &Event, cause: &str) {
        let shard = self.index;
        match event {
            Event::WaitTimeout {
                keyspace,
                key_id,
                waiters,
            } => tracing::warn!(
                shard, keyspace = self.name(*keyspace), key = %show(key_id), cause, waiters, "refresh wait timeout"
            ),
            Event::KeyInvalid {
                keyspace,
                key_id,
                cause: why,
            } => tracing::error!(
                shard, keyspace = self.name(*keyspace), key = %show(key_id), cause = ?why, dek = cause,
                "key cache invalid"
            ),
            Event::LoadFailed {
                keyspace,
                key_id,
                error,
                attempts,
            } => tracing::warn!(
                shard, keyspace = self.name(*keyspace), key = %show(key_id), ?error, attempts, "rehydrate failed"
            ),
            Event::VersionWentBack {
                keyspace,
                key_id,
                loaded,
                expected,
            } => tracing::error!(
                shard, keyspace = self.name(*keyspace), key = %show(key_id), loaded, expected,
                "the store returned an older version, which was refused"
            ),
            Event::KeyValid { keyspace, key_id } => tracing::info!(
                shard, keyspace = self.name(*keyspace), key = %show(key_id), "key is valid again"
            ),
            // Every shard has the lease of every keyspace: one of them logs its outcome.
            Event::LeaseGranted { .. }
            | Event::LeaseEnded { .. }
            | Event::KeyspaceDenied { .. }
                if shard != 0 => {}
            Event::LeaseGranted {
                keyspace,
                generation,
                ..
            } => {
                let keyspace = self.name(*keyspace);
                tracing::info!(name: PER_MINUTE, shard, keyspace, generation, "DEK lease granted");
            }
            Event::LeaseEnded { keyspace } => {
                let keyspace = self.name(*keyspace);
                tracing::warn!(name: PER_MINUTE, shard, keyspace, "DEK lease ended");
            }
            Event::KeyspaceDenied {
                keyspace,
                kms_locked,
                ..
            } => {
                let ticket = self.shard.borrow().ticket_of(keyspace.0);
                let keyspace = self.name(*keyspace);
                match kms_locked {
                    true => tracing::error!(
                        name: PER_MINUTE, shard, keyspace, ticket, "the keyspace's KMS is locked: no data key"
                    ),
                    false => tracing::error!(
                        name: PER_MINUTE, shard, keyspace, ticket, "the KMS denied the keyspace: purged"
                    ),
                }
            }
            // The control thread logs the cause, once for all shards and keyspaces.
            Event::KmsUnavailable { keyspace, after_us } => tracing::debug!(
                shard,
                keyspace = self.name(*keyspace),
                after_us,
                "unwrap will be retried"
            ),
            Event::Evicted { keyspace, key_id } => tracing::debug!(
                shard, keyspace = self.name(*keyspace), key = %show(key_id), "evicted: memory full"
            ),
        }
    }
}

/// Key ids are printable ASCII by the wire's rule.
fn show(key_id: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(key_id)
}
