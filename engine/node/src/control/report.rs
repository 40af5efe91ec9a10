//! What control has the log say. The driver knows the words.

use super::kms::KmsFailure;
use crate::catalogue::Change;
use crate::messages::ResealError;
use crate::policy::Principal;

/// A line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A keyspace was made.
    Created {
        /// Its id.
        id: u32,
        /// Its name.
        name: String,
        /// The KMS that wraps its DEKs.
        kms: String,
        /// Who made it.
        who: Principal,
    },
    /// A KMS has a key of its own now.
    Initialised {
        /// The KMS.
        kms: String,
        /// Shares that were made.
        shares: usize,
    },
    /// Settings or grants were changed.
    SettingsChanged {
        /// Of which keyspace.
        keyspace: u32,
        /// Who changed them.
        who: Principal,
        /// What, as `name=value name=value`.
        settings: String,
        /// How long it lasts, ms, if not for good.
        for_ms: Option<u64>,
    },
    /// A change for a while is over.
    OverrideExpired {
        /// Of which keyspace.
        keyspace: u32,
        /// What went back.
        change: Change,
    },
    /// A keyspace was locked, and nothing of it is left.
    Locked {
        /// Which keyspace.
        keyspace: u32,
        /// Who locked it.
        who: Principal,
    },
    /// A KMS was locked.
    KmsLocked {
        /// Which KMS.
        kms: String,
        /// Who locked it.
        who: Principal,
    },
    /// An unlock of a keyspace failed.
    UnlockFailed {
        /// Which keyspace.
        keyspace: u32,
        /// Why.
        failure: KmsFailure,
    },
    /// An unlock of a KMS failed.
    KmsUnlockFailed {
        /// Which KMS.
        kms: String,
        /// Why.
        failure: KmsFailure,
    },
    /// A watching unlock has failed for the first time, and tries on.
    UnlockWaits {
        /// Which keyspace.
        keyspace: u32,
        /// Why.
        failure: KmsFailure,
    },
    /// A keyspace was unlocked.
    Unlocked {
        /// Which keyspace.
        keyspace: u32,
        /// Who unlocked it.
        who: Principal,
    },
    /// A KMS was unlocked.
    KmsUnlocked {
        /// Which KMS.
        kms: String,
    },
    /// A keyspace has a new DEK.
    Rotated {
        /// Which keyspace.
        keyspace: u32,
        /// The new DEK.
        generation: u32,
        /// Who rotated it.
        who: Principal,
    },
    /// How far the sealing of blobs under the new DEK is.
    Resealing {
        /// Of which keyspace.
        keyspace: u32,
        /// Blobs so far.
        resealed: u64,
        /// Blobs that are left.
        left: u64,
    },
    /// Blobs under an older DEK cannot be opened.
    Unreadable {
        /// Of which keyspace.
        keyspace: u32,
        /// How many.
        count: u64,
    },
    /// A page of blobs could not be worked through.
    ResealWaits {
        /// Of which keyspace.
        keyspace: u32,
        /// At which shard.
        shard: u16,
        /// Why.
        error: ResealError,
    },
    /// Older DEKs could not be retired.
    RetireFailed {
        /// Of which keyspace.
        keyspace: u32,
        /// Why.
        why: String,
    },
    /// Older DEKs are retired.
    Retired {
        /// Of which keyspace.
        keyspace: u32,
        /// The DEK that is in use.
        generation: u32,
        /// Blobs that were sealed under it.
        resealed: u64,
    },
    /// The DEKs are at another KMS.
    Moved {
        /// Of which keyspace.
        keyspace: u32,
        /// Where they were.
        from: String,
        /// Where they are.
        to: String,
        /// Who moved them.
        who: Principal,
    },
    /// A retired DEK is in use again.
    Revived {
        /// Of which keyspace.
        keyspace: u32,
        /// The DEK.
        generation: u32,
    },
    /// A retired DEK could not be taken back into use.
    ReviveFailed {
        /// Of which keyspace.
        keyspace: u32,
        /// The DEK.
        generation: u32,
        /// Why.
        why: String,
    },
    /// A blob is sealed under a DEK that was destroyed.
    DekMissing {
        /// Of which keyspace.
        keyspace: u32,
        /// The DEK.
        generation: u32,
    },
    /// Retired DEKs were destroyed by command.
    Destroyed {
        /// Of which keyspace.
        keyspace: u32,
        /// The DEKs.
        generations: Vec<u32>,
        /// Who destroyed them.
        who: Principal,
    },
    /// Retired DEKs were destroyed, since their time was over.
    DueDestroyed {
        /// Keyspaces and generations.
        due: Vec<(u32, u32)>,
    },
    /// They could not be.
    DueKept {
        /// Why.
        why: String,
    },
    /// DEKs came after a lock, and were not handed out.
    CameAfterLock {
        /// Of which keyspace.
        keyspace: u32,
    },
    /// A KMS does not unwrap, from a cause that the log has not named since it began.
    KmsFails {
        /// Which KMS.
        kms: String,
        /// For which keyspace.
        keyspace: u32,
        /// Why.
        failure: KmsFailure,
    },
    /// It still does not.
    KmsStillFails {
        /// Which KMS.
        kms: String,
        /// For how many keyspaces.
        keyspaces: usize,
        /// Failures since the last line.
        failures: u64,
        /// Why.
        failure: KmsFailure,
    },
    /// It does again.
    KmsWorks {
        /// Which KMS.
        kms: String,
        /// How long it did not, s.
        lasted_s: u64,
    },
    /// The catalogue could not be written.
    SaveFailed {
        /// Why.
        why: String,
        /// Changes in force that a restart would undo.
        unwritten: usize,
    },
    /// It is written again.
    SaveWorks,
    /// A command took too long, and was answered without its end.
    CommandTimedOut,
    /// A command came to no end; this is a bug.
    CommandForgotten,
}
