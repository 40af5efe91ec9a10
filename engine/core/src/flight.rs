//! RefreshGroup: the flights of a shard, their waiters, and the waiters for DEKs.
//!
//! A key has at most one flight, and every request for the key joins it. A load has an id of its own, the [`FlightId`].
//! If a flight has to load again, the id changes, and everything still in flight under the old one is ignored.

use crate::action::{FlightId, KeyId, KeyspaceId, Refusal, Token, Urgency};
use crate::entry::Key;
use crate::keyspace::Keyspace;
use crate::list::{Link, Linked, List};
use crate::shard::WaitTimer;
use crate::slots::{At, Slots};
use crate::time::Instant;
use crate::wheel::TimerId;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use hashbrown::HashTable;

/// The list of a flight that contains a waiter.
pub(crate) const WAITING: u8 = 0;

#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) entry: At<Key>,
    pub(crate) keyspace_at: At<Keyspace>,
    pub(crate) generation: u64,
    pub(crate) origin: Origin,
    pub(crate) stage: Stage,
    /// The time limit of the flight.
    pub(crate) timer: Option<TimerId<WaitTimer>>,
    /// Waiters that get the result of the current load.
    pub(crate) waiters: List<Waiter, WAITING>,
    /// Force-refreshes received after the current load began; they need another load.
    pub(crate) next: List<Waiter, WAITING>,
    /// A put was acknowledged since the current load began, so its result is discarded.
    pub(crate) superseded: bool,
    /// The DEK was requested because the blob needed another generation.
    pub(crate) dek_asked: bool,
    /// A wait that exhausted its budget was reported.
    pub(crate) timeout_reported: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No load yet: the DEK is not available.
    AwaitingDek,
    /// The load was requested from the caller, which has not begun to read.
    Queued { queued_at: Instant },
    Loading {
        queued_at: Instant,
        started_at: Instant,
    },
    /// Ended, and no longer its entry's flight: it remains until all its waiters have been answered.
    Over,
}

/// How a flight ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FlightOutcome {
    /// The key is live.
    Landed { version: u32 },
    /// It returned no key. A key that was live before may still be.
    Failed(Refusal),
}

/// A flight that has ended, with waiters that have not been answered.
#[derive(Debug)]
struct Ended {
    flight: At<Flight>,
    keyspace: KeyspaceId,
    key_id: KeyId,
    ending: FlightOutcome,
}

/// A waiter whose wait has ended.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) waiter: Waiter,
    /// The key that it waited for; `None` if it waited for a DEK.
    pub(crate) key: Option<(KeyspaceId, KeyId)>,
    /// `None` if its wait ended before its flight, or if it had no flight.
    pub(crate) ending: Option<FlightOutcome>,
}

/// Why a flight was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A request needs the key now.
    Demand,
    /// The prefetcher.
    Prefetch(Urgency),
    /// An unlock.
    Reload,
    /// A warm start: the key was hot in a previous run.
    Warm,
    /// A second read of a blob that could not be opened, or a read of a blob that was replaced.
    Again,
}

impl Origin {
    /// Returns `true` if the flight counts against `max_in_flight`.
    pub(crate) fn is_background(self) -> bool {
        matches!(self, Self::Prefetch(_) | Self::Reload | Self::Warm)
    }

    pub(crate) fn urgency(self) -> Urgency {
        match self {
            Self::Demand => Urgency::OnDemand,
            Self::Prefetch(urgency) => urgency,
            Self::Reload | Self::Warm => Urgency::Ahead,
            Self::Again => Urgency::Urgent,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) token: Token,
    pub(crate) kind: WaiterKind,
    pub(crate) place: Place,
    /// The key of a late waiter, which outlives its flight.
    late_for: Option<(KeyspaceId, KeyId)>,
    pub(crate) keyspace_at: At<Keyspace>,
    pub(crate) timer: TimerId<WaitTimer>,
    pub(crate) deadline: Option<Instant>,
    link: Link<Self>,
}

/// The list that contains a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This flight's `waiters`.
    Present(At<Flight>),
    /// This flight's `next`.
    Next(At<Flight>),
    /// The waiters for this keyspace's DEK.
    Dek(At<Keyspace>),
    /// Its wait has ended: it only has to be answered.
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaiterKind {
    Request {
        budget_ends_at: Instant,
    },
    Force,
    /// A write.
    Dek,
}

impl Linked<WAITING> for Waiter {
    type Slot = Self;

