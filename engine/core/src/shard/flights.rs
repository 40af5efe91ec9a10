//! RefreshGroup operations: the only way to load a key.

use super::{Shard, WaitTimer};
use crate::action::{Action, FlightId, Refusal};
use crate::entry::{Due, Key, StateList};
use crate::flight::{Flight, FlightOutcome, Origin, Stage, WAITING, Waiter};
use crate::keyspace::{Gate, Keyspace};
use crate::list::List;
use crate::slots::At;
use crate::time::{Instant, TICK_US};

impl<V> Shard<V> {
    /// Starts the flight of a key that has none. The caller has checked the capacity.
    pub(super) fn start_flight(&mut self, now: Instant, at: At<Key>, origin: Origin) -> At<Flight> {
        let entry = &mut self.entries[at];
        assert!(entry.flight.is_none(), "one flight per key");
        let (keyspace_at, listed) = (entry.keyspace_at, entry.is_listed_to_load());
        let flight = self.group.insert(Flight::new(at, keyspace_at, origin));
        self.entries[at].flight = Some(flight);
        self.arm_flight(now, flight);
        let keyspace = &mut self.keyspaces[keyspace_at];
        keyspace.counters.flights += 1;
        keyspace.counters.prefetch_flights += u64::from(origin.is_background());
        keyspace.reloads += u64::from(origin == Origin::Reload);
        keyspace.warm_flights += usize::from(origin == Origin::Warm);
        if listed {
            self.move_to_list(at, StateList::None);
        }
        self.requeue(at, Due::None);
        if self.keyspaces[keyspace_at].has_lease(now) {
            self.start_load(now, flight);
        } else {
            self.request_unwrap(now, keyspace_at);
        }
        self.update_schedule(now, at);
        flight
    }

    /// Requests a load, under a new id.
    pub(super) fn start_load(&mut self, now: Instant, flight_at: At<Flight>) {
        let generation = self.group.next_generation();
        self.arm_flight(now, flight_at);
        let flight = &mut self.group.flights[flight_at];
        flight.generation = generation;
        flight.stage = Stage::Queued { queued_at: now };
        flight.superseded = false;
        let entry = &self.entries[flight.entry];
        self.actions.push_back(Action::Load {
            flight: FlightId {
                generation,
                at: flight_at,
            },
            keyspace: entry.keyspace,
            key_id: entry.key_id.clone(),
            urgency: flight.origin.urgency(),
        });
    }

    /// Loads again for all waiters, because the current load has ended or was discarded.
    pub(super) fn restart_load(&mut self, now: Instant, flight_at: At<Flight>) {
        let flight = &mut self.group.flights[flight_at];
        let next = core::mem::take(&mut flight.next);
        let keyspace_at = flight.keyspace_at;
        self.group.adopt(flight_at, next);
        if self.keyspaces[keyspace_at].has_lease(now) {
            self.start_load(now, flight_at);
            return;
        }
        if self.group.flights[flight_at].is_speculative() {
            let after_us = self.load_hint_us(keyspace_at);
            return self.end_flight(
                now,
                flight_at,
                FlightOutcome::Failed(Refusal::Retry { after_us }),
            );
        }
        self.group.flights[flight_at].stage = Stage::AwaitingDek;
        self.arm_flight(now, flight_at);
        if let Err(refusal) = self.ensure_dek(now, keyspace_at, u64::MAX) {
            self.end_flight(now, flight_at, FlightOutcome::Failed(refusal));
        }
    }

    /// Sets the time limit of the current stage of a flight.
    pub(super) fn arm_flight(&mut self, now: Instant, flight_at: At<Flight>) {
        if let Some(timer) = self.group.flights[flight_at].timer.take() {
            self.waits.cancel(timer);
        }
        let ends_at = now.plus_us(self.limits.flight_time_limit_us);
        let timer = self.waits.arm(ends_at, WaitTimer::Flight(flight_at));
        self.group.flights[flight_at].timer = Some(timer);
    }

