//! Events for the log.

use crate::action::{KeyId, KeyspaceId, LoadError};
use crate::time::Instant;

/// Why a stored key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidCause {
    /// The blob cannot be opened.
    Corrupt,
    /// The key is past its `not_after`.
    NotAfterPassed,
}

/// An event. Limit the rate before logging it: a keyspace with a fault produces as many as it has keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first waiter of a flight exhausted its budget. Reported once per flight.
    WaitTimeout {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// The key id.
        key_id: KeyId,
        /// Requests waiting for this key at that time.
        waiters: usize,
    },
    /// A key became INVALID.
    KeyInvalid {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// The key id.
        key_id: KeyId,
        /// The cause.
        cause: InvalidCause,
    },
    /// A key that was INVALID could be opened.
    KeyValid {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// The key id.
        key_id: KeyId,
    },
    /// A load failed for a reason that may be transient.
    LoadFailed {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// The key id.
        key_id: KeyId,
        /// The cause.
        error: LoadError,
        /// Number of consecutive failures.
        attempts: u8,
    },
    /// A load returned an older version than one seen before, and was dropped.
    VersionWentBack {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// The key id.
        key_id: KeyId,
        /// The version that was loaded.
        loaded: u32,
        /// The oldest acceptable version.
        expected: u32,
    },
    /// A live key was evicted.
    Evicted {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// The key id.
        key_id: KeyId,
    },
    /// The KMS granted or renewed the DEK.
    LeaseGranted {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// Latest DEK generation.
        generation: u32,
        /// End of the lease.
        ends_at: Instant,
    },
    /// The DEK's lease ended without renewal.
    LeaseEnded {
        /// The keyspace.
        keyspace: KeyspaceId,
    },
    /// The KMS refused twice, or is itself locked: requests get NEEDS_UNLOCK.
    KeyspaceDenied {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// Identifies the unlock.
        ticket: u64,
        /// The KMS did not refuse: it is locked.
        kms_locked: bool,
    },
    /// The KMS did not answer, or failed.
    KmsUnavailable {
        /// The keyspace.
        keyspace: KeyspaceId,
        /// Time until the next call, in µs.
        after_us: u64,
    },
}
