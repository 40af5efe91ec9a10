//! RefreshGroup: the flights of a shard, who waits for them, and who waits for a DEK.
//!
//! A key has at most one flight, and all that want the key join it. A load has a name of its own,
//! the [`FlightId`]; when a flight has to load again, the name changes, and with it everything
//! that is still on its way under the old one is void.

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

/// The list of a flight that a waiter is in.
pub(crate) const WAITING: u8 = 0;

#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) entry: At<Key>,
    pub(crate) keyspace_at: At<Keyspace>,
    pub(crate) generation: u64,
    pub(crate) origin: Origin,
    pub(crate) stage: Stage,
    /// Ends the flight.
    pub(crate) timer: Option<TimerId<WaitTimer>>,
    /// Those who take what the present load brings.
    pub(crate) waiters: List<Waiter, WAITING>,
    /// Force-refreshes that came after the present load began: for them there will be another.
    pub(crate) next: List<Waiter, WAITING>,
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
    /// The caller was asked for a load, and has not begun to read.
    Queued { queued_at: Instant },
    Loading {
        queued_at: Instant,
        started_at: Instant,
    },
    /// Over, and no longer its entry's flight: it stays until all who waited for it have their answers.
    Over,
}

/// How a flight ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// The key is live.
    Landed { version: u32 },
    /// It brought no key. What was live before may still be.
    Failed(Refusal),
}

/// A flight that is over, with waiters that have yet to get their answers.
#[derive(Debug)]
struct Ended {
    flight: At<Flight>,
    keyspace: KeyspaceId,
    key_id: KeyId,
    ending: Ending,
}

/// A waiter whose wait is over.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) waiter: Waiter,
    /// The key that it waited for; `None`: it waited for a DEK.
    pub(crate) key: Option<(KeyspaceId, KeyId)>,
    /// `None`: its time was over before its flight was, or it had none.
    pub(crate) ending: Option<Ending>,
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
    pub(crate) place: Place,
    /// Of those that are late, which outlive their flight.
    late_for: Option<(KeyspaceId, KeyId)>,
    pub(crate) keyspace_at: At<Keyspace>,
    pub(crate) timer: TimerId<WaitTimer>,
    pub(crate) deadline: Option<Instant>,
    link: Link<Self>,
}

