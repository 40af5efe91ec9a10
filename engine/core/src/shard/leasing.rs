//! Answers of the KMS and commands of operators: leases, refusals, lock and unlock.

use super::{LeaseTimer, Shard};
use crate::action::{Action, KeyspaceId, LeaseEvent, Refusal};
use crate::event::Event;
use crate::flight::{Flight, FlightOutcome, Stage};
use crate::keyspace::{Gate, Keyspace, LeaseTimerAction, Purged, UnlockState, UnlockStatus};
use crate::slots::At;
use crate::time::Instant;
use alloc::vec::Vec;

impl<V> Shard<V> {
    /// Handles an answer of the KMS to an [`Action::Unwrap`], or an unsolicited one.
    pub fn handle_lease(&mut self, now: Instant, keyspace: KeyspaceId, event: LeaseEvent) {
        let Some(at) = self.keyspace_at(keyspace) else {
            return;
        };
        if self.keyspaces[at].gate != Gate::Open {
            // A late answer: nothing may be used until an operator unlocks.
            self.keyspaces[at].lease.answered();
            if matches!(event, LeaseEvent::Granted { .. }) {
                self.actions.push_back(Action::DropDek { keyspace });
            }
            return self.arm_alarm(now, at);
        }
        match event {
            LeaseEvent::Granted {
                sent_at,
                generation,
            } => {
                self.lease_granted(now, at, sent_at, generation);
            }
            LeaseEvent::Denied | LeaseEvent::Disabled => self.lease_denied(now, at),
            LeaseEvent::Locked => self.lease_unavailable(now, at, 0, true),
            LeaseEvent::Unavailable { retry_after_us } => {
                self.lease_unavailable(now, at, retry_after_us, false);
            }
            LeaseEvent::Failed => self.lease_unavailable(now, at, 0, false),
        }
        self.arm_alarm(now, at);
    }

    /// Locks a keyspace by command: afterwards none of its keys is used, and every request gets NEEDS_UNLOCK. One step of
    /// plaintext is dropped immediately, the rest in the ticks that follow.
    pub fn handle_lock(&mut self, now: Instant, keyspace: KeyspaceId) {
        if let Some(at) = self.keyspace_at(keyspace) {
            self.close_gate(now, at, Gate::Locked);
        }
    }

    /// Unlocks a keyspace by command: requests an unwrap immediately, whatever the KMS answered before, unless a lease is
    /// live, and reloads keys that were in use, and INVALID keys, under `max_in_flight`. Returns the ticket that
    /// [`Shard::unlock_status`] takes, or `None` if the keyspace does not exist.
    pub fn handle_unlock(&mut self, now: Instant, keyspace: KeyspaceId) -> Option<u64> {
        let at = self.keyspace_at(keyspace)?;
        let keyspace = &mut self.keyspaces[at];
        keyspace.gate = Gate::Open;
        keyspace.lease.clear_refusals();
        keyspace.invalid_to_reload = keyspace.invalid.len();
        let ticket = self.ticket(at);
        if self.keyspaces[at].has_lease(now) {
            self.keyspaces[at].unlocks.granted();
            self.end_unlock_if_reloaded(at);
        } else {
            self.request_unwrap(now, at);
        }
        self.arm_alarm(now, at);
        Some(ticket)
    }

    /// Returns the status of an unlock, or `None` if the keyspace or ticket does not exist, or it ended long ago.
    #[must_use]
    pub fn unlock_status(&self, keyspace: KeyspaceId, ticket: u64) -> Option<UnlockStatus> {
        let keyspace = &self.keyspaces[self.keyspace_at(keyspace)?];
        let left = keyspace.parked.len() + keyspace.invalid_to_reload;
        keyspace
            .unlocks
            .status(ticket, left as u64 + keyspace.reloads)
    }

    /// Requests an unwrap, unless one is in flight or a backoff blocks it.
    pub(super) fn request_unwrap(&mut self, now: Instant, at: At<Keyspace>) {
        let keyspace = &mut self.keyspaces[at];
        if keyspace.gate == Gate::Open && keyspace.lease.may_ask(now) {
            keyspace.lease.asked(now);
            keyspace.counters.unwraps_total += 1;
            self.actions.push_back(Action::Unwrap {
                keyspace: keyspace.id,
            });
            self.arm_alarm(now, at);
        }
    }

    /// Handles the lease's timer.
    pub(super) fn handle_alarm(&mut self, now: Instant, at: At<Keyspace>) {
        let keyspace = &mut self.keyspaces[at];
        keyspace.ask_timer = None;
        let wanted = keyspace.is_wanted();
        match keyspace.lease.alarm(now, wanted) {
            LeaseTimerAction::Ask => self.request_unwrap(now, at),
            LeaseTimerAction::Lost => self.lease_unavailable(now, at, 0, false),
            LeaseTimerAction::Rest => self.ask_for_waiting(now, at),
        }
        self.arm_alarm(now, at);
    }

