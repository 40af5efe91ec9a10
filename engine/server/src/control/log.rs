//! The words of control's reports.

use keyway_node::catalogue;
use keyway_node::control::Report;

/// Writes a report into the log.
pub(super) fn write(report: Report) {
    match report {
        Report::Created { id, name, kms, who } => {
            tracing::info!(keyspace = name, id, kms, %who, "keyspace created");
        }
        Report::Initialised { kms, shares } => {
            tracing::info!(kms, shares, "KMS initialised");
        }
        Report::SettingsChanged {
            keyspace,
            who,
            settings,
            for_ms: None,
        } => tracing::info!(keyspace, %who, %settings, "settings changed"),
        Report::SettingsChanged {
            keyspace,
            who,
            settings,
            for_ms: Some(for_ms),
        } => tracing::info!(keyspace, %who, %settings, for_ms, "temporary override set"),
        Report::OverrideExpired { keyspace, change } => override_expired(keyspace, &change),
        Report::CommandTimedOut => tracing::error!("a command took longer than 10 minutes"),
        Report::CommandForgotten => {
            tracing::error!("a command ended without an answer; please report this bug");
        }
        Report::SaveFailed { why, unwritten } => tracing::error!(
            why,
            unwritten,
            "{} could not be written; what is locked or withdrawn stays so, a restart would undo it, and the server \
             keeps trying",
            catalogue::FILE
        ),
        Report::SaveWorks => tracing::info!("{} is written again", catalogue::FILE),
        Report::Locked { keyspace, who } => {
            tracing::info!(keyspace, %who, "keyspace locked");
        }
        Report::KmsLocked { kms, who } => tracing::warn!(kms, %who, "KMS locked"),
        Report::UnlockFailed { keyspace, failure } => {
            tracing::warn!(keyspace, error = %failure, "unlock failed");
        }
        Report::KmsUnlockFailed { kms, failure } => {
            tracing::warn!(kms, error = %failure, "unlock failed");
        }
        Report::UnlockWaits { keyspace, failure } => {
            tracing::info!(keyspace, error = %failure, "the unlock waits for the KMS");
        }
        Report::Unlocked { keyspace, who } => {
            tracing::info!(keyspace, %who, "keyspace unlocked");
        }
        Report::KmsUnlocked { kms } => tracing::info!(kms, "KMS unlocked"),
        Report::CameAfterLock { keyspace } => {
            tracing::info!(keyspace, "unwrap completed after the lock; DEKs discarded");
        }
        Report::KmsFails {
            kms,
            keyspace,
            failure,
        } => tracing::warn!(
            kms, keyspace, cause = failure.cause, error = %failure,
            "unwrap failed"
        ),
        Report::KmsStillFails {
            kms,
            keyspaces,
            failures,
            failure,
        } => tracing::warn!(
            kms, keyspaces, failures, cause = failure.cause, error = %failure,
            "unwrap failed; the outage continues"
        ),
        Report::KmsWorks { kms, lasted_s } => {
            tracing::info!(kms, lasted_s, "unwraps succeed again")
        }
        Report::Rotated {
            keyspace,
            generation,
            who,
        } => tracing::info!(keyspace, generation, %who, "DEK rotated"),
        Report::Resealing {
            keyspace,
            resealed,
            left,
        } => tracing::info!(keyspace, resealed, left, "resealing"),
        Report::Unreadable { keyspace, count } => tracing::warn!(
            keyspace,
            unreadable = count,
            "blobs under an older DEK cannot be opened: the DEK is kept until they are restored or revoked"
        ),
        Report::ResealWaits {
            keyspace,
            shard,
            error,
        } => tracing::warn!(keyspace, shard, ?error, "resealing paused"),
        Report::RetireFailed { keyspace, why } => {
            tracing::error!(keyspace, error = %why, "older DEKs cannot be retired yet");
        }
        Report::Retired {
            keyspace,
            generation,
            resealed,
        } => tracing::info!(
            keyspace,
            generation,
            resealed,
            "resealing completed; older DEKs are retired and stored for 30 days"
        ),
        Report::Moved {
            keyspace,
            from,
            to,
            who,
        } => tracing::info!(keyspace, from, to, %who, "DEKs rewrapped"),
        Report::Revived {
            keyspace,
            generation,
        } => tracing::warn!(
            keyspace,
            generation,
            "a blob is sealed under a retired DEK, which is in use again until such blobs are resealed"
        ),
        Report::ReviveFailed {
            keyspace,
            generation,
            why,
        } => tracing::error!(
            keyspace,
            generation,
            why,
            "a retired DEK cannot be brought back into use"
        ),
        Report::DekMissing {
            keyspace,
            generation,
        } => tracing::error!(
            keyspace,
            generation,
            "a blob is sealed under a DEK that was destroyed: restore the key from where it came from, \
             or keyspaces.json and the logs from the same backup"
        ),
        Report::Destroyed {
            keyspace,
            generations,
            who,
        } => tracing::info!(keyspace, ?generations, %who, "retired DEKs destroyed"),
        Report::DueDestroyed { due } => {
            tracing::info!(?due, "retired DEKs destroyed after 30 days");
        }
        Report::DueKept { why } => tracing::error!(
            why,
            "retired DEKs could not be destroyed; they are stored longer"
        ),
    }
}

/// Logs that a temporary override has expired.
pub(super) fn override_expired(keyspace: u32, change: &catalogue::Change) {
    tracing::info!(
        keyspace,
        setting = change.what,
        from = change.from.as_deref(),
        to = change.to.as_deref(),
        "temporary override expired"
    );
}

/// The server has stopped.
pub(super) fn left_unwritten(unwritten: usize) {
    if unwritten > 0 {
        tracing::error!(
            unwritten,
            "stopped with unwritten changes in force: the next start undoes them"
        );
    }
}
