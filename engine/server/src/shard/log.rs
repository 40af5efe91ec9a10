//! What the core reports, as log lines. The runbook's lines are `refresh wait timeout` and
//! `key cache invalid`; people match them by these words.

use keyway_core::{Event, Instant, KeyspaceId};

use super::Shard;
use crate::logging::LineLimit;

thread_local! {
    static WAIT_TIMEOUTS: LineLimit = LineLimit::default();
    static INVALID_KEYS: LineLimit = LineLimit::default();
    static FAILED_LOADS: LineLimit = LineLimit::default();
    static LEASES_GRANTED: LineLimit = LineLimit::default();
    static LEASES_ENDED: LineLimit = LineLimit::default();
    static DENIED: LineLimit = LineLimit::default();
}

impl Shard {
    pub(super) fn report(&self, now: Instant, event: &Event) {
        let name = |id: KeyspaceId| {
            self.keyspaces
                .borrow()
                .of(id.0)
                .map_or_else(|| id.0.to_string(), |k| k.name.clone())
        };
        let shard = self.index;
        match event {
            Event::WaitTimeout {
                keyspace,
                key_id,
                waiters,
            } => {
                if let Some(suppressed) = WAIT_TIMEOUTS.with(|limit| limit.admit(now)) {
                    let cause = self.cause_of_wait(*keyspace, key_id);
                    tracing::warn!(
                        shard, keyspace = name(*keyspace), key = %show(key_id), cause, waiters,
                        suppressed, "refresh wait timeout"
                    );
                }
            }
            Event::KeyInvalid {
                keyspace,
                key_id,
                cause,
            } => {
                if let Some(suppressed) = INVALID_KEYS.with(|limit| limit.admit(now)) {
                    let dek = if self.rehydrator.has_dek(keyspace.0) {
                        "held"
                    } else {
                        "missing"
                    };
                    tracing::error!(
                        shard, keyspace = name(*keyspace), key = %show(key_id), ?cause, dek,
                        suppressed, "key cache invalid"
                    );
                }
            }
            Event::LoadFailed {
                keyspace,
                key_id,
                error,
                attempts,
            } => {
                if let Some(suppressed) = FAILED_LOADS.with(|limit| limit.admit(now)) {
                    tracing::warn!(
                        shard, keyspace = name(*keyspace), key = %show(key_id), ?error, attempts,
                        suppressed, "rehydrate failed"
                    );
                }
            }
            Event::VersionWentBack {
                keyspace,
                key_id,
                loaded,
                expected,
            } => tracing::error!(
                shard, keyspace = name(*keyspace), key = %show(key_id), loaded, expected,
                "an older version came back from the store and was refused"
            ),
            Event::KeyValid { keyspace, key_id } => tracing::info!(
                shard, keyspace = name(*keyspace), key = %show(key_id), "key is valid again"
            ),
            Event::LeaseGranted {
                keyspace,
                generation,
                ..
            } => {
                if let Some(suppressed) = LEASES_GRANTED.with(|limit| limit.admit(now)) {
                    tracing::info!(
                        shard,
                        keyspace = name(*keyspace),
                        generation,
                        suppressed,
                        "DEK lease granted"
                    );
                }
            }
            Event::LeaseEnded { keyspace } => {
                if let Some(suppressed) = LEASES_ENDED.with(|limit| limit.admit(now)) {
                    tracing::warn!(
                        shard,
                        keyspace = name(*keyspace),
                        suppressed,
                        "DEK lease ended"
                    );
                }
            }
            Event::KeyspaceDenied { keyspace, ticket } => {
                let ticket = self.needs_unlock(keyspace.0, *ticket);
                if let Some(suppressed) = DENIED.with(|limit| limit.admit(now)) {
                    tracing::error!(
                        shard,
                        keyspace = name(*keyspace),
                        ticket,
                        suppressed,
                        "the KMS denied the keyspace: purged"
                    );
                }
            }
            // The control thread logs the cause, once for all shards and keyspaces.
            Event::KmsUnavailable { keyspace, after_us } => tracing::debug!(
                shard,
                keyspace = name(*keyspace),
                after_us,
                "the KMS gave no DEK: asked again later"
            ),
            Event::Evicted { keyspace, key_id } => tracing::debug!(
                shard, keyspace = name(*keyspace), key = %show(key_id), "evicted for room"
            ),
        }
    }
}

impl Shard {
    /// What a load that takes longer than a wait budget is held up by, in a word.
    fn cause_of_wait(&self, keyspace: KeyspaceId, key_id: &[u8]) -> &'static str {
        if !self.rehydrator.has_dek(keyspace.0) {
            "dek_missing"
        } else if self.loads.borrow().holds(keyspace, key_id) {
            "read_queued"
        } else {
            "read_slow"
        }
    }
}

/// Key ids are printable ASCII by the wire's rule.
fn show(key_id: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(key_id)
}