    fn link(&mut self) -> &mut Link<Self> {
        &mut self.link
    }
    fn next(&self) -> Option<At<Self>> {
        self.link.next()
    }
}

/// All flights and waiters of a shard.
#[derive(Debug)]
pub(crate) struct RefreshGroup {
    pub(crate) flights: Slots<Flight>,
    pub(crate) waiters: Slots<Waiter>,
    /// Waiters by token. Never iterated.
    tokens: HashTable<At<Waiter>>,
    hasher: ahash::RandomState,
    generations: u64,
    /// Flights that have ended and whose waiters have not been answered, oldest first. Each keeps its slot in `flights`.
    /// There are no more than there were waiters when they ended.
    ended: VecDeque<Ended>,
    /// Waiters whose wait ended before their flight, oldest first.
    late: List<Waiter, WAITING>,
    /// Waiters for a keyspace's DEK. No list is empty.
    wanting: BTreeMap<At<Keyspace>, List<Waiter, WAITING>>,
    /// Of these, the keyspaces whose DEK has arrived, or will not.
    answered: BTreeSet<At<Keyspace>>,
    /// Flights started by the prefetcher, an unlock or a warm start.
    pub(crate) background: usize,
}

impl RefreshGroup {
    pub(crate) fn new(hasher: ahash::RandomState) -> Self {
        Self {
            flights: Slots::new(),
            waiters: Slots::new(),
            tokens: HashTable::new(),
            hasher,
            generations: 0,
            ended: VecDeque::new(),
            late: List::default(),
            wanting: BTreeMap::new(),
            answered: BTreeSet::new(),
            background: 0,
        }
    }

    /// Returns a number that no load had before.
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    pub(crate) fn insert(&mut self, flight: Flight) -> At<Flight> {
        self.background += usize::from(flight.origin.is_background());
        self.flights.insert(flight)
    }

    /// Returns the number of flights in progress.
    pub(crate) fn flying(&self) -> usize {
        self.flights.len() - self.ended.len()
    }

    /// Ends a flight: the waiters of its current load are returned by [`RefreshGroup::next_settled`], one at a time. The
    /// cost does not depend on their number. The caller has already removed `next`.
    pub(crate) fn end(
        &mut self,
        at: At<Flight>,
        keyspace: KeyspaceId,
        key_id: &KeyId,
        ending: FlightOutcome,
    ) {
        let flight = &mut self.flights[at];
        self.background -= usize::from(flight.origin.is_background());
        flight.stage = Stage::Over;
        if flight.waiters.is_empty() {
            self.flights.remove(at);
            return;
        }
        self.ended.push_back(Ended {
            flight: at,
            keyspace,
            key_id: key_id.clone(),
            ending,
        });
    }

    /// Marks a waiter as late when its wait ends. Its flight continues without it.
    pub(crate) fn is_late(&mut self, at: At<Waiter>, key: Option<(KeyspaceId, KeyId)>) {
        self.unlist(at);
        let waiter = &mut self.waiters[at];
        waiter.place = Place::Late;
        waiter.late_for = key;
        self.late.push_back(&mut self.waiters, at);
    }

    /// Returns `true` if [`RefreshGroup::next_settled`] has a waiter to return.
    pub(crate) fn has_settled(&self) -> bool {
        !self.late.is_empty() || !self.answered.is_empty() || !self.ended.is_empty()
    }

    /// Returns the number of late waiters.
    pub(crate) fn late(&self) -> usize {
        self.late.len()
    }

