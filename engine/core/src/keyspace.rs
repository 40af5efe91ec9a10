//! One keyspace at this shard: settings, lease, gate, lists of its keys, figures.

mod lease;
mod terms;
mod unlock;

pub(crate) use lease::{Alarm, Lease};
pub(crate) use terms::{Points, Terms};
pub(crate) use unlock::Unlocks;
pub use unlock::{UnlockState, UnlockStatus};

use crate::action::KeyspaceId;
use crate::counters::Counters;
use crate::entry::{DUE, HOME, Key};
use crate::ewma::Ewma;
use crate::list::List;
use crate::settings::Settings;
use crate::shard::LeaseTimer;
use crate::time::Instant;
use crate::wheel::TimerId;

#[derive(Debug)]
pub(crate) struct Keyspace {
    pub(crate) id: KeyspaceId,
    pub(crate) settings: Settings,
    /// What the expiry check needs.
    pub(crate) terms: Terms,
    pub(crate) gate: Gate,
    pub(crate) lease: Lease,
    pub(crate) unlocks: Unlocks,
    pub(crate) counters: Counters,
    /// Durations of loads that brought a key.
    pub(crate) load_us: Ewma,
    /// This shard's part of `max_in_flight`.
    pub(crate) share: u32,

    pub(crate) resident: List<Key, HOME>,
    pub(crate) parked: List<Key, HOME>,
    pub(crate) warm: List<Key, HOME>,
    pub(crate) invalid: List<Key, HOME>,
    pub(crate) ahead: List<Key, DUE>,
    pub(crate) urgent: List<Key, DUE>,

    /// How many of the INVALID keys an unlock has yet to read again.
    pub(crate) invalid_to_reload: usize,
    /// Flights that an unlock, or the return of the DEK, started.
    pub(crate) reloads: u64,
    /// Flights that a warm start started.
    pub(crate) warm_flights: usize,
    /// In the shard's queue of keyspaces to sweep.
    pub(crate) sweeping: bool,
    /// What becomes of used keys that a sweep finds purged.
    pub(crate) purged: Purged,
    /// Newest DEK generation that a write was to be sealed under.
    pub(crate) seal_generation: u32,
    /// Requests, force-refreshes and writes by the time of the last grant.
    pub(crate) demand_at_grant: u64,
    pub(crate) ask_timer: Option<TimerId<LeaseTimer>>,
    pub(crate) end_timer: Option<TimerId<LeaseTimer>>,
}

/// Whether the keyspace may be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Locked by command, until unlocked by command.
    Locked,
    /// The KMS refused twice, or is itself locked: until unlocked by command.
    Denied,
}

/// What becomes of the used keys of a purged keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purged {
    /// They are remembered, by name only, and loaded again when the DEK is at hand.
    Parked,
    /// They are forgotten: nobody wanted them.
    Forgotten,
}

impl Keyspace {
    pub(crate) fn new(id: KeyspaceId, settings: Settings, share: u32, lease: Lease) -> Self {
        Self {
            id,
            terms: Terms::new(&settings),
            settings,
            gate: Gate::Open,
            lease,
            unlocks: Unlocks::default(),
            counters: Counters::default(),
            load_us: Ewma::default(),
            share,
            resident: List::default(),
            parked: List::default(),
            warm: List::default(),
            invalid: List::default(),
            ahead: List::default(),
            urgent: List::default(),
            invalid_to_reload: 0,
            reloads: 0,
            warm_flights: 0,
            sweeping: false,
            purged: Purged::Forgotten,
            seal_generation: 0,
            demand_at_grant: 0,
            ask_timer: None,
            end_timer: None,
        }
    }

    /// Requests, force-refreshes and writes so far.
    pub(crate) fn demand(&self) -> u64 {
        let counters = &self.counters;
        counters.requests_total + counters.force_refresh_total + counters.dek_requests_total
    }

    /// Whether anybody wanted a key, or the DEK itself, since it was last granted.
    pub(crate) fn is_wanted(&self) -> bool {
        self.demand() != self.demand_at_grant || self.unlocks.is_reloading()
    }

    /// Takes down the age of a key that was served.
    #[inline]
    pub(crate) fn served(&mut self, age_us: u64) {
        let oldest = &mut self.counters.oldest_served_age_us;
        *oldest = (*oldest).max(age_us);
    }

    pub(crate) fn has_lease(&self, now: Instant) -> bool {
        now < self.terms.lease_end()
    }

    /// Whether the DEK that writes are sealed under is at hand.
    pub(crate) fn can_seal(&self, now: Instant) -> bool {
        self.has_lease(now) && self.lease.generation() >= self.seal_generation
    }

    pub(crate) fn due_keys(&self) -> usize {
        self.ahead.len() + self.urgent.len()
    }
}
