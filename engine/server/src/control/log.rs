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
            tracing::info!(kms, shares, "the KMS has a key of its own now");
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
        } => tracing::info!(keyspace, %who, %settings, for_ms, "settings changed for a while"),
        Report::LimitedEnded { keyspace, change } => limited_ended(keyspace, &change),
        Report::CommandTimedOut => tracing::error!("a command took longer than 10 minutes"),
        Report::CommandForgotten => {
            tracing::error!("a command came to no end; this is a bug");
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
            tracing::info!(keyspace, "DEKs came after the lock and are not handed out");
        }
        Report::KmsFails {
            kms,
            keyspace,
            failure,
        } => tracing::warn!(
            kms, keyspace, cause = failure.cause, error = %failure,
            "the DEKs were not unwrapped"
        ),
        Report::KmsStillFails {
            kms,
            keyspaces,
            failures,
            failure,
        } => tracing::warn!(
            kms, keyspaces, failures, cause = failure.cause, error = %failure,
            "the DEKs are still not unwrapped"
        ),
        Report::KmsWorks { kms, lasted_s } => tracing::info!(
            kms,
            lasted_s,
            "the DEKs of all its keyspaces are unwrapped again"
        ),
        Report::Rotated {
            keyspace,
            generation,
            who,
        } => tracing::info!(keyspace, generation, %who, "new DEK"),
        Report::Resealing {
            keyspace,
            resealed,
            left,
        } => tracing::info!(keyspace, resealed, left, "sealing blobs under the new DEK"),
        Report::Unreadable { keyspace, count } => tracing::warn!(
            keyspace,
            unreadable = count,
            "blobs under an older DEK cannot be opened: the DEK is kept until they are restored or revoked"
        ),
        Report::ResealWaits {
            keyspace,
            shard,
            error,
        } => tracing::warn!(keyspace, shard, ?error, "sealing blobs anew waits"),
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
            "every blob is sealed under the newest DEK; older DEKs are retired, and kept for 30 days"
        ),
        Report::Moved {
            keyspace,
            from,
            to,
            who,
        } => tracing::info!(keyspace, from, to, %who, "the DEKs are at another KMS"),
        Report::Revived {
            keyspace,
            generation,
        } => tracing::warn!(
            keyspace,
            generation,
            "a blob is sealed under a retired DEK, which is in use again until such blobs are sealed anew"
        ),
        Report::ReviveFailed {
            keyspace,
            generation,
            why,
        } => tracing::error!(keyspace, generation, why, "a retired DEK stays retired"),
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
            tracing::info!(?due, "retired DEKs were kept for 30 days and are destroyed");
        }
        Report::DueKept { why } => tracing::error!(why, "retired DEKs are kept longer"),
    }
}

/// A change for a while is over.
pub(super) fn limited_ended(keyspace: u32, change: &catalogue::Change) {
    tracing::info!(
        keyspace,
        setting = change.what,
        from = change.from.as_deref(),
        to = change.to.as_deref(),
        "a change for a while is over"
    );
}

/// The server has stopped.
pub(super) fn left_unwritten(unwritten: usize) {
    if unwritten > 0 {
        tracing::error!(
            unwritten,
            "stopped with changes in force that were not written: the next start undoes them"
        );
    }
}