    /// Returns the next waiter to be answered now.
    pub(crate) fn next_settled(&mut self) -> Option<Settled> {
        if let Some(at) = self.late.pop_front(&mut self.waiters) {
            let mut waiter = self.forget(at);
            return Some(Settled {
                key: waiter.late_for.take(),
                waiter,
                ending: None,
            });
        }
        loop {
            let ended = self.ended.front()?;
            let (flight, keyspace, ending) = (ended.flight, ended.keyspace, ended.ending);
            let key_id = ended.key_id.clone();
            let waiters = &mut self.flights[flight].waiters;
            let first = waiters.pop_front(&mut self.waiters);
            if waiters.is_empty() {
                self.flights.remove(flight);
                self.ended.pop_front();
            }
            // Otherwise all its waiters have left.
            if let Some(at) = first {
                return Some(Settled {
                    waiter: self.forget(at),
                    key: Some((keyspace, key_id)),
                    ending: Some(ending),
                });
            }
        }
    }

    /// Returns the flight whose current load has begun and has this id.
    pub(crate) fn find(&self, id: FlightId) -> Option<At<Flight>> {
        let flight = self.flights.used(id.at)?;
        let loading = matches!(flight.stage, Stage::Loading { .. });
        (flight.generation == id.generation && loading).then_some(id.at)
    }

    /// Begins the load with this id, if it is still needed.
    pub(crate) fn begin(&mut self, now: Instant, id: FlightId) -> bool {
        let flight = self.flights.used(id.at);
        let Some(Stage::Queued { queued_at }) = flight
            .filter(|flight| flight.generation == id.generation)
            .map(|flight| flight.stage)
        else {
            return false;
        };
        self.flights[id.at].stage = Stage::Loading {
            queued_at,
            started_at: now,
        };
        true
    }

    /// Adds a waiter: to a flight's current load, to its next load, or to the waiters for a DEK.
    pub(crate) fn join(
        &mut self,
        place: Place,
        token: Token,
        kind: WaiterKind,
        deadline: Option<Instant>,
        timer: impl FnOnce(At<Waiter>) -> TimerId<WaitTimer>,
    ) {
        let keyspace_at = match place {
            Place::Present(flight) | Place::Next(flight) => self.flights[flight].keyspace_at,
            Place::Dek(keyspace) => keyspace,
            Place::Late => unreachable!("a waiter that joins has time left"),
        };
        // The waiter's slot is stored in the timer, and the timer in the waiter.
        let timer = timer(self.waiters.vacant().at());
        let at = self.waiters.insert(Waiter {
            token,
            kind,
            place,
            late_for: None,
            keyspace_at,
            timer,
            deadline,
            link: Link::UNLINKED,
        });
        let list = match place {
            Place::Present(flight) => &mut self.flights[flight].waiters,
            Place::Next(flight) => &mut self.flights[flight].next,
            Place::Dek(keyspace) => self.wanting.entry(keyspace).or_default(),
            Place::Late => &mut self.late,
        };
        list.push_back(&mut self.waiters, at);
        let hash = self.hasher.hash_one(token.0);
        let (waiters, hasher) = (&self.waiters, &self.hasher);
        self.tokens
            .insert_unique(hash, at, |at| hasher.hash_one(waiters[*at].token.0));
    }

    pub(crate) fn find_waiter(&self, token: Token) -> Option<At<Waiter>> {
        let hash = self.hasher.hash_one(token.0);
        self.tokens
            .find(hash, |at| self.waiters[*at].token == token)
            .copied()
    }

    /// Removes a waiter. Its flight continues.
    pub(crate) fn leave(&mut self, at: At<Waiter>) -> Waiter {
        self.unlist(at);
        self.forget(at)
    }

    fn unlist(&mut self, at: At<Waiter>) {
        let list = match self.waiters[at].place {
            Place::Present(flight) => &mut self.flights[flight].waiters,
            Place::Next(flight) => &mut self.flights[flight].next,
            Place::Dek(keyspace) => return self.unlist_wanting(keyspace, at),
            Place::Late => &mut self.late,
        };
        list.remove(&mut self.waiters, at);
    }

