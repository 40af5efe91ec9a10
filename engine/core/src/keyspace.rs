//! One keyspace at this shard: settings, lease, gate, lists of its keys, counters.

mod lease;
mod terms;
mod unlock;

pub(crate) use lease::{Lease, LeaseTimerAction};
pub(crate) use terms::{Deadlines, ExpiryRules};
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
    /// The input of the expiry check.
    pub(crate) terms: ExpiryRules,
    pub(crate) gate: Gate,
    pub(crate) lease: Lease,
    pub(crate) unlocks: Unlocks,
    pub(crate) counters: Counters,
    /// Durations of loads that returned a key.
    pub(crate) load_us: Ewma,
    /// This shard's share of `max_in_flight`.
    pub(crate) share: u32,

    pub(crate) resident: List<Key, HOME>,
    pub(crate) parked: List<Key, HOME>,
    pub(crate) warm: List<Key, HOME>,
    pub(crate) invalid: List<Key, HOME>,
    pub(crate) ahead: List<Key, DUE>,
    pub(crate) urgent: List<Key, DUE>,

    /// How many of the INVALID keys an unlock still has to read again.
    pub(crate) invalid_to_reload: usize,
    /// Flights started by an unlock, or by the return of the DEK.
    pub(crate) reloads: u64,
    /// Flights started by a warm start.
    pub(crate) warm_flights: usize,
    /// Whether it is in the shard's queue of keyspaces to sweep.
    pub(crate) sweeping: bool,
    /// What a sweep does with used keys that were purged.
    pub(crate) purged: Purged,
    /// Highest DEK generation under which a write had to be sealed.
    pub(crate) seal_generation: u32,
    /// Requests, force-refreshes and writes up to the last grant.
    pub(crate) demand_at_grant: u64,
    pub(crate) ask_timer: Option<TimerId<LeaseTimer>>,
    pub(crate) end_timer: Option<TimerId<LeaseTimer>>,
}

/// Whether the keyspace may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Locked by command, until unlocked by command.
    Locked,
    /// The KMS refused twice, or is itself locked: until unlocked by command.
    Denied,
}

/// What happens to the used keys of a purged keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purged {
    /// Their ids are kept, and they are reloaded when the DEK is available.
    Parked,
    /// They are discarded, since no request used them.
    Forgotten,
}

impl Keyspace {
    pub(crate) fn new(id: KeyspaceId, settings: Settings, share: u32, lease: Lease) -> Self {
        Self {
            id,
            terms: ExpiryRules::new(&settings),
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

    /// Returns the number of requests, force-refreshes and writes so far.
    pub(crate) fn demand(&self) -> u64 {
        let counters = &self.counters;
        counters.requests_total + counters.force_refresh_total + counters.dek_requests_total
    }

    /// Returns `true` if a key, or the DEK itself, was requested since the last grant.
    pub(crate) fn is_wanted(&self) -> bool {
        self.demand() != self.demand_at_grant || self.unlocks.is_reloading()
    }

    /// Records the age of a key that was served.
    #[inline]
    pub(crate) fn served(&mut self, age_us: u64) {
        let oldest = &mut self.counters.oldest_served_age_us;
        *oldest = (*oldest).max(age_us);
    }

    pub(crate) fn has_lease(&self, now: Instant) -> bool {
        now < self.terms.lease_end()
    }

    /// Returns `true` if the DEK that writes are sealed under is available.
    pub(crate) fn can_seal(&self, now: Instant) -> bool {
        self.has_lease(now) && self.lease.generation() >= self.seal_generation
    }

    pub(crate) fn due_keys(&self) -> usize {
        self.ahead.len() + self.urgent.len()
    }
}
