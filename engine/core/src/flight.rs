//! RefreshGroup: the flights of a shard, and who waits for them.
//!
//! A key has at most one flight, and all that want the key join it. A load has a name of its own,
//! the [`FlightId`]; when a flight has to load again, the name changes, and with it everything
//! that is still on its way under the old one is void.

use crate::action::{FlightId, Token, Urgency};
use crate::list::{Link, Linked, List};
use crate::slab::Slab;
use crate::time::Instant;
use crate::wheel::TimerId;
use hashbrown::HashTable;

/// The list of a flight that a waiter is in.
pub(crate) const WAITING: u8 = 0;

#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) entry: u32,
    pub(crate) keyspace_at: u32,
    pub(crate) generation: u64,
    pub(crate) origin: Origin,
    pub(crate) stage: Stage,
    /// Ends the flight.
    pub(crate) timer: TimerId,
    /// Those who take what the present load brings.
    pub(crate) waiters: List<WAITING>,
    /// Force-refreshes that came after the present load began: for them there will be another.
    pub(crate) next: List<WAITING>,
    /// A put was acknowledged since the present load began: whatever it brings is void.
    pub(crate) overtaken: bool,
    /// The DEK was asked for because the blob needed another generation.
    pub(crate) dek_asked: bool,
    /// Waits that used up their budget were reported.
    pub(crate) timeout_reported: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No load yet: the DEK is not at hand.
    AwaitingDek,
    Loading {
        started_at: Instant,
    },
}

/// Why a flight was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody needs the key now.
    Demand,
    /// The prefetcher.
    Prefetch(Urgency),
    /// An unlock.
    Reload,
    /// The key was hot in an earlier run.
    Warm,
    /// A blob that did not open is read once more, or one that was replaced.
    Again,
}

impl Origin {
    /// Whether the flight counts against `max_in_flight`.
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
    pub(crate) flight: u32,
    /// In the flight's `next`, not in its `waiters`.
    pub(crate) for_next: bool,
    pub(crate) keyspace_at: u32,
    pub(crate) timer: TimerId,
    pub(crate) deadline: Option<Instant>,
    link: Link,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaiterKind {
    Request { budget_ends_at: Instant },
    Force,
}

impl Linked<WAITING> for Waiter {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
    fn next(&self) -> u32 {
        self.link.next()
    }
}

/// All flights and waiters of a shard.
#[derive(Debug)]
pub(crate) struct RefreshGroup {
    pub(crate) flights: Slab<Flight>,
    pub(crate) waiters: Slab<Waiter>,
    /// Waiters by token. Never walked.
    tokens: HashTable<u32>,
    hasher: ahash::RandomState,
    generations: u64,
    /// Flights that the prefetcher, an unlock or a warm start started.
    pub(crate) background: usize,
}

impl RefreshGroup {
    pub(crate) fn new(hasher: ahash::RandomState) -> Self {
        Self {
            flights: Slab::new(),
            waiters: Slab::new(),
            tokens: HashTable::new(),
            hasher,
            generations: 0,
            background: 0,
        }
    }

    /// A number that no load had before.
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    pub(crate) fn insert(&mut self, flight: Flight) -> u32 {
        self.background += usize::from(flight.origin.is_background());
        self.flights.insert(flight)
    }

    pub(crate) fn remove(&mut self, at: u32) -> Flight {
        let flight = self.flights.remove(at);
        self.background -= usize::from(flight.origin.is_background());
        flight
    }

    /// The flight whose present load has this name.
    pub(crate) fn find(&self, id: FlightId) -> Option<u32> {
        let flight = self.flights.get(id.slot)?;
        let loading = matches!(flight.stage, Stage::Loading { .. });
        (flight.generation == id.generation && loading).then_some(id.slot)
    }

    /// Adds a waiter to a flight: to those of the present load, or to those of the next.
    pub(crate) fn join(
        &mut self,
        flight: u32,
        for_next: bool,
        token: Token,
        kind: WaiterKind,
        deadline: Option<Instant>,
        timer: impl FnOnce(u32) -> TimerId,
    ) {
        let keyspace_at = self.flights[flight].keyspace_at;
        // The waiter's number goes into the timer, and the timer into the waiter.
        let unset = TimerId::UNSET;
        let at = self.waiters.insert(Waiter {
            token,
            kind,
            flight,
            for_next,
            keyspace_at,
            timer: unset,
            deadline,
            link: Link::LOOSE,
        });
        self.waiters[at].timer = timer(at);
        self.flights[flight]
            .list(for_next)
            .push_back(&mut self.waiters, at);
        let hash = self.hasher.hash_one(token.0);
        let (waiters, hasher) = (&self.waiters, &self.hasher);
        self.tokens
            .insert_unique(hash, at, |at| hasher.hash_one(waiters[*at].token.0));
    }

    pub(crate) fn find_waiter(&self, token: Token) -> Option<u32> {
        let hash = self.hasher.hash_one(token.0);
        self.tokens
            .find(hash, |at| self.waiters[*at].token == token)
            .copied()
    }

    /// Takes a waiter out of its flight. The flight goes on.
    pub(crate) fn leave(&mut self, at: u32) -> Waiter {
        let (flight, for_next) = (self.waiters[at].flight, self.waiters[at].for_next);
        self.flights[flight]
            .list(for_next)
            .remove(&mut self.waiters, at);
        self.forget(at)
    }

    /// Takes the first waiter from a list that no longer belongs to a flight.
    pub(crate) fn pop(&mut self, list: &mut List<WAITING>) -> Option<Waiter> {
        let at = list.pop_front(&mut self.waiters)?;
        Some(self.forget(at))
    }

    /// Hands the waiters of a list over to the present load of a flight.
    pub(crate) fn adopt(&mut self, flight: u32, mut list: List<WAITING>) {
        while let Some(at) = list.pop_front(&mut self.waiters) {
            self.waiters[at].flight = flight;
            self.waiters[at].for_next = false;
            self.flights[flight]
                .waiters
                .push_back(&mut self.waiters, at);
        }
    }

    fn forget(&mut self, at: u32) -> Waiter {
        let hash = self.hasher.hash_one(self.waiters[at].token.0);
        let found = self.tokens.find_entry(hash, |other| *other == at);
        found.expect("every waiter is found by its token").remove();
        self.waiters.remove(at)
    }
}

impl Flight {
    /// A warm start's, and nobody has come to wait for it: it costs others nothing, neither a call
    /// to the KMS nor a key that is in memory.
    pub(crate) fn is_on_spec(&self) -> bool {
        self.origin == Origin::Warm && self.waiters.is_empty() && self.next.is_empty()
    }

    fn list(&mut self, for_next: bool) -> &mut List<WAITING> {
        if for_next {
            &mut self.next
        } else {
            &mut self.waiters
        }
    }
}
