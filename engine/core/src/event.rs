//! What a shard has to tell the log.

use crate::action::{KeyId, KeyspaceId, LoadError};
use crate::time::Instant;

/// Why a stored key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidCause {
    /// The blob does not open.
    Corrupt,
    /// The key's own validity is over.
    NotAfterPassed,
}

/// One thing that happened. Limit their rate before writing them anywhere: a keyspace in trouble
/// has as many as it has keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first waiter of a flight used up its budget. Once for each flight.
    WaitTimeout {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Which key in it.
        key_id: KeyId,
        /// Requests that waited for this key at that time.
        waiters: usize,
    },
    /// A key went INVALID.
    KeyInvalid {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Which key in it.
        key_id: KeyId,
        /// Why.
        cause: InvalidCause,
    },
    /// A key that was INVALID opened.
    KeyValid {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Which key in it.
        key_id: KeyId,
    },
    /// A load failed for a reason that may pass.
    LoadFailed {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Which key in it.
        key_id: KeyId,
        /// Why.
        error: LoadError,
        /// Failures in a row.
        attempts: u8,
    },
    /// A load brought an older version than one that was seen before, and was dropped.
    VersionWentBack {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Which key in it.
        key_id: KeyId,
        /// The version that was loaded.
        loaded: u32,
        /// The oldest version that would have been accepted.
        expected: u32,
    },
    /// A live key made room for another.
    Evicted {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Which key in it.
        key_id: KeyId,
    },
    /// The KMS granted or renewed the DEK.
    LeaseGranted {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Newest DEK generation.
        generation: u32,
        /// End of the lease.
        ends_at: Instant,
    },
    /// The DEK's lease ended without renewal.
    LeaseEnded {
        /// Which keyspace.
        keyspace: KeyspaceId,
    },
    /// The KMS refused twice, or is itself locked: NEEDS_UNLOCK.
    KeyspaceDenied {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Follows the unlock.
        ticket: u64,
    },
    /// The KMS did not answer, or failed.
    KmsUnavailable {
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// When it is asked again, µs from now.
        after_us: u64,
    },
}
