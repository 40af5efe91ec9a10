//! What goes in and out of a shard: names, requests, verdicts, actions.

use crate::event::Event;
use crate::flight::Flight;
use crate::grant::Grant;
use crate::slots::At;
use crate::time::Instant;
use alloc::rc::Rc;

/// A keyspace. Ids start at 1 and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

/// The id of a key within its keyspace. Cheap to clone; stays on its core.
pub type KeyId = Rc<[u8]>;

/// Names one request at this shard. The caller chooses it, and does not use it again before the
/// request was answered or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names one load. Never used again: a result under a name that is over is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightId {
    pub(crate) generation: u64,
    pub(crate) at: At<Flight>,
}

/// An operation that needs a key.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Comes back from [`Shard::poll_ready`](crate::Shard::poll_ready) if the request has to wait.
    pub token: Token,
    /// Which keyspace.
    pub keyspace: KeyspaceId,
    /// Which key in it.
    pub key_id: &'a [u8],
    /// After this the answer is of no use.
    pub deadline: Option<Instant>,
}

/// The immediate answer to a request.
#[derive(Debug)]
pub enum Verdict<'a, V> {
    /// Here is the key.
    Serve(Grant<'a, V>),
    /// The request waits. [`Shard::poll_ready`](crate::Shard::poll_ready) will name its token.
    Wait,
    /// The answer is no.
    Refuse(Refusal),
}

/// A write that needs a keyspace's DEK, to seal what it writes.
#[derive(Clone, Copy, Debug)]
pub struct DekRequest {
    /// Comes back from [`Shard::poll_ready`](crate::Shard::poll_ready) if the write has to wait.
    pub token: Token,
    /// Which keyspace.
    pub keyspace: KeyspaceId,
    /// The oldest generation that will do. The newest that was asked for holds for all who wait.
    pub generation: u32,
    /// How long the write waits, at most, µs.
    pub wait_us: u64,
    /// After this the answer is of no use.
    pub deadline: Option<Instant>,
}

/// The immediate answer to a write that needs a DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum DekVerdict {
    /// The DEK is at hand.
    Ready,
    /// [`Shard::poll_ready`](crate::Shard::poll_ready) will name the token.
    Wait,
    /// The answer is no.
    Refuse(Refusal),
}

/// The immediate answer to a force-refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// [`Shard::poll_ready`](crate::Shard::poll_ready) will name the token.
    Waiting,
    /// The answer is no.
    Refused(Refusal),
}

/// Why a request is not served. Hints are µs from now, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such key.
    NotFound,
    /// The stored blob cannot be used: corrupt, bound to another context, or past its `not_after`.
    Invalid,
    /// The key is revoked.
    Revoked,
    /// Not now; a load is on its way.
    Retry {
        /// When to come back.
        after_us: u64,
    },
    /// The keyspace's DEK is not at hand, and the request is not let to wait for it: locked, refused
    /// by the KMS, or the KMS is away or takes too long.
    NeedsUnlock {
        /// Follows the unlock that will help: [`Shard::unlock_status`](crate::Shard::unlock_status).
        /// If the KMS is only away, its return ends it, too.
        ticket: u64,
    },
    /// The request waited for the DEK, and the KMS did not answer or failed. Whoever comes next gets
    /// NEEDS_UNLOCK, until the KMS is asked again.
    Unavailable {
        /// When to come back.
        after_us: u64,
    },
    /// A limit of this shard is reached.
    Overloaded {
        /// When to come back.
        after_us: u64,
    },
    /// The request's deadline has passed.
    DeadlineExceeded,
    /// There is no such keyspace.
    NoKeyspace,
}

impl Refusal {
    /// Whether it says how something stands for the moment, rather than what a key is.
    pub(crate) fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Retry { .. } | Self::Unavailable { .. } | Self::Overloaded { .. }
        )
    }
}

/// How much a load hurries. The caller may order its reads by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits for it.
    OnDemand,
    /// Little of the key's soft TTL is left.
    Urgent,
    /// Well ahead of need.
    Ahead,
}

/// An unlocked key, and what the authenticated blob says of it.
#[derive(Clone, Debug)]
pub struct Loaded<V> {
    /// The key. Dropped by the core when its time is over: its `Drop` wipes.
    pub value: V,
    /// Newest version of the key in it, from 1.
    pub version: u32,
    /// Plaintext bytes that `value` takes.
    pub key_bytes: usize,
    /// End of the key's own validity.
    pub not_after: Option<Instant>,
    /// Generation of the DEK that opened it.
    pub dek_generation: u32,
}

/// Why a load brought no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadError {
    /// The store has no such blob.
    NotFound,
    /// The blob does not open.
    Corrupt,
    /// The store says that the key is revoked.
    Revoked,
    /// The DEK generation that sealed the blob is not at hand.
    DekMissing,
    /// The store failed.
    Store,
    /// The load took too long.
    TimedOut,
    /// The loader panicked.
    Panicked,
}

/// What the KMS answered to an [`Action::Unwrap`], or on its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The DEK is at hand.
    Granted {
        /// When the unwrap was sent to the KMS: the lease counts from there.
        sent_at: Instant,
        /// Newest DEK generation of the keyspace.
        generation: u32,
    },
    /// The KMS refuses.
    Denied,
    /// The KMS says that its key is disabled.
    Disabled,
    /// The KMS itself waits to be unlocked: asking again does not help until somebody does that.
    Locked,
    /// The KMS does not answer, or throttles.
    Unavailable {
        /// The KMS's own hint, µs from now; 0: none.
        retry_after_us: u64,
    },
    /// Anything else: misconfigured, a wrapped DEK that does not open.
    Failed,
}

/// What one who waited gets.
#[derive(Debug)]
pub enum Outcome<'a, V> {
    /// A request: here is the key.
    Serve(Grant<'a, V>),
    /// A force-refresh is done: nothing older than the call is served from here on.
    Refreshed {
        /// Version that was loaded.
        version: u32,
    },
    /// A write: the DEK is at hand.
    Dek,
    /// The answer is no.
    Refuse(Refusal),
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Call [`Shard::begin_load`](crate::Shard::begin_load), read and open the key's blob, then call
    /// [`Shard::handle_loaded`](crate::Shard::handle_loaded).
    Load {
        /// Goes back with the result.
        flight: FlightId,
        /// Which keyspace.
        keyspace: KeyspaceId,
        /// Which key in it.
        key_id: KeyId,
        /// How much it hurries.
        urgency: Urgency,
    },
    /// Ask the KMS for the keyspace's DEK, then call
    /// [`Shard::handle_lease`](crate::Shard::handle_lease).
    Unwrap {
        /// Which keyspace.
        keyspace: KeyspaceId,
    },
    /// Wipe the keyspace's DEK, in all generations.
    DropDek {
        /// Which keyspace.
        keyspace: KeyspaceId,
    },
    /// Something for the log.
    Report(Event),
}
