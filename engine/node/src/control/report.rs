//! Events for the log. The driver has their texts.

use super::kms::KmsFailure;
use crate::catalogue::Change;
use crate::messages::ResealError;
use crate::policy::Principal;

/// An event for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A keyspace was created.
    Created {
        /// The keyspace id.
        id: u32,
        /// The keyspace name.
        name: String,
        /// The KMS that wraps its DEKs.
        kms: String,
        /// The author.
        who: Principal,
    },
    /// A KMS was initialised.
    Initialised {
        /// The KMS.
        kms: String,
        /// Number of shares.
        shares: usize,
    },
    /// Settings or grants were changed.
    SettingsChanged {
        /// The keyspace id.
        keyspace: u32,
        /// The author.
        who: Principal,
        /// The changes, as `name=value name=value`.
        settings: String,
        /// The duration in ms, if it is temporary.
        for_ms: Option<u64>,
    },
    /// A temporary override has expired.
    OverrideExpired {
        /// The keyspace id.
        keyspace: u32,
        /// The reverted change.
        change: Change,
    },
    /// A keyspace was locked, and every shard has wiped it.
    Locked {
        /// The keyspace id.
        keyspace: u32,
        /// The author.
        who: Principal,
    },
    /// A KMS was locked.
    KmsLocked {
        /// The KMS.
        kms: String,
        /// The author.
        who: Principal,
    },
    /// An unlock of a keyspace failed.
    UnlockFailed {
        /// The keyspace id.
        keyspace: u32,
        /// The cause.
        failure: KmsFailure,
    },
    /// An unlock of a KMS failed.
    KmsUnlockFailed {
        /// The KMS.
        kms: String,
        /// The cause.
        failure: KmsFailure,
    },
    /// An unlock with retries has failed for the first time, and continues.
    UnlockWaits {
        /// The keyspace id.
        keyspace: u32,
        /// The cause.
        failure: KmsFailure,
    },
    /// A keyspace was unlocked.
    Unlocked {
        /// The keyspace id.
        keyspace: u32,
        /// The author.
        who: Principal,
    },
    /// A KMS was unlocked.
    KmsUnlocked {
        /// The KMS.
        kms: String,
    },
    /// A keyspace has a new DEK.
    Rotated {
        /// The keyspace id.
        keyspace: u32,
        /// The new DEK.
        generation: u32,
        /// The author.
        who: Principal,
    },
    /// Progress of resealing.
    Resealing {
        /// The keyspace id.
        keyspace: u32,
        /// Blobs so far.
        resealed: u64,
        /// Blobs that are left.
        left: u64,
    },
    /// Blobs under an older DEK cannot be opened.
    Unreadable {
        /// The keyspace id.
        keyspace: u32,
        /// Number of blobs.
        count: u64,
    },
    /// A page of blobs could not be resealed.
    ResealWaits {
        /// The keyspace id.
        keyspace: u32,
        /// The shard.
        shard: u16,
        /// The cause.
        error: ResealError,
    },
    /// Older DEKs could not be retired.
    RetireFailed {
        /// The keyspace id.
        keyspace: u32,
        /// The cause.
        why: String,
    },
    /// Older DEKs were retired.
    Retired {
        /// The keyspace id.
        keyspace: u32,
        /// The DEK that is in use.
        generation: u32,
        /// Blobs that were resealed under it.
        resealed: u64,
    },
    /// The DEKs were moved to another KMS.
    Moved {
        /// The keyspace id.
        keyspace: u32,
        /// The KMS before.
        from: String,
        /// The KMS now.
        to: String,
        /// The author.
        who: Principal,
    },
    /// A retired DEK is in use again.
    Revived {
        /// The keyspace id.
        keyspace: u32,
        /// The generation of the DEK.
        generation: u32,
    },
    /// A retired DEK could not be put into use again.
    ReviveFailed {
        /// The keyspace id.
        keyspace: u32,
        /// The generation of the DEK.
        generation: u32,
        /// The cause.
        why: String,
    },
    /// A blob is sealed under a DEK that was destroyed.
    DekMissing {
        /// The keyspace id.
        keyspace: u32,
        /// The generation of the DEK.
        generation: u32,
    },
    /// Retired DEKs were destroyed by command.
    Destroyed {
        /// The keyspace id.
        keyspace: u32,
        /// The generations of the DEKs.
        generations: Vec<u32>,
        /// The author.
        who: Principal,
    },
    /// Retired DEKs were destroyed because their retention had ended.
    DueDestroyed {
        /// Keyspaces and generations.
        due: Vec<(u32, u32)>,
    },
    /// Retired DEKs whose retention has ended could not be destroyed.
    DueKept {
        /// The cause.
        why: String,
    },
    /// An unwrap completed after a lock, and its DEKs were discarded.
    CameAfterLock {
        /// The keyspace id.
        keyspace: u32,
    },
    /// Unwraps at a KMS fail, from a cause not yet logged for this outage.
    KmsFails {
        /// The KMS.
        kms: String,
        /// The keyspace id.
        keyspace: u32,
        /// The cause.
        failure: KmsFailure,
    },
    /// Unwraps still fail.
    KmsStillFails {
        /// The KMS.
        kms: String,
        /// Number of keyspaces.
        keyspaces: usize,
        /// Failures since the last line.
        failures: u64,
        /// The cause.
        failure: KmsFailure,
    },
    /// Unwraps succeed again.
    KmsWorks {
        /// The KMS.
        kms: String,
        /// Duration of the outage, in s.
        lasted_s: u64,
    },
    /// The catalogue could not be written.
    SaveFailed {
        /// The cause.
        why: String,
        /// Changes in force that a restart would undo.
        unwritten: usize,
    },
    /// Writes succeed again.
    SaveWorks,
    /// A command timed out, and was answered before it ended.
    CommandTimedOut,
    /// A command was dropped without an answer; this is a bug.
    CommandForgotten,
}
