//! Consistency checks of the shard's own bookkeeping: for tests and the simulator.

use super::Shard;
use crate::entry::{Due, Entry, Key, State, StateList};
use crate::flight::{Place, Stage};
use crate::slots::At;
use alloc::string::String;

/// An inconsistency: a defect of this crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(Violation(alloc::format!($($what)*)));
        }
    };
}

impl<V> Shard<V> {
    /// Checks every invariant that must hold between two inputs. Visits every entry, flight and waiter: for tests and the
    /// simulator, not for the request path.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn audit(&self) -> Result<(), Violation> {
        self.audit_limits()?;
        let mut key_bytes = 0;
        for (at, entry) in self.entries.iter() {
            self.audit_entry(at, entry)?;
            key_bytes += entry.live().map_or(0, |live| live.key_bytes);
        }
        ensure!(
            key_bytes == self.key_bytes,
            "{} key bytes, counted {key_bytes}",
            self.key_bytes
        );
        self.audit_flights()?;
        self.audit_keyspaces()
    }

    fn audit_limits(&self) -> Result<(), Violation> {
        let (limits, totals) = (&self.limits, self.totals());
        for (what, is, max) in [
            ("entries", totals.entries, limits.entries_max),
            ("key bytes", totals.key_bytes, limits.key_bytes_max),
            ("flights", totals.flights, limits.flights_max),
            ("waiters", totals.waiters, limits.waiters_max),
            ("negatives", totals.negatives, limits.negatives_max),
            ("revoked", totals.revoked, limits.revoked_max),
            (
                "background flights",
                self.group.background,
                limits.flights_max - limits.on_demand_reserve,
            ),
        ] {
            ensure!(is <= max, "{is} {what}, the limit is {max}");
        }
        ensure!(
            self.index.len() == totals.entries,
            "index and entries differ"
        );
        Ok(())
    }

    fn audit_entry(&self, at: At<Key>, entry: &Entry<V>) -> Result<(), Violation> {
        ensure!(
            self.find(entry.keyspace, &entry.key_id) == Some(at),
            "entry {at} is not found"
        );
        let home = match &entry.state {
            State::Live(_) => StateList::Resident,
            State::Negative { .. } => StateList::Negative,
            State::Invalid { .. } => StateList::Invalid,
            State::Revoked => StateList::Revoked,
            State::Empty if entry.is_listed_to_load() => entry.home,
            State::Empty => StateList::None,
        };
        ensure!(
            entry.home == home,
            "entry {at} is in {:?}, not in {home:?}",
            entry.home
        );
        let queued = entry.due != Due::None;
        let may_queue = entry.live().is_some() && entry.flight.is_none();
        ensure!(!queued || may_queue, "entry {at} is due without need");
        let armed = entry.timer.is_some_and(|timer| self.ages.is_armed(timer));
        let needs_timer = match &entry.state {
            State::Live(_) | State::Negative { .. } => true,
            State::Empty => !entry.is_listed_to_load() && entry.flight.is_none(),
            State::Invalid { .. } | State::Revoked => false,
        };
        // One that was purged keeps the timer that it had.
        let may_have = needs_timer || matches!(entry.state, State::Empty);
        ensure!(
            armed || !needs_timer,
            "entry {at} needs a timer and has none"
        );
        ensure!(!armed || may_have, "entry {at} has a timer without need");
        ensure!(
            !entry.is_revoked() || entry.flight.is_none(),
            "entry {at} is revoked and flies"
        );
        match entry.flight.map(|flight| self.group.flights.used(flight)) {
            None => Ok(()),
            Some(Some(flight)) if flight.entry == at => Ok(()),
            Some(_) => Err(Violation(alloc::format!(
                "the flight of entry {at} is not its own"
            ))),
        }
    }

    fn audit_flights(&self) -> Result<(), Violation> {
        let mut waiters = 0;
        let mut background = 0;
        for (at, flight) in self.group.flights.iter() {
            if flight.stage == Stage::Over {
                let of_flight = flight.waiters.iter(&self.group.waiters);
                waiters += of_flight.count();
                ensure!(flight.next.is_empty(), "flight {at} is over and has a next");
                continue;
            }
            let owner = self
                .entries
                .used(flight.entry)
                .and_then(|entry| entry.flight);
            ensure!(
                owner == Some(at),
                "flight {at} does not belong to its entry"
            );
            ensure!(
                flight.timer.is_some_and(|timer| self.waits.is_armed(timer)),
                "flight {at} has no time limit"
            );
            let awaiting = flight.stage == Stage::AwaitingDek;
            ensure!(
                !awaiting || flight.next.is_empty(),
                "flight {at}: next of no load"
            );
            background += usize::from(flight.origin.is_background());
            for list in [&flight.waiters, &flight.next] {
                for waiter_at in list.iter(&self.group.waiters) {
                    let waiter = &self.group.waiters[waiter_at];
                    let place = waiter.place;
                    ensure!(
                        place == Place::Present(at) || place == Place::Next(at),
                        "waiter {waiter_at} is on another flight"
                    );
                    ensure!(
                        self.waits.is_armed(waiter.timer),
                        "waiter {waiter_at}: no timer"
                    );
                    let found = self.group.find_waiter(waiter.token);
                    ensure!(found.is_some(), "waiter {waiter_at} is not found");
                    waiters += 1;
                }
            }
        }
        waiters += self.audit_wanting()?;
        ensure!(
            waiters + self.group.late() == self.group.waiters.len(),
            "a waiter is on no flight"
        );
        ensure!(
            background == self.group.background,
            "background flights are miscounted"
        );
        Ok(())
    }

    /// Checks that the waiters for a DEK will be answered: it was requested, or will be. Returns their number.
    fn audit_wanting(&self) -> Result<usize, Violation> {
        let mut waiters = 0;
        for (keyspace_at, waiter_at) in self.group.wanting() {
            let waiter = &self.group.waiters[waiter_at];
            ensure!(
                waiter.place == Place::Dek(keyspace_at) && self.waits.is_armed(waiter.timer),
                "waiter {waiter_at} waits for a DEK, and also elsewhere or without a time limit"
            );
            let found = self.group.find_waiter(waiter.token);
            ensure!(found.is_some(), "waiter {waiter_at} is not found");
            let keyspace = &self.keyspaces[keyspace_at];
            let is_answered = self.group.is_answered(keyspace_at);
            let will_be_asked = keyspace.lease.is_asking() || keyspace.ask_timer.is_some();
            ensure!(
                is_answered || will_be_asked,
                "waiter {waiter_at} waits for a DEK that is not requested"
            );
            waiters += 1;
        }
        Ok(waiters)
    }

    fn audit_keyspaces(&self) -> Result<(), Violation> {
        let mut negatives = 0;
        for (at, keyspace) in self.keyspaces.iter() {
            let id = keyspace.id.0;
            let counters = &keyspace.counters;
            ensure!(
                counters.is_balanced(),
                "keyspace {id}: {counters:?} do not add up"
            );
            let entries = || {
                self.entries
                    .iter()
                    .map(|(_, entry)| entry)
                    .filter(|e| e.keyspace_at == at)
            };
            let homed = |home| entries().filter(|entry| entry.home == home).count();
            let due = |due| entries().filter(|entry| entry.due == due).count();
            negatives += homed(StateList::Negative);
            for (what, len, count) in [
                (
                    "resident",
                    keyspace.resident.len(),
                    homed(StateList::Resident),
                ),
                (
                    "resident keys",
                    counters.resident_keys as usize,
                    homed(StateList::Resident),
                ),
                ("parked", keyspace.parked.len(), homed(StateList::Parked)),
                ("warm", keyspace.warm.len(), homed(StateList::Warm)),
                ("invalid", keyspace.invalid.len(), homed(StateList::Invalid)),
                ("ahead", keyspace.ahead.len(), due(Due::Ahead)),
                ("urgent", keyspace.urgent.len(), due(Due::Urgent)),
                (
                    "flights",
                    counters.flights as usize,
                    entries().filter(|entry| entry.flight.is_some()).count(),
                ),
            ] {
                ensure!(len == count, "keyspace {id}: {len} {what}, counted {count}");
            }
            let bytes: usize = entries()
                .filter_map(|e| e.live())
                .map(|live| live.key_bytes)
                .sum();
            ensure!(
                counters.resident_key_bytes as usize == bytes,
                "keyspace {id}: key bytes"
            );
            let waiting =
                counters.singleflight_waiters + counters.force_waiters + counters.dek_waiters;
            let of_keyspace = |waiter: &&crate::flight::Waiter| waiter.keyspace_at == at;
            let waiters = self.group.waiters.iter().map(|(_, waiter)| waiter);
            ensure!(
                waiters.filter(of_keyspace).count() as u64 == waiting,
                "keyspace {id}: waiters"
            );
        }
        ensure!(
            negatives == self.negatives.len(),
            "negatives are miscounted"
        );
        Ok(())
    }
}
