//! The state machine itself. Each file below contains one group of inputs, or one part that they share.

mod audit;
mod changes;
mod entries;
mod evict;
mod figures;
mod flights;
mod force;
mod leasing;
mod load_result;
mod request;
mod tick;
mod view;
mod waiters;
mod wanted;
mod warm;

pub use audit::Violation;
pub use entries::NEGATIVE_US;
pub use view::{Lifecycle, View};
pub use warm::{HOTTEST_SCAN_STEP, WarmAdmission};

use crate::action::{Action, KeyspaceId};
use crate::counters::Totals;
use crate::entry::{Entry, HOME, Key};
use crate::event::Event;
use crate::flight::{Flight, RefreshGroup, Waiter};
use crate::keyspace::{Keyspace, Lease};
use crate::limits::{Limits, LimitsError};
use crate::list::List;
use crate::prefetch::NextPass;
use crate::rng::Rng;
use crate::settings::{Settings, SettingsError};
use crate::slots::{At, Slots, Table};
use crate::time::Instant;
use crate::wheel::Wheel;
use alloc::collections::{BTreeMap, VecDeque};
use hashbrown::HashTable;

/// Most keyspaces of one shard.
pub const KEYSPACES_MAX: usize = 65_536;

/// One shard: its part of the keys, and their state. See the [crate's page](crate) for the order of calls.
#[derive(Debug)]
pub struct Shard<V> {
    limits: Limits,
    rng: Rng,
    hasher: ahash::RandomState,
    entries: Slots<Entry<V>, Key>,
    /// Entries by keyspace and key id. Never iterated.
    index: HashTable<At<Key>>,
    keyspaces: Table<Keyspace>,
    keyspaces_by_id: BTreeMap<KeyspaceId, At<Keyspace>>,
    group: RefreshGroup,
    /// Timers of leases: all that are due fire in a tick.
    leases: Wheel<LeaseTimer>,
    /// Timers of waiters and flights: at most [`Limits::timers_per_tick_max`] of them fire in a tick.
    waits: Wheel<WaitTimer>,
    /// Timers of entries: at most one step of them fires in a tick.
    ages: Wheel<At<Key>>,
    negatives: List<Key, HOME>,
    revoked: List<Key, HOME>,
    /// Keyspaces whose resident keys must be checked, after a purge or a change of settings.
    sweeping: VecDeque<At<Keyspace>>,
    actions: VecDeque<Action>,
    /// The slot number at which the CLOCK's hand is.
    hand: u32,
    key_bytes: usize,
    next_pass: NextPass,
    tickets: u64,
    totals: Totals,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum WaitTimer {
    Waiter(At<Waiter>),
    Flight(At<Flight>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum LeaseTimer {
    /// The time to consider an unwrap request.
    Ask(At<Keyspace>),
    End(At<Keyspace>),
}

/// Ticks within which all entries of a shard are checked. With a tick every 1 to 2 ms that is within the 100 ms that
/// plaintext may outlive its expiry, provided that a step takes less than a tick: dropping a key costs 0.2 to 0.5 µs
/// here, plus its own `Drop`, so the promise holds up to some 100,000 live keys per shard. With more keys it takes longer
/// in proportion.
const STEPS: usize = 32;
/// Fewest entries checked per tick, even in a small shard.
const STEP_MIN: usize = 2_048;

impl<V> Shard<V> {
    /// Creates an empty shard. The same seed and the same inputs give the same outputs.
    ///
    /// # Errors
    /// The limits contradict each other.
    pub fn new(limits: Limits, seed: u64) -> Result<Self, LimitsError> {
        limits.validate()?;
        let mut rng = Rng::new(seed);
        let mut hasher = || {
            let mut seed = || rng.next_u64();
            ahash::RandomState::with_seeds(seed(), seed(), seed(), seed())
        };
        let (of_keys, of_tokens) = (hasher(), hasher());
        Ok(Self {
            limits,
            hasher: of_keys,
            rng,
            entries: Slots::new(),
            index: HashTable::new(),
            keyspaces: Table::new(),
            keyspaces_by_id: BTreeMap::new(),
            group: RefreshGroup::new(of_tokens),
            leases: Wheel::new(),
            waits: Wheel::new(),
            ages: Wheel::new(),
            negatives: List::default(),
            revoked: List::default(),
            sweeping: VecDeque::new(),
            actions: VecDeque::new(),
            hand: 0,
            key_bytes: 0,
            next_pass: NextPass {
                at: Instant::ZERO,
                from: 0,
            },
            tickets: 0,
            totals: Totals::default(),
        })
    }

    /// Creates a keyspace, or changes its settings. Takes effect immediately: what is checked on use (soft and hard TTL,
    /// wait budget, policy) applies from the next call; timers of resident keys are reset in the ticks that follow, a
    /// bounded number per tick, all of them within 32 ticks.
    ///
    /// # Errors
    /// The settings contradict each other, or there are [`KEYSPACES_MAX`] keyspaces. Nothing has
    /// changed then.
    pub fn handle_keyspace(
        &mut self,
        now: Instant,
        keyspace: KeyspaceId,
        settings: Settings,
    ) -> Result<(), SettingsError> {
        settings.validate()?;
        let share = self.limits.share_of(settings.max_in_flight);
        match self.keyspace_at(keyspace) {
            Some(at) if self.keyspaces[at].settings == settings => {}
            Some(at) => self.change_keyspace(now, at, settings, share),
            None => {
                if self.keyspaces.len() >= KEYSPACES_MAX {
                    return Err(SettingsError {
                        name: "keyspace",
                        value: alloc::format!("{}", keyspace.0),
                        rule: "a shard takes at most 65536 keyspaces",
                    });
                }
                let lease = Lease::new(self.limits.renew_early_ppm);
                let at = self
                    .keyspaces
                    .push(Keyspace::new(keyspace, settings, share, lease));
                self.keyspaces_by_id.insert(keyspace, at);
            }
        }
        Ok(())
    }

    fn change_keyspace(&mut self, now: Instant, at: At<Keyspace>, settings: Settings, share: u32) {
        let keyspace = &mut self.keyspaces[at];
        keyspace.terms.change(now, &settings);
        keyspace.lease.shorten(settings.dek_lease_us());
        keyspace.settings = settings;
        keyspace.share = share;
        self.follow_lease_end(at);
        let keyspace = &self.keyspaces[at];
        if keyspace.lease.is_held() && !keyspace.has_lease(now) {
            self.expire_lease(now, at);
        }
        self.arm_alarm(now, at);
        self.end_unlock_if_reloaded(at);
        self.sweep_later(at);
    }

    /// Returns the next action for the caller. Drain it after each input. The results of waits come from
    /// [`poll_ready`](Shard::poll_ready).
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn keyspace_at(&self, keyspace: KeyspaceId) -> Option<At<Keyspace>> {
        self.keyspaces_by_id.get(&keyspace).copied()
    }

    /// Returns the most entries checked per tick, for each kind of work.
    fn step(&self) -> usize {
        (self.entries.high_water() as usize / STEPS + 1).max(STEP_MIN)
    }

    fn report(&mut self, event: Event) {
        self.actions.push_back(Action::Report(event));
    }

    /// Returns `true` if a load that a request needs may start now.
    fn has_room_for_flight(&self) -> bool {
        self.group.flying() < self.limits.flights_max
    }

    fn has_room_for_waiter(&self) -> bool {
        self.group.waiters.len() < self.limits.waiters_max
    }
}
