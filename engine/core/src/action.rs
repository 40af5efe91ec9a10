//! Inputs and outputs of a shard: names, requests, verdicts, actions.

use crate::event::Event;
use crate::flight::Flight;
use crate::grant::Grant;
use crate::slots::At;
use crate::time::Instant;
use alloc::rc::Rc;

/// The id of a keyspace. Ids start at 1 and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

/// The id of a key within its keyspace. Cheap to clone; stays on its core.
pub type KeyId = Rc<[u8]>;

/// Identifies one request at this shard. The caller chooses it, and does not reuse it before the request was answered or
/// withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Identifies one load. Never reused: a result for a load that has ended is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightId {
    pub(crate) generation: u64,
    pub(crate) at: At<Flight>,
}

/// An operation that needs a key.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Returned by [`Shard::poll_ready`](crate::Shard::poll_ready) if the request has to wait.
    pub token: Token,
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// The key id.
    pub key_id: &'a [u8],
    /// The time after which the answer is useless.
    pub deadline: Option<Instant>,
}

/// The immediate answer to a request.
#[derive(Debug)]
pub enum Verdict<'a, V> {
    /// The key may be used now.
    Serve(Grant<'a, V>),
    /// The request waits. [`Shard::poll_ready`](crate::Shard::poll_ready) will return its token.
    Wait,
    /// The request is refused.
    Refuse(Refusal),
}

/// A write that needs a keyspace's DEK to seal its blob.
#[derive(Clone, Copy, Debug)]
pub struct DekRequest {
    /// Returned by [`Shard::poll_ready`](crate::Shard::poll_ready) if the write has to wait.
    pub token: Token,
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// The oldest acceptable generation. The highest one requested applies to all waiting writes.
    pub generation: u32,
    /// Longest wait of the write, in µs.
    pub wait_us: u64,
    /// The time after which the answer is useless.
    pub deadline: Option<Instant>,
}

/// The immediate answer to a write that needs a DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum DekVerdict {
    /// The DEK is available.
    Ready,
    /// The write waits. [`Shard::poll_ready`](crate::Shard::poll_ready) will return its token.
    Wait,
    /// The write is refused.
    Refuse(Refusal),
}

/// The immediate answer to a force-refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// The request waits. [`Shard::poll_ready`](crate::Shard::poll_ready) will return its token.
    Waiting,
    /// The request is refused.
    Refused(Refusal),
}

/// Why a request is not served. Hints are in µs from now, and never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The key does not exist.
    NotFound,
    /// The stored blob cannot be used: corrupt, bound to another context, or past its `not_after`.
    Invalid,
    /// The key is revoked.
    Revoked,
    /// Not served now; a load is in flight.
    Retry {
        /// When to retry.
        after_us: u64,
    },
    /// The keyspace's DEK is not available, and the request may not wait for it: the keyspace is locked or refused by the
    /// KMS, or the KMS is unreachable or too slow.
    NeedsUnlock {
        /// Identifies the unlock that will help: [`Shard::unlock_status`](crate::Shard::unlock_status). If the KMS is
        /// only unreachable, its recovery ends that unlock as well.
        ticket: u64,
    },
    /// The request waited for the DEK, and the KMS did not answer or failed. Later requests get NEEDS_UNLOCK until the
    /// KMS is called again.
    Unavailable {
        /// When to retry.
        after_us: u64,
    },
    /// A limit of this shard is reached.
    Overloaded {
        /// When to retry.
        after_us: u64,
    },
    /// The request's deadline has passed.
    DeadlineExceeded,
    /// The keyspace does not exist.
    NoKeyspace,
}

impl Refusal {
    /// Returns `true` if the refusal describes a temporary condition, not the key itself.
    pub(crate) fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Retry { .. } | Self::Unavailable { .. } | Self::Overloaded { .. }
        )
    }
}

/// The urgency of a load, by which the caller may order its reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A request waits for it.
    OnDemand,
    /// Little of the key's soft TTL is left.
    Urgent,
    /// Well ahead of need.
    Ahead,
}

/// An unlocked key, and the metadata of its authenticated blob.
#[derive(Clone, Debug)]
pub struct Loaded<V> {
    /// The key. The core drops it when it expires; its `Drop` wipes it.
    pub value: V,
    /// Its latest version, from 1.
    pub version: u32,
    /// Size of `value` in bytes of plaintext.
    pub key_bytes: usize,
    /// End of the key's own validity.
    pub not_after: Option<Instant>,
    /// Generation of the DEK that sealed it.
    pub dek_generation: u32,
}

/// Why a load failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadError {
    /// The store does not have such a blob.
    NotFound,
    /// The blob cannot be opened.
    Corrupt,
    /// The key is revoked in the store.
    Revoked,
    /// The DEK generation that sealed the blob is not available.
    DekMissing,
    /// The store failed.
    Store,
    /// The load took too long.
    TimedOut,
    /// The loader panicked.
    Panicked,
}

/// The answer of the KMS to an [`Action::Unwrap`], or an unsolicited one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The DEK is available.
    Granted {
        /// When the unwrap was sent to the KMS; the lease counts from this time.
        sent_at: Instant,
        /// Latest DEK generation of the keyspace.
        generation: u32,
    },
    /// The KMS refuses.
    Denied,
    /// The key is disabled at the KMS.
    Disabled,
    /// The KMS itself must be unlocked first; retries do not help until an operator does that.
    Locked,
    /// The KMS does not answer, or throttles.
    Unavailable {
        /// The wait requested by the KMS, in µs from now; 0 if none.
        retry_after_us: u64,
    },
    /// Any other failure: misconfiguration, or a wrapped DEK that cannot be opened.
    Failed,
}

/// The result of a wait.
#[derive(Debug)]
pub enum Outcome<'a, V> {
    /// A request: the key may be used now.
    Serve(Grant<'a, V>),
    /// A force-refresh is complete: nothing older than the call is served afterwards.
    Refreshed {
        /// The version that was loaded.
        version: u32,
    },
    /// A write: the DEK is available.
    Dek,
    /// The request is refused.
    Refuse(Refusal),
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Call [`Shard::begin_load`](crate::Shard::begin_load), read and open the key's blob, then call
    /// [`Shard::handle_loaded`](crate::Shard::handle_loaded).
    Load {
        /// Passed back with the result.
        flight: FlightId,
        /// The keyspace.
        keyspace: KeyspaceId,
        /// The key id.
        key_id: KeyId,
        /// The urgency of the load.
        urgency: Urgency,
    },
    /// Request an unwrap of the keyspace's DEK from the KMS, then call
    /// [`Shard::handle_lease`](crate::Shard::handle_lease).
    Unwrap {
        /// The keyspace.
        keyspace: KeyspaceId,
    },
    /// Wipe the keyspace's DEK in all generations.
    DropDek {
        /// The keyspace.
        keyspace: KeyspaceId,
    },
    /// An event for the log.
    Report(Event),
}
