//! The state of one key in a shard.

use crate::action::{KeyId, KeyspaceId, Loaded};
use crate::backoff::Backoff;
use crate::event::InvalidCause;
use crate::flight::Flight;
use crate::keyspace::Keyspace;
use crate::list::{Link, Linked};
use crate::slots::At;
use crate::time::Instant;
use crate::wheel::TimerId;

/// The list for the entry's state.
pub(crate) const HOME: u8 = 0;
/// The prefetcher's queues.
pub(crate) const DUE: u8 = 1;

/// Used since its last refresh: the prefetcher refreshes only such keys.
pub(crate) const USED: u8 = 1;
/// Used since the CLOCK's hand passed.
pub(crate) const REFERENCED: u8 = 2;

/// Types the slot of an entry, independent of the type of the plaintext.
#[derive(Debug)]
pub(crate) enum Key {}

#[derive(Debug)]
pub(crate) struct Entry<V> {
    pub(crate) hash: u64,
    pub(crate) keyspace: KeyspaceId,
    /// The slot of the keyspace.
    pub(crate) keyspace_at: At<Keyspace>,
    pub(crate) key_id: KeyId,
    pub(crate) state: State<V>,
    /// [`USED`] and [`REFERENCED`]: with `uses`, all that serving a key writes to its entry.
    pub(crate) touched: u8,
    /// Requests that found the key live, halved at each load so that old uses count little.
    pub(crate) uses: u32,
    /// The one flight of this key.
    pub(crate) flight: Option<At<Flight>>,
    pub(crate) backoff: Backoff,
    /// Highest version that was loaded, or that an acknowledged write reported; older ones are not accepted.
    pub(crate) version_floor: u32,
    /// The entry's one timer, in the wheel `ages`.
    pub(crate) timer: Option<TimerId<At<Key>>>,
    pub(crate) home: StateList,
    home_link: Link<Key>,
    pub(crate) due: Due,
    due_link: Link<Key>,
}

#[derive(Debug)]
pub(crate) enum State<V> {
    /// No result: a load is in flight, or pending.
    Empty,
    /// The plaintext. The expiry check determines whether it may be used.
    Live(Live<V>),
    /// The store did not have such a key.
    Negative { until: Instant },
    /// The stored blob cannot be used until it changes.
    Invalid {
        cause: InvalidCause,
        reread: CorruptRetry,
    },
    /// Permanent.
    Revoked,
}

/// Whether a blob that could not be opened is read once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CorruptRetry {
    Due,
    Done,
}

#[derive(Debug)]
pub(crate) struct Live<V> {
    pub(crate) value: V,
    pub(crate) version: u32,
    pub(crate) dek_generation: u32,
    pub(crate) key_bytes: usize,
    /// When the load began, so that the age is never understated.
    pub(crate) loaded_at: Instant,
    pub(crate) not_after: Instant,
    /// The fraction of the keyspace's jitter that applies to this load, in 1/65536.
    pub(crate) jitter: u16,
    /// The keyspace's epoch at the load; a different one now means that the keyspace was purged since.
    pub(crate) epoch: u32,
    /// The revision of the keyspace's settings for which the entry's timer was set.
    pub(crate) armed_for: u32,
}

/// The list of an entry's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateList {
    None,
    /// Its keyspace's live keys.
    Resident,
    /// Keys of its keyspace to reload once the DEK is available.
    Parked,
    /// Keys of its keyspace that were hot in a previous run, for the next passes to load.
    Warm,
    /// Its keyspace's INVALID keys.
    Invalid,
    /// The shard's negatives, oldest first.
    Negative,
    /// The shard's revoked keys, oldest first.
    Revoked,
}

/// The prefetch queue of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    None,
    Ahead,
    Urgent,
}

impl<V> Entry<V> {
    pub(crate) fn new(
        hash: u64,
        keyspace: KeyspaceId,
        keyspace_at: At<Keyspace>,
        key_id: &[u8],
    ) -> Self {
        Self {
            hash,
            keyspace,
            keyspace_at,
            key_id: KeyId::from(key_id),
            state: State::Empty,
            touched: 0,
            uses: 0,
            flight: None,
            backoff: Backoff::default(),
            version_floor: 0,
            timer: None,
            home: StateList::None,
            home_link: Link::UNLINKED,
            due: Due::None,
            due_link: Link::UNLINKED,
        }
    }

    /// Returns `true` if it is on a list of keys to load without a request.
    pub(crate) fn is_listed_to_load(&self) -> bool {
        matches!(self.home, StateList::Parked | StateList::Warm)
    }

    pub(crate) fn live(&self) -> Option<&Live<V>> {
        match &self.state {
            State::Live(live) => Some(live),
            _ => None,
        }
    }

    pub(crate) fn is_revoked(&self) -> bool {
        matches!(self.state, State::Revoked)
    }
}

impl<V> Live<V> {
    pub(crate) fn new(loaded: Loaded<V>, loaded_at: Instant, jitter: u16, epoch: u32) -> Self {
        Self {
            value: loaded.value,
            version: loaded.version,
            dek_generation: loaded.dek_generation,
            key_bytes: loaded.key_bytes,
            loaded_at,
            not_after: loaded.not_after.unwrap_or(Instant::MAX),
            jitter,
            epoch,
            armed_for: 0,
        }
    }
}

impl<V> Linked<HOME> for Entry<V> {
    type Slot = Key;

    fn link(&mut self) -> &mut Link<Key> {
        &mut self.home_link
    }
    fn next(&self) -> Option<At<Key>> {
        self.home_link.next()
    }
}

impl<V> Linked<DUE> for Entry<V> {
    type Slot = Key;

    fn link(&mut self) -> &mut Link<Key> {
        &mut self.due_link
    }
    fn next(&self) -> Option<At<Key>> {
        self.due_link.next()
    }
}