    pub(super) fn handle_lease_end(&mut self, now: Instant, at: At<Keyspace>) {
        self.keyspaces[at].end_timer = None;
        if self.keyspaces[at].lease.is_held() && !self.keyspaces[at].has_lease(now) {
            self.expire_lease(now, at);
        }
        self.arm_alarm(now, at);
    }

    /// Ends the lease without renewal. Flights continue and notice it themselves.
    pub(super) fn expire_lease(&mut self, now: Instant, at: At<Keyspace>) {
        let keyspace = &self.keyspaces[at];
        let id = keyspace.id;
        if keyspace.lease.is_kms_locked() {
            self.report(Event::LeaseEnded { keyspace: id });
            return self.close_gate(now, at, Gate::Denied);
        }
        self.end_lease(now, at);
        self.actions.push_back(Action::DropDek { keyspace: id });
    }

    /// Purges what was loaded under the lease.
    fn end_lease(&mut self, now: Instant, at: At<Keyspace>) {
        let keyspace = &self.keyspaces[at];
        let id = keyspace.id;
        let purged = if keyspace.is_wanted() {
            Purged::Parked
        } else {
            Purged::Forgotten
        };
        self.report(Event::LeaseEnded { keyspace: id });
        self.purge(now, at, purged);
    }

    pub(super) fn arm_alarm(&mut self, now: Instant, at: At<Keyspace>) {
        let awaited = self.group.is_dek_wanted(at);
        let keyspace = &mut self.keyspaces[at];
        if let Some(timer) = keyspace.ask_timer.take() {
            self.leases.cancel(timer);
        }
        let awaited = awaited && !keyspace.can_seal(now);
        let alarm_at = match keyspace.gate {
            Gate::Open => keyspace.lease.alarm_at(now, awaited),
            Gate::Locked | Gate::Denied => None,
        };
        keyspace.ask_timer = alarm_at.map(|when| self.leases.arm(when, LeaseTimer::Ask(at)));
    }

    /// Updates the expiry check and the timer after the end of the lease has moved.
    pub(super) fn follow_lease_end(&mut self, at: At<Keyspace>) {
        let keyspace = &mut self.keyspaces[at];
        let ends_at = keyspace.lease.ends_at();
        keyspace.terms.set_lease_end(ends_at);
        if let Some(timer) = keyspace.end_timer.take() {
            self.leases.cancel(timer);
        }
        if keyspace.lease.is_held() {
            keyspace.end_timer = Some(self.leases.arm(ends_at, LeaseTimer::End(at)));
        }
    }

    /// Ends the unlock in progress if nothing is left to load, or nothing would load it: with `max_in_flight` at 0, keys
    /// are loaded when they are requested.
    pub(super) fn end_unlock_if_reloaded(&mut self, at: At<Keyspace>) {
        let keyspace = &mut self.keyspaces[at];
        let left = keyspace.parked.len() + keyspace.invalid_to_reload;
        let nothing_left = left as u64 + keyspace.reloads == 0 && !keyspace.sweeping;
        if keyspace.unlocks.is_reloading() && (nothing_left || keyspace.share == 0) {
            keyspace.unlocks.end(UnlockState::Done);
        }
    }

    fn lease_granted(&mut self, now: Instant, at: At<Keyspace>, sent_at: Instant, generation: u32) {
        if self.keyspaces[at].lease.is_held() && !self.keyspaces[at].has_lease(now) {
            // It ended before its timer fired: what was loaded under it stays dead. The DEK in memory came with this
            // grant, and stays.
            self.end_lease(now, at);
        }
        let keyspace = &mut self.keyspaces[at];
        let lease_us = keyspace.settings.dek_lease_us();
        if !keyspace.lease.granted(now, sent_at, generation, lease_us) {
            // The answer took longer than the lease.
            let id = keyspace.id;
            if !keyspace.lease.is_held() {
                self.actions.push_back(Action::DropDek { keyspace: id });
            }
            return self.lease_unavailable(now, at, 0, false);
        }
        let ends_at = keyspace.lease.ends_at();
        keyspace.demand_at_grant = keyspace.demand();
        keyspace.unlocks.granted();
        let (id, generation) = (keyspace.id, keyspace.lease.generation());
        self.follow_lease_end(at);
        self.report(Event::LeaseGranted {
            keyspace: id,
            generation,
            ends_at,
        });
        for flight in self.flights_of(at) {
            if self.group.flights[flight].stage == Stage::AwaitingDek {
                self.start_load(now, flight);
            }
        }
        self.group.answer_wanting(at);
        self.end_unlock_if_reloaded(at);
    }