    /// Ends a flight: its waiters are answered by [`Shard::poll_ready`]. Force-refreshes that need a later load get one.
    pub(super) fn end_flight(
        &mut self,
        now: Instant,
        flight_at: At<Flight>,
        ending: FlightOutcome,
    ) {
        let flight = &mut self.group.flights[flight_at];
        let next = core::mem::take(&mut flight.next);
        let (at, keyspace_at) = (flight.entry, flight.keyspace_at);
        if let Some(timer) = flight.timer.take() {
            self.waits.cancel(timer);
        }
        let entry = &mut self.entries[at];
        entry.flight = None;
        let keyspace = &mut self.keyspaces[keyspace_at];
        keyspace.counters.flights -= 1;
        keyspace.counters.prefetch_flights -= u64::from(flight.origin.is_background());
        keyspace.reloads -= u64::from(flight.origin == Origin::Reload);
        keyspace.warm_flights -= usize::from(flight.origin == Origin::Warm);
        self.group
            .end(flight_at, entry.keyspace, &entry.key_id, ending);
        if !next.is_empty() {
            self.start_next(now, at, next);
        }
        self.update_schedule(now, at);
        self.end_unlock_if_reloaded(keyspace_at);
    }

    /// Starts the load for force-refreshes received during the one that just ended.
    fn start_next(&mut self, now: Instant, at: At<Key>, waiters: List<Waiter, WAITING>) {
        let keyspace_at = self.entries[at].keyspace_at;
        let allowed = if self.entries[at].is_revoked() {
            Err(Refusal::Revoked)
        } else {
            self.ensure_dek(now, keyspace_at, u64::MAX)
        };
        match allowed {
            Ok(()) => {
                let flight = self.start_flight(now, at, Origin::Demand);
                self.group.adopt(flight, waiters);
            }
            Err(refusal) => {
                // A flight without a load holds the waiters until they are answered.
                let flight = self
                    .group
                    .insert(Flight::new(at, keyspace_at, Origin::Demand));
                self.group.adopt(flight, waiters);
                let entry = &self.entries[at];
                let ending = FlightOutcome::Failed(refusal);
                self.group
                    .end(flight, entry.keyspace, &entry.key_id, ending);
            }
        }
    }

    /// Returns whether a request with a budget of `budget_us` may wait for a load: the DEK is available, or can be within
    /// the budget. Requests an unwrap if necessary. A request that may not wait gets NEEDS_UNLOCK, whatever the reason;
    /// only a wait that the KMS failed ends with UNAVAILABLE.
    pub(super) fn ensure_dek(
        &mut self,
        now: Instant,
        keyspace_at: At<Keyspace>,
        budget_us: u64,
    ) -> Result<(), Refusal> {
        let keyspace = &self.keyspaces[keyspace_at];
        if keyspace.gate != Gate::Open {
            return Err(self.needs_unlock(keyspace_at));
        }
        if keyspace.has_lease(now) {
            return Ok(());
        }
        self.request_unwrap(now, keyspace_at);
        let lease = &self.keyspaces[keyspace_at].lease;
        if lease.can_unwrap_within(now, budget_us) {
            Ok(())
        } else {
            Err(self.needs_unlock(keyspace_at))
        }
    }

    pub(super) fn needs_unlock(&mut self, keyspace_at: At<Keyspace>) -> Refusal {
        let fresh = (u64::from(self.limits.shard_index) + 1) << 48 | (self.tickets + 1);
        let ticket = self.keyspaces[keyspace_at].unlocks.ticket(|| fresh);
        if ticket == fresh {
            self.tickets += 1;
        }
        Refusal::NeedsUnlock { ticket }
    }

    /// Returns when a load in flight is expected to end, in µs from now.
    pub(super) fn load_hint_us(&self, keyspace_at: At<Keyspace>) -> u64 {
        self.keyspaces[keyspace_at]
            .load_us
            .us()
            .unwrap_or(0)
            .max(TICK_US)
    }
}