/// The list that a waiter is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This flight's `waiters`.
    Present(At<Flight>),
    /// This flight's `next`.
    Next(At<Flight>),
    /// Those who wait for this keyspace's DEK.
    Dek(At<Keyspace>),
    /// Its time is over: it waits for nothing but its answer.
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
    /// Waiters by token. Never walked.
    tokens: HashTable<At<Waiter>>,
    hasher: ahash::RandomState,
    generations: u64,
    /// Flights that are over and whose waiters have yet to get their answers, oldest first. Each has its slot in
    /// `flights`. No more than there are waiters when they ended.
    ended: VecDeque<Ended>,
    /// Waiters whose time was over before their flight was, oldest first.
    late: List<Waiter, WAITING>,
    /// Who waits for a keyspace's DEK. No list is empty.
    wanting: BTreeMap<At<Keyspace>, List<Waiter, WAITING>>,
    /// Of these, the keyspaces of which the DEK has come, or will not.
    answered: BTreeSet<At<Keyspace>>,
    /// Flights that the prefetcher, an unlock or a warm start started.
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

    /// A number that no load had before.
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    pub(crate) fn insert(&mut self, flight: Flight) -> At<Flight> {
        self.background += usize::from(flight.origin.is_background());
        self.flights.insert(flight)
    }

    /// Flights under way.
    pub(crate) fn flying(&self) -> usize {
        self.flights.len() - self.ended.len()
    }

    /// Ends a flight: those who wait for its present load get their answers from [`RefreshGroup::next_settled`], one at a
    /// time. Takes no longer the more of them there are. The caller has taken `next` away.
    pub(crate) fn end(
        &mut self,
        at: At<Flight>,
        keyspace: KeyspaceId,
        key_id: &KeyId,
        ending: Ending,
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

    /// A waiter's time is over. Its flight goes on without it.
    pub(crate) fn is_late(&mut self, at: At<Waiter>, key: Option<(KeyspaceId, KeyId)>) {
        self.unlist(at);
        let waiter = &mut self.waiters[at];
        waiter.place = Place::Late;
        waiter.late_for = key;
        self.late.push_back(&mut self.waiters, at);
    }

    /// Whether there is anybody for [`RefreshGroup::next_settled`].
    pub(crate) fn has_settled(&self) -> bool {
        !self.late.is_empty() || !self.answered.is_empty() || !self.ended.is_empty()
    }

    /// Waiters that are late.
    pub(crate) fn late(&self) -> usize {
        self.late.len()
    }

    /// The next waiter that is to have its answer now.
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
            // Otherwise all who waited have left.
            if let Some(at) = first {
                return Some(Settled {
                    waiter: self.forget(at),
                    key: Some((keyspace, key_id)),
                    ending: Some(ending),
                });
            }
        }
    }

    /// The flight whose present load, which was begun, has this name.
    pub(crate) fn find(&self, id: FlightId) -> Option<At<Flight>> {
        let flight = self.flights.used(id.at)?;
        let loading = matches!(flight.stage, Stage::Loading { .. });
        (flight.generation == id.generation && loading).then_some(id.at)
    }

    /// The load of this name begins, if it is wanted still.
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

    /// Adds a waiter: to those of a flight's present load, to those of its next, or to those who wait for a DEK.
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
            Place::Late => unreachable!("who joins has time"),
        };
        // The waiter's slot goes into the timer, and the timer into the waiter.
        let timer = timer(self.waiters.vacant().at());
        let at = self.waiters.insert(Waiter {
            token,
            kind,
            place,
            late_for: None,
            keyspace_at,
            timer,
            deadline,
            link: Link::LOOSE,
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

    /// Takes a waiter out. Its flight goes on.
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
        let list = list.expect("who waits for a DEK is listed");
        list.remove(&mut self.waiters, at);
        if list.is_empty() {
            self.wanting.remove(&keyspace);
            self.answered.remove(&keyspace);
        }
    }

    /// Whether anybody waits for a keyspace's DEK.
    pub(crate) fn is_dek_wanted(&self, keyspace: At<Keyspace>) -> bool {
        self.wanting.contains_key(&keyspace)
    }

    /// A keyspace's DEK has come, or will not: who waits for it gets the answer from [`RefreshGroup::next_wanting`].
    pub(crate) fn answer_wanting(&mut self, keyspace: At<Keyspace>) {
        if self.is_dek_wanted(keyspace) {
            self.answered.insert(keyspace);
        }
    }

    /// The first of the keyspaces whose DEK has come, or will not, and is waited for.
    pub(crate) fn first_answered(&self) -> Option<At<Keyspace>> {
        self.answered.first().copied()
    }

    /// Whether who waits for a keyspace's DEK is about to be told.
    pub(crate) fn is_answered(&self, keyspace: At<Keyspace>) -> bool {
        self.answered.contains(&keyspace)
    }

    /// Who waits for a keyspace's DEK goes on waiting.
    pub(crate) fn wait_on(&mut self, keyspace: At<Keyspace>) {
        self.answered.remove(&keyspace);
    }

    /// The next who waited for a keyspace's DEK.
    pub(crate) fn next_wanting(&mut self, keyspace: At<Keyspace>) -> Option<Settled> {
        let at = self.wanting.get(&keyspace)?.front()?;
        Some(Settled {
            waiter: self.leave(at),
            key: None,
            ending: None,
        })
    }

    /// Who waits for DEKs, by keyspace.
    pub(crate) fn wanting(&self) -> impl Iterator<Item = (At<Keyspace>, At<Waiter>)> {
        let lists = self.wanting.iter();
        lists.flat_map(|(keyspace, list)| list.iter(&self.waiters).map(|at| (*keyspace, at)))
    }

    /// Hands the waiters of a list over to the present load of a flight: as long a walk as there are force-refreshes that
    /// came while a load was under way.
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
    /// A flight of this entry that has no load yet.
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
            overtaken: false,
            dek_asked: false,
            timeout_reported: false,
        }
    }

    /// A warm start's, and nobody has come to wait for it: it costs others nothing, neither a call
    /// to the KMS nor a key that is in memory.
    pub(crate) fn is_on_spec(&self) -> bool {
        self.origin == Origin::Warm && self.waiters.is_empty() && self.next.is_empty()
    }
}