    fn lease_denied(&mut self, now: Instant, at: At<Keyspace>) {
        if self.keyspaces[at].lease.denied(now) {
            return self.deny(now, at);
        }
        if !self.keyspaces[at].has_lease(now) {
            let refusal = self.needs_unlock(at);
            self.fail_dek_waiters(now, at, refusal);
        } else {
            self.fail_awaiting_retry(now, at);
        }
    }

    fn lease_unavailable(
        &mut self,
        now: Instant,
        at: At<Keyspace>,
        retry_after_us: u64,
        kms_locked: bool,
    ) {
        let keyspace = &mut self.keyspaces[at];
        let rng = &mut self.rng;
        let retry_at = keyspace
            .lease
            .unavailable(now, rng, retry_after_us, kms_locked);
        let after_us = retry_at.saturating_since(now);
        let (id, has_lease) = (keyspace.id, keyspace.has_lease(now));
        if kms_locked && !has_lease {
            return self.deny(now, at);
        }
        self.report(Event::KmsUnavailable {
            keyspace: id,
            after_us,
        });
        if has_lease {
            self.fail_awaiting_retry(now, at);
        } else {
            self.fail_dek_waiters(now, at, Refusal::Unavailable { after_us });
        }
    }

    /// Purges a keyspace that the KMS refuses.
    fn deny(&mut self, now: Instant, at: At<Keyspace>) {
        self.close_gate(now, at, Gate::Denied);
        self.arm_alarm(now, at);
    }

    fn close_gate(&mut self, now: Instant, at: At<Keyspace>, gate: Gate) {
        let keyspace = &mut self.keyspaces[at];
        let id = keyspace.id;
        keyspace.gate = gate;
        keyspace.unlocks.end(UnlockState::Failed);
        self.actions.push_back(Action::DropDek { keyspace: id });
        self.purge(now, at, Purged::Parked);
        let refusal = self.needs_unlock(at);
        for flight in self.flights_of(at) {
            self.end_flight(now, flight, FlightOutcome::Failed(refusal));
        }
        self.group.answer_wanting(at);
        if gate == Gate::Denied {
            let ticket = self.ticket(at);
            let kms_locked = self.keyspaces[at].lease.is_kms_locked();
            self.report(Event::KeyspaceDenied {
                keyspace: id,
                ticket,
                kms_locked,
            });
        }
        self.arm_alarm(now, at);
    }

    /// Invalidates everything that is live. It is dropped within the next 32 ticks, a first step of it immediately.
    fn purge(&mut self, now: Instant, at: At<Keyspace>, purged: Purged) {
        let keyspace = &mut self.keyspaces[at];
        keyspace.lease.expire();
        keyspace.terms.purge();
        keyspace.purged = purged;
        self.follow_lease_end(at);
        self.sweep_later(at);
        self.sweep(now);
    }

    fn ticket(&mut self, at: At<Keyspace>) -> u64 {
        match self.needs_unlock(at) {
            Refusal::NeedsUnlock { ticket } => ticket,
            _ => unreachable!("the refusal that carries a ticket"),
        }
    }

    /// Ends all flights of a keyspace that wait for a DEK.
    fn fail_dek_waiters(&mut self, now: Instant, at: At<Keyspace>, refusal: Refusal) {
        for flight in self.flights_of(at) {
            if self.group.flights[flight].stage == Stage::AwaitingDek {
                let counters = &mut self.keyspaces[at].counters;
                counters.rehydrate_total += 1;
                counters.rehydrate_fail_total += 1;
                self.end_flight(now, flight, FlightOutcome::Failed(refusal));
            }
        }
    }

    /// As above, under a live lease: those flights need another generation of the DEK. Their keys back off at least until
    /// the KMS may be called again.
    fn fail_awaiting_retry(&mut self, now: Instant, at: At<Keyspace>) {
        let retry_at = self.keyspaces[at].lease.retry_at();
        for flight in self.flights_of(at) {
            if self.group.flights[flight].stage == Stage::AwaitingDek {
                self.keyspaces[at].counters.rehydrate_total += 1;
                let entry = self.group.flights[flight].entry;
                self.entries[entry].backoff.not_before(retry_at);
                self.fail_load(now, flight, crate::action::LoadError::DekMissing);
            }
        }
    }

    /// Returns the flights of a keyspace, in the order of their slots. Iterates over all flights: leases change rarely,
    /// and flights are bounded.
    fn flights_of(&self, keyspace_at: At<Keyspace>) -> Vec<At<Flight>> {
        let flights = self.group.flights.iter();
        flights
            .filter(|(_, flight)| flight.keyspace_at == keyspace_at && flight.stage != Stage::Over)
            .map(|(at, _)| at)
            .collect()
    }
}