    fn unlist_wanting(&mut self, keyspace: At<Keyspace>, at: At<Waiter>) {
        let list = self.wanting.get_mut(&keyspace);
        let list = list.expect("a waiter for a DEK is listed");
        list.remove(&mut self.waiters, at);
        if list.is_empty() {
            self.wanting.remove(&keyspace);
            self.answered.remove(&keyspace);
        }
    }

    /// Returns `true` if there are waiters for a keyspace's DEK.
    pub(crate) fn is_dek_wanted(&self, keyspace: At<Keyspace>) -> bool {
        self.wanting.contains_key(&keyspace)
    }

    /// Marks a keyspace's DEK as arrived, or as not arriving: its waiters are returned by [`RefreshGroup::next_wanting`].
    pub(crate) fn answer_wanting(&mut self, keyspace: At<Keyspace>) {
        if self.is_dek_wanted(keyspace) {
            self.answered.insert(keyspace);
        }
    }

    /// Returns the first keyspace whose DEK has arrived, or will not, and that has waiters.
    pub(crate) fn first_answered(&self) -> Option<At<Keyspace>> {
        self.answered.first().copied()
    }

    /// Returns `true` if the waiters for a keyspace's DEK are about to be answered.
    pub(crate) fn is_answered(&self, keyspace: At<Keyspace>) -> bool {
        self.answered.contains(&keyspace)
    }

    /// Lets the waiters for a keyspace's DEK continue to wait.
    pub(crate) fn wait_on(&mut self, keyspace: At<Keyspace>) {
        self.answered.remove(&keyspace);
    }

    /// Returns the next waiter for a keyspace's DEK.
    pub(crate) fn next_wanting(&mut self, keyspace: At<Keyspace>) -> Option<Settled> {
        let at = self.wanting.get(&keyspace)?.front()?;
        Some(Settled {
            waiter: self.leave(at),
            key: None,
            ending: None,
        })
    }

    /// Iterates over the waiters for DEKs, by keyspace.
    pub(crate) fn wanting(&self) -> impl Iterator<Item = (At<Keyspace>, At<Waiter>)> {
        let lists = self.wanting.iter();
        lists.flat_map(|(keyspace, list)| list.iter(&self.waiters).map(|at| (*keyspace, at)))
    }

    /// Moves the waiters of a list to the current load of a flight. The cost is linear in the number of force-refreshes
    /// received while a load was in flight.
    pub(crate) fn adopt(&mut self, flight: At<Flight>, mut list: List<Waiter, WAITING>) {
        while let Some(at) = list.pop_front(&mut self.waiters) {
            self.waiters[at].place = Place::Present(flight);
            self.flights[flight]
                .waiters
                .push_back(&mut self.waiters, at);
        }
    }

    fn forget(&mut self, at: At<Waiter>) -> Waiter {
        let hash = self.hasher.hash_one(self.waiters[at].token.0);
        let found = self.tokens.find_entry(hash, |other| *other == at);
        found.expect("every waiter is found by its token").remove();
        self.waiters.remove(at)
    }
}

impl Flight {
    /// Creates a flight of this entry that has no load yet.
    pub(crate) fn new(entry: At<Key>, keyspace_at: At<Keyspace>, origin: Origin) -> Self {
        Self {
            entry,
            keyspace_at,
            generation: 0,
            origin,
            stage: Stage::AwaitingDek,
            timer: None,
            waiters: List::default(),
            next: List::default(),
            superseded: false,
            dek_asked: false,
            timeout_reported: false,
        }
    }

    /// Returns `true` for a flight of a warm start that no request waits for: it must not cost others anything, neither a
    /// KMS call nor a key in memory.
    pub(crate) fn is_speculative(&self) -> bool {
        self.origin == Origin::Warm && self.waiters.is_empty() && self.next.is_empty()
    }
}
